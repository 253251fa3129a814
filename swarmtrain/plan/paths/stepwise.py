"""One step of a running swarm, planned: with the stages of every microbatch given (rule R14), or chosen too."""

from collections.abc import Sequence
from dataclasses import replace

from swarmtrain.plan.paths.bounds import lower_bound_seconds
from swarmtrain.plan.paths.construct import Builder
from swarmtrain.plan.paths.freedom import SAME_STAGES, Freedom, visits_of
from swarmtrain.plan.paths.instance import Chance, Instance
from swarmtrain.plan.paths.planner import plan
from swarmtrain.plan.paths.routes import Plan, PlannedRoute
from swarmtrain.plan.paths.search import Annealer, Spent

SHAKEN = 0.05
"""Share by which costs may stray."""


def plan_step(
    instance: Instance, sequences: Sequence[tuple[int, ...]] | None, spent: Spent, chance: Chance
) -> Plan:
    """The best routes found within the budget; `sequences` are the middle stages of each microbatch in order, or None.

    Raises:
        ConfigError: no legal routes were found.
    """
    if sequences is None:
        return plan(instance, spent, chance)
    routes, freedom = _along(instance, sequences), Freedom(SAME_STAGES, visits_of(instance))
    other = shaken(instance, chance)
    annealer = Annealer(instance, routes, freedom, chance, lambda *_: None, other)
    annealer.search(spent)
    return annealer.plan(lower_bound_seconds(instance), annealer.evaluations)


def shaken(instance: Instance, chance: Chance) -> Instance:
    """The same with all costs a little off, each in its own way: what is measured never holds exactly."""

    def shake(seconds: float) -> float:
        return seconds * (1 + SHAKEN * (2 * chance.random() - 1))

    peers = tuple(
        replace(
            peer,
            forward_seconds=shake(peer.forward_seconds),
            backward_seconds=shake(peer.backward_seconds),
            loss_seconds=shake(peer.loss_seconds),
        )
        for peer in instance.peers
    )
    sends = tuple(tuple(map(shake, row)) for row in instance.send_seconds)
    return replace(instance, peers=peers, send_seconds=sends)


def _along(instance: Instance, sequences: Sequence[tuple[int, ...]]) -> list[PlannedRoute]:
    builder = Builder(instance)
    pairs = zip(builder.edges(), sequences, strict=True)
    return [builder.along(edge, (order,)) for edge, order in pairs]
