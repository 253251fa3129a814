"""The checkpoints of all islands of a run: each has inner moments and a residual of its own, so each has a folder.

`checkpoint/` holds those of the first island, its `island-0001/` those of the second, and so on, whichever of them is
shown. People evaluate and export those of the island that is shown; on disk, of the one that came furthest
(`store.furthest`). A run goes on from the step of which the most islands have a whole one, the newest of several: these
continue the rounds they were in, and where that is all of them the run ends as it would have uninterrupted. The first
island, which founds the rounds, is always one of these; who lacks that step begins anew, also where it came further:
what it learnt is set aside.
"""

import asyncio
from collections.abc import Collection
from pathlib import Path

from swarmtrain.checkpoint.initial import InitialModel
from swarmtrain.checkpoint.store import island_folder, island_folders, known_steps, latest
from swarmtrain.coordinator.checkpoints import Checkpoints
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import StateError
from swarmtrain.core.events import Noted
from swarmtrain.core.messages import CheckpointAt

FIRST_ISLAND = 0


class IslandCheckpoints:
    """By island; `first` are those of the first one, in `folder` itself."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self._config, self.folder = config, folder
        self.first = Checkpoints(config, folder)
        self._all: dict[int, Checkpoints] = {FIRST_ISLAND: self.first}
        self._initial: InitialModel | None = None

    def of(self, island: int) -> Checkpoints:
        if island not in self._all:
            self._all[island] = Checkpoints(self._config, island_folder(self.folder, island))
            if self._initial is not None:
                self._all[island].begin(self._initial)
        return self._all[island]

    async def begin(self) -> CheckpointAt:
        """Every island starts from `model.initial`, however late it comes; one that goes on stays where it is, and who
        founds it anew when it died starts from the model too.

        Raises ModelError when it cannot be read or has other weights than the run's.
        """
        initial = await asyncio.to_thread(InitialModel, self._config.model)
        await asyncio.to_thread(initial.check)
        self._initial = initial
        for island in self._all.values():
            island.begin(initial)
        return CheckpointAt(0, initial.base)

    def resume(self) -> tuple[dict[int, CheckpointAt], list[Noted]]:
        """Where each island starts, and what there is to tell of it. Raises StateError as `Checkpoints.resume` does.

        An island that is not named begins anew and catches up with the others, as one that joins late.
        """
        notes = [
            Noted("a damaged checkpoint was passed over", damage) for damage in self.first.resume()
        ]
        newest, others = _newest(self.first).step, island_folders(self.folder)
        saved = {FIRST_ISLAND: set(known_steps(self.folder))}
        saved |= {island: set(known_steps(path)) for island, path in others.items()}
        having = {
            step: {island for island in saved if step in saved[island]}
            for step in saved[FIRST_ISLAND]
            if step <= newest
        }
        while having:
            step = max(having, key=lambda step: (len(having[step]), step))
            failed = self._resume_at(step, having[step])
            notes += [Noted("a checkpoint was passed over", str(failed[one])) for one in failed]
            if not failed:
                return self._going_on(having[step], notes)
            having[step].difference_update(failed)
            if FIRST_ISLAND in failed:
                del having[step]
        self.first.resume()
        return self._going_on({FIRST_ISLAND}, notes)

    def _resume_at(self, step: int, islands: Collection[int]) -> dict[int, StateError]:
        """Those of `islands` that cannot go on from `step`, and why."""
        failed = {}
        for island in sorted(islands):
            try:
                self.of(island).resume(step)
            except StateError as error:
                failed[island] = error
        return failed

    def _going_on(
        self, islands: Collection[int], notes: list[Noted]
    ) -> tuple[dict[int, CheckpointAt], list[Noted]]:
        """`islands` go on from where they are now, all others begin anew."""
        starts = {island: _newest(self.of(island)) for island in sorted(islands)}
        why = f"step {starts[FIRST_ISLAND].step}, of which this island has no whole checkpoint"
        rest = island_folders(self.folder).keys() - starts.keys()
        return starts, [*notes, *self.set_aside(why, only=rest)]

    def set_aside(self, why: str, only: Collection[int] | None = None) -> list[Noted]:
        """All islands but the first one begin anew, or `only` those given. What they saved is another history now: it
        is kept under another name, as a later resume would mix the two. Raises StateError when that cannot be."""
        notes = []
        for number, path in sorted(island_folders(self.folder).items()):
            if only is not None and number not in only:
                continue
            self._all.pop(number, None)
            kept = _set_aside(path)
            detail = f"island {number}, as the first one goes on from {why}. {kept}"
            notes.append(Noted("an island begins anew", detail))
        return notes


def _set_aside(path: Path) -> str:
    """Give an island's folder another name if there is anything in it; what its owner should know."""
    steps, kept = known_steps(path), _free_name(path)
    if not steps:
        return "It had not saved any checkpoint"
    try:
        path.rename(kept)
    except OSError as error:
        raise StateError(
            f"{path} cannot be renamed", str(error), f"move it away, for example to {kept}"
        ) from error
    saved = f"What it saved up to step {max(steps)} is in {kept}"
    if latest(kept) is None:
        return f"{saved}, and nothing there is whole"
    return (
        f"{saved}; swarmtrain export {kept} MODEL, then config init --from-hf MODEL, "
        "start a run from it"
    )


def _free_name(path: Path) -> Path:
    number = 1
    while (free := path.with_name(f"{path.name}-set-aside-{number}")).exists():
        number += 1
    return free


def _newest(checkpoints: Checkpoints) -> CheckpointAt:
    assert checkpoints.newest is not None
    return checkpoints.newest
