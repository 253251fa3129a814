"""Every bad value of a network is refused with the place it is at."""

import copy
import json
import math
import random
from typing import Any

import pytest

from swarmtrain.core.errors import ConfigError
from swarmtrain.plan.paths.planner import plan
from swarmtrain.plan.paths.reading import LEAST_TASK_SECONDS, MOST_SECONDS, read_instance


def network() -> dict[str, Any]:
    peers = [
        {
            "name": f"p{index}",
            "stages": [index % 3],
            "forward_seconds": 1,
            "backward_seconds": 2.5,
            "loss_seconds": 0 if index % 3 == 2 else 0.5,
            "memory_slots": 2,
        }
        for index in range(6)
    ]
    return {
        "comment": "for people",
        "peers": peers,
        "send_seconds": [[0.0 if a == b else 1.5 for b in range(6)] for a in range(6)],
        "stages": 3,
        "stage_sizes": [2, 2, 2],
        "microbatches": 4,
        "visits": 2,
        "max_swaps": 2,
        "max_jump": 4,
        "task_gap_seconds": 0.13,
        "quotas": "equal",
        "visit_shares": "equal",
    }


def changed(path: list[Any], value: Any) -> str:
    found: Any = copy.deepcopy(network())
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(found)


def test_a_whole_network_is_read():
    instance = read_instance(json.dumps(network()))
    assert instance.hosts == ((0, 3), (1, 4), (2, 5))
    assert instance.visit_limits == ((4, 4), (2, 2), (2, 2))
    assert instance.quota_limits(2) == (2, 2) and instance.quota_limits(3) == (1, 2)
    assert (instance.peers[0].forward_seconds, instance.max_jump) == (1.0, 4)


def test_peers_without_a_place_and_defaults():
    found = network()
    for entry in found["peers"]:
        entry |= {"stages": None, "loss_seconds": 0.5}
    for key in ("stage_sizes", "max_swaps", "max_jump", "task_gap_seconds", "quotas"):
        del found[key]
    instance = read_instance(json.dumps(found))
    assert instance.unplaced == tuple(range(6)) and instance.quotas == "equal"


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (["visits"], 4, "visits"),
        (["visits"], 1, "visits"),
        (["visits"], 2.0, "visits"),
        (["visits"], True, "visits"),
        (["stages"], "3", "stages"),
        (["microbatches"], 0, "microbatches"),
        (["peers", 3, "memory_slots"], 0, r"peers\[3\].memory_slots"),
        (["peers", 2, "forward_seconds"], -1.0, r"peers\[2\].forward_seconds"),
        (["peers", 2, "forward_seconds"], 0, r"peers\[2\].forward_seconds"),
        (["peers", 2, "forward_seconds"], 1e-320, r"peers\[2\].forward_seconds"),
        (["peers", 2, "forward_seconds"], 10**400, r"peers\[2\].forward_seconds"),
        (["peers", 2, "forward_seconds"], 1e308, r"peers\[2\].forward_seconds"),
        (["peers", 2, "loss_seconds"], math.nan, r"peers\[2\].loss_seconds"),
        (["peers", 3, "loss_seconds"], 0, r"peers\[3\].loss_seconds"),
        (["peers", 1, "backward_seconds"], math.inf, r"peers\[1\].backward_seconds"),
        (["peers", 1, "backward_seconds"], "2", r"peers\[1\].backward_seconds"),
        (["peers", 1, "stages"], [3], r"peers\[1\].stages\[0\]"),
        (["peers", 1, "stages"], [0, 0], r"peers\[1\].stages"),
        (["peers", 1, "stages"], 0, r"peers\[1\].stages"),
        (["peers", 1, "stages"], [0], r"stage_sizes\[0\]"),
        (["peers", 1, "name"], "p0", r"peers\[1\].name"),
        (["peers", 1, "name"], "", r"peers\[1\].name"),
        (["peers", 1, "speed"], 1, r"peers\[1\].speed"),
        (["peers", 1], 7, r"peers\[1\]"),
        (["peers"], {}, "peers"),
        (["speed"], 1, "speed"),
        (["send_seconds", 4], [0.0] * 5, r"send_seconds\[4\]"),
        (["send_seconds"], [[0.0]], "send_seconds"),
        (["send_seconds", 4, 5], -0.5, r"send_seconds\[4\]\[5\]"),
        (["send_seconds", 4, 5], 10**10, r"send_seconds\[4\]\[5\]"),
        (["send_seconds", 4, 5], math.nan, r"send_seconds\[4\]\[5\]"),
        (["send_seconds", 4, 5], None, r"send_seconds\[4\]\[5\]"),
        (["stage_sizes"], [2, 2], "stage_sizes"),
        (["stage_sizes"], [1, 2, 2], r"stage_sizes\[0\]"),
        (["max_jump"], 0, "max_jump"),
        (["max_swaps"], -1, "max_swaps"),
        (["task_gap_seconds"], -0.1, "task_gap_seconds"),
        (["quotas"], "even", "quotas"),
        (["visit_shares"], None, "visit_shares"),
        (["protected_stages"], [3], r"protected_stages\[0\]"),
        (["protected_stages"], [1, 2], "protected_stages"),
    ],
)
def test_a_bad_value_is_refused_with_its_place(path: list[Any], value: Any, place: str):
    with pytest.raises(ConfigError, match=rf"^{place} cannot be used"):
        read_instance(changed(path, value))


@pytest.mark.parametrize("key", ["peers", "send_seconds", "stages", "microbatches", "visits"])
def test_a_missing_key_is_named(key: str):
    found = network()
    del found[key]
    with pytest.raises(ConfigError, match=f"{key} cannot be used\n  why: missing"):
        read_instance(json.dumps(found))


def test_a_loss_takes_time_at_whoever_may_be_an_edge():
    found = network()
    del found["stage_sizes"]
    assert not found["peers"][2]["loss_seconds"], "who hosts middle stages only has none"
    found["peers"][2]["stages"] = None
    with pytest.raises(ConfigError, match=r"peers\[2\].loss_seconds cannot be used"):
        read_instance(json.dumps(found))


@pytest.mark.parametrize("seconds", [LEAST_TASK_SECONDS, MOST_SECONDS])
def test_the_least_and_the_most_seconds_can_be_planned_with(seconds: float):
    found = network()
    for entry in found["peers"]:
        entry["forward_seconds"] = entry["loss_seconds"] = seconds
    found["send_seconds"] = [[MOST_SECONDS] * 6 for _ in range(6)]
    made = plan(read_instance(json.dumps(found)), lambda done: done / 20, random.Random(1))
    assert made.lower_bound_seconds <= made.makespan_seconds < math.inf


def test_a_stage_without_hosts_is_named():
    found = network()
    del found["stage_sizes"]
    found["peers"][2]["stages"] = found["peers"][5]["stages"] = [1]
    with pytest.raises(ConfigError, match="nobody hosts stage 2"):
        read_instance(json.dumps(found))


def test_many_stages_with_many_swaps_are_read_at_once():
    found = network()
    entry = found["peers"][0]
    found["peers"] = [{**entry, "name": f"p{stage}", "stages": [stage]} for stage in range(60)]
    found["send_seconds"] = [[0.1] * 60 for _ in range(60)]
    del found["stage_sizes"]
    found |= {"stages": 60, "visits": 60, "max_swaps": 30}
    assert read_instance(json.dumps(found)).max_swaps == 30


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "nul"])
def test_what_is_no_network_is_refused(text: str):
    with pytest.raises(ConfigError):
        read_instance(text)
