"""Signed records: what is sealed opens to the same, anything else is refused with WireError and nothing else."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.core.errors import WireError
from swarmtrain.swarm import records
from swarmtrain.swarm.identity import Identity
from swarmtrain.swarm.records import PeerRecord, open_record, read_sealed, seal

RUN = "ab" * 32
NOW = 1000.0
ME = Identity.from_seed(b"m" * 32)
RECORD = PeerRecord(
    run=RUN,
    peer=ME.peer_id,
    name="kitchen laptop",
    address="127.0.0.1:4000",
    stages=(0, 2),
    state="serving",
    pinned=False,
    capacity_stages=3,
    seconds_per_stage=0.25,
    edge_capable=True,
    version="0.1.0",
    sequence=7,
    expires=NOW + 30,
    links=(("ab12", 0.031, 1.25e7, 4096),),
    region="europe-west4",
)


def signed(payload: bytes, identity: Identity = ME) -> bytes:
    """What a sender that makes up its own payload can sign."""
    return identity.public_key + identity.sign(records._PURPOSE + payload) + payload


def signed_with(**changes: Any) -> bytes:
    return signed(json.dumps({**asdict(RECORD), **changes}).encode())


def test_a_sealed_record_opens_to_the_same() -> None:
    assert open_record(seal(RECORD, ME), NOW, RUN) == RECORD


@given(
    stages=st.sets(st.integers(0, 512)).map(lambda found: tuple(sorted(found))),
    state=st.sampled_from(["joining", "serving", "draining", "left"]),
    seconds=st.floats(0, 3600, exclude_min=True),
    sequence=st.integers(0, 2**63 - 1),
)
@settings(max_examples=60, deadline=None)
def test_any_valid_record_survives(
    stages: tuple[int, ...], state: Any, seconds: float, sequence: int
) -> None:
    record = replace(
        RECORD, stages=stages, state=state, seconds_per_stage=seconds, sequence=sequence
    )
    assert open_record(seal(record, ME), NOW, RUN) == record


def test_who_is_forming_may_be_in_no_island_and_say_so_to_the_end() -> None:
    for state in ("forming", "left"):
        record = replace(RECORD, state=state, island=None)
        assert open_record(seal(record, ME), NOW, RUN) == record
    assert open_record(signed_with(state="forming", island=3), NOW, RUN).island == 3


def test_the_largest_record_fits() -> None:
    row = ("f" * records.LINK_PEER_DIGITS, 0.000123, 123000000.0, 10**12)
    record = replace(
        RECORD,
        stages=tuple(range(256)),
        name="n" * 64,
        address="a" * 255,
        links=(row,) * records.MOST_LINKS,
        region="r" * 64,
    )
    assert len(seal(record, ME)) < 4096


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "not hex"},
        {"run": 5},
        {"name": ""},
        {"name": "n" * 65},
        {"name": "new\nline"},
        {"name": "name\n"},
        {"name": "<script>"},
        {"name": "\ud800"},
        {"address": "host port"},
        {"address": None},
        {"stages": [2, 1]},
        {"stages": [1, 1]},
        {"stages": [-1]},
        {"stages": [513]},
        {"stages": [True]},
        {"stages": [1.0]},
        {"stages": {"1": 1}},
        {"state": "ruling"},
        {"state": ["serving"]},
        {"pinned": 1},
        {"capacity_stages": -1},
        {"capacity_stages": 10**30},
        {"seconds_per_stage": 0},
        {"seconds_per_stage": -1.0},
        {"seconds_per_stage": 3601},
        {"seconds_per_stage": float("nan")},
        {"seconds_per_stage": float("inf")},
        {"seconds_per_stage": 10**400},
        {"busy_share": 1.1},
        {"busy_share": -0.1},
        {"waiting_tasks": float("nan")},
        {"waiting_tasks": 1e7},
        {"pass_seconds": 3601},
        {"pass_seconds": "1"},
        {"task_seconds": [0.1, 0.2]},
        {"task_seconds": [0.1, 0.2, -0.1]},
        {"task_seconds": [0.1, 0.2, float("nan")]},
        {"links": 5},
        {"links": [["ab", 0.1, 1.0]]},
        {"links": [["not hex", 0.1, 1.0, 1]]},
        {"links": [["ab", -0.1, 1.0, 1]]},
        {"links": [["ab", 0.1, float("nan"), 1]]},
        {"links": [["ab", 0.1, 1.0, -1]]},
        {"links": [["ab", 0.1, 1.0, 1]] * 41},
        {"region": "two words"},
        {"region": "r" * 65},
        {"region": None},
        {"island": -1},
        {"island": 10_000},
        {"island": True},
        {"island": "0"},
        {"island": None},
        {"edge_capable": "yes"},
        {"version": "1 2"},
        {"sequence": -1},
        {"sequence": 2**63},
        {"sequence": 1.5},
        {"expires": "soon"},
        {"expires": float("inf")},
        {"peer": "0" * 32},
        {"peer": 3},
        {"extra": 1},
    ],
)
def test_absurd_values_are_refused_although_signed(changes: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        open_record(signed_with(**changes), NOW, RUN)


@pytest.mark.parametrize(
    "payload", [b"{}", b"[]", b"null", b"{", b"\xff", b"[" * 3900, b"1" * 3900]
)
def test_content_that_is_no_record_is_refused_although_signed(payload: bytes) -> None:
    with pytest.raises(WireError):
        read_sealed(signed(payload))


def test_a_forged_record_is_refused() -> None:
    with pytest.raises(WireError, match="signed by"):
        read_sealed(signed(json.dumps(asdict(RECORD)).encode(), Identity.from_seed(b"x" * 32)))


def test_a_signature_for_another_purpose_is_refused() -> None:
    payload = seal(RECORD, ME)[96:]
    with pytest.raises(WireError, match="forged"):
        read_sealed(ME.public_key + ME.sign(payload) + payload)


def test_sealing_for_somebody_else_is_refused() -> None:
    with pytest.raises(WireError):
        seal(RECORD, Identity.from_seed(b"x" * 32))


@pytest.mark.parametrize(
    ("now", "run", "why"),
    [
        (NOW + 30, RUN, "expired"),
        (NOW - 3600, RUN, "live longer"),
        (NOW, "cd" * 32, "belongs to run"),
    ],
)
def test_time_and_run_are_checked(now: float, run: str, why: str) -> None:
    with pytest.raises(WireError, match=why):
        open_record(seal(RECORD, ME), now, run)


def test_oversized_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "verify", lambda *_: pytest.fail("read too far"))
    for data in (b"", b"x" * 96, b"x" * 4096, b"x" * 10**6):
        with pytest.raises(WireError, match="bytes, allowed"):
            read_sealed(data)


@given(st.binary(max_size=400))
@settings(max_examples=60, deadline=None)
def test_random_bytes_raise_nothing_but_wire_errors(data: bytes) -> None:
    with pytest.raises(WireError):
        read_sealed(data)
    with pytest.raises(WireError):
        read_sealed(signed(data))


@given(st.integers(0, len(seal(RECORD, ME)) * 8 - 1))
@settings(max_examples=100, deadline=None)
def test_every_flipped_bit_is_noticed(bit: int) -> None:
    data = bytearray(seal(RECORD, ME))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError):
        open_record(bytes(data), NOW, RUN)


def test_a_renewed_record_is_newer_even_when_the_clock_stood_still() -> None:
    renewed = RECORD.renewed(NOW, life_seconds=30)
    assert renewed.expires > RECORD.expires and renewed.sequence > RECORD.sequence
    # A later process of the same peer starts from nothing and must still be newer.
    restarted = replace(RECORD, sequence=0, expires=0.0).renewed(NOW + 5, life_seconds=30)
    assert restarted.expires > renewed.expires and restarted.sequence > renewed.sequence
