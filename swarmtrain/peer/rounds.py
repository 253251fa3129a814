"""Drives the outer rounds of a peer's stages: its groups' machines, what they gather, and news for the conductor.

A round runs beside training and moves nothing by itself. A decision of the island's step protocol has a contribution
made or a result taken (`outer.director`), so all replicas do it behind the same step or none does; here everything that
a decision names is brought to this peer before it is applied.
"""

import asyncio
import functools
from collections.abc import Callable, Sequence

from swarmtrain.core.closing import PlaceNews, RoundWork, RoundWorkKind
from swarmtrain.core.errors import StateError
from swarmtrain.core.events import Noted, RoundChosen, RoundMerged, RoundSent
from swarmtrain.core.messages import Commit, Open, RoundNews
from swarmtrain.core.rounds import Choice, Measured, RoundMessage
from swarmtrain.core.sequences import sequence_of, stage_sequences
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import EDGE_STAGE, PeerId, Roster
from swarmtrain.outer.director import Place
from swarmtrain.outer.effects import Chosen, Effect, Gather, Note, Seat, SendRound, Waits
from swarmtrain.outer.group import RoundGroup
from swarmtrain.outer.parcel import Table
from swarmtrain.outer.signed import Signing
from swarmtrain.outer.slack import RESULT_SECONDS, Slack
from swarmtrain.peer.group_states import GroupStates
from swarmtrain.peer.merging import Job, Merging, Unreachable
from swarmtrain.peer.parts import Parts
from swarmtrain.peer.payloads import Payloads
from swarmtrain.peer.restore import now_seconds
from swarmtrain.steps.ballot import list_version
from swarmtrain.steps.keys import unpack_keys
from swarmtrain.swarm.identity import peer_id_of, verify
from swarmtrain.transport.link import Message
from swarmtrain.transport.messages import encode_round
from swarmtrain.transport.requests import OuterStateRequest

FIRST_ROSTER_VERSION = 1
NOTHING_TO_WEIGH = bytes(32)
"""In place of a payload's digest, with an offer of no tokens, which no round counts."""

# A decision is told by many, and whoever chaired it has checked its votes before.
_is_signed = functools.lru_cache(maxsize=1024)(verify)


class OuterRounds:
    """The rounds at one peer. `tell(news)` brings news to the conductor of this peer's island."""

    def __init__(
        self,
        parts: Parts,
        tell: Callable[[RoundNews], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        config = parts.config
        assert parts.outer is not None, "the run has outer rounds"
        self._parts, self.island, self._tell = parts, parts.island, tell
        self.states = parts.outer
        key, silence_seconds = parts.identity, config.links.silence_seconds
        self._signing = Signing(config.hash, key.public_key, key.sign, peer_id_of, _is_signed)
        # The other half of the grace window is for what is on its way by then.
        grace_seconds = (config.outer.grace_seconds or RESULT_SECONDS) / 2
        self._waits = Waits(silence_seconds, grace_seconds, 20 * silence_seconds)
        self._slack = Slack(config)
        self.payloads = Payloads(
            parts.me, parts.links.to, silence_seconds, self._waits.gather, failed
        )
        self.group_states = GroupStates(
            parts, parts.outer, self.payloads, self._waits, self._notify, failed
        )
        self.merging = Merging(parts.me, parts.outer, self.payloads, parts.lane, parts.record)
        self._groups: dict[Place, RoundGroup] = {}
        self._others: dict[PeerId, tuple[int, ...]] = {}
        self._version, self._roster, self._confirmed = 0, Roster.of(0, ()), 0
        self._gathering: dict[Place, asyncio.Task[None]] = {}
        self._unoffered_since: dict[Place, float] = {}
        self._stuck_since: dict[Place, float] = {}
        self._begun_at: dict[Place, float] = {}
        self._absent_since: dict[tuple[int, ...], float] = {}
        self._said_absent: set[tuple[int, ...]] = set()
        self._came_at = now_seconds()
        self._arrived = asyncio.Condition()
        self._tasks = Tasks(failed)
        self._tasks.spawn(self._tick(), "rounds")

    async def close(self) -> None:
        await self._tasks.cancel_all()
        await self.group_states.close()
        await self.payloads.close()

    # ---- who is there -------------------------------------------------------------------------------------------

    def look(self) -> None:
        """The open step's roster says which siblings answer for the island with this peer."""
        member = self._parts.member
        if member.ledger.open is not None:
            self._take_list(member.ledger.open)
        if (confirmed := member.confirmed) != self._confirmed:
            self._confirmed = confirmed
            for group in self._groups.values():
                group.confirm(confirmed)

    def _take_list(self, opening: Open) -> None:
        version = list_version(opening.term, opening.roster.version)
        mine = opening.roster.member(self._parts.me)
        if version <= self._version or mine is None:
            return
        self._version, self._roster = version, opening.roster
        begins = opening.step == self.states.first_step
        is_first = begins and opening.roster.version == FIRST_ROSTER_VERSION and not mine.since
        for place in [known for known in self._groups if known[0] not in self.states.stages]:
            self._drop(place)
        for place in self.states.places:
            self._begun_at.setdefault(place, now_seconds())
            siblings = opening.roster.replicas(place[0])
            group = self._groups.get(place)
            if group is not None:
                group.set_peers(version, siblings, mine.since)
            elif self._parts.me in siblings:
                seat = Seat(self._parts.me, self.island, version, siblings, self._signing)
                settings, sizes = self.states.settings, self.states.sizes(place)
                self._groups[place] = RoundGroup(
                    place, seat, self._waits, is_first, sizes, settings.distortion
                )
                self._groups[place].confirm(self._confirmed)
                self._meet(place, self._others)
                self._advance(place)
                if place in self.states.under_way:
                    self.states.under_way.discard(place)
                    self._sent(place)
        self.tell()

    def meet(self, peer: PeerId, stages: tuple[int, ...]) -> None:
        """A peer of another island hosts `stages`."""
        if self._others.get(peer) != stages:
            self._others[peer] = stages
            for place in self._groups:
                self._meet(place, (peer,))

    def _meet(self, place: Place, peers: Sequence[PeerId] | dict[PeerId, tuple[int, ...]]) -> None:
        for peer in peers:
            if place[0] in self._others[peer]:
                self._act(place, self._groups[place].seen(peer))

    def lost(self, peer: PeerId) -> None:
        """`peer` cannot be reached."""
        for group in self._groups.values():
            group.lost(peer)

    def _drop(self, place: Place) -> None:
        del self._groups[place]
        gathering = self._gathering.pop(place, None)
        if gathering is not None:
            gathering.cancel()
        self.group_states.dropped(place)

    def follow(self) -> None:
        """What the stages here hold has moved, or was replaced by siblings' state, a snapshot or a checkpoint.

        Where this island went back, what it voted since is lost with what it knew: it takes a new seat under the
        next roster.
        """
        for place in list(self._groups):
            is_here = place[0] in self.states.stages and place[0] not in self.states.stranded
            if is_here and self.states.key(place).round >= self._groups[place].round:
                self._advance(place)
            else:
                self._drop(place)

    def _advance(self, place: Place) -> None:
        """The group's machine follows the outer state that is here."""
        if place[0] in self.states.stranded:
            return
        key, group = self.states.key(place), self._groups[place]
        members = self.states.members[place]
        sizes = self.states.sizes(place)
        self._act(place, group.advance(key.round, key.base, members, now_seconds(), sizes))
        self.group_states.advanced(place)

    # ---- messages -----------------------------------------------------------------------------------------------

    def receive(self, sender: PeerId, message: RoundMessage) -> None:
        place = (message.stage, message.fragment)
        group = self._groups.get(place)
        if group is not None:
            # Whoever is heard of for the first time knows as little of this peer: the next tick may be far off.
            self.group_states.heard(place, sender, message.round)
            self._act(place, group.seen(sender))
            self._act(place, group.handle(sender, message, now_seconds()))

    @property
    def served_bytes(self) -> int:
        return self.payloads.served_bytes.total() + self.group_states.served_bytes.total()

    @property
    def is_seeking(self) -> bool:
        """Whether no other island is known, and for no longer than a record in the directory lives."""
        life_seconds = self._parts.config.swarm.announce_seconds
        return not self._others and now_seconds() < self._came_at + life_seconds

    async def answer_state(self, asker: PeerId, request: OuterStateRequest) -> Message:
        """A piece of the outer state here; all pieces of one answer are of one round."""
        place = (request.stage, request.fragment)
        is_here = place in self._groups and place[0] not in self.states.stranded
        return await self.group_states.answer(asker, request, is_here)

    def _act(self, place: Place, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendRound(to, message):
                    self._parts.links.tell(to, "round", encode_round(message))
                case Gather(choice=choice, holders=holders):
                    self._gather(place, effect, choice, holders)
                case Chosen(choice, holders):
                    self._chosen(place, choice, holders)
                case Note(event):
                    self._parts.record(event)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._parts.config.links.heartbeat_seconds)
            for place, group in list(self._groups.items()):
                self._act(place, group.tick(now_seconds()))
                self._catch_up(place, group)
                self._own_up(place, group)
            self._miss()
            self.tell()

    def _catch_up(self, place: Place, group: RoundGroup) -> None:
        """Of this island, where it is behind, and of others that have asked for what is here."""
        choice, gathering = group.choice, self._gathering.get(place)
        is_at_work = gathering is not None and not gathering.done()
        is_coming = choice is not None and (is_at_work or self._has(place, choice))
        self.group_states.look(place, group, is_coming)
        self._try_again(place, group, choice is not None and not is_coming)
        group.kept_from = self.group_states.kept_from(place, group.round)
        self.payloads.keep_from(place, group.kept_from)

    def _try_again(self, place: Place, group: RoundGroup, is_lacking: bool) -> None:
        """Where what was decided could not be had, and nobody who is further on is heard."""
        if not is_lacking or group.behind is not None:
            self._stuck_since.pop(place, None)
            return
        now = now_seconds()
        if now > self._stuck_since.setdefault(place, now) + self._waits.patience:
            self._stuck_since[place] = now
            self._act(place, group.again(now))

    # ---- payloads and results -----------------------------------------------------------------------------------

    def _gather(
        self, place: Place, asked: Gather | None, choice: Choice, holders: tuple[PeerId, ...]
    ) -> None:
        before = self._gathering.get(place)
        if before is not None:
            before.cancel()
        work = self._merge(place, asked, choice, holders)
        self._gathering[place] = self._tasks.spawn(work, f"gather {place}")

    async def _merge(
        self, place: Place, asked: Gather | None, choice: Choice, holders: tuple[PeerId, ...]
    ) -> None:
        """Bring the result of `choice` here; answer the group's machine where it asked for that."""
        known, missing = self.states.results.get((place, choice.result)), tuple[int, ...]()
        if known is None:
            known, missing = await self.merging.result(self._job(place, choice, holders))
        if known is not None:
            self.states.results[place, known.choice.result] = known
            await self._notify()
        group = self._groups.get(place)
        if asked is not None and group is not None:
            digest = known.choice.result if known is not None else b""
            self._act(place, group.collected(asked, digest, missing, now_seconds()))

    def _job(self, place: Place, choice: Choice, holders: tuple[PeerId, ...]) -> Job:
        group = self._groups[place]
        islands = {c.island: group.peers_of(c.island) for c in choice.counted}
        siblings = self._roster.replicas(place[0])
        return Job(place, self.states.key(place), choice, holders, islands, siblings)

    def _uplink(self) -> float:
        """Bytes a second on the way to other islands, as far as that was measured; 0 where it was not."""
        known = [self._parts.links.figures(peer) for peer in self._others]
        rates = [figures.bytes_per_second for figures in known if figures is not None]
        return float(f"{max(rates, default=0.0):.3g}")

    def _chosen(self, place: Place, choice: Choice, holders: tuple[PeerId, ...]) -> None:
        islands = tuple(counted.island for counted in choice.counted)
        key = self.states.key(place)
        self._parts.record(
            RoundChosen(
                *place,
                key.round,
                islands,
                tuple(m.island for m in choice.members),
                choice.result.hex(),
                tuple(entry.peer for entry in choice.slices),
                tuple(entry.sections for entry in choice.slices),
                choice.codec,
            )
        )
        if (place, choice.result) not in self.states.results:
            self._gather(place, None, choice, holders)
        self.tell()

    async def _notify(self) -> None:
        async with self._arrived:
            self._arrived.notify_all()
        self.tell()

    def _own_up(self, place: Place, group: RoundGroup) -> None:
        """Say so where this island's contribution is lost, as after it was restored: no round waits for it then, and
        what was in it goes with the next one."""
        member = self.states.member(place)
        is_open = group.round == member.state.round and group.choice is None
        if not (member.is_sent and is_open) or self.island in group.offered:
            self._unoffered_since.pop(place, None)
            return
        since = self._unoffered_since.setdefault(place, now_seconds())
        if now_seconds() > since + self._waits.patience:
            where = f"stage {place[0]}, fragment {place[1]}, round {group.round}"
            why = (
                f"{where}: nobody here has it since this island was restored; it goes with the next"
            )
            self._parts.record(Noted("a contribution is lost", why))
            self._act(place, group.offer(0, NOTHING_TO_WEIGH, now_seconds(), self._uplink()))

    def _miss(self) -> None:
        """Say so, once, where rounds cannot go on because of who is gone, and what the owner of the run can do."""
        absent = {group.absent for group in self._groups.values()} - {()}
        since = self._absent_since = {
            islands: self._absent_since.get(islands, now_seconds()) for islands in absent
        }
        self._said_absent &= absent
        for islands in sorted(absent - self._said_absent):
            if now_seconds() < since[islands] + self._waits.gather:
                continue
            self._said_absent.add(islands)
            rounds = [group.round for group in self._groups.values() if group.absent == islands]
            self._parts.record(Noted("rounds wait for islands", _absent_why(islands, min(rounds))))

    # ---- decisions ------------------------------------------------------------------------------------------------

    async def prepare(self, commit: Commit) -> None:
        """Bring everything here that `commit` names. Raises StateError when that is not to be had in time."""
        limit_seconds, begun = 10 * self._waits.patience, now_seconds()
        for work in commit.closing.rounds:
            place = (work.stage, work.fragment)
            if work.stage not in self.states.stages or work.kind == RoundWorkKind.SEND:
                continue
            try:
                async with asyncio.timeout(limit_seconds):
                    await self._have(place, work)
            except TimeoutError:
                raise StateError(
                    f"what round {work.round} of stage {work.stage} came to did not get here",
                    f"nobody gave it within {now_seconds() - begun:.3g} s",
                    "this peer takes its state from a sibling",
                ) from None

    async def _have(self, place: Place, work: RoundWork) -> None:
        is_state = work.kind == RoundWorkKind.CATCH_UP
        kept = self.states.arrived if is_state else self.states.results
        while (place, work.digest) not in kept:
            if is_state and await self._fetch_named(place, work):
                return
            async with self._arrived:
                try:
                    async with asyncio.timeout(self._waits.patience):
                        await self._arrived.wait()
                except TimeoutError:
                    # Who goes on from a result keeps what it was made of no longer: a sibling's state is nearer.
                    if not is_state and self._is_past(place):
                        raise

    def _is_past(self, place: Place) -> bool:
        """Whether somebody is further on, and nobody here is at work on the round's result."""
        group, gathering = self._groups.get(place), self._gathering.get(place)
        is_at_work = gathering is not None and not gathering.done()
        return group is not None and group.behind is not None and not is_at_work

    async def _fetch_named(self, place: Place, work: RoundWork) -> bool:
        """Whether the outer state that a decision names could be had, from siblings or the group."""
        group = self._groups.get(place)
        others = group.everybody if group is not None else ()
        for peer in dict.fromkeys((*self._roster.replicas(place[0]), *others)):
            if peer == self._parts.me:
                continue
            try:
                found = await self.group_states.fetch(place, peer, work.round)
            except Unreachable:
                continue
            if found.digest == work.digest:
                self.states.arrived[place, found.digest] = found
                return True
        return False

    def tokens(self, commit: Commit) -> dict[int, int]:
        """Committed tokens of a decided step, by stage hosted here. Who learns it never saw it open."""
        config, opening = self._parts.config, self._parts.member.ledger.open
        void, each = set(unpack_keys(commit.void)), config.train.tokens_per_microbatch
        counted = dict.fromkeys(self.states.stages, 0)
        sequences = (
            opening.sequences if opening is not None else stage_sequences(config, commit.step)
        )
        for key in range(config.train.microbatches):
            if key not in void:
                for stage in (EDGE_STAGE, *sequence_of(sequences, key)):
                    if stage in counted:
                        counted[stage] += each
        return counted

    async def closed(self, commit: Commit) -> None:
        """`commit` is applied: the groups hear of contributions, and go on from what was merged."""
        works = [work for work in commit.closing.rounds if work.stage in self.states.stages]
        self._slack.stepped(now_seconds())
        for work in works:
            place = (work.stage, work.fragment)
            if work.kind == RoundWorkKind.SEND:
                self._begun_at[place] = now_seconds()
                self._sent(place)
            else:
                self._parts.record(self._merged_event(place, work, commit.next_step))
                if caught_up := self.states.caught_up.pop(place, ""):
                    where = f"stage {place[0]}, fragment {place[1]}, round {work.round}"
                    self._parts.record(Noted("caught up with the group", f"{where}: {caught_up}"))
                if place in self._groups:
                    self._advance(place)
        self.states.forget_done(works)
        self.tell()

    def _merged_event(self, place: Place, work: RoundWork, step: int) -> RoundMerged:
        key, payloads = self.states.key(place), self.payloads
        result = self.states.results.get((place, work.digest))
        return RoundMerged(
            *place,
            round=key.round,
            how=work.kind.name.lower(),
            step=step,
            outer=key.base.hex(),
            received_bytes=payloads.received_bytes[place],
            served_bytes=payloads.served_bytes[place],
            tokens=result.merged.tokens if result is not None else 0,
            state_received_bytes=self.group_states.received_bytes[place],
            state_served_bytes=self.group_states.served_bytes[place],
        )

    def _sent(self, place: Place) -> None:
        made, key = self.states.made.pop(place, None), self.states.key(place)
        # Who has nothing to weigh is ready all the same: a round that waits for offers would wait for ever.
        tokens, digest, measured = 0, NOTHING_TO_WEIGH, tuple[Measured, ...]()
        if made is not None:
            tokens, digest = made.tokens, self.payloads.put(key, made.sections)
            measured = made.measured
            sent_bytes = Table.of(made.sections).total_bytes
            self._parts.record(RoundSent(*place, key.round, tokens, sent_bytes))
        group = self._groups.get(place)
        if group is not None:
            slack_seconds = self._slack.seconds(place, key.round)
            if news := self._slack.news(place, slack_seconds):
                self._parts.record(Noted("how long a round waits for stragglers", news))
            said = self._uplink(), measured, slack_seconds
            self._act(place, group.offer(tokens, digest, now_seconds(), *said))

    def tell(self) -> None:
        """How this peer stands with its fragments, to whoever conducts."""
        member = self._parts.member
        for place, group in self._groups.items():
            choice, asked_at = group.choice, group.asked_at
            if choice is not None and asked_at is not None and self._has(place, choice):
                self._slack.came(place, group.round, now_seconds() - asked_at)
        if self._groups and not member.is_busy:
            news = tuple(self._news(place, group) for place, group in sorted(self._groups.items()))
            self._tell(RoundNews(member.step, member.base, news))

    def _news(self, place: Place, group: RoundGroup) -> PlaceNews:
        own = self.states.member(place)
        is_current = group.round == own.state.round and place[0] not in self.states.stranded
        choice, ahead = group.choice if is_current else None, self.group_states.ahead.get(place)
        ready = group.early if choice is not None else group.offered
        others = [island for island in ready if island != self.island]
        return PlaceNews(
            stage=place[0],
            fragment=place[1],
            round=own.state.round if place[0] not in self.states.stranded else -1,
            is_sent=own.is_sent,
            choice=choice.result if choice is not None and self._has(place, choice) else b"",
            offered=len(others) if is_current else 0,
            ahead_round=ahead.state.round if ahead is not None else 0,
            ahead_state=ahead.digest if ahead is not None else b"",
            begun_seconds=now_seconds() - self._begun_at.get(place, now_seconds()),
            window_seconds=group.window_seconds(now_seconds()),
            is_coming=group.is_coming,
            follows_to=self.group_states.follows_to(place),
        )

    def _has(self, place: Place, choice: Choice) -> bool:
        return (place, choice.result) in self.states.results


def _absent_why(islands: tuple[int, ...], number: int) -> str:
    names = f"{'island' if len(islands) == 1 else 'islands'} {', '.join(map(str, islands))}"
    remedy = (
        "start peers of each anew (--island), and rounds go on"
        if number == 0
        else "stop the run and go on from its checkpoints (--resume auto)"
    )
    return (
        f"{names} cannot be reached, and without a quorum of those who vote no round is decided, as nobody can tell "
        f"a lost island from a cut line; training goes on. If every one of them is lost and surely stopped: {remedy}"
    )
