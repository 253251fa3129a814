"""What a sketch (`sketch.anneal`) keeps count of: routes, places, and how long every peer is taken by them.

Where numba is installed it compiles these functions, and without it the interpreter runs them, slowly: the figures are
the same to the last bit, so `math` and numpy's generators have no part in them.

Array suffixes: M microbatches, V visits (0 the edge), P peers, S stages, H places for hosts of a stage.
"""

# Compiled functions take arrays and plain numbers; one tuple carries them all. Passing it costs more than most of what
# these functions do, so the small ones are put in their callers' place. numba's cache does not notice when what is
# put into functions of another file has changed: then touch sketch.py too.

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple


def compiled(inline: Literal["never", "always"] = "never") -> Callable[[Any], Any]:
    """Compiled where numba is installed, else as it is."""
    if find_spec("numba") is None:
        return lambda function: function
    from numba import njit

    return njit(cache=True, nogil=True, inline=inline)


class Table(NamedTuple):
    """A sketch. What is given: seconds by peer (`work_P` with gaps, `way_PP` there and back), limits, who may be moved.

    And what changes: routes, who hosts what, and what is counted of them: visits, seconds busy, seconds of slots held.
    """

    both_P: Any
    work_P: Any
    loss_P: Any
    slots_P: Any
    way_PP: Any
    gap_seconds: float
    least_S: Any
    most_S: Any
    is_protected_S: Any
    max_swaps: int
    max_jump: int
    least_quota: int
    most_quota: int
    free: Any
    are_sizes_free: bool
    are_quotas_equal: bool
    trip_weight: float
    waiting: float

    stage_MV: Any
    peer_MV: Any
    host_SH: Any
    hosts_S: Any
    visits_S: Any
    quota_P: Any
    busy_P: Any
    held_P: Any
    price_P: Any
    trip_M: Any
    reference: Any
    seed: Any


@compiled("always")
def drawn(table):  # type: ignore[no-untyped-def]
    """The next number of a linear congruential generator, in [0, 1)."""
    # By Park and Miller; its products do not overflow, so that Python's integers and machine words agree.
    table.seed[0] = table.seed[0] * 48271 % 2147483647
    return table.seed[0] / 2147483647.0


@compiled("always")
def below(table, count):  # type: ignore[no-untyped-def]
    return int(drawn(table) * count)


@compiled("always")
def count(table, index, sign):  # type: ignore[no-untyped-def]
    """Add (or with -1 take away) a microbatch's visits; the sum of what it holds is kept as its trip."""
    edge = table.peer_MV[index, 0]
    held, after = table.loss_P[edge], edge
    for at in range(table.peer_MV.shape[1] - 1, -1, -1):
        peer = table.peer_MV[index, at]
        held = table.both_P[peer] + table.way_PP[peer, after] + held
        after = peer
        table.held_P[peer] += sign * (held + table.gap_seconds)
        table.busy_P[peer] += sign * table.work_P[peer]
        table.visits_S[table.stage_MV[index, at]] += sign
    table.busy_P[edge] += sign * (table.loss_P[edge] + table.gap_seconds)
    table.quota_P[edge] += sign
    table.trip_M[index] = held


@compiled("always")
def taken_seconds(table, peer):  # type: ignore[no-untyped-def]
    return max(table.busy_P[peer], table.waiting * table.held_P[peer] / table.slots_P[peer])


@compiled("always")
def price(table, peer):  # type: ignore[no-untyped-def]
    share = taken_seconds(table, peer) / table.reference[0]
    return table.reference[0] * share * share * share * share


@compiled("always")
def repriced(table, peer):  # type: ignore[no-untyped-def]
    """Bring the peer's price up to date; returns by how much it rose."""
    before = table.price_P[peer]
    table.price_P[peer] = price(table, peer)
    return table.price_P[peer] - before


@compiled()
def recount(table):  # type: ignore[no-untyped-def]
    """Count everything from the routes; returns the energy."""
    table.visits_S[:] = 0
    table.quota_P[:] = 0
    table.busy_P[:] = 0.0
    table.held_P[:] = 0.0
    energy = 0.0
    for index in range(len(table.trip_M)):
        count(table, index, 1)
        energy += table.trip_M[index] * table.trip_weight
    if table.reference[0] == 0.0:
        for peer in range(len(table.slots_P)):
            table.reference[0] += taken_seconds(table, peer) / len(table.slots_P)
    for peer in range(len(table.slots_P)):
        table.price_P[peer] = price(table, peer)
        energy += table.price_P[peer]
    return energy


@compiled()
def stage_of(table, peer):  # type: ignore[no-untyped-def]
    for stage in range(len(table.hosts_S)):
        for at in range(table.hosts_S[stage]):
            if table.host_SH[stage, at] == peer:
                return stage
    return -1


@compiled()
def trade_places(table, one, other, first, second):  # type: ignore[no-untyped-def]
    for stage, gone, come in ((first, one, other), (second, other, one)):
        for at in range(table.hosts_S[stage]):
            if table.host_SH[stage, at] == gone:
                table.host_SH[stage, at] = come
                break
    for m in range(table.peer_MV.shape[0]):
        for at in range(table.peer_MV.shape[1]):
            peer = table.peer_MV[m, at]
            if peer in (one, other):
                table.peer_MV[m, at] = one + other - peer


@compiled()
def move_peer(table, peer, left, taken):  # type: ignore[no-untyped-def]
    count = table.hosts_S[left] - 1
    for at in range(count):
        if table.host_SH[left, at] == peer:
            table.host_SH[left, at] = table.host_SH[left, count]
    table.hosts_S[left] = count
    table.host_SH[taken, table.hosts_S[taken]] = peer
    table.hosts_S[taken] += 1
    for m in range(table.peer_MV.shape[0]):
        for at in range(table.peer_MV.shape[1]):
            if table.peer_MV[m, at] == peer:
                table.peer_MV[m, at] = table.host_SH[left, below(table, count)]
            elif table.stage_MV[m, at] == taken and drawn(table) * table.hosts_S[taken] < 1.0:
                table.peer_MV[m, at] = peer
