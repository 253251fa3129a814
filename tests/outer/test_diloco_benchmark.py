"""The benchmark of outer rounds: its rows are what the issue asks for, and it goes on where it was cut off."""

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks import diloco as benchmark
from benchmarks.diloco_report import report
from benchmarks.diloco_rows import Grid, Row
from swarmtrain.core.config import load_config
from swarmtrain.core.sizes import parameter_count, vocabulary
from swarmtrain.wire.codecs import CODECS

TINY = replace(benchmark.QUICK, steps=4, judge_steps=2)


def test_the_rows_are_those_of_the_issue() -> None:
    rows = Grid().rows()
    assert len(rows) == len(set(rows)) and {row.seed for row in rows} == {1, 2, 3}
    assert sum(row.seed == 3 for row in rows) == 8
    plain = {(row.islands, row.inner_steps) for row in rows if row.group == "islands"}
    assert plain == {(islands, steps) for islands in (1, 2, 4, 8) for steps in (10, 50, 100)}
    setting = benchmark.Setting()
    for name in set(CODECS) - {"none"}:
        rounds = [setting.steps // row.inner_steps for row in rows if row.codec == name]
        assert max(rounds) >= 100
    config = setting.config(1, 1)
    assert parameter_count(config.model, vocabulary(config.model)) >= 3_000_000
    # Events aside, all runs use the same tokens: the islands share a step's microbatches out.
    for islands in (1, 2, 4, 8):
        assert setting.config(1, islands).train.microbatches * islands == setting.microbatches


@pytest.mark.parametrize("grid", [Grid(), benchmark.QUICK_GRID])
def test_every_row_can_be_set_up(grid: Grid) -> None:
    config = load_config((), ["run.steps=1100"])
    for row in grid.rows():
        if not row.is_synchronous:
            setting = row.setting(1100 // row.inner_steps)
            assert setting.rhythm(config).inner_steps == row.inner_steps
            assert len(setting.islands) == row.islands
    told = Counter((row.what, row.seed, row.group) for row in grid.rows())
    assert max(told.values()) == 1


def test_it_goes_on_where_it_was_cut_off(tmp_path: Path, capsys) -> None:
    rows = [
        Row("synchronous", 1, 0),
        Row("islands", 1, 2, 2),
        Row("codecs", 1, 2, 2, "int4", answer=True),
    ]
    benchmark.benchmark(TINY, rows[:2], tmp_path, "diloco", float("inf"), rows)
    title = (tmp_path / "diloco.md").read_text(encoding="utf-8").splitlines()[0]
    assert title.endswith("1 of 3 rows are missing (all 1 of codecs)")
    benchmark.benchmark(TINY, rows, tmp_path, "diloco", float("inf"), rows)
    assert "3 rows, 2 of them done before" in capsys.readouterr().out
    lines = (tmp_path / "diloco.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    assert [entry["row"] for entry in found] == [asdict(row) for row in rows]
    assert len({entry["tokens"] for entry in found}) == 1
    assert [step for step, _ in found[1]["curve"]] == [6, 8]
    assert found[2]["bytes_up"] < 0.5 and 0 < found[2]["bytes_back"] < 0.5
    assert found[1]["bytes_up"] > 3 and found[1]["bytes_back"] == 0
    page = (tmp_path / "diloco.md").read_text(encoding="utf-8")
    assert page.splitlines()[0] == "# Learning with outer rounds"
    assert page.count("| 2 islands, H 2, int4, answered | 1 |") == 1
    # Another setting is another table.
    assert benchmark.finished(tmp_path, replace(TINY, steps=6)) == []
    benchmark.benchmark(TINY, rows, tmp_path, "diloco", float("inf"), rows)
    assert len((tmp_path / "diloco.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_a_run_that_diverged_is_said_to_be_so() -> None:
    assert "Nothing is done yet" in report([], [])
    entry = {
        "row": asdict(Row("islands", 1, 2, 2)), "what": "hot", "setting": TINY.as_json(),
        "loss": None, "parameters": 1, "rounds": 1, "bytes_up": 0.0, "bytes_back": 0.0, "tokens": 1,
    }  # fmt: skip
    assert "| hot | 1 | nan (nan)" in report([entry], [])


def test_the_first_line_names_the_rows_that_are_missing() -> None:
    entry = {
        "row": asdict(Row("synchronous", 1, 0)), "what": "synchronous", "setting": TINY.as_json(),
        "loss": 1.0, "parameters": 1, "rounds": 0, "bytes_up": 0.0, "bytes_back": 0.0, "tokens": 1,
    }  # fmt: skip
    rows = Grid().rows()
    first = report([entry], rows).splitlines()[0]
    assert (
        f"{len(rows) - 1} of {len(rows)} rows are missing (synchronous: synchronous, seed 2"
        in first
    )
    for group in {row.group for row in rows} - {"synchronous"}:
        assert f"all {sum(row.group == group for row in rows)} of {group}" in first


def test_the_kept_table_is_that_of_the_kept_rows() -> None:
    results = Path(benchmark.__file__).parent / "results"
    found = benchmark.finished(results, benchmark.Setting())
    page = (results / "diloco.md").read_text(encoding="utf-8")
    assert page == report(found, Grid().rows()) + "\n"
