"""A broken link is dialled once more, not again and again (the soak saw 60 links to a peer that shut down)."""

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest

from swarmtrain.core.clock import run_virtual
from swarmtrain.core.types import PeerId
from swarmtrain.peer.confirming import Confirming
from tests.experiments.runs import small_config

PEER = PeerId("p")
HEARTBEAT_SECONDS = small_config().links.heartbeat_seconds


def confirmed(
    pauses_seconds: list[float],
    dial_seconds: float = 0.0,
    dialled: Callable[[], None] = lambda: None,
) -> tuple[int, int]:
    """(dials, losses) when a link breaks after each of these pauses and every dial succeeds in `dial_seconds`."""
    dials, losses = [], list[bool]()

    async def dial(peer: PeerId) -> None:
        dials.append(peer)
        dialled()
        await asyncio.sleep(dial_seconds)

    async def main() -> None:
        confirming = Confirming(dial, HEARTBEAT_SECONDS)  # type: ignore[arg-type]
        for pause_seconds in pauses_seconds:
            await asyncio.sleep(pause_seconds)
            losses.append(await confirming.is_lost(PEER))

    run_virtual(main())
    return len(dials), sum(losses)


def test_a_link_that_broke_once_is_dialled_again():
    assert confirmed([1.0]) == (1, 0)


def test_one_that_breaks_again_at_once_is_dialled_once_a_heartbeat():
    assert spaced([1.0, 0.01, 0.01]) == pytest.approx([HEARTBEAT_SECONDS] * 2)


def spaced(pauses_seconds: list[float]) -> list[float]:
    """Seconds between the dials."""
    at: list[float] = []
    confirmed(pauses_seconds, dialled=lambda: at.append(asyncio.get_running_loop().time()))
    return [after - before for before, after in pairwise(at)]


def test_one_that_breaks_again_later_has_another_chance():
    assert confirmed([1.0, 2 * HEARTBEAT_SECONDS]) == (2, 0)


@pytest.mark.parametrize(("heartbeats", "losses"), [(1.5, 0), (2.5, 1)])
def test_a_greeting_must_come_within_two_heartbeats(heartbeats: float, losses: int):
    assert confirmed([1.0], heartbeats * HEARTBEAT_SECONDS) == (1, losses)
