"""A pool of processes that Ctrl+C, or SIGINT to the one that holds the pool alone, ends at once.

A pool waits at its end for what is under way, which may be hours. Workers never see SIGINT themselves, so that none
shows a traceback: who holds the pool ends them, at whatever they are. When it dies without a chance to, they end too.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor


@contextlib.contextmanager
def ending_pool(
    processes: int, prepare: Callable[[], None] | None = None, tasks: int | None = None
) -> Iterator[ProcessPoolExecutor]:
    """`processes` spawned workers, each for so many `tasks` (None: any number); ended at once when the block raises.

    `prepare` is called in each first.
    """
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        processes,
        mp_context=context,
        initializer=_begin,
        initargs=(prepare,),
        max_tasks_per_child=tasks,
    ) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise


@contextlib.contextmanager
def hidden_from_interrupts() -> Iterator[None]:
    """Processes started within never get SIGINT, from their first moment on; work is handed to a pool in here.

    A handler set by the worker itself would come too late: it imports for seconds before. A mask is handed down, also
    to the pool's own thread, which starts later workers.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(prepare: Callable[[], None] | None) -> None:
    """The first that a worker does."""
    threading.Thread(target=_end_with_parent, name="parent's end", daemon=True).start()
    if prepare is not None:
        prepare()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
