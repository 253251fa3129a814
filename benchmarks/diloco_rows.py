"""The rows of benchmarks/diloco.py: which islands, rounds and codecs are compared, most wanted first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from swarmtrain.experiments.island import IslandPlan
from swarmtrain.experiments.islands import IslandsSetting
from swarmtrain.outer.member import RoundSettings
from swarmtrain.outer.optimizer import AVERAGE, DILOCO, SHORT, OuterOptimizer, suggested
from swarmtrain.wire.codecs import CODECS, codec_named

SUGGESTED = "suggested"
OPTIMIZERS = {
    "nesterov 0.7 / 0.9": DILOCO,
    "nesterov 0.9 / 0.5": SHORT,
    "average": AVERAGE,
    "momentum 0.7 / 0.9": OuterOptimizer("momentum", 0.7, 0.9, warms_up=False),
    "momentum, warmed up": OuterOptimizer("momentum", 0.7, 0.9),
}

CALM = "calm"
EVENTS = (
    "one at a fifth of the speed",
    "one joins at half",
    "one misses every third round",
    "one away",
)
"""What may happen to the last island."""

LEARNING_RATES = (1.4e-3, 3e-3)
"""Inner ones beside the setting's: neighbouring settings, for islands may want another than synchronous training."""


@dataclass(frozen=True, slots=True)
class Row:
    """One training run. `islands` 0 is synchronous training with all microbatches in every step."""

    group: str
    seed: int
    islands: int
    inner_steps: int = 0
    codec: str = "none"
    answer: bool = False
    """Whether the mean is encoded again on its way back, rather than all payloads gathered."""
    optimizer: str = SUGGESTED
    feedback: bool | None = None
    delay_steps: int = 0
    fragments: int = 1
    merge_factor: float | None = None
    event: str = CALM
    learning_rate: float | None = None
    """The inner one, also of the start; None for the setting's."""

    @property
    def is_synchronous(self) -> bool:
        return not self.islands

    def setting(self, rounds: int) -> IslandsSetting:
        """For the plain loop, in a run of so many `rounds` of H steps after the start (which count from the run's)."""
        optimizer = (
            suggested(codec_named(self.codec), self.delay_steps)[0]
            if self.optimizer == SUGGESTED
            else OPTIMIZERS[self.optimizer]
        )
        settings = RoundSettings(
            optimizer,
            self.codec,
            self.codec if self.answer else None,
            feedback=self.feedback,
            merge_factor=self.merge_factor,
        )
        plans = [IslandPlan()] * (self.islands - 1) + [self._last_island(rounds)]
        return IslandsSetting(
            tuple(plans),
            settings,
            self.inner_steps,
            self.fragments,
            staggered=self.fragments > 1,
            delay_steps=self.delay_steps,
        )

    def _last_island(self, rounds: int) -> IslandPlan:
        match self.event:
            case "one at a fifth of the speed":
                return IslandPlan(own_steps=max(1, self.inner_steps // 5))
            case "one joins at half":
                return IslandPlan(joins_at_round=rounds // 2)
            case "one misses every third round":
                return IslandPlan(misses=frozenset(range(0, rounds, 3)))
            case "one away":
                return IslandPlan(away=range(rounds // 2, rounds // 2 + max(1, rounds // 20)))
        return IslandPlan()

    @property
    def what(self) -> str:
        """All that tells it from others, but the seed."""
        rate = [f"learning rate {self.learning_rate}"] * (self.learning_rate is not None)
        if self.is_synchronous:
            return ", ".join(["synchronous", *rate])
        said = [f"{self.islands} islands, H {self.inner_steps}", self.codec]
        said += ["answered"] * self.answer
        said += [self.optimizer] * (self.optimizer != SUGGESTED)
        said += [f"feedback {self.feedback}"] * (self.feedback is not None)
        said += [f"{self.delay_steps} steps late"] * bool(self.delay_steps)
        said += [f"{self.fragments} fragments a stage"] * (self.fragments > 1)
        said += [f"merge factor {self.merge_factor}"] * (self.merge_factor is not None)
        said += [self.event] * (self.event != CALM)
        return ", ".join(said + rate)


@dataclass(frozen=True, slots=True)
class Grid:
    """What is varied."""

    seeds: tuple[int, ...] = (1, 2)
    islands: tuple[int, ...] = (1, 2, 4, 8)
    inner_steps: tuple[int, ...] = (10, 50, 100)
    codecs: tuple[str, ...] = tuple(name for name in CODECS if name != "none")
    learning_rates: tuple[float, ...] = LEARNING_RATES

    def rows(self) -> list[Row]:
        """All rows; of each group the first seed of all before the second, and a third of what goals are about."""
        rows = [row for group in self._groups() for row in sorted(group, key=lambda r: r.seed)]
        third = [replace(row, seed=max(self.seeds) + 1) for row in rows if self._is_goal(row)]
        return [*rows, *dict.fromkeys(third)]

    def _is_goal(self, row: Row) -> bool:
        """The gap of four islands to synchronous training, at both learning rates, and those of int4 and ternary."""
        short = self.inner_steps[0]
        is_plain = row.group in ("synchronous", "islands", "codecs") and row.codec in (
            "none",
            "int4",
            "ternary",
        )
        is_lower = row.group == "learning rates" and row.learning_rate == min(self.learning_rates)
        is_four = row.is_synchronous or (row.islands, row.inner_steps) == (4, short)
        return (is_plain or is_lower) and is_four

    def _groups(self) -> Iterator[list[Row]]:
        yield [Row("synchronous", seed, 0) for seed in self.seeds]
        yield [
            Row("islands", seed, islands, inner_steps)
            for seed in self.seeds
            for islands in sorted(self.islands, key=lambda count: (count != 4, count))
            for inner_steps in self.inner_steps
        ]
        short, middle = self.inner_steps[0], self.inner_steps[len(self.inner_steps) // 2]
        four = Row("codecs", 0, min(4, max(self.islands)), short)
        yield self._seeded([replace(four, codec=codec) for codec in self.codecs])
        dense = [codec for codec in self.codecs if not codec_named(codec).gathers]
        answered = [replace(four, codec=codec, answer=True) for codec in dense]
        longer = [replace(four, codec=codec, inner_steps=middle) for codec in dense]
        yield self._seeded(answered, "answered")
        yield self._seeded(longer, "codecs, longer rounds")
        optimizers = [replace(four, optimizer=name) for name in OPTIMIZERS]
        if four.islands > 2:
            # The fewer islands, the less is averaged away of what they learnt: momentum may be too much for two.
            optimizers += [
                replace(four, islands=2, inner_steps=steps, optimizer="average")
                for steps in self.inner_steps
            ]
        yield self._seeded(optimizers, "optimizers")
        synchronous = Row("", 0, 0)
        plain = [
            replace(row, learning_rate=rate)
            for rate in self.learning_rates
            for row in (synchronous, four)
        ]
        # What codecs cost is more than chance only if it is the same where training goes better.
        lower = [
            replace(four, codec=codec, learning_rate=min(self.learning_rates))
            for codec in self.codecs
            if codec in ("int4", "ternary")
        ]
        yield self._seeded(plain + lower, "learning rates")
        yield self._seeded(self._overlapped(four), "overlap")
        yield self._seeded(
            [
                replace(four, codec=codec, feedback=not codec_named(codec).error_feedback)
                for codec in self.codecs
                if codec in ("int4", "ternary", "rank8", "top64")
            ],
            "feedback",
        )
        yield self._seeded([replace(four, codec="int4", event=name) for name in EVENTS], "events")

    def _overlapped(self, four: Row) -> list[Row]:
        late = replace(four, delay_steps=four.inner_steps)
        half = max(1, four.inner_steps // 2)
        pieces = replace(four, fragments=2, delay_steps=half)
        return [
            late,
            replace(late, codec="int4"),
            replace(late, optimizer="nesterov 0.7 / 0.9"),
            replace(late, merge_factor=0.5),
            replace(pieces, fragments=1),
            pieces,
            replace(pieces, merge_factor=0.5),
            replace(pieces, codec="int4", merge_factor=0.5),
        ]

    def _seeded(self, rows: Sequence[Row], group: str | None = None) -> list[Row]:
        return [
            replace(row, seed=seed, group=group or row.group) for seed in self.seeds for row in rows
        ]
