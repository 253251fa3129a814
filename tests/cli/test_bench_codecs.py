"""`swarmtrain bench codecs`: every codec on a pseudo-gradient that a real run made, as JSON and as a table."""

import json
import sys
from typing import Any

import pytest

from swarmtrain.cli import bench
from swarmtrain.cli.app import main
from swarmtrain.wire.codecs import CODECS

SMALL = ["model.preset=nano", "train.microbatches=1", "train.sequence_length=32"]


@pytest.fixture
def codecs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(bench, "REPEATS", 1)

    def run(*arguments: str) -> tuple[str, str]:
        settings = [part for setting in SMALL for part in ("--set", setting)]
        monkeypatch.setattr(sys, "argv", ["swarmtrain", "bench", "codecs", *settings, *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run


def test_json_has_every_codec_with_figures_that_agree(codecs: Any) -> None:
    out, err = codecs("-o", "json")
    found = json.loads(out)
    assert "step 50/50" in err and "measuring top64" in err
    rows = {row["codec"]: row for row in found["codecs"]}
    assert list(rows) == list(CODECS)
    for row in rows.values():
        assert 0 < row["bytes_per_parameter"] <= row["raw_bytes_per_parameter"] <= 4
        stated_bytes = row["stated_bits_per_parameter"] / 8
        assert row["raw_bytes_per_parameter"] == pytest.approx(stated_bytes, rel=0.03)
        assert row["encode_mb_per_second"] > 0 and row["decode_mb_per_second"] > 0
        assert 0 <= row["relative_error"] < 1
    assert rows["none"]["relative_error"] == 0
    assert rows["int4"]["bytes_per_parameter"] <= 0.45
    assert rows["ternary"]["bytes_per_parameter"] <= 0.2, "0.19 where tensors are larger"
    assert rows["top64"]["bits_per_position"] <= 7.6, "7.5 where tensors are larger"
    assert found["inner_steps"] == 20 and found["chosen"]["codec"] in rows


def test_the_table_has_a_line_a_codec(codecs: Any) -> None:
    out, _ = codecs()
    lines = out.splitlines()
    assert len(lines) == 3 + len(CODECS)
    assert [line.split()[0] for line in lines[2:-1]] == list(CODECS)
    assert "bits a position" in lines[-2] and "within an error of 0.02" in lines[-1]
