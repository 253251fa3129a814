"""The journal (I7): every event of a peer, one JSON line each, in the order they were recorded.

A line is `{"event":{"kind":...,...},"peer":...,"time_seconds":...}`: `peer` is who recorded it, as
events name peers of their own. The virtual world keeps the same lines in memory; same seed, same
bytes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swarmtrain.core.errors import StateError
from swarmtrain.core.events import Event
from swarmtrain.core.remembered import remembered
from swarmtrain.monitor.lines import LineFile, json_line, read_lines


def journal_line(event: Event, time_seconds: float, peer: str) -> str:
    """`event` as the journal holds it; `time_seconds` is the time of the recorder's event loop."""
    rest = json_line({"peer": peer, "time_seconds": time_seconds})
    return f'{{"event":{_json_of(event)},{rest.removeprefix("{")}'


@remembered(4)
def _json_of(event: Event) -> str:
    """In a virtual world all peers note one and the same long event, as who owns what."""
    return json_line(event.to_json()).rstrip("\n")


class Journal:
    """Appends events to a file; an existing journal is continued."""

    def __init__(self, path: Path) -> None:
        self._lines = LineFile(path)

    def write(self, event: Event, time_seconds: float, peer: str) -> None:
        """Append `event`; it survives this process when the call returns. Raises StateError."""
        self._lines.append(journal_line(event, time_seconds, peer))

    def write_line(self, line: str) -> None:
        """Append an entry that `journal_line` made elsewhere. Raises StateError."""
        self._lines.append(line)

    def close(self) -> None:
        self._lines.close()


class MemoryJournal:
    """The journal of a virtual world: `"".join(lines)` is what the file would hold."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, event: Event, time_seconds: float, peer: str) -> None:
        self.lines.append(journal_line(event, time_seconds, peer))


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """The journal's entries in order; a torn last line is logged and left out.

    Raises StateError naming the line for anything else that `Journal` does not write.
    """
    for number, entry in enumerate(read_lines(path), start=1):
        event = entry.get("event")
        if set(entry) != {"event", "peer", "time_seconds"} or not isinstance(event, dict):
            raise StateError(
                f"line {number} of {path} is no journal entry",
                "it does not hold event, peer and time_seconds",
                "pass the journal.jsonl of a run",
            )
        yield entry
