"""What happened, in words: a line for every event that people want to read, with its reason (I7). Pure."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Tone = Literal["plain", "good", "warn", "bad"]

HIDDEN = frozenset(
    {
        "step_opened",
        "sealed",
        "step_committed",
        "state_applied",
        "seal_assigned",
        "sum_changed",
        "sum_sealed",
        "paths_planned",
        "links_measured",
        "traffic",
        "links_carried",
        "vitals",
        "step_traced",
        "round_sent",
        "snapshot_kept",
    }
)
"""Events of every step or every few seconds: what they come to stands in the other panels."""

MERGED = frozenset(
    {
        "duplicate_dropped",
        "replayed",
        "rerouted",
        "hedged",
        "call_failed",
        "link_closed",
        "waiting",
        "round_merged",
        "round_chosen",
        "bad_message",
        "clock_seen",
    }
)
"""Events that come in swarms: one after the other they are one line, which says how many there were."""

TONES: Mapping[str, Tone] = {
    "membership_changed": "good",
    "recovered": "good",
    "restored": "good",
    "checkpoint_saved": "good",
    "lost": "bad",
    "stage_lost": "bad",
    "diverged": "bad",
    "bad_message": "bad",
    "peer_refused": "warn",
    "banned": "warn",
    "hedged": "warn",
    "rerouted": "warn",
    "call_failed": "warn",
    "key_voided": "warn",
    "fault_injected": "warn",
    "peer_left": "warn",
    "paused": "warn",
    "resumed": "good",
}

LONGEST_TEXT = 400

PEER_ID = re.compile(r"\b[0-9a-f]{32}\b")
"""Reasons name peers by their ids."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the log. `revision` grows with every new or changed line of a run; `number` stays with its line."""

    number: int
    revision: int
    at_seconds: float
    step: int
    kind: str
    tone: Tone
    text: str
    count: int = 1


Names = Callable[[str], str]
"""What a peer is called, by its id."""


def words(event: Mapping[str, Any], name: Names) -> str:
    """The event as a sentence without its end; "" for what is hidden. Raises KeyError, TypeError or ValueError."""
    kind = event["kind"]
    if kind in HIDDEN:
        return ""
    sentence = _peers(event, name) or _state(event, name) or _work(event, name) or _plain(event)
    sentence = printable(PEER_ID.sub(lambda match: name(match[0]), sentence))
    return sentence if len(sentence) <= LONGEST_TEXT else sentence[: LONGEST_TEXT - 1] + "\u2026"


def printable(text: str) -> str:
    """`text` without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _peers(event: Mapping[str, Any], name: Names) -> str:
    """Who comes, goes, conducts and moves."""
    match event["kind"]:
        case "peer_joined":
            return f"{name(event['peer'])} is here, from {event['address'] or 'an unknown address'}"
        case "peer_left":
            return f"{name(event['peer'])} left: {event['reason']}"
        case "lost":
            return f"{name(event['peer'])} is lost: {event['reason']}"
        case "placed":
            return f"{name(event['peer'])} takes {_stages(event['stages'])}: {event['reason']}"
        case "membership_changed":
            return f"{name(event['peer'])} {event['reason']}"
        case "moved":
            return (
                f"{name(event['peer'])} shall host {_stages(event['to_stages'])}: {event['reason']}"
            )
        case "term_started":
            return f"{name(event['peer'])} conducts from step {event['step']} on: {event['reason']}"
        case "peer_refused" | "link_closed" | "call_failed" | "bad_message":
            what = {
                "peer_refused": "was refused",
                "link_closed": "closed a link",
                "call_failed": "did not answer a call",
                "bad_message": "sent a bad message",
            }
            return f"{name(event['peer'])} {what[event['kind']]}: {event['reason']}"
        case "banned":
            return (
                f"{name(event['peer'])} is avoided for {event['seconds']:.1f} s: {event['reason']}"
            )
        case "clock_seen":
            return f"{name(event['peer'])}'s clock is {event['ahead_seconds']:.1f} s ahead of ours"
        case "island_chosen" | "island_dissolved":
            did = "helps" if event["kind"] == "island_chosen" else "gives up"
            return f"{name(event['peer'])} {did} island {event['island']}: {event['reason']}"
        case "paused":
            return f"{name(event['peer'])} pauses: {event['reason']}; resumes {event['resumes']}"
        case "resumed":
            return (
                f"{name(event['peer'])} is back after {event['seconds']:.0f} s: {event['reason']}"
            )
        case "waiting":
            return f"waiting: {event['reason']}"
    return ""


def _state(event: Mapping[str, Any], name: Names) -> str:
    """What is lost, comes back, is saved."""
    match event["kind"]:
        case "recovered":
            return (
                f"{name(event['peer'])} got stage {event['stage']} from a {event['tier']}: "
                f"{event['bytes_received']:,} bytes in {event['seconds']:.2f} s"
            )
        case "learned":
            return (
                f"{name(event['peer'])} learnt step {event['step']} beside the swarm "
                f"in {event['seconds']:.2f} s"
            )
        case "stage_lost":
            return f"stage {event['stage']} is lost at step {event['step']}: {event['reason']}"
        case "restored":
            other = "; from here on it is another model" if event["flagged"] else ""
            return (
                f"restored at step {event['step']} in {event['seconds']:.2f} s: "
                f"{event['reason']}{other}"
            )
        case "checkpoint_saved":
            return f"checkpoint {event['path']} saved in {event['seconds']:.2f} s"
        case "round_chosen" | "round_merged":
            did = "decided" if event["kind"] == "round_chosen" else "merged"
            where = f"stage {event['stage']}, fragment {event['fragment']}"
            codec = event.get("codec")
            sends = f"; the next sends in {codec}" if codec else ""
            return f"outer round {event['round']} {did} for {where}{sends}"
        case "diverged":
            return f"replicas of stage {event['stage']} disagree at step {event['step']}: {event['what']}"
        case "run_stopped":
            return f"the run ended after step {event['step']}: {event['reason']}"
    return ""


def _work(event: Mapping[str, Any], name: Names) -> str:
    """What happened to single microbatches and plans."""
    match event["kind"]:
        case "rerouted" | "hedged":
            how = "moved" if event["kind"] == "rerouted" else "sent again"
            ends = f"from {name(event['from_peer'])} to {name(event['to_peer'])}"
            where = f"step {event['step']}, microbatch {event['key']}, position {event['position']}"
            return f"{where}: {how} {ends}: {event['reason']}"
        case "replayed":
            return f"step {event['step']}: microbatch {event['key']} driven again from position {event['position']}"
        case "duplicate_dropped" | "key_voided":
            did = "a repeat dropped" if event["kind"] == "duplicate_dropped" else "left out"
            return f"step {event['step']}: microbatch {event['key']} {did}: {event['reason']}"
        case "paths_repaired":
            return (
                f"step {event['step']}: {event['visits']} planned visits got other replicas "
                f"in {1000 * event['seconds']:.0f} ms"
            )
        case "noted":
            return f"{event['what']}: {event['detail']}"
        case "measured":
            return f"a self-test: {event['reason']}"
    return ""


def _plain(event: Mapping[str, Any]) -> str:
    """Anything else, as it is."""
    told = ", ".join(f"{key} {value}" for key, value in event.items() if key != "kind")
    return f"{event['kind'].replace('_', ' ')}: {told}"


def _stages(stages: list[int]) -> str:
    return ("stages " if len(stages) != 1 else "stage ") + (", ".join(map(str, stages)) or "none")
