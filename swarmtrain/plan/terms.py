"""A volunteer's terms: given what the machine is doing and what time it is, may this peer serve?

`decide` is the whole policy. It reads no clock and no machine: both come as plain values, also the day, so that it can
be tested for any evening, battery and month. Rate and memory caps are not here: links hold the one
(transport.caps), and what the stages may take is refused before they are built (core.sizes).
"""

from dataclasses import dataclass
from typing import Literal

from swarmtrain.core.units import format_bytes, format_seconds

DAY_SECONDS = 86400.0

LAST_STEPS = 2
"""What still comes once a peer is told to leave: the rest of the open step, and one more that it may just be in."""

Request = Literal["serve", "pause", "finish"]
"""What the volunteer asked for from another terminal; "finish" leaves between two steps and ends."""


@dataclass(frozen=True, slots=True)
class LocalTime:
    """The volunteer's calendar day, as 2026-11-21, and the seconds since its midnight."""

    day: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Hours:
    """From `begin_seconds` after midnight to `end_seconds`; the night between where the end is the smaller one."""

    begin_seconds: float
    end_seconds: float

    def until_open_seconds(self, now_seconds: float) -> float:
        """0 within these hours, else how long until they begin."""
        length_seconds = (self.end_seconds - self.begin_seconds) % DAY_SECONDS
        if (now_seconds - self.begin_seconds) % DAY_SECONDS < length_seconds:
            return 0.0
        return (self.begin_seconds - now_seconds) % DAY_SECONDS


@dataclass(frozen=True, slots=True)
class Terms:
    """What a volunteer allows; None and False are no limit. `idle_seconds` is how long nobody may have used it."""

    daily_transfer_bytes: int | None = None
    disk_bytes: int | None = None
    hours: Hours | None = None
    only_when_idle: bool = False
    idle_seconds: float = 180.0
    not_on_battery: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """What the machine is doing.

    `idle_seconds` is how long nobody has used it, as `idle_source` knows; `transfer_bytes` is what this peer sent and
    received on that day, `step_bytes` the most it did so within one step; `disk_bytes` is what its folders hold.
    """

    now: LocalTime
    request: Request = "serve"
    on_battery: bool = False
    idle_seconds: float = 0.0
    idle_source: str = ""
    transfer_bytes: int = 0
    step_bytes: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to serve; if not, why, and what ends that. `is_urgent`: not even to the end of this step."""

    action: Request
    reason: str = ""
    resumes: str = ""
    is_urgent: bool = False


SERVE = Verdict("serve")


def decide(terms: Terms, machine: Machine) -> Verdict:
    """Serve, pause or finish. All that stands in the way is named, with what has to come for each."""
    if machine.request == "finish":
        return Verdict("finish", "finishing: asked for by the volunteer")
    obstacles = [
        obstacle
        for obstacle in (
            _asked(machine),
            _on_battery(terms, machine),
            _out_of_hours(terms, machine),
            _in_use(terms, machine),
            _transferred(terms, machine),
            _disk_is_full(terms, machine),
        )
        if obstacle is not None
    ]
    if not obstacles:
        return SERVE
    reasons, resumes = zip(*obstacles, strict=True)
    most = terms.daily_transfer_bytes
    is_urgent = most is not None and machine.transfer_bytes >= most
    return Verdict("pause", "; ".join(reasons), " and ".join(dict.fromkeys(resumes)), is_urgent)


_Obstacle = tuple[str, str] | None


def _asked(machine: Machine) -> _Obstacle:
    if machine.request != "pause":
        return None
    return "the volunteer asked for a pause", "after swarmtrain resume"


def _on_battery(terms: Terms, machine: Machine) -> _Obstacle:
    if not (terms.not_on_battery and machine.on_battery):
        return None
    return "the machine runs on its battery", "when it is plugged in"


def _out_of_hours(terms: Terms, machine: Machine) -> _Obstacle:
    if terms.hours is None:
        return None
    wait_seconds = terms.hours.until_open_seconds(machine.now.seconds)
    if not wait_seconds:
        return None
    begin, end = map(clock_text, (terms.hours.begin_seconds, terms.hours.end_seconds))
    now = clock_text(machine.now.seconds)
    return f"it is {now}, outside of {begin} to {end}", f"at {begin}, {_in(wait_seconds)}"


def _in_use(terms: Terms, machine: Machine) -> _Obstacle:
    if not terms.only_when_idle or machine.idle_seconds >= terms.idle_seconds:
        return None
    used = f"the machine was in use {format_seconds(int(machine.idle_seconds))} ago"
    return (
        f"{used} ({machine.idle_source})",
        f"when nobody has used it for {format_seconds(terms.idle_seconds)}",
    )


def _transferred(terms: Terms, machine: Machine) -> _Obstacle:
    """What leaving takes must fit: it waits for the end of a step, and what that moves is known from others."""
    most, last_bytes = terms.daily_transfer_bytes, LAST_STEPS * machine.step_bytes
    if most is None or machine.transfer_bytes + last_bytes < most:
        return None
    moved = f"{format_bytes(machine.transfer_bytes)} of {format_bytes(most)} were transferred today"
    step = f", and leaving may take {format_bytes(last_bytes)}"
    wait_seconds = DAY_SECONDS - machine.now.seconds
    return moved + (step if machine.step_bytes else ""), f"at midnight, {_in(wait_seconds)}"


def _disk_is_full(terms: Terms, machine: Machine) -> _Obstacle:
    if terms.disk_bytes is None or machine.disk_bytes < terms.disk_bytes:
        return None
    held, most = format_bytes(machine.disk_bytes), format_bytes(terms.disk_bytes)
    return f"its folders hold {held} of {most}", "when there is room in them"


def _in(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"in {minutes // 60} h {minutes % 60:02} min" if minutes else "in less than a minute"


def clock_text(seconds: float) -> str:
    """Seconds since midnight as 22:00."""
    minutes = int(seconds // 60)
    return f"{minutes // 60:02}:{minutes % 60:02}"
