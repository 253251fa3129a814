"""The independent checker: reads a journal's lines and nothing else, and says where a run broke its promises.

It shares no code with the step protocol: what it knows of steps, seals and digests it takes from the lines alone.
C1 each key counts once at every position, C2 replicas of a stage have equal digests, C6 the samples used are an
exact prefix of the data order, C7 the faults that happened are those that were planned (reliability_security.md
section 5). STOP: a run that ended before its last step says why.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise: which check, what is wrong, and the numbers of the lines that show it, from 1."""

    check: str
    what: str
    lines: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.check}: {self.what} (lines {', '.join(map(str, self.lines))})"


@dataclass(frozen=True, slots=True)
class Line:
    """One journal entry: its number, who recorded it, when, and the event's fields."""

    number: int
    peer: str
    seconds: float
    event: Mapping[str, Any]


@dataclass
class _Journal:
    """The lines by kind of event."""

    by_kind: dict[str, list[Line]] = field(default_factory=dict)

    def of(self, kind: str) -> list[Line]:
        return self.by_kind.get(kind, [])


def check(lines: Iterable[str]) -> list[Violation]:
    """Every violation that the journal shows, by check and line."""
    journal, found = _read(lines)
    for rule in (_ownership, _seal_counts, _digests, _prefix, _faults, _stops):
        found += rule(journal)
    return sorted(found, key=lambda violation: (violation.check, violation.lines))


def _read(lines: Iterable[str]) -> tuple[_Journal, list[Violation]]:
    journal, found = _Journal(), list[Violation]()
    for number, text in enumerate(lines, start=1):
        try:
            entry = json.loads(text)
            line = Line(number, entry["peer"], float(entry["time_seconds"]), entry["event"])
            journal.by_kind.setdefault(line.event["kind"], []).append(line)
        except (ValueError, KeyError, TypeError) as error:
            found.append(Violation("JOURNAL", f"no journal entry: {error!r}", (number,)))
    return journal, found


# ---- C1: ownership ----------------------------------------------------------------------------------------------


def _ownership(journal: _Journal) -> list[Violation]:
    """Every assignment that a peer accepted: one owner per position of each key that counts, none of void keys."""
    found: list[Violation] = []
    first: dict[tuple[int, int, int], Line] = {}
    for line in journal.of("seal_assigned"):
        event = line.event
        tag = (event["step"], event["term"], event["seal"])
        known = first.setdefault(tag, line)
        if known is line:
            found += _exactly_once(line)
        elif (known.event["owners"], known.event["void"]) != (event["owners"], event["void"]):
            what = f"seal {tag} has two assignments"
            found.append(Violation("C1", what, (known.number, line.number)))
    for line in journal.of("state_applied"):
        tag = (line.event["step"], line.event["term"], line.event["seal"])
        if first and tag not in first:
            what = f"step {tag[0]} was applied from seal {tag}, which nobody was assigned"
            found.append(Violation("C1", what, (line.number,)))
    return found


def _exactly_once(line: Line) -> list[Violation]:
    event = line.event
    sequences, keys, void = event["sequences"], event["microbatches"], set(event["void"])
    owners: dict[tuple[int, int], int] = {}
    for _, positions in event["owners"]:
        for position, bitmap in positions:
            for key in _keys(bitmap):
                owners[position, key] = owners.get((position, key), 0) + 1
    needed = {
        (position, key)
        for key in range(keys)
        if key not in void
        for position in range(len(sequences[key if len(sequences) > 1 else 0]) + 2)
    }
    where = f"step {event['step']} seal {event['seal']}"
    found = []
    for name, items in (
        ("owned twice", [item for item, count in owners.items() if count > 1]),
        ("owned by nobody", needed - set(owners)),
        ("owned but not part of the step", set(owners) - needed),
    ):
        if items:
            what = f"{where}: (position, key) {sorted(items)[:4]} {name}"
            found.append(Violation("C1", what, (line.number,)))
    return found


def _keys(bitmap: str) -> list[int]:
    bits = int.from_bytes(bytes.fromhex(bitmap), "little")
    return [key for key in range(bits.bit_length()) if bits >> key & 1]


def _seal_counts(journal: _Journal) -> list[Violation]:
    """Conductors' own counts: the owners' shares of a seal add up to keys x positions."""
    opened = {line.event["step"]: line.event["microbatches"] for line in journal.of("step_opened")}
    stages = [stage for line in journal.of("placed") for stage in line.event["stages"]]
    if not stages or len({len(seq) for seq in _sequences(journal)}) > 1:
        return []
    lengths = [len(sequence) for sequence in _sequences(journal)] or [max(stages)]
    found = []
    for line in journal.of("sealed"):
        event = line.event
        if event["step"] not in opened:
            continue
        keys = opened[event["step"]] - len(event["void"])
        owned, needed = sum(count for _, count in event["owners"]), keys * (lengths[0] + 2)
        if owned != needed:
            what = (
                f"step {event['step']} seal {event['seal']}: {owned} items owned, {needed} needed"
            )
            found.append(Violation("C1", what, (line.number,)))
    return found


def _sequences(journal: _Journal) -> list[list[int]]:
    return [seq for line in journal.of("seal_assigned") for seq in line.event["sequences"]]


# ---- C2: digests ------------------------------------------------------------------------------------------------


def _digests(journal: _Journal) -> list[Violation]:
    """Whoever applied a step has the same parameters, and the same as what was acknowledged."""
    found: list[Violation] = []
    first: dict[tuple[int, int], tuple[str, int]] = {}
    for line in journal.of("state_applied"):
        step = line.event["step"]
        for stage, digest in line.event["stages"]:
            known, at = first.setdefault((step, stage), (digest, line.number))
            if known != digest:
                what = f"step {step} stage {stage}: replicas have different parameters"
                found.append(Violation("C2", what, (at, line.number)))
    committed: dict[int, Line] = {}
    for line in journal.of("step_committed"):
        known_line = committed.setdefault(line.event["step"], line)
        for name in ("parameters_sha256", "void", "tokens"):
            if known_line.event[name] != line.event[name]:
                what = f"step {line.event['step']} was acknowledged twice, with another {name}"
                found.append(Violation("C2", what, (known_line.number, line.number)))
    for line in journal.of("diverged"):
        what = f"step {line.event['step']} stage {line.event['stage']}: {line.event['what']} differ"
        found.append(Violation("C2", what, (line.number,)))
    return found


# ---- C6: samples ------------------------------------------------------------------------------------------------


def _prefix(journal: _Journal) -> list[Violation]:
    """Steps are acknowledged 0, 1, 2, ... and each uses keys 0..K-1, so samples are a prefix of the data order."""
    found: list[Violation] = []
    expected = 0
    for line in journal.of("step_committed"):
        step = line.event["step"]
        if step > expected:
            what = f"step {step} was acknowledged, but step {expected} before it never was"
            found.append(Violation("C6", what, (line.number,)))
        expected = max(expected, step + 1)
    keys: dict[int, Line] = {}
    for line in [*journal.of("step_opened"), *journal.of("seal_assigned")]:
        known = keys.setdefault(line.event["step"], line)
        if known.event["microbatches"] != line.event["microbatches"]:
            what = f"step {line.event['step']} was opened with different numbers of keys"
            found.append(Violation("C6", what, (known.number, line.number)))
    return found


# ---- C7: faults -------------------------------------------------------------------------------------------------


def _faults(journal: _Journal) -> list[Violation]:
    """Each planned fault happened once, or was forestalled for a reason that the journal bears out."""
    found: list[Violation] = []
    planned = {line.event["number"]: line for line in journal.of("fault_planned")}
    seen: dict[int, Line] = {}
    for line in [*journal.of("fault_injected"), *journal.of("fault_missed")]:
        number = line.event["number"]
        plan = planned.get(number)
        if plan is None or plan.event["fault"] != line.event["fault"]:
            what = f"fault {number} ({line.event['fault']}) was never planned"
            found.append(Violation("C7", what, (line.number,)))
        elif number in seen:
            what = f"fault {number} ({line.event['fault']}) counts twice"
            found.append(Violation("C7", what, (seen[number].number, line.number)))
        elif line.event["kind"] == "fault_missed" and _was_due(journal, plan, line):
            what = f"fault {number} ({line.event['fault']}) was due and did not happen"
            found.append(Violation("C7", what, (plan.number, line.number)))
        seen.setdefault(number, line)
    for number, plan in planned.items():
        if number not in seen:
            what = f"nothing says what became of fault {number} ({plan.event['fault']})"
            found.append(Violation("C7", what, (plan.number,)))
    return found


def _was_due(journal: _Journal, plan: Line, missed: Line) -> bool:
    """Whether the time of a fault passed before the run ended; its peers may have died before, which excuses it."""
    when = plan.event["when"]
    killed = {
        name
        for line in journal.of("fault_injected")
        if line.event["fault"] == "kill"
        for entry in journal.of("fault_planned")
        if entry.event["number"] == line.event["number"]
        for name in entry.event["peers"]
    }
    of_messages = plan.event["fault"] in ("drop", "duplicate", "reorder", "late", "corrupt")
    if not when.endswith("s") or "#" in when or of_messages or killed & set(plan.event["peers"]):
        return False
    return plan.seconds + float(when[:-1]) < missed.seconds


# ---- the end ----------------------------------------------------------------------------------------------------


def _stops(journal: _Journal) -> list[Violation]:
    return [
        Violation("STOP", "the run stopped and does not say why", (line.number,))
        for line in journal.of("run_stopped")
        if not line.event["finished"] and not line.event["reason"].strip()
    ]
