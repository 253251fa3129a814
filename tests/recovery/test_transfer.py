"""A stage's state from donors: those on another base than the wanted one do not count."""

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.core.clock import run_virtual
from swarmtrain.core.errors import StateError
from swarmtrain.core.layout import flat_layout
from swarmtrain.core.types import Digest
from swarmtrain.recovery.dealing import pace_of
from swarmtrain.recovery.serving import layout_answer, state_piece
from swarmtrain.recovery.transfer import StageTransfer, fetch_stage
from swarmtrain.transport.link import Message
from swarmtrain.transport.requests import StateRequest
from tests.experiments.runs import small_config

OLD, NEW = Digest(b"o" * 32), Digest(b"n" * 32)


class Donor:
    """A link to a peer that has the stage, filled with `value`, on `base`."""

    def __init__(self, base: Digest, value: float) -> None:
        _, elements = flat_layout([(2, 2)])
        arrays = [np.full(elements, value, dtype=np.float32) for _ in range(3)]
        self._state, self._base = StageState(1, (("weight", (2, 2)),), *arrays), base
        self.remote = SimpleNamespace(peer=f"donor-{value}")

    async def call(self, method: str, message: Message, **_: Any) -> Message:
        await asyncio.sleep(0.01)
        if method == "layout":
            return layout_answer(self._state)
        return state_piece(self._state, self._base, StateRequest.decode(message.meta))


def fetched(donors: list[Donor], base: Digest | None) -> StageTransfer:
    async def main() -> StageTransfer:
        return await fetch_stage(donors, 1, 5, pace_of(small_config().links), base)  # type: ignore[arg-type]

    return run_virtual(main())


def test_the_wanted_base_counts_and_not_what_most_have() -> None:
    """Who was away while the island was restored may be at the same step of the history that was given up."""
    donors = [Donor(OLD, 1.0), Donor(NEW, 2.0), Donor(OLD, 1.0)]
    assert fetched(donors, NEW).state.parameters[0] == 2.0
    assert fetched(donors, None).state.parameters[0] == 1.0


def test_donors_on_another_base_only_are_an_error() -> None:
    with pytest.raises(StateError, match="other parameters"):
        fetched([Donor(OLD, 1.0)], NEW)
