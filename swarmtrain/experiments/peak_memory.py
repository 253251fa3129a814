"""The most memory that a process took, as the system counted it."""

import contextlib
import resource
from pathlib import Path


def restart_peak() -> None:
    """Let the peak of this process count from now on. Where the system cannot (not Linux) it counts from its start."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(pid: int | None = None) -> int:
    """Of process `pid`, or this one; 0 of another one that has ended, or whose system does not say."""
    try:
        lines = Path(f"/proc/{pid or 'self'}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0 if pid else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(next(found, "0")) * 1024
