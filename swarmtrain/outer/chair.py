"""The chair of an outer round: when a peer stands, what it proposes, and when that is decided.

The peers of the member islands stand in turn, the lowest first, each `patience` after the one before. A chair asks for
promises, proposes what was accepted by the highest ballot or else all offers, and has it collected by the members, who
accept it. When one of these takes too long, or a higher ballot is heard of, it steps back behind all others.

Where newcomers are to vote in the round behind it, they and the members only hold the result at first, and it is put to
the vote when a quorum of the members and one of those who vote next have it; the rest of the newcomers get the grace.
Members alone say which payloads cannot be had. Newcomers that do not come to hold it are left out of what is proposed
next. That is safe, whoever proposes it: before there was a vote nobody accepted anything, so nothing was decided, nor
can be any more, as a quorum has promised a higher ballot by then. So a chair that dies meanwhile binds nobody. And what
is found accepted is held by a quorum of those who go on from it: it is put to the vote again at once, and no newcomer
is needed for that, or waited for. Should they all be gone by then, that is as if they went right behind the decision.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from swarmtrain.core.events import Noted
from swarmtrain.core.rounds import (
    NO_BALLOT,
    Ballot,
    Choice,
    Collect,
    Collected,
    GroupMember,
    RoundAsk,
    RoundDecided,
    RoundOffer,
    RoundPromise,
    SignedVote,
    is_quorum,
)
from swarmtrain.core.types import Digest, PeerId
from swarmtrain.outer.budget import next_codec
from swarmtrain.outer.effects import Effect, Note, Seat, SendRound, Waits
from swarmtrain.outer.roll import Roll, choose, voted
from swarmtrain.outer.signed import vote_text
from swarmtrain.outer.slices import Owner, Sizes, plan

_MOST_TURNS_BACK = 3
"""How many times a chair that failed lets all others go first; more would only make it slow after a long outage."""

_MOST_PROLONGED = 3
"""How many times newcomers that live get the time of an attempt once more to hold what members hold."""


class Phase(IntEnum):
    """What a chair is at; each earns it time of its own."""

    ASKING = 0
    HOLDING = 1
    VOTING = 2


def accepted_choices(promises: Iterable[RoundPromise]) -> tuple[Choice, ...]:
    """What the highest ballot accepted; more than one only where equal payloads merged to unequal results."""
    found = [promise.accepted for promise in promises if promise.accepted is not None]
    highest = max((accepted.ballot for accepted in found), default=None)
    return tuple({accepted.choice: None for accepted in found if accepted.ballot == highest})


@dataclass(slots=True)
class Attempt:
    """One attempt of a chair; `holders` are known to have the result of its choice."""

    ballot: Ballot
    since_seconds: float
    """When its phase began."""
    phase: Phase = Phase.ASKING
    promises: dict[PeerId, RoundPromise] = field(default_factory=dict)
    collected: dict[PeerId, Collected] = field(default_factory=dict)
    choice: Choice | None = None
    holders: tuple[PeerId, ...] = ()

    def propose(self, choice: Choice, phase: Phase, now_seconds: float) -> None:
        """Collect `choice` from now on; whoever had accepted it holds its result."""
        self.choice, self.phase, self.since_seconds = choice, phase, now_seconds
        accepted = [(p, promise.accepted) for p, promise in sorted(self.promises.items())]
        self.holders = tuple(p for p, a in accepted if a is not None and a.choice == choice)

    def put_to_vote(self, choice: Choice, holders: Iterable[PeerId], now_seconds: float) -> None:
        """Collect votes for what `holders` have."""
        self.choice, self.phase, self.since_seconds = choice, Phase.VOTING, now_seconds
        self.holders, self.collected = tuple(sorted(holders)), {}

    @property
    def known_holders(self) -> tuple[PeerId, ...]:
        """Who had the result before, and who has it by now: the contributions' makers may be gone for those to come."""
        by_now = (peer for peer, answer in self.collected.items() if answer.result)
        return tuple(sorted({*self.holders, *by_now}))

    def lacks(self, peer: PeerId, roll: Roll) -> bool:
        """Whether `peer` is to be asked (again): it has not answered under the newest list of its island."""
        answer = (self.promises if self.choice is None else self.collected).get(peer)
        if answer is None or (isinstance(answer, Collected) and not answer.result):
            return True
        listed = roll.lists.get(answer.island)
        return listed is None or answer.version != listed.version


class Chair:
    """What one peer needs to chair the rounds of a place, whether or not it does."""

    def __init__(
        self, seat: Seat, waits: Waits, roll: Roll, sizes: Sizes, distortion: float | None
    ) -> None:
        self._peer, self._island, self._born = seat.peer, seat.island, seat.version
        self._signing = seat.signing
        self._waits, self._roll, self._distortion = waits, roll, distortion
        self.sizes = sizes
        """Of this round's contributions."""
        roll.hear(seat.island, seat.version, seat.peers)
        self.enter((0, 0, -1, b""), (), 0.0)

    def enter(
        self,
        head: tuple[int, int, int, Digest],
        members: Sequence[GroupMember],
        now_seconds: float,
    ) -> None:
        """A new round, of stage, fragment, number and base `head`."""
        self._head, self._members = head, tuple(members)
        self.offers: dict[int, RoundOffer] = {}
        self._uplinks: dict[PeerId, float] = {}
        self._window_until, self._is_slack_said = math.inf, False
        self.asked_at: float | None = None
        """When the first chair stood in this round, as far as this peer heard."""
        self._greeted: set[int] = set()
        self._excluded: set[tuple[int, Digest]] = set()
        self._doubted: set[PeerId] = set()
        self._barred: frozenset[int] = frozenset()
        self._prolonged = 0
        self.attempt: Attempt | None = None
        self._heard = (NO_BALLOT, Phase.ASKING)
        self._quorum_at: float | None = None
        self._ready_at: float | None = None
        self._held_at: float | None = None
        self._quiet_until, self._failures = now_seconds, 0

    @property
    def heard(self) -> Ballot:
        """The highest ballot heard of in this round."""
        return self._heard[0]

    @property
    def heard_vote(self) -> Ballot | None:
        """That ballot, if it was put to the vote."""
        return self._heard[0] if self._heard[1] is Phase.VOTING else None

    # ---- what it hears ----------------------------------------------------------------------------------------

    def take(self, sender: PeerId, message: RoundOffer, now_seconds: float) -> None:
        """A greeting, or an offer; one of a newer list replaces an island's: the older payload may be lost by then.

        Repeats say what is left of the slack, so that it ends alike wherever one of them was heard.
        """
        self._greeted.add(message.island)
        if message.digest:
            is_said = message.slack_seconds >= 0.0
            # No longer than payloads may take, whatever a peer may say.
            said_seconds = min(message.slack_seconds, self._waits.gather)
            spare_seconds = said_seconds if is_said else self._waits.grace
            self._window_until = min(self._window_until, now_seconds + spare_seconds)
            self._is_slack_said |= is_said
            self._uplinks[sender] = message.uplink_bytes_per_second
        known = self.offers.get(message.island)
        if message.digest and (known is None or message.version > known.version):
            self.offers[message.island] = message

    def hear(self, ballot: Ballot, phase: Phase, now_seconds: float) -> None:
        """Some chair is at work: leave it the time it needs. Its repeats earn it no more."""
        if (ballot, phase) <= self._heard:
            return
        self._heard = ballot, phase
        self.asked_at = now_seconds if self.asked_at is None else self.asked_at
        if ballot.chair != self._peer:
            self._quiet_until = now_seconds + self._limit(phase)
        if self.attempt is not None and self.attempt.ballot < ballot:
            self._step_back()

    def promised(self, sender: PeerId, message: RoundPromise, now_seconds: float) -> list[Effect]:
        """Propose, once a quorum promised."""
        attempt = self.attempt
        if attempt is None or attempt.ballot != message.ballot or attempt.choice is not None:
            return []
        attempt.promises[sender] = message
        if not self._is_quorum(voted(self._roll, self._members, attempt.promises)):
            return []
        accepted = accepted_choices(attempt.promises.values())
        if len(accepted) > 1:
            # Either may be decided, and nobody here can tell which: proposing none is safe.
            detail = f"ballot of {message.ballot.chair} in round {message.round}"
            return [Note(Noted("equal payloads merged to unequal results", detail))]
        choice, notes = (accepted[0], []) if accepted else self._complete(self._fresh())
        holds_first = not accepted and self._newcomers(choice)
        attempt.propose(choice, Phase.HOLDING if holds_first else Phase.VOTING, now_seconds)
        self.hear(attempt.ballot, attempt.phase, now_seconds)
        return notes + self._question(attempt)

    def collected(self, sender: PeerId, message: Collected, now_seconds: float) -> list[Effect]:
        """Decided once a quorum accepted; without payloads that cannot be had, try anew if nothing was accepted."""
        attempt = self.attempt
        if attempt is None or attempt.ballot != message.ballot or attempt.choice is None:
            return []
        if message.only_hold != (attempt.phase is Phase.HOLDING):
            return []
        if attempt.phase is Phase.VOTING and not self._is_signed(sender, message, attempt.choice):
            return self._doubt(sender)
        attempt.collected[sender] = message
        gone = self._gone(attempt.choice, message)
        if not gone:
            return self._decide(attempt, attempt.choice, now_seconds)
        self._excluded |= gone
        if self._usable():
            return self._stand(now_seconds)
        self._excluded.clear()
        self._step_back()
        return []

    def _is_signed(self, sender: PeerId, message: Collected, choice: Choice) -> bool:
        """Whether what would count as a vote is one of `sender`, under the list that everybody else votes under."""
        listed, signing = self._roll.lists[message.island], self._signing
        if not message.result or message.version != listed.version:
            return True
        whole = replace(choice, result=message.result)
        text = vote_text(signing.run, self._head, message.ballot, message.island, listed, whole)
        is_own = signing.peer_of(message.public_key) == sender
        return is_own and signing.is_signed(message.public_key, text, message.signature)

    def _doubt(self, sender: PeerId) -> list[Effect]:
        """Say so, once a round: it is asked again and again."""
        if sender in self._doubted:
            return []
        self._doubted.add(sender)
        stage, fragment, number, _ = self._head
        where = f"stage {stage}, fragment {fragment}, round {number}, by {sender}"
        return [Note(Noted("a vote that its voter did not sign", where))]

    def _gone(self, choice: Choice, message: Collected) -> set[tuple[int, Digest]]:
        """What of a fresh `choice` a voter cannot have. Who only holds results has no say in what they are of."""
        if choice.result or all(member.island != message.island for member in self._members):
            return set()
        return {(c.island, c.digest) for c in choice.counted if c.island in message.missing}

    def _decide(self, attempt: Attempt, choice: Choice, now_seconds: float) -> list[Effect]:
        """Tell everybody if a quorum accepted `choice` with one result; put it to the vote if that is held by now."""
        for result in self._common_results(attempt):
            whole = replace(choice, result=result)
            alike = {p: a for p, a in attempt.collected.items() if a.result == result}
            if attempt.phase is Phase.VOTING:
                listed = self._roll.lists[self._island]
                speaker = self._island, listed.version, listed.peers
                holders = tuple(sorted({*attempt.holders, *alike}))
                votes = self._signed(alike)
                decided = RoundDecided(*self._head, *speaker, whole, holders, attempt.ballot, votes)
                everybody = sorted({*self._roll.peers, self._peer})
                return [SendRound(peer, decided) for peer in everybody]
            if self._held_at is None:
                self._held_at = now_seconds
            if self._is_held(choice, alike, now_seconds):
                attempt.put_to_vote(whole, alike, now_seconds)
                self.hear(attempt.ballot, attempt.phase, now_seconds)
                return self._question(attempt)
        return []

    def _signed(self, alike: Mapping[PeerId, Collected]) -> tuple[SignedVote, ...]:
        """The votes among `alike` that count."""
        islands = voted(self._roll, self._members, alike)
        voters = {peer for island in islands for peer in self._roll.lists[island].peers}
        return tuple(
            SignedVote(answer.island, answer.version, answer.public_key, answer.signature)
            for peer, answer in sorted(alike.items())
            if peer in voters
        )

    def _common_results(self, attempt: Attempt) -> list[Digest]:
        """The results that a quorum of the members holds, or accepted."""
        results = sorted({answer.result for answer in attempt.collected.values()} - {b""})
        return [r for r in results if self._is_quorum(self._have(attempt, r, self._members))]

    def _have(
        self, attempt: Attempt, result: Digest, islands: Sequence[GroupMember]
    ) -> tuple[int, ...]:
        alike = {p: a for p, a in attempt.collected.items() if a.result == result}
        return voted(self._roll, islands, alike)

    def _is_held(
        self, choice: Choice, alike: Mapping[PeerId, Collected], now_seconds: float
    ) -> bool:
        """Whether the result, which newcomers start from, outlives what the round that starts from it does.

        In the first round the first island alone votes: its loss would take the result with it, out of reach of all
        who learned that it was chosen.
        """
        following = [member.island for member in choice.members]
        held = voted(self._roll, choice.members, alike)
        if 2 * len(held) > len(following):
            return True
        # Half of them with the first island is no more than the first island may be: another gets time to have it too.
        others = [island for island in following if island not in held]
        is_over = self._held_at is not None and now_seconds >= self._held_at + self._waits.grace
        is_waiting = any(map(self._roll.is_alive, others)) and not is_over
        return is_quorum(held, following) and not is_waiting

    # ---- newcomers that do not come to hold a result --------------------------------------------------------------

    def _withdraw(self, attempt: Attempt, choice: Choice, now_seconds: float) -> list[Effect]:
        """Propose anew without those who do not hold what members hold, where it is time."""
        results = self._common_results(attempt)
        if attempt.phase is not Phase.HOLDING or len(results) != 1 or self._held_at is None:
            return []
        held = self._have(attempt, results[0], choice.members)
        lacking = self._newcomers(choice) - set(held)
        # At the last before any other peer stands.
        until_seconds = attempt.since_seconds + self._waits.gather
        if not any(map(self._roll.is_alive, lacking)):
            until_seconds = min(until_seconds, self._held_at + self._waits.grace)
        if not lacking or now_seconds < until_seconds:
            return []
        if any(map(self._roll.is_alive, lacking)) and self._prolonged < _MOST_PROLONGED:
            # Whoever decides without them gives up their copies of the result.
            self._prolonged += 1
            return self._stand(now_seconds)
        self._barred |= lacking
        stage, fragment, number, _ = self._head
        names = ", ".join(map(str, sorted(lacking)))
        why = f"stage {stage}, fragment {fragment}, round {number}: islands {names} did not get it"
        note = Note(Noted("newcomers without the result vote later", why))
        return [note, *self._stand(now_seconds)]

    # ---- time -------------------------------------------------------------------------------------------------

    def tick(self, now_seconds: float) -> list[Effect]:
        """Ask again, give up what takes too long, or stand."""
        attempt = self.attempt
        if attempt is None:
            return self.consider(now_seconds)
        if attempt.choice is not None:
            effects = self._decide(attempt, attempt.choice, now_seconds)
            effects = effects or self._withdraw(attempt, attempt.choice, now_seconds)
            if effects:
                return effects
        if now_seconds - attempt.since_seconds <= self._limit(attempt.phase):
            return self._question(attempt)
        self._step_back()
        return self.consider(now_seconds)

    def consider(self, now_seconds: float) -> list[Effect]:
        """Stand, if enough has been offered and it is this peer's turn."""
        candidates = self._roll.live_peers(member.island for member in self._members)
        ready_at = self._ready(now_seconds)
        if self.attempt is not None or self._peer not in candidates or ready_at is None:
            return []
        if self._heard[0].chair in self._roll.lost:
            # Nobody is at work any more who would need the time.
            self._quiet_until = min(self._quiet_until, now_seconds)
        turns = min(self._failures, _MOST_TURNS_BACK) * len(candidates)
        rank = candidates.index(self._peer) + turns
        if now_seconds < max(ready_at, self._quiet_until) + rank * self._waits.patience:
            return []
        return self._stand(now_seconds)

    def _ready(self, now_seconds: float) -> float | None:
        """Since when a round can begin: all who live have offered, or a quorum has for as long as stragglers get."""
        members = [member.island for member in self._members]
        if not is_quorum(self.offers, members):
            return None
        if self._quorum_at is None:
            self._quorum_at = now_seconds
        if self._ready_at is None:
            awaited = {i for i in {*members, *self._greeted} if self._roll.is_alive(i)}
            if awaited <= self.offers.keys():
                self._ready_at = now_seconds
            elif now_seconds >= self._until(self._quorum_at):
                self._ready_at = self._until(self._quorum_at)
        return self._ready_at

    def _until(self, quorum_seconds: float) -> float:
        """How long stragglers are waited for: all that those who are ready can spare, which is the grace for those who
        do not say; where nobody does, the grace from when a quorum has offered."""
        if not self._is_slack_said:
            return quorum_seconds + self._waits.grace
        return max(quorum_seconds, self._window_until)

    def window_seconds(self, now_seconds: float) -> float:
        """What is left of that, as far as those who are ready say; the grace where they do not."""
        is_said = self._is_slack_said
        return max(0.0, self._window_until - now_seconds) if is_said else self._waits.grace

    def _stand(self, now_seconds: float) -> list[Effect]:
        ballot = Ballot(self._heard[0].attempt + 1, self._peer, self._born)
        self.attempt = Attempt(ballot, now_seconds)
        self._heard = ballot, Phase.ASKING
        self.asked_at = now_seconds if self.asked_at is None else self.asked_at
        return self._question(self.attempt)

    def _limit(self, phase: Phase) -> float:
        """Seconds that a phase may take."""
        return self._waits.patience if phase is Phase.ASKING else self._waits.gather

    def _step_back(self) -> None:
        self.attempt, self._failures = None, self._failures + 1

    def _question(self, attempt: Attempt) -> list[Effect]:
        """What the attempt waits to hear, to those voters who have not answered."""
        islands = {member.island for member in self._members}
        message: RoundAsk | Collect = RoundAsk(*self._head, attempt.ballot)
        if attempt.choice is not None:
            holds = attempt.phase is Phase.HOLDING
            islands |= self._newcomers(attempt.choice) if holds else set()
            known = attempt.known_holders
            message = Collect(*self._head, attempt.ballot, attempt.choice, known, holds)
        asked = self._roll.live_peers(islands)
        return [SendRound(peer, message) for peer in asked if attempt.lacks(peer, self._roll)]

    # ---- what it proposes -------------------------------------------------------------------------------------

    def _newcomers(self, choice: Choice) -> set[int]:
        """Who votes in the next round, and does not in this one."""
        members = {member.island for member in self._members}
        return {member.island for member in choice.members} - members

    def _usable(self) -> dict[int, RoundOffer]:
        """The offers whose payloads are not known to be gone."""
        return {i: o for i, o in self.offers.items() if (i, o.digest) not in self._excluded}

    def _fresh(self) -> Choice:
        """All offers that can probably be had: without those of lost islands, where any others are left."""
        usable = self._usable()
        alive = {i: offer for i, offer in usable.items() if self._roll.is_alive(i)}
        return choose(self._roll, self._members, alive or usable, self._barred)

    def _complete(self, choice: Choice) -> tuple[Choice, list[Effect]]:
        """`choice` with who reduces what of it, and in what the next round sends; and why."""
        cut, notes = self._cut(choice)
        if self._distortion is None:
            return cut, notes
        offers = [self.offers[counted.island] for counted in choice.counted]
        found = next_codec([(o.tokens, o.measured) for o in offers], self._distortion)
        if found is None:
            return cut, notes
        codec, reason = found
        stage, fragment, number, _ = self._head
        where = f"stage {stage}, fragment {fragment}, round {number + 1}: {reason}"
        return replace(cut, codec=codec), [*notes, Note(Noted("what a round is sent in", where))]

    def _cut(self, choice: Choice) -> tuple[Choice, list[Effect]]:
        """Who reduces what of `choice`, and why: peers that offered and will be asked to collect."""
        counted, members = {c.island for c in choice.counted}, {m.island for m in self._members}
        owners = [
            Owner(peer, island, self._uplinks[peer])
            for island in sorted(counted & members)
            for peer in self._roll.live_peers([island])
            if peer in self._uplinks
        ]
        found = plan(self.sizes, owners, len(counted | members))
        stage, fragment, number, _ = self._head
        where = f"stage {stage}, fragment {fragment}, round {number}: {found.reason}"
        notes: list[Effect] = [Note(Noted("how a round is reduced", where))]
        return replace(choice, slices=found.slices), notes if self.sizes.sections else []

    def _is_quorum(self, islands: Iterable[int]) -> bool:
        return is_quorum(islands, [member.island for member in self._members])
