"""Machines, networks and churn by name; what they cost in the virtual world, and runs whose machines come and go."""

import functools
from pathlib import Path

import pytest

from swarmtrain.compute.lane import Kind, Task
from swarmtrain.core.config import ModelSection
from swarmtrain.core.errors import ConfigError
from swarmtrain.core.events import LinkClosed, Noted, PeerJoined, Replayed
from swarmtrain.core.sizes import parameter_count
from swarmtrain.experiments import profiles
from swarmtrain.experiments.checker import check
from swarmtrain.experiments.costs import Charged, Weights, shape_of
from swarmtrain.experiments.faults import Chances
from swarmtrain.experiments.profiles import (
    ChurnEvent,
    ChurnProfile,
    read_churn,
    read_machine,
    read_network,
)
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, VirtualRun, simulate
from swarmtrain.experiments.wires import Site, Way, plain_weight, site_of
from swarmtrain.transport.frames import Frame, pack
from swarmtrain.transport.frames import Kind as FrameKind
from swarmtrain.transport.requests import PieceRequest, StateRequest
from tests.experiments.runs import corpus, events_of, known_reference, sha_of, small_config

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "peers"
READERS = {"machines": read_machine, "networks": read_network, "churn": read_churn}
SHIPPED = sorted(path.relative_to(PEERS) for path in PEERS.rglob("*.toml"))

# ---- the files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=str)
def test_every_shipped_profile_can_be_read_by_name_from_below(path: Path):
    profile = READERS[path.parent.name](path.stem, ROOT / "deploy" / "scenarios")
    assert profile.description and profile.source


def test_what_was_asked_for_is_shipped():
    names = {str(path.with_suffix("")) for path in SHIPPED}
    machines = {f"machines/{name}" for name in ("laptop", "consumer-gpu", "t4", "a100")}
    networks = {f"networks/{name}" for name in ("home", "lan", "gcp5", "gcp12")}
    assert names >= machines | networks | {"churn/calm", "churn/spot"}


def test_the_regions_have_the_published_figures():
    twelve, five = read_network("gcp12", ROOT), read_network("gcp5", ROOT)
    assert len(twelve.regions) == 12 and set(five.regions) < set(twelve.regions)
    sydney, belgium = twelve.place("Australia"), twelve.place("Belgium")
    assert twelve.one_way_latency_seconds[sydney][belgium] == 0.129
    assert twelve.bytes_per_second[sydney][belgium] == 10551296
    for a in five.regions:
        for b in five.regions:
            assert (
                five.bytes_per_second[five.place(a)][five.place(b)]
                == twelve.bytes_per_second[twelve.place(b)][twelve.place(a)]
            )


HEAD = 'description = "d"\nsource = "s"\n'
MACHINE = HEAD + 'utilisation = 0.5\nmemory_bytes = "1GiB"\ndown_bytes_per_second = 1\n'
NETWORK = HEAD + 'regions = ["a", "b"]\n'


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("machines", MACHINE + "flops_per_second = 1e9", "up_bytes_per_second"),
        ("machines", MACHINE + "flops_per_second = -1\nup_bytes_per_second = 1", "flops_per_second = -1"),
        ("machines", MACHINE + 'flops_per_second = 1\nup_bytes_per_second = "20 parsecs"', "20Mbit"),
        ("machines", MACHINE + "flops_per_second = 1\nup_bytes_per_second = 1\nfloops = 1", "floops"),
        ("networks", NETWORK + "one_way_latency_seconds = [[0.1]]\nbytes_per_second = [[1]]", "row and a column"),
        ("networks", HEAD + 'regions = ["a"]\none_way_latency_seconds = [[99]]\nbytes_per_second = [[1]]', "60"),
        ("churn", HEAD + 'mean_life_seconds = 1\n[[event]]\nat_seconds = 1\nkind = "leave"', "either drawn"),
        ("churn", HEAD + "mean_life_seconds = 0", "mean_life_seconds"),
        ("churn", "description = ", "TOML"),
    ],
)  # fmt: skip
def test_a_wrong_profile_is_refused_with_key_and_reason(
    tmp_path: Path, kind: str, text: str, words: str
):
    (tmp_path / "wrong.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        READERS[kind]("wrong.toml", tmp_path)
    assert words in str(caught.value) and caught.value.remedy


def test_a_name_that_is_not_there_lists_those_that_are():
    with pytest.raises(ConfigError, match="there are a100, consumer-gpu, laptop, t4"):
        read_machine("h100", ROOT)


def test_elsewhere_names_are_those_of_the_project(tmp_path: Path):
    assert read_machine("t4", tmp_path) == read_machine("t4", ROOT)


def test_without_a_folder_of_profiles_the_error_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(profiles, "PROJECT", tmp_path / "installed")
    with pytest.raises(ConfigError, match="nearest folder called peers"):
        read_machine("t4", tmp_path)


# ---- costs ---------------------------------------------------------------------------------------------------------

ONE_B = ModelSection.model_validate({"preset": "1b"})
CONFIG = small_config(
    "model.family=vector",
    "model.stages=16",
    "model.width=4",
    "model.heads=2",
    "model.kv_heads=1",
    # Snapshots would fill a small machine before its first stage.
    "recovery.snapshot_steps=0",
)
CHARGED = Charged(ONE_B, microbatch_size=1, sequence_length=512, codec="bf16")
SHAPE = CHARGED.shape(CONFIG)


def test_a_charged_model_spreads_its_blocks_over_the_runs_stages():
    assert (SHAPE.config.model.stages, SHAPE.config.model.blocks_per_stage) == (16, 1)
    middle = 16 * SHAPE.parameters(1) + SHAPE.parameters(0)
    assert middle == parameter_count(ONE_B, ONE_B.vocab_size)


def test_operations_are_six_for_each_parameter_and_token_and_little_more():
    tokens = 512
    forward, backward = (
        sum(SHAPE.flops(Task(kind, stage)) for stage in range(17))
        for kind in (Kind.FORWARD, Kind.BACKWARD)
    )
    head = SHAPE.flops(Task(Kind.LOSS, 0))
    ideal = 6 * tokens * parameter_count(ONE_B, ONE_B.vocab_size)
    assert backward == 2 * forward
    assert ideal < forward + backward + head < 1.1 * ideal
    assert SHAPE.flops(Task(Kind.STATE, 3)) == 0


def test_memory_decides_how_many_stages_of_the_charged_model_a_machine_takes():
    t4, a100 = read_machine("t4", ROOT), read_machine("a100", ROOT)
    few, many = SHAPE.capacity_stages(t4.memory_bytes), SHAPE.capacity_stages(a100.memory_bytes)
    assert 1 <= few < many <= 17
    own = shape_of(CONFIG, 257)
    assert own.capacity_stages(own.needed_bytes(few)) == few


def test_bodies_are_charged_as_those_of_the_charged_model_and_nothing_else_is():
    weights = Weights(CONFIG, 257, SHAPE)
    weigh = weights.weigh
    hop = pack(Frame(FrameKind.REQUEST, 0, 1, "process", b"meta", 512, bytes(512), 1000))
    charged_bytes, is_body = weigh("a", "b", hop)
    activation_bytes = 512 * 2048 * 2
    assert charged_bytes == len(hop) - 512 + activation_bytes
    assert is_body
    ask = pack(
        Frame(
            FrameKind.REQUEST,
            0,
            7,
            "piece",
            PieceRequest(0, 1, 1, 3, 0, 4, False).encode(),
            0,
            b"",
            1000,
        )
    )
    assert weigh("a", "b", ask) == (len(ask), False)
    # A slice of the tiny sum may be empty; that of the charged model is a quarter of its 8-byte sums.
    answer = pack(Frame(FrameKind.ANSWER, 0, 7, "", b"meta"))
    assert weigh("b", "a", answer) == (len(answer) + SHAPE.parameters(3) * 8 / 4, True)
    # A piece of state that came packed counts as what it is in memory; none where the donor has none to give.
    ask_state = StateRequest(3, 10, 0, 6000, takes_packed=True).encode()
    stated = SHAPE.parameters(3) / weights._real_parameters[1]
    for call, body in ((8, b""), (9, bytes(5000)), (10, bytes(6000))):
        weigh("a", "b", pack(Frame(FrameKind.REQUEST, 0, call, "state", ask_state, 0, b"", 1000)))
        answer = pack(Frame(FrameKind.ANSWER, 0, call, "", b"meta", len(body), body))
        charged_bytes, is_body = weigh("b", "a", answer)
        assert charged_bytes == len(answer) - len(body) + (6000 * stated if body else 0)
        assert is_body == bool(body)
    ping = pack(Frame(FrameKind.PING, call=3))
    assert weigh("a", "b", ping) == (len(ping), False)


# ---- lines ---------------------------------------------------------------------------------------------------------


def test_a_machines_access_line_is_shared_by_all_that_it_sends():
    sites = {"a": Site(up_bytes_per_second=100.0), "b": Site(), "c": Site()}
    ways = {name: Way("a", name, sites, plain_weight) for name in "bc"}
    assert ways["b"].carry(bytes(100), 0.0, 1e9) == (1.0, False)
    assert ways["c"].carry(bytes(100), 0.0, 1e9) == (2.0, False)
    assert Way("b", "c", sites, plain_weight).carry(bytes(100), 0.0, 1e9)[0] < 1e-6


def test_inwards_is_another_line_than_outwards():
    home = read_network("home", ROOT)
    sites = {name: site_of(None, home) for name in "abc"}
    megabyte = bytes(10**6)
    slow_seconds, _ = Way("a", "b", sites, plain_weight).carry(megabyte, 0.0, 1e9)
    assert slow_seconds == pytest.approx(8 / 20)
    # Two senders fill a receiver's line of 100 Mbit/s before their own of 20.
    assert sites["b"].down_bytes_per_second == 5 * sites["a"].up_bytes_per_second


def test_small_frames_do_not_wait_for_bodies_but_bodies_wait_for_each_other():
    sites = {"a": Site(up_bytes_per_second=100.0), "b": Site()}

    def weigh(sender: str, receiver: str, frame: bytes) -> tuple[float, bool]:
        return float(len(frame)), len(frame) >= 100

    way = Way("a", "b", sites, weigh)
    assert way.carry(bytes(100), 0.0, 1e9) == (1.0, True)
    assert way.carry(bytes(10), 0.0, 1e9) == (0.1, False)
    # The small one took its share of the line.
    assert way.carry(bytes(100), 0.0, 1e9) == (pytest.approx(2.1), True)


def test_a_charged_run_takes_the_time_of_the_charged_model_and_no_link_falls_silent():
    """Activations of 6 MB take seconds on 20 Mbit/s; heartbeats of half a second pass them."""
    config = small_config(
        "model.family=vector",
        "model.stages=2",
        "model.width=4",
        "model.heads=2",
        "model.kv_heads=1",
        "links.heartbeat_seconds=0.5",
        "links.silence_seconds=60",
        "recovery.snapshot_steps=0",
        steps=2,
    )
    laptop, home = read_machine("laptop", ROOT), read_network("home", ROOT)
    fleet = tuple(
        VirtualPeer(f"home-{stage}", (stage,), machine=laptop, region="home") for stage in range(3)
    )
    small = ModelSection.model_validate({"preset": "125m"})
    charged = Charged(small, microbatch_size=1, sequence_length=2048, codec="none")
    run = simulate(config, Scenario(fleet, network=home, charged=charged), corpus())
    assert sha_of(run) == known_reference(config).parameters_sha256
    assert not [event for event in events_of(run, LinkClosed) if "silent" in event.reason]
    # The edge computes the loss of six keys: 3 x 2 x 32,000 x 768 x 2048 operations at 192 Gflop/s each.
    assert run.commits[1].seconds > 6 * 6 * 32_000 * 768 * 2048 / 192e9
    assert run.bytes_sent < 10**6, "what really travels is tiny"


# ---- comings and goings --------------------------------------------------------------------------------------------

SMALL = small_config(
    "model.family=vector",
    "model.width=4",
    "model.heads=2",
    "model.kv_heads=1",
    "train.microbatches=4",
    "train.microbatch_size=1",
    "train.sequence_length=4",
    "links.heartbeat_seconds=0.5",
    "links.silence_seconds=2",
    steps=12,
)
HARSH = ChurnProfile(
    description="d",
    source="s",
    mean_life_seconds=20.0,
    mean_absence_seconds=1.0,
    burst_share=0.5,
    burst_machines=2,
)


def fleet(churn: ChurnProfile) -> tuple[VirtualPeer, ...]:
    return tuple(VirtualPeer(f"{s}-{i}", (s,), churn=churn) for s in range(3) for i in range(4))


def comings(churn: ChurnProfile, chances: Chances = Chances(), seed: int = 7) -> VirtualRun:  # noqa: B008
    config = SMALL.model_copy(update={"run": SMALL.run.model_copy(update={"seed": seed})})
    scenario = Scenario(
        fleet(churn),
        latency_seconds=0.01,
        forward_seconds=0.1,
        backward_seconds=0.2,
        chances=chances,
        stall_seconds=120.0,
    )
    return simulate(config, scenario, corpus())


@functools.cache
def harsh() -> VirtualRun:
    return comings(HARSH)


def whats(run: VirtualRun) -> list[str]:
    return [event.what for event in events_of(run, Noted)]


def test_machines_that_are_taken_and_replaced_change_no_bit():
    run = harsh()
    assert len(run.injected) >= 5 and whats(run).count("machine arrives") >= 5
    assert sha_of(run) == known_reference(SMALL).parameters_sha256
    assert check(run.journal.lines) == []
    names = [event.name for event in events_of(run, PeerJoined)]
    assert len(set(names)) == len(names) > 12, "a new machine has a name and an identity of its own"


def test_comings_and_goings_of_one_seed_write_equal_journals_byte_for_byte():
    assert "".join(comings(HARSH).journal.lines) == "".join(harsh().journal.lines)
    assert comings(HARSH, seed=8).plan != harsh().plan


def test_what_would_not_be_survived_is_held_back_and_noted():
    """Lives far too short for the swarm: only holding machines back lets it end."""
    deadly = HARSH.model_copy(update={"mean_life_seconds": 4.0, "mean_absence_seconds": 60.0})
    run = comings(deadly)
    assert "machine stays" in whats(run)
    assert sha_of(run) == known_reference(SMALL).parameters_sha256
    left = comings(deadly, Chances(survivable=False))
    assert len(left.commits) < SMALL.run.steps and left.risk


def test_notice_lets_machines_leave_without_replayed_work():
    run = comings(HARSH.model_copy(update={"notice_seconds": 15.0}))
    assert whats(run).count("machine has notice") >= 3
    assert not run.injected and not events_of(run, Replayed)
    assert sha_of(run) == known_reference(SMALL).parameters_sha256


def test_a_recorded_trace_is_followed():
    events = (
        ChurnEvent(at_seconds=2.0, kind="leave", machines=2),
        ChurnEvent(at_seconds=4.0, kind="arrive", machines=1),
    )
    run = comings(ChurnProfile(description="d", source="s", event=events))
    assert len(run.injected) == 2 and whats(run).count("machine arrives") == 1
    assert sha_of(run) == known_reference(SMALL).parameters_sha256


def test_faults_go_on_for_as_long_as_the_run_and_the_killed_are_replaced():
    chances = Chances(
        kinds=("kill", "freeze"), every_seconds=2.0, replace_seconds=1.0, longest_seconds=2.0
    )
    steady = ChurnProfile(description="d", source="s")
    run = comings(steady, chances)
    assert len(run.injected) >= 4 and "machine arrives" in whats(run)
    assert {fault.kind for fault in run.plan} == {"kill", "freeze"}
    assert sha_of(run) == known_reference(SMALL).parameters_sha256
    assert check(run.journal.lines) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_seeds_of_harsh_churn():
    for seed in range(20):
        run = comings(HARSH, Chances(every_seconds=3.0, replace_seconds=1.0), seed)
        config = SMALL.model_copy(update={"run": SMALL.run.model_copy(update={"seed": seed})})
        assert sha_of(run) == known_reference(config).parameters_sha256, seed
        assert check(run.journal.lines) == [], seed
