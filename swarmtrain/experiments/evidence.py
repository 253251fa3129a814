"""What journals say, line by line: the only thing that the checker knows of a run."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

SHARED_CHARACTERS = 1000
"""Events from here on are as long as the roster: all peers of a virtual world note the same few."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise: which check, what is wrong, and the numbers of the lines that show it, from 1.

    `files` names the journal of each of these lines when several were read.
    """

    check: str
    what: str
    lines: tuple[int, ...]
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        places = [f"{file}:{line}" for file, line in zip(self.files, self.lines, strict=False)]
        return f"{self.check}: {self.what} (lines {', '.join(places or map(str, self.lines))})"


@dataclass(frozen=True, slots=True)
class Line:
    """One journal entry: its number and file, who recorded it, when, and the event's fields.

    `session` counts how often the run had been started again from disk by then, as far as this file says.
    """

    number: int
    peer: str
    seconds: float
    event: Mapping[str, Any]
    file: str = ""
    session: int = 0


@dataclass
class Evidence:
    """The entries of one journal, or of the journals of many peers: their clocks differ, so only the order inside a
    file means anything."""

    files: dict[str, list[Line]] = field(default_factory=dict)
    by_kind: dict[str, list[Line]] = field(default_factory=dict)

    def of(self, kind: str) -> list[Line]:
        return self.by_kind.get(kind, [])

    def where(self, keep: Callable[[Line], bool]) -> "Evidence":
        """The entries that `keep` says yes to."""
        return Evidence(
            {file: [at for at in lines if keep(at)] for file, lines in self.files.items()},
            {kind: [at for at in lines if keep(at)] for kind, lines in self.by_kind.items()},
        )

    @property
    def is_one(self) -> bool:
        """Whether the order of all entries is known."""
        return len(self.files) <= 1

    def violation(self, check: str, what: str, *lines: Line) -> Violation:
        numbers = tuple(line.number for line in lines)
        files = () if self.is_one else tuple(line.file for line in lines)
        return Violation(check, what, numbers, files)

    def read(self, lines: Iterable[str], file: str = "") -> list[Violation]:
        """Take up a journal. Lines that are no entries are violations, but for the torn end of a killed peer's."""
        found = list[Violation]()
        known, session = self.files.setdefault(file, []), 0
        for number, text in enumerate(lines, start=1):
            try:
                entry = _entry_of(text)
                line = Line(
                    number,
                    entry["peer"],
                    float(entry["time_seconds"]),
                    entry["event"],
                    file,
                    session,
                )
                session += line.event["kind"] == "noted" and line.event["what"] == "resumed"
                self.by_kind.setdefault(line.event["kind"], []).append(line)
                known.append(line)
            except (ValueError, KeyError, TypeError) as error:
                if file and not text.endswith("\n"):
                    continue
                files = (file,) if file else ()
                found.append(Violation("JOURNAL", f"no journal entry: {error!r}", (number,), files))
        return found


def _entry_of(text: str) -> Any:
    """The entry of a line; a long event that thousands of lines tell alike is read, and kept, once.

    A line begins with its event and ends with who noted it (monitor.journal). Raises ValueError.
    """
    event, _, rest = text.rpartition(',"peer":')
    if len(event) < SHARED_CHARACTERS or not event.startswith('{"event":{'):
        return json.loads(text)
    try:
        return {
            **json.loads('{"peer":' + rest),
            "event": _event_of(event.removeprefix('{"event":')),
        }
    except ValueError:
        return json.loads(text)


@lru_cache(maxsize=4)
def _event_of(text: str) -> Any:
    return json.loads(text)


def tag_of(event: Mapping[str, Any]) -> tuple[int, int, int]:
    """`(step, term, seal)`: what names a seal."""
    return (event["step"], event["term"], event["seal"])


def keys_of(bitmap: str) -> list[int]:
    """The key indices in a hex bitmap, ascending."""
    bits = int.from_bytes(bytes.fromhex(bitmap), "little")
    return [key for key in range(bits.bit_length()) if bits >> key & 1]
