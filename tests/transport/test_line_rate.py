"""A line's rate comes out the same for a little as for a lot, next to any delay, and over a real link's frames."""

import asyncio

import pytest

from swarmtrain.core.clock import run_virtual
from swarmtrain.transport.line_rate import KEPT_PER_MESSAGE, MEMORY_SECONDS, ROUND_TRIPS, LineRate
from swarmtrain.transport.link import LinkLimits, LinkStats, Message
from swarmtrain.transport.memory import MemoryNetwork
from tests.transport.worlds import Watcher

KIB = 1 << 10


def stats_after(size_bytes: int, bytes_per_second: float, latency_seconds: float) -> LinkStats:
    """What a link measured with ten calls of that size, one after the other."""
    found: list[LinkStats] = []

    async def main() -> None:
        network = MemoryNetwork(latency_seconds, bytes_per_second, LinkLimits())
        near, far = Watcher("near"), Watcher("far")
        address = await network.transport("far").listen("far:0", far)
        link = await network.transport("near").dial(address, near.hello(), near, 5.0)
        await asyncio.sleep(2.5)
        for _ in range(10):
            await link.call("work", Message(b"", bytes(size_bytes)), silence_seconds=9.0)
            await asyncio.sleep(0.5)
        found.append(link.stats)

    run_virtual(main())
    return found[0]


@pytest.mark.parametrize("size_kib", [8, 64, 256, 4096])
@pytest.mark.parametrize("bytes_per_second", [2.5e6, 12.5e6, 125e6])
@pytest.mark.parametrize("latency_seconds", [0.0005, 0.02, 0.15])
def test_the_rate_is_that_of_the_line(
    size_kib: int, bytes_per_second: float, latency_seconds: float
) -> None:
    if 2 * latency_seconds * bytes_per_second > LinkLimits().window_bytes:
        pytest.skip("the window is smaller than what fits into the line")
    stats = stats_after(size_kib * KIB, bytes_per_second, latency_seconds)
    assert stats.round_trip_seconds == pytest.approx(2 * latency_seconds, rel=0.1, abs=1e-4)
    assert stats.bytes_per_second == pytest.approx(bytes_per_second, rel=0.1)
    assert stats.messages == 10 and stats.rated_seconds > 2.5


def test_nothing_is_rated_before_the_second_ping_came_back() -> None:
    line = LineRate()
    line.acknowledged(1000, 0.0, 0.0, 1.0)
    line.pinged(0.5)
    line.message_left(1.0)
    line.acknowledged(1000, 1.0, 1.0, 2.0)
    assert (line.bytes_per_second, line.messages, line.rated_seconds) == (0.0, 0, 0.0)
    assert line.round_trip_seconds == 0.5


def ready(round_trip_seconds: float) -> LineRate:
    line = LineRate()
    for _ in range(2):
        line.pinged(round_trip_seconds)
    return line


def test_a_chunk_on_an_idle_line_takes_what_is_beyond_the_empty_round_trip() -> None:
    line = ready(0.1)
    line.acknowledged(1000, 5.0, 5.0, 5.3)
    assert line.bytes_per_second == pytest.approx(1000 / 0.2)


def test_a_chunk_behind_another_takes_what_is_beyond_that_one() -> None:
    line = ready(0.1)
    line.acknowledged(1000, 5.0, 5.0, 5.3)
    line.acknowledged(1000, 5.0, 5.3, 5.5)
    assert line.bytes_per_second == pytest.approx(2000 / 0.4)


def test_the_time_between_two_messages_is_nobodys() -> None:
    line = ready(0.1)
    line.acknowledged(1000, 5.0, 5.0, 5.3)
    line.acknowledged(1000, 9.0, 5.3, 9.3)
    assert line.bytes_per_second == pytest.approx(1000 / 0.2)


def test_pings_that_waited_do_not_count() -> None:
    line = ready(0.1)
    line.pinged(3.0)
    assert line.round_trip_seconds == 0.1


def test_a_route_that_became_longer_is_believed_after_a_while() -> None:
    line = ready(0.1)
    for _ in range(ROUND_TRIPS):
        line.pinged(0.2)
    assert line.round_trip_seconds == 0.2


def test_an_infinitely_fast_line_has_a_finite_rate() -> None:
    line = ready(0.1)
    line.acknowledged(1000, 5.0, 5.0, 5.1)
    assert line.bytes_per_second == pytest.approx(1e9)


@pytest.mark.parametrize(("pause_seconds", "left"), [(0.0, 1.0), (MEMORY_SECONDS, 0.367879)])
def test_older_messages_count_less(pause_seconds: float, left: float) -> None:
    line = ready(0.0)
    line.message_left(10.0)
    line.acknowledged(1000, 10.0, 10.0, 11.0)
    line.message_left(10.0 + pause_seconds)
    line.acknowledged(1000, 500.0, 500.0, 510.0)
    kept = KEPT_PER_MESSAGE * left
    assert line.bytes_per_second == pytest.approx(1000 * (kept + 1) / (kept + 10), rel=1e-4)
    assert line.messages == 2
