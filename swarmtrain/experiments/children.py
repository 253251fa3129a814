"""Peer processes on this machine: started with a lifeline, stopped by pid, never left behind."""

import asyncio
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TERMINATE_SECONDS = 10.0


@dataclass(slots=True)
class Child:
    """One peer process. Its standard input is a pipe from here: when this process dies, the pipe closes and the
    peer ends by itself."""

    name: str
    process: asyncio.subprocess.Process
    log_path: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        return self.process.returncode

    def last_lines(self, count: int = 6) -> str:
        """The end of the peer's log, for an error message."""
        try:
            lines = self.log_path.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-count:])


async def start_child(name: str, arguments: Sequence[str], log_path: Path) -> Child:
    """Start `swarmtrain ARGUMENTS` in a session of its own, so that a terminal's Ctrl+C reaches only us."""
    with open(log_path, "ab") as log:  # noqa: ASYNC230 (one small file; a restart continues it)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "swarmtrain",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return Child(name, process, log_path)


async def wait_all(children: Sequence[Child], seconds: float) -> list[Child]:
    """Wait for the children to end by themselves; returns those that did not."""
    try:
        async with asyncio.timeout(seconds):
            for child in children:
                await child.process.wait()
    except TimeoutError:
        pass
    return [child for child in children if child.exit_code is None]


async def stop_all(children: Sequence[Child]) -> None:
    """Ask those still running to stop, then kill by pid what does not. One that is held by SIGSTOP is let go first."""
    for stop_signal in (signal.SIGTERM, signal.SIGKILL):
        running = [child for child in children if child.exit_code is None]
        for child in running:
            child.process.send_signal(signal.SIGCONT)
            child.process.send_signal(stop_signal)
        if not await wait_all(running, TERMINATE_SECONDS):
            return
