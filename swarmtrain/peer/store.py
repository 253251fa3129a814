"""What a peer keeps of a step: received inputs, output gradients and answers, until a majority moved on (R11).

Keyed by (step, position, key); the base digest is checked before a lookup. Stored answer and held gradient are
two facts (R3): an entry may outlive its contribution.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from torch import Tensor

from swarmtrain.core.types import Digest, Item, PeerId


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a position: its input gradient, or void."""

    gradient_BTD: Tensor | None

    @property
    def is_void(self) -> bool:
        return self.gradient_BTD is None


@dataclass(slots=True)
class Entry:
    """One position of one key at this peer.

    `input_digest` is None for an input that came from inside the peer. `x_BTD` is None at the embedding,
    `dy_BTD` at the head.
    """

    item: Item
    stage: int
    input_digest: Digest | None
    x_BTD: Tensor | None
    answer: asyncio.Future[Answer]
    dy_BTD: Tensor | None = None
    served_by: PeerId | None = None
    waiting: Counter[PeerId] = field(default_factory=Counter)
    """Calls for it by caller, those among them whose link broke: only who withdraws stops to wait."""

    def differs(self, digest: Digest) -> bool:
        """Whether an input with that digest is another one than this (R15)."""
        return self.input_digest not in (None, digest)


@dataclass
class Store:
    """Entries by step, then item; steps ascend."""

    steps: dict[int, dict[Item, Entry]] = field(default_factory=dict)

    def get(self, step: int, item: Item) -> Entry | None:
        return self.steps.get(step, {}).get(item)

    def put(self, step: int, entry: Entry) -> None:
        self.steps.setdefault(step, {})[entry.item] = entry

    def drop(self, step: int, item: Item) -> None:
        self.steps.get(step, {}).pop(item, None)

    def forget_before(self, step: int) -> None:
        for old in [known for known in self.steps if known < step]:
            del self.steps[old]

    @property
    def retained_bytes(self) -> int:
        """Bytes of all kept tensors, each counted once."""
        seen: dict[int, int] = {}
        for entries in self.steps.values():
            for entry in entries.values():
                answered = entry.answer.done() and not entry.answer.cancelled()
                done = answered and entry.answer.exception() is None
                gradient = entry.answer.result().gradient_BTD if done else None
                for tensor in (entry.x_BTD, entry.dy_BTD, gradient):
                    if tensor is not None:
                        storage = tensor.untyped_storage()
                        seen[storage.data_ptr()] = storage.nbytes()
        return sum(seen.values())
