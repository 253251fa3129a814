"""A model family of one's own becomes a run: same parameters as the plain loop, on any number of peers."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from swarmtrain.cli.app import app
from swarmtrain.core.errors import ModelError
from swarmtrain.experiments.virtual import Scenario, peers, simulate
from swarmtrain.model import registry
from swarmtrain.model.registry import trust_family
from tests.experiments.runs import corpus, reference, small_config

FAMILY = "tests.model.own_family:GatedFamily"


@pytest.fixture(autouse=True)
def _untrusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Families are remembered by the process; here each test starts without."""
    monkeypatch.setattr(registry, "_families", {"llama": registry.LlamaFamily()})


def test_it_equals_the_reference_on_several_peers() -> None:
    config = small_config(f"model.family={FAMILY}")
    trust_family(config.model)
    yardstick = reference(config)
    for count in (1, 4):
        run = simulate(config, Scenario(peers(count)), corpus())
        assert run.commits[-1].parameters_sha256 == yardstick.parameters_sha256
    assert yardstick.losses[-1] < yardstick.losses[0]


def test_nothing_is_imported_without_a_local_word() -> None:
    with pytest.raises(ModelError, match="was not loaded"):
        reference(small_config(f"model.family={FAMILY}"))


def test_the_command_line_trusts_the_run_file_it_is_given(tmp_path: Path) -> None:
    overrides = [f"model.family={FAMILY}", "model.preset=nano", "train.sequence_length=32"]
    arguments = [part for one in overrides for part in ("--set", one)]
    outcome = CliRunner().invoke(
        app, ["reference", "--steps", "2", "--out", str(tmp_path / "run"), *arguments]
    )
    assert outcome.exit_code == 0, outcome.output
