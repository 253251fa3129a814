"""Step messages and requests: everything round-trips, and nothing a remote sends does worse than WireError."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.core import closing
from swarmtrain.core import messages as core
from swarmtrain.core.errors import WireError
from swarmtrain.core.messages import Open, StepMessage
from swarmtrain.core.rounds import RoundMessage, Slice
from swarmtrain.core.tensors import TensorHeader
from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.proto import step_pb2
from swarmtrain.transport import requests
from swarmtrain.transport.link import Hello
from swarmtrain.transport.messages import decode, decode_round, encode, encode_round
from swarmtrain.transport.step_messages import encode_step, read_step

PEERS = st.text(alphabet="0123456789abcdef", min_size=1, max_size=32).map(PeerId)
STAGES = st.sets(st.integers(0, 64), max_size=4).map(lambda stages: tuple(sorted(stages)))
TEXT = st.text(st.characters(exclude_categories=("C", "Z")), max_size=40)
MEMBERS = st.builds(Member, PEERS, STAGES, TEXT)
ROSTERS = st.lists(MEMBERS, max_size=5, unique_by=lambda member: member.peer).flatmap(
    lambda members: st.integers(0, 1 << 20).map(lambda version: Roster.of(version, members))
)
SMALL = st.integers(0, 4000)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "exponent": st.integers(-4096, 4096),
    "square_sum": st.integers(0, 1 << 900).map(str),
    "slices": st.integers(1, 1000),
    "sequences": st.tuples(st.lists(st.integers(1, 9), max_size=4).map(tuple)),
    "microbatches": st.integers(1, 4096),
    "port": st.integers(1024, 65535),
    "loss": st.floats(),
    "loss_sum": st.floats(),
}


def values(hint: Any, name: str = "") -> st.SearchStrategy[Any]:
    """Values of any field type that the converter knows, within the bounds for remotes."""
    hint = getattr(hint, "__supertype__", hint)
    if name in FIELDS and hint != tuple[Slice, ...]:
        return FIELDS[name]
    if hint is Member:
        return MEMBERS
    if hint is Roster:
        return ROSTERS
    if get_origin(hint) is tuple:
        return st.lists(values(get_args(hint)[0]), max_size=4).map(tuple)
    if type(None) in get_args(hint):
        return st.none() | values(get_args(hint)[0])
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        return st.builds(hint, **{key: values(entry, key) for key, entry in hints.items()})
    simple: dict[Any, st.SearchStrategy[Any]] = {
        int: SMALL,
        bool: st.booleans(),
        str: TEXT,
        bytes: st.binary(max_size=64),
        float: st.floats(allow_nan=False, allow_infinity=False),
    }
    return simple[hint] if hint in simple else st.sampled_from(get_args(hint) or list(hint))


def sent(message: StepMessage) -> bytes:
    return encode_step(message, None)


def received(data: bytes) -> StepMessage:
    """A message that carries its rosters whole; those of named ones are in test_step_messages.py."""
    return read_step(data).message


STEP_KINDS = get_args(StepMessage)
ROUND_KINDS = get_args(RoundMessage)
REQUESTS = [kind for kind in vars(requests).values()
            if isinstance(kind, type) and issubclass(kind, requests.Encoded)
            and kind is not requests.Encoded]  # fmt: skip

ROSTER = Roster.of(3, [Member(PeerId("a"), (0, 1), "h:1"), Member(PeerId("b"), (2,), "h:2")])
OPEN = Open(1, 2, b"d" * 32, ROSTER, (), 4, ((1, 2),), 400)


@pytest.mark.parametrize("kind", STEP_KINDS, ids=lambda kind: kind.__name__)
def test_every_step_message_round_trips(kind: type) -> None:
    @settings(max_examples=40, deadline=None)
    @given(values(kind))
    def check(message: Any) -> None:
        # repr, because a loss may be NaN, which is not equal to itself.
        assert repr(received(sent(message))) == repr(message)

    check()


@pytest.mark.parametrize("kind", [*REQUESTS, Hello, TensorHeader], ids=lambda kind: kind.__name__)
def test_every_request_round_trips(kind: type) -> None:
    @settings(max_examples=40, deadline=None)
    @given(values(kind))
    def check(value: Any) -> None:
        assert repr(decode(kind, encode(value))) == repr(value)  # repr: NaN, as above

    check()


@pytest.mark.parametrize("kind", ROUND_KINDS, ids=lambda kind: kind.__name__)
def test_every_round_message_round_trips(kind: type) -> None:
    @settings(max_examples=40, deadline=None)
    @given(values(kind))
    def check(message: Any) -> None:
        assert decode_round(encode_round(message)) == message

    check()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_wire_error(data: bytes) -> None:
    for read in (
        received,
        decode_round,
        requests.ProcessRequest.decode,
        requests.Description.decode,
    ):
        with contextlib.suppress(WireError):
            read(data)


@settings(max_examples=200, deadline=None)
@given(st.one_of([values(kind) for kind in (*STEP_KINDS, *ROUND_KINDS)]), st.data())
def test_damaged_messages_raise_nothing_but_wire_error(message: Any, data: st.DataObject) -> None:
    is_step = isinstance(message, STEP_KINDS)
    whole = sent(message) if is_step else encode_round(message)
    read: Callable[[bytes], object] = received if is_step else decode_round
    cut = data.draw(st.integers(0, len(whole)))
    bit = data.draw(st.integers(0, max(len(whole) * 8 - 1, 0)))
    flipped = bytearray(whole)
    if whole:
        flipped[bit // 8] ^= 1 << bit % 8
    for damaged in (whole[:cut], bytes(flipped)):
        with contextlib.suppress(WireError):
            read(damaged)


ABSURD = [
    core.Ask(-1),
    core.Ask(1 << 41),
    replace(OPEN, microbatches=0),
    replace(OPEN, microbatches=4097),
    replace(OPEN, sequences=((1,), (2,))),
    replace(OPEN, sequences=()),
    replace(OPEN, sequences=(tuple(range(1, 3000)),), microbatches=4096),
    replace(OPEN, roster=Roster(1, tuple(reversed(ROSTER.members)))),
    replace(OPEN, roster=Roster(1, (replace(ROSTER.members[0], stages=(2, 1)),))),
    core.Done(1, b"", b"\xff" * 513),
    core.Done(1, b"x" * 65, b""),
    core.Held(1, 1, (core.PositionKeys(4097, b""),), (), ()),
    core.Reduced(1, 1, 1, (core.StageSum(1, b"", "-5", 0),)),
    core.Reduced(1, 1, 1, (core.StageSum(1, b"", "9" * 513, 0),)),
    core.Reduced(1, 1, 1, (core.StageSum(1, b"", "1", 1 << 30),)),
    core.Redriven(1, 1, 4096, 1),
    core.Stop(1, 1, True, "x" * 5000),
    core.Redrive(1, 1, 1, 1, 1, (core.Hint(1, PeerId("\x1b[2J")),)),
]


@pytest.mark.parametrize("message", ABSURD, ids=lambda message: type(message).__name__)
def test_absurd_values_are_refused(message: StepMessage) -> None:
    with pytest.raises(WireError):
        received(sent(message))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_scalars_must_be_finite_but_a_loss_need_not(value: float) -> None:
    commit = core.Commit(
        1, 2, 3, b"", ROSTER, (), closing.Closing(closing.Scalars(1e-3, 0.1, 0.2), 3), 4, value, b""
    )
    assert repr(received(sent(core.Tell(commit)))) == repr(core.Tell(commit))
    broken = replace(commit, closing=closing.Closing(closing.Scalars(value, 0.1, 0.2), 3))
    with pytest.raises(WireError, match="not finite"):
        received(sent(core.Tell(broken)))


def test_more_members_than_a_swarm_has_are_refused() -> None:
    members = [Member(PeerId(f"{index:06d}"), (), "") for index in range(10_001)]
    with pytest.raises(WireError, match="members"):
        decode(Roster, encode(Roster.of(1, members)))


def test_a_missing_part_and_an_unknown_kind_are_refused() -> None:
    freeze = step_pb2.StepEnvelope(freeze=step_pb2.Freeze(term=1, step=1, seal=1))
    with pytest.raises(WireError, match="roster is missing"):
        received(freeze.SerializeToString())
    with pytest.raises(WireError, match="no known kind"):
        received(b"")


def test_an_empty_answer_does_not_pass_for_ok() -> None:
    with pytest.raises(WireError, match="status"):
        requests.ProcessReply.decode(b"")
