"""What a machine's facts mean for a volunteer: pure judgements, each with what to do (`swarmtrain doctor`).

peer.examining gathers the facts. `fail` means that joining would not work; `warn` that it works less well than it
could, or that something could not be found out.
"""

import ipaddress
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from swarmtrain.compute.place import Devices, Place
from swarmtrain.core.errors import SwarmError
from swarmtrain.core.events import Measured
from swarmtrain.core.units import format_bytes

State = Literal["ok", "warn", "fail"]

PYTHONS = ((3, 11), (3, 13))
TESTED_VERSIONS = {
    "torch": "2.13.0",
    "grpcio": "1.85.1",
    "protobuf": "7.36.2",
    "hivemind": "1.1.12",
}
"""As in constraints.txt; a test compares them."""

CLOCK_FAIL_SECONDS = 3.0
"""hivemind's DHT refuses a node whose clock is further off (`MAX_DHT_TIME_DISCREPANCY_SECONDS`)."""
CLOCK_WARN_SECONDS = 1.0
FAR_SLOWER = 10.0
"""A machine so much slower than others lengthened a step by a third even with less work (README, stragglers)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was found, and for anything but `ok` what to do. `exit_code` is that of a failure.

    `seen_at` is host:port where the run was seen to reach for this machine, where that was found out.
    """

    check: str
    state: State
    found: str
    remedy: str = ""
    exit_code: int = 1
    seen_at: str = ""


def exit_code(findings: Sequence[Finding]) -> int:
    """0 when nothing failed (warnings are advice), else the code of the first failure (core.errors)."""
    return next((found.exit_code for found in findings if found.state == "fail"), 0)


def failed(check: str, error: SwarmError) -> Finding:
    """An error that already says what, why and what to do."""
    what = f"{error.what}: {error.why}" if error.why else error.what
    return Finding(check, "fail", what, error.remedy, error.exit_code)


def judge_versions(
    python: tuple[int, int], installed: Mapping[str, str | None]
) -> tuple[Finding, ...]:
    """Against what the project is tested with. A build such as 2.13.0+cpu counts as 2.13.0."""
    oldest, newest = PYTHONS
    shown = ".".join(map(str, python))
    if oldest <= python <= newest:
        findings = [Finding("python", "ok", shown)]
    else:
        remedy = "install Python 3.11, 3.12 or 3.13 and swarmtrain in it"
        findings = [Finding("python", "fail", f"{shown}; 3.11 to 3.13 are supported", remedy)]
    return (*findings, *(_version(name, installed.get(name)) for name in TESTED_VERSIONS))


def _version(name: str, version: str | None) -> Finding:
    tested = TESTED_VERSIONS[name]
    remedy = f"pip install {name}=={tested}"
    if version is None:
        return Finding(name, "fail", "not installed", remedy)
    if version.partition("+")[0] == tested:
        return Finding(name, "ok", version)
    if name == "hivemind":
        return Finding(name, "fail", f"{version}; the directory works with {tested} only", remedy)
    return Finding(
        name, "warn", f"{version}; tested with {tested}, another may give other bits", remedy
    )


def judge_threads(threads: int, cores: int) -> Finding:
    found = f"{threads} for torch (limits.threads), {cores} cores here"
    if threads <= cores:
        return Finding("threads", "ok", found)
    remedy = f"set limits.threads to {cores} or less; more threads than cores take turns"
    return Finding("threads", "warn", found, remedy)


def judge_device(seen: Devices, place: Place, why: str) -> Finding:
    """The device `--device` comes to, and what else there is."""
    there = []
    if seen.cuda:
        bf16 = "with" if seen.cuda_bf16 else "without"
        there.append(f"CUDA: {seen.cuda}, {bf16} bf16, {format_bytes(seen.free_bytes)} free")
    if seen.mps:
        there.append("MPS")
    return Finding("device", "ok", "; ".join([f"{place.name}: {why}", *there]))


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """What may be used, and how much of the run's model fits into it; `least_bytes` is what one stage takes."""

    usable_bytes: int
    capacity_stages: int
    stages: int
    least_bytes: int


def judge_memory(facts: MemoryFacts) -> Finding:
    usable = f"{format_bytes(facts.usable_bytes)} may be used"
    if facts.capacity_stages == 0:
        return Finding(
            "memory",
            "fail",
            f"{usable}, one stage takes {format_bytes(facts.least_bytes)}",
            "close other programs, allow more with --max-memory, or help a run with a smaller model",
        )
    return Finding(
        "memory", "ok", f"{usable}: {facts.capacity_stages} of {facts.stages} stages fit"
    )


def judge_speed(measured: Measured, tokens: int, others: Sequence[float]) -> Finding:
    """Of one stage: `tokens` a microbatch; `others` are the seconds that the run's peers published for theirs."""
    seconds = measured.forward_seconds + measured.backward_seconds
    found = f"{tokens / seconds:,.0f} tokens/s through one stage ({seconds:.3g} s a microbatch)"
    if not others:
        return Finding("speed", "ok", found)
    middle = statistics.median(others)
    found += f"; the run's peers take {middle:.3g} s"
    if seconds <= FAR_SLOWER * middle:
        return Finding("speed", "ok", found)
    remedy = "close other programs; else join all the same, work is dealt in proportion to speed"
    return Finding("speed", "warn", found, remedy)


def judge_disk(what: str, path: str, free_bytes: int, needed_bytes: int) -> Finding:
    """`needed_bytes` is what the folder may come to hold."""
    found = f"{format_bytes(free_bytes)} free for the {what} in {path}"
    if free_bytes >= needed_bytes:
        return Finding("disk", "ok", found)
    remedy = f"it may take {format_bytes(needed_bytes)}: free some, or use another folder"
    return Finding("disk", "warn" if free_bytes > needed_bytes // 2 else "fail", found, remedy)


def judge_clock(ahead_seconds: float, doubt_seconds: float) -> Finding:
    """This machine's clock against the answering one's; the answer was under way for twice `doubt_seconds`."""
    direction = "ahead of" if ahead_seconds > 0 else "behind"
    off = abs(ahead_seconds)
    found = f"{off:.2f} s {direction} the other's, within {doubt_seconds:.2f} s"
    remedy = "let the system set its clock (timedatectl set-ntp true); if this one is right, tell the run's owner"
    if off - doubt_seconds > CLOCK_FAIL_SECONDS:
        return Finding("clock", "fail", f"{found}; the directory refuses more than 3 s", remedy, 3)
    if off > CLOCK_WARN_SECONDS:
        return Finding("clock", "warn", found, remedy)
    return Finding("clock", "ok", found)


@dataclass(frozen=True, slots=True)
class ReachFacts:
    """`announced`: where others would dial; `dialled`: where the one that was asked dialled back, and its `problem`."""

    announced: str
    dialled: str
    problem: str


def judge_reach(facts: ReachFacts) -> Finding:
    """Whether others can dial this machine. It works without: this side then dials all others itself."""
    host, _, port = facts.announced.rpartition(":")
    seen_host = facts.dialled.rpartition(":")[0]
    advice = f"--listen 0.0.0.0:{port} --announce {seen_host}:{port}"
    if facts.problem:
        return Finding(
            "reachability",
            "warn",
            f"not reached at {facts.dialled}: {facts.problem}",
            f"to be dialled, forward TCP port {port} to this machine in router and firewall and join with {advice}; "
            "without, this machine dials the others, and two that nobody can dial cannot exchange work",
            seen_at=facts.dialled,
        )
    if not _is_dialled_as(host, seen_host):
        return Finding(
            "reachability",
            "warn",
            f"reached at {facts.dialled}, but others would be told {facts.announced}",
            f"join with {advice}",
            seen_at=facts.dialled,
        )
    found = f"dialled back at {facts.dialled}"
    return Finding("reachability", "ok", found, seen_at=facts.dialled)


def _is_dialled_as(host: str, seen_host: str) -> bool:
    """A name is taken for right; an address must be the one that was seen."""
    try:
        return ipaddress.ip_address(host.strip("[]")) == ipaddress.ip_address(seen_host.strip("[]"))
    except ValueError:
        return host != "localhost" or ipaddress.ip_address(seen_host.strip("[]")).is_loopback
