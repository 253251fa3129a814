"""When each fragment of each stage sends and merges its rounds: arithmetic over the run's step, nothing else.

The run's step is what the learning rate and the microbatches' keys go by. An island that is slower makes fewer inner
steps in the same time: its k-th of h in a round of H starts at floor(k H / h) of the round (`Pace`), so that all
islands agree on the step they are at, and with it on which round of which fragment comes next (`Rhythm`); two orders
at two members would deadlock (diloco.md section 4). A member does what is due at the step it is at before it
takes the next inner step, with the parameters it has by then.

Fragment p of stage s sends every H steps at an offset of its own (Streaming DiLoCo, arXiv 2501.18512, section 2.2) and
merges `delay_steps` later, H for one round late. A result is always merged before the fragment's next payload is
made, so at most one round of a fragment is under way. Every fragment has one more round at the end of the run, for
which whatever is under way is merged before: the outer parameters that the run yields know all contributions. With a
delay it is made one step before the end, so that its result has a step to come in.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from swarmtrain.core.errors import ConfigError


@dataclass(frozen=True, slots=True, order=True)
class Due:
    """One thing to do: send the contribution to a round, or merge its result. Sorts in the order of doing."""

    step: int
    stage: int
    fragment: int
    round: int
    is_merge: bool

    @property
    def kind(self) -> Literal["send", "merge"]:
        return "merge" if self.is_merge else "send"


@dataclass(frozen=True, slots=True)
class Rhythm:
    """The rounds of a whole run, which is `steps` long and has middle stages 1..`stages` and the edge."""

    steps: int
    stages: int
    inner_steps: int
    """H: steps of the run from one round of a fragment to its next."""
    fragments: int = 1
    """In each stage."""
    delay_steps: int = 0
    staggered: bool = False
    """Whether stages take turns as well as fragments, so that their transfers spread over the round. Where there are
    more of them than steps in it, some go together."""

    def __post_init__(self) -> None:
        if self.inner_steps < 1 or not 0 <= self.delay_steps <= self.inner_steps:
            raise ConfigError(
                f"outer rounds of {self.inner_steps} steps with results {self.delay_steps} late cannot be had",
                "a result has to be merged before the fragment sends again",
                "let the delay be at most one round",
            )
        if self.fragments < 1:
            raise ConfigError(
                f"a stage cannot have {self.fragments} fragments", "", "let it have at least one"
            )

    def offset(self, stage: int, fragment: int) -> int:
        """Steps into the round at which the fragment sends; 0 stands for the round's end."""
        turns = self.stages + 1 if self.staggered else 1
        turn = fragment * turns + (stage if self.staggered else 0)
        return turn * self.inner_steps // (self.fragments * turns)

    def rounds(self, stage: int, fragment: int) -> int:
        """How many rounds the fragment has in the run, the last one at its end included."""
        regular = (self.last_send_step - 1 - self._first(stage, fragment)) // self.inner_steps + 1
        return max(0, regular) + 1

    def send_step(self, stage: int, fragment: int, number: int) -> int:
        """The step before which the contribution to round `number` is made."""
        return min(self.last_send_step, self._first(stage, fragment) + number * self.inner_steps)

    def merge_step(self, stage: int, fragment: int, number: int) -> int:
        """The step before which the result of round `number` is merged."""
        is_last = self.is_last(stage, fragment, number)
        latest = self.steps if is_last else self.last_send_step
        return min(latest, self.send_step(stage, fragment, number) + self.delay_steps)

    def next_round(self, stage: int, fragment: int, step: int) -> int:
        """The first round whose contributions are made after `step`."""
        return max(0, (step - self._first(stage, fragment)) // self.inner_steps + 1)

    def due(self, step: int, before: int | None = None) -> tuple[Due, ...]:
        """What to do from `step` on, before `before` (by default before the next step), in this order."""
        stop = step + 1 if before is None else before
        places = [
            (stage, fragment)
            for stage in range(self.stages + 1)
            for fragment in range(self.fragments)
        ]
        found = [entry for place in places for entry in self._near(*place, step, stop)]
        return tuple(sorted(entry for entry in found if step <= entry.step < stop))

    def is_last(self, stage: int, fragment: int, number: int) -> bool:
        """Whether no round of the fragment comes after round `number`."""
        return number >= self.rounds(stage, fragment) - 1

    @property
    def last_send_step(self) -> int:
        """The step before which the contributions to all last rounds are made."""
        return self.steps - min(1, self.delay_steps, self.steps - 1)

    def _first(self, stage: int, fragment: int) -> int:
        return self.offset(stage, fragment) or self.inner_steps

    def _near(self, stage: int, fragment: int, start: int, stop: int) -> Iterator[Due]:
        """All of the fragment that is due from `start` to `stop`, and a little more."""
        first, count = self._first(stage, fragment), self.rounds(stage, fragment)
        lowest = max(0, (start - self.delay_steps - first) // self.inner_steps)
        beyond = (stop - first) // self.inner_steps + 2
        for number in range(lowest, min(count, beyond)):
            sends = self.send_step(stage, fragment, number)
            yield Due(sends, stage, fragment, number, False)
            yield Due(self.merge_step(stage, fragment, number), stage, fragment, number, True)


@dataclass(frozen=True, slots=True)
class Pace:
    """An island that makes `own_steps` inner steps while the run goes on by `inner_steps`."""

    inner_steps: int
    own_steps: int

    def __post_init__(self) -> None:
        if not 1 <= self.own_steps <= self.inner_steps:
            raise ConfigError(
                f"an island cannot make {self.own_steps} of {self.inner_steps} inner steps",
                "it makes at least one in a round, and sets the pace if it is the fastest",
                f"let it make 1 to {self.inner_steps}",
            )

    def start(self, own_step: int) -> int:
        """The run's step at which the island's step `own_step`, counted from a round's start, begins."""
        number, place = divmod(own_step, self.own_steps)
        return number * self.inner_steps + place * self.inner_steps // self.own_steps

    def ending(self, step: int) -> int | None:
        """Where the inner step began that is done when the run is at `step`; None when none is."""
        number, place = divmod(step - 1, self.inner_steps)
        # The last of the round's own steps that begins at `place` or before: k H // h <= place.
        own = ((place + 1) * self.own_steps - 1) // self.inner_steps
        begun = number * self.own_steps + own
        return self.start(begun) if self.start(begun + 1) == step else None


def fragment_bounds(offsets: Sequence[int], elements: int, fragments: int) -> list[tuple[int, int]]:
    """Cuts a stage's flat layout of `elements` between tensors, which start at `offsets`, into even runs.

    Returns `(start, stop)` of each, which follow each other and cover all; none is empty. Raises ConfigError when
    there are fewer tensors than fragments.
    """
    if not 1 <= fragments <= len(offsets):
        raise ConfigError(
            f"a stage of {len(offsets)} tensors cannot be cut into {fragments} fragments",
            "tensors are not cut",
            f"use 1 to {len(offsets)} fragments",
        )
    cuts = [0]
    for number in range(1, fragments):
        # Enough tensors must be left for the fragments behind.
        reachable = offsets[: len(offsets) - (fragments - number) + 1]
        free = [offset for offset in reachable if offset > cuts[-1]]
        wanted = number * elements // fragments
        cuts.append(min(free, key=lambda offset: (abs(offset - wanted), offset)))
    return list(zip(cuts, [*cuts[1:], elements], strict=True))
