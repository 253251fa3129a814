"""What a run owner reads: names, wherever an event speaks of a peer."""

import json
from types import SimpleNamespace

from swarmtrain.cli.story import Story
from swarmtrain.coordinator.state import RunState, apply
from swarmtrain.core.events import Banned, PeerJoined
from swarmtrain.core.types import PeerId
from swarmtrain.monitor.journal import journal_line

ANNA, BERT = PeerId("a" * 32), PeerId("b" * 32)


def test_peers_have_names_in_reasons_too():
    told: list[str] = []
    story, state = Story(SimpleNamespace(note=told.append)), RunState()  # type: ignore[arg-type]
    for event in (
        PeerJoined(ANNA, "anna", "", (0,)),
        PeerJoined(BERT, "bert", "", (1,)),
        Banned(BERT, 9.7, f"{ANNA} took 0.035 s for what it had for 0.97 s"),
    ):
        entry = json.loads(journal_line(event, 1.0, ANNA))
        state = apply(state, entry)
        story(state, entry)
    assert told == ["bert is avoided for 9.7 s: anna took 0.035 s for what it had for 0.97 s"]
