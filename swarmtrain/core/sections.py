"""What can be configured: one frozen class per section of a RUN.toml, a description per field, and what cannot be.

Reading files, overrides and writing are in config.py, which is also where others import these classes from. The
ranges are wide but finite, because a configuration also arrives from the network (I5, I8).
"""

import hashlib
import json
import math
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field, model_validator

from swarmtrain.core.errors import ConfigError
from swarmtrain.core.outer_section import OuterSection
from swarmtrain.core.presets import PRESETS
from swarmtrain.core.section import ByteCount, Section, Shares, StageNumbers
from swarmtrain.core.units import format_bytes

MIB = 1 << 20
BYTE_TOKENS = 257
"""Vocabulary of the byte tokenizer: 256 bytes and the end of a text."""

CODEC_BYTES_PER_VALUE = {"none": 4.0, "bf16": 2.0, "int8": 1.0 + 4 / 256}
"""Bytes on the wire per activation value; int8 carries one scale per block of 256."""


class RunSection(Section):
    """The run as a whole."""

    name: str = Field(
        "run",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="Name of the run in logs and on the dashboard",
    )
    seed: int = Field(
        1, ge=0, lt=1 << 63, description="Seed of initial values and of the data order"
    )
    steps: int = Field(100, ge=1, le=10**9, description="Steps to train")


class ModelSection(Section):
    """The model's shape. A preset fills the fields that are not set themselves."""

    preset: str | None = Field(
        None, description=f"Shape by name: {', '.join(PRESETS)}; fields that are set win"
    )
    family: str = Field(
        "llama",
        max_length=256,
        pattern=r"^(llama|vector|[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*)$",
        description="Kind of block: llama, vector (for simulations), or your own as package.module:Name",
    )
    stages: int = Field(2, ge=1, le=512, description="Middle stages; the edge stage comes on top")
    blocks_per_stage: int = Field(
        1, ge=1, le=512, description="Transformer blocks per middle stage"
    )
    width: int = Field(128, ge=2, le=1 << 16, description="Width of the residual stream")
    heads: int = Field(4, ge=1, le=1024, description="Attention heads; they split the width evenly")
    kv_heads: int = Field(
        2, ge=1, le=1024, description="Key and value heads, shared by attention heads"
    )
    ffn_width: int = Field(352, ge=1, le=1 << 18, description="Width inside the feed-forward part")
    vocab_size: int = Field(0, ge=0, le=1 << 20, description="Vocabulary; 0 takes the tokenizer's")
    tied: bool = Field(False, description="Whether the head shares the embedding's weights")
    rope_base: float = Field(10_000.0, gt=1, le=1e9, description="Base of rotary positions")
    norm_epsilon: float = Field(1e-5, gt=0, le=1, description="Added under the root in every norm")
    initial: str = Field(
        "",
        max_length=4096,
        description="Folder of a Llama model that the run starts from, as `config init --from-hf` writes it; "
        "nothing: initial values follow from run.seed",
    )
    initial_sha256: str = Field(
        "",
        pattern=r"^([0-9a-f]{64})?$",
        description="Hash of the weights in model.initial: all peers agree on it, where the folder lies is not theirs",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        name = values.get("preset") if isinstance(values, dict) else None
        if not isinstance(name, str):
            return values
        if name not in PRESETS:
            raise ConfigError(
                f"model.preset = {name!r} is not a preset",
                remedy=f"choose one of {', '.join(PRESETS)}",
            )
        return {**PRESETS[name].shape, **values}

    @model_validator(mode="after")
    def _heads_fit(self) -> "ModelSection":
        if self.width % self.heads:
            raise ConfigError(
                f"model.width = {self.width} does not split over model.heads = {self.heads}",
                "every head takes an equal slice of the width",
                f"set model.width to a multiple of {self.heads}, or change model.heads",
            )
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"model.kv_heads = {self.kv_heads} does not divide model.heads = {self.heads}",
                "every key and value head serves the same number of attention heads",
                f"set model.kv_heads to a divisor of {self.heads}",
            )
        if self.head_width % 2:
            raise ConfigError(
                f"model.width = {self.width} over model.heads = {self.heads} gives heads of an odd "
                f"width, {self.head_width}",
                "rotary positions turn the values of a head in pairs",
                f"set model.width to a multiple of {2 * self.heads}",
            )
        return self

    @model_validator(mode="after")
    def _initial_is_named(self) -> "ModelSection":
        if bool(self.initial) != bool(self.initial_sha256):
            raise ConfigError(
                "model.initial and model.initial_sha256 belong together",
                "the hash holds every peer of the run to the same weights",
                "write both with: swarmtrain config init RUN.toml --from-hf FOLDER",
            )
        return self

    @property
    def head_width(self) -> int:
        return self.width // self.heads


class DataSection(Section):
    """What the model learns from."""

    source: str = Field(
        "stdlib",
        max_length=4096,
        pattern=r"^(stdlib|(text|shards|datasets):.+)$",
        description="stdlib (Python's own sources), text:PATH, shards:FOLDER or datasets:NAME",
    )
    tokenizer: str = Field(
        "bytes", min_length=1, max_length=4096, description="bytes, or the path of a tokenizer.json"
    )
    held_out: float = Field(0.02, gt=0, lt=1, description="Share of tokens kept for evaluation")


class TrainSection(Section):
    """What one step is made of."""

    # 4096 is what a key bitmap on the wire may hold.
    microbatches: int = Field(8, ge=1, le=4096, description="Microbatches per step")
    microbatch_size: int = Field(4, ge=1, le=65_536, description="Samples per microbatch")
    sequence_length: int = Field(128, ge=1, le=1 << 20, description="Tokens per sample")
    accumulation: Literal["exact", "fast"] = Field(
        "exact",
        description="exact: sums in fixed point, bit for bit equal under faults; fast: in floats",
    )
    swap_ends: bool = Field(
        False,
        description="Every second microbatch visits the first two and the last two middle stages in "
        "swapped order, so that each can stand in for the other (CheckFree+)",
    )

    @property
    def tokens_per_microbatch(self) -> int:
        return self.microbatch_size * self.sequence_length


class PathsSection(Section):
    """Which middle stages a microbatch visits, and in which order (SkipPipe, arXiv 2502.19913; rule R14)."""

    visits: Literal["seeded", "planned"] = Field(
        "seeded",
        description="Who visits what; seeded: follows from run.seed, step and microbatch; planned: as planner.use "
        "finds fastest, which no other run repeats bit for bit",
    )
    skip: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the middle stages that each microbatch leaves out, to the nearest stage",
    )
    protected: StageNumbers = Field(
        (), max_length=512, description="Middle stages that are never left out, as in [1, 2]"
    )
    shares: Shares = Field(
        (),
        max_length=512,
        description="How often each middle stage that is not protected is visited beside the others, as in "
        "[2, 1, 1, 2]; nothing: all equally often",
    )
    swaps: int = Field(
        0,
        ge=0,
        le=2,
        description="Each microbatch visits up to so many pairs of adjacent stages in swapped order",
    )

    def visited(self, stages: int) -> int:
        """Of `stages` middle stages, how many each microbatch visits: at least one, halves rounded up."""
        return max(1, int((1.0 - self.skip) * stages + 0.5))


class OptimizerSection(Section):
    """AdamW and its learning rate: linear warm-up, then a cosine down to the last step."""

    learning_rate: float = Field(3e-3, gt=0, le=100, description="Learning rate after warm-up")
    warmup_steps: int = Field(10, ge=0, description="Steps over which the learning rate rises")
    min_learning_rate_ratio: float = Field(
        0.1, ge=0, le=1, description="Last learning rate / learning_rate"
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the gradient average")
    beta2: float = Field(0.95, ge=0, lt=1, description="Decay of the squared gradient average")
    epsilon: float = Field(1e-8, gt=0, le=1, description="Added to the root of the squared average")
    weight_decay: float = Field(0.1, ge=0, le=10, description="Decoupled weight decay")
    clip_norm: float = Field(1.0, ge=0, description="Largest gradient norm; 0 turns clipping off")


class WireSection(Section):
    """How activations and gradients look between peers; every stage boundary uses it."""

    codec: Literal["none", "bf16", "int8"] = Field(
        "none", description="none: fp32, bf16: half the bytes, int8: a quarter (blockwise)"
    )
    zstd_level: int = Field(0, ge=0, le=19, description="zstd level; 0 turns compression off")


class LimitsSection(Section):
    """What a peer takes on before it pushes back; peers of one run may differ."""

    in_flight: int = Field(8, ge=1, le=4096, description="Microbatches an edge keeps in flight")
    slots_shared: int = Field(7, ge=0, le=4096, description="Compute slots besides one a position")
    queue: int = Field(16, ge=0, le=65_536, description="Calls that wait for a slot before BUSY")
    keys_per_step: int = Field(4096, ge=1, le=4096, description="Keys per step a peer can retain")
    message_bytes: ByteCount = Field(
        256 * MIB, ge=MIB, le=1 << 32, description="Largest message that is sent or accepted"
    )
    threads: int = Field(1, ge=1, le=1024, description="torch threads per peer")
    hedge: bool = Field(
        True,
        description="A call that takes far longer than its replicas take is made at another beside it",
    )


class LinksSection(Section):
    """Timing and framing of links; both ends of a link use their own."""

    heartbeat_seconds: float = Field(1.0, gt=0, le=60, description="Time between signs of life")
    silence_seconds: float = Field(
        4.0, gt=0, le=600, description="A call without any sign of life for this long is given up"
    )
    connect_seconds: float = Field(5.0, gt=0, le=600, description="Time to set up a link")
    chunk_bytes: ByteCount = Field(MIB, ge=4096, le=MIB, description="Largest piece of a message")
    piece_bytes: ByteCount = Field(
        4 * MIB, ge=4, le=256 * MIB, description="Most of a stage's state or sum in one call"
    )


class PlannerSection(Section):
    """How replicas are chosen. The conductor's settings count, and each peer probes its links (peer.probing) by its
    own; they change no number of the run."""

    use: bool = Field(
        False,
        description="Plan every step's routes beside the step before, and probe links that no work has measured; "
        "false: callers choose by measured times",
    )
    seconds: float = Field(
        1.0,
        gt=0,
        le=600,
        description="What a plan may take, and never more than half of the step before; it is dropped if its step "
        "opens before",
    )
    wiring: str = Field(
        "swarm",
        max_length=256,
        pattern=r"^(swarm|in_turn|[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*)$",
        description="Which replica a caller takes where there is no plan; swarm: by measured times, in_turn: blindly "
        "one after the other, or a function of your own as package.module:name",
    )


class RecoverySection(Section):
    """What is kept for the loss of every replica of a stage, and how such a stage may come back (design.md 9).

    A snapshot of every stage at one common step brings the run back exactly. `stale_steps` and `neighbours` allow
    recoveries that make another model (flagged, outside I2).
    """

    snapshot_steps: int = Field(
        10, ge=0, le=10**6, description="Steps between snapshots in peers' memory; 0 keeps none"
    )
    snapshot_holders: int = Field(
        2, ge=0, le=16, description="Peers on other stages that hold each stage's snapshot"
    )
    checkpoint_steps: int = Field(
        0, ge=0, le=10**6, description="Steps between checkpoints on disk; 0 saves only the last"
    )
    checkpoints_kept: int = Field(3, ge=1, le=1000, description="Checkpoints kept on disk")
    stale_steps: int = Field(
        0, ge=0, le=10**6, description="A lost stage alone may come back this many steps old"
    )
    neighbours: bool = Field(
        False, description="Last resort: a lost stage as the average of its neighbours (CheckFree)"
    )


class SwarmSection(Section):
    """Who must be there, and how long records in the directory live."""

    min_peers: int = Field(1, ge=1, le=10_000, description="Peers needed to open the first step")
    announce_seconds: float = Field(
        30.0, ge=1, le=3600, description="Life of a record, renewed at a third"
    )
    join_seconds: float = Field(60.0, gt=0, le=3600, description="Time a newcomer has to join")


class RunConfig(Section):
    """One run, frozen: what `load_config` reads, what peers are sent, what a checkpoint records."""

    run: RunSection = Field(default_factory=RunSection)
    model: ModelSection = Field(default_factory=ModelSection)
    data: DataSection = Field(default_factory=DataSection)
    train: TrainSection = Field(default_factory=TrainSection)
    paths: PathsSection = Field(default_factory=PathsSection)
    optimizer: OptimizerSection = Field(default_factory=OptimizerSection)
    wire: WireSection = Field(default_factory=WireSection)
    limits: LimitsSection = Field(default_factory=LimitsSection)
    links: LinksSection = Field(default_factory=LinksSection)
    swarm: SwarmSection = Field(default_factory=SwarmSection)
    recovery: RecoverySection = Field(default_factory=RecoverySection)
    planner: PlannerSection = Field(default_factory=PlannerSection)
    outer: OuterSection = Field(default_factory=OuterSection)

    @property
    def hash(self) -> str:
        """Hex SHA-256 of what peers must agree on for equal arithmetic.

        Taken over canonical JSON (keys sorted, no spaces, floats by repr) of every section but `limits`, `links`,
        `swarm`, `recovery` and `planner`, and without `run.name`, `model.preset` and `model.initial`, which name things
        and change no number.
        """
        return _hash_of(self)

    def to_json(self) -> str:
        """All settings as JSON; `config_from_json` gives an equal configuration back."""
        return self.model_dump_json()

    @model_validator(mode="after")
    def _sections_fit(self) -> "RunConfig":
        self._steps_fit()
        self._paths_fit()
        self._limits_fit()
        self._rounds_fit()
        if self.data.tokenizer == "bytes" and 0 < self.model.vocab_size < BYTE_TOKENS:
            raise ConfigError(
                f"model.vocab_size = {self.model.vocab_size} is too small for the byte tokenizer",
                f"data.tokenizer = 'bytes' has {BYTE_TOKENS} tokens",
                f"set model.vocab_size to 0 or to at least {BYTE_TOKENS}",
            )
        return self

    def _steps_fit(self) -> None:
        warmup_steps, steps = self.optimizer.warmup_steps, self.run.steps
        if warmup_steps > steps:
            raise ConfigError(
                f"optimizer.warmup_steps = {warmup_steps} is more than run.steps = {steps}",
                "the learning rate would never reach its value",
                f"set optimizer.warmup_steps to at most {steps}, or train longer",
            )

    def _rounds_fit(self) -> None:
        outer = self.outer
        if outer.every_seconds and not outer.inner_steps:
            raise ConfigError(
                f"outer.every_seconds = {outer.every_seconds:g} without outer.inner_steps",
                "outer.inner_steps = 0 means that there are no outer rounds",
                "say how many steps a round has at most, as in outer.inner_steps = 100",
            )
        if outer.inner_steps and outer.delay_steps > outer.inner_steps:
            raise ConfigError(
                f"outer.delay_steps = {outer.delay_steps} is more than outer.inner_steps = {outer.inner_steps}",
                "a result has to be merged before the fragment sends again",
                f"set outer.delay_steps to at most {outer.inner_steps}",
            )

    def _paths_fit(self) -> None:
        paths, stages = self.paths, self.model.stages
        wrong = [stage for stage in paths.protected if not 1 <= stage <= stages]
        if wrong or list(paths.protected) != sorted(set(paths.protected)):
            raise ConfigError(
                f"paths.protected = {list(paths.protected)} cannot be used",
                f"it must name middle stages from 1 to {stages} (model.stages), ascending, each once",
                "correct it; the edge, stage 0, is never left out",
            )
        if paths.visited(stages) < min(stages, len(paths.protected) + 1):
            raise ConfigError(
                f"paths.skip = {paths.skip} lets a microbatch visit {paths.visited(stages)} of "
                f"{stages} middle stages, of which paths.protected takes {len(paths.protected)}",
                "the other stages would never be visited, and so never learn",
                "lower paths.skip, or protect fewer stages",
            )
        free = stages - len(paths.protected)
        if paths.shares and (len(paths.shares) != free or paths.visits == "planned"):
            raise ConfigError(
                f"paths.shares = {list(paths.shares)} does not go with model.stages = {stages} and "
                f"paths.visits = {paths.visits}",
                f"{free} of the middle stages are not protected, and only seeded visits have shares",
                f"state {free} shares and set paths.visits = seeded, or leave paths.shares out",
            )
        each = paths.visited(stages) - len(paths.protected)
        if paths.shares and each * max(paths.shares) > math.fsum(paths.shares) * (1 + 1e-9):
            raise ConfigError(
                f"paths.shares = {list(paths.shares)} does not go with paths.skip = {paths.skip}",
                "a microbatch would have to visit one stage more than once",
                f"let no share be more than 1/{each} of their sum, or raise paths.skip",
            )
        if paths.visits == "planned" and not self.planner.use:
            raise ConfigError(
                "paths.visits = planned needs a planner",
                "planner.use is false, so nobody would choose who visits what",
                "set planner.use = true, or paths.visits = seeded",
            )
        if self.train.swap_ends and (paths.visited(stages) < stages or paths.swaps):
            raise ConfigError(
                f"train.swap_ends does not go with paths.skip = {paths.skip} and "
                f"paths.swaps = {paths.swaps}",
                "each of them says in which order a microbatch visits its stages",
                "set train.swap_ends = false, or both paths.skip and paths.swaps to 0",
            )

    def _limits_fit(self) -> None:
        limits, train, links = self.limits, self.train, self.links
        if limits.keys_per_step < train.microbatches:
            raise ConfigError(
                f"limits.keys_per_step = {limits.keys_per_step} is less than "
                f"train.microbatches = {train.microbatches}",
                "a stage with one replica must retain every key of a step",
                f"set limits.keys_per_step to at least {train.microbatches}",
            )
        values = train.tokens_per_microbatch * self.model.width
        activation_bytes = int(values * CODEC_BYTES_PER_VALUE[self.wire.codec])
        if activation_bytes > limits.message_bytes:
            raise ConfigError(
                f"limits.message_bytes = {format_bytes(limits.message_bytes)} is less than one "
                f"activation of {format_bytes(activation_bytes)}",
                "an activation holds train.microbatch_size x train.sequence_length x model.width values",
                "raise limits.message_bytes, or make the microbatch smaller",
            )
        if links.silence_seconds < 2 * links.heartbeat_seconds:
            raise ConfigError(
                f"links.silence_seconds = {links.silence_seconds} is less than two heartbeats of "
                f"links.heartbeat_seconds = {links.heartbeat_seconds}",
                "one late sign of life would break a healthy call",
                f"set links.silence_seconds to at least {2 * links.heartbeat_seconds}",
            )


@lru_cache(maxsize=256)
def _hash_of(config: RunConfig) -> str:
    """Every greeting of a link names the run, so this is worked out once for each configuration."""
    model = {"preset", "initial"}
    if not config.model.initial_sha256:
        # A run that starts from its seed keeps the hash it had before there were other beginnings.
        model.add("initial_sha256")
    outer = {"grace_seconds"}
    if config.outer.founders == 1:
        # Likewise: as before there could be more.
        outer.add("founders")
    if config.outer.codec != "auto":
        # It is of no matter then, and was not there before.
        outer.add("distortion")
    agreed = config.model_dump(
        exclude={
            "limits": True,
            "links": True,
            "swarm": True,
            "recovery": True,
            "planner": True,
            "outer": outer,
            "run": {"name"},
            "model": model,
        }
    )
    canonical = json.dumps(agreed, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
