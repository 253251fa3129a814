"""JSON lines on disk: same values give same bytes, and files hold whole lines.

Every line is one write of its own to the file, so a killed process loses at most the line it was
writing. A full disk costs the line that did not fit, never the lines before it.
"""

import json
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swarmtrain.core.errors import StateError

logger = logging.getLogger(__name__)


def _hex(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"a line holds no {type(value).__name__}")


_encode = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), allow_nan=False, default=_hex
).encode


def json_line(value: dict[str, Any]) -> str:
    """`value` as one line: sorted keys, no spaces, floats by repr, bytes as hex, a newline at the end.

    JSON has no numbers for infinity and NaN; they become the strings "inf", "-inf" and "nan".
    """
    try:
        return _encode(value) + "\n"
    except ValueError:  # an infinity or NaN somewhere, which is rare
        return _encode(plain(value)) + "\n"


def plain(value: Any) -> Any:
    """`value` with floats that JSON cannot hold as strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return value


class LineFile:
    """Appends lines to a file; opening it removes a line that a killed process left unfinished."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise StateError(
                f"{path} cannot be written", str(error), "pass another folder with --out"
            ) from error
        self._length_bytes = _whole_length_bytes(path)
        os.ftruncate(self._descriptor, self._length_bytes)

    def append(self, line: str) -> None:
        """Write `line`, newline included, in one go. Raises StateError when it does not fit."""
        data = line.encode()
        try:
            written_bytes = os.write(self._descriptor, data)
            if written_bytes != len(data):
                raise OSError(f"only {written_bytes} of {len(data)} bytes were written")
        except OSError as error:
            os.ftruncate(self._descriptor, self._length_bytes)
            raise StateError(
                f"a line was not written to {self._path}", str(error), "free space on that disk"
            ) from error
        self._length_bytes += len(data)

    def keep_first(self, lines: int) -> None:
        """Remove all but the first `lines` lines."""
        with open(self._path, "rb") as file:
            self._length_bytes = sum(len(line) for _, line in zip(range(lines), file, strict=False))
        os.ftruncate(self._descriptor, self._length_bytes)

    def close(self) -> None:
        os.close(self._descriptor)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Every line as a JSON object, in order.

    A last line without its newline is what a killed process leaves: it is logged and left out. Any
    other line that is not a JSON object raises StateError.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                logger.warning("%s: line %d is torn and left out: %r", path, number, line[:200])
                return
            yield _parse(path, number, line)


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _not_json(path, number, str(error)) from error
    if not isinstance(value, dict):
        raise _not_json(path, number, "it is not a JSON object")
    return value


def _not_json(path: Path, number: int, why: str) -> StateError:
    return StateError(
        f"line {number} of {path} is damaged", why, "restore the file or read one from another peer"
    )


def _whole_length_bytes(path: Path) -> int:
    """The length of `path` up to the end of its last whole line."""
    length_bytes = os.path.getsize(path)
    with open(path, "rb") as file:
        end_bytes = length_bytes
        while end_bytes > 0:
            start_bytes = max(0, end_bytes - 65536)
            file.seek(start_bytes)
            newline = file.read(end_bytes - start_bytes).rfind(b"\n")
            if newline >= 0:
                end_bytes = start_bytes + newline + 1
                break
            end_bytes = start_bytes
    if end_bytes < length_bytes:
        logger.warning("%s: %d bytes of a torn line removed", path, length_bytes - end_bytes)
    return end_bytes
