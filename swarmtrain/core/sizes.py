"""How many parameters a model has and how many bytes a peer needs for its stages: arithmetic, nothing allocated.

Counts are those of the built-in Llama family; for a family of your own they are a guide only. D is the width, K
the width of all key heads together, F the feed-forward width, V the vocabulary, T the tokens of a microbatch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from swarmtrain.core.errors import ModelError
from swarmtrain.core.sections import BYTE_TOKENS, ModelSection, RecoverySection, RunConfig
from swarmtrain.core.types import EDGE_STAGE
from swarmtrain.core.units import format_bytes

MEMORY_SHARE = 0.8
"""Share of the memory that is free right now which a process plans with."""

SNAPSHOT_DEPTH = 2
"""Snapshots kept of a stage: while the newest spreads to its holders, the one before is whole everywhere."""

LESSON_STATES = 3
"""What a peer may keep of a stage for a newcomer that learns it (peer.teaching), in whole states: one copy, and sums.
It is no part of what a stage needs: a peer without that much memory to spare does not teach."""

FLOAT_BYTES = 4
FIXED_POINT_BYTES = 8


def vocabulary(model: ModelSection, tokenizer_tokens: int = BYTE_TOKENS) -> int:
    """Rows of the embedding: the configured vocabulary, or the tokenizer's where that is 0."""
    return model.vocab_size or tokenizer_tokens


def stage_parameters(model: ModelSection, vocab_size: int, stage: int) -> int:
    """Parameters of one replica of `stage`; stage 0 is the edge, all middle stages are equal."""
    if stage == EDGE_STAGE:
        embedding = vocab_size * model.width
        return embedding + model.width + (0 if model.tied else embedding)
    return model.blocks_per_stage * _block_parameters(model)


def parameter_count(model: ModelSection, vocab_size: int) -> int:
    """Parameters of the whole model, each counted once."""
    return sum(stage_parameters(model, vocab_size, stage) for stage in range(model.stages + 1))


def _block_parameters(model: ModelSection) -> int:
    """Two norms; query and output D x D; key and value D x K; gate, up and down D x F; no biases."""
    width, key_width = model.width, model.kv_heads * model.head_width
    return 2 * width + 2 * width * width + 2 * width * key_width + 3 * width * model.ffn_width


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes a peer needs at the peak of a step, by what they are for.

    The process itself comes on top: an interpreter with torch, gRPC and the DHT loaded is about 300 MB.
    """

    parameters_bytes: int
    moments_bytes: int
    accumulator_bytes: int
    reduced_bytes: int
    second_buffer_bytes: int
    gradient_bytes: int
    retained_bytes: int
    graph_bytes: int
    snapshot_bytes: int

    @property
    def state_bytes(self) -> int:
        """Of stages that are brought from step to step by others' sums, and do no work."""
        state = self.parameters_bytes + self.moments_bytes + self.second_buffer_bytes
        return state + self.accumulator_bytes + self.reduced_bytes

    @property
    def total_bytes(self) -> int:
        work = self.gradient_bytes + self.retained_bytes + self.graph_bytes
        return self.state_bytes + work + self.snapshot_bytes


def memory_estimate(config: RunConfig, vocab_size: int, stages: Sequence[int]) -> MemoryEstimate:
    """What hosting `stages` costs, so that a machine can refuse them with numbers before allocating.

    Per parameter: 4 bytes for itself, 8 for two moments, 8 (exact) or 4 (fast) each for the accumulator and the
    reduced sum, 12 for the second buffer that a commit is applied into (protocol.md, answer f: 40 in exact). The
    gradient of one microbatch at a time is 4 per parameter of the largest hosted stage. Retained until the step is
    committed (rule R11): three boundary tensors of T x D floats a key and stage. Graphs: see `_slot_floats`; one
    slot is reserved for each position, and every shared slot may be taken by the hungriest one. Snapshots: see
    `snapshots_at_most`.
    """
    counts = [stage_parameters(config.model, vocab_size, stage) for stage in stages]
    parameters = sum(counts)
    sum_bytes = FIXED_POINT_BYTES if config.train.accumulation == "exact" else FLOAT_BYTES
    boundary_bytes = config.train.tokens_per_microbatch * config.model.width * FLOAT_BYTES
    slots = _slot_floats(config, vocab_size, stages)
    graph_floats = sum(slots) + config.limits.slots_shared * max(slots, default=0)
    return MemoryEstimate(
        parameters_bytes=FLOAT_BYTES * parameters,
        moments_bytes=2 * FLOAT_BYTES * parameters,
        accumulator_bytes=sum_bytes * parameters,
        reduced_bytes=sum_bytes * parameters,
        second_buffer_bytes=3 * FLOAT_BYTES * parameters,
        gradient_bytes=FLOAT_BYTES * max(counts, default=0),
        retained_bytes=3 * boundary_bytes * config.train.microbatches * len(stages),
        graph_bytes=FLOAT_BYTES * graph_floats,
        snapshot_bytes=snapshots_at_most(config.recovery) * 3 * FLOAT_BYTES * parameters,
    )


def snapshots_at_most(recovery: RecoverySection) -> int:
    """Whole states that a peer keeps in memory for each stage it hosts, its own and those held for others.

    A roster with one replica of every stage is the dearest: every peer then holds as many stages for others, in
    each of `snapshot_holders` places, as it hosts.
    """
    if recovery.snapshot_steps:
        return SNAPSHOT_DEPTH * (1 + recovery.snapshot_holders)
    return SNAPSHOT_DEPTH if recovery.checkpoint_steps else 0


def _slot_floats(config: RunConfig, vocab_size: int, stages: Sequence[int]) -> list[int]:
    """Floats that a slot may hold, per position where it may be entered: consecutive positions on one peer share
    the slot, so it holds the graphs from that position to the end of the run of positions."""
    paths = config.paths
    if paths.swaps or paths.visited(config.model.stages) < config.model.stages:
        return _varied_slot_floats(config, vocab_size, stages)
    head = config.model.stages + 1
    graphs = dict(_graph_floats(config, stage) for stage in stages if stage)
    if EDGE_STAGE in stages:
        graphs |= dict(_edge_graph_floats(config, vocab_size, head))
    slots: dict[int, int] = {}
    for position in sorted(graphs, reverse=True):
        slots[position] = graphs[position] + slots.get(position + 1, 0)
    return list(slots.values())


def _varied_slot_floats(config: RunConfig, vocab_size: int, stages: Sequence[int]) -> list[int]:
    """The same where microbatches leave stages out or swap them: a stage is then visited at several positions, and
    one run may hold the graphs of all stages here that a microbatch visits, also of those that are not adjacent."""
    visited = config.paths.visited(config.model.stages)
    left_out, moved = config.model.stages - visited, 1 if config.paths.swaps else 0
    middle = [stage for stage in stages if stage]
    run = sum(_graph_floats(config, stage)[1] for stage in middle[:visited])
    places = {
        place
        for stage in middle
        for place in range(stage - left_out - moved, stage + moved + 1)
        if 1 <= place <= visited
    }
    if EDGE_STAGE not in stages:
        return [run] * len(places)
    (_, embed), (_, head) = _edge_graph_floats(config, vocab_size, visited + 1)
    through = embed + run + head if middle else embed
    return [*[run + head] * len(places), through, head]


def _edge_graph_floats(
    config: RunConfig, vocab_size: int, head: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """`(position, floats)` of the embedding, which keeps its output, and of the head, which keeps 3 D and 2 V a
    token (log-probabilities and their gradient)."""
    model, tokens = config.model, config.train.tokens_per_microbatch
    return (0, tokens * model.width), (head, tokens * (3 * model.width + 2 * vocab_size))


def _graph_floats(config: RunConfig, stage: int) -> tuple[int, int]:
    """`(position, floats)` kept between forward and backward of one microbatch of a middle stage.

    A block keeps per token 10 D (each norm its input, that divided by its root mean square, and its output: 6;
    queries, keys and values of all heads: 3; attention output: 1) and 4 F (gate, its activation, up, their
    product); measured, 3 to 4 % above what autograd saves.
    """
    model, tokens = config.model, config.train.tokens_per_microbatch
    block_floats = tokens * (10 * model.width + 4 * model.ffn_width)
    return stage, model.blocks_per_stage * block_floats


def check_memory(
    config: RunConfig, vocab_size: int, stages: Sequence[int], memory_bytes: int
) -> None:
    """Refuse stages that do not fit, with the numbers, before anything is allocated. Raises ModelError."""
    estimate = memory_estimate(config, vocab_size, stages)
    if estimate.total_bytes <= memory_bytes:
        return
    parts = ", ".join(
        f"{format_bytes(count_bytes)} {name}"
        for name, count_bytes in (
            ("parameters", estimate.parameters_bytes),
            ("optimizer", estimate.moments_bytes + estimate.second_buffer_bytes),
            ("gradients", estimate.accumulator_bytes + estimate.reduced_bytes),
            ("activations", estimate.retained_bytes + estimate.graph_bytes),
            ("snapshots", estimate.snapshot_bytes),
        )
    )
    raise ModelError(
        f"{len(stages)} of the {config.model.stages + 1} stages of this model do not fit into memory here",
        f"they need {format_bytes(estimate.total_bytes)} ({parts}); {format_bytes(memory_bytes)} may be used",
        "use more memory or a smaller model.preset, host fewer stages, or lower recovery.snapshot_holders",
    )
