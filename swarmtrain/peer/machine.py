"""What a volunteer's machine is doing: battery, people at it, other programs, disk. Wall-clock seconds are passed in.

Nobody uses a machine for as long as no key came from any terminal that somebody is logged in at, and other programs,
apart from those that gave way themselves (nice), took less than BUSY_SHARE of all processors. What a graphical session
gets from mouse and keyboard is not asked for: the programs it moves are seen instead.
"""

import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import psutil

from swarmtrain.plan.terms import LocalTime, Machine, Request, Terms

BUSY_SHARE = 0.25
LOAD_SECONDS = 2.0
"""Over how long the load of others is averaged at least."""

DISK_SECONDS = 10.0


def local_time(wall_seconds: float) -> LocalTime:
    """Seconds since 1970 as the day and time of this machine's place."""
    local = datetime.fromtimestamp(wall_seconds)
    seconds = 3600 * local.hour + 60 * local.minute + local.second
    return LocalTime(local.date().isoformat(), seconds + local.microsecond / 1e6)


class Load(NamedTuple):
    """Processor seconds since the machine started: `busy` by programs that did not give way, `own` of them ours."""

    at_seconds: float
    busy_seconds: float
    own_seconds: float


def others_share(before: Load, after: Load, processors: int) -> float:
    """Share of all processors that other programs took between two looks."""
    elapsed_seconds = max(after.at_seconds - before.at_seconds, 1e-9)
    busy_seconds = after.busy_seconds - before.busy_seconds
    own_seconds = after.own_seconds - before.own_seconds
    return max(0.0, busy_seconds - own_seconds) / elapsed_seconds / processors


def read_load(wall_seconds: float) -> Load:
    times, process = psutil.cpu_times(), psutil.Process()
    own = process.cpu_times()
    # What is nice counts nowhere, also of ours; a system without nice times has none to leave out.
    own_seconds = own.system + (own.user if process.nice() <= 0 else 0.0)
    busy_seconds = times.user + times.system + getattr(times, "irq", 0.0)
    return Load(wall_seconds, busy_seconds + getattr(times, "softirq", 0.0), own_seconds)


def terminal_seconds() -> float | None:
    """When a terminal was typed at last, in seconds since 1970; None where nobody is logged in."""
    typed: list[float] = []
    for user in psutil.users():
        try:
            typed.append(os.stat(Path("/dev") / (user.terminal or "")).st_atime)
        except OSError:
            continue  # a graphical session has no such file
    return max(typed, default=None)


def folder_bytes(folders: Sequence[Path]) -> int:
    """What files in these folders take, each folder once."""
    whole = {path.resolve() for path in folders}
    total_bytes = 0
    for folder in whole:
        if any(parent in whole for parent in folder.parents):
            continue
        for path in folder.rglob("*"):
            try:
                total_bytes += 0 if path.is_symlink() or path.is_dir() else path.stat().st_size
            except OSError:
                continue  # it went meanwhile
    return total_bytes


class Watch:
    """Looks at this machine, as far as `terms` ask for it."""

    def __init__(
        self, terms: Terms, wall_seconds: Callable[[], float], folders: Sequence[Path]
    ) -> None:
        self._terms, self._wall_seconds, self._folders = terms, wall_seconds, folders
        now = wall_seconds()
        self._load = read_load(now)
        self._busy_seconds, self._busy_source = now, "it was not watched before"
        self._disk_bytes, self._disk_seconds = 0, -DISK_SECONDS

    def now(self) -> LocalTime:
        return local_time(self._wall_seconds())

    def look(self, request: Request, transfer_bytes: int, step_bytes: int) -> Machine:
        """What the machine is doing, beside what the caller knows."""
        terms, now = self._terms, self._wall_seconds()
        used_seconds, source = self._used(now) if terms.only_when_idle else (now, "")
        if terms.disk_bytes is not None and now - self._disk_seconds >= DISK_SECONDS:
            self._disk_bytes, self._disk_seconds = folder_bytes(self._folders), now
        return Machine(
            now=local_time(now),
            request=request,
            on_battery=terms.not_on_battery and _is_on_battery(),
            idle_seconds=max(0.0, now - used_seconds),
            idle_source=source,
            transfer_bytes=transfer_bytes,
            step_bytes=step_bytes,
            disk_bytes=self._disk_bytes,
        )

    def _used(self, now_seconds: float) -> tuple[float, str]:
        """When somebody used the machine last, and how that is known."""
        if now_seconds - self._load.at_seconds >= LOAD_SECONDS:
            before, self._load = self._load, read_load(now_seconds)
            share = others_share(before, self._load, psutil.cpu_count() or 1)
            if share >= BUSY_SHARE:
                self._busy_seconds = now_seconds
                self._busy_source = f"other programs took {share:.0%} of the processors"
        typed_seconds = terminal_seconds()
        if typed_seconds is not None and typed_seconds > self._busy_seconds:
            return typed_seconds, "somebody typed at a terminal"
        return self._busy_seconds, self._busy_source


def _is_on_battery() -> bool:
    """False where there is no battery, or where nobody knows."""
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return battery is not None and battery.power_plugged is False
