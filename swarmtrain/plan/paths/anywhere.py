"""What peers without a place can serve within a makespan: the bound where places are chosen.

A makespan is too short as long as no choice of edges leaves the other peers room for all middle visits, or slots for as
long as these hold them, the more the earlier on the route; or as whole peers do not suffice for every stage, where
`stage_peers` tells how many these need.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec

import numpy as np

from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.visits import Room, edge_spans, middle_spans
from swarmtrain.plan.paths.walks import Walks

SAFETY = 1.0 - 1e-12
"""Sums round; a bound that is a rounding above an optimum would be a lie."""

PRECISION = 1e-5
"""Of the bound, as a share of it."""

CLOSER_PRECISION = 4e-3
"""Of what a closer look adds, as a share of the bound."""


class Anywhere:
    def __init__(self, instance: Instance, walks: Walks) -> None:
        self._instance, self._walks = instance, walks
        edge, middle = edge_spans(instance, walks), middle_spans(instance, walks)
        everyone, microbatches = range(len(instance.peers)), instance.microbatches
        visits = microbatches * instance.middle_visits
        self._edge_rooms = [Room(partial(edge, peer), microbatches) for peer in everyone]
        self._middle_rooms = [Room(partial(middle, peer), visits) for peer in everyone]

    def bound_seconds(self) -> float:
        """The longest makespan found for which peers, each edge or middle as is best, could not serve all visits."""
        least, most = 0.0, 1.0
        while not self._could_serve(most):
            least, most = most, 2 * most
        return _least_possible(self._could_serve, least, most, PRECISION)

    def raised(self, bound_seconds: float, most_seconds: float) -> float:
        """The bound, raised as far as stages need more whole peers than there are, but not over `most_seconds`."""
        instance = self._instance
        if len(instance.unplaced) < len(instance.peers) or find_spec("scipy") is None:
            return bound_seconds
        from swarmtrain.plan.paths.stage_peers import StagePeers

        stage_peers = StagePeers(instance, self._walks)
        needed: list[tuple[float, int]] = []

        def could_staff(limit_seconds: float) -> bool:
            most = len(instance.peers) - self._fewest_edges(limit_seconds)
            # Within a longer time stages need no more peers.
            if any(limit_seconds <= longer and fewest > most for longer, fewest in needed):
                return False
            if any(limit_seconds >= shorter and fewest <= most for shorter, fewest in needed):
                return True
            fewest = stage_peers.fewest(limit_seconds)
            if fewest is not None:
                needed.append((limit_seconds, fewest))
            return fewest is None or fewest <= most

        if could_staff(bound_seconds):
            return bound_seconds
        return _least_possible(could_staff, bound_seconds, most_seconds, CLOSER_PRECISION)

    def _could_serve(self, limit_seconds: float) -> bool:
        """Whether peers have room for all embeddings and all middle visits within the limit, however they are dealt."""
        instance = self._instance
        as_edge = [room(limit_seconds) for room in self._edge_rooms]
        as_middle = [room(limit_seconds) for room in self._middle_rooms]
        visits = instance.microbatches * instance.middle_visits
        if _most_beside_edges(instance, as_edge, as_middle) < visits:
            return False
        held, needed_seconds = _held_seconds(instance, self._walks, limit_seconds)
        if _most_beside_edges(instance, as_edge, held) < needed_seconds * SAFETY:
            return False
        if len(instance.unplaced) < len(instance.peers):
            return True
        most, limits = max(as_middle), instance.visit_limits[1:]
        needed = sum(-(-least // most) for least, _ in limits if least)
        return self._fewest_edges(limit_seconds) + needed <= len(instance.peers)

    def _fewest_edges(self, limit_seconds: float) -> int:
        """Peers that have room for all embeddings, the roomiest first."""
        edges = room = 0
        for own in sorted((room(limit_seconds) for room in self._edge_rooms), reverse=True):
            if room >= self._instance.microbatches:
                break
            edges, room = edges + 1, room + own
        return edges


def _least_possible(
    is_possible: Callable[[float], bool], least: float, most: float, precision: float
) -> float:
    """The longest time found not to be possible, between `least`, which is not, and `most`."""
    while most - least > precision * most:
        middle = (least + most) / 2
        if is_possible(middle):
            most = middle
        else:
            least = middle
    return least


def _most_beside_edges(
    instance: Instance, as_edge: Sequence[int], as_middle: Sequence[float]
) -> float:
    """The most that peers can give as middle ones while others, or those placed at both, take all embeddings."""
    microbatches = instance.microbatches
    # By embeddings that the edges so far have room for, the most of the other peers so far.
    room_M = np.full(microbatches + 1, -np.inf)
    room_M[0] = 0.0
    for peer, (edge, middle) in enumerate(zip(as_edge, as_middle, strict=True)):
        stages = instance.peers[peer].stages
        if stages is not None:  # its place says what it is; with both roles it serves both
            edge, middle = edge * (0 in stages), middle * any(stages)
        edge = min(edge, microbatches)
        chosen_M = np.full(microbatches + 1, -np.inf)
        chosen_M[edge:] = room_M[: microbatches + 1 - edge]
        if edge:
            chosen_M[-1] = max(chosen_M[-1], room_M[microbatches + 1 - edge :].max())
        if stages is not None and 0 in stages:
            room_M = chosen_M + middle
        else:
            room_M = np.maximum(room_M + middle, chosen_M)
    return float(room_M[-1])


def _held_seconds(
    instance: Instance, walks: Walks, limit_seconds: float
) -> tuple[list[float], float]:
    """Seconds of slots by peer that middle visits can hold within the limit, and those that they all hold at least.

    A visit at a far peer holds its slot for longer. So both count seconds of a peer less, the longer its visits last;
    any weights give a bound.
    """
    gap, least = instance.task_gap_seconds, math.fsum(min(stay) for stay in walks.stays)
    sums = [math.fsum(stay) for stay in zip(*walks.stays, strict=True)]
    weights = [least / total if math.isfinite(total) else 1.0 for total in sums]
    needed = math.fsum(
        min(weight * (seconds + gap) for weight, seconds in zip(weights, stay, strict=True))
        for stay in walks.stays
    )
    held = []
    for peer, (costs, weight) in enumerate(zip(instance.peers, weights, strict=True)):
        span = max(0.0, limit_seconds - walks.head[peer] - walks.tail[peer] + gap)
        stagger = costs.forward_seconds + costs.backward_seconds + 2 * gap
        used = range(costs.memory_slots + 1)
        held.append(weight * max(k * span - stagger * k * (k - 1) / 2 for k in used))
    return held, instance.microbatches * needed
