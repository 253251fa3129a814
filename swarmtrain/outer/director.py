"""Which rounds have their place in the closing of which step: an island's own decision, made by its conductor.

The conductor hears from every replica how it stands with each fragment (RoundNews) and answers with the closing of the
step that is about to be decided. What is in a decision is done by all replicas or by none, so an island never splits
over a result that one of its replicas has and another has not. Pure: time comes in as an argument.

Rounds follow the run's step (`rounds.Rhythm`). An island that is slower than its group sends when the others are ready
and it would not be within the grace window, merging before its time what it sent last: it then stands where the group
does, which may skip steps. Rounds by time work alike: whatever steps were made when `every_seconds` have passed since
the last contribution, the step committed next is a round's last, and a result that is there by then is merged before
its time in steps. Every replica saw when that was, so that a new conductor knows it as well. An island never waits for
a result longer than `patience_seconds`; what comes later is merged later. From the last contributions on there is no
later, and the island would end the run without what the others end it with: then it waits for all that can still come,
for `END_SECONDS` in each of the last two steps at most.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from swarmtrain.core.closing import PlaceNews, RoundWork, RoundWorkKind
from swarmtrain.core.messages import RoundNews
from swarmtrain.core.types import PeerId
from swarmtrain.outer.rounds import Rhythm

Place = tuple[int, int]
"""Stage and fragment."""

SLOWEST = 5
"""At the end of the run, contributions of islands so many times slower than this one are waited for."""
END_SECONDS = 1800.0
"""An 8B model's contribution takes five minutes at 100 Mbit/s. Whatever keeps a round from its end for so long does so
for ever."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """What a step closes with, and the step that comes next. `missed` are places of which the island will end the run
    without what their round comes to."""

    next_step: int
    works: tuple[RoundWork, ...] = ()
    missed: tuple[Place, ...] = ()


@dataclass
class Director:
    """`grace_seconds` is how long the group waits for its slowest, None where those who are ready say it themselves;
    `patience_seconds` is how long this island waits for a result.

    `every_seconds` are from a contribution to the next one at most.
    """

    rhythm: Rhythm
    grace_seconds: float | None
    patience_seconds: float
    every_seconds: float = math.inf
    _news: dict[PeerId, tuple[RoundNews, float]] = field(default_factory=dict)
    """Each replica's last, and when it came."""
    _waiting: tuple[int, float, float] = (-1, 0.0, 0.0)
    """At which step, since when, and since when nothing was coming."""
    _given_up: dict[Place, int] = field(default_factory=dict)
    held_up_by: tuple[Place, ...] = ()
    """Places for which the end of the run waits longer than any other step would."""

    def heard(self, sender: PeerId, news: RoundNews, now_seconds: float) -> None:
        """Take a replica's news; older ones do not count any more."""
        self._news[sender] = news, now_seconds

    def closing(
        self, step: int, peers: Iterable[PeerId], now_seconds: float, step_seconds: float
    ) -> Rounds | None:
        """What to do behind `step`, or None while a result is still worth waiting for.

        `peers` are the roster's; `step_seconds` is what a step usually takes here.
        """
        replicas = sorted(peers)
        known, begun = self._known(step, replicas), self._begun(replicas)
        ago_seconds = {place: now_seconds - begun[place, n.round] for place, n in known.items()}
        next_step, standing = self._reached(step, known, ago_seconds, step_seconds, math.inf)
        if next_step >= self.rhythm.last_send_step and self._is_short(standing):
            before = self.rhythm.last_send_step - 1
            next_step, standing = self._reached(step, known, ago_seconds, step_seconds, before)
        lacking = {
            place: news
            for (place, news), entry in zip(known.items(), standing, strict=True)
            if entry.waits
        }
        is_whole = len(known) == (self.rhythm.stages + 1) * self.rhythm.fragments
        if self._awaits(step, next_step, lacking, is_whole, now_seconds, step_seconds):
            return None
        works = sorted(
            (work for s in standing for work in s.works),
            key=lambda work: (work.stage, work.fragment, work.round),
        )
        is_over = next_step == self.rhythm.steps
        missed = tuple(
            place
            for place, news in known.items()
            if is_over and (place in lacking or news.follows_to > news.round + 1)
        )
        return Rounds(next_step, tuple(works), missed)

    def _reached(
        self,
        step: int,
        known: Mapping[Place, PlaceNews],
        ago_seconds: Mapping[Place, float],
        step_seconds: float,
        skip_to: float,
    ) -> "tuple[int, list[_Standing]]":
        """The step that comes after `step`, and what each place needs then. None skips steps for want of time but to
        `skip_to` or before."""
        next_step, reached = step + 1, 0
        while reached != next_step:
            # What one place skips to may make something due at another.
            reached = next_step
            standing = [
                self._standing(news, reached, ago_seconds[place], step_seconds, skip_to)
                for place, news in known.items()
            ]
            next_step = min(max([reached, *(s.next_step for s in standing)]), self.rhythm.steps)
        return next_step, standing

    def _is_short(self, standing: "Iterable[_Standing]") -> bool:
        """Whether some place would begin a round now that is not its last: at the step of all last contributions its
        result would come too late for it to have one."""
        sends = [w for s in standing for w in s.works if w.kind == RoundWorkKind.SEND]
        return any(not self.rhythm.is_last(w.stage, w.fragment, w.round) for w in sends)

    def _known(self, step: int, replicas: Sequence[PeerId]) -> dict[Place, PlaceNews]:
        """The best news of every place by those that are at `step`."""
        best: dict[Place, PlaceNews] = {}
        for news, _ in (self._news[peer] for peer in replicas if peer in self._news):
            for entry in news.places if news.step == step else ():
                place = (entry.stage, entry.fragment)
                before = best.get(place)
                if before is None or _knowledge(entry) > _knowledge(before):
                    best[place] = entry
        return best

    def _begun(self, replicas: Sequence[PeerId]) -> dict[tuple[Place, int], float]:
        """Since when a place is at a round: as who was there longest says, at this step or an earlier one."""
        begun: dict[tuple[Place, int], float] = {}
        for news, heard_seconds in (self._news[peer] for peer in replicas if peer in self._news):
            for entry in news.places:
                key = (entry.stage, entry.fragment), entry.round
                ago_seconds = min(max(entry.begun_seconds, 0.0), self.every_seconds)
                begun[key] = min(begun.get(key, math.inf), heard_seconds - ago_seconds)
        return begun

    def _awaits(
        self,
        step: int,
        next_step: int,
        lacking: Mapping[Place, PlaceNews],
        is_whole: bool,
        now_seconds: float,
        step_seconds: float,
    ) -> bool:
        """Whether any of the results that are `lacking`, or news of other places, are still worth waiting for.

        A result is waited for once; when it comes after all, it is merged behind the step of that time.
        """
        is_end = next_step >= self.rhythm.last_send_step
        awaited = {
            place: news.round
            for place, news in lacking.items()
            if (is_end and news.is_coming) or self._given_up.get(place) != news.round
        }
        is_coming = is_end and any(lacking[place].is_coming for place in awaited)
        patience_seconds = self.patience_seconds + is_end * SLOWEST * step_seconds
        waited_seconds = self._waited(step, is_coming, now_seconds)
        is_long = now_seconds >= self._waiting[1] + self.patience_seconds
        self.held_up_by = tuple(awaited) if is_end and is_long else ()
        if (awaited or not is_whole) and waited_seconds < patience_seconds:
            return True
        self._given_up.update(awaited)
        return False

    def _waited(self, step: int, is_coming: bool, now_seconds: float) -> float:
        """Seconds at `step` since anything was coming."""
        waiting_step, begun_seconds, since_seconds = self._waiting
        if waiting_step != step:
            begun_seconds = since_seconds = now_seconds
        if is_coming and now_seconds < begun_seconds + END_SECONDS:
            since_seconds = now_seconds
        self._waiting = step, begun_seconds, since_seconds
        return now_seconds - since_seconds

    def _standing(
        self,
        news: PlaceNews,
        next_step: int,
        begun_seconds: float,
        step_seconds: float,
        skip_to: float,
    ) -> "_Standing":
        """What one place needs if the step after this one is `next_step`, or a later one.

        The round in `news` began `begun_seconds` ago. Time makes it skip to `skip_to` at most.
        """
        rhythm, stage, fragment, number = self.rhythm, news.stage, news.fragment, news.round
        works: list[RoundWork] = []
        is_sent = news.is_sent
        is_early = bool(is_sent and news.choice) and (
            begun_seconds >= self.every_seconds or self._is_overtaken(news, next_step, step_seconds)
        )
        # A result that is here is better than the state behind it: what was made for the round is accounted for.
        is_missed = news.ahead_round > number + bool(news.choice)
        if is_missed and news.ahead_state:
            number = news.ahead_round
            works.append(_work(news, number, RoundWorkKind.CATCH_UP, news.ahead_state))
            next_step = max(next_step, rhythm.send_step(stage, fragment, number - 1))
            is_sent = is_early = False
        elif news.choice and (
            not is_sent or is_early or next_step >= rhythm.merge_step(stage, fragment, number)
        ):
            works.append(_work(news, number, RoundWorkKind.MERGE, news.choice))
            next_step = max(next_step, rhythm.send_step(stage, fragment, number))
            number, is_sent = number + 1, False
        elif is_sent:
            waits = next_step >= rhythm.merge_step(stage, fragment, number)
            return _Standing(next_step, waits, ())
        if max(0, news.follows_to) <= number < rhythm.rounds(stage, fragment):
            due_step = rhythm.send_step(stage, fragment, number)
            left_seconds = min(
                (due_step - next_step) * step_seconds, self.every_seconds - begun_seconds
            )
            is_late = news.offered > 0 and self._is_late(news, left_seconds)
            is_time = (begun_seconds >= self.every_seconds or is_late) and due_step <= skip_to
            if next_step >= due_step or (is_time and (is_early or not works)):
                works.append(_work(news, number, RoundWorkKind.SEND, b""))
                next_step = max(next_step, due_step)
        return _Standing(next_step, False, tuple(works))

    def _is_overtaken(self, news: PlaceNews, next_step: int, step_seconds: float) -> bool:
        """Whether others are ready for the round after the one that is decided, and would wait too long for the steps
        that this island has left until then: its result is merged before its time."""
        following = self.rhythm.send_step(news.stage, news.fragment, news.round + 1)
        return news.offered > 0 and self._is_late(news, (following - next_step) * step_seconds)

    def _is_late(self, news: PlaceNews, left_seconds: float) -> bool:
        """Whether those who are ready do not wait so long."""
        grace = self.grace_seconds
        return left_seconds > (news.window_seconds if grace is None else grace)


@dataclass(frozen=True, slots=True)
class _Standing:
    next_step: int
    waits: bool
    works: tuple[RoundWork, ...]


def _knowledge(news: PlaceNews) -> tuple[bool, bool, int, bool]:
    return bool(news.choice), bool(news.ahead_state), news.offered, news.is_coming


def _work(news: PlaceNews, number: int, kind: RoundWorkKind, digest: bytes) -> RoundWork:
    return RoundWork(news.stage, news.fragment, number, kind, digest)
