"""The pacer keeps a line full and its queue short, whatever the line's rate and delay."""

import pytest

from swarmtrain.core.errors import WireError
from swarmtrain.transport.link import LinkLimits
from swarmtrain.transport.pacer import MIN_CHUNK_BYTES, Pacer

MIB = 1 << 20


def drive(
    bytes_per_second: float, latency_seconds: float, seconds: float
) -> tuple[Pacer, float, float]:
    """Always-full sending over a modelled line: pacer, share of the line used, worst queue in seconds."""
    pacer, now, free_at, worst = Pacer(LinkLimits()), 0.0, 0.0, 0.0
    arrivals: list[tuple[float, int]] = []
    sent_before = 0
    while now < seconds:
        while pacer.may_send():
            pacer.sent(pacer.chunk_bytes, now)
            free_at = max(free_at, now) + pacer.chunk_bytes / bytes_per_second
            arrivals.append((free_at + 2 * latency_seconds, pacer.sent_bytes))
        if now > seconds / 2:
            worst = max(worst, free_at - now)
        else:
            sent_before = pacer.acked_bytes
        now, total_bytes = arrivals.pop(0)
        pacer.acknowledged(total_bytes, now)
    used = (pacer.acked_bytes - sent_before) / (seconds / 2) / bytes_per_second
    return pacer, used, worst


@pytest.mark.parametrize("megabits", [1, 20, 100, 1000])
@pytest.mark.parametrize("latency_seconds", [0.0005, 0.02, 0.1])
def test_the_line_is_full_and_its_queue_short(megabits: int, latency_seconds: float) -> None:
    bytes_per_second = megabits * 125_000
    pacer, used, worst_seconds = drive(bytes_per_second, latency_seconds, 20.0)
    in_flight_bytes = bytes_per_second * 2 * latency_seconds
    if in_flight_bytes < LinkLimits().window_bytes:
        assert used > 0.9
        assert pacer.bytes_per_second == pytest.approx(bytes_per_second, rel=0.2)
    chunk_seconds = MIN_CHUNK_BYTES / bytes_per_second
    assert worst_seconds < 2 * latency_seconds + 0.06 + 4 * chunk_seconds


def test_the_estimate_follows_a_line_that_slows_down() -> None:
    pacer, now = Pacer(LinkLimits()), 0.0
    for bytes_per_second in (100 * MIB, MIB):
        for _ in range(400):
            while pacer.may_send():
                pacer.sent(pacer.chunk_bytes, now)
            now += pacer.chunk_bytes / bytes_per_second
            total = min(pacer.acked_bytes + pacer.chunk_bytes, pacer.sent_bytes)
            pacer.acknowledged(total, now)
        assert pacer.bytes_per_second == pytest.approx(bytes_per_second, rel=0.3)


def test_a_little_traffic_does_not_lower_the_estimate() -> None:
    pacer, _, _ = drive(100 * 125_000, 0.01, 5.0)
    while pacer.acked_bytes < pacer.sent_bytes:
        pacer.acknowledged(pacer.sent_bytes, 100.0)
    known = pacer.bytes_per_second
    pacer.may_send()
    for second in range(200, 300):
        pacer.sent(5000, second)
        pacer.acknowledged(pacer.sent_bytes, second + 0.05)
    assert pacer.bytes_per_second > 0.9 * known


def test_the_window_is_never_more_than_the_limit() -> None:
    pacer, _, _ = drive(1e10, 0.02, 2.0)
    assert pacer.window_bytes == LinkLimits().window_bytes
    assert pacer.chunk_bytes == LinkLimits().chunk_bytes


@pytest.mark.parametrize("total_bytes", [-1, 99, 301])
def test_impossible_acknowledgements_are_refused(total_bytes: int) -> None:
    pacer = Pacer(LinkLimits())
    pacer.sent(300, 0.0)
    pacer.acknowledged(100, 1.0)
    with pytest.raises(WireError, match="acknowledgement"):
        pacer.acknowledged(total_bytes, 2.0)
