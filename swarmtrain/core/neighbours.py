"""Which stages can stand in for a lost one: CheckFree and CheckFree+ (arXiv 2506.15461), as a pure rule."""


def neighbour_stages(
    lost: int, all_lost: tuple[int, ...], last: int, swap_ends: bool
) -> tuple[int, ...] | str:
    """The middle stages whose average replaces the middle stage `lost`, or why none may.

    The first and the last middle stage are copied from the one beside them, which only works when both were trained
    to do each other's part (`train.swap_ends`): without it the loss went from 1.6 to 4.8 (reliability_security.md 1.5).
    """
    if lost == 0:
        return (
            "stage 0, the edge, has no neighbour of its shape: it comes back from a snapshot only"
        )
    if last < 2:
        return f"stage {lost} is the only middle stage: it has no neighbour"
    wanted = tuple(stage for stage in (lost - 1, lost + 1) if 1 <= stage <= last)
    gone = [stage for stage in wanted if stage in all_lost]
    if gone:
        return (
            f"stages {lost} and {gone[0]} were lost together: neighbours cannot replace each other"
        )
    if len(wanted) == 1 and not swap_ends:
        return (
            f"stage {lost} is at an end of the model, and train.swap_ends is off: "
            "a copy of its neighbour would wreck it"
        )
    return wanted
