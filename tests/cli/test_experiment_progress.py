"""`swarmtrain experiment run` tells of each run as it starts and ends, and when the rest will be done."""

import time
from collections.abc import Iterator

import pytest

from swarmtrain.cli.experiment import _Progress
from swarmtrain.experiments.execute import Ended, Started


def test_the_rest_is_shared_out_to_the_runs_under_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five runs of 100 s, two at a time: after the first two, three are left, of which two go on at once."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def happenings() -> Iterator[Started | Ended]:
        nonlocal now
        yield Started("a", "")
        yield Started("b", "corpus changed")
        assert capsys.readouterr().out == "a begins\nb begins again: corpus changed\n"
        now = 100.0
        yield Ended("a", None, "why")
        yield Started("c", "")
        yield Ended("b", None, "why")

    assert _Progress(5, 2).follow(happenings()) == 2
    told = [line for line in capsys.readouterr().out.splitlines() if "ETA" in line]
    assert [line.partition("ETA ")[2] for line in told] == ["200 s)", "150 s)"]
