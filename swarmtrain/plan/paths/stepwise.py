"""One step of a running swarm, planned: with the stages of every microbatch given (rule R14), or chosen too."""

from collections.abc import Sequence

from swarmtrain.plan.paths.bounds import lower_bound_seconds
from swarmtrain.plan.paths.builder import Builder
from swarmtrain.plan.paths.freedom import SAME_STAGES, Freedom, visits_of
from swarmtrain.plan.paths.instance import Chance, Instance
from swarmtrain.plan.paths.planner import plan
from swarmtrain.plan.paths.routes import Plan, PlannedRoute
from swarmtrain.plan.paths.search import Annealer, Spent, nobody
from swarmtrain.plan.paths.ways import shaken

SHAKEN = 0.05
"""Share by which measured costs may stray."""


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
    ways = [shaken(instance, chance, SHAKEN)]
    annealer = Annealer(instance, routes, freedom, chance, nobody, ways)
    annealer.search(spent)
    return annealer.plan(lower_bound_seconds(instance), annealer.evaluations)


def _along(instance: Instance, sequences: Sequence[tuple[int, ...]]) -> list[PlannedRoute]:
    builder = Builder(instance)
    pairs = zip(builder.edges(), sequences, strict=True)
    return [builder.along(edge, (order,)) for edge, order in pairs]
