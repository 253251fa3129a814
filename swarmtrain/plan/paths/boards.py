"""Where a plan's chains lie while it is searched, ready to be executed again and again.

Two kinds with the same figures to the last bit: `PlainBoard` is there at once, `CompiledBoard` needs numba and pays
where thousands of plans are executed.
"""

import math
from importlib.util import find_spec
from typing import Protocol

import numpy as np
import numpy.typing as npt

from swarmtrain.plan.paths.execution import Chain, Executor
from swarmtrain.plan.paths.instance import Instance

Floats = npt.NDArray[np.float64]

MOST_CHAINS = 100_000
"""Chains that are kept for reuse; beyond that all are forgotten (I8)."""

FIRST_CHAINS = 1024
"""Rows to begin with; they double."""

ROUNDED_PARTS = 1e9
"""Round trips that are rounded to such parts of a second are equal where they should be: sums stray."""

Measured = tuple[float, float, int]
"""Makespan and the sum of the microbatches' ends, in seconds, infinite where one never ends, and who ends last."""


class Board(Protocol):
    """Chains and releases by microbatch. `is_again` executes them a second way, which a plan is to withstand: with the
    costs of another instance, or, without one, with equal priorities told apart as if sums did not round."""

    def put(self, index: int, peers: tuple[int, ...], release_seconds: float) -> None: ...

    def measure(self, is_again: bool = False) -> Measured: ...


class PlainBoard:
    """Executes with `Executor`."""

    def __init__(self, instance: Instance, other: Instance | None = None) -> None:
        self._executor = Executor(instance)
        self._other = Executor(other) if other is not None else None
        self._peers: list[tuple[int, ...]] = [()] * instance.microbatches
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
        self._peers[index] = peers

    def measure(self, is_again: bool = False) -> Measured:
        chains = self._chains
        if is_again:
            pairs = zip(self._peers, chains, strict=True)
            chains = [_second(self._other, peers, chain) for peers, chain in pairs]
        ends = self._executor.run(chains, self._releases).ends
        total = 0.0
        for end in ends:  # in order: sum() rounds otherwise in some versions
            total += end
        last = max(range(len(ends)), key=ends.__getitem__)
        return ends[last], total, last


class CompiledBoard:
    """Keeps every known chain as a row of arrays, for each microbatch the row, and executes with `compiled.run`.

    C chains (most of them from plans that were tried), T tasks, M microbatches, P peers; X are a task's priority,
    seconds, and seconds of the send after it.
    """

    def __init__(self, instance: Instance, other: Instance | None = None) -> None:
        from swarmtrain.plan.paths import compiled

        self._run, self._put_chain = compiled.run, compiled.put_chain
        self._costs = _costs(instance), _costs(other or instance)
        self._parts = 0.0, 0.0 if other is not None else ROUNDED_PARTS
        self._known: dict[tuple[int, ...], int] = {}
        self._peers: list[tuple[int, ...]] = [()] * instance.microbatches
        self._chain_M = np.zeros(instance.microbatches, np.int64)
        self._release_M = np.zeros(instance.microbatches)
        self._slots_P = np.array([peer.memory_slots for peer in instance.peers], np.int64)
        self._gap_seconds = instance.task_gap_seconds
        shape = max(FIRST_CHAINS, 2 * instance.microbatches), 2 * instance.stages + 1
        self._tasks_C, self._peer_CT = np.zeros(shape[0], np.int64), np.zeros(shape, np.int64)
        self._times_XCT = np.zeros((3, *shape)), np.zeros((3, *shape))

    def put(self, index: int, peers: tuple[int, ...], release_seconds: float) -> None:
        row = self._known.get(peers)
        if row is None:
            row = self._add(peers)
        self._chain_M[index], self._release_M[index] = row, release_seconds
        self._peers[index] = peers

    def measure(self, is_again: bool = False) -> Measured:
        return self._run(  # type: ignore[no-any-return]
            self._times_XCT[is_again],
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
        self._tasks_C[row] = 2 * len(peers) + 1
        visited = np.array(peers, np.int64)
        ways = zip(self._times_XCT, self._costs, self._parts, strict=True)
        for times_XCT, costs, parts in ways:
            self._put_chain(times_XCT, self._peer_CT, row, visited, costs, parts)
        return row

    def _grow(self) -> None:
        self._tasks_C = np.concatenate((self._tasks_C, np.zeros_like(self._tasks_C)))
        self._peer_CT = np.concatenate((self._peer_CT, np.zeros_like(self._peer_CT)))
        exact, again = (
            np.concatenate((times, np.zeros_like(times)), axis=1) for times in self._times_XCT
        )
        self._times_XCT = exact, again

    def _forget(self) -> None:
        """All chains but those in use."""
        self._known = {}
        for index, peers in enumerate(self._peers):
            if peers:
                self.put(index, peers, float(self._release_M[index]))


def compiled_board(instance: Instance, other: Instance | None) -> Board | None:
    """The fast kind where numba is installed; the first call of a process takes a second, of a machine several."""
    return CompiledBoard(instance, other) if find_spec("numba") else None


def _costs(instance: Instance) -> tuple[Floats, Floats]:
    """Seconds of forward, loss and backward by peer, and of sends."""
    kinds = [
        (peer.forward_seconds, peer.loss_seconds, peer.backward_seconds) for peer in instance.peers
    ]
    return np.ascontiguousarray(np.array(kinds, np.float64).T), np.array(instance.send_seconds)


def _second(other: Executor | None, peers: tuple[int, ...], chain: Chain) -> Chain:
    """The chain as it is executed again."""
    if other is not None:
        return other.chain(peers)
    return tuple(
        (math.floor(task[0] * ROUNDED_PARTS + 0.5) / ROUNDED_PARTS, *task[1:]) for task in chain
    )
