"""What an island can spare a round's result for: the delay's steps, less what the rest of the round takes."""

import pytest

from swarmtrain.core.config import load_config
from swarmtrain.outer.slack import ROUNDS_KEPT, Slack

PLACE = (0, 0)


def slack_of(*overrides: str) -> Slack:
    base = ("run.steps=41", "outer.inner_steps=10", "links.heartbeat_seconds=0.5")
    return Slack(load_config((), [*base, "outer.delay_steps=4", *overrides]))


def stepped(slack: Slack, *seconds: float) -> None:
    now = 100.0
    slack.stepped(now)
    for step_seconds in seconds:
        now += step_seconds
        slack.stepped(now)


def test_the_slack_is_what_the_delay_leaves_beside_the_round() -> None:
    slack = slack_of()
    assert slack.seconds(PLACE, 0) < 0, "nothing is measured yet"
    stepped(few := slack_of(), 30.0, 2.0)
    few.came(PLACE, 0, 1.5)
    assert few.seconds(PLACE, 1) < 0, "either may be one that waited"
    stepped(slack, 2.0, 2.0, 30.0)  # one step that waited is not what a step takes
    assert slack.seconds(PLACE, 0) < 0, "for all that is known a round takes the whole delay"
    assert not slack.news(PLACE, -1.0)
    slack.came(PLACE, 0, 1.5)
    slack.came(PLACE, 0, 7.0)  # told once more
    assert slack.seconds(PLACE, 1) == 4 * 2.0 - 1.5 - 0.5
    assert slack.seconds((1, 0), 1) < 0, "of another place nothing is known"


def test_the_longest_of_the_last_rounds_counts_and_less_than_a_step_is_none() -> None:
    slack = slack_of()
    stepped(slack, 2.0, 2.0, 2.0)
    for number, took in enumerate((5.0, 1.0, 1.0, 1.0)):
        slack.came(PLACE, number, took)
    assert slack.seconds(PLACE, 1) == 8.0 - 5.0 - 0.5
    for number in range(4, 4 + ROUNDS_KEPT):
        slack.came(PLACE, number, 5.5)
    assert slack.seconds(PLACE, 1) == 2.0
    slack.came(PLACE, 4 + ROUNDS_KEPT, 5.6)
    assert slack.seconds(PLACE, 1) < 0


def test_the_last_round_has_one_step_to_come_in() -> None:
    slack = slack_of("run.steps=45")
    stepped(slack, 2.0, 2.0, 2.0)
    slack.came(PLACE, 0, 0.25)
    assert slack.seconds(PLACE, 3) == 7.25 and slack.seconds(PLACE, 4) < 0


def test_what_it_comes_to_is_told_when_it_changes() -> None:
    slack = slack_of()
    assert not slack.news(PLACE, slack.seconds(PLACE, 0))
    stepped(slack, 2.0, 2.0, 2.0)
    slack.came(PLACE, 0, 1.5)
    told = [slack.news(PLACE, seconds) for seconds in (7.5, 7.6, 3.0, -1.0, -1.0)]
    assert told[0].endswith("8 s, which the delay leaves beside the rest of the round")
    assert told[2].startswith("stage 0, fragment 0: 3 s, ") and "5 s, as the delay" in told[3]
    assert not told[1] and not told[4]


@pytest.mark.parametrize("grace_seconds", [1, 30])
def test_a_configured_grace_says_it_all(grace_seconds: int) -> None:
    slack = slack_of(f"outer.grace_seconds={grace_seconds}")
    stepped(slack, 2.0, 2.0, 2.0)
    slack.came(PLACE, 0, 1.5)
    assert slack.seconds(PLACE, 0) < 0 and not slack.news(PLACE, -1.0)
