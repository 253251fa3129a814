"""Repair times with real processes against their bounds, and a short soak."""

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest

from swarmtrain.experiments.injections import Trial
from swarmtrain.experiments.recoveries import Recovery, detection_bound_seconds, recovery_from
from tests.integration.processes import ROOT, Workplace
from tests.integration.trials import ENDLESS, QUICK_LINKS, config_of, tried

SCHEDULING_SECONDS = 2.0
"""What a machine that is busy with other things may add to a bound."""
STAGES = ("0:2", "0:2", "0:2", "1:2", "1:2")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def repairs(
    found: list[Recovery], fault: str, count: int, is_conductor: bool
) -> Callable[[Trial], Awaitable[None]]:
    async def script(trial: Trial) -> None:
        for number in range(count):
            await trial.until_steps(5)
            victim = trial.conductor if is_conductor else 3 + number % 2
            found.append(await recovery_from(trial, fault, victim))

    return script


@pytest.mark.parametrize("is_conductor", [False, True], ids=["stage peer", "conductor"])
def test_after_a_kill_a_step_is_committed_within_three_seconds_and_a_step(
    loopback: Workplace, is_conductor: bool
) -> None:
    found: list[Recovery] = []
    script = repairs(found, "kill", 3, is_conductor)
    trial, _ = tried(loopback, config_of(*ENDLESS), STAGES, {}, script)
    step_seconds = max(entry.event["seconds"] for entry in trial.seen("step_committed")[5:10])
    assert len(found) == 3
    for recovery in found:
        assert recovery.first_commit_seconds < 3.0 + step_seconds, found


def test_a_frozen_peer_is_out_of_the_roster_within_the_stated_bound(loopback: Workplace) -> None:
    found: list[Recovery] = []
    config = config_of(*ENDLESS, *QUICK_LINKS)
    tried(loopback, config, STAGES, {}, repairs(found, "freeze", 3, False))
    bound_seconds = detection_bound_seconds(config.links) + SCHEDULING_SECONDS
    assert len(found) == 3
    assert all(recovery.reassign_seconds < bound_seconds for recovery in found), found


def test_a_soak_of_two_minutes(loopback: Workplace) -> None:
    command = [sys.executable, "-m", "benchmarks.real_soak", "--minutes", "2", "--peers", "8"]
    done = subprocess.run(
        [*command, "--every", "12", "-o", "json"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert sum(result["faults"].values()) >= 5
    assert result["equal"] and not result["violations"] and not result["left"]
    assert result["growth_rss_bytes"] < 256 << 20
    loopback.expect_nothing_left(5)
