"""What people are shown of a run, as plain JSON, and what changed between two looks at it. Pure.

`whole(look)` is everything; `changes(before, after)` is what a reader of `before` needs to know `after`. Unchanged
parts are told by identity: `coordinator.state` shares what it does not touch. Times are the coordinator's loop seconds,
and `now_seconds` goes with every answer, so that a reader can say how old something is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from statistics import median
from typing import Any

from swarmtrain.coordinator.curve import Curve, Point, pace
from swarmtrain.coordinator.history import MERGED_LINES, History, StepTrace
from swarmtrain.coordinator.routes import FORWARDS, is_whole, routes_of
from swarmtrain.coordinator.state import PeerView, RunState
from swarmtrain.monitor.lines import plain

Json = dict[str, Any]

ROUTES_SHOWN = 12
CREDITED_SHOWN = 50
PEERS_ONE_BY_ONE = 60
"""With more peers than this, links are shown between regions."""
GONE_SECONDS = 120.0
"""Who left or was lost stays in the picture for so long."""


@dataclass(frozen=True, slots=True)
class Run:
    """What of a run's configuration is shown."""

    name: str
    hash: str
    steps: int
    stages: int
    """Middle stages; stage 0, the edge, comes on top."""
    microbatches: int
    tokens_per_step: int
    inner_steps: int
    """Steps between two outer rounds; 0 without rounds."""
    coordinator: str


@dataclass(frozen=True, slots=True)
class Look:
    """The run as it is at `now_seconds`."""

    run: Run
    state: RunState
    now_seconds: float


def whole(look: Look) -> Json:
    """Everything that is shown."""
    state, history = look.state, look.state.history
    return _plain(
        {
            "now_seconds": look.now_seconds,
            "header": header(look),
            "peers": {view.peer: peer_row(view) for view in present(state, look.now_seconds)},
            "links": links_of(tuple(view for view in state.live_peers)),
            "curve": _curve(history.curve, history.curve.points),
            "marks": [asdict(mark) for mark in history.marks],
            "log": [asdict(line) for line in history.log],
            "contributors": _contributors(history),
            "traces": [trace_rows(trace) for trace in history.traces],
            "routes": routes_shown(history.traces),
            "updated": dict(history.updated),
        }
    )


def changed_links(before: Look, after: Look) -> Json:
    """The links if any were measured meanwhile: the largest part, which nobody needs to know at once."""
    old, new = (
        [(view.peer, view.region, view.links) for view in look.state.live_peers]
        for look in (before, after)
    )
    return {} if old == new else {"links": links_of(after.state.live_peers)}


def changes(before: Look, after: Look) -> Json:
    """The parts that are not as they were, but for links. Peers, points, marks, lines and traces come singly."""
    old, new = before.state.history, after.state.history
    found: Json = {"now_seconds": after.now_seconds}
    if _header_key(before) != _header_key(after):
        found["header"] = header(after)
    if before.state.peers is not after.state.peers:
        found["peers"] = _changed_peers(before, after)
    if old.curve is not new.curve:
        found["curve"] = _curve(new.curve, new.curve.since(old.curve))
    if old.marks is not new.marks:
        last = old.marks[-1].number if old.marks else 0
        found["marks"] = [asdict(mark) for mark in new.marks if mark.number > last]
    if old.log is not new.log:
        revision = max((line.revision for line in old.log[-MERGED_LINES:]), default=0)
        found["log"] = [asdict(line) for line in new.log if line.revision > revision]
    if old.credit is not new.credit:
        found["contributors"] = _contributors(new)
    if old.traces is not new.traces:
        known = {trace.step: trace for trace in old.traces}
        found["traces"] = [
            trace_rows(trace, known.get(trace.step))
            for trace in new.traces
            if known.get(trace.step) is not trace
        ]
        found["routes"] = routes_shown(new.traces)
    if old.updated is not new.updated:
        found["updated"] = dict(new.updated)
    return _plain(found)


def _plain(value: Json) -> Json:
    return dict(plain(value))


def _header_key(look: Look) -> tuple[Any, ...]:
    state = look.state
    steps = (state.step, state.tokens, state.history.curve)
    ends = (state.stopped, state.waiting_for, state.lost_stages)
    return (*steps, *ends, state.conductor, state.faults, state.recoveries, state.peers)


def header(look: Look) -> Json:
    """The figures at the top. `tokens_per_second`, `bytes_per_token` and `eta_seconds` go by the last minute."""
    run, state = look.run, look.state
    lately = pace(state.history.curve)
    left = max(run.steps - state.step, 0)
    step_seconds = lately.seconds_per_step
    return {
        "run": run.name,
        "run_hash": run.hash,
        "coordinator": run.coordinator,
        "step": state.step,
        "steps": run.steps,
        "stages": run.stages,
        "microbatches": run.microbatches,
        "tokens_per_step": run.tokens_per_step,
        "inner_steps": run.inner_steps,
        "gone_seconds": GONE_SECONDS,
        "round": state.rounds,
        "islands": {str(island): step for island, step in sorted(state.islands.items())},
        "tokens": state.tokens,
        "loss_first": state.loss_first,
        "loss_last": state.loss_last,
        "tokens_per_second": lately.tokens_per_second,
        "step_seconds": step_seconds,
        "bytes_per_token": lately.bytes_per_token,
        "bytes_sent": state.bytes_sent,
        "eta_seconds": left * step_seconds if step_seconds and not state.stopped else None,
        "peers": len(state.live_peers),
        "conductor": state.conductor,
        "conductors": sorted(state.conductors.values()),
        "faults": state.faults,
        "recoveries": state.recoveries,
        "flagged_recoveries": state.flagged_recoveries,
        "lost_stages": sorted(state.lost_stages),
        "waiting_for": "" if state.conductor else state.waiting_for,
        "stopped": state.stopped,
        "finished": state.finished,
        "stop_reason": state.stop_reason,
    }


def present(state: RunState, now_seconds: float) -> list[PeerView]:
    """Who is there, and who was until a moment ago."""
    return [view for view in state.peers.values() if _is_shown(view, now_seconds)]


def _is_shown(view: PeerView, now_seconds: float) -> bool:
    is_gone = view.state in ("left", "lost")
    return not is_gone or now_seconds < view.since_seconds + GONE_SECONDS


def peer_row(view: PeerView) -> Json:
    """One peer as it is shown; its links are in a part of their own."""
    return {
        "name": view.name,
        "state": view.state,
        "stages": list(view.stages),
        "reason": view.reason,
        "island": view.island,
        "island_reason": view.island_reason,
        "region": view.region,
        "machine": view.machine,
        "address": view.address,
        "bytes_sent": view.bytes_sent,
        "bytes_received": view.bytes_received,
        "sent_bytes_per_token": view.sent_bytes_per_token,
        "received_bytes_per_token": view.received_bytes_per_token,
        "busy_share": view.busy_share,
        "resident_bytes": view.resident_bytes,
        "was_dialled": view.was_dialled,
        "since_seconds": view.since_seconds,
        "heard_seconds": view.heard_seconds,
    }


def _changed_peers(before: Look, after: Look) -> Json:
    """Rows of those that changed. Readers take out by themselves who is gone for `gone_seconds`."""
    old, new, now = before.state.peers, after.state.peers, after.now_seconds
    return {
        peer: peer_row(view)
        for peer, view in new.items()
        if (known := old.get(peer)) is not view
        and _is_shown(view, now)
        and (known is None or peer_row(known) != peer_row(view))
    }


def _curve(curve: Curve, points: Iterable[Point]) -> Json:
    rows = [[p.step, p.steps, p.loss, p.tokens_per_second, p.at_seconds] for p in points]
    return {"generation": curve.generation, "stride": curve.stride, "points": rows}


def _contributors(history: History) -> Json:
    """How many names there are and what they came to together; the first of them one by one."""
    credit = sorted(history.credit.values(), key=lambda entry: (-entry.positions, entry.name))
    return {
        "names": len(credit),
        "positions": sum(entry.positions for entry in credit),
        "first": [asdict(entry) for entry in credit[:CREDITED_SHOWN]],
    }


def links_of(views: tuple[PeerView, ...]) -> Json:
    """What peers measured of the links they send on: peer by peer among few, and always between regions.

    A row has from, to, one-way seconds, bytes a second (0 where not measured) and how many links it stands for.
    """
    ids = {view.peer[:12]: view for view in views}
    singles = [
        (view, ids[to], seconds, rate)
        for view in views
        for to, seconds, rate, _ in view.links
        if to in ids
    ]
    by_region: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for sender, receiver, seconds, rate in singles:
        by_region.setdefault((sender.region, receiver.region), []).append((seconds, rate))
    return {
        "peers": [
            [sender.peer, receiver.peer, seconds, rate, 1]
            for sender, receiver, seconds, rate in singles
        ]
        if len(views) <= PEERS_ONE_BY_ONE
        else [],
        "regions": [
            [*ends, median(seconds for seconds, _ in rows), _median_rate(rows), len(rows)]
            for ends, rows in sorted(by_region.items())
        ],
    }


def _median_rate(rows: list[tuple[float, float]]) -> float:
    return median([rate for _, rate in rows if rate > 0] or [0.0])


def trace_rows(trace: StepTrace, known: StepTrace | None = None) -> Json:
    """A step in detail: by peer its seconds and lane spans as [what, stage, key, begin, length] in microseconds.

    With `known`, only the peers that this one does not have.
    """
    seen: Mapping[str, object] = known.peers if known is not None else {}
    return {
        "step": trace.step,
        "peers": {
            peer: {
                "seconds": seconds,
                "left_out": left_out,
                "spans": [row[:5] for row in spans if row[0] != "hop"],
            }
            for peer, (seconds, spans, left_out) in trace.peers.items()
            if seen.get(peer) is not trace.peers[peer]
        },
    }


@lru_cache(maxsize=4)
def _routes(trace: "_Same") -> tuple[Json, bool]:
    """The routes that are known up to the loss, and whether these are all of the first ones."""
    rows = {peer: spans for peer, (_, spans, _) in trace.value.peers.items()}
    keys = sorted({row[2] for spans in rows.values() for row in spans if row[0] in FORWARDS})
    found = routes_of(rows, keys[:ROUTES_SHOWN])
    routes = [
        {"key": key, "visits": [list(visit) for visit in route]}
        for key, route in found.items()
        if is_whole(route)
    ]
    return {"step": trace.value.step, "routes": routes}, len(routes) == len(keys[:ROUTES_SHOWN])


class _Same:
    """A trace as a key of the cache: equal to itself alone, which spares comparing its spans."""

    __slots__ = ("value",)

    def __init__(self, value: StepTrace) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    def __hash__(self) -> int:
        return hash((self.value.step, len(self.value.peers)))


def routes_shown(traces: tuple[StepTrace, ...]) -> Json:
    """The routes of some microbatches in the newest step that all who take part have told of, or in the one told of
    best: reports come one after the other."""
    found = [_routes(_Same(trace)) for trace in reversed(traces)]
    whole = next((routes for routes, is_all in found if is_all and routes["routes"]), None)
    nothing: Json = {"step": None, "routes": []}
    return whole or max((r for r, _ in found), key=lambda r: len(r["routes"]), default=nothing)
