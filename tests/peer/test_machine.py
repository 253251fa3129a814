"""What is seen of a volunteer's machine: time of day, other programs, terminals, disk, and memory for stages."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from swarmtrain.core.errors import ModelError
from swarmtrain.peer import machine
from swarmtrain.peer.joining import WORKING_BYTES, stage_memory_bytes
from swarmtrain.peer.machine import Load, Watch, folder_bytes, local_time, others_share
from swarmtrain.plan.terms import Terms

NOON = 1_800_000_000.0
IDLE = Terms(only_when_idle=True, idle_seconds=60.0)


def test_the_day_and_time_are_those_of_the_machines_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-2")  # two hours east
    time.tzset()
    try:
        late = local_time(24 * 3600.0 * 20_000 + 22.5 * 3600)
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    assert (late.day, late.seconds) == ("2024-10-05", 1800.0)


def test_own_work_is_not_others_work() -> None:
    before, after = Load(0.0, 100.0, 50.0), Load(10.0, 118.0, 58.0)
    assert others_share(before, after, processors=2) == pytest.approx(0.5)
    assert others_share(before, Load(10.0, 105.0, 60.0), processors=2) == 0.0


class Watched:
    """A machine of a test: what its clock, other programs and terminals say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.busy, self.typed = NOON, 0.0, None
        monkeypatch.setattr(machine, "read_load", lambda now: Load(now, self.busy, 0.0))
        monkeypatch.setattr(machine, "terminal_seconds", lambda: self.typed)
        monkeypatch.setattr(machine.psutil, "cpu_count", lambda: 2)
        self.watch = Watch(IDLE, lambda: self.now, [])

    def pass_seconds(self, seconds: float, others_share: float = 0.0) -> None:
        for _ in range(int(seconds)):
            self.now += 1.0
            self.busy += 2 * others_share
            self.idle_seconds = self.watch.look("serve", 0, 0).idle_seconds


def test_a_machine_is_idle_once_others_have_done_little_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched = Watched(monkeypatch)
    watched.pass_seconds(50, others_share=0.1)
    assert watched.idle_seconds == 50.0
    watched.pass_seconds(10, others_share=0.6)
    assert watched.idle_seconds <= 2.0
    assert "60% of the processors" in watched.watch.look("serve", 0, 0).idle_source
    watched.pass_seconds(30)
    assert 28.0 <= watched.idle_seconds <= 32.0


def test_a_key_at_a_terminal_is_use(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    watched.pass_seconds(50)
    watched.typed = watched.now - 7.0  # type: ignore[assignment]
    seen = watched.watch.look("serve", 0, 0)
    assert (seen.idle_seconds, seen.idle_source) == (7.0, "somebody typed at a terminal")


def test_terminals_are_read_where_somebody_is_logged_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    typed = tmp_path / "pts7"
    typed.write_text("")
    os.utime(typed, (NOON, 0))
    users = [SimpleNamespace(terminal=str(typed)), SimpleNamespace(terminal=":0")]
    monkeypatch.setattr(machine.psutil, "users", lambda: users)
    assert machine.terminal_seconds() == NOON
    monkeypatch.setattr(machine.psutil, "users", lambda: users[1:])
    assert machine.terminal_seconds() is None


@pytest.mark.parametrize(
    ("battery", "expected"),
    [
        (None, False),
        (SimpleNamespace(power_plugged=True), False),
        (SimpleNamespace(power_plugged=None), False),
        (SimpleNamespace(power_plugged=False), True),
    ],
)
def test_only_a_battery_that_is_used_counts(
    monkeypatch: pytest.MonkeyPatch, battery: object, expected: bool
) -> None:
    sensors: Callable[[], object] = lambda: battery  # noqa: E731
    monkeypatch.setattr(machine.psutil, "sensors_battery", sensors, raising=False)
    watch = Watch(Terms(not_on_battery=True), lambda: NOON, [])
    assert watch.look("serve", 0, 0).on_battery is expected


def test_each_folder_counts_once(tmp_path: Path) -> None:
    inner = tmp_path / "out" / "state"
    inner.mkdir(parents=True)
    (inner / "a").write_bytes(bytes(100))
    (tmp_path / "out" / "b").write_bytes(bytes(10))
    (tmp_path / "out" / "link").symlink_to(inner / "a")
    assert folder_bytes([inner, tmp_path / "out", tmp_path / "none"]) == 110
    watch = Watch(Terms(disk_bytes=1000), lambda: NOON, [tmp_path])
    assert watch.look("serve", 0, 0).disk_bytes == 110


def test_a_memory_cap_covers_the_whole_process() -> None:
    resident_bytes = psutil.Process().memory_info().rss
    left_bytes, why = stage_memory_bytes(2 << 30)
    assert left_bytes == pytest.approx((2 << 30) - resident_bytes - WORKING_BYTES, abs=64 << 20)
    assert "of 2GiB the program takes" in why
    with pytest.raises(ModelError, match="1MiB of memory do not hold the program itself") as error:
        stage_memory_bytes(1 << 20)
    assert "before it hosts anything" in error.value.why
