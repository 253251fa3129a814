"""Fixtures: a workplace per test or per module, and the yardstick of the small run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.processes import ROOT, SMALL_RUN, Workplace


@dataclass(frozen=True, slots=True)
class ReferenceRun:
    """The finished `reference` command of SMALL_RUN."""

    folder: Path
    exit_code: int
    output: str


@pytest.fixture
def workplace(tmp_path: Path) -> Iterator[Workplace]:
    place = Workplace(tmp_path)
    try:
        yield place
    finally:
        place.close()


@pytest.fixture
def loopback(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A workplace for a run whose coordinator is in this process: what it starts is found as well."""
    for name, value in {**workplace.environment, "PYTHONPATH": str(ROOT)}.items():
        monkeypatch.setenv(name, value)
    return workplace


@pytest.fixture(scope="session")
def yardstick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReferenceRun]:
    place = Workplace(tmp_path_factory.mktemp("yardstick"))
    try:
        run_file = place.write("run.toml", SMALL_RUN)
        done = place.run("reference", run_file, "--out", place.folder / "out")
        place.expect_nothing_left()
        yield ReferenceRun(place.folder / "out", done.process.returncode, done.output)
    finally:
        place.close()
