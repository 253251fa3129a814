"""Rounds between real processes on shaped lines take the bytes and the time that virtual time says."""

from dataclasses import astuple
from pathlib import Path

import pytest
import torch

from benchmarks import islands_real as benchmark


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", benchmark.CASES)
def test_bytes_and_rounds_of_processes_are_those_of_virtual_time(name: str, tmp_path: Path) -> None:
    """On a machine that does nothing else. In int4, four processes on two cores take longer for the step with a result
    than their coding apart says: that is in the table alone."""
    torch.set_num_threads(1)
    measured, modelled = benchmark.compare(benchmark.CASES[name], 4, tmp_path)
    assert measured.sliced == modelled.sliced == (name != "gathered")
    assert measured.round_bytes == pytest.approx(modelled.round_bytes, rel=0.02)
    assert measured.round_seconds == pytest.approx(modelled.round_seconds, rel=0.1)
    if name != "int4":
        assert astuple(measured) == pytest.approx(astuple(modelled), rel=0.1)
