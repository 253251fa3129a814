"""Putting incoming bodies together: straight into aligned memory, within a bound for the whole link (I5, I8)."""

import numpy as np

from swarmtrain.core.errors import WireError
from swarmtrain.transport.frames import Frame
from swarmtrain.transport.link import BODY_ALIGNMENT_BYTES, LinkLimits, Message


def aligned_memory(size_bytes: int) -> memoryview:
    """Fresh writable memory whose first byte lies on a multiple of BODY_ALIGNMENT_BYTES."""
    block = np.empty(size_bytes + BODY_ALIGNMENT_BYTES, np.uint8)
    offset = -block.ctypes.data % BODY_ALIGNMENT_BYTES
    return block[offset : offset + size_bytes].data


class Assembly:
    """One incoming message that may not be whole yet. Without memory it only counts what it drops."""

    __slots__ = ("_memory", "_meta", "body_bytes", "filled_bytes")

    def __init__(self, first: Frame, memory: memoryview | None) -> None:
        self.body_bytes = first.body_bytes
        self._meta = first.meta if memory is not None else b""
        self._memory = memory
        self.filled_bytes = 0
        self.add(first)

    @property
    def whole(self) -> bool:
        return self.filled_bytes == self.body_bytes

    @property
    def held_bytes(self) -> int:
        return 0 if self._memory is None else self.body_bytes + len(self._meta)

    def drop(self) -> None:
        """Let go of what arrived; what still arrives is only counted."""
        self._memory, self._meta = None, b""

    def add(self, frame: Frame) -> None:
        """Take the next part. Raises WireError when it goes beyond the declared body."""
        end_bytes = self.filled_bytes + len(frame.payload)
        if end_bytes > self.body_bytes:
            raise WireError(
                "malformed message",
                f"{end_bytes} bytes arrived of a body declared as {self.body_bytes}",
            )
        if self._memory is not None:
            self._memory[self.filled_bytes : end_bytes] = frame.payload
        self.filled_bytes = end_bytes

    def message(self) -> Message:
        assert self._memory is not None
        return Message(self._meta, self._memory)


class Assembler:
    """Begins and ends a link's assemblies and holds their bytes under `reassembly_bytes`."""

    def __init__(self, limits: LinkLimits) -> None:
        self._limits = limits
        self.held_bytes = 0

    def has_room(self, first: Frame) -> bool:
        wanted_bytes = first.body_bytes + len(first.meta)
        return self.held_bytes + wanted_bytes <= self._limits.reassembly_bytes

    def begin(self, first: Frame) -> Assembly:
        """Take memory for the message that `first` declares; call only when there is room."""
        assembly = Assembly(first, aligned_memory(first.body_bytes))
        self.held_bytes += assembly.held_bytes
        return assembly

    def end(self, assembly: Assembly) -> None:
        """The assembly is whole or given up: its bytes no longer count here."""
        self.held_bytes -= assembly.held_bytes
