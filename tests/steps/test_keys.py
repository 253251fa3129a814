"""Bitmaps of keys, the base digest that fences work (I4), and who leads."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.core.closing import Closing, RoundWork, RoundWorkKind, Scalars
from swarmtrain.core.messages import Commit, StageSum, unpack_items
from swarmtrain.core.types import PeerId, Roster
from swarmtrain.steps.keys import (
    first_base,
    keep_leads,
    next_base,
    pack_keys,
    share_leads,
    unpack_keys,
)

MERGE = RoundWork(1, 0, 4, RoundWorkKind.MERGE, b"1" * 32)
COMMIT = Commit(
    term=3,
    step=5,
    seal=2,
    base=b"b" * 32,
    roster=Roster.of(1, []),
    stages=(StageSum(0, b"0" * 32, "7", 3), StageSum(1, b"1" * 32, "8", 3)),
    closing=Closing(Scalars(0.1, 0.2, 0.3), 6),
    tokens=64,
    loss=1.5,
    void=b"",
)


@given(st.sets(st.integers(0, 4095), max_size=50))
def test_keys_survive_packing(keys: set[int]) -> None:
    assert unpack_keys(pack_keys(keys)) == tuple(sorted(keys))


def test_the_bitmap_is_little_endian_and_short() -> None:
    assert pack_keys([]) == b""
    assert pack_keys([0, 9]) == b"\x01\x02"
    assert unpack_keys(b"\x01\x00") == (0,)


def test_runs_begin_apart() -> None:
    assert first_base(b"one") != first_base(b"two")


@pytest.mark.parametrize(
    "other",
    [
        replace(COMMIT, step=6),
        replace(COMMIT, base=b"c" * 32),
        replace(COMMIT, tokens=65),
        replace(COMMIT, closing=Closing(Scalars(0.1000001, 0.2, 0.3), 6)),
        replace(COMMIT, closing=Closing(Scalars(0.1, 0.2000001, 0.3), 6)),
        replace(COMMIT, closing=Closing(Scalars(0.1, 0.2, 0.3000001), 6)),
        replace(COMMIT, closing=Closing(COMMIT.scalars, 7)),
        replace(COMMIT, closing=Closing(COMMIT.scalars, 6, (MERGE,))),
        replace(COMMIT, closing=Closing(COMMIT.scalars, 6, (replace(MERGE, digest=b"2" * 32),))),
        replace(COMMIT, stages=(COMMIT.stages[0], replace(COMMIT.stages[1], digest=b"2" * 32))),
        replace(COMMIT, stages=(COMMIT.stages[0], replace(COMMIT.stages[1], square_sum="9"))),
        replace(COMMIT, stages=(COMMIT.stages[0], replace(COMMIT.stages[1], exponent=4))),
    ],
    ids=range(12),
)
def test_whatever_changes_the_parameters_changes_the_base(other: Commit) -> None:
    assert next_base(other) != next_base(COMMIT)


@pytest.mark.parametrize(
    "other",
    [
        replace(COMMIT, term=9),
        replace(COMMIT, seal=9),
        replace(COMMIT, roster=Roster.of(9, [])),
        replace(COMMIT, loss=2.5),
        replace(COMMIT, stages=COMMIT.stages[::-1]),
    ],
    ids=["term", "seal", "roster", "loss", "order of stages"],
)
def test_the_same_sums_decided_by_another_lead_to_the_same_base(other: Commit) -> None:
    assert next_base(other) == next_base(COMMIT)


def test_every_field_of_a_commit_was_thought_of() -> None:
    known = {
        "term",
        "step",
        "seal",
        "base",
        "roster",
        "stages",
        "closing",
        "tokens",
        "loss",
        "void",
    }
    assert {entry.name for entry in fields(Commit)} == known


@given(st.integers(1, 200), st.integers(1, 7))
def test_every_key_has_one_lead_and_the_load_is_even(microbatches: int, edges: int) -> None:
    peers = [PeerId(f"p{index}") for index in range(edges)]
    shares = {share.peer: unpack_items(share.items) for share in share_leads(microbatches, peers)}
    led = sorted(item for items in shares.values() for item in items)
    assert led == [(0, key) for key in range(microbatches)]
    sizes = [len(items) for items in shares.values()]
    assert max(sizes) - min(sizes) <= 1


EDGES = tuple(map(PeerId, "abcd"))


@given(
    st.integers(1, 40),
    st.sets(st.sampled_from(EDGES), min_size=1),
    st.sets(st.sampled_from(EDGES), min_size=1),
)
def test_what_an_edge_leads_stays_with_it_while_it_is_there(
    microbatches: int, before: set[PeerId], after: set[PeerId]
) -> None:
    first = share_leads(microbatches, sorted(before))
    kept = keep_leads(first, microbatches, sorted(after))
    led = {share.peer: {key for _, key in unpack_items(share.items)} for share in kept}
    assert sorted(key for keys in led.values() for key in keys) == list(range(microbatches))
    assert set(led) <= after and all(led.values()), "who leads nothing is not named"
    for share in first:
        if share.peer in after:
            assert {key for _, key in unpack_items(share.items)} <= led[share.peer]
