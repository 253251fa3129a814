"""A volunteer's terms as written on the command line, and what is said to a running peer from another terminal."""

import sys
import threading
from pathlib import Path

import pytest

from swarmtrain.cli.app import main
from swarmtrain.cli.terms import Said, parse_caps, parse_hours, parse_terms
from swarmtrain.core.errors import ConfigError
from swarmtrain.peer.state_folder import StateFolder, Status
from swarmtrain.plan.terms import Hours, Request, Terms

NOTHING = Said((None, None), None, None, (False, "3m"), None, False, 10, None)


def test_nothing_said_is_nothing_limited() -> None:
    assert parse_terms(NOTHING) == Terms()
    caps = parse_caps(NOTHING)
    assert caps.upload is None and caps.download is None


def test_quantities_come_with_their_units() -> None:
    said = Said(
        ("10Mbit", "2MB/s"), "20GB", "5GiB", (True, "90s"), "22:00-07:00", True, 10, None
    )  # fmt: skip
    assert parse_terms(said) == Terms(
        daily_transfer_bytes=20 * 10**9,
        disk_bytes=5 << 30,
        hours=Hours(22 * 3600.0, 7 * 3600.0),
        only_when_idle=True,
        idle_seconds=90.0,
        not_on_battery=True,
    )
    caps = parse_caps(said)
    assert caps.upload is not None and caps.upload.bytes_per_second == 1.25e6
    assert caps.download is not None and caps.download.bytes_per_second == 2e6


@pytest.mark.parametrize("text", ["22-7", "24:00-07:00", "22:60-07:00", "07:00-07:00", "night"])
def test_hours_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="names no part of a day"):
        parse_hours(text)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--upload-limit", "10"), "is not a quantity"),
        (("--upload-limit", "10Kbit"), "too little to take part"),
        (("--hours", "night"), "names no part of a day"),
        (("--daily-transfer", "much"), "is not a quantity"),
    ],
)
def test_wrong_terms_end_before_anything_is_joined(
    arguments: tuple[str, str],
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("SWARMTRAIN_NICE", "0")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    line = ["swarmtrain", "peer", "--join", "127.0.0.1:1", *arguments]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert what in capsys.readouterr().err


@pytest.mark.parametrize("command", ["pause", "resume", "leave", "status"])
def test_where_no_peer_runs_that_is_said_with_what_to_do(
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert told(command, monkeypatch, tmp_path) == 1
    shown = capsys.readouterr().err
    assert "no peer of yours runs here" in shown and "swarmtrain peer" in shown


@pytest.mark.parametrize(
    ("command", "request_"), [("pause", "pause"), ("resume", "serve"), ("leave", "finish")]
)
def test_what_is_said_in_another_terminal_reaches_the_peer(
    command: str,
    request_: Request,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    folder = StateFolder(tmp_path / "swarmtrain" / "peer")
    ended = threading.Event()

    def serve() -> None:
        while not ended.wait(0.01):
            folder.save(Status(7, "ab", "mine", folder.request(), "at work", "", "", 3, "", 5000))

    peer = threading.Thread(target=serve)
    peer.start()
    try:
        assert told(command, monkeypatch, tmp_path) == 0
        assert folder.request() == request_
        assert told("status", monkeypatch, tmp_path) == 0
    finally:
        ended.set()
        peer.join()
        folder.close()
    assert capsys.readouterr().out.count("mine (process 7): at work") == 2


def test_a_peer_that_is_gone_at_once_has_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As one that is paused: its folder is given up before anybody could read that it saw the request."""
    folder = StateFolder(tmp_path / "swarmtrain" / "peer")
    folder.save(Status(7, "ab", "mine", "pause", "paused", "asked to", "when asked", 3, "", 5000))

    def leave() -> None:
        while folder.request() != "finish":
            pass
        folder.close()

    peer = threading.Thread(target=leave)
    peer.start()
    assert told("leave", monkeypatch, tmp_path) == 0
    peer.join()
    assert "mine (process 7): left" in capsys.readouterr().out


def told(command: str, monkeypatch: pytest.MonkeyPatch, home: Path) -> int:
    """The exit code of `swarmtrain COMMAND` where peers keep their folders below `home`."""
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    monkeypatch.setattr(sys, "argv", ["swarmtrain", command])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0
