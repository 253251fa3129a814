"""Who takes over: also when the conductor promised its place to somebody who never took it."""

from types import SimpleNamespace
from typing import Any

from swarmtrain.core.clock import run_virtual
from swarmtrain.core.events import Event
from swarmtrain.core.messages import Join, Nack
from swarmtrain.core.types import Digest, Member, PeerId, Roster
from swarmtrain.peer.conducting import Conducting
from swarmtrain.steps.effects import Send
from swarmtrain.steps.member import StepMember
from tests.experiments.runs import small_config

ME, OTHER, MIDDLE = PeerId("a"), PeerId("b"), PeerId("c")
ROSTER = Roster.of(1, [Member(ME, (0,), ""), Member(OTHER, (0,), ""), Member(MIDDLE, (1, 2), "")])
BASE = Digest(bytes(32))
TERM = 1000


def conducting() -> Conducting:
    """Of the lowest edge, which knows the other one as conductor of `TERM`."""
    member = StepMember(ME, (0,), 3, BASE)
    member.term, member.conductor = TERM, OTHER
    events: list[Event] = []
    parts: Any = SimpleNamespace(
        me=ME,
        member=member,
        record=events.append,
        config=small_config(),
        lane=SimpleNamespace(is_modelled=True),
        outer=None,
        own=ROSTER.member(ME),
    )
    made = Conducting(parts, lambda error: None)
    made.first_roster(ROSTER)
    return made


def test_who_asks_a_peer_that_does_not_conduct_hears_which_term_it_promised():
    async def main() -> None:
        own = ROSTER.member(MIDDLE)
        assert own is not None
        assert conducting().handle(MIDDLE, Join(own, 3, BASE)) == [Send(MIDDLE, Nack(TERM))]

    run_virtual(main())


def test_a_conductor_that_promised_its_place_to_another_conducts_no_more():
    """Who that was may be gone: the others would ask this peer to stand, and it would ask the one that resigned."""

    async def main() -> None:
        waiting = conducting()
        waiting.repeat()
        assert waiting.candidate is None
        waiting.handle(MIDDLE, Nack(TERM + 5))
        waiting.repeat()
        assert waiting.candidate is None, "what others promised says nothing about the conductor"
        waiting.handle(OTHER, Nack(TERM + 5))
        waiting.repeat()
        assert waiting.candidate is not None and waiting.candidate.term > TERM + 5

    run_virtual(main())
