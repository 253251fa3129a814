"""The checker finds nothing in an honest journal, and each kind of doctored one."""

import ast
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swarmtrain.core.events import Event, PeerJoined, StateApplied
from swarmtrain.core.types import PeerId
from swarmtrain.experiments import checker, contents, evidence
from swarmtrain.experiments.checker import check, check_folder
from swarmtrain.experiments.faults import Fault
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, simulate
from swarmtrain.monitor.journal import journal_line
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


@pytest.mark.parametrize("is_before", [True, False])
def test_a_fault_whose_machine_had_left_before_need_not_happen(is_before: bool) -> None:
    entries: Entries = [json.loads(line) for line in honest()]
    falsely_missed(entries)
    (plan,) = (
        entry
        for entry in entries
        if (entry["event"]["kind"], entry["event"].get("number")) == ("fault_planned", 0)
    )
    (name,) = plan["event"]["peers"]
    peer = next(event["peer"] for event in of(entries, "peer_joined") if event["name"] == name)
    due_seconds = plan["time_seconds"] + float(plan["event"]["when"][:-1])
    event = {"kind": "peer_left", "peer": peer, "reason": "its owner wanted it"}
    at_seconds = due_seconds + (-0.01 if is_before else 0.01)
    entries.append({"peer": peer, "time_seconds": at_seconds, "event": event})
    found = [str(violation) for violation in check(json.dumps(entry) for entry in entries)]
    assert any("was due" in what for what in found) is not is_before


def test_the_checker_shares_no_code_with_the_protocol():
    own = {module.__name__ for module in (checker, contents, evidence)}
    for module in (checker, contents, evidence):
        tree = ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))
        names = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        } | {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not [n for n in names if n.startswith("swarmtrain") and n not in own]


# ---- what the sums held --------------------------------------------------------------------------------------------


def add_again(entries: Entries) -> None:
    """The dedupe of one peer failed: nothing else in the journal shows it."""
    place = next(
        place
        for place, entry in enumerate(entries)
        if entry["event"]["kind"] == "sum_changed" and entry["event"]["change"] == "add"
    )
    entries.insert(place, entries[place])


def sealed_too_early(entries: Entries) -> None:
    """A contribution came after the snapshot."""
    places = [
        place for place, entry in enumerate(entries) if entry["event"]["kind"] == "sum_changed"
    ]
    peer = entries[places[0]]["peer"]
    seal = next(
        place
        for place, entry in enumerate(entries)
        if entry["event"]["kind"] == "sum_sealed" and entry["peer"] == peer
    )
    entries.insert(seal + 1, entries.pop(places[0]))


def add_to_the_next_step(entries: Entries) -> None:
    entry = next(entry for entry in entries if entry["event"]["kind"] == "sum_changed")
    applied = next(
        place
        for place, other in enumerate(entries)
        if other["event"]["kind"] == "state_applied" and other["peer"] == entry["peer"]
    )
    entries.insert(applied + 1, entry)


@pytest.mark.parametrize(
    ("words", "doctor"),
    [
        ("2 times", add_again),
        ("0 times", lambda entries: cut(entries, "sum_changed")),
        ("0 times", sealed_too_early),
        ("changed the sum of step 1", add_to_the_next_step),
        ("gave no sum", lambda entries: cut(entries, "sum_sealed")),
    ],
)
def test_a_sum_that_is_not_what_was_assigned_is_caught(
    words: str, doctor: Callable[[Entries], None]
):
    entries: Entries = [json.loads(line) for line in honest()]
    doctor(entries)
    found = check(json.dumps(entry) for entry in entries)
    assert found and all(v.check == "C1" for v in found), found
    assert any(words in v.what for v in found), found


def test_an_item_that_was_taken_back_or_lost_with_the_state_does_not_count():
    run = Written()
    run.write("a", "sum_changed", step=0, position=1, key=0, change="add")
    run.write("a", "sum_changed", step=0, position=1, key=0, change="retract")
    run.write("a", "sum_changed", step=0, position=1, key=0, change="add")
    run.write("a", "state_applied", step=-1, term=0, seal=0, stages=[[1, "00"]])
    run.step(0)
    assert check(run.lines) == []
    run.write("a", "sum_changed", step=1, position=1, key=0, change="add")
    run.step(1)
    assert [v.check for v in check(run.lines)] == ["C1"]


# ---- restores ------------------------------------------------------------------------------------------------------


class Written:
    """A journal written by hand: one key, one middle stage; peer "e" has the edge and "a" the stage."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.term = 1

    def write(self, peer: str, kind: str, **fields: Any) -> None:
        entry = {"peer": peer, "time_seconds": 0.0, "event": {"kind": kind, **fields}}
        self.lines.append(json.dumps(entry) + "\n")

    def step(self, step: int, digest: str = "aa") -> None:
        """Everybody counts, seals and applies; the edge acknowledges."""
        owners = [["a", [[1, "01"]]], ["e", [[0, "01"], [2, "01"]]]]
        tag = {"step": step, "term": self.term, "seal": 1}
        for peer, positions, stage in (("e", (0, 2), 0), ("a", (1,), 1)):
            for position in positions:
                self.write(peer, "sum_changed", step=step, position=position, key=0, change="add")
            facts = {"microbatches": 1, "sequences": [[1]], "owners": owners, "void": []}
            self.write(peer, "seal_assigned", **tag, **facts)
            self.write(peer, "sum_sealed", **tag, stage=stage)
            self.write(peer, "state_applied", **tag, stages=[[stage, digest]])
        self.write("e", "step_committed", step=step, parameters_sha256=digest, void=[], tokens=1)

    def restore(self, step: int, flagged: bool, digest: str = "aa") -> None:
        self.term += 1 << 44
        for peer, stage in (("e", 0), ("a", 1)):
            stages = [[stage, digest]]
            self.write(peer, "state_applied", step=step - 1, term=0, seal=0, stages=stages)
        self.write("e", "restored", step=step, flagged=flagged)


@pytest.mark.parametrize("is_told", [True, False])
def test_a_run_started_again_from_disk_counts_its_terms_anew(is_told: bool, tmp_path: Path):
    """One coordinator's journal: peers' applied steps of both sessions, and the note between them."""
    run = Written()
    for term in (7, 5):
        run.term = term
        for step in (0, 1):
            tag = {"step": step, "term": term, "seal": 1}
            run.write("a", "state_applied", **tag, stages=[[1, "aa"]])
        if is_told and term == 7:
            run.write("coordinator", "noted", what="resumed", detail="from the beginning")
    (tmp_path / "journal.jsonl").write_text("".join(run.lines))
    expected = [] if is_told else ["C2", "C2"]
    assert [violation.check for violation in check_folder(tmp_path)] == expected


@pytest.mark.parametrize(
    ("flagged", "digest", "first", "checks"),
    [
        (False, "aa", 1, []),
        (True, "aa", 1, []),
        (True, "bb", 1, []),
        (False, "bb", 1, ["C2"]),
        (False, "aa", 2, ["C1", "C6"]),
    ],
    ids=["exact", "flagged-equal", "flagged-other", "other", "gap"],
)
def test_steps_after_a_restore_are_done_again(
    flagged: bool, digest: str, first: int, checks: list[str]
):
    run = Written()
    for step in range(3):
        run.step(step)
    run.restore(1, flagged)
    for step in range(first, 4):
        run.step(step, digest if step < 3 else "cc")
    found = check(run.lines)
    assert sorted({v.check for v in found}) == checks, found


@pytest.mark.parametrize("redone, other", [(True, False), (False, False), (True, True)])
def test_a_step_that_is_redone_among_rounds_may_close_with_another_result(
    redone: bool, other: bool
):
    """From where the island was restored to, and alike at all replicas."""
    run = Written()
    for step in range(3):
        run.step(step)
    merged = {"stage": 1, "fragment": 0, "round": 1, "how": "merge", "outer": "00"}
    run.write("a", "round_merged", **merged)
    run.restore(1, False, "aa" if redone else "bb")
    for step in range(1, 4):
        run.step(step, "bb")
    if other:
        stages = [[1, "cc"]]
        run.write("b", "state_applied", step=2, term=run.term, seal=1, stages=stages)
    found = {v.what for v in check(run.lines) if v.check == "C2"}
    assert any("step 0 stage 1" in what for what in found) != redone, found
    assert any("step 2 stage 1" in what for what in found) == other, found


def test_two_seals_of_one_step_are_caught_although_their_sums_are_equal():
    run = Written()
    run.step(0)
    run.term = 2
    run.step(0)
    assert any("from two seals" in v.what for v in check(run.lines))


# ---- the journals of many peers ------------------------------------------------------------------------------------


def split_by_peer(folder: Path, lines: list[str]) -> None:
    """Each peer's entries in a file of its own, with a clock of its own."""
    for number, line in enumerate(lines):
        entry = json.loads(line)
        entry["time_seconds"] = 1000.0 - number
        (folder / entry["peer"]).mkdir(exist_ok=True)
        with open(folder / entry["peer"] / "journal.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def test_journals_of_a_folder_are_read_together(tmp_path: Path):
    run = Written()
    for step in range(3):
        run.step(step)
    run.restore(1, False)
    for step in range(1, 4):
        run.step(step)
    split_by_peer(tmp_path, run.lines)
    with open(tmp_path / "a" / "journal.jsonl", "a", encoding="utf-8") as torn:
        torn.write('{"event":{"ki')
    assert check_folder(tmp_path) == []
    again = json.loads(run.lines[0])
    with open(tmp_path / "e" / "journal.jsonl", "r+", encoding="utf-8") as file:
        rest = file.read()
        file.seek(0)
        file.write(json.dumps(again) + "\n" + rest)
    [found] = check_folder(tmp_path)
    assert found.check == "C1" and "2 times" in found.what
    assert found.files == ("a/journal.jsonl", "e/journal.jsonl")
    assert "e/journal.jsonl:5" in str(found)


@pytest.mark.parametrize(("digest", "checks"), [("theirs", []), ("another", ["C2"])])
def test_a_peer_is_judged_with_each_island_that_it_was_in_while_it_was_there(
    digest: str, checks: list[str]
) -> None:
    def joined(peer: str, island: int) -> tuple[str, Event]:
        return peer, PeerJoined(PeerId(peer), peer, "", (), island)

    def at_step(peer: str, digest: str) -> tuple[str, Event]:
        return peer, StateApplied(0, 0, 0, ((0, digest),))

    entries = [
        *(joined("a", 0), joined("b", 1), joined("c", 1)),
        *(at_step("a", "theirs"), at_step("b", "ours"), at_step("c", "ours")),
        *(joined("b", 0), at_step("b", digest)),
    ]
    lines = [journal_line(event, 0.0, peer) for peer, event in entries]
    assert [violation.check for violation in check(lines)] == checks


def test_a_peer_without_its_journal_is_named(tmp_path: Path):
    run = Written()
    run.step(0)
    split_by_peer(tmp_path, run.lines)
    (tmp_path / "a" / "journal.jsonl").unlink()
    found = check_folder(tmp_path)
    assert [v.check for v in found] == ["JOURNAL"] and "owner a" in found[0].what


def test_a_folder_without_a_journal_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no journal"):
        check_folder(tmp_path)
