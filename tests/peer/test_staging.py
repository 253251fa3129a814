"""What an experiment makes of a machine comes from a file, and follows it while the peer runs."""

import asyncio
import os
from pathlib import Path

import pytest

from swarmtrain.compute.lane import Kind, Task
from swarmtrain.core.clock import run_virtual
from swarmtrain.core.errors import ConfigError
from swarmtrain.core.types import PeerId
from swarmtrain.peer.staging import LOOK_SECONDS, StagedMachine, Staging, write_staging
from swarmtrain.transport.shaping import Shape

PEER = PeerId("p" * 32)
SLOW = Staging(
    lines={PEER: Shape(1e6, 0.1)}, forward_seconds=(0, 1), backward_seconds=(0, 2), loss_seconds=3
)


def test_tasks_take_what_the_file_says_and_the_file_may_change(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    write_staging(SLOW, path)

    async def main() -> tuple[Shape | None, Shape | None, list[float]]:
        machine = StagedMachine(path)
        before = machine.lines.towards(PEER)
        watching = asyncio.create_task(machine.follow())
        worse = {PEER: Shape(1e6, 0.1, is_cut=True)}
        write_staging(SLOW.model_copy(update={"lines": worse, "loss_seconds": 9.0}), path)
        os.utime(path, ns=(1, 1))  # whatever the file system's clock can tell apart
        await asyncio.sleep(2 * LOOK_SECONDS)
        watching.cancel()
        tasks = (Task(Kind.FORWARD, 1), Task(Kind.BACKWARD, 1), Task(Kind.LOSS, 0))
        tasks += (Task(Kind.STATE, 1), Task(Kind.FORWARD, 7))
        return before, machine.lines.towards(PEER), [machine.least_seconds(t) for t in tasks]

    before, after, seconds = run_virtual(main())
    assert before == Shape(1e6, 0.1) and after is not None and after.is_cut
    assert seconds == [1, 2, 9, 0, 0]


@pytest.mark.parametrize("text", ["", "{", '{"loss_seconds": -1}', '{"line": {}}'])
def test_a_file_that_makes_no_sense_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="does not say"):
        StagedMachine(path)
