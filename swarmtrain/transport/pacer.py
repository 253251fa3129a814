"""How much bulk a link keeps under way, from acknowledgements: enough to fill the line, little to wait behind.

gRPC buffers up to 9 MiB below our priorities, which at 20 Mbit/s is 4 s of waiting for every control frame. So
the link holds back: two round trips' worth of the measured rate, plus a slack for a busy receiver (the idea of
BBR, Cardwell et al. 2016: rate is the largest lately delivered, round trip the smallest ever seen).
"""

from typing import NamedTuple

from swarmtrain.core.errors import WireError
from swarmtrain.transport.line_rate import SHORTEST_SECONDS, LineRate
from swarmtrain.transport.link import LinkLimits

MIN_CHUNK_BYTES = 16 << 10
FIRST_CHUNKS = 4
"""What may be under way before anything is known of the line."""
CHUNK_SECONDS = 0.02
SLACK_SECONDS = 0.02
RATE_DECAY = 0.05


class _Sent(NamedTuple):
    """State when a bulk frame left: the sample that its acknowledgement will close."""

    total_bytes: int
    at_seconds: float
    acked_bytes: int
    acked_at_seconds: float


class Pacer:
    """Bulk accounting of one direction of a link. Times are the loop's, passed in."""

    def __init__(self, limits: LinkLimits) -> None:
        self._limits = limits
        self._under_way: list[_Sent] = []
        self._round_trip_seconds = float("inf")
        self._window_was_full = False
        self.sent_bytes = 0
        self.acked_bytes = 0
        self.acked_at_seconds = 0.0
        self.bytes_per_second = 0.0
        self.chunk_bytes = min(MIN_CHUNK_BYTES, limits.chunk_bytes)
        self.line = LineRate()

    @property
    def window_bytes(self) -> int:
        if not self.bytes_per_second:
            return min(FIRST_CHUNKS * self.chunk_bytes, self._limits.window_bytes)
        horizon_seconds = 2 * self._round_trip_seconds + SLACK_SECONDS
        wanted = int(self.bytes_per_second * horizon_seconds)
        return min(max(wanted, 2 * self.chunk_bytes), self._limits.window_bytes)

    def may_send(self) -> bool:
        """Whether another chunk may go now; one always may when nothing is under way."""
        under_way = self.sent_bytes - self.acked_bytes
        fits = not under_way or under_way + self.chunk_bytes <= self.window_bytes
        self._window_was_full |= not fits
        return fits

    def sent(self, frame_bytes: int, now_seconds: float) -> None:
        if self.sent_bytes == self.acked_bytes:
            self.acked_at_seconds = now_seconds
        self.sent_bytes += frame_bytes
        entry = _Sent(self.sent_bytes, now_seconds, self.acked_bytes, self.acked_at_seconds)
        self._under_way.append(entry)

    def acknowledged(self, total_bytes: int, now_seconds: float) -> None:
        """The remote has taken `total_bytes` of bulk in all. Raises WireError for an impossible total."""
        if not self.acked_bytes <= total_bytes <= self.sent_bytes:
            raise WireError(
                "malformed acknowledgement",
                f"{total_bytes} bytes, of {self.sent_bytes} sent and {self.acked_bytes} acknowledged",
            )
        before_bytes, before_seconds = self.acked_bytes, self.acked_at_seconds
        self.acked_bytes, self.acked_at_seconds = total_bytes, now_seconds
        oldest: _Sent | None = self._under_way[0] if self._under_way else None
        newest: _Sent | None = None
        while self._under_way and self._under_way[0].total_bytes <= total_bytes:
            newest = self._under_way.pop(0)
        if newest is not None and oldest is not None:
            self._sample(newest, now_seconds)
            acked_bytes = total_bytes - before_bytes
            self.line.acknowledged(acked_bytes, oldest.at_seconds, before_seconds, now_seconds)

    def _sample(self, sent: _Sent, now_seconds: float) -> None:
        self._round_trip_seconds = min(self._round_trip_seconds, now_seconds - sent.at_seconds)
        elapsed_seconds = max(now_seconds - sent.acked_at_seconds, SHORTEST_SECONDS)
        rate = (self.acked_bytes - sent.acked_bytes) / elapsed_seconds
        if rate > self.bytes_per_second:
            self.bytes_per_second = rate
        elif self._window_was_full:
            # A sender that had nothing more to send says nothing about the line, so only full use slows it.
            self.bytes_per_second += RATE_DECAY * (rate - self.bytes_per_second)
        self._window_was_full = False
        wanted = int(self.bytes_per_second * CHUNK_SECONDS)
        power = 1 << max(wanted.bit_length() - 1, 0)
        self.chunk_bytes = min(max(power, MIN_CHUNK_BYTES), self._limits.chunk_bytes)
