"""Faults on real processes: an event says what became of each, as it was."""

import asyncio
import signal

import pytest

from swarmtrain.core.clock import run_virtual
from swarmtrain.core.events import Event, FaultEnded, FaultInjected, FaultMissed
from swarmtrain.experiments.faults import Fault
from swarmtrain.experiments.process_nemesis import ProcessNemesis

NAMES = ("runs", "left")


def played(*plan: Fault, seconds: float = 10.0) -> tuple[ProcessNemesis, list[Event], list[str]]:
    """What was recorded of `plan`, and the signals that came to a machine, where only `runs` runs."""
    events: list[Event] = []
    signals: list[str] = []

    def send(name: str, number: signal.Signals) -> bool:
        if name == "runs":
            signals.append(number.name)
        return name == "runs"

    async def main() -> ProcessNemesis:
        nemesis = ProcessNemesis(NAMES, send, lambda: None, events.append)
        nemesis.begin(plan, asyncio.get_running_loop().time())
        await asyncio.sleep(seconds)
        await nemesis.finish()
        return nemesis

    return run_virtual(main()), events, signals


def missed(events: list[Event]) -> dict[int, str]:
    return {event.number: event.reason for event in events if isinstance(event, FaultMissed)}


def test_a_fault_on_a_machine_that_was_killed_is_missed_for_that_reason() -> None:
    later = Fault("freeze", ("runs",), at_seconds=2.0, duration_seconds=1.0)
    _, events, signals = played(Fault("kill", ("runs",), at_seconds=1.0), later)
    assert missed(events) == {1: "runs had been killed before"} and signals == ["SIGKILL"]


@pytest.mark.parametrize("kind", ["kill", "freeze"])
def test_a_fault_on_a_machine_that_does_not_run_did_not_happen(kind: str) -> None:
    fault = Fault(kind, ("left",), at_seconds=1.0, duration_seconds=1.0)  # type: ignore[arg-type]
    nemesis, events, _ = played(fault)
    assert missed(events) == {0: "left did not run"} and not nemesis.injected and not nemesis.dead
    assert not [event for event in events if isinstance(event, FaultInjected | FaultEnded)]


def test_a_freeze_ends_and_what_the_end_of_the_run_forestalled_says_so() -> None:
    freeze = Fault("freeze", ("runs",), at_seconds=1.0, duration_seconds=1.0)
    _, events, signals = played(freeze, Fault("kill", ("runs",), at_seconds=99.0))
    assert signals == ["SIGSTOP", "SIGCONT"] and isinstance(events[3], FaultEnded)
    assert missed(events) == {1: "the run ended before it was due"}
