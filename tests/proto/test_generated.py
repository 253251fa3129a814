"""The generated protobuf code belongs to the .proto files, and step.proto to core/messages.py."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from swarmtrain.core import closing, messages, rounds, types
from swarmtrain.core.messages import StepMessage
from swarmtrain.core.rosters import RosterName
from swarmtrain.core.tensors import TensorHeader
from swarmtrain.proto import coordinator_pb2, round_pb2, stage_pb2, step_pb2, tensor_pb2
from swarmtrain.transport import link, requests

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ROOT / "swarmtrain" / "proto"

MIRRORED = [
    *(
        (value, step_pb2)
        for value in (
            *(getattr(messages, name) for name in step_pb2.DESCRIPTOR.message_types_by_name
              if hasattr(messages, name)),
            *(getattr(closing, name) for name in step_pb2.DESCRIPTOR.message_types_by_name
              if hasattr(closing, name) and not hasattr(messages, name)),
            types.Visit, types.Member, types.Roster, RosterName,
        )
    ),
    *((getattr(rounds, name), round_pb2) for name in round_pb2.DESCRIPTOR.message_types_by_name
      if name != "RoundEnvelope"),
    (TensorHeader, tensor_pb2),
    (link.Hello, coordinator_pb2),
    *((getattr(requests, name), stage_pb2) for name in stage_pb2.DESCRIPTOR.message_types_by_name),
    *(
        (getattr(requests, name), coordinator_pb2)
        for name in coordinator_pb2.DESCRIPTOR.message_types_by_name
        if name != "Hello"
    ),
]  # fmt: skip


def test_generated_code_is_up_to_date(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    subprocess.run([sys.executable, ROOT / "proto" / "generate.py", tmp_path], check=True)
    fresh = sorted((tmp_path / "swarmtrain" / "proto").iterdir())
    kept = sorted(path for path in GENERATED.iterdir() if "_pb2" in path.name)
    assert [path.name for path in fresh] == [path.name for path in kept]
    for new, old in zip(fresh, kept, strict=True):
        assert new.read_bytes() == old.read_bytes(), f"run python proto/generate.py: {old.name}"


@pytest.mark.parametrize(("value", "module"), MIRRORED, ids=lambda entry: entry.__name__)
def test_each_message_has_the_fields_of_its_value(value: type, module: object) -> None:
    descriptor = module.DESCRIPTOR.message_types_by_name[value.__name__]
    assert [field.name for field in descriptor.fields] == [field.name for field in fields(value)]


def test_the_envelope_holds_every_kind_of_step_message() -> None:
    members = step_pb2.StepEnvelope.DESCRIPTOR.oneofs_by_name["message"].fields
    held = [field.message_type.name for field in members]
    assert held == [kind.__name__ for kind in get_args(StepMessage)]


def test_the_envelope_holds_every_kind_of_round_message() -> None:
    members = round_pb2.RoundEnvelope.DESCRIPTOR.oneofs_by_name["message"].fields
    held = [field.message_type.name for field in members]
    assert held == [kind.__name__ for kind in get_args(rounds.RoundMessage)]


def test_status_values_are_those_of_the_proto() -> None:
    proto = {name.removeprefix("STATUS_"): number for name, number in stage_pb2.Status.items()}
    assert proto == {"UNSPECIFIED": 0, **{status.name: int(status) for status in requests.Status}}
