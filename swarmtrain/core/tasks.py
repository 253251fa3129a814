"""Background tasks that are never lost: kept alive, reported when they fail, ended together."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

logger = logging.getLogger(__name__)


def _log_failure(error: BaseException) -> None:
    logger.error("a background task failed", exc_info=error)


class Tasks:
    """Tasks in the order they were started; a dict, because the order of a set follows addresses (I6).

    `failed` hears of every failure once; without it, failures are logged.
    """

    def __init__(self, failed: Callable[[BaseException], None] = _log_failure) -> None:
        self._failed = failed
        self._running: dict[asyncio.Task[Any], None] = {}

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running[task] = None
        task.add_done_callback(self._ended)
        return task

    async def cancel_all(self) -> None:
        """Cancel what still runs and wait until it ended."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def finished(self) -> None:
        """Wait until all have ended by themselves, with what they start meanwhile."""
        while self._running:
            await asyncio.wait(list(self._running))

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)
