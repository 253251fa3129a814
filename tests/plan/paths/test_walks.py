"""The cheapest walks of free places against all routes there are."""

import math
import random
from collections.abc import Iterator
from itertools import pairwise, permutations

import pytest

from swarmtrain.plan.paths import trips
from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.walks import cheapest_walks
from tests.plan.paths.networks import clusters, pairs


def test_walks_in_free_places_do_not_turn_back():
    """Two pairs: in, across, in, across, there and back; bouncing in one pair would take 4 * 2 * 0.5 seconds."""
    trip = cheapest_walks(pairs(1)).round_trip[0]
    assert trip == pytest.approx(4 * 3.0 + 0.5 + 2 * (0.5 + 4.0 + 0.5 + 4.0))


def round_trips(instance: Instance, edge: int) -> Iterator[tuple[float, tuple[int, ...]]]:
    """Seconds and peers of every round trip of a peer, places free, that comes to nobody twice."""
    peers, send = instance.peers, instance.send_seconds
    others = [index for index in range(len(peers)) if index != edge]
    for chosen in permutations(others, instance.middle_visits):
        trip = (edge, *chosen)
        work = sum(peers[at].forward_seconds + peers[at].backward_seconds for at in trip)
        hops = zip(trip, (*chosen, edge), strict=True)
        sends = sum(send[a][b] + send[b][a] for a, b in hops)
        yield work + sends + peers[edge].loss_seconds, trip


@pytest.mark.parametrize("seed", range(6))
def test_round_trips_in_free_places_come_to_nobody_twice(seed: int, monkeypatch):
    """Exactly the cheapest of all, and no more where the search for it is cut short."""
    instance = clusters(random.Random(seed))
    least = [min(round_trips(instance, edge))[0] for edge in range(len(instance.peers))]
    found = cheapest_walks(instance).round_trip
    assert [found[edge] for edge in range(len(least))] == pytest.approx(least, abs=1e-8)
    monkeypatch.setattr(trips, "MOST_STEPS", 3)
    cut = cheapest_walks(instance).round_trip
    assert all(cut[edge] <= seconds + 1e-9 for edge, seconds in enumerate(least))
    assert any(cut[edge] < seconds - 1e-6 for edge, seconds in enumerate(least))


def test_answers_in_free_places_go_back_to_the_edge_they_came_from():
    """The nearest edge before a visit may be another peer than the nearest one after it."""
    tighter = 0
    for seed in range(20):
        instance = clusters(random.Random(seed))
        walks = cheapest_walks(instance)
        least = least_around(instance)
        for place in range(instance.middle_visits):
            for at in range(len(instance.peers)):
                answer, finish = walks.answers[place][at], walks.finishes[place][at]
                assert answer <= least[place, at][0] + 1e-9
                assert finish <= least[place, at][1] + 1e-9
                apart = walks.heads[place][at] + walks.stays[place][at]
                tighter += answer > apart - instance.peers[at].backward_seconds + 1e-9
    assert tighter > 20


def least_around(instance: Instance) -> dict[tuple[int, int], tuple[float, float]]:
    """By place and peer, the least answer and finish of all round trips that come to nobody twice."""
    found: dict[tuple[int, int], tuple[float, float]] = {}
    peers, send = instance.peers, instance.send_seconds
    for edge in range(len(peers)):
        for seconds, trip in round_trips(instance, edge):
            head = tail = 0.0
            for place, (before, at) in enumerate(pairwise(trip)):
                head += peers[before].forward_seconds + send[before][at]
                tail += peers[before].backward_seconds + send[at][before]
                answer = seconds - tail - peers[at].backward_seconds
                finish = seconds - head - peers[at].forward_seconds
                best = found.get((place, at), (math.inf, math.inf))
                found[place, at] = min(answer, best[0]), min(finish, best[1])
    return found
