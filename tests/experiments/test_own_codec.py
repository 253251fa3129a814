"""Outer rounds in a codec that is not swarmtrain's: they train, and all members decode the same bits."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from swarmtrain.core.errors import WireError
from swarmtrain.core.events import RoundSent
from swarmtrain.peer.stage_rounds import settings_of
from swarmtrain.wire import codecs
from swarmtrain.wire.codec import FixedSize, check_size
from swarmtrain.wire.codecs import BUILT_IN, CODECS, trust_codec
from tests.experiments.island_worlds import (
    config_of,
    is_agreed,
    islands_of,
    last_digests,
    outer_digests,
    plain_islands,
    run_islands,
)


class Truncated(FixedSize):
    """The upper 16 bits of each float32, towards zero: bf16 as it is not rounded."""

    name = "tests.experiments.test_own_codec:Truncated"
    lossy = True
    plane_bytes = 2

    def encoded_bytes(self, *shape: int) -> int:
        return 2 * torch.Size(shape).numel()

    def encode(self, x: Tensor) -> Tensor:
        upper = x.reshape(-1).view(torch.int32) >> 16
        # What is left of a NaN may be infinity: that shows as well.
        return upper.to(torch.int16).view(torch.uint8)

    def decode(self, payload: Tensor, shape: tuple[int, ...]) -> Tensor:
        check_size(self, payload, shape)
        return (payload.view(torch.int16).to(torch.int32) << 16).view(torch.float32).reshape(shape)


class Gathered(Truncated):
    name = "tests.experiments.test_own_codec:Gathered"
    gathers = True


@pytest.fixture(autouse=True)
def _unregistered() -> Iterator[None]:
    yield
    for name in set(CODECS) - BUILT_IN:
        del codecs._known[name]


@pytest.mark.parametrize("kind", [Truncated, Gathered])
def test_islands_train_in_it(kind: type[Truncated]) -> None:
    config = config_of(f"outer.codec={kind.name}", "outer.delay_steps=2", steps=18)
    trust_codec(config.outer.codec)
    run = run_islands(config, islands_of(2))
    assert all(outcome.finished for outcome in run.outcomes.values()) and not run.errors
    loop = plain_islands(config, 2)
    assert last_digests(run) == {island.parameters_sha256() for island in loop.active.values()}
    assert is_agreed(run) and max(number for _, _, number in outer_digests(run)) >= 2
    assert run.commits[-1].loss < run.commits[0].loss
    uncoded = config_of("outer.codec=none", "outer.delay_steps=2", steps=18)
    exact = run_islands(uncoded, islands_of(2))
    own_bytes, exact_bytes = (
        sum(event.bytes for _, _, event in world.events if isinstance(event, RoundSent))
        for world in (run, exact)
    )
    assert 0.3 * exact_bytes < own_bytes < 0.6 * exact_bytes


def test_rounds_in_a_codec_that_nobody_named_here_do_not_begin() -> None:
    with pytest.raises(WireError, match="not known"):
        settings_of(config_of(f"outer.codec={Truncated.name}"))
