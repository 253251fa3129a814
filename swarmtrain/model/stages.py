"""Cut a model into stages: the edge (stage 0) and middle stages 1..S of equal shape.

Initial values follow from (seed, stage, block index) alone: peers that build the same stage hold the same bits,
in whatever order and process, and torch's global generator is left as it was.
"""

import hashlib

from torch import Tensor, nn

from swarmtrain.core.config import ModelSection
from swarmtrain.core.errors import ModelError
from swarmtrain.core.sizes import vocabulary
from swarmtrain.core.types import EDGE_STAGE
from swarmtrain.model.edge import EdgeStage
from swarmtrain.model.registry import (
    block_shapes,
    build_family_block,
    build_family_edge,
    edge_shapes,
    load_family,
)


class MiddleStage(nn.Module):
    """`blocks_per_stage` blocks one after the other: (B, T, D) to (B, T, D). Parameters `blocks.{i}....`"""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x_BTD: Tensor) -> Tensor:
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return x_BTD


def build_edge(model: ModelSection, vocab_size: int, seed: int) -> EdgeStage:
    """Stage 0 on the CPU with its initial values. Raises ModelError."""
    family = load_family(model.family)
    return build_family_edge(family, model, vocab_size, initial_seed(seed, EDGE_STAGE, 0))


def build_middle(model: ModelSection, stage: int, seed: int) -> MiddleStage:
    """Middle stage `stage` (1..S) on the CPU with its initial values. Raises ModelError."""
    family = load_family(model.family)
    first_layer = _first_layer(model, stage)
    return MiddleStage(
        [
            build_family_block(family, model, first_layer + i, initial_seed(seed, stage, i))
            for i in range(model.blocks_per_stage)
        ]
    )


def build_stage(
    model: ModelSection, vocab_size: int, stage: int, seed: int
) -> EdgeStage | MiddleStage:
    """Any stage on the CPU with its initial values. Raises ModelError."""
    if stage == EDGE_STAGE:
        return build_edge(model, vocab_size, seed)
    return build_middle(model, stage, seed)


def stage_parameter_shapes(
    model: ModelSection, vocab_size: int, stage: int
) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a stage's parameters in the order of named_parameters(); allocates nothing."""
    family = load_family(model.family)
    if stage == EDGE_STAGE:
        return list(edge_shapes(family, model, vocab_size).items())
    first_layer = _first_layer(model, stage)
    return [
        (f"blocks.{i}.{name}", shape)
        for i in range(model.blocks_per_stage)
        for name, shape in block_shapes(family, model, first_layer + i).items()
    ]


def initial_seed(seed: int, stage: int, block_index: int) -> int:
    """The 63-bit seed of one block's initial values; the edge counts as block 0 of stage 0."""
    name = f"swarmtrain initial values {seed} {stage} {block_index}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1


def model_vocab_size(model: ModelSection, tokenizer_vocab_size: int) -> int:
    """Rows of the embedding: `model.vocab_size`, or the tokenizer's if that is 0.

    Raises:
        ModelError: the tokenizer has more tokens than the model has rows.
    """
    vocab_size = vocabulary(model, tokenizer_vocab_size)
    if vocab_size < tokenizer_vocab_size:
        raise ModelError(
            f"model.vocab_size = {vocab_size} is too small",
            f"the tokenizer has {tokenizer_vocab_size} tokens",
            "set model.vocab_size = 0 to take the tokenizer's",
        )
    return vocab_size


def _first_layer(model: ModelSection, stage: int) -> int:
    if not 1 <= stage <= model.stages:
        raise ModelError(
            f"there is no middle stage {stage}",
            f"the model has stages 1 to {model.stages}, and the edge as stage 0",
            "choose one of these, or raise model.stages",
        )
    return (stage - 1) * model.blocks_per_stage
