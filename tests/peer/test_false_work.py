"""Work whose bytes are not what they claim: refused before it costs memory, told, and without effect (I4, I5)."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from swarmtrain.core.errors import WireError
from swarmtrain.core.types import PeerId
from swarmtrain.peer.worker import Worker
from swarmtrain.transport.link import Buffer
from swarmtrain.transport.requests import ProcessReply, ProcessRequest, Status
from swarmtrain.wire.tensors import encode_tensor
from tests.experiments.runs import MIXED, known_reference, sha_of, small_config, virtual

CONFIG = small_config(steps=2)
FORGER = PeerId("forger")
SHAPE = (CONFIG.train.microbatch_size, CONFIG.train.sequence_length, CONFIG.model.width)


def false_tensors() -> dict[str, tuple[object, Buffer]]:
    """Headers and payloads, each with one lie."""
    header, payload = encode_tensor(torch.zeros(SHAPE), "none", 0)
    shape_header, short = encode_tensor(torch.zeros(1, *SHAPE[1:]), "none", 0)
    return {
        "shape": (shape_header, short),
        "claimed shape": (replace(header, shape=(1, 1, 1)), payload),
        "digest": (replace(header, digest=bytes(16)), payload),
        "dtype": (replace(header, dtype="int64"), payload),
        "codec": (replace(header, codec="rot13"), payload),
        "cut short": (header, bytes(payload)[:-1]),
        "raw bytes": (replace(header, raw_bytes=1 << 40), payload),
        "bomb": (replace(header, compression="zstd", payload_bytes=4), b"\x28\xb5\x2f\xfd"),
    }


@pytest.mark.parametrize("lie", list(false_tensors()))
def test_a_tensor_that_lies_is_refused_and_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch, lie: str
):
    """A forger is ahead of every honest call, with the item that is just due."""
    process, outcomes = Worker.process, Counter[str]()
    header, body = false_tensors()[lie]

    async def forged_first(
        self: Worker, caller: PeerId, request: ProcessRequest, payload: Buffer
    ) -> tuple[ProcessReply, Buffer]:
        is_new = self.store.get(request.step, (request.position, request.key)) is None
        if is_new and self.member.step == request.step and self.member.ledger.open is not None:
            try:
                reply, _ = await process(self, FORGER, replace(request, tensor=header), body)  # type: ignore[arg-type]
                outcomes[reply.status.name] += 1
            except WireError as error:
                assert error.what and error.why
                outcomes["refused"] += 1
                assert self.store.get(request.step, (request.position, request.key)) is None
        return await process(self, caller, request, payload)

    monkeypatch.setattr(Worker, "process", forged_first)
    run = virtual(CONFIG, MIXED)
    assert outcomes["refused"] > 5 and outcomes.keys() <= {"refused", "FENCED", "REFRESH"}
    assert sha_of(run) == known_reference(CONFIG).parameters_sha256


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"base": bytes(32)}, Status.FENCED),
        ({"key": 4000}, Status.FENCED),
        ({"position": 0}, Status.FENCED),
        ({"position": 4}, Status.FENCED),
        ({"roster_version": 0}, Status.REFRESH),
    ],
)
def test_work_for_other_parameters_or_positions_is_refused(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], status: Status
):
    process, statuses = Worker.process, Counter[Status]()

    async def misdirected_first(
        self: Worker, caller: PeerId, request: ProcessRequest, payload: Buffer
    ) -> tuple[ProcessReply, Buffer]:
        if self.member.step == request.step and self.member.ledger.open is not None:
            wrong = replace(request, **changes)  # type: ignore[arg-type]
            statuses[(await process(self, FORGER, wrong, payload))[0].status] += 1
        return await process(self, caller, request, payload)

    monkeypatch.setattr(Worker, "process", misdirected_first)
    run = virtual(CONFIG, MIXED)
    assert statuses.keys() == {status}
    assert sha_of(run) == known_reference(CONFIG).parameters_sha256
