"""What a search may change, and how often it tries: the kinds of moves of `moves.propose`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from swarmtrain.plan.paths.instance import Instance

REPLACE_PEER, TRADE_PEERS, TRADE_EDGES, CHANGE_EDGE, RELEASE = range(5)
REORDER, TRADE_STAGES, REPLACE_STAGE, SWAP_PLACES, MOVE_PEER = range(5, 10)

WEIGHTS = (0.30, 0.15, 0.20, 0.10, 0.04, 0.15, 0.20, 0.10, 0.027, 0.012)
"""How often each kind is tried beside the others, where it is possible."""

ANYTHING = frozenset(range(len(WEIGHTS)))

SAME_STAGES = ANYTHING - {REORDER, TRADE_STAGES, REPLACE_STAGE}
"""Microbatches keep their stages and the order of these (rule R14)."""


@dataclass(frozen=True, slots=True)
class Freedom:
    """`kinds` of moves; the `visits` of microbatches that they may change (microbatch * visits a route + place on the
    route; at place 0 only `REPLACE_PEER`, as quotas allow); peers that may be `moved`.

    Where routes are as short as can be already and wait for it, changes `may_lengthen` them by whatever it takes."""

    kinds: frozenset[int]
    visits: Sequence[int]
    moved: Sequence[int] = ()
    may_lengthen: bool = False


def visits_of(instance: Instance, who: Iterable[int] | None = None) -> list[int]:
    """All middle visits of these microbatches, as in `Freedom`; without `who` of all."""
    size = instance.visits
    microbatches = range(instance.microbatches) if who is None else who
    return [index * size + at for index in microbatches for at in range(1, size)]


def chances(placed: Instance, freedom: Freedom) -> list[float]:
    """By kind its chance and those of the kinds before it."""
    least, most = placed.quota_limits(len(placed.hosts[0]))
    impossible = set[int]()
    if not placed.may_wait:
        impossible.add(RELEASE)
    if len(placed.hosts[0]) < 2 and not freedom.moved:
        impossible |= {TRADE_EDGES, CHANGE_EDGE}
    if least == most:
        impossible.add(CHANGE_EDGE)
    if all(least == most for least, most in placed.visit_limits):
        impossible.add(REPLACE_STAGE)
    if not freedom.moved:
        impossible |= {SWAP_PLACES, MOVE_PEER}
    if placed.stage_sizes is not None:
        impossible.add(MOVE_PEER)
    weights = [
        weight if kind in freedom.kinds - impossible else 0.0 for kind, weight in enumerate(WEIGHTS)
    ]
    return [sum(weights[: kind + 1]) / sum(weights) for kind in range(len(weights))]
