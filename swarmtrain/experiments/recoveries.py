"""How long a swarm of real processes takes to go on after a fault: detection, reassignment, return, first commit.

Times are read from the events' own stamps and from the injector, which on one machine share a clock.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from swarmtrain.core.sections import LinksSection
from swarmtrain.core.types import PeerId
from swarmtrain.experiments.injections import Seen, Trial

STAMP_SECONDS = 1e-3
"""Events may be stamped this much before the injector read its own clock."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """Seconds from one fault to each mark; `resync_seconds` counts from the victim's restart or waking."""

    fault: str
    detect_seconds: float
    reassign_seconds: float
    first_commit_seconds: float
    resync_seconds: float


def detection_bound_seconds(links: LinksSection) -> float:
    """When a peer that stands still is out of the roster at the latest, scheduling aside.

    A link ends after three silent heartbeats. Then the peer is dialled once more, and has two more to greet: the
    system accepts the connection of a frozen listener.
    """
    return 3 * links.heartbeat_seconds + min(links.connect_seconds, 2 * links.heartbeat_seconds)


def detection(seen: Sequence[Seen], victim: PeerId) -> Seen | None:
    """The first sign by any peer that `victim` does not answer."""
    for entry in seen:
        event = entry.event
        is_sign = event["kind"] in ("lost", "call_failed") and event["peer"] == victim
        if is_sign or (event["kind"] == "rerouted" and event["from_peer"] == victim):
            return entry
    return None


def reassignment(seen: Sequence[Seen], victim: PeerId, conductor: PeerId) -> Seen | None:
    """The conductor's roster without `victim`: its own loss of it, or the term of who took over."""
    for entry in seen:
        event = entry.event
        if victim == conductor:
            if event["kind"] == "term_started" and event["peer"] != victim:
                return entry
        elif event["kind"] == "lost" and (event["peer"], entry.peer) == (victim, conductor):
            return entry
    return None


def first_commit(seen: Sequence[Seen], after_seconds: float) -> Seen | None:
    """The first step that was acknowledged after the roster had changed."""
    for entry in seen:
        if entry.event["kind"] == "step_committed" and entry.at_seconds >= after_seconds:
            return entry
    return None


async def recovery_from(trial: Trial, fault: str, peer: int) -> Recovery:
    """Do `fault` (kill, freeze) to a peer, bring it back, and measure. Raises StateError if a mark is not reached."""
    begun, conductor, victim = len(trial.entries), trial.ids[trial.conductor], trial.ids[peer]
    at_seconds = trial.inject(fault, peer)

    def seen() -> list[Seen]:
        return [e for e in trial.entries[begun:] if e.at_seconds >= at_seconds - STAMP_SECONDS]

    found = await trial.until(lambda: detection(seen(), victim), 60.0, "the fault is noticed")
    changed = await trial.until(
        lambda: reassignment(seen(), victim, conductor), 60.0, "the roster changes"
    )
    went_on = await trial.until(
        lambda: first_commit(seen(), changed.at_seconds), 60.0, "the next step is committed"
    )
    back_seconds = trial.wake(peer) if fault == "freeze" else await trial.restart(peer)
    back = await trial.until_back(peer, back_seconds)
    earliest = min(detection(seen(), victim) or found, found, key=lambda entry: entry.at_seconds)
    return Recovery(
        fault=fault,
        detect_seconds=max(earliest.at_seconds - at_seconds, 0.0),
        reassign_seconds=changed.at_seconds - at_seconds,
        first_commit_seconds=went_on.at_seconds - at_seconds,
        resync_seconds=back.at_seconds - back_seconds,
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of `values` that at least `percent` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(percent / 100 * len(ordered)), 1) - 1]
