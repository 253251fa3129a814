"""What a group has in common, for who missed rounds of it: served to others, and fetched where this island is behind.

An outer state may take longer to fetch than a round lasts, and the group does not wait. So whoever serves one keeps it,
and with it what the rounds since were decided on and made of (`outer.group` tells, `peer.payloads` serves): its guest
goes over to the state it fetched, and from there takes one round's result after the other, each of them a fraction of a
state. That is kept as long as the guest asks for it, and no more of it than `MOST_STATES` states would take: who needs
more gets them no faster than they are made.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from swarmtrain.compute.lane import Kind, Task
from swarmtrain.core.events import Noted
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import PeerId
from swarmtrain.outer.director import Place
from swarmtrain.outer.effects import Behind, Waits
from swarmtrain.outer.group import RoundGroup
from swarmtrain.peer.merging import Unreachable
from swarmtrain.peer.parts import Parts
from swarmtrain.peer.payloads import Payloads
from swarmtrain.peer.restore import now_seconds
from swarmtrain.peer.stage_rounds import GroupState, OuterStates, fetch_state, state_answer
from swarmtrain.transport.link import Message
from swarmtrain.transport.requests import OuterStateRequest

MOST_COPIES = 2
"""Of the outer state of one place, at different rounds, for guests that came at different times."""

MOST_STATES = 2
"""Bytes that may be kept of one place for guests beside copies, in outer states: with u of a state made while one is
fetched, catching up takes u / (1 - u) of it."""


@dataclass(slots=True)
class _Guest:
    """Who catches up from here: the round that it is at, or will be once it has the state, and when it last asked."""

    round: int
    asked_seconds: float
    is_here: bool = False
    """Whether it has come to that round, and speaks of it."""


class GroupStates:
    """Those of the places of one peer. `arrived()` is called when a state is here that a decision may name."""

    def __init__(
        self,
        parts: Parts,
        states: OuterStates,
        payloads: Payloads,
        waits: Waits,
        arrived: Callable[[], Awaitable[None]],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._parts, self._states, self._payloads = parts, states, payloads
        self._waits, self._arrived, self._tasks = waits, arrived, Tasks(failed)
        self.received_bytes, self.served_bytes = Counter[Place](), Counter[Place]()
        """Of outer states, counted as those of `payloads` are."""
        self.ahead: dict[Place, GroupState] = {}
        """What this island may go over to."""
        self._copies: dict[Place, dict[int, GroupState]] = {}
        self._guests: dict[Place, dict[PeerId, _Guest]] = {}
        self._fetching: dict[Place, asyncio.Task[None]] = {}
        self._behind_since: dict[Place, float] = {}
        self._following: dict[Place, int] = {}

    async def close(self) -> None:
        await self._tasks.cancel_all()

    # ---- for others ---------------------------------------------------------------------------------------------

    async def answer(self, asker: PeerId, request: OuterStateRequest, is_here: bool) -> Message:
        """A piece of an outer state; all pieces of one answer are of one round. `is_here`: whether the place is."""
        place, number = (request.stage, request.fragment), request.round
        if not is_here:
            return state_answer(None, request)
        copies = self._copies.setdefault(place, {})
        copy, ahead = copies.get(number), self.ahead.get(place)
        if copy is None and request.length_bytes == 0 and number <= self._newest(place):
            is_ahead = ahead is not None and self._states.key(place).round < number
            copy = ahead if is_ahead and ahead is not None else await self._held(place)
            copies[copy.state.round] = copy
            if len(copies) > MOST_COPIES:
                del copies[min(copies)]
        if copy is None:
            return state_answer(None, request)
        guest = _Guest(copy.state.round, now_seconds())
        self._guests.setdefault(place, {})[asker] = guest
        answer = state_answer(copy, request)
        self.served_bytes[place] += len(answer.body)
        return answer

    def _newest(self, place: Place) -> int:
        ahead, here = self.ahead.get(place), self._states.key(place).round
        return here if ahead is None else max(here, ahead.state.round)

    async def _held(self, place: Place) -> GroupState:
        """A copy of the outer state here, for good."""

        def copy() -> GroupState:
            member = self._states.member(place)
            state, counted = member.state.copy(), dict(member.counted)
            return GroupState(state, self._states.members[place], state.digest(), counted)

        return await self._parts.lane.submit(Task(Kind.STATE, place[0], name="outer state"), copy)

    def heard(self, place: Place, sender: PeerId, number: int) -> None:
        """`sender` speaks of round `number`: a guest may be further on by now."""
        guest = self._guests.get(place, {}).get(sender)
        if guest is not None:
            guest.is_here = number >= guest.round
            guest.round, guest.asked_seconds = max(guest.round, number), now_seconds()

    def kept_from(self, place: Place, current: int) -> int:
        """The first round whose decision and payloads are still needed here; `current` where nobody catches up."""
        now, guests = now_seconds(), self._guests.get(place, {})
        for peer, guest in list(guests.items()):
            is_gone = now > guest.asked_seconds + self._waits.gather
            if is_gone or (guest.round >= current and guest.is_here):
                del guests[peer]
        wanted, copies = {guest.round for guest in guests.values()}, self._copies.get(place, {})
        for number in copies.keys() - wanted:
            del copies[number]
        state = self._states.member(place).state
        most_bytes = MOST_STATES * (state.parameters.nbytes + state.momentum.nbytes)
        while guests:
            first = min(guest.round for guest in guests.values())
            if self._payloads.bytes_between(place, first, current) <= most_bytes:
                return first
            for peer in [p for p, guest in guests.items() if guest.round == first]:
                del guests[peer]
        return current

    # ---- where this island is behind ----------------------------------------------------------------------------

    def follows_to(self, place: Place) -> int:
        """The round that this island is on its way to, result by result; 0 where it is not."""
        return self._following.get(place, 0)

    def look(self, place: Place, group: RoundGroup, is_result_coming: bool) -> None:
        """A group that is further on for longer than its messages take was missed: fetch what it has in common.

        `is_result_coming`: this round's is here, or on its way.
        """
        if place in self._following and group.behind is not None:
            self._following[place] = max(self._following[place], group.behind.round)
        if group.round >= self._following.get(place, 0):
            self._following.pop(place, None)
        if group.behind is None:
            self._behind_since.pop(place, None)
            return
        since = self._behind_since.setdefault(place, now_seconds())
        ahead, fetching = self.ahead.get(place), self._fetching.get(place)
        is_idle = fetching is None or fetching.done()
        is_known = ahead is not None and ahead.state.round > group.round
        if not is_idle or is_known or is_result_coming:
            return
        # What was decided just now the group still tells, and what came behind a state whoever gave that.
        may_hear = place in self._following or group.behind.round == group.round + 1
        if not may_hear or now_seconds() > since + self._waits.patience:
            self._following.pop(place, None)
            work = self._fetch_ahead(place, group.behind)
            self._fetching[place] = self._tasks.spawn(work, f"catch up {place}")

    async def _fetch_ahead(self, place: Place, behind: Behind) -> None:
        try:
            found = await self.fetch(place, behind.peer, behind.round)
        except Unreachable as error:
            self._parts.record(Noted("the group's outer state cannot be had", str(error)))
            return
        self.ahead[place] = found
        self._following[place] = found.state.round
        self._states.arrived[place, found.digest] = found
        await self._arrived()

    async def fetch(self, place: Place, peer: PeerId, number: int) -> GroupState:
        """The outer state that `peer` has, of round `number` or later. Raises Unreachable."""
        link = await self._parts.links.to(peer)
        member = self._states.member(place)
        elements, optimizer = member.fragment.elements, self._states.settings.optimizer
        silence_seconds = self._parts.config.links.silence_seconds

        async def ask(request: OuterStateRequest) -> Message:
            asked = Message(request.encode())
            answer = await link.call("outer_state", asked, silence_seconds=silence_seconds)
            self.received_bytes[place] += len(answer.body)
            return answer

        return await fetch_state(ask, place, number, elements, optimizer)

    # ---- places that come and go --------------------------------------------------------------------------------

    def advanced(self, place: Place) -> None:
        """This island is in another round of `place`."""
        ahead = self.ahead.get(place)
        if ahead is not None and ahead.state.round <= self._states.key(place).round:
            del self.ahead[place]
        self._behind_since.pop(place, None)

    def dropped(self, place: Place) -> None:
        """This peer answers for `place` no more."""
        fetching = self._fetching.pop(place, None)
        if fetching is not None:
            fetching.cancel()
        self.ahead.pop(place, None)
        self._copies.pop(place, None)
        self._guests.pop(place, None)
        self._following.pop(place, None)
        self._behind_since.pop(place, None)
