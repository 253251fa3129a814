"""What people look back on: curves, marks, the log, who contributed, the last steps in detail. Pure and bounded (I8).

`coordinator.state` says how a run is; this module says how it came to be so. Nothing here decides anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from swarmtrain.coordinator.curve import Curve, extended, point_of
from swarmtrain.coordinator.story import MERGED, TONES, LogLine, Names, words
from swarmtrain.core.live import SpanRow, kinds

MOST_LINES = 300
MERGED_LINES = 8
MERGED_SECONDS = 5.0
MOST_MARKS = 200
MOST_CREDITED = 2000
STEPS_TRACED = 4
SPANS_PER_STEP = 6000
SPANS_PER_PEER = 400
LONGEST_NAME = 64

KNOWN = kinds()


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that explains the curve: `sign` is its letter. `number` counts a run's marks."""

    number: int
    step: int
    at_seconds: float
    sign: str
    text: str


@dataclass(frozen=True, slots=True)
class Credit:
    """What the peers of one chosen name contributed: positions of microbatches in committed steps, and those steps."""

    name: str
    positions: int = 0
    steps: int = 0
    at_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class StepTrace:
    """One step in detail: by peer the seconds from its begin to its end there, its spans, and how many are left out."""

    step: int
    at_seconds: float
    peers: Mapping[str, tuple[float, tuple[SpanRow, ...], int]] = field(default_factory=dict)
    spans: int = 0


@dataclass(frozen=True, slots=True)
class History:
    """`shares` are the last seal's owners by island, until its step is committed. `traces` ascend by step.

    `updated` says when, in the coordinator's loop seconds, each part was last heard of.
    """

    curve: Curve = field(default_factory=Curve)
    marks: tuple[Mark, ...] = ()
    log: tuple[LogLine, ...] = ()
    credit: Mapping[str, Credit] = field(default_factory=dict)
    shares: Mapping[int, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    traces: tuple[StepTrace, ...] = ()
    updated: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """An event and what is known of the run when it comes: `step` committed steps, `island` of its peer."""

    event: Mapping[str, Any]
    at_seconds: float
    step: int
    island: int
    is_news: bool
    is_curve: bool
    bytes_sent: int
    name: Names


def remember(history: History, seen: Seen) -> History:
    """`history` after one event. Raises KeyError, TypeError or ValueError where the event lacks what it should have."""
    event, at = seen.event, seen.at_seconds
    kind = event["kind"]
    if kind not in KNOWN:
        return history
    history = _logged(history, seen)
    match kind:
        case "step_committed":
            history = _credited(history, seen)
            return _extended(history, seen) if seen.is_curve else history
        case "sealed":
            owners = tuple((str(peer), int(count)) for peer, count in event["owners"])
            return replace(history, shares={**history.shares, seen.island: owners})
        case "step_traced":
            return _touched(_traced(history, seen), at, "trace")
        case "links_measured":
            return _touched(history, at, "links")
        case _ if kind in PEER_KINDS:
            history = _touched(history, at, "peers")
    sign = _sign(event, seen)
    return _marked(history, seen, sign) if sign else history


PEER_KINDS = frozenset(
    {
        "vitals",
        "peer_joined",
        "peer_left",
        "island_chosen",
        "island_dissolved",
        "lost",
        "placed",
        "membership_changed",
        "term_started",
        "moved",
    }
)


def _touched(history: History, at_seconds: float, *parts: str) -> History:
    return replace(history, updated={**history.updated, **dict.fromkeys(parts, at_seconds)})


def _logged(history: History, seen: Seen) -> History:
    event, log = seen.event, history.log
    text = words(event, seen.name)
    # A loss that several peers report is one line.
    if not text or (event["kind"] == "lost" and not seen.is_news):
        return history
    last = log[-1] if log else None
    revision = max((line.revision for line in log[-MERGED_LINES:]), default=0) + 1
    like = _like(log, seen)
    if like is not None:
        count = log[like].count + 1
        line = replace(log[like], revision=revision, step=seen.step, text=text, count=count)
        log = (*log[:like], line, *log[like + 1 :])
    else:
        number = last.number + 1 if last else 1
        tone = TONES.get(event["kind"], "plain")
        line = LogLine(number, revision, seen.at_seconds, seen.step, event["kind"], tone, text)
        log = (*log[-MOST_LINES + 1 :], line)
    return _touched(replace(history, log=log), seen.at_seconds, "log")


def _like(log: tuple[LogLine, ...], seen: Seen) -> int | None:
    """Where the event belongs if one of its kind, which come in swarms, was a moment ago."""
    kind = seen.event["kind"]
    for index in range(len(log) - 1, max(len(log) - 1 - MERGED_LINES, -1), -1):
        is_near = abs(seen.at_seconds - log[index].at_seconds) < MERGED_SECONDS
        if log[index].kind == kind and kind in MERGED and (is_near or index == len(log) - 1):
            return index
    return None


def _sign(event: Mapping[str, Any], seen: Seen) -> str:
    """The letter of the mark that an event leaves on the curve; "" for none."""
    match event["kind"]:
        case "lost":
            return "X" if seen.is_news else ""
        case "membership_changed":
            return "L" if event["reason"].startswith("leaves") else "J"
        case "recovered" | "restored":
            return "R"
        case "round_chosen":
            return "O" if seen.is_news else ""
        case "checkpoint_saved":
            return "C"
    return ""


def _marked(history: History, seen: Seen, sign: str) -> History:
    last = history.marks[-1] if history.marks else None
    text = words(seen.event, seen.name)
    mark = Mark(last.number + 1 if last else 1, seen.step, seen.at_seconds, sign, text)
    return replace(history, marks=(*history.marks[-MOST_MARKS + 1 :], mark))


def _extended(history: History, seen: Seen) -> History:
    event = seen.event
    point = point_of(
        event["step"], seen.at_seconds, float(event["loss"]), event["tokens"], event["seconds"]
    )
    curve = extended(history.curve, replace(point, bytes_sent=seen.bytes_sent))
    return _touched(replace(history, curve=curve), seen.at_seconds, "steps")


def _credited(history: History, seen: Seen) -> History:
    """The owners of the step's last seal brought its gradients in: each (position, key) one of them."""
    shares = history.shares.get(seen.island, ())
    if not shares:
        return history
    credit = dict(history.credit)
    for peer, positions in shares:
        name = seen.name(peer)
        known = credit.get(name)
        if known is None and len(credit) >= MOST_CREDITED:
            continue
        known = known or Credit(name)
        credit[name] = Credit(name, known.positions + positions, known.steps + 1, seen.at_seconds)
    left = {island: owners for island, owners in history.shares.items() if island != seen.island}
    return _touched(replace(history, credit=credit, shares=left), seen.at_seconds, "credit")


def _traced(history: History, seen: Seen) -> History:
    """Of the last steps only, and what is more than a step may hold is left out."""
    event, step, peer = seen.event, int(seen.event["step"]), str(seen.event["peer"])
    spans = tuple(
        (str(what)[:16], int(stage), int(key), int(begin), int(length), str(to)[:32])
        for what, stage, key, begin, length, to in event["spans"][:SPANS_PER_PEER]
    )
    left_out = int(event["left_out"]) + len(event["spans"]) - len(spans)
    if step > seen.step + 1:  # no step that could have been applied yet
        return history
    known = next((trace for trace in history.traces if trace.step == step), StepTrace(step, 0.0))
    if known.spans + len(spans) > SPANS_PER_STEP:
        left_out, spans = left_out + len(spans), ()
    rows = {**known.peers, peer: (float(event["seconds"]), spans, left_out)}
    trace = StepTrace(step, seen.at_seconds, rows, known.spans + len(spans))
    # After a restore or a restart the run may be at an earlier step than what is here.
    others = [old for old in history.traces if old.step != step and old.step <= seen.step + 1]
    traces = tuple(sorted([*others, trace], key=lambda old: old.step))[-STEPS_TRACED:]
    return replace(history, traces=traces)


def shifted(history: History, by_seconds: float) -> History:
    """The same with all times moved: the clock they were read from began anew."""

    def later(entries: Any) -> tuple[Any, ...]:
        return tuple(replace(e, at_seconds=e.at_seconds + by_seconds) for e in entries)

    curve = replace(history.curve, points=later(history.curve.points))
    credit = dict(zip(history.credit, later(history.credit.values()), strict=True))
    updated = {part: at + by_seconds for part, at in history.updated.items()}
    marks, log = later(history.marks), later(history.log)
    return replace(
        history, curve=curve, credit=credit, updated=updated, marks=marks, log=log, traces=()
    )
