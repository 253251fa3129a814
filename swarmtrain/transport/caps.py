"""What a volunteer lets all links of a peer carry together: rates for what is sent and what is taken in.

Sent frames come out of one bucket (the virtual scheduling form of a leaky bucket): while less than BURST_SECONDS of
the rate are owed, bulk may leave, and control while less than CONTROL_SECONDS are, so that heartbeats and the step
protocol hardly wait. In any W seconds at most `rate * (W + BURST + CONTROL)` and one chunk leave.

What comes in cannot be refused, only left unacknowledged: an acknowledgement goes out when a line of that rate would
have brought the chunk. The sender's pacer then keeps no more under way than such a line holds, and what peers measure
of the way to this one is that rate, so that work is dealt accordingly. Control is counted, and never waits.
"""

from dataclasses import dataclass

from swarmtrain.core.errors import ConfigError
from swarmtrain.core.units import format_bytes_per_second

BURST_SECONDS = 0.1
CONTROL_SECONDS = 0.2
CHUNK_SECONDS = 0.05
MIN_CHUNK_BYTES = 2 << 10

LEAST_BYTES_PER_SECOND = 1e6 / 8
"""Below that the step protocol alone, with events for the coordinator, could be more than the cap."""

HEADER_SHARE = 52 / 1448
"""Bytes of TCP and IP headers, with timestamps, for each byte of a full Ethernet segment."""

FRAME_BYTES = 14
"""What HTTP/2 and gRPC put before each frame of ours."""


def line_bytes(frame_bytes: int) -> float:
    """What a frame takes of a line, headers of the layers below included."""
    return (frame_bytes + FRAME_BYTES) * (1 + HEADER_SHARE)


class UploadCap:
    """The bucket of what is sent. Times are the loop's, passed in; raises ConfigError for too small a rate."""

    def __init__(self, bytes_per_second: float) -> None:
        self.bytes_per_second = _checked("--upload-limit", bytes_per_second)
        wanted = max(int(bytes_per_second * CHUNK_SECONDS), MIN_CHUNK_BYTES)
        self.chunk_bytes = 1 << (wanted.bit_length() - 1)
        self._paid_seconds = 0.0

    def wait_seconds(self, now_seconds: float, is_bulk: bool) -> float:
        """How long a frame has to wait from now on; 0 when it may leave."""
        owed_seconds = self._paid_seconds - now_seconds
        return max(0.0, owed_seconds - (0.0 if is_bulk else CONTROL_SECONDS))

    def take(self, frame_bytes: int, now_seconds: float) -> None:
        """A frame leaves now."""
        begin_seconds = max(self._paid_seconds, now_seconds - BURST_SECONDS)
        self._paid_seconds = begin_seconds + line_bytes(frame_bytes) / self.bytes_per_second


class DownloadCap:
    """A line of that rate, as seen by those who send to this peer; raises ConfigError for too small a rate."""

    def __init__(self, bytes_per_second: float) -> None:
        self.bytes_per_second = _checked("--download-limit", bytes_per_second)
        self._free_seconds = 0.0

    def arrived(self, frame_bytes: int, now_seconds: float) -> float:
        """When a line of this rate would have brought the frame that came now."""
        begin_seconds = max(self._free_seconds, now_seconds)
        self._free_seconds = begin_seconds + line_bytes(frame_bytes) / self.bytes_per_second
        return self._free_seconds


@dataclass(frozen=True, slots=True)
class Caps:
    """The caps of one peer, shared by all its links; None is no cap."""

    upload: UploadCap | None = None
    download: DownloadCap | None = None


NO_CAPS = Caps()


def _checked(option: str, bytes_per_second: float) -> float:
    if bytes_per_second >= LEAST_BYTES_PER_SECOND:
        return bytes_per_second
    raise ConfigError(
        f"{option} {format_bytes_per_second(bytes_per_second)} is too little to take part",
        f"agreeing on steps alone may take most of {format_bytes_per_second(LEAST_BYTES_PER_SECOND)}",
        f"allow {format_bytes_per_second(LEAST_BYTES_PER_SECOND)} or more, or limit --hours or --daily-transfer",
    )
