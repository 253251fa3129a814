"""What a peer hands to its coordinator, and what stays in its own journal."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from swarmtrain.core.clock import run_virtual
from swarmtrain.core.errors import LinkError, SwarmError, WireError
from swarmtrain.core.events import Event, Noted, SealAssigned, StateApplied, SumChanged, SumSealed
from swarmtrain.core.types import PeerId
from swarmtrain.peer.report import REDIAL_SECONDS, Reporter
from swarmtrain.transport.requests import EventBatch

ME = PeerId("me")


def reported(*events: Event, failures: Sequence[SwarmError] = ()) -> list[str]:
    """The lines that reach the coordinator of a peer that records these events, whose first dials fail so."""
    batches: list[bytes] = []
    link = SimpleNamespace(tell=lambda method, meta: batches.append(meta))
    left = list(failures)

    async def dial(*_: Any) -> Any:
        if left:
            raise left.pop(0)
        return link

    async def main() -> None:
        reporter = Reporter(ME, "coordinator:1", 1.0)
        for event in events:
            reporter.add(event, event.kind)
        transport: Any = SimpleNamespace(dial=dial)
        handler: Any = SimpleNamespace(hello=lambda: None)
        links: Any = SimpleNamespace(is_open=lambda link: True)
        reporter.start(transport, handler, links)
        await asyncio.sleep(1.0 + 2 * REDIAL_SECONDS)
        await reporter.close()

    run_virtual(main())
    return [line for batch in batches for line in EventBatch.decode(batch).lines]


def test_what_is_of_every_contribution_stays_in_the_journal():
    events = (
        Noted("a", "b"),
        SumChanged(0, 1, 2, "add"),
        SumSealed(0, 1, 1, 1),
        SealAssigned(0, 1, 1, 1, ((1,),), (), ()),
        StateApplied(0, 1, 1, ()),
    )
    assert reported(*events) == ["noted", "state_applied"]


def test_a_coordinator_that_is_away_or_answers_nonsense_is_dialled_again():
    failures = (
        LinkError("nobody answers", "a.b:1"),
        WireError("a greeting that cannot be read", "a.b:1"),
    )
    assert reported(Noted("a", "b"), failures=failures) == ["noted"]
