"""The runs that benchmarks compare: two middle stages, one in each process, at two widths."""

from dataclasses import dataclass

from swarmtrain.core.config import RunConfig, config_from_json
from swarmtrain.core.sections import (
    DataSection,
    LimitsSection,
    ModelSection,
    OptimizerSection,
    RunSection,
    SwarmSection,
    TrainSection,
    WireSection,
)

STAGES = 2


@dataclass(frozen=True, slots=True)
class Shape:
    """A model and a step of two stages."""

    width: int
    heads: int
    kv_heads: int
    ffn_width: int
    blocks_per_stage: int
    microbatches: int
    microbatch_size: int
    sequence_length: int

    def tokens_per_step(self) -> int:
        return self.microbatches * self.microbatch_size * self.sequence_length

    def config(self, steps: int, accumulation: str = "fast", codec: str = "none") -> RunConfig:
        """The run's configuration; `steps` counts from the first, warm-up included."""
        config = RunConfig(
            run=RunSection(name=f"width-{self.width}", steps=steps),
            model=ModelSection(
                stages=STAGES,
                blocks_per_stage=self.blocks_per_stage,
                width=self.width,
                heads=self.heads,
                kv_heads=self.kv_heads,
                ffn_width=self.ffn_width,
            ),
            data=DataSection(),
            train=TrainSection(
                microbatches=self.microbatches,
                microbatch_size=self.microbatch_size,
                sequence_length=self.sequence_length,
                accumulation="exact" if accumulation == "exact" else "fast",
            ),
            optimizer=OptimizerSection(learning_rate=1e-3, warmup_steps=0),
            wire=WireSection.model_validate({"codec": codec}),
            limits=LimitsSection(threads=1, in_flight=self.microbatches),
            swarm=SwarmSection(min_peers=STAGES),
        )
        return config_from_json(config.to_json())


SHAPES = {
    256: Shape(256, 8, 4, 688, 2, 8, 4, 128),
    768: Shape(768, 12, 4, 2048, 2, 8, 2, 128),
}
QUICK_SHAPES = {
    128: Shape(128, 4, 2, 352, 1, 8, 2, 64),
    256: Shape(256, 8, 4, 688, 1, 8, 2, 64),
}
