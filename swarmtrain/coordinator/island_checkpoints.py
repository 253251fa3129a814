"""The checkpoints of all islands of a run: each has inner moments and a residual of its own, so each has a folder.

`checkpoint/` holds those of the island that is shown, which is what people evaluate and export, and its
`island-0001/` those of the second island, and so on. A run goes on from the newest step of which every island has a
whole one: then all of them continue the rounds they were in, and the run ends as it would have uninterrupted.
"""

import re
from pathlib import Path

from swarmtrain.checkpoint.store import known_steps
from swarmtrain.coordinator.checkpoints import Checkpoints
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import StateError
from swarmtrain.core.events import Noted
from swarmtrain.core.messages import CheckpointAt

_FOLDER = re.compile(r"island-(\d{4})")


class IslandCheckpoints:
    """By island; `shown` are those in the folder itself."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self._config, self._folder = config, folder
        self.shown = Checkpoints(config, folder)
        self._others: dict[int, Checkpoints] = {}

    def of(self, island: int, shown_island: int) -> Checkpoints:
        """Those of `island`, while `shown_island` is the one that is shown."""
        if island == shown_island:
            return self.shown
        if island not in self._others:
            path = self._folder / f"island-{island:04d}"
            self._others[island] = Checkpoints(self._config, path)
        return self._others[island]

    def resume(self) -> tuple[dict[int, CheckpointAt], list[Noted]]:
        """Where each island starts, and what there is to tell of it. Raises StateError as `Checkpoints.resume` does.

        An island that is not named begins anew and catches up with the others, as one that joins late.
        """
        notes = [
            Noted("a damaged checkpoint was passed over", damage) for damage in self.shown.resume()
        ]
        kept = sorted(self._folder.glob("island-*"))
        numbers = [int(match[1]) for path in kept if (match := _FOLDER.fullmatch(path.name))]
        everybody = {0: self.shown} | {number: self.of(number, 0) for number in numbers}
        steps = [set(known_steps(one.folder)) for one in everybody.values()]
        for step in sorted(set.intersection(*steps), reverse=True):
            try:
                for one in everybody.values():
                    one.resume(step)
            except StateError as error:
                notes.append(Noted("a damaged checkpoint was passed over", str(error)))
                continue
            return {number: _newest(one) for number, one in everybody.items()}, notes
        names = ", ".join(map(str, numbers))
        why = f"no step of which all islands have a whole checkpoint; those that catch up: {names}"
        notes.append(Noted("islands begin anew", why))
        self.shown.resume()
        return {0: _newest(self.shown)}, notes


def _newest(checkpoints: Checkpoints) -> CheckpointAt:
    assert checkpoints.newest is not None
    return checkpoints.newest
