"""Named points of the program where a test may end or stop this process, or meddle with one message.

Nothing is armed unless the hidden option `swarmtrain peer --fault POINT:ACTION:NTH` says so; until then a point is
one look into an empty table. Points that experiments/faults.py also names mean the same there, where the virtual
world sees them from outside.
"""

import os
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from swarmtrain.core.errors import ConfigError

SENDING: Final[Mapping[str, str]] = {
    "Open": "opening",
    "Freeze": "freezing",
    "Assign": "assigning",
    "Decision": "deciding",
    "Release": "releasing",
    "NewTerm": "standing",
    "Held": "held",
    "Reduced": "reduced",
    "Ready": "applied",
    "Promise": "promised",
}
"""The point that a message to another peer passes just before it leaves: a kill there loses it. A conductor that
sends to N peers passes N times, so `nth` chooses how many of them still hear it."""

HEARING: Final[Mapping[str, str]] = {
    "Open": "opened",
    "Freeze": "frozen",
    "Assign": "assigned",
    "Decision": "committed",
    "Release": "ready",
    "Redrive": "replaying",
}
"""The point that a message passes when it is heard, before it has any effect."""

POINTS: Final[Mapping[str, str]] = {
    **{point: f"{name} is about to be sent to a peer" for name, point in SENDING.items()},
    **{point: f"{name} was heard" for name, point in HEARING.items()},
    "forward.received": "a call's bytes were decoded",
    "forward.done": "a position's output is there, its next hop not yet called",
    "backward.before_accumulate": "a contribution is about to enter the sum",
    "backward.after_accumulate_before_reply": "it entered; at the head the caller has no answer yet",
    "process.received": "a call of another peer arrived",
    "process.answered": "its answer is about to be sent",
    "sealed": "an assignment was accepted, its reduce begins",
    "reduce.middle": "this peer's slice is summed, no sibling has it yet",
    "apply.begun": "a decision is about to be applied",
    "apply.middle": "the next parameters are in the second buffer, not yet taken up",
    "apply.done": "every stage is at the next step, nobody was told",
}
"""Every point and what is true there."""

MESSAGE_POINTS: Final = ("process.received", "process.answered")
ENDINGS: Final = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
MEDDLINGS: Final = ("drop", "duplicate", "replay")
"""What can be done to one call: its answer is lost with its link, the call comes again at once, or it comes again
when its step is over."""


@dataclass(frozen=True, slots=True)
class PointFault:
    """Do `action` when `point` is passed for the `nth` time, from 1."""

    point: str
    action: str
    nth: int

    def __str__(self) -> str:
        return f"{self.point}:{self.action}:{self.nth}"


def parse_fault(text: str) -> PointFault:
    """`forward.done:kill:3`; without a number the first time. Raises ConfigError."""
    point, _, rest = text.partition(":")
    action, _, nth = rest.partition(":")
    is_meddling = action in MEDDLINGS and point in MESSAGE_POINTS
    is_known = point in POINTS and (action in ENDINGS or is_meddling)
    if is_known and (nth or "1").isdecimal() and int(nth or 1) >= 1:
        return PointFault(point, action, int(nth or 1))
    raise ConfigError(
        f"--fault {text!r} names no fault",
        f"it is POINT:ACTION:NTH with an action of {', '.join(ENDINGS)}, or of {', '.join(MEDDLINGS)} "
        f"at {' and '.join(MESSAGE_POINTS)}",
        f"points are {', '.join(POINTS)}",
    )


@dataclass(slots=True)
class _Waiting:
    """Faults of one point that have yet to come, and how often it was passed."""

    faults: list[PointFault]
    fired: Callable[[str], None]
    passed: int = 0

    def take(self) -> PointFault | None:
        self.passed += 1
        for fault in self.faults:
            if fault.nth == self.passed:
                return fault
        return None


_armed: dict[str, _Waiting] = {}


def arm(faults: Iterable[PointFault], fired: Callable[[str], None]) -> None:
    """Let these happen in this process; `fired` hears of each before it does. Earlier ones are disarmed."""
    _armed.clear()
    for fault in faults:
        _armed.setdefault(fault.point, _Waiting([], fired)).faults.append(fault)


def reached(point: str) -> str:
    """This process is at `point`; what to do to the message at hand: drop, duplicate, replay, or nothing, ""."""
    waiting = _armed.get(point)
    return _pass(waiting) if waiting is not None else ""


def is_armed() -> bool:
    """Whether any point is armed in this process."""
    return bool(_armed)


def sending(message: object) -> None:
    """`message` of the step protocol is about to be sent to another peer."""
    reached(SENDING.get(type(message).__name__, ""))


def hearing(message: object) -> None:
    """`message` of the step protocol was heard."""
    if _armed:
        reached(HEARING.get(type(message).__name__, ""))


def _pass(waiting: _Waiting) -> str:
    fault = waiting.take()
    if fault is None:
        return ""
    waiting.fired(str(fault))
    if fault.action in ENDINGS:
        os.kill(os.getpid(), ENDINGS[fault.action])
        return ""
    return fault.action
