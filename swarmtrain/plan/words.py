"""Stages in the words of a reason; pure."""

from collections.abc import Sequence

from swarmtrain.core.types import EDGE_STAGE


def stages_in_words(stages: Sequence[int]) -> str:
    """Ascending `stages` as text: "stage 3", "stages 1 to 4", "stages 0, 2 and 5"."""
    if not stages:
        return "no stage"
    if len(stages) == 1:
        return f"stage {stages[0]}"
    if stages[-1] - stages[0] == len(stages) - 1:
        return f"stages {stages[0]} to {stages[-1]}"
    return f"stages {', '.join(map(str, stages[:-1]))} and {stages[-1]}"


def gaps_in_words(missing: Sequence[int], room_stages: int) -> str:
    """What stays uncovered although the free peers have room for so many stages; empty where nothing does."""
    text = ""
    if EDGE_STAGE in missing:
        text += " Stage 0, the edge, stays uncovered: no free peer here can be an edge."
    middle = [stage for stage in missing if stage != EDGE_STAGE]
    if middle:
        verb = "stays" if len(middle) == 1 else "stay"
        text += f" {stages_in_words(middle).capitalize()} {verb} uncovered: "
        text += f"the free peers here have room for {room_stages} in all."
    return text
