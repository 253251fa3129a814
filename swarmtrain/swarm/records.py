"""What a peer publishes about itself, signed: who it is, where it listens, what it hosts.

A sealed record is `public key (32) | signature (64) | canonical JSON`, under 4096 bytes. It is a hint and no
more: who takes part in a step is the conductor's roster (design.md section 6). Nothing in it is trusted before
`open_record` has checked size, signature, owner, ranges, run and life (I5).
"""

import functools
import json
import math
import re
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NoReturn, get_args

from swarmtrain.core.errors import WireError
from swarmtrain.core.types import PeerId
from swarmtrain.swarm.identity import (
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    Identity,
    peer_id_of,
    verify,
)

MAX_SEALED_BYTES = 4095
MAX_LIFE_SECONDS = 3600.0
"""A record may not claim to live longer, or one lie would stay for ever."""

MAX_STAGE = 512
MAX_ISLAND = 9999
MAX_SECONDS_PER_STAGE = 3600.0
MAX_WAITING_TASKS = 1e6

State = Literal["forming", "joining", "learning", "serving", "draining", "left"]
"""`forming` is a peer that has no island yet, or has only said which; `learning` is a newcomer that has chosen its
stages and does not serve them yet; `left` is a withdrawn record: it hides the peer until its last record would have
expired."""

LinkRow = tuple[str, float, float, int]
"""To whom (the first digits of the peer id), one-way seconds, bytes a second (0: not measured), and how many messages
that rate rests on."""

LINK_PEER_DIGITS = 12
MOST_LINKS = 40
"""Of a peer's links those with most traffic are published: a record stays under its 4096 bytes."""

# Signing under a purpose of its own keeps a record from passing as any other signed message.
_PURPOSE = b"swarmtrain peer record 1\n"
_HEAD_BYTES = PUBLIC_KEY_BYTES + SIGNATURE_BYTES
_RUN = re.compile(r"[0-9a-f]{1,64}")
NAME = re.compile(r"[A-Za-z0-9 ._-]{1,64}")
_ADDRESS = re.compile(r"[A-Za-z0-9._:\[\]-]{0,255}")
_VERSION = re.compile(r"[A-Za-z0-9.+-]{1,32}")
REGION = re.compile(r"[A-Za-z0-9._-]{0,64}")


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """A peer as it describes itself.

    `stages` ascend; `address` is empty when nobody can dial the peer; `capacity_stages` is how many stages fit
    in its memory; `seconds_per_stage` is its forward and backward of one microbatch through one stage;
    `expires` is directory time in seconds. `sequence` and `expires` both grow with every record of a peer, and
    the newest record wins.

    The last are what a serving peer measured lately (compute.meter): the share of time its lane computed, the mean
    number of tasks that waited for it, and seconds of one microbatch through one stage under this work, in all and for
    a forward, a backward and a loss; 0 where there is nothing yet. `links` are the links it sends on, as it
    measured them (`LinkRow`). `region` is where its owner says it stands, empty where nobody said;
    `island` is the swarm that it is in, None only while it is forming; it is not `patient` once it has waited so long
    for near peers that it goes with far ones.
    """

    run: str
    peer: PeerId
    name: str
    address: str
    stages: tuple[int, ...]
    state: State
    pinned: bool
    capacity_stages: int
    seconds_per_stage: float
    edge_capable: bool
    version: str
    sequence: int
    expires: float
    busy_share: float = 0.0
    waiting_tasks: float = 0.0
    pass_seconds: float = 0.0
    task_seconds: tuple[float, ...] = (0.0, 0.0, 0.0)
    links: tuple[LinkRow, ...] = ()
    region: str = ""
    island: int | None = 0
    patient: bool = True

    def renewed(self, now: float, life_seconds: float) -> "PeerRecord":
        """The same record, newer than this one and than any an earlier process of this peer left behind."""
        sequence = max(self.sequence + 1, int(now * 1000))
        expires = max(now + life_seconds, math.nextafter(self.expires, math.inf))
        return replace(self, sequence=sequence, expires=expires)


def seal(record: PeerRecord, identity: Identity) -> bytes:
    """`record` as signed bytes; WireError if no reader would accept them."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    payload = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    sealed = identity.public_key + identity.sign(_PURPOSE + payload) + payload
    read_sealed(sealed)
    return sealed


def open_record(data: bytes, now: float, run: str) -> PeerRecord:
    """The record in `data`, if it belongs to `run` and lives at directory time `now`; else WireError."""
    record = read_sealed(data)
    if record.run != run:
        _refuse(f"it belongs to run {record.run[:12]}, not to {run[:12]}")
    if record.expires <= now:
        _refuse(f"it expired {now - record.expires:.1f} seconds ago")
    if record.expires > now + MAX_LIFE_SECONDS:
        _refuse(f"it claims to live longer than {MAX_LIFE_SECONDS:.0f} seconds")
    return record


@functools.lru_cache(maxsize=1 << 15)
def read_sealed(data: bytes) -> PeerRecord:
    """The record in `data` after every check that needs neither time nor run; else WireError.

    Cached because the same bytes are read again at every refresh and a signature costs far more than a look-up.
    """
    if not _HEAD_BYTES < len(data) <= MAX_SEALED_BYTES:
        _refuse(f"it has {len(data)} bytes, allowed are {_HEAD_BYTES + 1} to {MAX_SEALED_BYTES}")
    public_key, payload = data[:PUBLIC_KEY_BYTES], data[_HEAD_BYTES:]
    if not verify(public_key, _PURPOSE + payload, data[PUBLIC_KEY_BYTES:_HEAD_BYTES]):
        _refuse("its signature is wrong: it was forged or damaged")
    record = _checked(_parse(payload))
    if record.peer != peer_id_of(public_key):
        _refuse(f"it speaks for peer {record.peer} and is signed by {peer_id_of(public_key)}")
    return record


def _parse(payload: bytes) -> dict[str, Any]:
    try:
        values = json.loads(payload)
    except (ValueError, RecursionError):
        _refuse("its content is no JSON")
    if not isinstance(values, dict) or set(values) != {field.name for field in fields(PeerRecord)}:
        _refuse("its fields are not those of a peer record")
    return values


def _checked(values: dict[str, Any]) -> PeerRecord:
    """The record of `values`; every field is checked for type and range."""
    stages = values["stages"]
    if not isinstance(stages, list) or not all(_is_integer(s, 0, MAX_STAGE) for s in stages):
        _refuse("its stages are no list of stage numbers")
    checks = {
        "run": _matches(_RUN, values["run"]),
        "peer": isinstance(values["peer"], str),
        "name": _matches(NAME, values["name"]),
        "address": _matches(_ADDRESS, values["address"]),
        "stages": stages == sorted(set(stages)),
        "state": values["state"] in get_args(State),
        "pinned": isinstance(values["pinned"], bool),
        "capacity_stages": _is_integer(values["capacity_stages"], 0, MAX_STAGE + 1),
        "seconds_per_stage": _is_number(values["seconds_per_stage"], MAX_SECONDS_PER_STAGE),
        "edge_capable": isinstance(values["edge_capable"], bool),
        "version": _matches(_VERSION, values["version"]),
        "sequence": _is_integer(values["sequence"], 0, 2**63 - 1),
        "expires": _is_number(values["expires"], 2.0**53),
        "busy_share": _is_number(values["busy_share"], 1.0, least=0.0),
        "waiting_tasks": _is_number(values["waiting_tasks"], MAX_WAITING_TASKS, least=0.0),
        "pass_seconds": _is_number(values["pass_seconds"], MAX_SECONDS_PER_STAGE, least=0.0),
        "task_seconds": _are_seconds(values["task_seconds"]),
        "links": _are_links(values["links"]),
        "region": _matches(REGION, values["region"]),
        "island": _is_integer(values["island"], 0, MAX_ISLAND)
        or (values["island"] is None and values["state"] in ("forming", "left")),
        "patient": isinstance(values["patient"], bool),
    }
    for name, is_good in checks.items():
        if not is_good:
            _refuse(f"its {name} is {str(values[name])[:80]!r}, which is out of range")
    links = tuple(tuple(row) for row in values["links"])
    more = {"stages": tuple(stages), "task_seconds": tuple(values["task_seconds"]), "links": links}
    return PeerRecord(**{**values, **more})


def _are_seconds(values: object) -> bool:
    return (
        isinstance(values, list)
        and len(values) == 3
        and all(_is_number(value, MAX_SECONDS_PER_STAGE, least=0.0) for value in values)
    )


def _are_links(rows: object) -> bool:
    return (
        isinstance(rows, list)
        and len(rows) <= MOST_LINKS
        and all(isinstance(row, list) and len(row) == 4 and _is_link(*row) for row in rows)
    )


def _is_link(to: object, one_way_seconds: object, rate: object, calls: object) -> bool:
    return (
        _matches(_RUN, to)
        and _is_number(one_way_seconds, MAX_SECONDS_PER_STAGE, least=0.0)
        and _is_number(rate, 2.0**53, least=0.0)
        and _is_integer(calls, 0, 2**63 - 1)
    )


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_integer(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_number(value: object, high: float, least: float = 5e-324) -> bool:
    """Whether `value` is a number above 0, or from `least`, up to `high`; NaN fails both comparisons."""
    return type(value) in (int, float) and least <= value <= high  # type: ignore[operator]


def _refuse(why: str) -> NoReturn:
    raise WireError(
        "a peer record was refused", why, "it costs its sender; nothing is to be done here"
    )
