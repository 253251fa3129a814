"""The coordinator's view of a run as a pure fold over events: `apply(state, entry) -> state`.

The same entries stand in the journal, so the view can be rebuilt from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from swarmtrain.core.types import PeerId


@dataclass(frozen=True, slots=True)
class PeerView:
    """One peer as the run sees it; `state` is joining, serving or left."""

    peer: PeerId
    name: str
    address: str
    stages: tuple[int, ...] = ()
    reason: str = ""
    state: str = "joining"
    bytes_sent: int = 0
    island: int = 0
    links: tuple[tuple[str, float, float, int], ...] = ()


@dataclass(frozen=True, slots=True)
class RunState:
    """What is known of the run. Losses are nats per token; `step` counts committed steps.

    Steps and losses are those of the lowest island that lives; `islands` says how far each one is, `conductors` who
    conducts it, `rounds` how many outer rounds a fragment has had. The run is over when all living islands are.
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
        return sum(view.bytes_sent for view in self.peers.values())

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


def apply(state: RunState, entry: Mapping[str, Any]) -> RunState:
    """The state after one journal entry `{"event", "peer", "time_seconds"}`."""
    event = entry["event"]
    match event.get("kind"):
        case "peer_joined":
            view = PeerView(
                event["peer"],
                event["name"],
                event["address"],
                tuple(event["stages"]),
                island=event.get("island", 0),
            )
            return replace(state, peers={**state.peers, view.peer: view})
        case "waiting":
            return replace(state, waiting_for=event["reason"])
        case "placed":
            stages = tuple(event["stages"])
            return _with_peer(state, event["peer"], stages=stages, reason=event["reason"])
        case "term_started":
            return _term_started(state, event["peer"])
        case "step_committed":
            return _committed(state, state.island_of(entry["peer"]), event)
        case "round_chosen":
            return replace(state, rounds=max(state.rounds, event["round"] + 1))
        case "links_measured":
            links = tuple((str(to), float(s), float(r), int(n)) for to, s, r, n in event["links"])
            return _with_peer(state, event["peer"], links=links)
        case "peer_left":
            return _with_peer(state, event["peer"], state="left")
        case "traffic":
            return _with_peer(state, event["peer"], bytes_sent=event["bytes_sent"])
        case "lost":
            return _lost(state, event["peer"])
        case "recovered":
            return replace(state, recoveries=state.recoveries + 1)
        case "restored":
            return replace(
                state,
                recoveries=state.recoveries + 1,
                flagged_recoveries=state.flagged_recoveries + event["flagged"],
            )
        case "membership_changed":
            remaining = tuple(peer for peer in state.lost if peer != event["peer"])
            back = replace(state, lost=remaining)
            return _with_peer(back, event["peer"], state="serving")
        case "replayed":
            return replace(state, replayed_keys=state.replayed_keys + 1)
        case "duplicate_dropped":
            return replace(state, duplicate_keys_dropped=state.duplicate_keys_dropped + 1)
        case "run_stopped":
            return _stopped(state, entry["peer"], event)
    return state


def _with_peer(run: RunState, peer: PeerId, **changes: Any) -> RunState:
    view = run.peers.get(peer)
    if view is None:
        return run
    return replace(run, peers={**run.peers, peer: replace(view, **changes)})


def _lost(state: RunState, peer: str) -> RunState:
    """Several peers report one loss; it counts once, until that peer is back."""
    if peer in state.lost:
        return state
    return replace(
        _with_peer(state, PeerId(peer), state="lost"),
        faults=state.faults + 1,
        lost=(*state.lost, peer),
        unrecovered=(*state.unrecovered, peer),
    )


def _term_started(state: RunState, peer: str) -> RunState:
    island = state.island_of(peer)
    views = {
        known: replace(view, state="serving")
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
