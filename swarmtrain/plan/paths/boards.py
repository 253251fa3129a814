"""Where a plan's chains lie while it is searched, ready to be executed again and again.

Two kinds with the same figures to the last bit: `PlainBoard` is there at once, `CompiledBoard` needs numba and pays
where thousands of plans are executed.
"""

from importlib.util import find_spec
from typing import Protocol

import numpy as np

from swarmtrain.plan.paths.execution import Chain, Executor
from swarmtrain.plan.paths.instance import Instance

MOST_CHAINS = 100_000
"""Chains that are kept for reuse; beyond that all are forgotten (I8)."""

FIRST_CHAINS = 1024
"""Rows to begin with; they double."""

ROUNDED_DIGITS = 9
"""Round trips that are rounded so are equal where they should be: sums stray."""

Measured = tuple[float, float, int]
"""Makespan and the sum of the microbatches' ends, in seconds, infinite where one never ends, and who ends last."""


class Board(Protocol):
    """Chains and releases by microbatch. `is_rounded`: equal priorities are told apart as if sums did not round."""

    def put(self, index: int, peers: tuple[int, ...], release_seconds: float) -> None: ...

    def measure(self, is_rounded: bool = False) -> Measured: ...


class PlainBoard:
    """Executes with `Executor`."""

    def __init__(self, instance: Instance) -> None:
        self._executor = Executor(instance)
        self._chains: list[Chain] = [()] * instance.microbatches
        self._releases = [0.0] * instance.microbatches
        self._known: dict[tuple[int, ...], Chain] = {}

    def put(self, index: int, peers: tuple[int, ...], release_seconds: float) -> None:
        chain = self._known.get(peers)
        if chain is None:
            if len(self._known) >= MOST_CHAINS:
                self._known.clear()
            chain = self._known[peers] = self._executor.chain(peers)
        self._chains[index], self._releases[index] = chain, release_seconds

    def measure(self, is_rounded: bool = False) -> Measured:
        chains = [_rounded(chain) for chain in self._chains] if is_rounded else self._chains
        ends = self._executor.run(chains, self._releases).ends
        total = 0.0
        for end in ends:  # in order: sum() rounds otherwise in some versions
            total += end
        last = max(range(len(ends)), key=ends.__getitem__)
        return ends[last], total, last


class CompiledBoard:
    """Keeps every known chain as a row of arrays, for each microbatch the row, and executes with `compiled.run`.

    C chains (most of them from plans that were tried), T tasks, M microbatches, P peers.
    """

    def __init__(self, instance: Instance) -> None:
        from swarmtrain.plan.paths import compiled

        self._run = compiled.run
        self._executor = Executor(instance)
        self._known: dict[tuple[int, ...], int] = {}
        self._peers: list[tuple[int, ...]] = [()] * instance.microbatches
        self._chain_M = np.zeros(instance.microbatches, np.int64)
        self._release_M = np.zeros(instance.microbatches)
        self._slots_P = np.array([peer.memory_slots for peer in instance.peers], np.int64)
        self._gap_seconds = instance.task_gap_seconds
        shape = max(FIRST_CHAINS, 2 * instance.microbatches), 2 * instance.stages + 1
        self._tasks_C, self._peer_CT = np.zeros(shape[0], np.int64), np.zeros(shape, np.int64)
        self._priority_CT, self._rounded_CT, self._seconds_CT, self._send_CT = (
            np.zeros(shape) for _ in range(4)
        )

    def put(self, index: int, peers: tuple[int, ...], release_seconds: float) -> None:
        row = self._known.get(peers)
        if row is None:
            row = self._add(peers)
        self._chain_M[index], self._release_M[index] = row, release_seconds
        self._peers[index] = peers

    def measure(self, is_rounded: bool = False) -> Measured:
        priority_CT = self._rounded_CT if is_rounded else self._priority_CT
        return self._run(  # type: ignore[no-any-return]
            (priority_CT, self._seconds_CT, self._send_CT),
            self._peer_CT,
            self._tasks_C,
            (self._chain_M, self._release_M),
            self._slots_P,
            self._gap_seconds,
        )

    def _add(self, peers: tuple[int, ...]) -> int:
        if len(self._known) >= max(MOST_CHAINS, 2 * len(self._peers)):
            self._forget()
        row = self._known[peers] = len(self._known)
        if row == len(self._tasks_C):
            self._grow()
        priority, peer, seconds, _, send = zip(*self._executor.chain(peers), strict=True)
        tasks = self._tasks_C[row] = len(priority)
        self._priority_CT[row, :tasks] = priority
        self._rounded_CT[row, :tasks] = [round(value, ROUNDED_DIGITS) for value in priority]
        self._peer_CT[row, :tasks] = peer
        self._seconds_CT[row, :tasks] = seconds
        self._send_CT[row, :tasks] = send
        return row

    def _grow(self) -> None:
        for name in (
            "_tasks_C",
            "_peer_CT",
            "_priority_CT",
            "_rounded_CT",
            "_seconds_CT",
            "_send_CT",
        ):
            table = getattr(self, name)
            setattr(self, name, np.concatenate((table, np.zeros_like(table))))

    def _forget(self) -> None:
        """All chains but those in use."""
        self._known = {}
        for index, peers in enumerate(self._peers):
            if peers:
                self.put(index, peers, float(self._release_M[index]))


def compiled_board(instance: Instance) -> Board | None:
    """The fast kind where numba is installed; the first call of a process takes a second, of a machine several."""
    return CompiledBoard(instance) if find_spec("numba") else None


def _rounded(chain: Chain) -> Chain:
    return tuple((round(task[0], ROUNDED_DIGITS), *task[1:]) for task in chain)
