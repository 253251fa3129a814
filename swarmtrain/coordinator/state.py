"""The coordinator's view of a run as a pure fold over events: `apply(state, entry) -> state`.

The same entries stand in the journal, so the view can be rebuilt from it, but for what `core.live` says is not kept.
"""

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from swarmtrain.coordinator.checks import check_event
from swarmtrain.coordinator.history import LONGEST_NAME, History, Seen, remember, shifted
from swarmtrain.coordinator.story import printable
from swarmtrain.core.types import PeerId
from swarmtrain.core.units import per_token

BAD_ENTRY = (KeyError, TypeError, ValueError, OverflowError, AttributeError)
"""What `apply` raises for an entry that makes no sense."""


@dataclass(frozen=True, slots=True)
class PeerView:
    """One peer as the run sees it; `state` is joining, serving, leaving, left or lost, `since_seconds` when it began.

    `busy_share` and `resident_bytes` are None until the peer told of them, `heard_seconds` is when it last did. Times
    are the coordinator's loop seconds. `island_reason` is empty where its owner chose the island. `was_dialled` by
    another peer: it can be reached directly; without, nobody needed to dial it, or nobody can. The run had committed
    `tokens_before` when it joined, and `tokens` more when its bytes were last told.
    """

    peer: PeerId
    name: str
    address: str
    stages: tuple[int, ...] = ()
    reason: str = ""
    state: str = "joining"
    bytes_sent: int = 0
    island: int = 0
    island_reason: str = ""
    links: tuple[tuple[str, float, float, int], ...] = ()
    region: str = ""
    machine: str = ""
    bytes_received: int = 0
    busy_share: float | None = None
    resident_bytes: int | None = None
    was_dialled: bool = False
    since_seconds: float = 0.0
    heard_seconds: float = 0.0
    tokens_before: int = 0
    tokens: int = 0

    @property
    def sent_bytes_per_token(self) -> float | None:
        return per_token(self.bytes_sent, self.tokens)

    @property
    def received_bytes_per_token(self) -> float | None:
        return per_token(self.bytes_received, self.tokens)


@dataclass(frozen=True, slots=True)
class RunState:
    """What is known of the run. Losses are nats per token; `step` counts committed steps.

    Steps and losses are those of the lowest island that lives; `islands` says how far each one is, `conductors` who
    conducts it, `rounds` how many outer rounds a fragment has had. The run is over when all living islands are.
    `clocks` says by how many seconds a peer's clock is ahead of the coordinator's. `remembered` is what was known
    before the coordinator was started again: who speaks up is taken over from there. `bytes_moved` is what peers sent
    while it was looked at.
    """

    peers: Mapping[PeerId, PeerView] = field(default_factory=dict)
    conductor: str = ""
    conductors: Mapping[int, str] = field(default_factory=dict)
    islands: Mapping[int, int] = field(default_factory=dict)
    islands_stopped: tuple[int, ...] = ()
    rounds: int = 0
    waiting_for: str = ""
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss_first: float | None = None
    loss_last: float | None = None
    parameters_sha256: str = ""
    faults: int = 0
    lost: tuple[str, ...] = ()
    unrecovered: tuple[str, ...] = ()
    recoveries: int = 0
    flagged_recoveries: int = 0
    replayed_keys: int = 0
    duplicate_keys_dropped: int = 0
    stopped: bool = False
    finished: bool = False
    stop_reason: str = ""
    lost_stages: tuple[int, ...] = ()
    clocks: Mapping[str, float] = field(default_factory=dict)
    remembered: "RunState | None" = None
    bytes_moved: int = 0
    bytes_before: int = 0
    """Sent by processes whose peers have begun anew since."""
    history: History = field(default_factory=History)

    @property
    def live_peers(self) -> tuple[PeerView, ...]:
        return tuple(
            view for _, view in sorted(self.peers.items()) if view.state not in ("left", "lost")
        )

    @property
    def shown_island(self) -> int:
        """The lowest island that has a peer; 0 while there is none."""
        return min((view.island for view in self.live_peers), default=0)

    def island_of(self, peer: str) -> int:
        view = self.peers.get(PeerId(peer))
        return view.island if view is not None else 0

    @property
    def bytes_sent(self) -> int:
        return self.bytes_before + sum(view.bytes_sent for view in self.peers.values())

    @property
    def bytes_per_token(self) -> float | None:
        """Of all that peers sent, over the whole run."""
        return per_token(self.bytes_sent, self.tokens)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


def apply(state: RunState, entry: Mapping[str, Any]) -> RunState:
    """The state after one journal entry `{"event", "peer", "time_seconds"}`.

    Raises one of BAD_ENTRY where the event lacks what its kind demands.
    """
    event, at = entry["event"], _time(state, entry)
    check_event(event)
    state = _recalled(state, entry)
    after = _facts(state, entry, at)

    def name(peer: str) -> str:
        past = after.remembered.peers if after.remembered is not None else {}
        view = after.peers.get(PeerId(peer)) or past.get(PeerId(peer))
        return view.name if view is not None else f"peer {peer[:8]}"

    island = after.island_of(entry["peer"])
    seen = Seen(
        event=event,
        at_seconds=at,
        step=after.step,
        island=island,
        is_news=after.faults > state.faults or after.rounds > state.rounds,
        is_curve=event.get("kind") == "step_committed" and after.step > event["step"] >= state.step,
        bytes_sent=after.bytes_moved,
        name=name,
    )
    history = remember(after.history, seen)
    return after if history is after.history else replace(after, history=history)


def _time(state: RunState, entry: Mapping[str, Any]) -> float:
    """When the entry was recorded, by the coordinator's clock."""
    at = float(entry.get("time_seconds", 0.0)) - state.clocks.get(entry["peer"], 0.0)
    if not math.isfinite(at):
        raise ValueError("time_seconds is not finite")
    return at


def _facts(state: RunState, entry: Mapping[str, Any], at: float) -> RunState:
    """How the run is after `entry`, recorded at `at` seconds."""
    event = entry["event"]
    match event.get("kind"):
        case "peer_joined":
            return _joined(state, event, at)
        case "island_chosen":
            return _with_peer(state, event["peer"], at, island_reason=event["reason"])
        case "island_dissolved":
            others = {peer: view for peer, view in state.peers.items() if peer != event["peer"]}
            return replace(state, peers=others)
        case "waiting":
            return replace(state, waiting_for=event["reason"])
        case "placed":
            stages = tuple(event["stages"])
            return _with_peer(state, event["peer"], at, stages=stages, reason=event["reason"])
        case "term_started":
            return _term_started(state, event["peer"], at)
        case "step_committed":
            return _committed(state, state.island_of(entry["peer"]), event)
        case "round_chosen":
            return replace(state, rounds=max(state.rounds, event["round"] + 1))
        case "links_measured":
            links = tuple((str(to), float(s), float(r), int(n)) for to, s, r, n in event["links"])
            return _with_peer(state, event["peer"], at, links=links)
        case "peer_left":
            return _with_peer(state, event["peer"], at, state="left")
        case "traffic":
            return _with_bytes(state, event, at)
        case "vitals":
            return _vitals(state, event, at)
        case "clock_seen":
            ahead = float(event["ahead_seconds"])
            return replace(state, clocks={**state.clocks, event["peer"]: ahead})
        case "lost":
            return _lost(state, event["peer"], at)
        case "stage_lost":
            return replace(state, lost_stages=tuple({*state.lost_stages, int(event["stage"])}))
        case "recovered":
            return replace(state, recoveries=state.recoveries + 1)
        case "restored":
            return replace(
                state,
                recoveries=state.recoveries + 1,
                flagged_recoveries=state.flagged_recoveries + event["flagged"],
                lost_stages=(),
            )
        case "membership_changed":
            remaining = tuple(peer for peer in state.lost if peer != event["peer"])
            back = replace(state, lost=remaining)
            is_leaving = event["reason"].startswith("leaves")
            return _with_peer(back, event["peer"], at, state="leaving" if is_leaving else "serving")
        case "replayed":
            return replace(state, replayed_keys=state.replayed_keys + 1)
        case "duplicate_dropped":
            return replace(state, duplicate_keys_dropped=state.duplicate_keys_dropped + 1)
        case "run_stopped":
            return _stopped(state, entry["peer"], event)
    return state


def _joined(state: RunState, event: Mapping[str, Any], at: float) -> RunState:
    view = PeerView(
        event["peer"],
        printable(event["name"][:LONGEST_NAME]),
        event["address"],
        tuple(event["stages"]),
        island=event.get("island", 0),
        region=event.get("region", "")[:LONGEST_NAME],
        machine=event.get("machine", "")[: 2 * LONGEST_NAME],
        since_seconds=at,
        heard_seconds=at,
        tokens_before=state.tokens,
    )
    before = state.peers.get(view.peer)
    bytes_before = state.bytes_before + (before.bytes_sent if before is not None else 0)
    return replace(state, peers={**state.peers, view.peer: view}, bytes_before=bytes_before)


def _vitals(state: RunState, event: Mapping[str, Any], at: float) -> RunState:
    view = state.peers.get(event["peer"])
    past = state.remembered.peers if state.remembered is not None else {}
    if view is not None and (view.resident_bytes is not None or event["peer"] not in past):
        # What a peer sent while nobody looked belongs to no step.
        more_bytes = max(int(event["bytes_sent"]) - view.bytes_sent, 0)
        state = replace(state, bytes_moved=state.bytes_moved + more_bytes)
    return _with_bytes(
        state,
        event,
        at,
        busy_share=min(max(float(event["busy_share"]), 0.0), 1.0),
        resident_bytes=int(event["resident_bytes"]),
        was_dialled=event["was_dialled"] is True,
        heard_seconds=at,
    )


def reopened(entries: Iterable[Mapping[str, Any]], now_seconds: float) -> RunState:
    """What a coordinator that starts again at `now_seconds` knows from its journal: the history, and who was there.

    Nobody is there until heard from again; steps and tokens are those of the checkpoint that the run starts from.
    """
    state = RunState()
    for entry in entries:
        # Another version may have written what this one does not understand: it is left out of the picture.
        with contextlib.suppress(*BAD_ENTRY):
            state = apply(state, entry)
    history = state.history
    newest = max(history.updated.values(), default=now_seconds)
    if newest > now_seconds:  # the machine was started anew, and its clock with it
        history = shifted(history, now_seconds - newest)
    history = replace(history, traces=(), shares={})
    past = replace(state, history=History(), remembered=None)
    return RunState(remembered=past, history=history)


def _recalled(state: RunState, entry: Mapping[str, Any]) -> RunState:
    """A peer that was known before the coordinator was started again speaks up: it is there."""
    past, peer, event = state.remembered, entry["peer"], entry["event"]
    if past is None:
        return state
    if peer in past.peers and peer not in state.peers and event["kind"] != "peer_joined":
        state = replace(state, peers={**state.peers, peer: past.peers[peer]})
    if event["kind"] != "step_committed" or state.conductors:
        return state
    island = state.island_of(peer)
    state = replace(state, conductor=peer, conductors={island: peer})
    if not state.step < min(event["step"], past.step):
        return state
    # A run that starts again from its checkpoint commits that step first: this one never stopped. Who was gone by
    # then will not speak up, and what it sent was for the tokens that count again.
    gone = {p: view for p, view in past.peers.items() if view.state in ("left", "lost")}
    return replace(
        past,
        peers={**gone, **state.peers},
        bytes_before=past.bytes_before + state.bytes_before,
        conductor=peer,
        conductors=state.conductors,
        clocks=state.clocks,
        remembered=past,
        bytes_moved=state.bytes_moved,
        history=state.history,
    )


def _with_peer(run: RunState, peer: PeerId, at: float, **changes: Any) -> RunState:
    view = run.peers.get(peer)
    if view is None:
        return run
    if changes.get("state", view.state) != view.state:
        changes["since_seconds"] = at
    return replace(run, peers={**run.peers, peer: replace(view, **changes)})


def _with_bytes(run: RunState, event: Mapping[str, Any], at: float, **changes: Any) -> RunState:
    """What a peer's links carried by now, and while so many tokens were committed."""
    view = run.peers.get(event["peer"])
    carried = {
        "bytes_sent": int(event["bytes_sent"]),
        "bytes_received": int(event["bytes_received"]),
        "tokens": max(run.tokens - view.tokens_before, 0) if view is not None else 0,
    }
    return _with_peer(run, event["peer"], at, **carried, **changes)


def _lost(state: RunState, peer: str, at: float) -> RunState:
    """Several peers report one loss; it counts once, until that peer is back."""
    if peer in state.lost:
        return state
    return replace(
        _with_peer(state, PeerId(peer), at, state="lost"),
        faults=state.faults + 1,
        lost=(*state.lost, peer),
        unrecovered=(*state.unrecovered, peer),
    )


def _term_started(state: RunState, peer: str, at: float) -> RunState:
    island = state.island_of(peer)
    views = {
        known: replace(view, state="serving", since_seconds=at)
        if view.state == "joining" and view.island == island
        else view
        for known, view in state.peers.items()
    }
    conductors = {**state.conductors, island: peer}
    conductor = conductors.get(state.shown_island, peer)
    return replace(state, conductor=conductor, conductors=conductors, peers=views)


def _committed(state: RunState, island: int, event: Mapping[str, Any]) -> RunState:
    """A step counts once, also when two conductors acknowledged it; of other islands than the shown one its tokens."""
    next_step = event.get("next_step") or event["step"] + 1
    if event["step"] < state.islands.get(island, 0):
        return state
    state = replace(state, islands={**state.islands, island: next_step})
    if island != state.shown_island or event["step"] < state.step:
        return replace(state, tokens=state.tokens + event["tokens"])
    return replace(
        state,
        # A step committed after a loss: the run went on without that peer.
        recoveries=state.recoveries + len(state.unrecovered),
        unrecovered=(),
        lost_stages=(),
        step=next_step,
        tokens=state.tokens + event["tokens"],
        seconds=state.seconds + event["seconds"],
        loss_first=float(event["loss"]) if state.loss_first is None else state.loss_first,
        loss_last=float(event["loss"]),
        parameters_sha256=event["parameters_sha256"],
    )


def _stopped(state: RunState, peer: PeerId, event: Mapping[str, Any]) -> RunState:
    """The conductor speaks for its island; another peer's end is its own."""
    island = state.island_of(peer)
    if peer != state.conductors.get(island):
        return state
    stopped = tuple(sorted({*state.islands_stopped, island}))
    is_over = {view.island for view in state.live_peers} <= set(stopped)
    state = replace(state, islands_stopped=stopped, stopped=is_over)
    if island != state.shown_island:
        return state
    return replace(state, finished=event["finished"], stop_reason=event["reason"])
