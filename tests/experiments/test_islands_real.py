"""Rounds between real processes on shaped lines take the bytes and the time that virtual time says."""

from pathlib import Path

import pytest
import torch

from benchmarks import islands_real as benchmark


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_bytes_and_rounds_of_processes_are_those_of_virtual_time(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    measured, modelled = benchmark.compare(2, 5, tmp_path)
    assert measured.round_bytes == pytest.approx(modelled.round_bytes, rel=0.02)
    assert measured.round_seconds == pytest.approx(modelled.round_seconds, rel=0.1)
    # Steps besides have compute in them, which other work on the machine slows down.
    assert measured.round_step_seconds == pytest.approx(modelled.round_step_seconds, rel=0.2)
