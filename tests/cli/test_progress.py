"""What is shown of long work: how far it is and how long it takes, also where a run goes on in the middle."""

import time

import pytest

from swarmtrain.cli.progress import Count, Progress
from swarmtrain.core.units import format_bytes


class Clock:
    """The time that passes is the time that a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_seconds = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_short_work_is_silent_and_long_work_says_how_long(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    count = Count("batches")
    for done in range(1, 9):
        clock.now_seconds += 0.5
        count(done, 8)
    shown = capsys.readouterr().err.splitlines()
    assert shown == ["  4 of 8 batches, ETA 2 s", "  8 of 8 batches, ETA 0 s"]
    count = Count("", format_bytes)
    clock.now_seconds += 3.0
    count(1 << 20, 4 << 20)
    assert "1MiB of 4MiB, ETA 9 s" in capsys.readouterr().err


def test_a_run_that_goes_on_takes_its_pace_from_now_on(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sixty of a hundred steps were made by an earlier process."""
    with Progress(100) as progress:
        for done in range(61, 66):
            clock.now_seconds += 2.0
            progress.step(done, 5.0, 100.0)
    last = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step")][-1]
    eta_seconds = float(last.rpartition("ETA ")[2].removesuffix(" s"))
    assert eta_seconds == 2.0 * (100 - int(last.split()[1].partition("/")[0]))
