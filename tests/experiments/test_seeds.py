"""Seeds that once failed, each with what it showed; a seed draws the same fault plan for ever."""

from dataclasses import replace
from pathlib import Path

import pytest

from swarmtrain.core.config import load_config
from swarmtrain.data.stream import load_corpus
from swarmtrain.experiments.faults import Chances, Fault
from swarmtrain.experiments.scenario import read_scenario
from swarmtrain.experiments.sweep import Verdict, run_seed
from swarmtrain.experiments.virtual import VirtualRun
from swarmtrain.peer.rounds import OuterRounds

SCENARIOS = Path(__file__).parents[2] / "deploy" / "scenarios"
FOUND = {
    # Drawn before a plan could take whole stages.
    (1619, False): "a peer left out of a decision took over from it, found no majority and stopped",
    (74, True): "the checker took a late note of new stages for the moment they were loaded",
    (
        324,
        True,
    ): "a stage lost again after a restore: its snapshot is of that step, but another base",
    (
        3506,
        True,
    ): "both replicas died before a snapshot had spread, so early that it can begin again",
    (10532, True): "a whole stage took both holders of another one's snapshots with it",
    (
        557,
        True,
    ): "who was away during a restore took its state from another who was, and joined its own old calls",
    (2362, True): "who was to take over held to a conductor that had promised its place to another",
    (5612, True): "a conductor cut off from the majority ended the run for those it still reached",
}


@pytest.mark.parametrize(("seed", "whole_stages"), sorted(FOUND))
def test_a_seed_that_failed_once_ends_well(seed: int, whole_stages: bool) -> None:
    file = read_scenario(SCENARIOS / "sweep.toml")
    chances = replace(file.scenario.chances, whole_stages=whole_stages)
    config = load_config([file.run], [*file.overrides, f"run.seed={seed}"])
    run, verdict = run_seed(
        config, replace(file.scenario, chances=chances), load_corpus(config.data, None)
    )
    assert verdict.outcome == "ok", (FOUND[seed, whole_stages], verdict.reason)
    assert len(run.injected) == verdict.faults > 0


ROUNDS_FOUND = {
    724: "who caught up just before a contribution was due had none, and the round waited for its offer for ever",
    30015: "a newcomer asked a dead island for its contribution, and never those who had it by then; all waited for it",
    105171: "a chair froze as it told the last result, and an island ended the run without it, a moment before it came",
    131197: "the first island began when another had ended, as it lost nine messages in a row: no rounds are owed then",
    143945: "a peer waited ten seconds for a result of which its sibling, gone on, kept nothing; then rounds were over",
    141968: "like 143945, in two rounds one after the other",
    134736: "a result could not be had, and who had gone on had forgotten who wanted it: both were silent for ever",
}


@pytest.mark.parametrize("seed", sorted(ROUNDS_FOUND))
def test_a_seed_of_the_rounds_that_failed_once_ends_well(seed: int) -> None:
    run, verdict = run_of_rounds(seed)
    assert verdict.outcome == "ok", (ROUNDS_FOUND[seed], verdict.reason)
    assert len(run.injected) == verdict.faults > 0


def test_who_waits_for_what_nobody_keeps_any_more_costs_others_their_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(OuterRounds, "_is_past", lambda self, place: False)
    assert run_of_rounds(143945)[1].outcome == "stalled"


def run_of_rounds(seed: int) -> tuple[VirtualRun, Verdict]:
    file = read_scenario(SCENARIOS / "rounds.toml")
    config = load_config([file.run], [*file.overrides, f"run.seed={seed}"])
    return run_seed(config, file.scenario, load_corpus(config.data, None))


def test_an_exception_that_nobody_waits_for_is_a_failure_of_the_program() -> None:
    """As in the callback of a timer: here that of a fault between two machines which names one."""
    file = read_scenario(SCENARIOS / "sweep.toml")
    config = load_config([file.run], [*file.overrides, "run.steps=2"])
    halved = Fault("slow_link", (file.scenario.peers[0].name,), at_seconds=0.1)
    scenario = replace(file.scenario, faults=(halved,), chances=Chances())
    verdict = run_seed(config, scenario, load_corpus(config.data, None))[1]
    assert verdict.outcome == "error" and "TypeError" in verdict.reason, verdict
