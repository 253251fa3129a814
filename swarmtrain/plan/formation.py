"""Which island a peer helps when nobody said: `--island auto`; pure.

Two peers are *near* when sending one microbatch's boundary tensor between them takes no longer than a microbatch takes
at a stage: sending then hides behind computing. Everybody decides from the same published records:

  a. help the nearest near island that cannot train as it is;
  b. else join the nearest near one that can: a larger island steps faster and stays synchronous;
  c. else found one, where the unformed peers near each other hold a whole model;
  d. else wait, and say for what; who has waited long enough helps the nearest island although it is far;
  e. or else founds one with all who have waited as long and are in none, where together they hold a whole model: far as
     they are, it is slow, but there is no other. As long as they do not, waiting is right: nothing could be trained.

Whoever has chosen says so first and settles later. Several may then have said one number though they are far apart,
because their views differed: of those who have not settled only the one who is near to most of them and these stand by
the number, the others choose again. (Around the lowest peer id instead, a newcomer with a lower one, near to that one
and far from others, took islands apart for ever.) An island in which peers have settled is theirs: only who is near to
them joins it.
"""

import statistics
from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from swarmtrain.core.types import PeerId
from swarmtrain.plan.assign import assign
from swarmtrain.plan.placement import Candidate
from swarmtrain.plan.words import stages_in_words

LEAST_NEAR_SECONDS = 0.02
"""Sends that take less are near whatever a stage takes: the load of two machines moves them more than their line."""

MEMBERS_MEASURED = 3
"""A newcomer measures its lines to so many settled peers of an island: those whose ids follow its own, so that many
newcomers do not all ask the same."""

Sends = Mapping[tuple[PeerId, PeerId], float]
"""Seconds of one boundary tensor, there or back, whichever is slower, by who measured it and to whom."""


@dataclass(frozen=True, slots=True)
class Resident:
    """A peer as its record shows it; `island` is None while it has chosen none, and only said while not settled.

    Who is not patient any more has waited long enough for near ones to go with far ones.
    """

    candidate: Candidate
    island: int | None
    is_settled: bool
    is_patient: bool = True

    @property
    def peer(self) -> PeerId:
        return self.candidate.peer


@dataclass(frozen=True, slots=True)
class Terms:
    """What an island needs: every stage of 0..`stages` hosted, by `least_peers` or more, near each other."""

    stages: int
    least_peers: int
    near_seconds: float


@dataclass(frozen=True, slots=True)
class Avoided:
    """Islands that this peer gave up: those `unable` to start are not helped while they cannot train, those that were
    `full` not at all. One that `began` is not founded again by who was in it: what it voted in rounds is forgotten."""

    unable: frozenset[int] = frozenset()
    full: frozenset[int] = frozenset()
    began: frozenset[int] = frozenset()

    def and_also(self, island: int, is_full: bool, has_begun: bool = False) -> "Avoided":
        """With one more."""
        if is_full:
            return replace(self, full=self.full | {island})
        began = self.began | {island} if has_begun else self.began
        return replace(self, unable=self.unable | {island}, began=began)


NOTHING_AVOIDED = Avoided()


@dataclass(frozen=True, slots=True)
class Formation:
    """The island to help, None for none yet, and why. `is_ready`: no need to wait for others before settling there."""

    island: int | None
    reason: str
    is_ready: bool = False


def near_seconds(candidates: Iterable[Candidate]) -> float:
    """What a send between near peers takes at most: the median seconds of a microbatch at a stage."""
    seconds = [candidate.seconds_per_stage for candidate in candidates]
    return max(statistics.median(seconds), LEAST_NEAR_SECONDS) if seconds else LEAST_NEAR_SECONDS


def lacking(residents: Iterable[Resident], terms: Terms) -> str:
    """What these peers together still need to train, in words; "" when they hold a whole model."""
    placed = assign([resident.candidate for resident in residents], terms.stages)
    hosts = sum(bool(assignment.stages) for assignment in placed.values())
    hosted = {stage for assignment in placed.values() for stage in assignment.stages}
    missing = [stage for stage in range(terms.stages + 1) if stage not in hosted]
    if missing:
        return f"room for {stages_in_words(missing)}"
    return f"{terms.least_peers - hosts} more peers" if hosts < terms.least_peers else ""


def choose_island(
    me: PeerId,
    residents: Sequence[Resident],
    sends: Sends,
    terms: Terms,
    is_patient: bool = True,
    avoided: Avoided = NOTHING_AVOIDED,
) -> Formation:
    """The island that `me`, one of `residents` and not settled, helps."""
    view = View(residents, sends, terms, avoided.began)
    mine = view.island_of(me)
    if mine is not None:
        kept = _stay(view, me, mine)
        if kept is not None:
            return kept
        # A number that nobody settled under is given up by all who stand by it: they see the same.
        gone = {me} if view.settled(mine) else {member.peer for member in view.islands[mine]}
        away = [replace(r, island=None) if r.peer in gone else r for r in residents]
        view = View(away, sends, terms, avoided.began)
    own = next(resident for resident in residents if resident.peer == me)
    return (
        _near_island(view, me, avoided)
        or _new_island(view, me)
        or (None if is_patient else _far_island(view, own, avoided) or _new_far_island(view, own))
        or _wait(view, own, avoided)
    )


def unmeasured(
    me: PeerId, residents: Sequence[Resident], sends: Sends, terms: Terms
) -> list[PeerId]:
    """To whom `me` needs a line measured before it can tell where it belongs, the most useful first: those around whom
    others gather, and some of every island."""
    view = View(residents, sends, terms)
    asked: dict[PeerId, None] = {}
    for cluster in view.clusters:
        asked[cluster[0].peer] = None
        if any(resident.peer == me for resident in cluster):
            break
    for island in view.islands:
        some = view.asked_of(island)
        place = bisect(some, me)
        asked.update(dict.fromkeys((some[place:] + some[:place])[:MEMBERS_MEASURED]))
    return [peer for peer in asked if peer != me and view.seconds(me, peer) is None]


class View:
    """Who stands in which island, and who in none, as the records and the measured lines say. Numbers `taken` are free
    for no new island."""

    def __init__(
        self,
        residents: Sequence[Resident],
        sends: Sends,
        terms: Terms,
        taken: frozenset[int] = frozenset(),
    ) -> None:
        self._sends, self.terms, self._taken = sends, terms, taken
        ordered = sorted(residents, key=lambda resident: resident.peer)
        said: dict[int, list[Resident]] = {}
        for resident in ordered:
            if resident.island is not None:
                said.setdefault(resident.island, []).append(resident)
        self._tired = {r.peer for r in ordered if not (r.is_patient or r.is_settled)}
        spare = {island: self._spare(everybody) for island, everybody in said.items()}
        self.islands = {
            island: self._standing([r for r in said[island] if r not in spare[island]])
            for island in sorted(said)
        }
        self.unformed = self._outside(ordered)
        if any(spare.values()):
            self._let_in(spare)

    def island_of(self, peer: PeerId) -> int | None:
        """Where `peer` stands."""
        stands = (n for n, members in self.islands.items() if any(m.peer == peer for m in members))
        return next(stands, None)

    def settled(self, island: int) -> list[Resident]:
        return [member for member in self.islands[island] if member.is_settled]

    def seconds(self, one: PeerId, other: PeerId) -> float | None:
        """The slower of what both measured of their line; None while neither has."""
        ways = (self._sends.get((one, other)), self._sends.get((other, one)))
        return max((way for way in ways if way is not None), default=None)

    def near_to(self, peer: PeerId, others: Iterable[Resident]) -> list[Resident]:
        """Those of `others` that are near to `peer`, itself too; all who have waited long count as near each other."""
        near = {peer, *self._near.get(peer, {}), *(self._tired if peer in self._tired else ())}
        return [other for other in others if other.peer in near]

    def is_near(self, peer: PeerId, asked: Sequence[PeerId]) -> bool:
        """Whether `peer` is as far from those `asked`, by the median of what is measured, as near peers are."""
        seconds = self.distance_seconds(peer, asked)
        return seconds is not None and seconds <= self.terms.near_seconds

    def asked_of(self, island: int) -> list[PeerId]:
        """The peers that say how far an island is: the settled ones, or else the one around whom it gathers."""
        members = self.islands[island]
        return [r.peer for r in members if r.is_settled] or [self._middle([], members)]

    def distance_seconds(self, peer: PeerId, asked: Sequence[PeerId]) -> float | None:
        """The median of the measured lines between `peer` and those `asked`; None while there is none."""
        if peer in asked:
            return 0.0
        known = [seconds for other in asked if (seconds := self.seconds(peer, other)) is not None]
        return statistics.median_low(known) if known else None

    @cached_property
    def clusters(self) -> list[list[Resident]]:
        """The unformed in groups: the lowest peer id left and who is near to it, if together they hold a whole model;
        else it stands alone and the others may gather around the next."""
        found: list[list[Resident]] = []
        left = {resident.peer: resident for resident in self.unformed}
        for seed in self.unformed:
            if seed.peer not in left:
                continue
            near = [peer for peer in self._near.get(seed.peer, ()) if peer in left]
            star = [left[peer] for peer in sorted([seed.peer, *near])]
            found.append([seed] if lacking(star, self.terms) else star)
            for resident in found[-1]:
                del left[resident.peer]
        return found

    @cached_property
    def _near(self) -> dict[PeerId, dict[PeerId, None]]:
        """Who is near to whom: of many peers few have measured their line to each other."""
        found: dict[PeerId, dict[PeerId, None]] = {}
        for one, other in self._sends:
            if one != other and self.is_near(one, [other]):
                found.setdefault(one, {})[other] = None
                found.setdefault(other, {})[one] = None
        return found

    @property
    def founders(self) -> list[tuple[int, list[Resident]]]:
        """The groups that hold a whole model, each with a free number: the first gets the lowest."""
        whole = [cluster for cluster in self.clusters if not lacking(cluster, self.terms)]
        taken = {*self.islands, *self._taken}
        free = [number for number in range(len(whole) + len(taken)) if number not in taken]
        return list(zip(free, whole, strict=False))

    @property
    def far_founders(self) -> tuple[int, list[Resident]] | None:
        """All who have waited long and are in no island, with those that say so already, if they hold a whole model;
        and the number by which they found one."""
        near = {resident.peer for _, cluster in self.founders for resident in cluster}
        left = [r for r in self.unformed if r.peer in self._tired - near]
        for island, members in self.islands.items():
            are_tired = self._tired.issuperset(member.peer for member in members)
            if are_tired and not lacking([*members, *left], self.terms):
                return island, [*members, *left]
        taken = {*self.islands, *self._taken, *(island for island, _ in self.founders)}
        free = next(number for number in range(len(taken) + 1) if number not in taken)
        return None if lacking(left, self.terms) else (free, left)

    def _outside(self, residents: Iterable[Resident]) -> list[Resident]:
        inside = {member.peer for members in self.islands.values() for member in members}
        return [resident for resident in residents if resident.peer not in inside]

    def _spare(self, everybody: list[Resident]) -> list[Resident]:
        """Of those who said one number: who is far from those settled there, where these do without."""
        settled = [resident for resident in everybody if resident.is_settled]
        asked = [resident.peer for resident in settled]
        tired = [r for r in everybody if asked and r.peer in self._tired]
        far = [resident for resident in tired if not self.is_near(resident.peer, asked)]
        return far if far and not lacking(settled, self.terms) else []

    def _let_in(self, spare: Mapping[int, list[Resident]]) -> None:
        """They stand by the number all the same, unless there are near ones by now that they can help, or found an
        island with."""
        asked = [self.asked_of(island) for island in self.islands]
        taken = {resident.peer for _, cluster in self.founders for resident in cluster}
        far = {r.peer for some in spare.values() for r in some if r.peer not in taken}
        far -= {peer for peer in far if any(self.is_near(peer, others) for others in asked)}
        for island, residents in spare.items():
            stand = [*self.islands[island], *(r for r in residents if r.peer in far)]
            self.islands[island] = sorted(stand, key=lambda resident: resident.peer)
        self.unformed = self._outside(self.unformed)
        del self.clusters  # of those who were unformed before

    def _standing(self, everybody: list[Resident]) -> list[Resident]:
        """Of those who said one number: the settled ones and who is near to them, or has waited too long for that, and
        who is near to the one they gather around."""
        settled = [resident.peer for resident in everybody if resident.is_settled]
        far = self._tired if settled else set[PeerId]()
        near = [
            r for r in everybody if r.is_settled or r.peer in far or self.is_near(r.peer, settled)
        ]
        stands = {r.peer for r in near}
        stands.update(r.peer for r in self.near_to(self._middle(near, everybody), everybody))
        return [resident for resident in everybody if resident.peer in stands]

    def _middle(self, choices: list[Resident], everybody: list[Resident]) -> PeerId:
        """Around whom `everybody` who said one number gathers, of `choices` if there are any: who is near to most of
        them, so that the circle only grows; of equals the lowest id. A smaller circle goes first if it holds a whole
        model and the larger does not."""
        circles = {r.peer: self.near_to(r.peer, everybody) for r in choices or everybody}
        ordered = sorted(circles, key=lambda peer: (-len(circles[peer]), peer))
        return next((p for p in ordered if not lacking(circles[p], self.terms)), ordered[0])


def _stay(view: View, me: PeerId, island: int) -> Formation | None:
    """Whether to stay with an island that is whole, or becomes so with the unformed near it."""
    members = view.islands[island]
    if not lacking(members, view.terms):
        asked = view.asked_of(island)
        away, count = _away(view.distance_seconds(me, asked)), len(members)
        reason = (
            f"{count} peers near each other hold a whole model, {away}"
            if all(view.is_near(member.peer, asked) for member in members)
            else f"after a long wait {count} peers that hold a whole model, though far from each other: {away}"
        )
        return Formation(island, reason, is_ready=True)
    all_near = [*members, *view.near_to(view.asked_of(island)[0], view.unformed)]
    if not view.settled(island) and not lacking(all_near, view.terms):
        reason = f"{len(members)} of {len(all_near)} peers that hold a whole model have said so"
        return Formation(island, reason)
    return None


def _near_island(view: View, me: PeerId, avoided: Avoided) -> Formation | None:
    """Help the nearest near island that cannot train, else the nearest near one that can."""
    choices: list[tuple[bool, float, int]] = []
    for island, members in view.islands.items():
        seconds = view.distance_seconds(me, view.asked_of(island))
        is_whole = not lacking(members, view.terms)
        if seconds is None or seconds > view.terms.near_seconds or island in avoided.full:
            continue
        # A number that nobody has settled under is not the island that was given up.
        if is_whole or island not in avoided.unable or not view.settled(island):
            choices.append((is_whole, seconds, island))
    if not choices:
        return None
    is_whole, seconds, island = min(choices)
    needs = lacking(view.islands[island], view.terms)
    what = "the nearest island that can train" if is_whole else f"it still needs {needs}"
    reason = f"{what}, {_in_ms(seconds)} away"
    return Formation(island, reason, is_ready=bool(view.settled(island)))


def _new_island(view: View, me: PeerId) -> Formation | None:
    """Found an island with the unformed that are near, if they suffice."""
    for island, cluster in view.founders:
        if any(resident.peer == me for resident in cluster):
            reason = f"a new island: {len(cluster)} peers near each other hold a whole model"
            return Formation(island, reason)
    return None


def _far_island(view: View, own: Resident, avoided: Avoided) -> Formation | None:
    """Help the nearest island that can train with this peer, how far it may be."""
    choices = []
    for island, members in view.islands.items():
        seconds = view.distance_seconds(own.peer, view.asked_of(island))
        if island not in avoided.full and not lacking([*members, own], view.terms):
            choices.append((seconds is None, seconds or 0.0, island))
    if not choices:
        return None
    is_unknown, seconds, island = min(choices)
    away = _away(None if is_unknown else seconds)
    reason = f"after a long wait the nearest that can train with this peer, though far: {away}"
    return Formation(island, reason, is_ready=bool(view.settled(island)))


def _new_far_island(view: View, own: Resident) -> Formation | None:
    """Found an island with all others that have waited long, if they suffice."""
    found = view.far_founders
    if found is None or all(resident.peer != own.peer for resident in found[1]):
        return None
    island, founders = found
    reason = f"a new island after a long wait: {len(founders)} peers hold a whole model, though far from each other"
    return Formation(island, reason)


def _wait(view: View, own: Resident, avoided: Avoided) -> Formation:
    near = view.near_to(own.peer, [r for r in view.unformed if r.peer != own.peer])
    needs = lacking([own, *near], view.terms)
    full = ", ".join(str(island) for island in view.islands if island in avoided.full)
    with_place = f" with a place left (not {full})" if full else ""
    return Formation(
        None,
        f"no island{with_place} is within {_in_ms(view.terms.near_seconds)} a microbatch; to found one, this peer "
        "and the "
        f"{len(near)} near it that are in none need {needs or 'to be nearer each other'}",
    )


def _away(seconds: float | None) -> str:
    return "nobody knows how" if seconds is None else f"{_in_ms(seconds)} away"


def _in_ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
