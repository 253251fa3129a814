"""The checkpoints of all islands of a run: each has inner moments and a residual of its own, so each has a folder.

`checkpoint/` holds those of the first island, its `island-0001/` those of the second, and so on, whichever of them is
shown. People evaluate and export those of the island that is shown; on disk, of the one that came furthest
(`store.furthest`). A run goes on from the newest step of which every island has a whole one: then all of them continue
the rounds they were in, and the run ends as it would have uninterrupted. Without such a step it goes on from the first
island's, which founds the rounds, also where another one came further: what that one learnt is set aside.
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
        self.first.resume()
        start = _newest(self.first)
        why = f"step {start.step}: there is no step of which all islands have a whole checkpoint"
        return {FIRST_ISLAND: start}, [*notes, *self.set_aside(why)]

    def set_aside(self, why: str) -> list[Noted]:
        """All islands but the first one begin anew. What they saved is another history now: it is kept under another
        name, as a later resume would mix the two. Raises StateError when that cannot be."""
        notes = []
        for number, path in sorted(island_folders(self.folder).items()):
            self._all.pop(number, None)
            steps, kept = known_steps(path), _free_name(path)
            try:
                path.rename(kept)
            except OSError as error:
                raise StateError(
                    f"{path} cannot be renamed", str(error), f"move it away, for example to {kept}"
                ) from error
            saved = f"up to step {max(steps)} " if steps else ""
            detail = (
                f"island {number}, as the first one goes on from {why}. What it saved {saved}is in {kept}; "
                f"swarmtrain export {kept} MODEL, then config init --from-hf MODEL, start a run from it"
            )
            notes.append(Noted("an island begins anew", detail))
        return notes


def _free_name(path: Path) -> Path:
    number = 1
    while (free := path.with_name(f"{path.name}-set-aside-{number}")).exists():
        number += 1
    return free


def _newest(checkpoints: Checkpoints) -> CheckpointAt:
    assert checkpoints.newest is not None
    return checkpoints.newest
