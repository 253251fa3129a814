"""What a peer's links carry together stays under its caps, and control does not wait behind what they hold back."""

import asyncio
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.core.errors import ConfigError
from swarmtrain.transport.caps import (
    BURST_SECONDS,
    CONTROL_SECONDS,
    Caps,
    DownloadCap,
    UploadCap,
    line_bytes,
)
from swarmtrain.transport.link import Link, LinkLimits, Message
from swarmtrain.transport.memory import MemoryNetwork
from tests.transport.worlds import MIB, Watcher, World, run_in

WINDOW_SECONDS = 10.0
TOLERANCE = 1.05


class Counter:
    """Sees the frames on a line: (loop seconds, bytes) as they leave."""

    def __init__(self) -> None:
        self.sent_frames: list[tuple[float, int]] = []

    def sent(self, frame: bytes) -> list[tuple[float, bytes]]:
        self.sent_frames.append((asyncio.get_running_loop().time(), len(frame)))
        return [(0.0, frame)]

    def received(self, frame: bytes) -> None:
        """Leaving is what counts."""

    def busiest_bytes(self, window_seconds: float = WINDOW_SECONDS) -> int:
        """The most bytes that left in any window of that length."""
        frames, totals = self.sent_frames, [0, *accumulate(size for _, size in self.sent_frames)]
        most = first = 0
        for last, (seconds, _) in enumerate(frames):
            while frames[first][0] <= seconds - window_seconds:
                first += 1
            most = max(most, totals[last + 1] - totals[first])
        return most


async def taken(method: str, request: Message) -> Message:
    return Message(b"")


async def capped_links(
    world: World, network: MemoryNetwork, caps: Caps, count: int
) -> tuple[list[Link], list[Watcher]]:
    """Links from the machine `home` with `caps` to `count` others."""
    network.caps["home"] = caps
    home, near = network.transport("home"), Watcher("home", taken)
    world._open.append(home)
    links, others = [], [Watcher(f"far-{number}") for number in range(count)]
    for other in others:
        listener = network.transport(other.name)
        world._open.append(listener)
        address = await listener.listen("x:0", other)
        links.append(await home.dial(address, near.hello(), near, 5.0))
    return links, others


async def exchange(links: list[Link], seconds: float, body_bytes: int = 4 * MIB) -> int:
    """Calls that carry bodies on all links for so long; how many bytes of bodies went over whole."""
    done = 0

    async def keep_calling(link: Link) -> None:
        nonlocal done
        while True:
            await link.call("echo", Message(b"", bytes(body_bytes)), silence_seconds=60.0)
            done += body_bytes

    tasks = [asyncio.create_task(keep_calling(link)) for link in links]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return done


@settings(deadline=None)
@given(
    st.floats(1.25e5, 1e8),
    st.lists(
        st.tuples(st.floats(0, 0.5), st.booleans(), st.integers(28, 4000)),
        min_size=1,
        max_size=60,
    ),
)
def test_no_window_has_more_than_the_rate_and_its_slack(
    bytes_per_second: float, frames: list[tuple[float, bool, int]]
) -> None:
    cap, now, left = UploadCap(bytes_per_second), 0.0, []
    for pause_seconds, is_bulk, frame_bytes in frames:
        now += pause_seconds
        now += cap.wait_seconds(now, is_bulk)
        assert cap.wait_seconds(now, is_bulk) < 1e-9
        cap.take(frame_bytes, now)
        left.append((now, line_bytes(frame_bytes)))
    for begin, (first_seconds, _) in enumerate(left):
        total = 0.0
        for seconds, size in left[begin:]:
            total += size
            window_seconds = seconds - first_seconds + BURST_SECONDS + CONTROL_SECONDS
            assert total <= bytes_per_second * window_seconds * (1 + 1e-9) + size + 1e-6


@pytest.mark.parametrize("megabits", [1, 10, 200])
def test_uploads_over_many_links_stay_under_the_cap_and_use_it(megabits: int) -> None:
    bytes_per_second = megabits * 125_000.0

    async def test(world: World) -> None:
        network, counter = MemoryNetwork(0.02, 1.25e8, LinkLimits()), Counter()
        network.tap = lambda sender, _: counter if sender == "home" else Counter()
        caps = Caps(upload=UploadCap(bytes_per_second))
        links, _ = await capped_links(world, network, caps, 4)
        await exchange(links, 30.0)
        shares = [link.stats.bytes_sent / counter.busiest_bytes(1000.0) for link in links]
        assert min(shares) > 0.15, "links share the cap"
        assert counter.busiest_bytes() <= TOLERANCE * bytes_per_second * WINDOW_SECONDS
        assert counter.busiest_bytes(1000.0) >= 0.9 * bytes_per_second * 30.0
        assert all(link.stats.bytes_per_second <= bytes_per_second for link in links)

    run_in("memory", test)


def test_without_the_cap_the_same_links_send_far_more() -> None:
    async def test(world: World) -> None:
        network, counter = MemoryNetwork(0.02, 1.25e8, LinkLimits()), Counter()
        network.tap = lambda sender, _: counter if sender == "home" else Counter()
        links, _ = await capped_links(world, network, Caps(), 4)
        await exchange(links, 1.0)
        assert counter.busiest_bytes() > 10 * 1.25e6

    run_in("memory", test)


def test_control_passes_what_the_cap_holds_back() -> None:
    async def test(world: World) -> None:
        network = MemoryNetwork(0.02, 1.25e8, LinkLimits())
        caps = Caps(upload=UploadCap(1.25e6))
        links, others = await capped_links(world, network, caps, 4)
        calling = asyncio.create_task(exchange(links, 10.0))
        await asyncio.sleep(5.0)
        loop = asyncio.get_running_loop()
        begin_seconds = loop.time()
        links[0].tell("note", b"x" * 100)
        await others[0].until(lambda: bool(others[0].tells))
        assert loop.time() - begin_seconds < 0.02 + CONTROL_SECONDS
        await calling
        assert not any(other.closed_reasons for other in others), "heartbeats went through"

    run_in("memory", test)


@pytest.mark.parametrize("megabits", [10, 100])
def test_downloads_settle_at_the_cap_and_senders_measure_it(megabits: int) -> None:
    bytes_per_second = megabits * 125_000.0

    async def test(world: World) -> None:
        network, counter = MemoryNetwork(0.02, 1.25e8, LinkLimits()), Counter()
        network.tap = lambda _, receiver: counter if receiver == "home" else Counter()
        caps = Caps(download=DownloadCap(bytes_per_second))
        _, others = await capped_links(world, network, caps, 3)
        inward = [other.links[0] for other in others]
        await asyncio.sleep(3.0)
        alone = await exchange(inward[:1], 10.0, int(bytes_per_second / 3))
        assert alone >= 0.8 * bytes_per_second * 10.0
        measured = inward[0].stats.bytes_per_second
        assert 0.8 * bytes_per_second <= measured <= 1.2 * bytes_per_second
        counter.sent_frames.clear()
        await exchange(inward, 30.0)
        assert counter.busiest_bytes() <= 1.1 * bytes_per_second * WINDOW_SECONDS
        assert counter.busiest_bytes(1000.0) >= 0.8 * bytes_per_second * 30.0

    run_in("memory", test)


def test_a_cap_too_small_to_take_part_is_refused() -> None:
    with pytest.raises(ConfigError, match="too little to take part"):
        UploadCap(100_000.0)
    with pytest.raises(ConfigError, match="--download-limit"):
        DownloadCap(1.0)
