"""Bring your own model: which blocks a run's stages are made of.

`model.family` is "llama", "vector" (for simulations) or "package.module:Name", the name of a class without
constructor arguments that follows `ModelFamily`. A named family is code, so it is imported only where a person
put it into a local RUN.toml (`load_family(name, allow_import=True)`), never because another peer sent its name.
"""

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from swarmtrain.core.config import ModelSection
from swarmtrain.core.errors import ModelError
from swarmtrain.model.blocks import Block, initialise_block
from swarmtrain.model.edge import EdgeStage, initialise_edge
from swarmtrain.model.vector import VectorFamily

Shapes = dict[str, tuple[int, ...]]
"""Parameter names and shapes, in the order of named_parameters()."""

_CHECK_SHAPE_BT = (2, 8)
_CHECK_VOCAB_SIZE = 11


@runtime_checkable
class ModelFamily(Protocol):
    """Makes the parts of a model that stages are built from.

    Contract:
    - `build_block(model, layer_index)` returns a module that maps x_BTD to y_BTD of equal shape and dtype, for
      any B and T; `layer_index` counts from 0 over all middle stages. Names and shapes of the parameters are the
      same for every layer, all are fp32 and all take part in the output. The output depends on x_BTD and the
      parameters alone: no dropout, no buffers that training changes. Initial values are drawn from torch's
      global generator, which is seeded for the call and put back after it.
    - optional `initialise_block(block, model, generator)` sets the initial values instead.
    - optional `build_edge(model, vocab_size)` returns an EdgeStage of its own kind (stage 0).
    """

    def build_block(self, model: ModelSection, layer_index: int) -> nn.Module: ...


class LlamaFamily:
    """The built-in family: the decoder block of swarmtrain.model.blocks."""

    def build_block(self, model: ModelSection, layer_index: int) -> nn.Module:
        return Block(model)

    def initialise_block(
        self, block: Block, model: ModelSection, generator: torch.Generator
    ) -> None:
        initialise_block(block, model, generator)


BUILT_IN = ("llama", "vector")

_families: dict[str, ModelFamily] = {"llama": LlamaFamily(), "vector": VectorFamily()}
"""The built-in families and those this process was allowed to import."""


def load_family(name: str, allow_import: bool = False) -> ModelFamily:
    """The family called `name`: built in, loaded before, or imported now if `allow_import`.

    Raises:
        ModelError: it may not be imported, cannot be, or is no family.
    """
    if name in _families:
        return _families[name]
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise ModelError(
            f"the model family {name!r} is not known",
            f"built in: {', '.join(sorted(_families))}",
            'set model.family = "llama", or "package.module:Name" for your own',
        )
    if not allow_import:
        raise ModelError(
            f"the model family {name!r} was not loaded",
            "its code would have to be imported, and this process was not told to trust it",
            "install the package and start from a local RUN.toml that names it",
        )
    _families[name] = _import_family(name, module_name, attribute)
    return _families[name]


def trust_family(model: ModelSection) -> None:
    """Import and check the family that a local configuration names; the parts of this process may use it then.

    Never call it with a configuration from the network or from a checkpoint: it runs the code that is named (I5).

    Raises:
        ModelError: it cannot be imported, or its blocks break the contract of ModelFamily.
    """
    if model.family not in BUILT_IN:
        check_family(load_family(model.family, allow_import=True), model)


def _import_family(name: str, module_name: str, attribute: str) -> ModelFamily:
    try:
        family: Any = getattr(importlib.import_module(module_name), attribute)()
    except (
        Exception
    ) as error:  # importing and constructing run foreign code, which may raise anything
        raise ModelError(
            f"the model family {name!r} cannot be loaded",
            f"{type(error).__name__}: {error}",
            "check that the package is installed and that the class needs no arguments",
        ) from error
    if not isinstance(family, ModelFamily):
        raise ModelError(
            f"{name!r} is no model family",
            "it has no method build_block(model, layer_index)",
            "follow the protocol swarmtrain.model.registry.ModelFamily",
        )
    return family


_generator_lock = threading.Lock()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's global CPU generator starts at `seed` inside, and is as before afterwards."""
    with _generator_lock, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def build_family_block(
    family: ModelFamily, model: ModelSection, layer_index: int, seed: int
) -> nn.Module:
    """A block on the CPU whose initial values follow from `seed` (63 bits) alone."""
    with _seeded(seed):
        block = family.build_block(model, layer_index)
    initialise = getattr(family, "initialise_block", None)
    if initialise is not None:
        initialise(block, model, torch.Generator().manual_seed(seed))
    return block


def build_family_edge(
    family: ModelFamily, model: ModelSection, vocab_size: int, seed: int
) -> EdgeStage:
    """The edge on the CPU, of the family's own kind if it has one; initial values follow from `seed` alone."""
    build = getattr(family, "build_edge", None)
    if build is None:
        edge = EdgeStage(model, vocab_size)
        initialise_edge(edge, torch.Generator().manual_seed(seed))
        return edge
    with _seeded(seed):
        own: EdgeStage = build(model, vocab_size)
    return own


def block_shapes(family: ModelFamily, model: ModelSection, layer_index: int) -> Shapes:
    """Names and shapes of a block's parameters, in order; allocates nothing. Raises ModelError."""
    return _shapes(_meta_block(family, model, layer_index))


def edge_shapes(family: ModelFamily, model: ModelSection, vocab_size: int) -> Shapes:
    """Names and shapes of the edge's parameters, in order; allocates nothing. Raises ModelError."""
    build = getattr(family, "build_edge", EdgeStage)
    try:
        with torch.device("meta"), _seeded(0):
            edge = build(model, vocab_size)
    except Exception as error:  # foreign code
        raise _broken(model, f"building the edge raises {error!r}", "correct it") from error
    if not isinstance(edge, EdgeStage):
        raise _broken(model, "build_edge returns no EdgeStage", "derive from model.edge.EdgeStage")
    return _shapes(edge)


def check_family(family: ModelFamily, model: ModelSection) -> None:
    """Hold a family to its contract, on the meta device: nothing is allocated or computed.

    Raises:
        ModelError: blocks differ from layer to layer, change the shape or dtype of their input, leave parameters
            unused, keep state beside parameters, or the edge is no EdgeStage.
    """
    first = _shapes(_check_block(family, model))
    for layer_index in range(1, model.stages * model.blocks_per_stage):
        other = block_shapes(family, model, layer_index)
        if list(other.items()) != list(first.items()):
            changed = sorted(set(other.items()) ^ set(first.items())) or [("their order", ())]
            raise _broken(
                model,
                f"layer {layer_index} has other parameters than layer 0: {changed[0][0]}",
                "give every layer the same parameters: stages must be interchangeable",
            )
    edge_shapes(family, model, _CHECK_VOCAB_SIZE)


def _meta_block(family: ModelFamily, model: ModelSection, layer_index: int) -> nn.Module:
    try:
        with torch.device("meta"), _seeded(0):
            block = family.build_block(model, layer_index)
    except Exception as error:  # foreign code
        raise _broken(
            model, f"building layer {layer_index} raises {error!r}", "correct it"
        ) from error
    if not isinstance(block, nn.Module):
        raise _broken(
            model, f"build_block returns {type(block).__name__}", "return a torch.nn.Module"
        )
    return block


def _check_block(family: ModelFamily, model: ModelSection) -> nn.Module:
    block = _meta_block(family, model, 0)
    parameters = dict(block.named_parameters())
    for name, parameter in parameters.items():
        if parameter.dtype != torch.float32 or not parameter.requires_grad:
            raise _broken(
                model, f"{name} is not trained in fp32", "keep parameters fp32 and trainable"
            )
    if surplus := set(block.state_dict()) - set(parameters):
        raise _broken(
            model,
            f"{min(surplus)} is state beside the parameters",
            "make it a parameter, or a buffer with persistent=False that training does not change",
        )
    x_BTD = torch.empty(*_CHECK_SHAPE_BT, model.width, device="meta", requires_grad=True)
    try:
        y_BTD = block(x_BTD)
    except Exception as error:  # foreign code
        raise _broken(
            model, f"forward of a {tuple(x_BTD.shape)} input raises {error!r}", "correct it"
        ) from error
    _check_output(model, x_BTD, y_BTD, parameters)
    return block


def _check_output(
    model: ModelSection, x_BTD: Tensor, y_BTD: Any, parameters: dict[str, nn.Parameter]
) -> None:
    if not isinstance(y_BTD, Tensor) or (y_BTD.shape, y_BTD.dtype) != (x_BTD.shape, x_BTD.dtype):
        given = (
            f"{tuple(y_BTD.shape)} {y_BTD.dtype}"
            if isinstance(y_BTD, Tensor)
            else type(y_BTD).__name__
        )
        raise _broken(
            model,
            f"a block maps {tuple(x_BTD.shape)} {x_BTD.dtype} to {given}",
            "return one tensor of the input's shape and dtype",
        )
    inputs = {"the input": x_BTD, **parameters}
    gradients = torch.autograd.grad(y_BTD.sum(), list(inputs.values()), allow_unused=True)
    unused = [name for name, gradient in zip(inputs, gradients, strict=True) if gradient is None]
    if unused:
        raise _broken(model, f"{unused[0]} has no part in the output", "use it or leave it out")


def _shapes(module: nn.Module) -> Shapes:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def _broken(model: ModelSection, why: str, remedy: str) -> ModelError:
    return ModelError(f"the model family {model.family!r} breaks the stage protocol", why, remedy)
