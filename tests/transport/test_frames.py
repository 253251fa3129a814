"""Frames: what is packed is unpacked, and whatever else arrives is refused in words."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.core.errors import Incompatible, Refused, WireError
from swarmtrain.transport.frames import (
    BULK,
    FRAME_SLACK_BYTES,
    HEADER_BYTES,
    Frame,
    Kind,
    error_frame,
    pack,
    printable,
    read_error,
    unpack,
)
from swarmtrain.transport.link import LinkLimits

LIMITS = LinkLimits(chunk_bytes=1000, meta_bytes=9000, message_bytes=5000)
FRAMES = st.one_of(
    st.builds(
        Frame,
        st.just(Kind.REQUEST),
        st.sampled_from([0, BULK]),
        st.integers(0, 2**64 - 1),
        st.text("abcz019_.", min_size=1, max_size=64),
        st.binary(max_size=200),
        st.integers(0, 5000),
        st.binary(max_size=1000),
        st.integers(1, 2**32 - 1),
    ),
    st.builds(
        Frame,
        st.sampled_from([Kind.PING, Kind.PONG, Kind.ACK, Kind.NOTE]),
        call=st.integers(0, 2**64 - 1),
    ),
    st.builds(Frame, st.just(Kind.TELL), method=st.just("step"), meta=st.binary(max_size=200)),
    st.builds(
        Frame,
        st.just(Kind.ANSWER_CHUNK),
        st.just(BULK),
        st.integers(0, 99),
        payload=st.binary(max_size=1000),
    ),
)


@given(FRAMES)
def test_frames_round_trip(frame: Frame) -> None:
    data = pack(frame)
    assert len(data) <= FRAME_SLACK_BYTES + len(frame.meta) + len(frame.payload)
    back = unpack(data, LIMITS)
    assert pack(back) == data
    assert (back.kind, back.call, back.method, back.meta) == (
        frame.kind, frame.call, frame.method, frame.meta,
    )  # fmt: skip


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_wire_error(data: bytes) -> None:
    with contextlib.suppress(WireError):
        unpack(data, LIMITS)


@given(FRAMES, st.data())
def test_damaged_frames_raise_nothing_but_wire_error(frame: Frame, data: st.DataObject) -> None:
    damaged = bytearray(pack(frame))
    at = data.draw(st.integers(0, HEADER_BYTES - 1))
    damaged[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(WireError):
        unpack(bytes(damaged), LIMITS)


def request(**changes: object) -> Frame:
    fields = {"method": "m", "note_milliseconds": 5, **changes}
    return Frame(Kind.REQUEST, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (request(body_bytes=5001), "a body of 5001 bytes"),
        (request(meta=bytes(9001)), "9001 bytes of meta"),
        (request(body_bytes=2000, payload=bytes(1001)), "1001 bytes of payload"),
        (request(method="x" * 65), "a method name of 65 bytes"),
        (request(note_milliseconds=0), "a note interval of 0 ms"),
        (Frame(Kind.PING, meta=b"x"), "1 bytes of meta on PING"),
        (Frame(Kind.NOTE, body_bytes=1), "a body of 1 bytes on NOTE"),
        (Frame(Kind.TELL, method="m", note_milliseconds=1), "a note interval"),
    ],
)
def test_each_limit_is_held(frame: Frame, why: str) -> None:
    with pytest.raises(WireError) as raised:
        unpack(pack(frame), LIMITS)
    assert why in raised.value.why


def test_errors_keep_their_class_and_texts_but_no_control_characters() -> None:
    plain = read_error(unpack(pack(error_frame(Kind.ERROR, 1, Refused("a", "b", "c"))), LIMITS))
    assert (type(plain), plain.args) == (Refused, ("a", "b", "c"))
    other = read_error(error_frame(Kind.REFUSE, 0, Incompatible("x\x1b[2J\ny")))
    assert (type(other), other.what) == (Incompatible, "x [2J y")
    assert read_error(Frame(Kind.ERROR, meta=b"\xff" * 20000)).what
    assert printable("caf\u00e9 \u202e\x00") == "caf\u00e9   "


def test_a_very_long_error_still_fits_a_frame() -> None:
    frame = error_frame(Kind.ERROR, 1, Refused("\u00e9" * 100_000))
    assert read_error(unpack(pack(frame), LIMITS)).what.startswith("\u00e9\u00e9")
