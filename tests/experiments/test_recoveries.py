"""The marks of a recovery, read from events: who noticed, when the roster changed, when the next step was there."""

from typing import Any

from swarmtrain.core.sections import LinksSection
from swarmtrain.core.types import PeerId
from swarmtrain.experiments.injections import Seen
from swarmtrain.experiments.recoveries import (
    detection,
    detection_bound_seconds,
    first_commit,
    percentile,
    reassignment,
)

CONDUCTOR, OTHER, VICTIM = PeerId("conductor"), PeerId("other"), PeerId("victim")


def seen(*entries: tuple[float, PeerId, str, dict[str, Any]]) -> list[Seen]:
    return [
        Seen(index, at, at, peer, {"kind": kind, **fields})
        for index, (at, peer, kind, fields) in enumerate(entries)
    ]


def test_the_first_sign_counts_whoever_gives_it() -> None:
    entries = seen(
        (1.0, OTHER, "lost", {"peer": OTHER}),
        (2.0, OTHER, "rerouted", {"from_peer": VICTIM}),
        (3.0, CONDUCTOR, "lost", {"peer": VICTIM}),
    )
    found = detection(entries, VICTIM)
    assert found is not None and found.at_seconds == 2.0
    assert detection(entries[:1], VICTIM) is None
    called = detection(seen((4.0, OTHER, "call_failed", {"peer": VICTIM})), VICTIM)
    assert called is not None and called.at_seconds == 4.0


def test_the_roster_changes_when_the_conductor_loses_the_peer_or_another_takes_over() -> None:
    entries = seen(
        (1.0, OTHER, "lost", {"peer": VICTIM}),
        (2.0, CONDUCTOR, "lost", {"peer": VICTIM}),
        (3.0, OTHER, "term_started", {"peer": OTHER}),
    )
    changed = reassignment(entries, VICTIM, CONDUCTOR)
    assert changed is not None and changed.at_seconds == 2.0
    taken_over = reassignment(entries, CONDUCTOR, CONDUCTOR)
    assert taken_over is not None and taken_over.at_seconds == 3.0
    assert reassignment(entries[:1], VICTIM, CONDUCTOR) is None


def test_a_commit_before_the_roster_changed_proves_nothing() -> None:
    entries = seen(
        (1.0, CONDUCTOR, "step_committed", {"step": 4}),
        (2.0, CONDUCTOR, "step_committed", {"step": 5}),
    )
    found = first_commit(entries, 1.5)
    assert found is not None and found.event["step"] == 5
    assert first_commit(entries, 2.5) is None


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(1, 21)]
    assert (percentile(values, 50), percentile(values, 95), percentile(values, 100)) == (10, 19, 20)
    assert percentile([3.0], 95) == 3.0


def test_the_bound_follows_from_the_settings() -> None:
    assert detection_bound_seconds(LinksSection()) == 5.0
    quick = LinksSection(heartbeat_seconds=0.5, silence_seconds=1.5, connect_seconds=1.0)
    assert detection_bound_seconds(quick) == 2.5
