"""On which device stages are computed, chosen from what the machine has and what the run promises.

On a device apart (CUDA, MPS) a stage's parameters are copied there after every step; activations go there and back,
and each microbatch's gradient comes back to the CPU, where sums, optimizer and digests are the same for everybody.
Bits differ between devices, so a run with exact sums is computed on the CPU alone.
"""

import contextlib
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from swarmtrain.core.errors import ConfigError
from swarmtrain.core.sizes import MEMORY_SHARE

DeviceChoice = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stage is computed: `device` None is the CPU, on the stage's own parameters. `bf16`: under autocast."""

    device: torch.device | None = None
    bf16: bool = False

    @property
    def is_cuda(self) -> bool:
        return self.device is not None and self.device.type == "cuda"

    @property
    def name(self) -> str:
        """As it stands in a kernel class: equal names are needed for equal bits, and are not enough for them."""
        kind = "cpu" if self.device is None else self.device.type
        return f"{kind} bf16" if self.bf16 else kind

    def take(self, tensor: Tensor) -> Tensor:
        """`tensor` where it is computed with."""
        return tensor if self.device is None else tensor.to(self.device)

    def give(self, tensor: Tensor) -> Tensor:
        """`tensor` as others get it: fp32 on the CPU, outside of the graph."""
        return tensor.detach() if self.device is None else tensor.detach().float().cpu()

    def arithmetic(self) -> contextlib.AbstractContextManager[object]:
        """Forward passes run within this."""
        if self.device is None or not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


HERE = Place()
"""The CPU."""


@dataclass(frozen=True, slots=True)
class Devices:
    """What torch finds on this machine; `free_bytes` of `total_bytes` are those of the CUDA device."""

    cuda: str = ""
    cuda_bf16: bool = False
    free_bytes: int = 0
    mps: bool = False
    total_bytes: int = 0


def seen_devices(is_weighed: bool = True) -> Devices:
    """Ask torch; a device that cannot be asked is none. Its free memory is asked for only if it `is_weighed`, as that
    takes some hundred MB of a card."""
    if torch.cuda.is_available():
        if is_weighed:
            torch.cuda.empty_cache()  # what a peer of this process gave back before it paused is free
        free_bytes, total_bytes = torch.cuda.mem_get_info() if is_weighed else (0, 0)
        # Older cards (T4) emulate bf16, slower than they compute in fp32.
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        name = torch.cuda.get_device_name()
        return Devices(name, has_bf16, free_bytes, total_bytes=total_bytes)
    return Devices(mps=torch.backends.mps.is_available())


def choose_place(
    wanted: str, accumulation: Literal["exact", "fast"], seen: Devices
) -> tuple[Place, str]:
    """The place for `--device wanted`, and why. Raises ConfigError when it is not there or breaks the run's promise."""
    if wanted not in get_args(DeviceChoice):
        raise ConfigError(
            f"--device {wanted!r} is no device", "", f"choose {', '.join(get_args(DeviceChoice))}"
        )
    if wanted == "cpu":
        return HERE, "the CPU was asked for"
    is_exact = accumulation == "exact"
    if wanted == "auto":
        return _automatic(is_exact, seen)
    if not (seen.cuda if wanted == "cuda" else seen.mps):
        raise ConfigError(
            f"--device {wanted}: there is no such device",
            f"torch {torch.__version__} finds none on this machine",
            "install a torch built for it, or leave --device out",
        )
    if is_exact:
        raise ConfigError(
            f"--device {wanted} does not go with this run",
            "train.accumulation = exact promises equal bits, and other kernels give other bits",
            "leave --device out to compute on the CPU, or start the run with train.accumulation = fast",
        )
    return _on(wanted, seen), f"{wanted} was asked for"


def find_place(wanted: str, accumulation: Literal["exact", "fast"]) -> tuple[Place, str, Devices]:
    """As `choose_place`, of what is on this machine; a card that cannot be chosen is left alone."""
    seen = seen_devices(is_weighed=accumulation == "fast" and wanted != "cpu")
    return *choose_place(wanted, accumulation, seen), seen


def memory_on(place: Place, seen: Devices, memory_bytes: int, sharers: int = 1) -> int:
    """What stages may use: `memory_bytes` of the machine, and of a CUDA device no more than is free there now, nor than
    an equal part of it where it serves `sharers` peers: whoever of them starts later finds less free."""
    if not place.is_cuda:
        return memory_bytes
    part_bytes = min(seen.free_bytes, seen.total_bytes // sharers)
    return min(memory_bytes, int(MEMORY_SHARE * part_bytes))


def hold_memory(place: Place, memory_bytes: int) -> None:
    """Let this process take no more than that of a CUDA device, so that peers that share it can go by what they chose.

    The driver's own part (some hundred MB a process) comes on top.
    """
    if place.is_cuda:
        _, total_bytes = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(min(1.0, memory_bytes / total_bytes))


def _automatic(is_exact: bool, seen: Devices) -> tuple[Place, str]:
    found = "cuda" if seen.cuda else "mps" if seen.mps else ""
    if not found:
        return HERE, "torch finds neither CUDA nor MPS here"
    if is_exact:
        return (
            HERE,
            f"{found} is here, but exact sums promise equal bits, which only equal kernels give",
        )
    return _on(found, seen), seen.cuda or "torch finds MPS here"


def _on(kind: str, seen: Devices) -> Place:
    return Place(torch.device(kind), kind == "cuda" and seen.cuda_bf16)
