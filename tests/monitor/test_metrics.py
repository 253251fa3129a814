"""metrics.jsonl: the four promised keys, one line a step, continued after a restart."""

import json
from pathlib import Path

from swarmtrain.monitor.metrics import MetricsFile


def test_one_line_a_step_with_the_promised_keys(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path)
    first.write(step=1, loss=5.5, tokens=512, seconds=0.25)
    first.close()
    second = MetricsFile(path)
    second.write(step=2, loss=float("nan"), tokens=512, seconds=0.5)
    second.close()
    lines = path.read_text().splitlines()
    assert lines[0] == '{"loss":5.5,"seconds":0.25,"step":1,"tokens":512}'
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert json.loads(lines[1])["loss"] == "nan"


def test_a_resumed_run_writes_its_steps_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    for step in range(5):
        file.write(step, loss=5.0 - step, tokens=512, seconds=0.25)
    assert [entry["step"] for entry in file.before(3)] == [0, 1, 2]
    file.rewind(3)
    file.write(3, loss=1.0, tokens=512, seconds=0.5)
    file.close()
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps == [0, 1, 2, 3]
