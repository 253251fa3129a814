"""`reference` and `up` as processes: equal bits, the run folder's contract, nothing left behind."""

import math
import tomllib

import pytest

from swarmtrain.core.config import load_config
from tests.integration.conftest import ReferenceRun
from tests.integration.processes import ROOT, SMALL_RUN, Workplace, events_in, lines_of, read_json

SUMMARY_KEYS = {
    "steps", "tokens", "seconds", "loss_first", "loss_last", "eval_loss", "tokens_per_second",
    "bytes_sent", "peers", "faults", "recoveries", "replayed_keys", "duplicate_keys_dropped",
    "parameters_sha256",
}  # fmt: skip
STEPS, TOKENS_PER_STEP = 20, 6 * 2 * 32


def test_reference_writes_its_run_folder(yardstick: ReferenceRun):
    assert yardstick.exit_code == 0, yardstick.output
    summary = read_json(yardstick.folder / "summary.json")
    assert summary.keys() >= SUMMARY_KEYS
    assert (summary["steps"], summary["tokens"]) == (STEPS, STEPS * TOKENS_PER_STEP)
    assert summary["loss_last"] < summary["loss_first"] - 1.0
    assert [line["step"] for line in lines_of(yardstick.folder / "metrics.jsonl")] == [
        *range(STEPS)
    ]


@pytest.mark.parametrize(
    "peers",
    [
        1,
        pytest.param(4, marks=pytest.mark.slow),
        pytest.param(7, marks=pytest.mark.timeout(400)),
    ],
)
def test_up_equals_the_reference_and_leaves_nothing(
    workplace: Workplace, yardstick: ReferenceRun, peers: int
):
    run_file, out = workplace.write("run.toml", SMALL_RUN), workplace.folder / "out"
    command = workplace.start("up", run_file, "--peers", peers, "--out", out)
    command.until_prints("step 1/20")
    assert len(workplace.note_ports()) >= 2 * (peers + 1), "each process has a link and a DHT port"
    assert len(workplace.named("p2pd")) == peers + 1
    assert command.wait(200) == 0, command.output
    workplace.expect_nothing_left()

    expected = read_json(yardstick.folder / "summary.json")
    summary = read_json(out / "summary.json")
    assert summary["parameters_sha256"] == expected["parameters_sha256"]
    assert (summary["loss_first"], summary["loss_last"]) == (
        expected["loss_first"],
        expected["loss_last"],
    )
    assert summary.keys() >= SUMMARY_KEYS
    assert (summary["steps"], summary["peers"], summary["faults"]) == (STEPS, peers, 0)
    assert summary["finished"] and summary["bytes_sent"] > 0
    metrics = lines_of(out / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [*range(STEPS)]
    reference_metrics = lines_of(yardstick.folder / "metrics.jsonl")
    assert [line["loss"] for line in metrics] == [line["loss"] for line in reference_metrics]
    assert all(line["tokens"] == TOKENS_PER_STEP and line["seconds"] > 0 for line in metrics)
    left = events_in(out, "peer_left")
    assert len({event["peer"] for event in left}) == peers, "each peer said farewell"


@pytest.fixture(scope="module")
def trained(yardstick: ReferenceRun, tmp_path_factory: pytest.TempPathFactory):
    place = Workplace(tmp_path_factory.mktemp("trained"))
    try:
        run_file, out = place.write("run.toml", SMALL_RUN), place.folder / "out"
        board = f"tensorboard:{place.folder / 'board'}"
        command = place.start("up", run_file, "--peers", 2, "--out", out, "--sink", board)
        assert command.wait(200) == 0, command.output
        yield place, command
    finally:
        place.close()


def test_a_sink_has_the_figures_of_every_step(trained):
    from tensorboard.backend.event_processing import plugin_event_accumulator
    from tensorboard.util.tensor_util import make_ndarray

    place, _ = trained
    board = plugin_event_accumulator.EventAccumulator(str(place.folder / "board"))
    board.Reload()
    shown = board.Tensors("loss_nats_per_token")
    losses = [line["loss"] for line in lines_of(place.folder / "out" / "metrics.jsonl")]
    assert [event.step for event in shown] == [*range(STEPS)]
    assert [float(make_ndarray(event.tensor_proto)) for event in shown] == pytest.approx(losses)


def test_the_merged_configuration_is_kept(trained, yardstick: ReferenceRun):
    place, _ = trained
    kept = load_config([place.folder / "out" / "config.toml"])
    assert kept.hash == load_config([place.folder / "run.toml"]).hash
    assert (
        tomllib.loads((place.folder / "out" / "config.toml").read_text())["run"]["name"] == "small"
    )
    assert read_json(place.folder / "out" / "summary.json")["run_hash"] == kept.hash


def test_up_ends_with_a_sample(trained):
    _, command = trained
    assert "sample: def" in command.output


def test_a_checkpoint_can_be_evaluated_and_continued(trained, yardstick: ReferenceRun):
    place, _ = trained
    summary = read_json(place.folder / "out" / "summary.json")
    looks = [
        place.start("eval", place.folder / "out", "-o", "json", name="eval"),
        place.start("eval", yardstick.folder, "-o", "json", name="eval-reference"),
        place.start("generate", place.folder / "out", "--tokens", 20, "--seed", 3, name="a"),
        place.start("generate", yardstick.folder, "--tokens", 20, "--seed", 3, name="b"),
    ]
    assert [look.wait(60) for look in looks] == [0] * 4, [look.output for look in looks]
    evaluated, of_reference = (read_json(look.output_path) for look in looks[:2])
    assert evaluated == of_reference
    assert evaluated["step"] == STEPS
    assert math.isclose(evaluated["eval_loss"], summary["eval_loss"], rel_tol=1e-6)
    assert evaluated["eval_loss"] < 4.5
    assert looks[2].output == looks[3].output and looks[2].output.startswith("def ")


def test_up_refuses_a_folder_that_holds_a_run(trained):
    place, _ = trained
    before = sorted((path.name, path.stat().st_mtime) for path in (place.folder / "out").iterdir())
    command = place.start("up", place.folder / "run.toml", "--out", place.folder / "out")
    assert command.wait(30) == 2
    assert (
        "already holds a run why:" in command.output
        and "do: choose another --out" in command.output
    )
    after = sorted((path.name, path.stat().st_mtime) for path in (place.folder / "out").iterdir())
    assert after == before
    place.expect_nothing_left()


@pytest.mark.parametrize(
    ("text", "what"), [(None, "there is no text at"), ("too short", "corpus is too short")]
)
def test_a_missing_or_short_corpus_ends_up_with_a_clear_error(
    workplace: Workplace, text: str | None, what: str
):
    path = workplace.folder / "corpus.txt"
    if text is not None:
        path.write_text(text)
    run_file = workplace.write("run.toml", SMALL_RUN + f'\n[data]\nsource = "text:{path}"\n')
    done = workplace.run("up", run_file, "--peers", 1, "--out", workplace.folder / "out")
    assert done.process.returncode == 1, done.output
    assert what in done.output and "do:" in done.output and "Traceback" not in done.output
    workplace.expect_nothing_left(5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "regions", "upload", "latency_seconds"),
    [
        ("home", {"home"}, "20Mbit/s", 0.015),
        ("gcp5", {"Iowa", "Oregon"}, "150Mbit/s", 0.0193),
    ],
)
def test_peers_are_made_like_the_machines_and_lines_that_are_named(
    workplace: Workplace, network: str, regions: set[str], upload: str, latency_seconds: float
):
    for kind, name in (("machines", "laptop"), ("networks", network)):
        profile = (ROOT / "peers" / kind / f"{name}.toml").read_text()
        (workplace.folder / "peers" / kind).mkdir(parents=True)
        workplace.write(f"peers/{kind}/{name}.toml", profile)
    run_file, out = workplace.write("run.toml", SMALL_RUN), workplace.folder / "out"
    command = workplace.start(
        "up", run_file, "--peers", 2, "--steps", 6, "--out", out, "--stage", "0", "--stage", "1:2",
        "--machine", "laptop", "--network", network,
    )  # fmt: skip
    assert command.wait(200) == 0, command.output
    machines = [event for event in events_in(out, "noted") if event["what"] == "machine"]
    assert len(machines) == 2 and all(f"upload {upload}" in event["detail"] for event in machines)
    joined = events_in(out, "peer_joined")
    assert {event["region"] for event in joined} == regions
    # Every step crosses the line some ten times; on this machine's own lines it takes about 40 ms.
    seconds = [line["seconds"] for line in lines_of(out / "metrics.jsonl")]
    assert len(seconds) == 6 and min(seconds) > 8 * latency_seconds, seconds
