"""The hidden option that arms fault points: refused when it makes no sense, never shown, also in the environment."""

import sys

import pytest

from swarmtrain.cli.app import main


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[object, str]:
    """The exit code, and output and errors in one line."""
    monkeypatch.setattr(sys, "argv", ["swarmtrain", "peer", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return ended.value.code, " ".join((captured.out + captured.err).split())


@pytest.mark.parametrize("is_option", [True, False], ids=["option", "environment"])
def test_a_fault_that_is_none_ends_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_option: bool
) -> None:
    arguments = ["--join", "127.0.0.1:1"]
    if is_option:
        arguments += ["--fault", "forward.done:kill:1", "--fault", "forward.done:melt:1"]
    else:
        monkeypatch.setenv("SWARMTRAIN_FAULT", "forward.done:kill:1 forward.done:melt:1")
    code, text = run(capsys, monkeypatch, *arguments)
    assert code == 2 and "--fault 'forward.done:melt:1' names no fault" in text


def test_the_option_is_not_for_volunteers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text = run(capsys, monkeypatch, "--help")
    assert not code and "--fault" not in text and "--stage" in text
