"""What a replica says of its rounds, as another one reads it: all of it, or a StateError and nothing changed."""

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import StateError, WireError
from swarmtrain.core.rounds import Choice, Counted, GroupMember, LastCounted, RoundCodec
from swarmtrain.outer.stage import Flat, StageRounds, island_named, member_name
from swarmtrain.peer.stage_rounds import (
    GroupState,
    OuterStates,
    fetch_state,
    settings_of,
    state_answer,
)
from swarmtrain.transport.link import Message
from swarmtrain.transport.requests import OuterStateReply, OuterStateRequest
from tests.experiments.runs import small_config
from tests.outer.values import EXACT, fragment

ELEMENTS, ISLAND = 6, 3


def rounds() -> StageRounds:
    return StageRounds(ISLAND, (fragment(ELEMENTS),), torch.zeros(ELEMENTS), EXACT)


def after_a_round(codec: RoundCodec = "") -> StageRounds:
    held = rounds()
    held.stepped(5)
    local = torch.ones(ELEMENTS)
    sent = held.send(0, local, 1e-3)
    assert sent is not None
    gathering = held.members[0].gathering()
    gathering.add(sent[0])
    held.merge(0, gathering.merged(), local, codec)
    return held


def with_entry(packed: Flat, name: str, value: object) -> Flat:
    """`packed` with one entry of its only member replaced."""
    data = packed.tobytes()
    length = int.from_bytes(data[:8], "little")
    described = json.loads(data[8 : 8 + length])
    described["members"][0][name] = value
    text = json.dumps(described).encode()
    text += b" " * (-len(text) % 4)
    whole = len(text).to_bytes(8, "little") + text + data[8 + length :]
    return np.frombuffer(whole, dtype=np.float32)


def test_names_of_members_and_islands_belong_together() -> None:
    for island in (0, 7, 9999):
        assert island_named(member_name(island)) == island
    for name in (
        "",
        "7",
        "island-7",
        "island--003",
        "island-00007",
        "island-\u0663\u0663\u0663\u0663",
    ):
        with pytest.raises(ValueError):
            island_named(name)


@pytest.mark.parametrize(
    "name, value",
    [
        *(
            ("counted", value)
            for value in (
                None, 7, "island-0003", ["island-0003"], {"c": 0}, {"island--003": 0}, {"island-3": 0},
                {"island-0003": "x"}, {"island-0003": "0"}, {"island-0003": None}, {"island-0003": 0.5},
                {"island-0003": -1}, {"island-0003": 1}, {"island-0003": 1 << 80},
            )
        ),
        ("clock", "x"),
        ("clock", None),
        ("last_rate", []),
        ("last_rate", float("inf")),
        ("is_sent", True),
        ("lengths", [float("inf")] * 4),
        *(("measured", value) for value in (4, [4], [["int4", "x", 0]], [["int4", 1e999, 0]], [["int4"]])),
        *(("outer_codec", value) for value in ("rank8", "zip", 4, None, ["int4"])),
    ],
)  # fmt: skip
def test_a_state_that_makes_no_sense_is_refused_and_changes_nothing(
    name: str, value: object
) -> None:
    packed, mine = after_a_round().pack([[]]), rounds()
    before = mine.pack([[]]).tobytes()
    with pytest.raises(StateError):
        mine.unpacked(with_entry(packed, name, value))
    found, voters = mine.unpacked(with_entry(packed, "clock", 1))
    assert voters == [[]] and found.members[0].counted == {"island-0003": 0}
    assert mine.pack([[]]).tobytes() == before


class Teller:
    """A peer that tells what it holds; `counted` of it as it likes."""

    def __init__(self, counted: tuple[tuple[int, int], ...]) -> None:
        member = after_a_round().members[0]
        self.held = GroupState(member.state, (GroupMember(0, 0),), member.state.digest(), {})
        self.counted = tuple(LastCounted(*entry) for entry in counted)

    async def ask(self, request: OuterStateRequest) -> Message:
        answer = state_answer(self.held, request)
        reply = replace(OuterStateReply.decode(answer.meta), counted=self.counted)
        return Message(reply.encode(), answer.body)


async def fetched(*counted: tuple[int, int]) -> GroupState:
    return await fetch_state(Teller(counted).ask, (0, 0), 1, ELEMENTS, EXACT.optimizer)


def test_a_state_that_counts_rounds_to_come_is_not_taken_over() -> None:
    """Kept, it would make this replica's own state useless to its siblings."""
    assert asyncio.run(fetched((3, 0))).counted == {"island-0003": 0}
    with pytest.raises(WireError, match="rounds to come"):
        asyncio.run(fetched((3, 1)))


# ---- what the next round sends in -------------------------------------------------------------------------------


def test_what_the_group_chose_to_send_in_goes_with_the_state() -> None:
    chosen, before = after_a_round("ternary"), after_a_round()
    held, other = chosen.members[0], before.members[0]
    assert (held.codec_name, other.codec_name) == ("ternary", "none")
    # Whoever would send in something else has another base, and is found out before the round.
    assert held.tag.base != other.tag.base
    found, _ = rounds().unpacked(chosen.pack([[]]))
    assert found.members[0].codec_name == "ternary" and found.members[0].tag == held.tag
    # A round that chooses nothing leaves it as it is.
    chosen.stepped(5)
    local = torch.full((ELEMENTS,), 2.0)
    sent = chosen.send(0, local, 1e-3)
    assert sent is not None and sent[0].tag.form == "difference"
    gathering = held.gathering()
    gathering.add(sent[0])
    chosen.merge(0, gathering.merged(), local)
    assert held.codec_name == "ternary" and held.state.round == 2


def test_a_codec_that_nobody_could_send_in_is_given_up() -> None:
    """Nothing is measured on what was not sent, so no round would ever choose another."""
    chosen = after_a_round("fp16")
    held, local = chosen.members[0], torch.full((ELEMENTS,), 1e6)
    chosen.stepped(5)
    assert chosen.send(0, local, 1e-3) is None
    chosen.merge(0, held.gathering().merged(), local)
    assert held.codec_name == "none"
    chosen.stepped(5)
    assert chosen.send(0, local, 1e-3) is not None


def test_who_catches_up_learns_what_the_next_round_sends_in() -> None:
    teller = Teller(((3, 0),))
    member = after_a_round("ternary").members[0]
    teller.held = GroupState(member.state, (GroupMember(0, 0),), member.state.digest(), {})
    found = asyncio.run(fetch_state(teller.ask, (0, 0), 1, ELEMENTS, EXACT.optimizer))
    late = rounds()
    late.catch_up(0, found.state, found.counted, torch.zeros(ELEMENTS))
    assert late.members[0].codec_name == "ternary" and late.members[0].tag == member.tag


def test_a_result_names_who_votes_next_and_in_what_they_send() -> None:
    """What was accepted with other voters first, and then proposed again, is not the result that was decided."""
    states = OuterStates(RunConfig(), ISLAND)
    states.stages[0] = rounds()
    sent = rounds()
    sent.stepped(5)
    made = sent.send(0, torch.ones(ELEMENTS), 1e-3)
    assert made is not None

    def result(voters: tuple[int, ...], codec: RoundCodec) -> bytes:
        members = tuple(GroupMember(island, 1) for island in voters)
        choice = Choice((Counted(ISLAND, 5, b"of 3"),), members, b"", codec=codec)
        return states.reduction((0, 0)).whole(choice, {ISLAND: made[1].sections}).choice.result

    assert result((3,), "") == result((3,), "")
    assert len({result((3,), ""), result((3, 4), ""), result((3,), "int4")}) == 3


@pytest.mark.parametrize(
    ("inner_steps", "delay_steps", "warms_up"), [(10, 1, True), (10, 2, False), (1, 1, False)]
)
def test_little_momentum_where_results_are_late_by_more_than_the_step_that_all_are(
    inner_steps: int, delay_steps: int, warms_up: bool
) -> None:
    """With rounds of one step that step is a whole round."""
    overrides = [f"outer.inner_steps={inner_steps}", f"outer.delay_steps={delay_steps}"]
    config = small_config(*overrides, "outer.codec=int4")
    assert settings_of(config).optimizer.warms_up == warms_up
