"""A fault of our own while handling a message leaves an event with its reason (I7)."""

import asyncio
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from swarmtrain.core.errors import Refused, WireError
from swarmtrain.core.events import BadMessage, Event, Noted
from swarmtrain.core.messages import Ask
from swarmtrain.peer.rosters import Rosters
from swarmtrain.peer.service import Calls, Service
from swarmtrain.transport.link import Message
from swarmtrain.transport.requests import FinishRequest
from swarmtrain.transport.step_messages import encode_step


def broken(*_: object) -> NoReturn:
    raise KeyError("a bug")


def service(events: list[Event]) -> Service:
    served = Service(Calls(broken, broken, broken, broken, broken), events.append)
    served.rosters = Rosters(broken, events.append, 1.0, broken)
    return served


LINK: Any = SimpleNamespace(remote=SimpleNamespace(role="peer", peer="somebody", island=0))
QUERY: Any = SimpleNamespace(remote=SimpleNamespace(role="query", peer="query", island=0))


def test_a_message_that_cannot_be_handled_is_an_event() -> None:
    events: list[Event] = []
    with pytest.raises(KeyError):
        service(events).tell(LINK, "step", encode_step(Ask(3), None))
    assert events == [Noted("internal error", "step: KeyError('a bug')")]


def test_a_tell_that_is_refused_or_makes_no_sense_is_an_event() -> None:
    """Nobody hears of it otherwise: one-way control has no answer."""

    def refuse(*_: object) -> NoReturn:
        raise Refused("not now", "still busy")

    events: list[Event] = []
    served = Service(Calls(broken, broken, broken, refuse, broken), events.append)
    served.is_coordinator = lambda link: True
    with pytest.raises(Refused):
        served.tell(LINK, "finish", FinishRequest("over").encode())
    with pytest.raises(WireError):
        served.tell(LINK, "nonsense", b"")
    with pytest.raises(WireError):
        served.tell(QUERY, "finish", b"")
    assert events == [
        Noted("internal error", "finish: Refused('not now', 'still busy', '')"),
        BadMessage("somebody", "nonsense: an unknown one-way method (nonsense)"),
        BadMessage("query", "finish: a query process may not tell anything (method finish)"),
    ]


def test_a_call_that_cannot_be_answered_is_an_event() -> None:
    events: list[Event] = []
    with pytest.raises(KeyError):
        asyncio.run(service(events).call(LINK, "describe", Message(b"")))
    assert events == [Noted("internal error", "describe: KeyError('a bug')")]


@pytest.mark.parametrize("method", ["process", "piece", "state", "layout", "learn", "roster"])
def test_another_island_has_nothing_but_rounds_in_common(method: str) -> None:
    """Steps, terms and seals of two islands are counted alike: their work must not be taken for each other's."""
    calls = Calls(lambda: SimpleNamespace(island=1), broken, broken, broken, broken)  # type: ignore[arg-type,return-value]
    served = Service(calls, lambda event: None)
    with pytest.raises(Refused, match="another island"):
        asyncio.run(served.call(LINK, method, Message(b"")))
    with pytest.raises(WireError, match="another island"):
        served.tell(LINK, "step", encode_step(Ask(3), None))


def test_what_waits_of_a_link_ends_when_it_closes() -> None:
    served, closed = service([]), []
    served.links = SimpleNamespace(closed=lambda link, reason: None)  # type: ignore[assignment]
    served.rosters.closed = closed.append  # type: ignore[method-assign]
    served.closed(LINK, "it broke")
    assert closed == [LINK]
