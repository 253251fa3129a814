"""What a peer publishes of its links: the busiest, rounded, and nothing that a stranger's name could spoil."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.peer.links import Links
from swarmtrain.swarm.records import LINK_PEER_DIGITS, MOST_LINKS
from swarmtrain.transport.grpc_transport import GrpcTransport
from swarmtrain.transport.link import Hello, Link, LinkLimits, LinkStats
from tests.transport.worlds import Watcher, hello

GOOD = "ab" * 16


def links_of(*remotes: tuple[str, LinkStats]) -> Links:
    links = Links(None, None, 1.0)  # type: ignore[arg-type]
    for name, stats in remotes:
        link: Any = SimpleNamespace(remote=SimpleNamespace(peer=name, address=""), stats=stats)
        links._open.setdefault(link.remote.peer, {})[_Hashed(link)] = None  # type: ignore[index]
    return links


class _Hashed:
    def __init__(self, link: Any) -> None:
        self.remote, self.stats = link.remote, link.stats


def test_a_row_says_half_the_round_trip_and_the_rate():
    stats = LinkStats(
        bytes_sent=10, calls=9, messages=3, round_trip_seconds=0.02469, bytes_per_second=1234567.0
    )
    assert links_of((GOOD, stats)).rows() == ((GOOD[:LINK_PEER_DIGITS], 0.0123, 1.23e6, 3),)


@pytest.mark.parametrize(
    "name", ["meddler", "", "AB" * 16, "ab" * 15, "ab" * 17, "../../etc", "zz" * 16]
)
def test_a_name_that_is_no_peer_id_is_left_out(name: str):
    assert links_of((name, LinkStats(round_trip_seconds=0.1))).rows() == ()


def test_what_was_not_measured_yet_is_left_out():
    assert links_of((GOOD, LinkStats(bytes_sent=5))).rows() == ()


def test_two_links_to_one_peer_are_one_row_that_of_the_surer():
    sure, unsure = (
        LinkStats(messages=n, round_trip_seconds=0.1, bytes_per_second=n) for n in (5, 1)
    )
    for pair in ((sure, unsure), (unsure, sure)):
        links = links_of(*((GOOD, stats) for stats in pair))
        assert links.rows() == ((GOOD[:LINK_PEER_DIGITS], 0.05, 5.0, 5),)
        assert links.figures(PeerId(GOOD)) is sure


def test_nothing_is_known_of_the_way_to_a_stranger():
    assert links_of().figures(PeerId(GOOD)) is None


def test_the_busiest_are_published():
    many = [(f"{n:032x}", LinkStats(bytes_sent=n, round_trip_seconds=0.1)) for n in range(60)]
    rows = links_of(*many).rows()
    assert len(rows) == MOST_LINKS
    assert links_of(*many[-MOST_LINKS:]).rows() == rows


@pytest.mark.parametrize(("role", "is_confirmed"), [("peer", True), ("coordinator", False)])
def test_a_lost_peer_is_confirmed_and_the_coordinator_left_to_who_reports(
    role: str, is_confirmed: bool
):
    """A peer that dialled it for both held two links to it, and refused a drain on one of them."""
    links, unreachable = links_of((GOOD, LinkStats())), list[PeerId]()
    links.unreachable = lambda peer, reason: unreachable.append(peer)
    (link,) = links.open_links
    link.remote.role = role
    links.closed(link, "silent")
    assert not links.open_links and unreachable == [GOOD] * is_confirmed


def test_who_is_dialled_is_said_to_the_transport():
    """Lines that an experiment cuts let no greeting through to that peer."""
    dialled: list[tuple[str, PeerId | None]] = []

    class Transport:
        async def dial(self, address: str, *_: Any, expected: PeerId | None = None) -> Any:
            dialled.append((address, expected))

    async def main() -> None:
        links = Links(Transport(), SimpleNamespace(hello=lambda: None), 1.0)  # type: ignore[arg-type]
        links.learn(PeerId(GOOD), "host:7")
        await links.to(PeerId(GOOD))
        await links.close()

    asyncio.run(main())
    assert dialled == [("host:7", GOOD)]


def test_an_address_is_what_was_said_last() -> None:
    """Rosters and records are kept as they are, not copied for each peer: ten thousand each for ten thousand."""
    links, peer = links_of(), PeerId(GOOD)
    record = SimpleNamespace(peer=peer, address="record:1")
    first, last = (SimpleNamespace(peer=PeerId(c * 32), address=f"{c}:1") for c in "0f")
    assert links.address(peer) == ""
    links.learn(peer, "greeting:1")
    assert links.address(peer) == "greeting:1"
    links.learn_records((first, record, last), ())  # type: ignore[arg-type]
    assert [links.address(PeerId(p)) for p in ("0" * 32, peer, "f" * 32, "e" * 32)] == [
        "0:1",
        "record:1",
        "f:1",
        "",
    ]
    links.learn_roster(Roster.of(1, [Member(peer, (1,), "roster:1")]))
    assert links.address(peer) == "roster:1"
    links.learn_records((), (record,))  # type: ignore[arg-type]
    assert links.address(peer) == "record:1", "those of other islands count as well"
    links.learn(peer, "")
    links.learn_records((SimpleNamespace(peer=peer, address=""),), ())  # type: ignore[arg-type]
    assert links.address(peer) == "roster:1", "who says no address takes none away"


def test_what_links_carried_outlives_them_and_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarmtrain.peer.links.MOST_REMEMBERED", 2)
    links = links_of((GOOD, LinkStats(bytes_sent=5, bytes_received=7)))
    for name, count in (("cd" * 16, 1), ("cd" * 16, 2), ("ef" * 16, 3), ("12" * 16, 9)):
        link: Any = SimpleNamespace(
            remote=SimpleNamespace(peer=name), stats=LinkStats(bytes_sent=count)
        )
        links.closed(link, "over")
    assert links.carried() == ((GOOD, 5, 7), ("cd" * 16, 3, 0), ("ef" * 16, 3, 0))


class Greeter(Watcher):
    """A process that keeps its links in `Links`, and greets in `role`."""

    def __init__(self, name: str, role: str = "peer") -> None:
        super().__init__(name)
        self.role = role
        self.transport = GrpcTransport(LinkLimits())
        self.kept = Links(self.transport, self, 5.0)

    def hello(self) -> Hello:
        return hello(self.name, role=self.role)

    def opened(self, link: Link) -> None:
        self.kept.opened(link)
        super().opened(link)


@pytest.mark.parametrize(("role", "is_known"), [("peer", True), ("query", False)])
def test_whom_another_peer_dialled_knows_that_it_can_be_reached(role: str, is_known: bool) -> None:
    """By the link alone: the dialler learns nothing of itself, and who only asks is no peer."""

    async def main() -> None:
        dialled, dialler = Greeter("dialled"), Greeter("dialler", role)
        try:
            address = await dialled.transport.listen("127.0.0.1:0", dialled)
            await dialler.transport.dial(address, dialler.hello(), dialler, 10.0)
            await dialled.until(lambda: len(dialled.links) == 1)
            assert dialled.kept.was_dialled is is_known and not dialler.kept.was_dialled
        finally:
            await dialler.transport.close()
            await dialled.transport.close()

    asyncio.run(main())
