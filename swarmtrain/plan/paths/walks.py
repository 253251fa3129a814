"""The cheapest legal walks of an instance, by dynamic programming over the frontier rule: what bounds are made of.

Nothing waits on these walks. Where peers have no place yet, anybody may serve any stage: walks only get cheaper. Round
trips and answers are those of one edge then: whoever sets out from the nearest edge does not come back to another.
Array suffixes: P and Q peers, E edge peers; entries of peers that do not host the stage in question are infinite.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
import numpy.typing as npt

from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.trips import Ways, round_trip_seconds

Floats = npt.NDArray[np.float64]

State = tuple[int, int, bool, int]
"""Frontier, stage of the last visit, whether the stage below the frontier is left out so far, swaps made."""

START: State = (0, 0, False, 0)


@dataclass(frozen=True)
class Walks:
    """Seconds without waiting, the least over all legal routes; infinite where there is none.

    `round_trip` per edge peer: from the embedding's start to the end of its backward. By place on the route after the
    edge, and by peer, of a middle visit: `stays` from the forward's start to the backward's end, `heads` before it and
    `tails` after it, `answers` from the embedding's start to the backward's start, `finishes` from the forward's end to
    the end of the microbatch. `residence` and so on are the least of these at any place, by peer.
    """

    round_trip: dict[int, float]
    stays: list[list[float]]
    heads: list[list[float]]
    tails: list[list[float]]
    answers: list[list[float]]
    finishes: list[list[float]]

    @cached_property
    def residence(self) -> list[float]:
        return _least(self.stays)

    @cached_property
    def head(self) -> list[float]:
        return _least(self.heads)

    @cached_property
    def tail(self) -> list[float]:
        return _least(self.tails)

    @cached_property
    def answer(self) -> list[float]:
        return _least(self.answers)

    @cached_property
    def finish(self) -> list[float]:
        return _least(self.finishes)


def _least(places: list[list[float]]) -> list[float]:
    return list(map(min, zip(*places, strict=True)))


def cheapest_walks(instance: Instance) -> Walks:
    return _Search(instance).walks()


def _joined(*parts: list[dict[State, Floats]]) -> list[Floats]:
    """By place and peer, the least sum of parts with the same edge, and the same state at that place."""
    return [
        np.minimum.reduce([reduce(np.add, (by[state] for by in at)) for state in at[0]]).min(axis=1)
        for at in zip(*parts, strict=True)
    ]


class _Search:
    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        peers, everyone = instance.peers, range(len(instance.peers))
        self._anywhere = bool(instance.unplaced)
        self._edges = [p for p in everyone if 0 in (peers[p].stages or (0,))]
        self._send_PQ = np.array(instance.send_seconds)
        # Who has one stage, or will have one, is on a route once.
        self._is_once_P = np.array([len(peer.stages or (0,)) == 1 for peer in peers])
        once = np.flatnonzero(self._is_once_P)
        self._send_PQ[once, once] = np.inf
        self._forward_P = np.array([peer.forward_seconds for peer in peers])
        self._backward_P = np.array([peer.backward_seconds for peer in peers])
        self._both_P = self._forward_P + self._backward_P
        self._layers = self._completable()

    def walks(self) -> Walks:
        rest = self._rests_anywhere() if self._anywhere else self._rests()
        stay = [{at: self._both_P[:, None] + by[at] for at in by} for by in rest[1:]]
        head = self._reach(self._send_PQ, self._forward_P)
        tail = self._reach(self._send_PQ.T, self._backward_P)
        answers = [by_P - self._backward_P for by_P in _joined(head, stay)]
        finishes = [by_P - self._forward_P for by_P in _joined(tail, stay)]
        places = _joined(stay), _joined(head), _joined(tail), answers, finishes
        return Walks(
            self._round_trips(rest), *([by_P.tolist() for by_P in by_place] for by_place in places)
        )

    def _round_trips(self, rest: list[dict[State, Floats]]) -> dict[int, float]:
        both_ways_PQ = self._send_PQ + self._send_PQ.T
        first_PE = self._both_P[:, None] + np.minimum.reduce([rest[1][s] for s in self._layers[1]])
        there_PE = both_ways_PQ[:, self._edges]
        trips_E = self._both_P[self._edges] + (there_PE + first_PE).min(axis=0)
        trips = dict(zip(self._edges, trips_E.tolist(), strict=True))
        if self._anywhere:
            ways = Ways(both_ways_PQ, self._both_P, self._is_once_P)
            rest_LPE = np.stack([by[START] for by in rest])
            for at, edge in enumerate(self._edges):
                trips[edge] = round_trip_seconds(ways, edge, rest_LPE[:, :, at], trips[edge])
        return trips

    def _rests_anywhere(self) -> list[dict[State, Floats]]:
        """The same as `_rests` where stages do not matter: but no walk goes back at once to where it came from, and
        none passes its own edge, unless that peer has several stages."""
        both_ways_PQ, everyone = self._send_PQ + self._send_PQ.T, np.arange(len(self._both_P))
        shape = len(self._layers), len(everyone), len(self._edges)
        rest_LPE = np.full(shape, np.inf)
        for at, edge in enumerate(self._edges):
            best_P = both_ways_PQ[:, edge] + self._instance.peers[edge].loss_seconds
            next_P, other_P = np.full(len(everyone), edge), np.full(len(everyone), np.inf)
            for layer in range(shape[0] - 1, 0, -1):
                if layer < shape[0] - 1:
                    walk_PQ = both_ways_PQ + (self._both_P + best_P)
                    back = everyone[self._is_once_P[next_P]]
                    detour = self._both_P[back] + other_P[back]
                    walk_PQ[next_P[back], back] = both_ways_PQ[next_P[back], back] + detour
                    next_P = walk_PQ.argmin(axis=1)
                    best_P = walk_PQ[everyone, next_P]
                    walk_PQ[everyone, next_P] = np.inf
                    other_P = walk_PQ.min(axis=1)
                if self._is_once_P[edge]:
                    best_P[edge] = other_P[edge] = np.inf
                rest_LPE[layer, :, at] = best_P
        return [{START: rest_PE} for rest_PE in rest_LPE]

    def _rests(self) -> list[dict[State, Floats]]:
        """For every layer and state: from a forward's end at P to the start of its backward, for edge E."""
        instance, edges = self._instance, self._edges
        both_ways_PQ = self._send_PQ + self._send_PQ.T
        loss_E = np.array([instance.peers[edge].loss_seconds for edge in edges])
        rest: list[dict[State, Floats]] = [{} for _ in self._layers]
        for state in self._layers[-1]:
            rest[-1][state] = self._only_hosts(both_ways_PQ[:, edges] + loss_E, state)
        for at in range(len(self._layers) - 2, 0, -1):
            for state in self._layers[at]:
                after = [s for s in self._successors(state) if s in rest[at + 1]]
                next_QE = self._both_P[:, None] + np.minimum.reduce(
                    [rest[at + 1][s] for s in after]
                )
                rest_PE = np.stack(
                    [(both_ways_PQ + next_QE[:, e]).min(axis=1) for e in range(len(edges))], axis=1
                )
                rest[at][state] = self._only_hosts(rest_PE, state)
        return rest

    def _reach(self, send_PQ: Floats, seconds_P: Floats) -> list[dict[State, Floats]]:
        """The least seconds of sends and tasks between edge E and a middle visit at P, by its place and state; with
        places given between the nearest edge and P, in one column."""
        starts = [[edge] for edge in self._edges] if self._anywhere else [self._edges]
        start_PE = np.full((len(seconds_P), len(starts)), np.inf)
        for at, edges in enumerate(starts):
            start_PE[edges, at] = 0.0
        reached = {START: start_PE}
        places = []
        for layer in self._layers[1:]:
            following: dict[State, Floats] = {}
            for state, at_PE in reached.items():
                sent_PE = at_PE + seconds_P[:, None]
                arrivals = [(sent_P[:, None] + send_PQ).min(axis=0) for sent_P in sent_PE.T]
                arrival_QE = np.stack(arrivals, axis=1)
                if (
                    self._anywhere
                ):  # no walk passes its own edge, unless that peer has several stages
                    arrival_QE[(start_PE == 0.0) & self._is_once_P[:, None]] = np.inf
                for after in self._successors(state):
                    if after in layer:
                        arrival = self._only_hosts(arrival_QE, after)
                        known = following.get(after)
                        following[after] = arrival if known is None else np.minimum(known, arrival)
            reached = following
            places.append(reached)
        return places

    def _only_hosts(self, value_P: Floats, state: State) -> Floats:
        if self._anywhere:
            return value_P
        hosts = list(self._instance.hosts[state[1]])
        kept = np.full(value_P.shape, np.inf)
        kept[hosts] = value_P[hosts]
        return kept

    def _completable(self) -> list[set[State]]:
        """States after 0, 1 .. visits of middle stages from which a legal route can still be finished."""
        layers = [{START}]
        for _ in range(self._instance.middle_visits):
            layers.append({after for state in layers[-1] for after in self._successors(state)})
        layers[-1] = {state for state in layers[-1] if self._is_complete(state)}
        for at in range(len(layers) - 2, -1, -1):
            layers[at] = {
                state
                for state in layers[at]
                if any(after in layers[at + 1] for after in self._successors(state))
            }
        return layers

    def _successors(self, state: State) -> Iterator[State]:
        if self._anywhere:
            yield START  # which stage is served does not matter
            return
        frontier, _, is_open, swaps = state
        instance = self._instance
        protected = instance.protected_stages
        if is_open and swaps < instance.max_swaps:
            yield (frontier, frontier - 1, False, swaps + 1)
        if is_open and frontier - 1 in protected:
            return
        for stage in range(
            frontier + 1, min(frontier + instance.max_jump, instance.stages - 1) + 1
        ):
            yield (stage, stage, stage - 1 > frontier, swaps)
            if stage - 1 > frontier and stage - 1 in protected:
                return

    def _is_complete(self, state: State) -> bool:
        frontier, _, is_open, _ = state
        protected = self._instance.protected_stages
        return self._anywhere or (
            max(protected, default=0) <= frontier and not (is_open and frontier - 1 in protected)
        )
