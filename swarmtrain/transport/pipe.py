"""The lowest layer of a link: ordered frames of bytes both ways, with back-pressure and nothing else."""

from typing import Protocol


class Pipe(Protocol):
    """One side of a connection. One task sends and one receives at a time."""

    @property
    def observed_host(self) -> str:
        """The IP address from which the other side dialled, as this machine sees it; empty where this side dialled,
        or where the line does not say."""
        ...

    async def send(self, frame: bytes) -> None:
        """Hand over one frame; returns when the line has room for more. Raises LinkClosed."""
        ...

    async def receive(self) -> bytes:
        """The next frame. Raises LinkClosed when there will be none."""
        ...

    async def close(self, reason: str) -> None:
        """End both directions; frames already sent still reach the other side if the line works.

        The other side's `receive` raises LinkClosed; so does this side's, once it has no more frames. May wait
        for the other side: callers bound it and may cancel it.
        """
        ...
