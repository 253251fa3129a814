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
