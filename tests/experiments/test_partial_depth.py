"""Checkpoints run with stages left out: which, and what is reported; and the command that does it."""

import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.cli.app import main
from swarmtrain.core.config import load_config
from swarmtrain.core.errors import ConfigError
from swarmtrain.experiments.partial_depth import Depth, kept_stages, measure, parse_shares
from swarmtrain.experiments.reference import Reference
from swarmtrain.experiments.trained import TrainedModel
from tests.experiments.runs import corpus, small_config

SIX = load_config((), ["model.stages=6", "paths.protected=[1]"])
TINY = (
    "model.stages=4",
    "model.width=16",
    "model.heads=2",
    "model.kv_heads=1",
    "model.ffn_width=16",
    "train.microbatch_size=2",
    "train.sequence_length=16",
    "paths.protected=[2]",
)


# ---- what was asked for ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "shares"),
    [
        (["0.5"], (0.5,)),
        (["1,0.75,0.5"], (1.0, 0.75, 0.5)),
        (["1", "0.5, 0.25"], (1.0, 0.5, 0.25)),
        (["0.5,0.5"], (0.5,)),
        ([], ()),
    ],
)
def test_shares_are_one_or_a_list_or_repeated(texts: list[str], shares: tuple[float, ...]) -> None:
    assert parse_shares(texts) == shares


@pytest.mark.parametrize("text", ["0", "-0.5", "1.5", "half", "nan", "", "0.5,", "50%"])
def test_other_shares_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--keep"):
        parse_shares([text])


# ---- which stages are kept ------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.floats(0.01, 1.0), st.integers(1, 9), st.integers(0, 5))
def test_so_many_are_kept_and_each_is_left_out_as_often(
    stages: int, share: float, seeds: int, seed: int
) -> None:
    config = load_config((), [f"model.stages={stages}", f"run.seed={seed}"])
    kept = kept_stages(config, share, seeds)
    count = max(1, math.floor(share * stages + 0.5))
    assert len(kept) == (1 if count == stages else seeds)
    assert all(len(choice) == count and list(choice) == sorted(set(choice)) for choice in kept)
    visits = Counter(stage for choice in kept for stage in choice)
    assert max(visits.values()) - min(visits[s] for s in range(1, stages + 1)) <= 1


def test_protected_stages_stay_in() -> None:
    assert all(1 in choice for choice in kept_stages(SIX, 0.34, 20))


def test_fewer_than_the_protected_cannot_be_kept() -> None:
    config = load_config((), ["model.stages=6", "paths.protected=[1, 2]"])
    assert kept_stages(config, 0.34, 3) == ((1, 2),) * 3
    with pytest.raises(ConfigError, match="2 are protected"):
        kept_stages(config, 0.1, 3)


def test_choices_follow_from_the_seed() -> None:
    other = load_config((), ["model.stages=6", "paths.protected=[1]", "run.seed=2"])
    assert kept_stages(SIX, 0.5, 5) == kept_stages(SIX, 0.5, 5) != kept_stages(other, 0.5, 5)


# ---- measuring ------------------------------------------------------------------------------------------------------


def test_a_depth_has_mean_and_spread_of_its_choices() -> None:
    depth = Depth(0.5, ((1, 2), (1, 3)), (2.0, 3.0))
    assert (depth.stages, depth.loss) == (2, 2.5)
    assert depth.spread == pytest.approx(math.sqrt(0.5))
    assert depth.perplexity == pytest.approx(math.exp(2.5))
    assert Depth(1.0, ((1, 2, 3),), (2.0,)).spread == 0.0
    json.dumps(depth.as_json())


def test_equal_choices_are_measured_once() -> None:
    asked: list[tuple[int, ...]] = []

    def loss(stages: tuple[int, ...]) -> float:
        asked.append(stages)
        return float(sum(stages))

    depths = list(measure(SIX, (1.0, 0.17, 0.5, 0.17), 9, loss))
    assert len(asked) == len(set(asked))
    assert [depth.stages for depth in depths] == [6, 1, 3, 1]
    assert all(
        value == sum(stages)
        for depth in depths
        for stages, value in zip(depth.kept, depth.losses, strict=True)
    )


def test_a_share_that_cannot_be_kept_is_refused_before_anything_is_measured() -> None:
    config = load_config((), ["model.stages=6", "paths.protected=[1, 2]"])
    with pytest.raises(ConfigError):
        next(measure(config, (1.0, 0.1), 3, lambda stages: pytest.fail("measured")))


# ---- on a checkpoint ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "checkpoint"
    loop = Reference(small_config(*TINY, steps=3), corpus(), corpus().tokenizer.vocab_size)
    list(loop.train())
    loop.save(folder)
    return folder


def run(capsys: Any, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[int, str, str]:
    """The exit code of `swarmtrain eval ...`, what it wrote, and its progress or errors."""
    monkeypatch.setattr(sys, "argv", ["swarmtrain", "eval", *map(str, arguments)])
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_model_without_a_stage_is_another_model(checkpoint: Path) -> None:
    model = TrainedModel.load(checkpoint)
    whole, alone = model.held_out_loss(2), model.held_out_loss(2, (2,))
    assert model.held_out_loss(2, (1, 2, 3, 4)) == whole != alone
    stages = [model.stages[0], model.stages[2]]
    gone = TrainedModel(model.config, model.tokenizer, stages, model.step)
    assert gone.held_out_loss(2) == alone


def test_eval_reports_each_share(checkpoint: Path, capsys: Any, monkeypatch: Any) -> None:
    shell = (capsys, monkeypatch)
    code, out, _ = run(
        *shell, checkpoint, "--keep", "1,0.5", "--seeds", 4, "--batches", 2, "-o", "json"
    )
    facts = json.loads(out)
    assert code == 0 and set(facts) == {"step", "eval_loss", "perplexity", "batches", "depths"}
    full, half = facts["depths"]
    assert (full["stages"], full["loss"], full["loss_spread"]) == (4, facts["eval_loss"], 0.0)
    assert half["stages"] == 2 and len(half["kept"]) == len(half["losses"]) == 4
    assert all(2 in kept for kept in half["kept"])
    assert half["loss_least"] <= half["loss"] <= half["loss_most"] and half["loss_spread"] > 0
    model = TrainedModel.load(checkpoint)
    losses = [model.held_out_loss(2, kept) for kept in half["kept"]]
    assert losses == half["losses"]


def test_eval_shows_progress_and_a_line_a_share(
    checkpoint: Path, capsys: Any, monkeypatch: Any
) -> None:
    code, out, err = run(
        capsys, monkeypatch, checkpoint, "--keep", "0.5", "--seeds", 2, "--batches", 2
    )
    assert code == 0 and "keep 0.5" in out and "2 of 4 stages" in out and "2 choices" in out
    assert err.count("without") == 2


def test_eval_without_keep_is_what_it_was(checkpoint: Path, capsys: Any, monkeypatch: Any) -> None:
    code, out, err = run(capsys, monkeypatch, checkpoint, "--batches", 2, "-o", "json")
    assert code == 0 and not err
    assert set(json.loads(out)) == {"step", "eval_loss", "perplexity", "batches"}


@pytest.mark.parametrize("keep", ["2", "none"])
def test_eval_refuses_what_is_no_share(
    checkpoint: Path, capsys: Any, monkeypatch: Any, keep: str
) -> None:
    code, out, err = run(capsys, monkeypatch, checkpoint, "--keep", keep, "--batches", 1)
    assert code != 0 and not out and "--keep" in err
