"""What a peer keeps for its volunteer: one owner, counts that survive, requests that only its user can make."""

from pathlib import Path

import pytest

from swarmtrain.core.errors import StateError
from swarmtrain.peer import state_folder
from swarmtrain.peer.state_folder import (
    StateFolder,
    Status,
    ask_for,
    is_owned,
    open_state_folder,
    read_status,
)

STATUS = Status(1, "p", "me", "serve", "serving", "", "", 3, "2026-11-21", 10)


def test_counts_survive_a_process_and_end_with_their_day(tmp_path: Path) -> None:
    first = StateFolder(tmp_path / "state")
    first.add_moved("2026-11-21", 100)
    first.save(STATUS)
    first.close()
    second = StateFolder(tmp_path / "state")
    second.add_moved("2026-11-21", 11)
    assert second.moved_bytes("2026-11-21") == 111
    assert second.moved_bytes("2026-11-22") == 0
    second.add_moved("2026-11-22", 5)
    assert second.moved_bytes("2026-11-22") == 5
    second.close()


def test_a_damaged_count_is_none(tmp_path: Path) -> None:
    (tmp_path / "transfer.json").write_text('{"day": "2026-11-21", "by')
    assert StateFolder(tmp_path).moved_bytes("2026-11-21") == 0


def test_one_peer_owns_a_folder_and_the_next_takes_another(tmp_path: Path) -> None:
    first = open_state_folder(None, tmp_path / "peer")
    with pytest.raises(StateError, match="another peer keeps its state"):
        StateFolder(first.path)
    second = open_state_folder(None, tmp_path / "peer")
    assert [first.path.name, second.path.name] == ["peer", "peer-2"]
    first.close()
    assert not is_owned(first.path) and is_owned(second.path)
    assert open_state_folder(None, tmp_path / "peer").path == first.path


def test_of_two_that_start_at_once_each_gets_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both see the first folder free before either has taken it."""
    monkeypatch.setattr(state_folder, "is_owned", lambda path: False)
    folders = [open_state_folder(None, tmp_path / "peer") for _ in range(3)]
    assert [folder.path.name for folder in folders] == ["peer", "peer-2", "peer-3"]


def test_requests_are_heard_and_end_with_the_peer(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    assert folder.request() == "serve"
    ask_for(folder.path, "pause")
    assert folder.request() == "pause"
    (folder.path / "request").write_text("rm -rf")
    assert folder.request() == "serve"
    ask_for(folder.path, "finish")
    folder.close()
    again = StateFolder(folder.path)
    assert again.request() == "serve", "a new peer does not obey what an old one was told"
    again.close()


def test_only_the_owner_may_look_or_ask(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    folder.save(STATUS)
    ask_for(folder.path, "pause")
    assert read_status(folder.path) == STATUS
    assert folder.path.stat().st_mode & 0o077 == 0
    for name in ("status.json", "request"):
        assert (folder.path / name).stat().st_mode & 0o077 == 0
    folder.close()
    assert read_status(folder.path) is None


def test_a_folder_that_cannot_be_had_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be used"):
        StateFolder(tmp_path / "file" / "state")
    with pytest.raises(StateError, match="cannot be used"):
        ask_for(tmp_path / "nowhere", "pause")
