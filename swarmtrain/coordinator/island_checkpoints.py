"""The checkpoints of all islands of a run: each has inner moments and a residual of its own, so each has a folder.

`checkpoint/` holds those of the first island, its `island-0001/` those of the second, and so on, whichever of them is
shown. People evaluate and export those of the island that is shown; on disk, of the one that came furthest
(`store.furthest`). A run goes on from the newest step of which every island has a whole one: then all of them continue
the rounds they were in, and the run ends as it would have uninterrupted.
"""

import asyncio
from pathlib import Path

from swarmtrain.checkpoint.initial import InitialModel
from swarmtrain.checkpoint.store import island_folder, island_folders, known_steps
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
        """Every island starts from `model.initial`, however late it comes.

        Raises ModelError when it cannot be read or has other weights than the run's.
        """
        self._initial = await asyncio.to_thread(InitialModel, self._config.model)
        await asyncio.to_thread(self._initial.check)
        for island in self._all.values():
            at = island.begin(self._initial)
        return at

    @property
    def others_have_any(self) -> bool:
        return bool(island_folders(self.folder))

    def resume(self) -> tuple[dict[int, CheckpointAt], list[Noted]]:
        """Where each island starts, and what there is to tell of it. Raises StateError as `Checkpoints.resume` does.

        An island that is not named begins anew and catches up with the others, as one that joins late.
        """
        notes = [
            Noted("a damaged checkpoint was passed over", damage) for damage in self.first.resume()
        ]
        numbers = sorted(island_folders(self.folder))
        everybody = {number: self.of(number) for number in (FIRST_ISLAND, *numbers)}
        steps = [set(known_steps(one.folder)) for one in everybody.values()]
        for step in sorted(set.intersection(*steps), reverse=True):
            try:
                for one in everybody.values():
                    one.resume(step)
            except StateError as error:
                notes.append(Noted("a checkpoint was passed over", str(error)))
                continue
            return {number: _newest(one) for number, one in everybody.items()}, notes
        names = ", ".join(map(str, numbers))
        why = f"no step of which all islands have a whole checkpoint; those that catch up: {names}"
        notes.append(Noted("islands begin anew", why))
        self.first.resume()
        return {FIRST_ISLAND: _newest(self.first)}, notes


def _newest(checkpoints: Checkpoints) -> CheckpointAt:
    assert checkpoints.newest is not None
    return checkpoints.newest
