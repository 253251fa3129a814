"""Brings the result of a round here: from contributions gathered whole, or from the means of slices (outer.slices).

The owner of a slice gathers its sections of every contribution, sums and encodes them, and serves the mean. Where the
owner dies, hangs or sends what does not fit, whoever accepted the round's result has the mean too; and else it is
reduced here from the contributions themselves, in the same order and the same codec: so the result is the same to the
bit, and whether it is everybody's is decided by its digest, as ever.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from swarmtrain.compute.lane import Kind, Lane, Task
from swarmtrain.core.errors import LinkError, StateError, WireError
from swarmtrain.core.events import Noted, Record
from swarmtrain.core.rounds import Choice, Counted
from swarmtrain.core.types import PeerId
from swarmtrain.outer import slices
from swarmtrain.outer.director import Place
from swarmtrain.outer.parcel import Buffer
from swarmtrain.outer.payload import slice_elements
from swarmtrain.outer.reduction import Reduction, Result, SpoiltContribution
from swarmtrain.peer.payloads import Payloads, RoundKey, Sources, Wanted, ordered
from swarmtrain.peer.stage_rounds import OuterStates

Unreachable = (LinkError, WireError, StateError)
Sections = tuple[int, int]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """The choice whose result is wanted. `holders` accepted it; `islands` are the peers of those that it counts.

    `siblings` are the replicas of the stage in this peer's island, this peer included.
    """

    place: Place
    key: RoundKey
    choice: Choice
    holders: tuple[PeerId, ...]
    islands: Mapping[int, tuple[PeerId, ...]]
    siblings: tuple[PeerId, ...]


class Missing(StateError):
    """The contributions of `islands` cannot be had, or cannot be used."""

    def __init__(self, islands: Sequence[int], why: str) -> None:
        super().__init__(f"the contributions of islands {list(islands)} are missing", why, "")
        self.islands = tuple(islands)


@dataclass(frozen=True, slots=True)
class Merging:
    """How one peer comes by results; its lane says what the round is, and sums go beside it."""

    me: PeerId
    states: OuterStates
    payloads: Payloads
    lane: Lane
    record: Record

    async def result(self, job: Job) -> tuple[Result | None, tuple[int, ...]]:
        """What `job` came to. None when the round is over meanwhile, or it cannot be had: then because of these
        islands."""
        try:
            found = await (self._sliced(job) if job.choice.slices else self._whole(job))
        except Missing as error:
            self.record(Noted("a contribution is missing", str(error)))
            return None, error.islands
        except (StateError, WireError) as error:
            self.record(Noted("a round cannot be merged", str(error)))
            return None, ()
        return (found if _is_chosen(job.choice, found) else None), ()

    async def _whole(self, job: Job) -> Result:
        found = await self._contributions(job, None)
        passes = len(found)
        return await self._beside(
            job, "merge", passes, None, lambda it: it.whole(job.choice, found)
        )

    async def _sliced(self, job: Job) -> Result:
        slices.check(job.choice, self.states.sizes(job.place).sections)
        found = await self._of_means(job, self._mean)
        if not _is_chosen(job.choice, found):
            # An owner's mean is believed until the digest says otherwise.
            self.record(Noted("means do not come to what was chosen", f"round {job.key.round}"))
            found = await self._of_means(job, self._reduced)
        return found

    async def _of_means(
        self,
        job: Job,
        mean: "Callable[[Job, int, Sections], Coroutine[Any, Any, tuple[Buffer, ...]]]",
    ) -> Result:
        cut = slices.bounds(job.choice.slices)
        means = await _all([mean(job, number, sections) for number, sections in enumerate(cut)])
        whole = [section for sections in means for section in sections]
        return await self._beside(job, "merge", 1, None, lambda it: it.of_means(job.choice, whole))

    async def _mean(self, job: Job, number: int, sections: Sections) -> tuple[Buffer, ...]:
        """The mean of a slice: its owner's, or else made here.

        An owner that was started again takes its own from those who accepted the result: what it was made of may
        be gone by then.
        """
        owner, name = job.choice.slices[number].peer, slices.mean_name(job.choice, number)
        held = self.payloads.held(job.key, name)
        if held is not None:
            return held
        asked = dict.fromkeys((owner, *ordered(job.holders, self.me)))
        holders = tuple(peer for peer in asked if peer != self.me)
        if holders:
            siblings = () if owner in job.siblings else job.siblings
            sources = Sources(holders, siblings, is_shared=False)
            bounds = self.states.mean_bounds(job.place, sections)
            wanted = Wanted(name, bounds, is_contribution=False)
            try:
                return await self.payloads.fetch(job.key, wanted, sources)
            except StateError as error:
                self.record(Noted("the slice of another peer is reduced here", f"{owner}: {error}"))
        return await self._reduced(job, number, sections)

    async def _reduced(self, job: Job, number: int, sections: Sections) -> tuple[Buffer, ...]:
        """The mean of a slice, made here of the contributions, for whoever asks."""
        name = slices.mean_name(job.choice, number)
        with self.payloads.working(job.key, name):
            found = await self._contributions(job, sections)
            # Each contribution is decoded, and the mean encoded.
            passes = len(found) + 1
            mean = await self._beside(
                job, "reduce", passes, sections, lambda it: it.mean(job.choice, sections, found)
            )
            self.payloads.put_mean(job.key, name, mean)
        return mean

    async def _contributions(
        self, job: Job, sections: Sections | None
    ) -> dict[int, tuple[Buffer, ...]]:
        """These sections of all that is counted, by island. Raises Missing."""
        counted = job.choice.counted
        fetched = await asyncio.gather(
            *(self._contribution(job, entry, sections) for entry in counted),
            return_exceptions=True,
        )
        found: dict[int, tuple[Buffer, ...]] = {}
        missing: dict[int, str] = {}
        for entry, sent in zip(counted, fetched, strict=True):
            if isinstance(sent, tuple):
                found[entry.island] = sent
            elif isinstance(sent, Unreachable):
                missing[entry.island] = str(sent)
            else:
                raise sent
        if missing:
            raise Missing(list(missing), "; ".join(missing.values()))
        return found

    async def _contribution(
        self, job: Job, counted: Counted, sections: Sections | None
    ) -> tuple[Buffer, ...]:
        asked = ordered(job.islands.get(counted.island, ()), self.me)
        is_own = self.me in job.islands.get(counted.island, ())
        siblings: tuple[PeerId, ...] = ()
        if sections is None:
            # Whoever holds the result has gathered all of it, and the replicas here want the same.
            asked = tuple(dict.fromkeys((*asked, *ordered(job.holders, self.me))))
            siblings = () if is_own else job.siblings
        wanted = Wanted(counted.digest, self.states.bounds(job.place), sections)
        return await self.payloads.fetch(job.key, wanted, Sources(asked, siblings))

    async def _beside(
        self,
        job: Job,
        name: str,
        passes: int,
        sections: Sections | None,
        work: Callable[[Reduction], T],
    ) -> T:
        """Not on the lane, so that no step waits for it. It passes so often over these sections, or all.

        Raises Missing for a contribution that makes no sense, StateError when the round is over.
        """
        place, states = job.place, self.states

        def reduction() -> Reduction:
            if place[0] not in states.stages or states.key(place) != job.key:
                raise StateError(f"round {job.key.round} of stage {place[0]} is over", "", "")
            return states.reduction(place)

        found = await self.lane.submit(Task(Kind.STATE, place[0], name="reduction"), reduction)
        try:
            start, stop = (0, found.elements)
            if sections is not None:
                start, stop = slice_elements(sections, found.elements)
            task = Task(Kind.STATE, place[0], name=name, values=passes * (stop - start))
            return await self.lane.beside(task, lambda: work(found))
        except SpoiltContribution as error:
            raise Missing([error.island], str(error)) from None


def _is_chosen(choice: Choice, found: Result) -> bool:
    return choice.result in (b"", found.choice.result)


async def _all(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; the first failure ends the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
