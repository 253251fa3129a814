"""The checker finds nothing in an honest journal, and each kind of doctored one."""

import ast
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import swarmtrain.experiments.checker as checker_module
from swarmtrain.experiments.checker import check
from swarmtrain.experiments.faults import Fault
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, simulate
from tests.experiments.runs import corpus, small_config

Entries = list[dict[str, Any]]

FLEET = (
    VirtualPeer("edge-a", (0,)),
    VirtualPeer("edge-b", (0,)),
    VirtualPeer("one-a", (1,)),
    VirtualPeer("one-b", (1,)),
    VirtualPeer("two-a", (2,)),
    VirtualPeer("two-b", (2,)),
)


@functools.cache
def honest() -> tuple[str, ...]:
    config = small_config("train.microbatches=3", "train.sequence_length=8", steps=3)
    faults = (
        Fault("straggler", ("one-a",), 0.1, duration_seconds=0.5, amount=3),
        Fault("duplicate", ("one-b",), 0.1, amount=2),
    )
    run = simulate(config, Scenario(FLEET, faults=faults), corpus())
    assert len(run.commits) == 3
    return tuple(run.journal.lines)


def of(entries: Entries, kind: str) -> list[dict[str, Any]]:
    return [entry["event"] for entry in entries if entry["event"]["kind"] == kind]


def cut(entries: Entries, kind: str, index: int = 0) -> None:
    """Remove the index-th entry of `kind`."""
    places = [place for place, entry in enumerate(entries) if entry["event"]["kind"] == kind]
    del entries[places[index]]


def again(entries: Entries, kind: str) -> None:
    entries.append(next(entry for entry in entries if entry["event"]["kind"] == kind))


def own_twice(entries: Entries) -> None:
    for seal in of(entries, "seal_assigned"):
        seal["owners"][1][1].append(seal["owners"][0][1][0])


def own_never(entries: Entries) -> None:
    for seal in of(entries, "seal_assigned"):
        seal["owners"][0][1][0][1] = "00"


def own_beyond(entries: Entries) -> None:
    for seal in of(entries, "seal_assigned"):
        seal["owners"][0][1].append([9, "01"])


def own_void(entries: Entries) -> None:
    for seal in of(entries, "seal_assigned"):
        seal["void"] = [1]


def two_assignments(entries: Entries) -> None:
    seal = of(entries, "seal_assigned")[1]
    seal["owners"] = [[seal["owners"][0][0], seal["owners"][0][1]], *seal["owners"][1:][::-1]]


def unknown_seal(entries: Entries) -> None:
    of(entries, "state_applied")[2]["seal"] += 7


def miscounted(entries: Entries) -> None:
    of(entries, "sealed")[1]["owners"][0][1] -= 1


def other_parameters(entries: Entries) -> None:
    of(entries, "state_applied")[-1]["stages"][0][1] = "ab" * 32


def acknowledged_otherwise(entries: Entries) -> None:
    again(entries, "step_committed")
    entries[-1] = {**entries[-1], "event": {**entries[-1]["event"], "parameters_sha256": "00"}}


def diverged(entries: Entries) -> None:
    event = {"kind": "diverged", "step": 1, "stage": 1, "what": "parameters", "digests": []}
    entries.append({"peer": "x", "time_seconds": 9.0, "event": event})


def other_keys(entries: Entries) -> None:
    of(entries, "step_opened")[1]["microbatches"] = 4


def stopped_mutely(entries: Entries) -> None:
    event = {"kind": "run_stopped", "step": 1, "finished": False, "reason": " "}
    entries.append({"peer": "x", "time_seconds": 9.0, "event": event})


def falsely_missed(entries: Entries) -> None:
    for entry in entries:
        if entry["event"]["kind"] == "fault_injected" and entry["event"]["fault"] == "straggler":
            event = {"kind": "fault_missed", "number": 0, "fault": "straggler", "reason": "x"}
            entry |= {"event": event, "time_seconds": entries[-1]["time_seconds"]}


def unplanned(entries: Entries) -> None:
    event = {"kind": "fault_injected", "number": 9, "fault": "kill", "detail": ""}
    entries.append({"peer": "world", "time_seconds": 9.0, "event": event})


DOCTORED: list[tuple[str, str, Callable[[Entries], None]]] = [
    ("C1", "owned twice", own_twice),
    ("C1", "owned by nobody", own_never),
    ("C1", "not part of the step", own_beyond),
    ("C1", "not part of the step", own_void),
    ("C1", "two assignments", two_assignments),
    ("C1", "nobody was assigned", unknown_seal),
    ("C1", "needed", miscounted),
    ("C2", "different parameters", other_parameters),
    ("C2", "acknowledged twice", acknowledged_otherwise),
    ("C2", "differ", diverged),
    ("C6", "never was", lambda entries: cut(entries, "step_committed", 1)),
    ("C6", "numbers of keys", other_keys),
    ("C7", "counts twice", lambda entries: again(entries, "fault_injected")),
    ("C7", "nothing says", lambda entries: cut(entries, "fault_injected")),
    ("C7", "was due", falsely_missed),
    ("C7", "never planned", unplanned),
    ("STOP", "does not say why", stopped_mutely),
]


def test_an_honest_journal_has_no_violation():
    assert check(honest()) == []
    kinds = {json.loads(line)["event"]["kind"] for line in honest()}
    assert {"seal_assigned", "state_applied", "step_committed", "fault_injected"} <= kinds


@pytest.mark.parametrize(("rule", "words", "doctor"), DOCTORED)
def test_a_doctored_journal_is_caught(rule: str, words: str, doctor: Callable[[Entries], None]):
    entries: Entries = [json.loads(line) for line in honest()]
    doctor(entries)
    found = check(json.dumps(entry) for entry in entries)
    assert any(v.check == rule and words in v.what for v in found), found
    assert all(v.lines and 1 <= min(v.lines) <= max(v.lines) <= len(entries) for v in found)


def test_a_line_that_is_no_entry_is_a_violation():
    found = check([*honest(), "{}", "half a li"])
    assert [v.lines for v in found] == [(len(honest()) + 1,), (len(honest()) + 2,)]


def test_the_checker_shares_no_code_with_the_protocol():
    tree = ast.parse(Path(checker_module.__file__).read_text(encoding="utf-8"))
    modules = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    } | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in modules if name and name.startswith("swarmtrain")]
