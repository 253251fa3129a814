"""The outer step of one fragment of a stage: flat float32 tensors, element by element, the same bits everywhere.

    nesterov    m = mu m + g;  theta -= lr (g + mu m)      DiLoCo (arXiv 2311.08105, algorithm 1), torch's form
    momentum    m = mu m + g;  theta -= lr m
    average     theta -= lr g

g = theta - mean of the members' parameters, or the mean pseudo-gradient where these were rounded underway
(`merge.Form`). Every product and sum is rounded by itself. With learning rate 1 and no momentum, and parameters
sent as they are, theta becomes their mean itself: no difference is taken, so nothing is rounded away.

How hot the outer step may be depends on how many rounds there were. DiLoCo's 0.7 / 0.9 moves seven times the mean
in the long run; in our measurements (diloco.md section 3.4) it lost to 0.9 / 0.5 over 10 rounds, 2.230 to 2.224, and
overshot over 40, 2.350 to 2.225. So the momentum warms up: it looks back over at most one in 25 of the rounds done,

    1 / (1 - mu_r) = r / 25  within 2 (mu 0.5) and the configured 1 / (1 - mu)

and the learning rate goes from 0.9 to the configured one along with it. A run of up to 50 rounds thus has 0.9 / 0.5, as
diloco.md section 7 suggests, and 0.7 / 0.9 is reached after 250.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from swarmtrain.core.errors import StateError
from swarmtrain.core.rounds import RoundCodec
from swarmtrain.core.types import Digest
from swarmtrain.outer.merge import Form, Merged
from swarmtrain.wire.codec import Codec
from swarmtrain.wire.tensors import is_finite, tensor_digest

Kind = Literal["nesterov", "momentum", "average"]

START_RATE, START_MOMENTUM = 0.9, 0.5
"""Of the first rounds: the best of what we measured at 10 and at 40 rounds."""

LOOK_BACK_SHARE = 25
"""The momentum looks back over at most one in so many of the rounds done."""

_CHUNK_ELEMENTS = 65536

Flat = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class OuterOptimizer:
    """How the outer parameters follow the mean; `momentum` is not used by `average`."""

    kind: Kind = "nesterov"
    learning_rate: float = 0.7
    momentum: float = 0.9
    warms_up: bool = True
    """Whether the momentum warms up with the rounds done."""

    def at(self, steps: int) -> tuple[float, float]:
        """Learning rate and momentum of the step after `steps` of them; the same floats on every machine."""
        if self.kind == "average":
            return self.learning_rate, 0.0
        if not self.warms_up or self.momentum <= START_MOMENTUM:
            return self.learning_rate, self.momentum
        look_back = max(1.0 / (1.0 - START_MOMENTUM), steps / LOOK_BACK_SHARE)
        momentum = min(self.momentum, 1.0 - 1.0 / look_back)
        left = (self.momentum - momentum) / (self.momentum - START_MOMENTUM)
        return self.learning_rate + (START_RATE - self.learning_rate) * left, momentum

    @property
    def keeps_momentum(self) -> bool:
        return self.kind != "average"


AVERAGE = OuterOptimizer("average", 1.0, 0.0, warms_up=False)
DILOCO = OuterOptimizer("nesterov", 0.7, 0.9, warms_up=False)
"""As published, for runs of hundreds of rounds of hundreds of steps."""
SHORT = OuterOptimizer("nesterov", START_RATE, START_MOMENTUM, warms_up=False)


def suggested(codec: Codec, delay_steps: int) -> tuple[OuterOptimizer, str]:
    """An outer optimizer that is safe for `codec` and for results that come `delay_steps` late, and why."""
    if codec.error_feedback:
        return AVERAGE, (
            f"average: {codec.name} keeps what it leaves out for the next round, and that residual is the momentum"
        )
    if delay_steps:
        return SHORT, f"nesterov {START_RATE} / {START_MOMENTUM}: late results bear little momentum"
    return OuterOptimizer(), (
        f"nesterov from {START_RATE} / {START_MOMENTUM} to 0.7 / 0.9 over 250 rounds: "
        "full momentum overshoots in the first of them"
    )


@dataclass(slots=True, eq=False)
class OuterState:
    """What a group has in common of one fragment: float32 [elements] each, and two counters.

    `momentum` is empty where the optimizer keeps none. `round` is the id of the round that comes next, `steps` how
    many outer steps were taken: fewer, as a round to which nobody brought tokens takes none. `codec` is the one that
    the next round sends in where the group chose it, and empty where the configuration did.
    """

    parameters: Tensor
    momentum: Tensor
    round: int = 0
    steps: int = 0
    codec: RoundCodec = ""

    @staticmethod
    def first(parameters: Tensor, optimizer: OuterOptimizer) -> "OuterState":
        """The state before the first round; takes a copy of `parameters`, float32 [elements]."""
        momentum_elements = parameters.numel() if optimizer.keeps_momentum else 0
        return OuterState(parameters.detach().clone(), torch.zeros(momentum_elements))

    def copy(self) -> "OuterState":
        arrays = self.parameters.clone(), self.momentum.clone()
        return OuterState(*arrays, self.round, self.steps, self.codec)

    def digest(self) -> Digest:
        """SHA-256 over everything. With the momentum in it, who joined with another one is found out before a round."""
        digest = hashlib.sha256(f"outer {self.round} {self.steps} {self.codec}".encode())
        digest.update(tensor_digest(self.parameters))
        digest.update(tensor_digest(self.momentum) if self.momentum.numel() else b"")
        return digest.digest()

    def arrays(self) -> dict[str, Flat]:
        """What to save, beside `counters`: views, not copies."""
        return {
            "outer_parameters": self.parameters.numpy(),
            "outer_momentum": self.momentum.numpy(),
        }

    def counters(self) -> dict[str, object]:
        chosen = {"outer_codec": self.codec} if self.codec else {}
        return {"outer_round": self.round, "outer_steps": self.steps, **chosen}

    @staticmethod
    def restored(
        arrays: Mapping[str, Flat],
        counters: Mapping[str, Any],
        elements: int,
        optimizer: OuterOptimizer,
        digest: Digest | None = None,
    ) -> "OuterState":
        """The state that was saved, copied and checked; `digest` is what it must have. Raises StateError."""
        wanted = {"outer_parameters": elements, "outer_momentum": elements}
        if not optimizer.keeps_momentum:
            wanted["outer_momentum"] = 0
        parameters, momentum = [_flat_of(arrays, name, length) for name, length in wanted.items()]
        rounds, steps = [counters.get(name, -1) for name in ("outer_round", "outer_steps")]
        codec = counters.get("outer_codec", "")
        are_whole = type(rounds) is int and type(steps) is int and 0 <= steps <= rounds
        if not are_whole or codec not in get_args(RoundCodec):
            raise _not_whole(f"its counters are {dict(counters)}")
        state = OuterState(parameters, momentum, rounds, steps, codec)
        if digest is not None and state.digest() != digest:
            raise _not_whole("its digest is another")
        return state


def outer_step(state: OuterState, merged: Merged, optimizer: OuterOptimizer) -> None:
    """Take the round that `merged` came to, in place. Where nobody brought tokens only the round counts up."""
    state.round += 1
    if merged.values is None:
        return
    rate, momentum = optimizer.at(state.steps)
    state.steps += 1
    is_values = merged.tag.form is Form.VALUES
    if is_values and rate == 1.0 and not optimizer.keeps_momentum:
        state.parameters.copy_(merged.values)
        return
    for piece in _pieces(state.parameters.numel()):
        parameters, given = state.parameters[piece], merged.values[piece]
        gradient = parameters - given if is_values else given
        if optimizer.keeps_momentum:
            gradient = _with_momentum(
                state.momentum[piece], gradient, momentum, optimizer.kind == "nesterov"
            )
        # Product and sum apart: a fused one is not there on every machine, nor at the end of every slice.
        parameters.sub_(gradient * rate)


def _with_momentum(buffer: Tensor, gradient: Tensor, momentum: float, looks_ahead: bool) -> Tensor:
    buffer.mul_(momentum).add_(gradient)
    return (buffer * momentum).add_(gradient) if looks_ahead else buffer


def _pieces(elements: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK_ELEMENTS) for start in range(0, elements, _CHUNK_ELEMENTS))


def _flat_of(arrays: Mapping[str, Flat], name: str, elements: int) -> Tensor:
    array = arrays.get(name)
    if array is None or array.dtype != np.float32 or array.shape != (elements,):
        found = "missing" if array is None else f"{array.dtype} {list(array.shape)}"
        raise _not_whole(f"{name} is {found}, and should be float32 [{elements}]")
    flat = torch.from_numpy(np.array(array, order="C", copy=True))
    if elements and not is_finite(flat):
        raise _not_whole(f"{name} holds infinity or NaN")
    return flat


def _not_whole(why: str) -> StateError:
    return StateError(
        "a saved outer state cannot be used",
        why,
        "take another checkpoint, or fetch the state from another member of the group",
    )
