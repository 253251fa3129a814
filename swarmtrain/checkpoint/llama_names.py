"""What a stage's parameters are called and how they are shaped, here and in the Hugging Face Llama layout.

Both sides keep the same values in the same order of dimensions, so going over is a renaming. Nothing of torch is
needed: a process without it serves an imported model to others.
"""

from dataclasses import dataclass

from swarmtrain.checkpoint.stage_file import NamesShapes
from swarmtrain.core.config import ModelSection
from swarmtrain.core.errors import ModelError
from swarmtrain.core.types import EDGE_STAGE

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True, slots=True)
class LlamaTensor:
    """One parameter: its name here, its name there, its shape."""

    own: str
    hub: str
    shape: tuple[int, ...]


def check_is_llama(model: ModelSection) -> None:
    """Raise ModelError for a model that the Llama layout cannot hold."""
    if model.family != "llama":
        raise ModelError(
            f"a model of the family {model.family!r} has no Llama layout",
            "its blocks are not those of Llama",
            "read the checkpoint's own safetensors files, which hold every parameter by its name",
        )


def stage_tensors(model: ModelSection, vocab_size: int, stage: int) -> tuple[LlamaTensor, ...]:
    """The parameters of `stage` in the order of its flat layout."""
    if stage == EDGE_STAGE:
        table = (vocab_size, model.width)
        head = () if model.tied else (LlamaTensor("head.weight", HEAD, table),)
        return (
            LlamaTensor("embed.weight", EMBEDDING, table),
            LlamaTensor("norm.weight", "model.norm.weight", (model.width,)),
            *head,
        )
    first_layer = (stage - 1) * model.blocks_per_stage
    return tuple(
        LlamaTensor(f"blocks.{i}.{own}", f"model.layers.{first_layer + i}.{hub}", shape)
        for i in range(model.blocks_per_stage)
        for own, hub, shape in _block(model)
    )


def names_shapes(tensors: tuple[LlamaTensor, ...]) -> NamesShapes:
    return tuple((tensor.own, tensor.shape) for tensor in tensors)


def _block(model: ModelSection) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """Own name, name there and shape; weights are (outputs, inputs)."""
    width, ffn_width, key_width = model.width, model.ffn_width, model.kv_heads * model.head_width
    return (
        ("attention_norm.weight", "input_layernorm.weight", (width,)),
        ("attention.query.weight", "self_attn.q_proj.weight", (width, width)),
        ("attention.key.weight", "self_attn.k_proj.weight", (key_width, width)),
        ("attention.value.weight", "self_attn.v_proj.weight", (key_width, width)),
        ("attention.output.weight", "self_attn.o_proj.weight", (width, width)),
        ("ffn_norm.weight", "post_attention_layernorm.weight", (width,)),
        ("ffn.gate.weight", "mlp.gate_proj.weight", (ffn_width, width)),
        ("ffn.up.weight", "mlp.up_proj.weight", (ffn_width, width)),
        ("ffn.down.weight", "mlp.down_proj.weight", (width, ffn_width)),
    )
