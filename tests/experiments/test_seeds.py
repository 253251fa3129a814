"""Seeds that once failed, each with what it showed; a seed draws the same fault plan for ever."""

from pathlib import Path

import pytest

from swarmtrain.core.config import load_config
from swarmtrain.data.stream import load_corpus
from swarmtrain.experiments.scenario import read_scenario
from swarmtrain.experiments.sweep import run_seed

SCENARIOS = Path(__file__).parents[2] / "deploy" / "scenarios"
FOUND = {
    1619: "a peer left out of a decision took over from it, found no majority and stopped the run for all",
}


@pytest.mark.parametrize("seed", sorted(FOUND), ids=str)
def test_a_seed_that_failed_once_ends_well(seed: int) -> None:
    file = read_scenario(SCENARIOS / "sweep.toml")
    config = load_config([file.run], [*file.overrides, f"run.seed={seed}"])
    run, verdict = run_seed(config, file.scenario, load_corpus(config.data, None))
    assert verdict.outcome == "ok", (FOUND[seed], verdict.reason)
    assert len(run.injected) == verdict.faults > 0
