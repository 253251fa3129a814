"""What is shown as it comes and kept in no journal: how a peer does, and what it did in a step chosen to be shown.

These are events like all others on the wire; the next ones say the same, newer, so nothing is lost with them.
"""

from dataclasses import dataclass

from swarmtrain.core.carried import LinksCarried
from swarmtrain.core.events import Event
from swarmtrain.core.pauses import Paused, Resumed

SpanRow = tuple[str, int, int, int, int, str]
"""What (a `Kind` of the lane in small letters), stage, key, begin and length in microseconds, and for a hop the first
digits of whom it called."""


@dataclass(frozen=True, slots=True)
class Vitals(Event):
    """How a peer does right now: bytes its links carried in all, how busy its lane was lately, its resident memory.

    `was_dialled` says that another peer dialled it: it can be reached directly. Without, nobody knows.
    """

    peer: str
    bytes_sent: int
    bytes_received: int
    busy_share: float
    resident_bytes: int
    was_dialled: bool = False


@dataclass(frozen=True, slots=True)
class StepTraced(Event):
    """What a peer did in one step, timed from when it had applied the step before; `left_out` more spans happened."""

    peer: str
    step: int
    seconds: float
    spans: tuple[SpanRow, ...]
    left_out: int


LIVE_EVENTS = (Vitals, StepTraced)
LIVE_KINDS = frozenset({"vitals", "step_traced"})


ELSEWHERE: tuple[type[Event], ...] = (LinksCarried, Paused, Resumed)
"""Defined beside what they tell of: classes are only known once somebody has imported them."""


def event_classes() -> tuple[type[Event], ...]:
    """All events there are."""
    return (*Event.__subclasses__(), *ELSEWHERE)


def kinds() -> frozenset[str]:
    """The kinds of all events there are."""
    return frozenset(event.kind_of() for event in event_classes())
