"""`experiment compare`: whole groups only, read alike, paired by what they are not compared in."""

import json
from pathlib import Path

import pytest

from swarmtrain.core.errors import ConfigError
from swarmtrain.experiments.compare import Compared, compared, told
from swarmtrain.experiments.noise import differ
from swarmtrain.experiments.results import read_study
from tests.experiments.study_folders import write_plan, write_run, write_study
from tests.experiments.test_experiment import command

CALM = {1: [4.0, 3.0, 2.0], 2: [4.4, 3.5, 2.5]}
SLOW = {1: [4.1, 3.2, 2.1], 2: [4.5, 3.4, 2.6]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    slower = {"slow": {"seconds": 3.0}}
    return write_study(tmp_path / "out", {"calm": CALM, "slow": SLOW}, {"target_loss": 3.3}, slower)


def by_figure(rows: list[Compared]) -> dict[str, Compared]:
    return {row.figure: row for row in rows}


def test_compare_tells_noise_from_difference(folder: Path) -> None:
    rows = compared(f"{folder}:policy=calm", f"{folder}:policy=slow")
    found = by_figure(rows)
    assert found["steady_step_seconds"].is_real is True and found["T"].is_real is False
    assert found["loss_last"].is_real is True  # 0.1 worse with either seed
    assert "(paired t): may be noise" in told(rows, "a", "b")
    assert "(every seed the same): differs" in told(rows, "a", "b")
    same = compared(str(folder), str(folder))
    assert {row.group for row in same} == {"policy=calm", "policy=slow"}
    assert not any(row.is_real for row in same) and ": equal" in told(same, "a", "b")


def test_groups_are_chosen_by_name_choice_or_a_part_of_several(folder: Path) -> None:
    done = command("compare", f"{folder}:calm", f"{folder}:slow", "-o", "json")
    assert {row["figure"] for row in json.loads(done.stdout)} >= {"T", "tokens_per_second"}
    assert {row.group for row in compared(f"{folder}:calm", f"{folder}:calm")} == {"policy=calm"}
    assert len({row.group for row in compared(f"{folder}:policy", str(folder))}) == 2
    with pytest.raises(ConfigError, match="chooses no group"):
        compared(f"{folder}:policy=none", str(folder))


def test_who_reached_the_target_does_not_stand_for_all(tmp_path: Path) -> None:
    calm = {1: [4.0, 3.0], 2: [4.0, 3.0], 3: [4.0, 3.9]}
    slow = {1: [4.0, 3.1], 2: [4.0, 3.2], 3: [4.0, 3.1]}
    folder = write_study(tmp_path, {"calm": calm, "slow": slow}, {"target_loss": 3.3})
    rows = compared(f"{folder}:calm", f"{folder}:slow")
    for figure in ("T", "steps_to_target"):
        row = by_figure(rows)[figure]
        assert row.first is None and row.second is not None and row.is_real is None
        assert row.reached == ("2 of 3", "3 of 3") and row.as_json()["differs"] is None
    assert "T                        A -  B 4  runs that reached it: A 2 of 3, B 3 of 3" in told(
        rows, "a", "b"
    )


def test_steps_that_agree_by_luck_are_no_difference_nor_is_their_t(tmp_path: Path) -> None:
    calm, slow = {s: [4.0, 3.0, 2.9] for s in (1, 2)}, {s: [4.0, 3.5, 3.0] for s in (1, 2)}
    folder = write_study(tmp_path, {"calm": calm, "slow": slow}, {"target_loss": 3.1})
    found = by_figure(compared(f"{folder}:calm", f"{folder}:slow"))
    for figure in ("T", "steps_to_target"):
        assert found[figure].is_real is False
    assert found["steps_to_target"].difference == differ(
        *(
            read_study(folder).sample(group, "steps_to_target")
            for group in read_study(folder).groups
        )
    )


def test_two_folders_are_read_by_the_settings_of_the_first(tmp_path: Path) -> None:
    report = {"target_loss": 3.8, "warm_steps": 0}
    first = write_study(tmp_path / "a", {"calm": CALM}, report)
    other = {"target_loss": 2.7, "warm_steps": 2}
    second = write_study(tmp_path / "b", {"calm": CALM}, other)
    rows = compared(str(first), str(second))
    found = by_figure(rows)
    for figure in ("T", "steps_to_target", "steady_step_seconds"):
        assert found[figure].first == found[figure].second
    assert "B is read with A's target_loss = 3.8, warm_steps = 0" in told(rows, "a", "b")
    assert "B is read" not in told(compared(str(first), str(first)), "a", "b")


def test_losses_of_two_folders_are_read_where_both_still_are(tmp_path: Path) -> None:
    first = write_study(tmp_path / "a", {"calm": CALM})
    second = write_study(tmp_path / "b", {"calm": {s: SLOW[s][:2] for s in SLOW}})
    rows = compared(str(first), str(second))
    row = by_figure(rows)["loss_at_equal_tokens"]
    assert row.first and row.second
    assert (row.first.mean, row.second.mean) == (pytest.approx(3.25), pytest.approx(3.3))
    assert "what all runs of both reached" in told(rows, "a", "b")


def test_choices_of_one_axis_are_compared_at_each_of_the_others(tmp_path: Path) -> None:
    runs = []
    for policy, size, loss in (("a", "1", 3.0), ("a", "2", 4.0), ("b", "1", 3.5), ("b", "2", 5.0)):
        name = f"policy={policy},size={size}"
        runs.append({"name": name, "labels": {"policy": policy, "train.size": size}})
        write_run(tmp_path / "runs" / name, [loss])
    write_plan(tmp_path, runs, ["policy", "train.size"])
    rows = compared(f"{tmp_path}:policy=a", f"{tmp_path}:policy=b")
    lasts = [
        (row.group, row.first and row.first.mean, row.second and row.second.mean)
        for row in rows
        if row.figure == "loss_last"
    ]
    assert lasts == [
        ("policy=a, size=1 / policy=b, size=1", 3.0, 3.5),
        ("policy=a, size=2 / policy=b, size=2", 4.0, 5.0),
    ]
