"""What computing and sending cost in the virtual world: arithmetic on a model's stated shape.

The tensors that are really computed may be tiny; seconds and bytes are charged as for the shape that a scenario
states, so that thousands of peers fit into one process. Not charged: sums, the time a
payload takes through a peer's memory, and unless the scenario says what a pass over a value takes, optimizer steps,
digests, and coding contributions to outer rounds.
"""

from dataclasses import dataclass

from swarmtrain.compute.lane import Kind as LaneKind
from swarmtrain.compute.lane import Task
from swarmtrain.compute.stage import build_compute
from swarmtrain.core.config import ModelSection, RunConfig
from swarmtrain.core.errors import WireError
from swarmtrain.core.sections import CODEC_BYTES_PER_VALUE
from swarmtrain.core.sizes import memory_estimate, stage_parameters, vocabulary
from swarmtrain.core.types import EDGE_STAGE
from swarmtrain.transport.frames import Frame, Kind, unpack
from swarmtrain.transport.link import LinkLimits
from swarmtrain.transport.requests import (
    OuterStateRequest,
    PieceRequest,
    RoundPieceRequest,
    StateRequest,
)

FLOPS_PER_PARAMETER_TOKEN = 2
"""A multiplication and an addition per weight and token, forward; backward takes twice as many."""

_LIMITS = LinkLimits(message_bytes=1 << 40, meta_bytes=1 << 30, chunk_bytes=1 << 30)


@dataclass(frozen=True, slots=True)
class Shape:
    """The model that is charged. Its blocks spread evenly over the run's middle stages.

    `config` is the run with this model, microbatch, sequence and codec in place of its own.
    """

    config: RunConfig
    vocab_size: int

    @property
    def tokens(self) -> int:
        return self.config.train.tokens_per_microbatch

    def flops(self, task: Task) -> float:
        """Floating point operations of a task of the compute lane; 0 for what is not charged."""
        model = self.config.model
        if task.kind is LaneKind.LOSS:
            head = FLOPS_PER_PARAMETER_TOKEN * model.width * self.vocab_size * self.tokens
            return 3.0 * head
        if task.stage == EDGE_STAGE or task.kind not in (LaneKind.FORWARD, LaneKind.BACKWARD):
            return 0.0
        forward = FLOPS_PER_PARAMETER_TOKEN * self.parameters(task.stage) * self.tokens
        # Scores and weighted sums of a causal attention: on average half the sequence is looked at.
        sequence = self.config.train.sequence_length
        forward += 2 * model.blocks_per_stage * self.tokens * sequence * model.width
        return float(forward if task.kind is LaneKind.FORWARD else 2 * forward)

    def parameters(self, stage: int) -> int:
        return stage_parameters(self.config.model, self.vocab_size, stage)

    @property
    def boundary_bytes(self) -> float:
        """One microbatch between two stages."""
        values = self.tokens * self.config.model.width
        return values * CODEC_BYTES_PER_VALUE[self.config.wire.codec]

    def capacity_stages(self, memory_bytes: int) -> int:
        """How many stages of this shape fit into `memory_bytes`, the edge among them."""
        fitting = 0
        while (
            fitting <= self.config.model.stages and self.needed_bytes(fitting + 1) <= memory_bytes
        ):
            fitting += 1
        return fitting

    def needed_bytes(self, stages: int) -> int:
        """Memory that the edge and the next middle stages need, `stages` in all."""
        return memory_estimate(self.config, self.vocab_size, range(stages)).total_bytes


def shape_of(config: RunConfig, tokenizer_tokens: int) -> Shape:
    """The run's own shape: what is computed is what is charged."""
    return Shape(config, vocabulary(config.model, tokenizer_tokens))


@dataclass(frozen=True, slots=True)
class Charged:
    """What a scenario wants charged instead of the run's own model."""

    model: ModelSection
    microbatch_size: int
    sequence_length: int
    codec: str

    def shape(self, config: RunConfig) -> Shape:
        """This model on the run's number of middle stages; their blocks are rounded up to a whole number."""
        blocks = -(-self.model.stages * self.model.blocks_per_stage // config.model.stages)
        model = self.model.model_copy(
            update={"stages": config.model.stages, "blocks_per_stage": blocks}
        )
        sizes = {"microbatch_size": self.microbatch_size, "sequence_length": self.sequence_length}
        charged = config.model_copy(
            update={
                "model": model,
                "train": config.train.model_copy(update=sizes),
                "wire": config.wire.model_copy(update={"codec": self.codec}),
            }
        )
        return Shape(charged, vocabulary(model))


@dataclass(frozen=True, slots=True)
class _Body:
    """What a call's body is charged with: fixed bytes, however many there really are, or a factor on those.

    A body that may come packed counts as the `unpacked_bytes` it holds, as what something tiny packs to says nothing of
    what it stands for.
    """

    fixed_bytes: float = 0.0
    factor: float = 1.0
    unpacked_bytes: int = 0


_PLAIN = _Body()
_IN_ORDER = frozenset((Kind.REQUEST_CHUNK, Kind.ANSWER_CHUNK, Kind.WITHDRAW))
"""What must not overtake the first frame of its message."""


class Weights:
    """Bytes that frames are charged with when the tiny tensors of `config` stand for those of `stated`.

    Answers do not say what they answer, so the requests under way are remembered.
    """

    def __init__(self, config: RunConfig, vocab_size: int, stated: Shape) -> None:
        self._stated = stated
        # As they travel: with the padding of the flat layout. All middle stages are alike.
        self._real_parameters = [
            build_compute(config, vocab_size, stage).flat.total for stage in (EDGE_STAGE, 1)
        ]
        self._sum_bytes = 8 if config.train.accumulation == "exact" else 4
        self._asked: dict[tuple[str, str, int], tuple[_Body, _Body]] = {}

    def weigh(self, sender: str, receiver: str, data: bytes) -> tuple[float, bool]:
        """Bytes to charge, and whether the frame carries a charged body, which other frames may overtake."""
        frame = unpack(data, _LIMITS)
        if frame.kind is Kind.REQUEST:
            bodies = self._bodies(frame)
            self._asked[sender, receiver, frame.call] = bodies
            body = bodies[0]
        elif frame.kind is Kind.ANSWER:
            body = self._asked.pop((receiver, sender, frame.call), (_PLAIN, _PLAIN))[1]
        else:
            return float(len(data)), frame.kind in _IN_ORDER
        # A body in several chunks is charged with the first.
        real_bytes = frame.body_bytes and (body.unpacked_bytes or frame.body_bytes)
        body_bytes = body.fixed_bytes or body.factor * real_bytes
        return len(data) - len(frame.payload) + body_bytes, body_bytes > 0

    def _bodies(self, frame: Frame) -> tuple[_Body, _Body]:
        """Of the request in `frame`, and of its answer."""
        try:
            match frame.method:
                case "process":
                    body = _Body(factor=self._stated.boundary_bytes / frame.body_bytes)
                    return body, body
                case "probe":
                    # It stands for one microbatch, however small those are that are really sent.
                    return _Body(fixed_bytes=self._stated.boundary_bytes), _PLAIN
                case "piece":
                    piece = PieceRequest.decode(frame.meta)
                    sums = self._stated.parameters(piece.stage) * self._sum_bytes
                    return _PLAIN, _Body(fixed_bytes=sums / piece.slices)
                case "state":
                    wanted = StateRequest.decode(frame.meta)
                    real = self._real_parameters[wanted.stage != EDGE_STAGE]
                    factor = self._stated.parameters(wanted.stage) / real
                    return _PLAIN, _Body(factor=factor, unpacked_bytes=wanted.length_bytes)
                case "outer_state":
                    stage = OuterStateRequest.decode(frame.meta).stage
                    real = self._real_parameters[stage != EDGE_STAGE]
                    return _PLAIN, _Body(factor=self._stated.parameters(stage) / real)
                case "round_piece":
                    piece_of = RoundPieceRequest.decode(frame.meta)
                    real = self._real_parameters[piece_of.stage != EDGE_STAGE]
                    if piece_of.sections:
                        # A table is a thousandth of what it describes, but not of something tiny.
                        factor = self._stated.parameters(piece_of.stage) / real
                        return _PLAIN, _Body(factor=factor)
        except (WireError, ZeroDivisionError):
            pass  # damaged on purpose by a fault: it is carried as it is
        return _PLAIN, _PLAIN
