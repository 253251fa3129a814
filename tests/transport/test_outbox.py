"""The order in which a link's frames leave, and that nobody starves."""

import asyncio

from swarmtrain.core.clock import run_virtual
from swarmtrain.transport.frames import Frame, Kind, pack, unpack
from swarmtrain.transport.link import LinkLimits
from swarmtrain.transport.outbox import Outbox, Upload

LIMITS = LinkLimits(chunk_bytes=16 << 10)


def bulk(call: int, chunks: int) -> Upload:
    first = Frame(Kind.REQUEST, call=call, method="bulk", note_milliseconds=9)
    return Upload(first, memoryview(bytes(chunks * LIMITS.chunk_bytes)), lambda: None)


def leaves(outbox: Outbox) -> str:
    """What the next frame is: t(ell), a(ck), b(ye), a bulk call's number, or nothing."""
    data = outbox.next()
    if data is None:
        return ""
    frame = unpack(data, LIMITS)
    names = {Kind.TELL: "t", Kind.ACK: "a", Kind.BYE: "b", Kind.WITHDRAW: "w"}
    if frame.kind in (Kind.REQUEST, Kind.REQUEST_CHUNK):
        outbox.acknowledged(outbox.pacer.sent_bytes)
    return names.get(frame.kind, str(frame.call))


def filled(overflow: list[str] | None = None) -> Outbox:
    return Outbox(LIMITS, (overflow if overflow is not None else []).append)


TELL = Frame(Kind.TELL, method="t")


def test_all_waiting_control_goes_between_two_chunks() -> None:
    async def main() -> None:
        outbox = filled()
        outbox.add(bulk(1, 3))
        outbox.put(TELL)
        order = leaves(outbox) + leaves(outbox)
        for _ in range(3):
            outbox.put(TELL)
        order += "".join(leaves(outbox) for _ in range(6))
        assert order == "t1ttt11"

    run_virtual(main())


def test_endless_control_does_not_starve_bulk() -> None:
    async def main() -> None:
        outbox = filled()
        outbox.add(bulk(1, 100))
        order = ""
        outbox.put(TELL)
        for _ in range(100):
            order += leaves(outbox)
            outbox.put(TELL)
            await asyncio.sleep(0.001)
        assert order.count("1") > 5

    run_virtual(main())


def test_bulk_messages_take_turns_and_a_withdrawn_one_says_so() -> None:
    async def main() -> None:
        outbox, uploads = filled(), [bulk(call, 3) for call in (1, 2, 3)]
        for upload in uploads:
            outbox.add(upload)
        order = "".join(leaves(outbox) for _ in range(4))
        outbox.withdraw(uploads[1])
        order += "".join(leaves(outbox) for _ in range(6))
        assert order == "1231" + "w" + "31" + "3"
        untouched = bulk(4, 2)
        outbox.add(untouched)
        outbox.withdraw(untouched)
        assert leaves(outbox) == ""

    run_virtual(main())


def test_only_the_newest_acknowledgement_leaves() -> None:
    async def main() -> None:
        outbox = filled()
        for total_bytes in (10, 20, 30):
            outbox.acknowledge(total_bytes)
        assert outbox.next() == pack(Frame(Kind.ACK, call=30))
        assert outbox.next() is None

    run_virtual(main())


def test_the_last_word_comes_after_control_and_instead_of_bulk() -> None:
    async def main() -> None:
        outbox = filled()
        outbox.put(TELL)
        outbox.add(bulk(1, 5))
        outbox.finish(Frame(Kind.BYE))
        outbox.put(TELL)
        assert not outbox.drained
        assert "".join(leaves(outbox) for _ in range(3)) == "tb"
        assert outbox.drained

    run_virtual(main())


def test_overflow_is_reported_once() -> None:
    async def main() -> None:
        overflow: list[str] = []
        outbox = filled(overflow)
        for _ in range(20):
            outbox.put(Frame(Kind.TELL, method="t", meta=bytes(1 << 20)))
        assert len(overflow) == 1

    run_virtual(main())
