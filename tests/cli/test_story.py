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


def test_each_peer_is_introduced_once_and_with_its_stages():
    """Two islands have a first step each; in the first island's, the second one's peer has no stages yet."""
    told: list[str] = []
    story = Story(SimpleNamespace(note=told.append))  # type: ignore[arg-type]
    views = {
        "anna": SimpleNamespace(name="anna", stages=(0, 1), reason="every stage is needed"),
        "bert": SimpleNamespace(name="bert", stages=(), reason="so are its"),
    }
    for stages in ((), (0, 1)):
        views["bert"].stages = stages
        state = SimpleNamespace(live_peers=list(views.values()))
        story._introduce(state)  # type: ignore[arg-type]
    assert told == ["anna: stages 0, 1. every stage is needed", "bert: stages 0, 1. so are its"]
