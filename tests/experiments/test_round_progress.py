"""How far islands must come: not further than those who are there while they train."""

from dataclasses import replace

from swarmtrain.core.events import Event, PeerJoined, RoundMerged, RunStopped, StepCommitted
from swarmtrain.core.types import PeerId
from swarmtrain.experiments.round_progress import missing_rounds, of_run
from swarmtrain.experiments.virtual import VirtualRun
from tests.experiments.island_worlds import config_of

CONFIG = config_of("outer.delay_steps=1")
A, B = PeerId("a"), PeerId("b")


def run_of(begins_seconds: float, rounds: int) -> VirtualRun:
    """Island 1 trains from second 1 to 9 and merges all its rounds; island 0 begins at `begins_seconds`."""
    step = StepCommitted(0, 1.0, 8, 1.0, 0.1, 1.0, (), "")
    merged = [
        (8.0, peer, RoundMerged(stage, 0, number, "merge", 5, "", 0, 0))
        for peer, last in ((A, rounds), (B, 5))
        for stage in range(3)
        for number in range(1, last + 1)
    ]
    events: list[tuple[float, PeerId, Event]] = [
        (0.5, A, PeerJoined("a", "a", "", (0, 1, 2), 0)),
        (0.5, B, PeerJoined("b", "b", "", (0, 1, 2), 1)),
        (begins_seconds, A, step),
        (1.0, B, step),
        (begins_seconds + 4.0, A, replace(step, step=9)),
        *merged,
        (9.0, B, RunStopped(24, True, "the last step is committed")),
        (begins_seconds + 8.0, A, RunStopped(24, True, "the last step is committed")),
    ]
    return VirtualRun(islands={"a": 0, "b": 1}, island_risks={0: "", 1: ""}, events=events)


def test_an_island_owes_all_rounds_unless_it_began_when_others_had_ended() -> None:
    lacks = "island 0, stage 0, fragment 0: 3 of 5 rounds were merged"
    assert missing_rounds(CONFIG, of_run(run_of(1.0, 3))) == lacks
    assert missing_rounds(CONFIG, of_run(run_of(8.9, 3))) == lacks
    assert missing_rounds(CONFIG, of_run(run_of(9.1, 3))) == ""
    assert "no round counted" in missing_rounds(CONFIG, of_run(run_of(1.0, 5)))
