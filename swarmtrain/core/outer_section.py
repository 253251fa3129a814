"""What can be configured of outer rounds."""

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from swarmtrain.core.rounds import RoundCodec
from swarmtrain.core.section import Section

ROUND_CODECS: tuple[str, ...] = (
    *(name for name in get_args(RoundCodec) if name),
    *("rank8", "rank16", "rank32", "top64", "top128"),
)
"""All of `wire.codecs.BUILT_IN`, which this package cannot import: those that "auto" chooses from come first."""

CHOSEN_BY_DISTORTION = "auto"
_OWN = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*")


def _as_codec(name: str) -> str:
    if name in (*ROUND_CODECS, CHOSEN_BY_DISTORTION) or _OWN.fullmatch(name):
        return name
    known = ", ".join(ROUND_CODECS)
    raise ValueError(f"it must be {known}, auto, or package.module:Name for a codec of your own")


class OuterSection(Section):
    """Outer rounds between islands, swarms that each hold a whole model (design.md 8). All of a run have them alike."""

    inner_steps: int = Field(
        0,
        ge=0,
        le=10**6,
        description="Steps from one round of a fragment to its next; 0 has no rounds",
    )
    every_seconds: float = Field(
        0.0,
        ge=0,
        le=10**7,
        description="Seconds from one round of a fragment to its next, if inner_steps are not done sooner: "
        "slow islands make fewer; 0 goes by steps alone",
    )
    delay_steps: int = Field(
        1,
        ge=1,
        le=10**6,
        description="Steps that the result of a round has to come in, at most inner_steps; 1 hides little of it",
    )
    fragments: int = Field(
        1, ge=1, le=1024, description="Pieces of each stage that have rounds of their own, in turns"
    )
    staggered: bool = Field(False, description="Stages take turns as well")
    founders: int = Field(
        1,
        ge=1,
        le=100,
        description="So many islands, from number 0 on, vote in the first round, and most of them are needed for it; "
        "later ones vote once they were there in a round. With 1 the first island alone can begin",
    )
    optimizer: Literal["auto", "nesterov", "momentum", "average"] = Field(
        "auto", description="How outer parameters follow the mean; auto goes by codec and delay"
    )
    learning_rate: float = Field(
        0.7, gt=0, le=10, description="Of the outer optimizer; auto has its own"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Of the outer optimizer; auto has its own")
    warm_up: bool = Field(True, description="Let the outer momentum grow with the rounds done")
    codec: Annotated[str, AfterValidator(_as_codec)] = Field(
        "int4",
        max_length=256,
        description="Of what islands send each other; auto goes by distortion; or your own as package.module:Name",
    )
    distortion: float = Field(
        0.02,
        gt=0,
        le=1,
        description="With codec auto: the squared error of contributions over their squared norm that is still fine",
    )
    zstd_level: int = Field(3, ge=0, le=19, description="zstd level of payloads; 0 turns it off")
    feedback: Literal["auto", "on", "off"] = Field(
        "auto", description="Send later what the codec left out; auto: where it helps the codec"
    )
    merge_factor: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the own parameters that a late result leaves (Streaming DiLoCo); "
        "0 carries own progress on top instead",
    )
    grace_seconds: float = Field(
        0.0,
        ge=0,
        le=86_400,
        description="How long an island waits for a round's result at the most; the round waits half of it for islands "
        "once most are ready. 0: the round waits as long as the delay leaves time beside the rest of it, so that no "
        "step waits for them, or 5 s where it leaves none; and 10 s for a result",
    )
