"""A volunteer's terms hold for every machine and time of day, and each pause says why and what ends it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.plan.terms import DAY_SECONDS, LAST_STEPS, Hours, LocalTime, Machine, Terms, decide

SECONDS_OF_DAY = st.floats(0, DAY_SECONDS, exclude_max=True)
GB = 10**9
HOURS = st.lists(st.integers(0, 1439), min_size=2, max_size=2, unique=True).map(
    lambda minutes: Hours(60.0 * minutes[0], 60.0 * minutes[1])
)

machines = st.builds(
    Machine,
    now=st.builds(LocalTime, st.just("2026-11-21"), SECONDS_OF_DAY),
    request=st.sampled_from(["serve", "pause", "finish"]),
    on_battery=st.booleans(),
    idle_seconds=st.floats(0, 1000),
    idle_source=st.just("terminals"),
    transfer_bytes=st.integers(0, 30 * GB),
    step_bytes=st.integers(0, GB),
    disk_bytes=st.integers(0, 30 * GB),
)
terms_of = st.builds(
    Terms,
    daily_transfer_bytes=st.none() | st.integers(1, 30 * GB),
    disk_bytes=st.none() | st.integers(1, 30 * GB),
    hours=st.none() | HOURS,
    only_when_idle=st.booleans(),
    idle_seconds=st.floats(1, 600),
    not_on_battery=st.booleans(),
)


@given(terms_of, machines)
def test_who_serves_keeps_every_term(terms: Terms, machine: Machine) -> None:
    verdict = decide(terms, machine)
    if verdict.action != "serve":
        assert verdict.reason
        assert verdict.action == "finish" or verdict.resumes
        return
    assert machine.request == "serve"
    assert not (terms.not_on_battery and machine.on_battery)
    assert not terms.only_when_idle or machine.idle_seconds >= terms.idle_seconds
    if terms.daily_transfer_bytes is not None:
        assert machine.transfer_bytes + LAST_STEPS * machine.step_bytes < terms.daily_transfer_bytes
    if terms.disk_bytes is not None:
        assert machine.disk_bytes < terms.disk_bytes
    if terms.hours is not None:
        assert is_within(terms.hours, machine.now.seconds)


def is_within(hours: Hours, seconds: float) -> bool:
    if hours.begin_seconds <= hours.end_seconds:
        return hours.begin_seconds <= seconds < hours.end_seconds
    return seconds >= hours.begin_seconds or seconds < hours.end_seconds


@given(machines)
def test_without_terms_only_the_volunteer_stops_it(machine: Machine) -> None:
    assert decide(Terms(), machine).action == machine.request


@given(terms_of, machines)
def test_a_term_that_is_taken_back_never_causes_a_pause(terms: Terms, machine: Machine) -> None:
    if decide(terms, machine).action == "serve":
        fewer = replace(terms, hours=None, disk_bytes=None, not_on_battery=False)
        assert decide(fewer, machine).action == "serve"


@given(terms_of, machines)
def test_only_a_spent_day_is_urgent(terms: Terms, machine: Machine) -> None:
    most = terms.daily_transfer_bytes
    spent = most is not None and machine.transfer_bytes >= most
    verdict = decide(terms, machine)
    assert verdict.is_urgent == (spent and verdict.action == "pause")


@given(HOURS, SECONDS_OF_DAY)
def test_hours_open_when_they_are_said_to(hours: Hours, seconds: float) -> None:
    wait_seconds = hours.until_open_seconds(seconds)
    assert (wait_seconds == 0) == is_within(hours, seconds)
    if wait_seconds:
        opening = (seconds + wait_seconds) % DAY_SECONDS
        distance = abs(opening - hours.begin_seconds)
        assert min(distance, DAY_SECONDS - distance) < 1e-6


@pytest.mark.parametrize(
    ("terms", "machine", "reason", "resumes"),
    [
        (
            Terms(hours=Hours(22 * 3600, 7 * 3600)),
            Machine(LocalTime("d", 7 * 3600 + 60)),
            "it is 07:01, outside of 22:00 to 07:00",
            "at 22:00, in 14 h 59 min",
        ),
        (
            Terms(daily_transfer_bytes=1 << 30),
            Machine(LocalTime("d", 23 * 3600), transfer_bytes=1000 << 20, step_bytes=30 << 20),
            "1000MiB of 1GiB were transferred today, and leaving may take 60MiB",
            "at midnight, in 1 h 00 min",
        ),
        (
            Terms(only_when_idle=True),
            Machine(LocalTime("d", 0), idle_seconds=12.3, idle_source="terminals"),
            "the machine was in use 12s ago (terminals)",
            "when nobody has used it for 3m",
        ),
        (
            Terms(not_on_battery=True),
            Machine(LocalTime("d", 0), "pause", on_battery=True),
            "the volunteer asked for a pause; the machine runs on its battery",
            "after swarmtrain resume and when it is plugged in",
        ),
        (
            Terms(disk_bytes=1 << 30),
            Machine(LocalTime("d", 0), disk_bytes=1 << 30),
            "its folders hold 1GiB of 1GiB",
            "when there is room in them",
        ),
    ],
)
def test_what_a_pause_says(terms: Terms, machine: Machine, reason: str, resumes: str) -> None:
    verdict = decide(terms, machine)
    assert (verdict.action, verdict.reason, verdict.resumes) == ("pause", reason, resumes)
