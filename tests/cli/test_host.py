"""What a process sees to beside its peer."""

import asyncio
import os
from pathlib import Path

import pytest

from swarmtrain.cli.host import following
from swarmtrain.core.clock import run_virtual
from swarmtrain.peer.staging import LOOK_SECONDS, StagedMachine, Staging, write_staging


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_peer_whose_staging_cannot_be_read_any_more_leaves_and_says_why(
    tmp_path: Path, is_gone: bool
) -> None:
    path, left = tmp_path / "machine.json", list[str]()
    write_staging(Staging(seed=1), path)

    async def main() -> None:
        tasks = following(StagedMachine(path), left.append)
        await asyncio.sleep(2 * LOOK_SECONDS)
        assert not left
        path.unlink()
        if not is_gone:
            path.write_text("{", encoding="utf-8")
            os.utime(path, ns=(1, 1))  # whatever the file system's clock can tell apart
        await asyncio.sleep(2 * LOOK_SECONDS)
        await tasks.cancel_all()

    run_virtual(main())
    (reason,) = left
    assert "cannot be read" in reason and str(path) in reason


def test_a_machine_that_nobody_stages_is_left_alone() -> None:
    async def main() -> None:
        await following(None, lambda reason: pytest.fail(reason)).cancel_all()

    run_virtual(main())
