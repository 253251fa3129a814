"""Where the islands of a run go on: from the step of which the most have a whole checkpoint of their own."""

from pathlib import Path

import pytest

from swarmtrain.checkpoint.store import furthest, known_steps, save
from swarmtrain.coordinator.island_checkpoints import IslandCheckpoints
from swarmtrain.core.errors import StateError
from swarmtrain.core.messages import CheckpointAt
from tests.checkpoint.states import stage_state
from tests.experiments.runs import small_config

CONFIG = small_config(steps=100)


def base_of(island: int, step: int) -> bytes:
    return bytes([island + 1, step]) * 16


def write(folder: Path, island: int, *steps: int) -> None:
    target = folder / f"island-{island:04d}" if island else folder
    for step in steps:
        save(
            target,
            step=step,
            base=base_of(island, step),
            config_json=CONFIG.to_json(),
            states=[stage_state(stage, step) for stage in range(3)],
            keep=10,
        )


def starts(folder: Path) -> tuple[dict[int, CheckpointAt], list[str]]:
    found, notes = IslandCheckpoints(CONFIG, folder).resume()
    return found, [note.what for note in notes]


def at(island: int, step: int) -> CheckpointAt:
    return CheckpointAt(step, base_of(island, step))


def test_one_island_goes_on_from_its_newest(tmp_path: Path) -> None:
    write(tmp_path, 0, 10, 20)
    assert starts(tmp_path) == ({0: at(0, 20)}, [])


def test_islands_go_on_from_the_newest_step_that_all_have_each_from_its_own(tmp_path: Path) -> None:
    write(tmp_path, 0, 10, 20, 30)
    write(tmp_path, 1, 10, 20)
    write(tmp_path, 3, 20)
    assert starts(tmp_path) == ({0: at(0, 20), 1: at(1, 20), 3: at(3, 20)}, [])


def test_a_damaged_one_is_passed_over_in_all_of_them(tmp_path: Path) -> None:
    write(tmp_path, 0, 10, 20)
    write(tmp_path, 1, 10, 20)
    (tmp_path / "island-0001" / "step-00000020" / "stage-001.safetensors").write_bytes(b"x")
    found, notes = starts(tmp_path)
    assert found == {0: at(0, 10), 1: at(1, 10)}
    assert notes == ["a checkpoint was passed over"]


def test_an_island_that_died_long_before_costs_the_others_nothing(tmp_path: Path) -> None:
    write(tmp_path, 0, 70, 80, 90)
    write(tmp_path, 1, 70, 80, 90)
    write(tmp_path, 2, 10, 20, 30)
    found, (note,) = IslandCheckpoints(CONFIG, tmp_path).resume()
    assert found == {0: at(0, 90), 1: at(1, 90)}
    kept = tmp_path / "island-0002-set-aside-1"
    assert note.what == "an island begins anew" and known_steps(kept) == [30, 20, 10]
    for said in ("island 2", "from step 90", "up to step 30", f"swarmtrain export {kept}"):
        assert said in note.detail


def test_an_island_that_never_saved_costs_the_others_nothing(tmp_path: Path) -> None:
    write(tmp_path, 0, 10, 20)
    write(tmp_path, 1, 10, 20)
    (tmp_path / "island-0002" / ".partial-step-00000020").mkdir(parents=True)
    islands = IslandCheckpoints(CONFIG, tmp_path)
    found, (note,) = islands.resume()
    assert found == {0: at(0, 20), 1: at(1, 20)}
    assert note.what == "an island begins anew" and "not saved any checkpoint" in note.detail
    assert "export" not in note.detail, "there is nothing to export"
    assert islands.of(2).newest is None and islands.of(2).folder.is_dir()
    assert not list(tmp_path.glob("*-set-aside-*"))


def test_an_island_of_which_nothing_is_whole_costs_the_others_nothing(tmp_path: Path) -> None:
    write(tmp_path, 0, 10, 20)
    write(tmp_path, 1, 10, 20)
    write(tmp_path, 2, 20)
    (tmp_path / "island-0002" / "step-00000020" / "stage-001.safetensors").write_bytes(b"x")
    found, (passed, anew) = IslandCheckpoints(CONFIG, tmp_path).resume()
    assert found == {0: at(0, 20), 1: at(1, 20)}
    assert passed.what == "a checkpoint was passed over" and "island-0002" in passed.detail
    assert anew.what == "an island begins anew" and "export" not in anew.detail
    assert (tmp_path / "island-0002-set-aside-1").is_dir()


def test_an_older_step_that_more_islands_have_is_chosen_before_a_newer_one(tmp_path: Path) -> None:
    for island in range(3):
        write(tmp_path, island, 10, 20, 30)
    (tmp_path / "island-0002" / "step-00000030" / "stage-001.safetensors").write_bytes(b"x")
    write(tmp_path, 1, 40)
    assert starts(tmp_path) == (
        {island: at(island, 20) for island in range(3)},
        ["a checkpoint was passed over"],
    )


def test_a_damaged_one_of_the_first_island_is_told_once(tmp_path: Path) -> None:
    write(tmp_path, 0, 10, 20)
    write(tmp_path, 1, 10, 20)
    (tmp_path / "step-00000020" / "stage-001.safetensors").write_bytes(b"x")
    found, notes = starts(tmp_path)
    assert found == {0: at(0, 10), 1: at(1, 10)}
    assert notes == ["a damaged checkpoint was passed over"]


def test_a_checkpoint_that_a_crash_left_under_its_spare_name_is_gone_on_from(
    tmp_path: Path,
) -> None:
    write(tmp_path, 0, 10)
    (tmp_path / "step-00000010").rename(tmp_path / "step-00000010.replaced")
    write(tmp_path, 1, 10)
    found, notes = starts(tmp_path)
    assert found == {0: at(0, 10)}
    assert notes == ["a checkpoint was passed over", "an island begins anew"]


def test_one_that_is_whole_and_of_another_run_is_not_called_damaged(tmp_path: Path) -> None:
    write(tmp_path, 0, 10, 20)
    write(tmp_path, 1, 10)
    other = small_config(steps=99).to_json()
    states = [stage_state(stage, 20) for stage in range(3)]
    place = tmp_path / "island-0001"
    save(place, step=20, base=base_of(1, 20), config_json=other, states=states, keep=10)
    found, (note,) = IslandCheckpoints(CONFIG, tmp_path).resume()
    assert found == {0: at(0, 10), 1: at(1, 10)}
    assert note.what == "a checkpoint was passed over" and "of another run" in note.detail


def test_islands_without_a_common_step_begin_anew_and_it_is_told(tmp_path: Path) -> None:
    write(tmp_path, 0, 10, 30)
    write(tmp_path, 1, 20)
    found, notes = starts(tmp_path)
    assert found == {0: at(0, 30)} and notes == ["an island begins anew"]


def test_who_begins_anew_has_what_it_saved_set_aside_and_its_owner_reads_where(
    tmp_path: Path,
) -> None:
    """The first island died at step 30, the second one trained on: another history than what comes now."""
    write(tmp_path, 0, 10, 30)
    write(tmp_path, 1, 50, 60)
    islands = IslandCheckpoints(CONFIG, tmp_path)
    islands.of(1).resume(60)
    _, (note,) = islands.resume()
    kept = tmp_path / "island-0001-set-aside-1"
    for said in ("island 1", "from step 30", "up to step 60", f"swarmtrain export {kept}"):
        assert said in note.detail
    assert furthest(kept) == kept and known_steps(kept) == [60, 50]
    assert islands.of(1).newest is None, "nobody restores from it"
    write(tmp_path, 0, 60)
    assert starts(tmp_path)[0] == {0: at(0, 60)}, "its step 60 is not that of this history"
    write(tmp_path, 1, 70)
    starts(tmp_path)
    assert (tmp_path / "island-0001-set-aside-2").is_dir()


def test_without_any_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    write(tmp_path, 1, 10)
    with pytest.raises(StateError, match="no whole checkpoint"):
        starts(tmp_path)


def test_what_people_use_is_the_island_that_came_furthest_the_lowest_of_several(
    tmp_path: Path,
) -> None:
    assert furthest(tmp_path) == tmp_path
    write(tmp_path, 1, 10)
    assert furthest(tmp_path) == tmp_path / "island-0001", "the first island never saved"
    write(tmp_path, 0, 10)
    write(tmp_path, 2, 10)
    assert furthest(tmp_path) == tmp_path
    write(tmp_path, 2, 20)
    assert furthest(tmp_path) == tmp_path / "island-0002"
    (tmp_path / "island-0002" / "step-00000020" / "stage-001.safetensors").write_bytes(b"x")
    assert furthest(tmp_path) == tmp_path, "what is not whole does not count"


def test_what_is_served_is_the_islands_own(tmp_path: Path) -> None:
    write(tmp_path, 0, 10)
    write(tmp_path, 1, 10)
    islands = IslandCheckpoints(CONFIG, tmp_path)
    islands.resume()
    assert islands.of(0).newest == at(0, 10) and islands.of(1).newest == at(1, 10)
    assert islands.of(0) is islands.first and islands.of(2).newest is None
