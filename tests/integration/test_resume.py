"""Everything dies at once: `--resume auto` goes on from the newest checkpoint, on other peers, bit for bit."""

import os
import signal
from pathlib import Path

from tests.integration.processes import SMALL_RUN, Workplace, events_in, lines_of, read_json, until

STEPS = 120
RUN = SMALL_RUN.replace("steps = 20", f"steps = {STEPS}")
CHECKPOINTS = ("--set", "recovery.checkpoint_steps=5")


def test_a_run_that_was_killed_whole_resumes_bit_for_bit(workplace: Workplace) -> None:
    run_file, out = workplace.write("run.toml", RUN), workplace.folder / "out"
    command = workplace.start("up", run_file, "--peers", 3, "--out", out, *CHECKPOINTS)
    until(lambda: len(lines_of(out / "metrics.jsonl")) >= 14, 90, "fourteen steps are committed")
    os.kill(command.process.pid, signal.SIGKILL)
    workplace.expect_nothing_left(15)
    assert events_in(out, "checkpoint_saved") and len(lines_of(out / "metrics.jsonl")) < STEPS

    workplace.run(
        "up", run_file, "--peers", 2, "--out", out, *CHECKPOINTS, "--resume", "auto", seconds=150
    )
    steps = [line["step"] for line in lines_of(out / "metrics.jsonl")]
    assert steps == [*range(STEPS)], "every step once, those before the checkpoint too"
    from_checkpoint = [e for e in events_in(out, "recovered") if e["tier"] == "checkpoint"]
    assert {event["stage"] for event in from_checkpoint} == {0, 1, 2}
    assert len(list((out / "checkpoint").iterdir())) <= 3, "only the newest are kept"
    expected = reference_sha256(workplace, run_file)
    assert read_json(out / "summary.json")["parameters_sha256"] == expected


def reference_sha256(workplace: Workplace, run_file: Path) -> str:
    workplace.run("reference", run_file, "--out", workplace.folder / "reference")
    return str(read_json(workplace.folder / "reference" / "summary.json")["parameters_sha256"])
