"""Routes and places searched without executing them, some twenty times as fast: where a search on the execution model
(`search.Annealer`) begins. Simulated annealing of how long every peer is taken, as if all waiting came to one factor w:

    sum over peers of r (t / r) ** 4, with t = max(seconds of tasks and gaps, w * seconds its slots are held / slots)
    + peers * mean round trip

r is the mean t of the beginning. The power makes the busiest count most; long round trips make others wait. Every
change touches a few peers' terms only.

Array suffixes as in `draft`.
"""

from typing import Any, NamedTuple

from swarmtrain.plan.paths.compiling import compiled
from swarmtrain.plan.paths.draft import Draft, Trial, copy, count_all, drawn, exchange
from swarmtrain.plan.paths.moves import propose, relocate


class Sketch(NamedTuple):
    """A draft and one of before a move of peers; costs (`work_P` with gaps, `way_PP` there and back); and what is
    counted: seconds busy, seconds of slots held."""

    draft: Draft
    before: Draft
    trial: Trial
    both_P: Any
    work_P: Any
    loss_P: Any
    slots_P: Any
    way_PP: Any
    gap_seconds: float
    trip_weight: float
    waiting: float

    busy_P: Any
    held_P: Any
    price_P: Any
    trip_M: Any
    reference: Any  # of one entry


@compiled("always")
def _add(sketch, index, sign):  # type: ignore[no-untyped-def]
    """Add (or with -1 take away) a microbatch's visits; the sum of what it holds is kept as its trip."""
    visits, peers, peer_MV = sketch.draft.visits, sketch.draft.peers, sketch.draft.peer_MV
    edge = peer_MV[index * visits]
    held, after = sketch.loss_P[edge], edge
    for at in range((index + 1) * visits - 1, index * visits - 1, -1):
        peer = peer_MV[at]
        held = sketch.both_P[peer] + sketch.way_PP[peer * peers + after] + held
        after = peer
        sketch.held_P[peer] += sign * (held + sketch.gap_seconds)
        sketch.busy_P[peer] += sign * sketch.work_P[peer]
    sketch.busy_P[edge] += sign * (sketch.loss_P[edge] + sketch.gap_seconds)
    sketch.trip_M[index] = held


@compiled("always")
def _taken_seconds(sketch, peer):  # type: ignore[no-untyped-def]
    held = sketch.waiting * sketch.held_P[peer] / sketch.slots_P[peer]
    return max(sketch.busy_P[peer], held)


@compiled("always")
def _price(sketch, peer):  # type: ignore[no-untyped-def]
    share = _taken_seconds(sketch, peer) / sketch.reference[0]
    return sketch.reference[0] * share * share * share * share


@compiled("always")
def _repriced(sketch, peer):  # type: ignore[no-untyped-def]
    """Bring the peer's price up to date; returns by how much it rose."""
    before = sketch.price_P[peer]
    sketch.price_P[peer] = _price(sketch, peer)
    return sketch.price_P[peer] - before


@compiled()
def recount(sketch):  # type: ignore[no-untyped-def]
    """Count everything from the routes; returns the energy."""
    count_all(sketch.draft)
    for peer in range(len(sketch.busy_P)):
        sketch.busy_P[peer] = sketch.held_P[peer] = 0.0
    energy = 0.0
    for index in range(len(sketch.trip_M)):
        _add(sketch, index, 1)
        energy += sketch.trip_M[index] * sketch.trip_weight
    if sketch.reference[0] == 0.0:
        for peer in range(len(sketch.slots_P)):
            sketch.reference[0] += _taken_seconds(sketch, peer) / len(sketch.slots_P)
    for peer in range(len(sketch.slots_P)):
        sketch.price_P[peer] = _price(sketch, peer)
        energy += sketch.price_P[peer]
    return energy


@compiled("always")
def _exchange(sketch, used):  # type: ignore[no-untyped-def]
    """Exchange routes with the trial; returns by how much the energy rises."""
    draft, trial, risen = sketch.draft, sketch.trial, 0.0
    for k in range(used):
        risen -= sketch.trip_M[trial.who[k]] * sketch.trip_weight
        _add(sketch, trial.who[k], -1)
    exchange(draft, trial, used)
    for k in range(used):
        _add(sketch, trial.who[k], 1)
        risen += sketch.trip_M[trial.who[k]] * sketch.trip_weight
    for k in range(used):
        for at in range(draft.visits):
            risen += _repriced(sketch, trial.peers[k * draft.visits + at])
            risen += _repriced(sketch, draft.peer_MV[trial.who[k] * draft.visits + at])
    return risen


@compiled()
def anneal(sketch, energy, temperature, moves):  # type: ignore[no-untyped-def]
    """Try that many moves at one temperature, in energy; returns the energy then."""
    draft = sketch.draft
    for _ in range(moves):
        used = propose(draft, sketch.trial)
        if used > 0:
            risen = _exchange(sketch, used)
            if risen <= temperature * drawn(draft):
                energy += risen
            else:
                _exchange(sketch, used)
        elif used < 0:
            copy(draft, sketch.before)
            if relocate(draft, -used):
                found = recount(sketch)
                if found - energy > temperature * drawn(draft):
                    copy(sketch.before, draft)
                    found = recount(sketch)
                energy = found
    return recount(sketch)
