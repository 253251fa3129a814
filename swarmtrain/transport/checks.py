"""What a remote's numbers, texts and lists may be at most; each check returns the value or raises WireError.

Bounds go by field name, because a step or a position means the same in every message. They are wide: a run's
real limits are stricter and are checked where they are known. These keep absurd values from costing memory.
"""

import itertools
import math
import re
from collections.abc import Iterable
from typing import Any

from swarmtrain.core.errors import WireError
from swarmtrain.core.messages import Open
from swarmtrain.core.types import MOST_MEMBERS, Member, Roster

MAX_MICROBATCHES = 4096
MAX_POSITION = 4096
MAX_ISLANDS = 10_000
MAX_ITEMS = 1 << 20
"""Items of one step, microbatches x positions: more would not fit a peer's books."""

_INTEGERS: dict[str, tuple[int, int]] = {
    "step": (0, 1 << 40),
    "microbatches": (1, MAX_MICROBATCHES),
    "key": (0, MAX_MICROBATCHES - 1),
    "position": (0, MAX_POSITION),
    "stage": (0, MAX_POSITION),
    "stages": (0, MAX_POSITION),
    "sequences": (1, MAX_POSITION),
    "exponent": (-4096, 4096),
    "attempt": (0, 1 << 20),
    "slices": (1, MOST_MEMBERS),
    "round": (-1, 1 << 40),
    "port": (1024, 65535),
    "island": (0, MAX_ISLANDS - 1),
}
_INTEGER = (0, 1 << 62)

_TEXT_BYTES = {"reason": 4096, "config_json": 512 << 10, "lines": 64 << 10, "json": 1 << 20}
_TEXT = 512

_BYTES_OF = {
    "keys": MAX_MICROBATCHES // 8,
    "void": MAX_MICROBATCHES // 8,
    # Two bytes a visit, and four for each of its two tasks; the loss is one task more.
    "paths": 2 * MAX_ITEMS,
    "remaining": 12 * MAX_ITEMS,
}
_BYTES = 64

_COUNTS = {"shape": 8, "sequences": MAX_MICROBATCHES, "losses": MAX_MICROBATCHES}
_COUNT = MOST_MEMBERS

_MAY_BE_INFINITE = frozenset(("loss", "loss_sum"))

_DECIMAL = re.compile(r"[0-9]{1,512}")


def check_integer(name: str, value: int) -> int:
    low, high = _INTEGERS.get(name, _INTEGER)
    if not low <= value <= high:
        raise _absurd(name, f"{value} is not within {low} and {high}")
    return value


def check_float(name: str, value: float) -> float:
    if not math.isfinite(value) and name not in _MAY_BE_INFINITE:
        raise _absurd(name, f"{value} is not finite")
    return value


def check_text(name: str, value: str) -> str:
    limit_bytes = _TEXT_BYTES.get(name, _TEXT)
    if len(value.encode()) > limit_bytes:
        raise _absurd(name, f"{len(value.encode())} bytes of text, {limit_bytes} allowed")
    if name not in _TEXT_BYTES and not value.isprintable():
        raise _absurd(name, "characters that cannot be shown")
    if name == "square_sum" and not _DECIMAL.fullmatch(value):
        raise _absurd(name, "not a whole number in decimal digits")
    return value


def check_bytes(name: str, value: bytes) -> bytes:
    limit_bytes = _BYTES_OF.get(name, _BYTES)
    if len(value) > limit_bytes:
        raise _absurd(name, f"{len(value)} bytes, {limit_bytes} allowed")
    return value


def check_count(name: str, count: int) -> None:
    limit = _COUNTS.get(name, _COUNT)
    if count > limit:
        raise _absurd(name, f"{count} entries, {limit} allowed")


def check_whole(value: Any) -> None:
    """Rules that tie several fields of one value together."""
    if isinstance(value, Roster) and not _ascending(member.peer for member in value.members):
        raise _absurd("members", "not ascending by peer id")
    if isinstance(value, Member) and not _ascending(value.stages):
        raise _absurd("stages", "not ascending")
    if isinstance(value, Open):
        _check_open(value)


def _check_open(message: Open) -> None:
    if len(message.sequences) not in (1, message.microbatches):
        raise _absurd(
            "sequences", f"{len(message.sequences)} for {message.microbatches} microbatches"
        )
    positions = max(len(sequence) for sequence in message.sequences) + 2
    if positions > MAX_POSITION + 1 or positions * message.microbatches > MAX_ITEMS:
        raise _absurd("sequences", f"{positions} positions for {message.microbatches} microbatches")


def _ascending(values: Iterable[Any]) -> bool:
    return all(a < b for a, b in itertools.pairwise(values))


def _absurd(name: str, why: str) -> WireError:
    return WireError(f"malformed message: {name}", why)
