"""The group reduce: slices that cover a sum, and damaged pieces that change nothing (I3, R16)."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.core.events import Diverged, Noted
from swarmtrain.core.layout import ALIGN_ELEMENTS
from swarmtrain.experiments.virtual import VirtualPeer
from swarmtrain.peer.reduce import Reducer, slice_bounds
from swarmtrain.transport.link import Buffer
from swarmtrain.transport.requests import PieceReply, PieceRequest
from tests.experiments.runs import events_of, known_reference, sha_of, small_config, virtual

REPLICAS = (VirtualPeer("a", (0, 1, 2)), VirtualPeer("b", (0, 1, 2)), VirtualPeer("c", (1, 2)))


@given(blocks=st.integers(0, 2000), slices=st.integers(1, 40))
def test_slices_cover_the_sum_once_and_start_aligned(blocks: int, slices: int):
    elements = blocks * ALIGN_ELEMENTS
    bounds = slice_bounds(elements, slices)
    assert len(bounds) == slices
    assert bounds[0][0] == 0 and bounds[-1][1] == elements
    assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
    assert all(start % ALIGN_ELEMENTS == 0 and start <= end for start, end in bounds)


def test_replicas_with_fewer_elements_than_slices_reduce_alike():
    """Norm gains make stages whose last slices are short or empty."""
    fleet = tuple(VirtualPeer(f"p{index}", (0, 1, 2)) for index in range(9))
    config = small_config(steps=2)
    run = virtual(config, fleet)
    assert sha_of(run) == known_reference(config).parameters_sha256
    assert not events_of(run, Diverged)


def test_more_replicas_than_the_stage_has_elements_reduce_alike():
    """Once refused as a slice that cannot be: the step was sealed again without end."""
    fleet = (VirtualPeer("edge", (0,)), *(VirtualPeer(f"p{i}", (1,)) for i in range(18)))
    config = small_config(
        "model.family=vector", "model.stages=1", "model.width=8", "model.heads=2",
        "model.kv_heads=1", "train.microbatches=18", steps=2,
    )  # fmt: skip
    run = virtual(config, fleet)
    assert sha_of(run) == known_reference(config).parameters_sha256
    assert not [event for event in events_of(run, Noted) if event.what == "reduce failed"]  # type: ignore[attr-defined]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("reduced", [False, True])
def test_one_damaged_piece_is_noticed_and_the_step_sealed_again(
    monkeypatch: pytest.MonkeyPatch, reduced: bool
):
    piece, damaged = Reducer.piece, list[PieceRequest]()

    async def damaging(self: Reducer, request: PieceRequest) -> tuple[PieceReply, Buffer]:
        reply, body = await piece(self, request)
        if request.step == 1 and request.reduced is reduced and not damaged:
            damaged.append(request)
            flipped = bytearray(body)
            flipped[0] ^= 1
            return reply, flipped
        return reply, body

    monkeypatch.setattr(Reducer, "piece", damaging)
    config = small_config(steps=3)
    run = virtual(config, REPLICAS)
    assert damaged
    assert any(event.what == "reduce failed" for event in events_of(run, Noted))  # type: ignore[attr-defined]
    assert sha_of(run) == known_reference(config).parameters_sha256
