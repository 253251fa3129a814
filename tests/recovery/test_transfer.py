"""A stage's state from donors: those on another base than the wanted one do not count; pieces may come packed."""

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.core.clock import run_virtual
from swarmtrain.core.errors import StateError
from swarmtrain.core.layout import flat_layout
from swarmtrain.core.tensors import TensorHeader
from swarmtrain.core.types import Digest
from swarmtrain.recovery.dealing import pace_of
from swarmtrain.recovery.serving import Pack, layout_answer, state_piece
from swarmtrain.recovery.transfer import StageTransfer, Unpack, fetch_stage
from swarmtrain.transport.link import Buffer, Message
from swarmtrain.transport.requests import StateRequest
from swarmtrain.wire.states import pack, unpack
from tests.experiments.runs import small_config

OLD, NEW = Digest(b"o" * 32), Digest(b"n" * 32)


class Donor:
    """A link to a peer that has the stage, filled with `value`, on `base`."""

    def __init__(self, base: Digest, value: float, width: int = 2) -> None:
        _, elements = flat_layout([(2, width)])
        arrays = [np.full(elements, value, dtype=np.float32) for _ in range(3)]
        self._state, self._base = StageState(1, (("weight", (2, width)),), *arrays), base
        self.remote = SimpleNamespace(peer=f"donor-{value}")
        self.pack: Pack | None = None
        self.asked: list[StateRequest] = []

    async def call(self, method: str, message: Message, **_: Any) -> Message:
        await asyncio.sleep(0.01)
        if method == "layout":
            return layout_answer(self._state)
        self.asked.append(StateRequest.decode(message.meta))
        return state_piece(self._state, self._base, self.asked[-1], self.pack)


def fetched(
    donors: list[Donor], base: Digest | None, unpack: Unpack | None = None
) -> StageTransfer:
    async def main() -> StageTransfer:
        pace = pace_of(small_config().links)
        return await fetch_stage(donors, 1, 5, pace, base, unpack)  # type: ignore[arg-type]

    return run_virtual(main())


def test_the_wanted_base_counts_and_not_what_most_have() -> None:
    """Who was away while the island was restored may be at the same step of the history that was given up."""
    donors = [Donor(OLD, 1.0), Donor(NEW, 2.0), Donor(OLD, 1.0)]
    assert fetched(donors, NEW).state.parameters[0] == 2.0
    assert fetched(donors, None).state.parameters[0] == 1.0


def test_donors_on_another_base_only_are_an_error() -> None:
    with pytest.raises(StateError, match="other parameters"):
        fetched([Donor(OLD, 1.0)], NEW)


# ---- packed pieces ----------------------------------------------------------------------------------------------


def donor(value: float, packs: Pack | None = pack) -> Donor:
    made = Donor(OLD, value, width=4096)
    made.pack = packs
    return made


def test_a_packed_state_is_the_same_and_its_bytes_are_those_that_came() -> None:
    packed = fetched([donor(0.3)], OLD, unpack)
    plain = fetched([donor(0.3, None)], OLD, unpack)
    for (name, array), (_, other) in zip(packed.state.arrays(), plain.state.arrays(), strict=True):
        assert np.array_equal(array, other), name
    assert plain.bytes_received == 12 * plain.state.parameters.size
    assert 0 < packed.bytes_received < plain.bytes_received / 10


def test_who_cannot_unpack_gets_it_as_it_is() -> None:
    asked = donor(0.3)
    assert fetched([asked], OLD).bytes_received == 12 * 8192
    assert not any(request.takes_packed for request in asked.asked)


def twice_as_much(piece: memoryview) -> tuple[TensorHeader, Buffer]:
    return pack(memoryview(bytes(piece) * 2))


def another(piece: memoryview) -> tuple[TensorHeader, Buffer]:
    """Whole and of the right size: the digest of the bytes themselves tells."""
    return pack(memoryview(bytes(piece.nbytes)))


@pytest.mark.parametrize("packs", [twice_as_much, another])
def test_what_was_packed_wrongly_comes_from_another_donor(packs: Pack) -> None:
    liar, honest = donor(0.3, packs), donor(0.3)
    assert fetched([liar, honest], OLD, unpack).state.parameters[0] == np.float32(0.3)
    assert any(request.length_bytes for request in liar.asked)
    with pytest.raises(StateError):
        fetched([liar], OLD, unpack)
