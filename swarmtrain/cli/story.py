"""What a run owner reads while a run goes: steps, who holds what, what went wrong and what it cost."""

from typing import Any

from swarmtrain.cli.progress import Progress
from swarmtrain.coordinator.state import RunState
from swarmtrain.coordinator.story import PEER_ID

TOLD = frozenset(
    {
        "coordinator",
        "started",
        "resumed",
        "machine",
        "checkpoint failed",
        "a checkpoint was passed over",
        "a damaged checkpoint was passed over",
        "an island begins anew",
        "no checkpoint",
        "a sink is too slow",
        "a sink missed entries",
        "a sink broke",
        "a sink did not close",
        "peers did not leave by themselves",
        "internal error",
    }
)
"""Notes that a run owner acts on; the others are in the journal and on the dashboard."""


class Story:
    """Tells a coordinator's events on a progress display; call it with every entry."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._told_lost: frozenset[str] = frozenset()
        self._told_waiting = ""
        self._introduced: set[str] = set()
        self._replayed_before = 0

    def __call__(self, state: RunState, entry: dict[str, Any]) -> None:
        event = entry["event"]

        def note(text: str) -> None:
            self._progress.note(PEER_ID.sub(lambda match: _name(state, match[0]), text))

        match event["kind"]:
            case "step_committed":
                self._committed(state, event)
            case "waiting" if not state.conductor and event["reason"] != self._told_waiting:
                self._told_waiting = event["reason"]
                note(f"waiting: {event['reason']}")
            case "island_chosen" | "island_dissolved":
                verb = "helps" if event["kind"] == "island_chosen" else "gives up"
                name = _name(state, event["peer"])
                note(f"{name} {verb} island {event['island']}: {event['reason']}")
            case "lost":
                self._lost(state, event)
            case "term_started" if event["step"] > 0:
                name = _name(state, event["peer"])
                note(f"{name} conducts from step {event['step']} on: {event['reason']}")
            case "membership_changed":
                note(f"{_name(state, event['peer'])} {event['reason']}")
            case "recovered":
                note(
                    f"{_name(state, event['peer'])} got stage {event['stage']} from a {event['tier']}: "
                    f"{event['bytes_received']:,} bytes in {event['seconds']:.2f} s"
                )
            case "stage_lost":
                note(f"stage {event['stage']} is lost at step {event['step']}: {event['reason']}")
            case "restored":
                another = "; from here on it is another model than without the loss"
                note(
                    f"restored at step {event['step']} in {event['seconds']:.2f} s: {event['reason']}"
                    + (another if event["flagged"] else "")
                )
            case "moved":
                note(
                    f"{_name(state, event['peer'])} shall host {event['to_stages']}: {event['reason']}"
                )
            case "checkpoint_saved":
                note(f"checkpoint {event['path']} saved in {event['seconds']:.2f} s")
            case "noted" if event["what"] in TOLD:
                note(f"{event['what']}: {event['detail']}")
            case "noted" if event["what"] == "killed on purpose":
                note(f"killed on purpose: {event['detail']}")
            case "banned":
                name = _name(state, event["peer"])
                note(f"{name} is avoided for {event['seconds']:.1f} s: {event['reason']}")
            case "paths_repaired":
                note(
                    f"step {event['step']}: {event['visits']} planned visits got other replicas "
                    f"in {1000 * event['seconds']:.0f} ms"
                )
            case "peer_refused" | "bad_message" | "key_voided" | "diverged":
                told = (f"{name} {value}" for name, value in event.items() if name != "kind")
                note(f"{event['kind'].replace('_', ' ')}: {', '.join(told)}")
            case "run_stopped" if entry["peer"] == state.conductor:
                note(f"the run ended after step {event['step']}: {event['reason']}")

    def _introduce(self, state: RunState) -> None:
        """Each island has a first step, and in that of another one a peer may not have its stages yet."""
        for view in sorted(state.live_peers, key=lambda view: view.name):
            if view.stages and view.name not in self._introduced:
                self._introduced.add(view.name)
                stages = ", ".join(map(str, view.stages))
                self._progress.note(f"{view.name}: stages {stages}. {view.reason}")

    def _committed(self, state: RunState, event: dict[str, Any]) -> None:
        if event["step"] == 0:
            self._introduce(state)
        if self._told_lost and not state.unrecovered:
            replayed = state.replayed_keys - self._replayed_before
            self._progress.note(
                f"step {event['step']} went on without it: {event['seconds']:.2f} s for this step, "
                f"{replayed} runs of positions replayed"
            )
            self._told_lost, self._replayed_before = frozenset(), state.replayed_keys
        peers = "  ".join(
            f"{view.name}:{','.join(map(str, view.stages))}" for view in state.live_peers
        )
        loss = state.loss_last if state.loss_last is not None else float("nan")
        self._progress.step(state.step, loss, state.tokens_per_second, peers)

    def _lost(self, state: RunState, event: dict[str, Any]) -> None:
        """Several peers report one loss; it is told once."""
        if event["peer"] not in self._told_lost:
            self._told_lost |= {event["peer"]}
            self._progress.note(f"{_name(state, event['peer'])} is lost: {event['reason']}")


def _name(state: RunState, peer: str) -> str:
    view = next((view for known, view in state.peers.items() if known == peer), None)
    return view.name if view is not None else f"peer {peer[:8]}"
