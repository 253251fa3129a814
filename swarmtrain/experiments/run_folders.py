"""The folder of one planned run, read back: its curve, bars and summary, or why it is left out of every mean."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from swarmtrain.experiments.checker import JOURNAL
from swarmtrain.experiments.curves import Point, read_points
from swarmtrain.experiments.gantt import Bar, read_bars
from swarmtrain.experiments.trials import FAILURE, JOURNAL_SHA256, RECORD, SUMMARY
from swarmtrain.experiments.work import file_sha256

Fate = Literal["missing", "failed", "halted", "damaged", "another"]


@dataclass(frozen=True, slots=True)
class Result:
    """One run that did all its steps."""

    name: str
    labels: dict[str, str]
    points: list[Point]
    bars: list[Bar]
    summary: dict[str, Any]
    """Of summary.json, with what record.json has beside it."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A planned run that is in no mean. `halted`: its faults were allowed to end it before its last step."""

    name: str
    fate: Fate
    why: str


class _Damaged(Exception):
    """With the words for people; no paths, since a report is the same wherever its folder lies."""


def read_run(folder: Path, run: Mapping[str, Any], work_sha256: str | None) -> Result | LeftOut:
    """What FOLDER/runs/NAME holds of `run`; `work_sha256` is the planned one, None where the plan names none."""
    name, home = str(run["name"]), folder / "runs" / run["name"]
    if not (home / SUMMARY).exists():
        if (home / FAILURE).exists():
            return LeftOut(name, "failed", f"failed, as its {FAILURE} says")
        return LeftOut(name, "missing", "not finished")
    try:
        return _read(home, name, dict(run["labels"]), work_sha256)
    except _Damaged as error:
        return LeftOut(name, "damaged", str(error))


def _read(
    home: Path, name: str, labels: dict[str, str], work_sha256: str | None
) -> Result | LeftOut:
    record, summary = _table(home / RECORD), _table(home / SUMMARY)
    # Damage by hand apart, both have the same hash, and older summaries none.
    found = {said["work_sha256"] for said in (record, summary) if "work_sha256" in said}
    if work_sha256 is not None and found != {work_sha256}:
        return LeftOut(name, "another", "of another configuration or version than planned")
    if summary.get("outcome") == "halted":
        return LeftOut(name, "halted", f"halted, as its {SUMMARY} says")
    journal = home / JOURNAL
    if damage := journal_damage(home, record):
        raise _Damaged(damage)
    try:
        points, bars = read_points(journal), read_bars(journal)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _Damaged(f"its {JOURNAL} cannot be read") from error
    # A market's run has neither steps nor a journal.
    if "steps" in summary and not _is_whole(points, summary):
        raise _Damaged(f"its {JOURNAL} has not all of its {summary['steps']} steps")
    return Result(name, labels, points, bars, {**record, **summary})


def journal_damage(home: Path, record: Mapping[str, Any]) -> str:
    """What is wrong with the journal of the finished run in `home`, by its record; empty where nothing is known.

    A journal that was cut behind a line reads like a whole one.
    """
    said = record.get(JOURNAL_SHA256)
    try:
        is_same = said is None or file_sha256(home / JOURNAL) == said
    except OSError:
        is_same = False
    return "" if is_same else f"its {JOURNAL} is not what the run wrote"


def _is_whole(points: list[Point], summary: Mapping[str, Any]) -> bool:
    tokens = points[-1].tokens if points else 0
    return (len(points), tokens) == (summary["steps"], summary.get("tokens"))


def _table(path: Path) -> dict[str, Any]:
    """Raises _Damaged when `path` holds no JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _Damaged(f"its {path.name} cannot be read") from error
    if not isinstance(found, dict):
        raise _Damaged(f"its {path.name} holds no table")
    return found
