"""Progress of a run: a live line on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

PLAIN_SECONDS = 5.0
COUNT_SECONDS = 2.0


class Count:
    """Tells on stderr how far long work is: a line every few seconds, none of what is over sooner."""

    def __init__(self, unit: str, in_words: Callable[[int], str] = str) -> None:
        self._unit, self._in_words = unit, in_words
        self._started_seconds = self._shown_seconds = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """`done` (above 0) of `total` is done."""
        now = time.monotonic()
        if now - self._shown_seconds < COUNT_SECONDS:
            return
        self._shown_seconds = now
        left_seconds = (now - self._started_seconds) * (total / done - 1)
        text = f"{self._in_words(done)} of {self._in_words(total)} {self._unit}".rstrip()
        print(f"  {text}, ETA {left_seconds:.0f} s", file=sys.stderr)


class Progress:
    """Shows steps as they commit. Use as a context; `step(...)` after each, `note(text)` for events."""

    def __init__(self, steps: int) -> None:
        self._steps, self._step = steps, 0
        self._console = Console(stderr=True)
        self._live = (
            Live(console=self._console, auto_refresh=False) if sys.stderr.isatty() else None
        )
        self._started_seconds = self._printed_seconds = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._figures: dict[str, Any] = {}

    def __enter__(self) -> "Progress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        """One line above the progress."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def step(self, done: int, loss: float, tokens_per_second: float, peers: str = "") -> None:
        """`done` steps are committed; `peers` says who holds which stages."""
        now = time.monotonic()
        self._first = self._first or (now, done)
        self._step = done
        self._figures = {"loss": loss, "rate": tokens_per_second, "peers": peers}
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        elif now - self._printed_seconds >= PLAIN_SECONDS or done in (1, self._steps):
            self._printed_seconds = now
            self.note(self._line())

    def _eta_seconds(self) -> float:
        """From the pace since the first step that was seen: before it was start-up, and perhaps an earlier process."""
        if self._first is None or self._step <= self._first[1]:
            return float("nan")
        since_seconds, first = self._first
        pace = (time.monotonic() - since_seconds) / (self._step - first)
        return pace * (self._steps - self._step)

    def _line(self) -> str:
        eta = self._eta_seconds()
        text = f"step {self._step}/{self._steps}  loss {self._figures['loss']:.4f} nats/token"
        text += f"  {self._figures['rate']:,.0f} tokens/s"
        return text + (f"  ETA {eta:.0f} s" if eta == eta else "")

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        share = self._step / self._steps
        bar = "#" * round(30 * share)
        # Text, because a table row would read brackets as markup.
        table.add_row(Text(f"[{bar:<30}]"), Text(self._line()))
        if self._figures["peers"]:
            table.add_row("", Text(self._figures["peers"]))
        return table
