"""How one peer agrees with its group on the rounds of a place (stage, fragment): a pure machine, one round at a time.

Paxos per (place, round, base), with islands as acceptors, each made of all replicas on its list (`roll.voted`):

    offer      every peer tells all that its island's contribution is ready, or greets while it is not
    ask        the chair, the first live peer of the lowest member island, asks for promises; PROMISE, NACK
    collect    it proposes what was accepted, or else all offers; each peer merges or fetches, then accepts. Where
               others vote in the round that follows, a quorum of these, and of the members, holds the result before
    decided    a quorum accepted one result of one ballot, and signed that (`outer.signed`); everybody learns, and tells
               whoever still asks

Who does not know its island's votes asks for them before it votes: siblings, or everybody (`outer.recovery`).

Asked of the driver: a version of an island's list names one list; a process that starts, or a peer that returns to
the list, does so in a version under which that peer never spoke before; and when a list is confirmed (`outer.votes`).
All times are seconds of one clock, which comes in as `now_seconds`. Messages may be lost, late, repeated and reordered:
`tick` repeats what has no answer yet.
"""

from collections.abc import Sequence
from dataclasses import replace

from swarmtrain.core.events import Noted
from swarmtrain.core.rounds import (
    Ballot,
    Choice,
    Collect,
    Collected,
    GroupMember,
    Measured,
    RoundAsk,
    RoundDecided,
    RoundMessage,
    RoundNack,
    RoundOffer,
    RoundPromise,
    RoundQuestion,
    RoundSpeech,
    VotesAsk,
    VotesTell,
    is_quorum,
)
from swarmtrain.core.types import Digest, PeerId
from swarmtrain.outer.chair import Chair, Phase
from swarmtrain.outer.effects import Behind, Chosen, Effect, Gather, Note, Seat, SendRound, Waits
from swarmtrain.outer.recovery import Recovery
from swarmtrain.outer.roll import ReplicaList, Roll
from swarmtrain.outer.signed import flaw, vote_text
from swarmtrain.outer.slices import Sizes
from swarmtrain.outer.votes import Votes

WHOLE = Sizes(0, 0, 0)
"""Of contributions that are never cut."""
NOTHING = (0, b"", 0.0, (), -1.0)
"""An offer that only greets."""


class RoundGroup:
    """One peer's machine for one place (stage, fragment); it takes part from the first `advance` on.

    `is_first` says that the run begins here and now: nobody in the group can have voted before in the round that it is
    at. `sizes` say whether contributions can be reduced in slices; rounds choose a codec for the next where there is a
    `distortion` to keep to (`outer.budget`). Raises nothing.
    """

    def __init__(
        self,
        place: tuple[int, int],
        seat: Seat,
        waits: Waits,
        is_first: bool = False,
        sizes: Sizes = WHOLE,
        distortion: float | None = None,
    ) -> None:
        self.place, self.peer, self.island = place, seat.peer, seat.island
        self.round, self.base = -1, b""
        self.members: tuple[GroupMember, ...] = ()
        self.votes, self._signing = Votes(seat, is_first), seat.signing
        self.choice: Choice | None = None
        """The round's, once it is decided."""
        self.behind: Behind | None = None
        """Who is in a newer round: fetch the outer state there, then `advance`. Where this round is decided here and
        that is the next one, only if its result cannot be had: all who held it may be dead."""
        self.wrong_bases = 0
        """Messages of this peer's round that were refused for another base."""
        self._roll = Roll()
        self._chair = Chair(seat, waits, self._roll, sizes, distortion)
        self._recovery = Recovery(waits, self._roll, self.votes, seat.version)
        self._own: tuple[int, Digest, float, tuple[Measured, ...], float] = NOTHING
        self._own_at = self._now_seconds = 0.0
        """When it offered; and the newest time there was, for what is said at another's bidding."""
        self._holding: tuple[Ballot, Choice, Digest] | None = None
        self._decided: RoundDecided | None = None
        self._earlier: dict[int, RoundDecided] = {}
        self.kept_from: int | None = None
        """The round from which on decisions are still told, where somebody catches up from here."""
        self._behind_at, self._quiet_seconds = 0.0, waits.gather
        self._early: dict[int, tuple[PeerId, RoundOffer, float]] = {}
        self._strange: set[PeerId] = set()
        self._doubted: set[PeerId] = set()

    @property
    def offered(self) -> tuple[int, ...]:
        """The islands that have offered to this round, ascending."""
        return tuple(sorted(self._chair.offers))

    @property
    def early(self) -> tuple[int, ...]:
        """The islands that have offered to the round after this one, ascending; greetings do not count."""
        heard = self._early.items()
        following = self.round + 1
        return tuple(
            sorted(i for i, (_, offer, _) in heard if offer.digest and offer.round == following)
        )

    def window_seconds(self, now_seconds: float) -> float:
        """For how long those who are ready can still spare the result, as far as they say."""
        return self._chair.window_seconds(now_seconds)

    @property
    def asked_at(self) -> float | None:
        """When a chair first stood in this round, as far as this peer heard."""
        return self._chair.asked_at

    @property
    def everybody(self) -> tuple[PeerId, ...]:
        """All peers heard of in the group, those that are lost as well."""
        return self._roll.peers

    @property
    def absent(self) -> tuple[int, ...]:
        """The voting islands without which this round cannot be decided, and of whom nobody is there; mostly none."""
        if self.choice is not None:
            return ()
        # Who does not know what its island voted before may ask all others, and has to hear them all.
        is_each_needed = self.votes.is_member and not self.votes.may_vote
        return self._roll.absent(self.members, is_each_needed)

    @property
    def is_coming(self) -> bool:
        """Whether what this round comes to can be had without anybody who is lost: somebody there has it, or is
        further on, or a quorum that is there has offered."""
        lost = self._roll.lost
        if self.choice is not None and self._decided is not None:
            return self.behind is not None or any(p not in lost for p in self._decided.holders)
        members = [member.island for member in self.members]
        lists = {island: self.peers_of(island) for island in members}
        present = [i for i, peers in lists.items() if peers and lost.isdisjoint(peers)]
        can_decide = is_quorum(present, members) and is_quorum(self._chair.offers, members)
        return self.behind is not None or can_decide

    def peers_of(self, island: int) -> tuple[PeerId, ...]:
        """An island's replicas as last heard of."""
        listed = self._roll.lists.get(island)
        return listed.peers if listed is not None else ()

    # ---- what the driver knows --------------------------------------------------------------------------------

    def advance(
        self,
        round: int,
        base: Digest,
        members: Sequence[GroupMember],
        now_seconds: float,
        sizes: Sizes | None = None,
    ) -> list[Effect]:
        """This peer holds the outer state `base` that `round` starts from; `members` are the last choice's, and
        `sizes` those of this round, where they can change.

        A round that is not newer changes nothing. What was offered early is looked at now.
        """
        if round <= self.round:
            return []
        self._now_seconds = now_seconds
        self.round, self.base, self.members, self.choice = round, base, tuple(members), None
        if self.behind is not None and self.behind.round <= round:
            self.behind = None
        self._own, self._holding = NOTHING, None
        self._strange, self._doubted = set(), set()
        self._roll.forget_dead({self.island, *(member.island for member in members)})
        self.votes.enter(self.members)
        self._chair.enter(self._head, self.members, now_seconds)
        self._chair.sizes = sizes or self._chair.sizes
        self._recovery.enter(self._head, self.members)
        early, self._early = self._early, {}
        effects = self._greet()
        for sender, message, heard_seconds in early.values():
            if message.round == round:
                left = _with_slack_left(message, now_seconds - heard_seconds)
                effects += self.handle(sender, left, now_seconds)
        return effects

    def offer(
        self,
        tokens: int,
        digest: Digest,
        now_seconds: float,
        uplink_bytes_per_second: float = 0.0,
        measured: tuple[Measured, ...] = (),
        slack_seconds: float = -1.0,
    ) -> list[Effect]:
        """The island's contribution to this round is ready here: its committed tokens, its payload's digest, what was
        `measured` on it, and for how long the island can spare the result: below 0 where the grace is to count.

        What this peer's line carries is said once a round, so that all chairs know the same.
        """
        if self.choice is not None or self.round < 0:
            return []
        self._own = tokens, digest, uplink_bytes_per_second, measured, slack_seconds
        self._own_at = self._now_seconds = now_seconds
        self._chair.take(self.peer, self._offer(), now_seconds)
        return self._greet() + self._here(self._chair.consider(now_seconds), now_seconds)

    def collected(
        self, gather: Gather, result: Digest, missing: Sequence[int], now_seconds: float
    ) -> list[Effect]:
        """`gather` ended: the merged result's digest, or empty, and the islands whose payloads could not be had.

        Accepted only if no higher ballot was promised meanwhile. The peer holds the result from here on.
        """
        if self.choice is not None or gather.round != self.round:
            return []
        ballot = gather.ballot
        is_held = self._holding is not None and self._holding[:2] == (ballot, gather.choice)
        # Who was out of the list, where it may only hold results, may have held what it now needs for a vote.
        is_for_vote = self.votes.is_member and self.votes.awaits(ballot, gather.choice)
        if not is_for_vote and (is_held or not self.votes.is_member):
            return self._here(self._held(ballot, result, missing), now_seconds)
        if not self.votes.may_vote:
            self.votes.fetched(ballot, result)
            if not self.votes.may_vote:
                self._recovery.forget_gone()
            return []
        choice = self.votes.gathered(ballot)
        if choice is None:
            return []
        if self.votes.accept(ballot, choice, result):
            answer = self._answer(ballot, result, ())
        elif self.votes.promised > ballot:
            return self._here([self._nack(ballot)], now_seconds)
        else:
            answer = self._answer(ballot, b"", tuple(missing))
        return self._here([answer], now_seconds)

    def set_peers(self, version: int, peers: Sequence[PeerId], since: int = 0) -> None:
        """The island's replica list, which this peer is on in all versions from `since` on."""
        self.votes.set_peers(version, tuple(peers), since)
        self._roll.hear(self.island, version, tuple(peers))

    def confirm(self, version: int) -> None:
        """All in the island's roster have the list of that version."""
        self.votes.confirm(version)

    def lost(self, peer: PeerId) -> None:
        """`peer` is silent: nobody waits for it from the next tick on."""
        if peer != self.peer:
            self._roll.lose(peer)
            if self.behind is not None and self.behind.peer == peer:
                self.behind = None  # whoever else is there greets

    def seen(self, peer: PeerId) -> list[Effect]:
        """`peer` lives, and is greeted from now on, whatever its island: at once if it is new."""
        is_new = peer not in self._roll.peers
        self._roll.see(peer)
        return [SendRound(peer, self._offer())] if is_new and self.round >= 0 else []

    def tick(self, now_seconds: float) -> list[Effect]:
        """Repeat what may have been lost, give up what takes too long, stand as chair when it is time."""
        self._now_seconds = now_seconds
        if self.round < 0 or self.choice is not None:
            return []
        effects = self._greet()
        if self.votes.is_member and not self.votes.may_vote:
            effects += self._recover(now_seconds)
        return effects + self._here(self._chair.tick(now_seconds), now_seconds)

    def again(self, now_seconds: float) -> list[Effect]:
        """What was decided could not be had: try it once more, and greet all, as those who went on may have forgotten
        this peer, and what they are at is not heard here."""
        decided, self._now_seconds = self._decided, now_seconds
        if self.choice is None or decided is None:
            return []
        return [*self._greet(), Gather(self.round, decided.ballot, self.choice, decided.holders)]

    # ---- messages ---------------------------------------------------------------------------------------------

    def handle(self, sender: PeerId, message: RoundMessage, now_seconds: float) -> list[Effect]:
        """A message of `sender`; those of other places change nothing."""
        if (message.stage, message.fragment) != self.place:
            return []
        self._now_seconds = now_seconds
        self._roll.see(sender)
        if self.behind is not None and self.behind.peer == sender:
            self.behind = None  # it may be a process that knows less than the one before
        if isinstance(message, RoundSpeech) and not self._is_to_be_proven(message):
            self._roll.hear(message.island, message.version, message.peers)
        if message.round > self.round:
            return self._ahead(sender, message, now_seconds)
        if message.round == self.round and not self._fits(message):
            return self._of_another_base(sender)
        if message.round < self.round or self.choice is not None:
            return self._tell(sender, message)
        return self._here(self._current(sender, message, now_seconds), now_seconds)

    def _current(self, sender: PeerId, message: RoundMessage, now_seconds: float) -> list[Effect]:
        match message:
            case RoundOffer():
                self._chair.take(sender, message, now_seconds)
                return self._chair.consider(now_seconds)
            case RoundAsk():
                return self._ask(message, now_seconds)
            case RoundPromise():
                return self._chair.promised(sender, message, now_seconds)
            case RoundNack():
                self._chair.hear(message.promised, Phase.ASKING, now_seconds)
                return []
            case Collect():
                return self._collect(message, now_seconds)
            case Collected():
                return self._chair.collected(sender, message, now_seconds)
            case RoundDecided():
                return self._learn(sender, message)
            case VotesAsk():
                return self._tell_votes(sender, message, now_seconds)
            case VotesTell():
                return self._hear_votes(sender, message)

    def _here(self, effects: list[Effect], now_seconds: float) -> list[Effect]:
        """What this peer sends to itself arrives at once."""
        done: list[Effect] = []
        for effect in effects:
            if isinstance(effect, SendRound) and effect.to == self.peer:
                done += self.handle(self.peer, effect.message, now_seconds)
            else:
                done.append(effect)
        return done

    def _fits(self, message: RoundMessage) -> bool:
        return message.base == self.base

    def _of_another_base(self, sender: PeerId) -> list[Effect]:
        self.wrong_bases += 1
        if sender in self._strange:
            return []
        self._strange.add(sender)
        return [Note(Noted("a round on another base", self._where(sender)))]

    def _where(self, peer: PeerId) -> str:
        stage, fragment = self.place
        return f"stage {stage}, fragment {fragment}, round {self.round}, by {peer}"

    def _ahead(self, sender: PeerId, message: RoundMessage, now_seconds: float) -> list[Effect]:
        """Whoever is in the newest round is followed, and somebody else when nothing is heard of that one any more: a
        late message of the dead may have been the last of its branch."""
        if isinstance(message, RoundOffer) and message.round == self.round + 1:
            self._early[message.island] = (sender, message, now_seconds)
        is_quiet = now_seconds > self._behind_at + self._quiet_seconds
        if self.behind is None or message.round > self.behind.round or is_quiet:
            self.behind, self._behind_at = Behind(message.round, sender), now_seconds
        return []

    def _tell(self, sender: PeerId, message: RoundMessage) -> list[Effect]:
        """What was decided in the message's round, or else where the group is by now."""
        if not isinstance(message, RoundQuestion):
            return []
        last, island, version, peers = self._decided, *self._speaker
        decided = last if last is not None and last.round == message.round else None
        if decided is None:
            decided = self._earlier.get(message.round)
            if decided is None:
                return [SendRound(sender, self._offer())]
            # What it was made of may be kept here alone by now.
            holders = tuple(dict.fromkeys((self.peer, *decided.holders)))
            decided = replace(decided, holders=holders)
        return [SendRound(sender, replace(decided, island=island, version=version, peers=peers))]

    def _is_to_be_proven(self, message: RoundSpeech) -> bool:
        """Whether it must not bring the voters by whom it would be believed; where none are known, it has to."""
        return isinstance(message, RoundDecided) and message.island in self._roll.lists

    def _learn(self, sender: PeerId, message: RoundDecided) -> list[Effect]:
        """Whoever speaks under an old list may be dead, and what it decided fallen; the living will say it again.

        So they will what cannot be believed yet, where not all voters are known here.
        """
        if not self._roll.is_current(message.island, message.version):
            return []
        if why := flaw(self._signing, message, self.members, self._roll.lists):
            return self._doubt(sender, why)
        self._roll.hear(message.island, message.version, message.peers)
        if self._decided is not None:
            self._earlier[self._decided.round] = self._decided
        first = self.round if self.kept_from is None else self.kept_from
        self._earlier = {number: told for number, told in self._earlier.items() if number >= first}
        self.choice, self._decided = message.choice, message
        return [Chosen(message.choice, message.holders)]

    def _doubt(self, sender: PeerId, why: str) -> list[Effect]:
        """Say so, once a round: it is told again and again."""
        if sender in self._doubted:
            return []
        self._doubted.add(sender)
        where = f"{self._where(sender)}: {why}"
        return [Note(Noted("a decision that its votes do not prove", where))]

    # ---- voting -----------------------------------------------------------------------------------------------

    def _ask(self, message: RoundAsk, now_seconds: float) -> list[Effect]:
        ballot, votes = message.ballot, self.votes
        self._chair.hear(ballot, Phase.ASKING, now_seconds)
        if not votes.is_settled:
            return []  # the chair asks again
        if not votes.may_vote or not votes.promise(ballot):
            return [self._nack(ballot)] if votes.may_vote else []
        promise = RoundPromise(*self._head, ballot, *self._speaker, votes.accepted)
        return [SendRound(ballot.chair, promise)]

    def _collect(self, message: Collect, now_seconds: float) -> list[Effect]:
        """Gather, to accept when that is done; a repeat is answered again, or gathers again what failed.

        What comes after its ballot was put to the vote is only late: gathering for it would end that for the vote.
        """
        ballot, votes = message.ballot, self.votes
        phase = Phase.HOLDING if message.only_hold else Phase.VOTING
        self._chair.hear(ballot, phase, now_seconds)
        if message.only_hold and self._chair.heard_vote == ballot:
            return []
        if not votes.is_member:
            return self._hold(message)
        if not (votes.is_settled or message.only_hold):
            return []
        if not votes.may_vote or not votes.promise(ballot):
            return [self._nack(ballot)] if votes.may_vote else []
        if message.only_hold:
            return self._hold(message)
        if votes.accepted is not None and votes.accepted.ballot == ballot:
            return [self._answer(ballot, votes.accepted.choice.result, ())]
        is_new = votes.gather(ballot, message.choice)
        return [Gather(self.round, ballot, message.choice, message.holders)] if is_new else []

    def _hold(self, message: Collect) -> list[Effect]:
        """Gather what this peer has no vote on, or not yet, but starts the next round from."""
        ballot, choice = message.ballot, message.choice
        if self._holding is not None and self._holding[:2] == (ballot, choice):
            result = self._holding[2]
            return [self._answer(ballot, result, (), only_hold=True)] if result else []
        self._holding = ballot, choice, b""
        return [Gather(self.round, ballot, choice, message.holders)]

    def _held(self, ballot: Ballot, result: Digest, missing: Sequence[int]) -> list[Effect]:
        if self._holding is None or self._holding[0] != ballot:
            return []
        choice = self._holding[1]
        is_fitting = bool(result) and choice.result in (b"", result)
        self._holding = (ballot, choice, result) if is_fitting else None
        held = result if is_fitting else b""
        return [self._answer(ballot, held, tuple(missing), only_hold=True)]

    # ---- votes of others --------------------------------------------------------------------------------------

    def _tell_votes(self, sender: PeerId, message: VotesAsk, now_seconds: float) -> list[Effect]:
        """A sibling is told unless votes could still be given without it; other islands get a promise too."""
        votes = self.votes
        if message.island == self.island:
            may_tell = not votes.may_vote or votes.may_tell(sender, message.version)
        else:
            may_tell = votes.is_settled
            self._chair.hear(message.ballot, Phase.ASKING, now_seconds)
            if may_tell:
                votes.promise(message.ballot)  # where that is refused, the answer says why
        knows, bound = (votes.may_vote, votes.fence), (votes.promised, votes.accepted)
        tell = VotesTell(*self._head, *self._speaker, *knows, *bound)
        return [SendRound(sender, tell)] if may_tell else []

    def _hear_votes(self, sender: PeerId, message: VotesTell) -> list[Effect]:
        if self.votes.may_vote:
            return []
        if message.knows and message.island == self.island:
            found = self.votes.hear(message)
            return [Gather(self.round, found.ballot, found.choice, (sender,))] if found else []
        self._recovery.hear(sender, message)
        return []

    def _recover(self, now_seconds: float) -> list[Effect]:
        effects = self._recovery.ask(self._chair.heard, now_seconds)
        found = self._recovery.found(now_seconds)
        if found is None or self.votes.is_learning:
            return effects
        known, holders = found
        self._chair.hear(known.promised, Phase.ASKING, now_seconds)
        effects.append(Note(Noted("lost votes are given anew", self._where(self.peer))))
        accepted = self.votes.learn(known)
        if accepted is not None:
            effects.append(Gather(self.round, accepted.ballot, accepted.choice, holders))
        return effects

    # ---- what it says -----------------------------------------------------------------------------------------

    @property
    def _head(self) -> tuple[int, int, int, Digest]:
        return *self.place, self.round, self.base

    @property
    def _speaker(self) -> tuple[int, int, tuple[PeerId, ...]]:
        return self.island, self.votes.version, self.votes.peers

    def _offer(self) -> RoundOffer:
        tokens, digest, uplink, measured, slack = self._own
        offer = RoundOffer(*self._head, *self._speaker, tokens, digest, uplink, measured, slack)
        return _with_slack_left(offer, self._now_seconds - self._own_at)

    def _greet(self) -> list[Effect]:
        """The offer or a greeting to all, lost peers too: two that lost each other must find out that both live."""
        offer = self._offer()
        return [SendRound(peer, offer) for peer in self._roll.peers if peer != self.peer]

    def _answer(
        self, ballot: Ballot, result: Digest, missing: tuple[int, ...], only_hold: bool = False
    ) -> SendRound:
        answer = Collected(*self._head, ballot, *self._speaker, result, missing, only_hold)
        accepted = self.votes.accepted
        if result and not only_hold and accepted is not None:
            answer = self._signed(answer, accepted.choice)
        return SendRound(ballot.chair, answer)

    def _signed(self, vote: Collected, choice: Choice) -> Collected:
        signing, listed = self._signing, ReplicaList(vote.version, vote.peers)
        text = vote_text(signing.run, self._head, vote.ballot, vote.island, listed, choice)
        return replace(vote, public_key=signing.public_key, signature=signing.sign(text))

    def _nack(self, ballot: Ballot) -> SendRound:
        return SendRound(ballot.chair, RoundNack(*self._head, ballot, self.votes.promised))


def _with_slack_left(offer: RoundOffer, since_seconds: float) -> RoundOffer:
    """`offer` as it is `since_seconds` after it was made: less of its slack is left, if it says any."""
    if offer.slack_seconds < 0.0:
        return offer
    return replace(offer, slack_seconds=max(0.0, offer.slack_seconds - since_seconds))
