"""What a line carries a second and how long its empty round trip takes: what peers publish of their links.

A chunk that meets an idle line is acknowledged one empty round trip and its own transmission after it left; one that
waits behind another, its own transmission after that one. So the line was busy with it

    from  max(acknowledgement before it, its leaving + empty round trip)  to  its acknowledgement,

and bytes over busy seconds are the line's rate, whether little or much is sent at a time. The pacer's own estimate
holds the round trip as well, which is right for a window and far too low for what a few kilobytes take.
"""

import math

ROUND_TRIPS = 60
"""The empty round trip is the shortest of so many pings: others waited behind bulk, or for a busy process."""

LEAST_ROUND_TRIPS = 2
"""The first ping meets what its link was opened for, so nothing is rated before the second came back."""

KEPT_PER_MESSAGE = 7 / 8
MEMORY_SECONDS = 300.0
"""With each message, what was measured before it is multiplied by this; after so long without any, by 1/e."""

SHORTEST_SECONDS = 1e-6
"""A modelled line may be infinitely fast; its measured rate stays a number."""


class LineRate:
    """Measures one direction of a link. Times are the loop's, passed in; 0 stands for what is not known yet."""

    def __init__(self) -> None:
        self.messages = 0
        self.rated_seconds = self.round_trip_seconds = 0.0
        self._round_trips: list[float] = []
        self._bytes = self._busy_seconds = self._message_seconds = 0.0

    @property
    def bytes_per_second(self) -> float:
        return self._bytes / self._busy_seconds if self._busy_seconds else 0.0

    @property
    def _is_ready(self) -> bool:
        return len(self._round_trips) >= LEAST_ROUND_TRIPS

    def pinged(self, round_trip_seconds: float) -> None:
        self._round_trips.append(round_trip_seconds)
        del self._round_trips[:-ROUND_TRIPS]
        self.round_trip_seconds = min(self._round_trips)

    def acknowledged(
        self, acked_bytes: int, left_seconds: float, before_seconds: float, now_seconds: float
    ) -> None:
        """So many bytes more arrived. The first of them left at `left_seconds`; at `before_seconds` the line had
        brought all that went before them, or they met it idle."""
        if not self._is_ready:
            return
        begin_seconds = max(before_seconds, left_seconds + self.round_trip_seconds)
        self._bytes += acked_bytes
        self._busy_seconds += max(now_seconds - begin_seconds, SHORTEST_SECONDS)
        self.rated_seconds = now_seconds

    def message_left(self, now_seconds: float) -> None:
        """The last chunk of a bulk message left: the messages before it count less from here on."""
        if not self._is_ready:
            return
        pause_seconds = now_seconds - self._message_seconds
        kept = KEPT_PER_MESSAGE * math.exp(-pause_seconds / MEMORY_SECONDS)
        self._bytes, self._busy_seconds = kept * self._bytes, kept * self._busy_seconds
        self._message_seconds = now_seconds
        self.messages += 1
