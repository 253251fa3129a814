"""Who takes over: also when the conductor promised its place to somebody who never took it."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from swarmtrain.core.clock import run_virtual
from swarmtrain.core.events import Event
from swarmtrain.core.messages import Join, Nack, Promise
from swarmtrain.core.types import Digest, Member, PeerId, Roster
from swarmtrain.peer.conducting import MOST_ASKED, Conducting
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


def test_of_many_edges_a_few_are_asked_at_a_time_and_all_in_turn():
    """All peers of a large island that wait would otherwise have links to all of its edges."""

    async def main() -> None:
        edges = [Member(PeerId(f"e{number:03}"), (0,), "") for number in range(100)]
        everybody = Roster.of(1, [*edges, *ROSTER.members])
        here, asked = conducting(), dict[PeerId, int]()
        here.first_roster(everybody)
        for _ in range(25):
            effects = here.ask_in()
            receivers = list(dict.fromkeys(e.to for e in effects if isinstance(e, Send)))
            assert len(receivers) == MOST_ASKED and ME not in receivers
            assert OTHER in receivers, "it is known to conduct"
            assert {PeerId("e000"), PeerId("e001")} <= set(receivers), "one of the lowest stood"
            for peer in receivers:
                asked[peer] = asked.get(peer, 0) + 1
        assert set(asked) == set(everybody.edges) - {ME}
        few = [PeerId(f"e{number:03}") for number in range(MOST_ASKED)]
        assert [e.to for e in here.ask_in(few) if isinstance(e, Send)][::2] == few

    run_virtual(main())


def test_a_process_started_again_under_its_name_is_lost_to_a_candidate():
    """It counts in no majority, and is not waited for."""

    async def main() -> None:
        here = conducting()
        here.stand(ROSTER, "nobody conducts")
        candidate = here.candidate
        assert candidate is not None
        anew = Promise(candidate.term, 0, 0, b"of the beginning", 0, None, None, None)
        here.handle(MIDDLE, anew)
        assert not candidate.promises and list(here._lost) == [MIDDLE]
        here.handle(MIDDLE, replace(anew, step=3, base=BASE))
        assert not candidate.promises, "it has others' state by now"
        here.handle(OTHER, replace(anew, step=3, base=BASE))
        assert list(candidate.promises) == [OTHER] and OTHER not in here._lost

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
