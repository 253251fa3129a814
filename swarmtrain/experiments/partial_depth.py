"""A trained model with middle stages left out: what its loss is at a share of its depth (SkipPipe, arXiv 2502.19913).

Which stages are left out is drawn as in training: those that `paths.protected` names stay in, and over the seeds all
others are left out equally often.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import ConfigError
from swarmtrain.core.sequences import Deal

Loss = Callable[[tuple[int, ...]], float]
"""Mean nats per token with only these middle stages, in this order."""


@dataclass(frozen=True, slots=True)
class Depth:
    """One share of the depth: which middle stages were kept, and the loss with each such choice."""

    share: float
    kept: tuple[tuple[int, ...], ...]
    losses: tuple[float, ...]
    """Nats per token, one for each choice in `kept`."""

    @property
    def stages(self) -> int:
        """Middle stages that were kept."""
        return len(self.kept[0])

    @property
    def loss(self) -> float:
        """Mean over the choices, in nats per token."""
        return statistics.fmean(self.losses)

    @property
    def spread(self) -> float:
        """Standard deviation of the loss over the choices; 0 when there is one."""
        return statistics.stdev(self.losses) if len(self.losses) > 1 else 0.0

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)

    def as_json(self) -> dict[str, object]:
        return {
            "keep": self.share,
            "stages": self.stages,
            "loss": self.loss,
            "loss_spread": self.spread,
            "loss_least": min(self.losses),
            "loss_most": max(self.losses),
            "perplexity": self.perplexity,
            "kept": [list(stages) for stages in self.kept],
            "losses": list(self.losses),
        }


def parse_shares(texts: Sequence[str]) -> tuple[float, ...]:
    """Shares of the depth from what was typed: "0.5", or several as in "1,0.75,0.5". Raises ConfigError."""
    shares = []
    for text in (part for entry in texts for part in entry.split(",")):
        try:
            share = float(text)
        except ValueError:
            share = math.nan
        if not 0.0 < share <= 1.0:
            raise ConfigError(
                f"--keep {text.strip() or repr(text)} cannot be used",
                "it is a share of the middle stages, above 0 and at most 1",
                "write it like --keep 0.5, or --keep 1,0.75,0.5",
            )
        shares.append(share)
    return tuple(dict.fromkeys(shares))


def kept_stages(config: RunConfig, share: float, seeds: int) -> tuple[tuple[int, ...], ...]:
    """The middle stages to keep, one choice for each seed; one alone where nothing is left out. Raises ConfigError.

    `share` of the middle stages is kept, to the nearest whole one, halves rounded up, and at least one.
    """
    stages, protected = config.model.stages, config.paths.protected
    count = max(1, int(share * stages + 0.5))
    if count < len(protected):
        raise ConfigError(
            f"--keep {share:g} keeps {count} of {stages} middle stages, "
            f"but {len(protected)} are protected",
            f"paths.protected = {list(protected)} says that these are never left out",
            f"keep at least {len(protected) / stages:.2g}",
        )
    if count == stages:
        return (tuple(range(1, stages + 1)),)
    free = tuple(stage for stage in range(1, stages + 1) if stage not in protected)
    hands = Deal(config.run.seed, free, count - len(protected), seeds).hands(0)
    return tuple(tuple(sorted((*protected, *hand))) for hand in hands)


def measure(config: RunConfig, shares: Sequence[float], seeds: int, loss: Loss) -> Iterator[Depth]:
    """The loss at each share of the depth, one share after the other. Raises ConfigError before any is measured.

    A choice that comes up again is not measured again.
    """
    choices = [(share, kept_stages(config, share, seeds)) for share in shares]
    known: dict[tuple[int, ...], float] = {}
    for share, kept in choices:
        for stages in kept:
            if stages not in known:
                known[stages] = loss(stages)
        yield Depth(share, kept, tuple(known[stages] for stages in kept))
