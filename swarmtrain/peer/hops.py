"""The caller's side of a hop: pick a replica of the next position, call it, hedge it when it is late, and reroute
when it falls silent (R7).

The bytes stay the same at every try, so peers further down answer from their stores. BUSY is back-pressure and
no failure. Tries go on until the step is decided without them, which cancels the task that waits here.

A call that takes far longer than another replica would (plan.deadlines) is late. The caller asks the late peer whether
the key is still there: if it is further down, whoever called there sees to it. Otherwise a second replica is called
beside it, and the first answer counts. The loser is told so and drops the key; if it holds it already, that is
retracted when the step is sealed (R2). Once a peer lost clearly, the other calls that wait for it are late as well.
"""

import asyncio
import itertools
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from swarmtrain.compute.lane import Kind, Task
from swarmtrain.core.config import RunConfig
from swarmtrain.core.events import Banned, CallFailed, Hedged, Noted, Record, Rerouted
from swarmtrain.core.messages import Hint, Open
from swarmtrain.core.sequences import Sequence, Sequences, turns_of
from swarmtrain.core.types import EDGE_STAGE, Item, PeerId, Route, Visit
from swarmtrain.peer.exchange import Exchange, Hop, Reply
from swarmtrain.peer.links import Links
from swarmtrain.peer.slots import Busy
from swarmtrain.peer.store import Answer
from swarmtrain.peer.worker import Worker
from swarmtrain.plan.deadlines import CLEAR_WIN, Deadlines
from swarmtrain.plan.wiring import Turn, Wiring, next_replica, route_of
from swarmtrain.plan.wiring_rules import wiring_rule

FIRST_PAUSE_SECONDS = 0.005
LONGEST_PAUSE_SECONDS = 0.5


class StepMoved(Exception):
    """The step was decided while a call for it was being made: its bytes have no place any more (I4)."""


@dataclass(slots=True)
class _Race:
    """The calls of one try: the first, and perhaps its hedge. Loop seconds.

    `hurry` is done when another call showed that the first one's peer is slow.
    """

    calls: "dict[PeerId, asyncio.Task[Reply]]"
    start_seconds: float
    hurry: "asyncio.Future[None]"
    hedge_seconds: float = 0.0
    ask_seconds: float = 0.0

    @property
    def waited_for(self) -> "list[asyncio.Future[Any]]":
        return [*self.pending, *([] if self.hurry.done() else [self.hurry])]

    @property
    def pending(self) -> "list[asyncio.Task[Reply]]":
        return [call for call in self.calls.values() if not call.done()]

    def winner(self) -> Reply | None:
        """The first call's reply if both have one; a refusal counts once nothing else is under way."""
        replies = [call.result() for call in self.calls.values() if call.done()]
        answers = [reply for reply in replies if reply.answer is not None]
        return next(iter(answers if answers or self.pending else replies), None)


class Hops:
    """Calls the next position of a route, on this peer or another."""

    def __init__(
        self, me: PeerId, config: RunConfig, worker: Worker, links: Links, record: Record
    ) -> None:
        self._me, self._config = me, config
        self._worker, self._record = worker, record
        self._exchange = Exchange(config, links, record)
        self._deadlines = Deadlines()
        rule, reason = wiring_rule(config.planner.wiring)
        if reason:
            record(Noted("wiring", reason))
        self._wiring = Wiring(rule, config.planner.wiring)
        self._links = links
        self._turns: tuple[Sequences, tuple[Sequence, ...], Counter[int]] = ((), (), Counter())
        self._calling: dict[tuple[int, Item], PeerId] = {}
        self._races: dict[PeerId, list[_Race]] = {}
        self._loop = asyncio.get_running_loop()

    async def call(
        self, opening: Open, item: Item, x_BTD: Tensor, route: Route, hints: tuple[Hint, ...]
    ) -> tuple[Answer, PeerId]:
        """The answer for `item` and who gave it. `route` may be empty: then it starts here."""
        position, key = item
        member = self._worker.member
        if member.is_at(opening):
            # The step may have been opened anew for another roster while the forward waited for the lane.
            opening = member.ledger.open or opening
        route = route or self._route(opening, key)
        hinted = next((hint.peer for hint in hints if hint.position == position), None)
        wanted = hinted or self._preferred(opening, item, route[position].peer)
        hop = Hop(opening, item, x_BTD, route, hints)
        tried: list[PeerId] = []
        pause_seconds = FIRST_PAUSE_SECONDS
        for hop.attempt in itertools.count():
            if not member.is_at(hop.opening):
                raise StepMoved
            hop.opening = member.ledger.open or hop.opening
            peer = next_replica(hop.replicas, key, wanted, tried)
            if hop.attempt and peer != wanted:
                reason = "the replica before did not answer"
                self._record(Rerouted(hop.opening.step, key, position, wanted, peer, reason))
            wanted = peer
            reply = await self._try(hop, peer)
            if reply.answer is not None:
                return reply.answer, reply.peer
            if reply.failed:
                tried.append(peer)
                tried = tried if len(tried) < len(hop.replicas) else []
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
        raise AssertionError("the loop above ends by returning or raising")

    def is_below(self, step: int, item: Item) -> bool:
        """Whether this peer handed the key of `item` on and waits for another peer."""
        position, key = item
        while (peer := self._calling.get((step, (position + 1, key)))) is not None:
            if peer != self._me:
                return True
            position += 1
        return False

    def _route(self, opening: Open, key: int) -> Route:
        """The way of a key that this peer leads or drives again: dealt, and as planned where there is a plan."""
        sequence = opening.sequence(key)
        turns = [self._turn(opening, (place, key)).number for place in range(1, len(sequence) + 1)]
        dealt = route_of(opening.roster, sequence, turns, self._me)
        return tuple(
            Visit(visit.stage, opening.planned(position, key) or visit.peer)
            for position, visit in enumerate(dealt)
        )

    def _turn(self, opening: Open, item: Item) -> Turn:
        """The turn of a key among those that visit the stage of this middle position in this step."""
        position, key = item
        sequences = opening.sequences
        if len(sequences) == 1:
            return Turn(key, opening.microbatches)
        if self._turns[0] is not sequences:
            visits = Counter(stage for sequence in sequences for stage in sequence)
            self._turns = (sequences, turns_of(sequences), visits)
        _, turns, visits = self._turns
        return Turn(turns[key][position - 1], visits[sequences[key][position - 1]])

    def _preferred(self, opening: Open, item: Item, dealt: PeerId) -> PeerId:
        """The planned replica while it is there and not avoided; else what wiring chooses among those that are not
        avoided, or among all if all are."""
        now, is_avoided = self._loop.time(), self._deadlines.is_avoided
        stage, (position, key) = opening.stage_at(*item), item
        replicas = opening.roster.replicas(stage)
        if stage == EDGE_STAGE:
            return dealt
        planned = opening.planned(*item)
        if planned is not None and planned in replicas and not is_avoided(planned, now):
            return planned
        if not replicas:
            return dealt
        turn = self._turn(opening, item)
        chosen = self._wiring.choose(stage, replicas, turn, position, now)
        if not is_avoided(chosen, now):
            return chosen
        others = [peer for peer in replicas if not is_avoided(peer, now)] or replicas
        other = self._wiring.choose(stage, others, turn, position, now)
        reason = "it was much slower than its replicas and is avoided for a while"
        if other != chosen:
            self._record(Rerouted(opening.step, key, position, chosen, other, reason))
        return other

    async def _try(self, hop: Hop, peer: PeerId) -> Reply:
        start_seconds = self._loop.time()
        place = (hop.opening.step, hop.item)
        self._calling[place] = peer
        try:
            if peer == self._me:
                reply = await self._call_local(hop)
                self._measure(hop, reply, start_seconds)
                return reply
            reply = await self._race(hop, peer)
        finally:
            self._calling.pop(place, None)
        lane = self._worker.positions.lane
        to = reply.peer if reply.answer is not None else ""
        lane.note(Task(Kind.HOP, hop.stage, key=hop.item[1], to=to), start_seconds)
        return reply

    async def _call_local(self, hop: Hop) -> Reply:
        try:
            answer = await self._worker.enter_local(
                hop.opening, hop.item, hop.x_BTD, hop.route, hop.hints
            )
        except Busy:
            return Reply(self._me, None)
        return Reply(self._me, answer, lane_seconds=self._worker.lane_seconds)

    # ---- a call and its hedge -----------------------------------------------------------------------------------

    async def _race(self, hop: Hop, peer: PeerId) -> Reply:
        """Call `peer`, and another replica beside it if it is late; the first answer counts."""
        race = _Race({}, self._loop.time(), self._loop.create_future())
        race.ask_seconds = race.start_seconds
        self._races.setdefault(peer, []).append(race)
        self._start(race, hop, peer)
        try:
            while (reply := race.winner()) is None:
                wait_seconds = self._patience_seconds(race, hop, peer)
                await asyncio.wait(
                    race.waited_for, timeout=wait_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                if race.winner() is None and self._is_out(peer):
                    self._record(CallFailed(peer, "it is not in the roster any more"))
                    return Reply(peer, None, failed=True)
                if race.winner() is None:
                    await self._hedge_if_late(race, hop, peer)
            self._judge(race, hop, peer, reply)
            return reply
        finally:
            self._races[peer].remove(race)
            for called, call in race.calls.items():
                if not call.done() and self._worker.member.is_at(hop.opening):
                    self._exchange.withdraw(hop, called)
                call.cancel()
                self._deadlines.end(called)

    def _start(self, race: _Race, hop: Hop, peer: PeerId) -> None:
        self._deadlines.begin(peer, hop.opening.step)
        race.calls[peer] = asyncio.ensure_future(self._exchange.call(hop, peer))

    def _is_out(self, peer: PeerId) -> bool:
        """A peer that left the roster may live on and go on sending progress notes for work nobody will count."""
        opening = self._worker.member.ledger.open
        return opening is not None and peer not in opening.roster

    def _limit(self, hop: Hop, peer: PeerId) -> tuple[float, PeerId] | None:
        """After how long a call to `peer` is late, and who takes over; never below the pace of signs of life."""
        now, (position, key) = self._loop.time(), hop.item
        late = self._deadlines.late(position, peer, hop.replicas, key, now)
        if late is None:
            return None
        return max(late[0], self._config.links.heartbeat_seconds / 2), late[1]

    def _patience_seconds(self, race: _Race, hop: Hop, peer: PeerId) -> float:
        links = self._config.links
        if not self._may_hedge(race):
            return links.silence_seconds
        late = self._limit(hop, peer)
        due_seconds = math.inf if late is None else race.ask_seconds + late[0] - self._loop.time()
        # Other answers meanwhile may make the limit known, or another.
        return min(max(due_seconds, 0.0), links.heartbeat_seconds)

    def _may_hedge(self, race: _Race) -> bool:
        return self._config.limits.hedge and len(race.calls) == 1

    async def _hedge_if_late(self, race: _Race, hop: Hop, peer: PeerId) -> None:
        late, now = self._limit(hop, peer), self._loop.time()
        if late is None or not self._may_hedge(race) or now < race.ask_seconds + late[0]:
            return
        race.ask_seconds = now
        if not self._deadlines.allows_hedge(peer, now) or await self._exchange.is_below(
            hop, peer, late[0]
        ):
            return
        if race.winner() is not None:
            return
        limit_seconds, other = late
        now = self._loop.time()
        reason = (
            f"no answer after {now - race.start_seconds:.3g} s, where {limit_seconds:.3g} s are "
            f"plenty for {other}; the key is still there"
        )
        self._record(Hedged(hop.opening.step, hop.item[1], hop.item[0], peer, other, reason))
        self._deadlines.hedged()
        race.hedge_seconds = now
        self._start(race, hop, other)

    def _judge(self, race: _Race, hop: Hop, peer: PeerId, reply: Reply) -> None:
        """Remember how long the answer took; a first call that lost clearly costs its peer new calls."""
        if reply.peer == peer:
            self._measure(hop, reply, race.start_seconds)
            return
        self._measure(hop, reply, race.hedge_seconds)
        now = self._loop.time()
        waited_seconds, took_seconds = now - race.start_seconds, now - race.hedge_seconds
        if race.calls[peer].done() or took_seconds > CLEAR_WIN * waited_seconds:
            return
        seconds = self._deadlines.lost(hop.item[0], peer, waited_seconds, now)
        if seconds is not None:
            reason = (
                f"{reply.peer} took {took_seconds:.3g} s for what it had for {waited_seconds:.3g} s"
            )
            self._record(Banned(peer, seconds, reason))
            for other in self._races[peer]:
                if not other.hurry.done():
                    other.hurry.set_result(None)

    def _measure(self, hop: Hop, reply: Reply, start_seconds: float) -> None:
        if reply.answer is not None and not reply.answer.is_void:
            late = self._limit(hop, reply.peer)
            seconds = self._loop.time() - start_seconds
            limit_seconds = late[0] if late is not None else seconds
            self._deadlines.answered(hop.item[0], reply.peer, seconds, limit_seconds)
            occupied_seconds = max(reply.lane_seconds, self._line_seconds(hop, reply.peer))
            self._wiring.answered(hop.stage, reply.peer, occupied_seconds, self._loop.time())

    def _line_seconds(self, hop: Hop, peer: PeerId) -> float:
        """How long the request held the line to `peer`; 0 if its rate is not known."""
        figures = self._links.figures(peer)
        if hop.encoded is None or figures is None or not figures.bytes_per_second:
            return 0.0
        return len(hop.encoded[1]) / figures.bytes_per_second
