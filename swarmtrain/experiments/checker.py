"""The independent checker: reads journals' lines and nothing else, and says where a run broke its promises.

It shares no code with the step protocol: what it knows of steps, seals and digests it takes from the lines alone.
C1 each key counts once at every position, C2 replicas of a stage have equal digests, C6 the samples used are an
exact prefix of the data order, C7 the faults that happened are those that were planned (reliability_security.md
section 5). STOP: a run that ended before its last step says why. After Restored(step=s), steps from s on may be
committed again: with equal digests, unless the event is flagged as the start of another model, or the island has outer
rounds: its group went on meanwhile, so a step that is redone may close with a result which it did not close with at
first. Each island of a run keeps these promises by itself; ROUNDS: no two peers learn another outcome of an outer round
than the others.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from swarmtrain.experiments.contents import counted_once
from swarmtrain.experiments.evidence import Evidence, Line, Violation, keys_of, tag_of

JOURNAL = "journal.jsonl"

_EPOCH_BITS = 44
"""Terms carry the epoch above these bits: a restore starts one, and what was decided before it is another history."""


def check(lines: Iterable[str]) -> list[Violation]:
    """Every violation that one journal shows, by check and line."""
    evidence = Evidence()
    return _judge(evidence, evidence.read(lines))


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found, over how many acknowledged steps and the sums of how many peers."""

    violations: list[Violation]
    steps: int
    peers: int


def check_folder(folder: Path) -> list[Violation]:
    """Every violation that the journals below `folder` show together. Raises FileNotFoundError when there is none."""
    return examine_folder(folder).violations


def examine_folder(folder: Path) -> Examined:
    """Check the journals below `folder` together: those of all peers of one run.

    The peers' clocks differ, so nothing is compared by time but within one file. A coordinator's journal alone has
    no sums. Raises FileNotFoundError when there is no journal.
    """
    evidence, found = read_folder(folder)
    return Examined(
        violations=_judge(evidence, found),
        steps=len({line.event["step"] for line in evidence.of("step_committed")}),
        peers=len({line.peer for line in evidence.of("sum_changed")}),
    )


def read_folder(folder: Path) -> tuple[Evidence, list[Violation]]:
    """What the journals below `folder` say, and which lines make no sense. Raises as `examine_folder`."""
    evidence, found = Evidence(), list[Violation]()
    paths = sorted(folder.rglob(JOURNAL))
    if not paths:
        raise FileNotFoundError(f"there is no {JOURNAL} in {folder}")
    for path in paths:
        with open(path, encoding="utf-8", errors="replace") as lines:
            found += evidence.read(lines, str(path.relative_to(folder)))
    return evidence, found


def _judge(evidence: Evidence, found: list[Violation]) -> list[Violation]:
    for island in _islands(evidence):
        for rule in (
            _ownership,
            counted_once,
            _seal_counts,
            _digests,
            _one_seal,
            _acknowledged,
            _prefix,
            _keys_fixed,
        ):
            found += rule(island)
    for rule in (_rounds, _faults, _stops):
        found += rule(evidence)
    return sorted(found, key=lambda violation: (violation.check, violation.files, violation.lines))


def _islands(evidence: Evidence) -> list[Evidence]:
    """What peers recorded while they were in each island, and what no peer did: the world, a coordinator; one island
    has everything."""
    joined: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for line in evidence.of("peer_joined"):
        entry = (line.number, line.event.get("island", 0))
        joined.setdefault(line.peer, {}).setdefault(line.file, []).append(entry)
    islands = sorted(
        {i for files in joined.values() for spells in files.values() for _, i in spells}
    )
    if len(islands) <= 1:
        return [evidence]

    def island_of(line: Line) -> int | None:
        files = joined.get(line.peer)
        if files is None:
            return None
        # Who gave an island up was in it until it joined the next one, as far as the same file says.
        spells = files.get(line.file) or next(reversed(files.values()))[-1:]
        return next((i for number, i in reversed(spells) if number <= line.number), spells[0][1])

    return [evidence.where(lambda at, i=i: island_of(at) in (None, i)) for i in islands]  # type: ignore[misc]


def _rounds(evidence: Evidence) -> list[Violation]:
    """An outer round of a fragment has one outcome, and one outer state behind it, whoever tells of it."""
    found: list[Violation] = []
    for kind, names in (("round_chosen", ("islands", "result")), ("round_merged", ("outer",))):
        known: dict[tuple[int, int, int], Line] = {}
        for line in evidence.of(kind):
            event = line.event
            first = known.setdefault((event["stage"], event["fragment"], event["round"]), line)
            if any(first.event[name] != event[name] for name in names):
                what = f"round {event['round']} of stage {event['stage']} has two outcomes ({kind})"
                found.append(evidence.violation("ROUNDS", what, first, line))
    return found


# ---- C1: ownership ----------------------------------------------------------------------------------------------


def _ownership(evidence: Evidence) -> list[Violation]:
    """Every assignment that a peer accepted: one owner per position of each key that counts, none of void keys."""
    found: list[Violation] = []
    first: dict[tuple[int, int, int], Line] = {}
    for line in evidence.of("seal_assigned"):
        event = line.event
        tag = tag_of(event)
        known = first.setdefault(tag, line)
        if known is line:
            found += _exactly_once(evidence, line)
        elif (known.event["owners"], known.event["void"]) != (event["owners"], event["void"]):
            what = f"seal {tag} has two assignments"
            found.append(evidence.violation("C1", what, known, line))
    for line in _decided(evidence):
        tag = tag_of(line.event)
        if first and tag not in first:
            what = f"step {tag[0]} was applied from seal {tag}, which nobody was assigned"
            found.append(evidence.violation("C1", what, line))
    return found


def _decided(evidence: Evidence) -> list[Line]:
    """Where peers applied a decision; term 0 is state that came from elsewhere."""
    return [line for line in evidence.of("state_applied") if line.event["term"]]


def _exactly_once(evidence: Evidence, line: Line) -> list[Violation]:
    event = line.event
    sequences, keys, void = event["sequences"], event["microbatches"], set(event["void"])
    owners: dict[tuple[int, int], int] = {}
    for _, positions in event["owners"]:
        for position, bitmap in positions:
            for key in keys_of(bitmap):
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
            found.append(evidence.violation("C1", what, line))
    return found


def _seal_counts(evidence: Evidence) -> list[Violation]:
    """Conductors' own counts: the owners' shares of a seal add up to keys x positions."""
    opened = {line.event["step"]: line.event["microbatches"] for line in evidence.of("step_opened")}
    stages = [stage for line in evidence.of("placed") for stage in line.event["stages"]]
    if not stages or len({len(seq) for seq in _sequences(evidence)}) > 1:
        return []
    lengths = [len(sequence) for sequence in _sequences(evidence)] or [max(stages)]
    found = []
    for line in evidence.of("sealed"):
        event = line.event
        if event["step"] not in opened:
            continue
        keys = opened[event["step"]] - len(event["void"])
        owned, needed = sum(count for _, count in event["owners"]), keys * (lengths[0] + 2)
        if owned != needed:
            where = f"step {event['step']} seal {event['seal']}"
            what = f"{where}: {owned} items owned, {needed} needed"
            found.append(evidence.violation("C1", what, line))
    return found


def _sequences(evidence: Evidence) -> list[list[int]]:
    return [seq for line in evidence.of("seal_assigned") for seq in line.event["sequences"]]


# ---- C2: digests ------------------------------------------------------------------------------------------------


def _digests(evidence: Evidence) -> list[Violation]:
    """Whoever has the state after a step has the same parameters, in each epoch of its own from where they may differ:
    all of the run where a flagged restore starts another model, the steps redone where a restore is among rounds."""
    found: list[Violation] = []
    is_flagged = any(line.event["flagged"] for line in evidence.of("restored"))
    apart_from = -math.inf if is_flagged else min(_apart(evidence), default=math.inf)
    first: dict[tuple[int, int, int], tuple[str, Line]] = {}
    for line in evidence.of("state_applied"):
        event = line.event
        is_apart = event["step"] >= apart_from
        if is_apart and not event["term"]:
            continue  # nothing says to which of the epochs it belongs
        epoch = event["term"] >> _EPOCH_BITS if is_apart else 0
        for stage, digest in event["stages"]:
            known, at = first.setdefault((epoch, event["step"], stage), (digest, line))
            if known != digest:
                what = f"step {event['step']} stage {stage}: replicas have different parameters"
                found.append(evidence.violation("C2", what, at, line))
    for line in evidence.of("diverged"):
        what = f"step {line.event['step']} stage {line.event['stage']}: {line.event['what']} differ"
        found.append(evidence.violation("C2", what, line))
    return found


def _apart(evidence: Evidence) -> list[int]:
    """The steps from which restores may lead to other parameters than there were."""
    has_rounds = bool(evidence.of("round_merged"))
    restored = [line.event for line in evidence.of("restored")]
    return [event["step"] for event in restored if event["flagged"] or has_rounds]


def _one_seal(evidence: Evidence) -> list[Violation]:
    """A step of one epoch is applied from one seal: two may hold equal sums, but somebody decided without the rest.

    A run that was started again from disk counts its terms anew.
    """
    found: list[Violation] = []
    first: dict[tuple[int, int, int], Line] = {}
    for line in _decided(evidence):
        step, term, _ = tag_of(line.event)
        known = first.setdefault((line.session, term >> _EPOCH_BITS, step), line)
        if tag_of(known.event) != tag_of(line.event):
            what = f"step {step} was applied from two seals, {tag_of(known.event)} and "
            what += f"{tag_of(line.event)}"
            found.append(evidence.violation("C2", what, known, line))
    return found


def _acknowledged(evidence: Evidence) -> list[Violation]:
    """A step may be acknowledged again, by another conductor or after a restore, but not with another outcome."""
    found: list[Violation] = []
    apart_from = min(_apart(evidence), default=math.inf)
    committed: dict[int, Line] = {}
    for line in evidence.of("step_committed"):
        step = line.event["step"]
        if step >= apart_from:
            continue
        if not line.event["parameters_sha256"]:
            continue  # told for a conductor that is gone
        known = committed.setdefault(step, line)
        for name in ("parameters_sha256", "void", "tokens"):
            if known.event[name] != line.event[name]:
                what = f"step {step} was acknowledged twice, with another {name}"
                found.append(evidence.violation("C2", what, known, line))
    return found


# ---- C6: samples ------------------------------------------------------------------------------------------------


def _prefix(evidence: Evidence) -> list[Violation]:
    """Steps are acknowledged 0, 1, 2, ..., again from where a restore went back to, so samples are a prefix of the
    data order."""
    found: list[Violation] = []
    expected = 0
    if not evidence.is_one:
        after = {line.event["step"]: _next_step(line) for line in evidence.of("step_committed")}
        while expected in after:
            expected = after[expected]
    for line in _in_order(evidence, ("step_committed", "restored")):
        step = line.event["step"]
        if line.event["kind"] == "restored":
            expected = min(expected, step) if evidence.is_one else expected
            continue
        if step > expected:
            what = f"step {step} was acknowledged, but step {expected} before it never was"
            found.append(evidence.violation("C6", what, line))
        expected = max(expected, _next_step(line)) if evidence.is_one else expected
    return found


def _next_step(committed: Line) -> int:
    """The step that comes next: another than the following one where an island follows its group."""
    step: int = committed.event["step"]
    following: int = committed.event.get("next_step", 0)
    return max(step + 1, following)


def _in_order(evidence: Evidence, kinds: tuple[str, ...]) -> list[Line]:
    lines = [line for kind in kinds for line in evidence.of(kind)]
    return sorted(lines, key=lambda line: (line.file, line.number))


def _keys_fixed(evidence: Evidence) -> list[Violation]:
    """Each step uses keys 0..K-1, whoever opens it."""
    found: list[Violation] = []
    keys: dict[int, Line] = {}
    for line in [*evidence.of("step_opened"), *evidence.of("seal_assigned")]:
        known = keys.setdefault(line.event["step"], line)
        if known.event["microbatches"] != line.event["microbatches"]:
            what = f"step {line.event['step']} was opened with different numbers of keys"
            found.append(evidence.violation("C6", what, known, line))
    return found


# ---- C7: faults -------------------------------------------------------------------------------------------------


def _faults(evidence: Evidence) -> list[Violation]:
    """Each planned fault happened once, or was forestalled for a reason that the journal bears out."""
    found: list[Violation] = []
    planned = {line.event["number"]: line for line in evidence.of("fault_planned")}
    seen: dict[int, Line] = {}
    for line in [*evidence.of("fault_injected"), *evidence.of("fault_missed")]:
        number = line.event["number"]
        plan = planned.get(number)
        if plan is None or plan.event["fault"] != line.event["fault"]:
            what = f"fault {number} ({line.event['fault']}) was never planned"
            found.append(evidence.violation("C7", what, line))
        elif number in seen:
            what = f"fault {number} ({line.event['fault']}) counts twice"
            found.append(evidence.violation("C7", what, seen[number], line))
        elif line.event["kind"] == "fault_missed" and _was_due(evidence, plan, line):
            what = f"fault {number} ({line.event['fault']}) was due and did not happen"
            found.append(evidence.violation("C7", what, plan, line))
        seen.setdefault(number, line)
    for number, plan in planned.items():
        if number not in seen:
            what = f"nothing says what became of fault {number} ({plan.event['fault']})"
            found.append(evidence.violation("C7", what, plan))
    return found


def _was_due(evidence: Evidence, plan: Line, missed: Line) -> bool:
    """Whether the time of a fault passed before the run ended; its peers may have died or left, which excuses it."""
    when = plan.event["when"]
    killed = {
        name
        for line in evidence.of("fault_injected")
        if line.event["fault"] == "kill"
        for entry in evidence.of("fault_planned")
        if entry.event["number"] == line.event["number"]
        for name in entry.event["peers"]
    }
    of_messages = plan.event["fault"] in ("drop", "duplicate", "reorder", "late", "corrupt")
    if not when.endswith("s") or "#" in when or of_messages:
        return False
    due_seconds = plan.seconds + float(when[:-1])
    names = {line.event["peer"]: line.event["name"] for line in evidence.of("peer_joined")}
    left = {
        names.get(line.event["peer"], "")
        for line in evidence.of("peer_left")
        if line.file == missed.file and line.seconds <= due_seconds
    }
    is_excused = (killed | left) & set(plan.event["peers"])
    return due_seconds < missed.seconds and not is_excused


# ---- the end ----------------------------------------------------------------------------------------------------


def _stops(evidence: Evidence) -> list[Violation]:
    return [
        evidence.violation("STOP", "the run stopped and does not say why", line)
        for line in evidence.of("run_stopped")
        if not line.event["finished"] and not line.event["reason"].strip()
    ]
