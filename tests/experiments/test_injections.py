"""What trials of real processes rest on, without any process: keys in order, one clock, the yardstick, the log."""

import asyncio
import time
from pathlib import Path

import pytest

from swarmtrain.core.errors import StateError
from swarmtrain.core.types import PeerId
from swarmtrain.experiments.injections import FIRED, Seen, Trial, reference_sha256, write_keys
from swarmtrain.swarm.identity import Identity
from tests.experiments.runs import reference, small_config


def trial(folder: Path) -> Trial:
    return Trial(small_config(), folder, ("0:2", "1"))


def test_peer_ids_ascend_with_the_numbers_and_are_those_of_the_key_files(tmp_path: Path) -> None:
    ids = write_keys(tmp_path / "keys", 5)
    files = [tmp_path / "keys" / f"peer-{number}" for number in range(1, 6)]
    assert ids == sorted(ids) == [Identity.load_or_create(file).peer_id for file in files]
    assert len(set(ids)) == 5 and ids == write_keys(tmp_path / "again", 5)


def test_the_yardstick_stops_where_the_run_did() -> None:
    config = small_config(steps=3)
    assert reference_sha256(config, 3) == reference(config).parameters_sha256
    assert reference_sha256(config, 2) != reference_sha256(config, 3)


def test_loops_of_different_processes_share_the_monotonic_clock() -> None:
    async def now() -> float:
        return asyncio.get_running_loop().time()

    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    assert before <= asyncio.run(now()) <= time.clock_gettime(time.CLOCK_MONOTONIC)


def test_events_are_found_by_kind_and_order_of_arrival(tmp_path: Path) -> None:
    watched = trial(tmp_path)
    watched.ids = [PeerId("a"), PeerId("b")]

    async def arrive() -> None:
        for number, kind in enumerate(("lost", "sealed", "lost", "sealed")):
            event = {"kind": kind, "owners": [["a", 3], ["b" if number == 3 else "c", 1]]}
            watched._changed(None, {"event": event, "peer": "a", "time_seconds": number})  # type: ignore[arg-type]

    asyncio.run(arrive())
    assert [entry.index for entry in watched.seen("lost")] == [0, 2]
    assert [entry.index for entry in watched.seen("lost", 1)] == [2]
    assert watched.seen("other") == []
    sealed = watched.sealed_with(1, 0.0)
    assert sealed is not None and sealed.index == 3
    assert watched.sealed_with(1, 3.0) is None, "nothing is later"
    assert all(isinstance(entry, Seen) for entry in watched.entries)


def test_waiting_ends_with_the_value_or_with_what_was_waited_for(tmp_path: Path) -> None:
    watched = trial(tmp_path)

    async def wait() -> None:
        assert await watched.until(lambda: "there", 1.0, "it") == "there"
        with pytest.raises(StateError, match="what never comes"):
            await watched.until(lambda: None, 0.05, "what never comes")

    asyncio.run(wait())


def test_what_a_process_printed_before_it_died_is_its_proof(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "peer-2.log").write_text(f"stages 1\n{FIRED}forward.done:kill:2\n")
    assert trial(tmp_path).fired(1) == ["forward.done:kill:2"]


def test_only_the_first_process_of_a_peer_is_armed(tmp_path: Path) -> None:
    watched = Trial(small_config(), tmp_path, ("0:2",), {0: ("forward.done:kill:2",)})
    first, second = watched._arguments(0), watched._arguments(0)
    assert first[-2:] == ["--fault", "forward.done:kill:2"]
    assert second == first[:-2]
