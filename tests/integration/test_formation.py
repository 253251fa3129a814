"""Real peers on loopback that nobody gave an island: near each other, so they are one."""

import pytest

from tests.integration.processes import SMALL_RUN, Workplace, events_in, read_json, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_four_peers_find_their_island(workplace: Workplace) -> None:
    run_file = workplace.write("run.toml", SMALL_RUN + "\n[swarm]\nmin_peers = 4\n")
    out = workplace.folder / "out"
    arguments = ("coordinator", run_file, "--listen", "127.0.0.1:0", "--out", out)
    coordinator = workplace.start(*arguments, name="coordinator")
    address = coordinator.until_prints("swarmtrain peer --join")
    join = ("peer", "--join", address, "--island", "auto")
    peers = [workplace.start(*join, "--name", f"p{n}", name=f"p{n}") for n in range(3)]
    for peer in peers:
        peer.until_prints("near it that are in none need")
    status = workplace.run("status", address, seconds=60)
    assert "waiting: forming an island: no island is within" in status.output
    assert not events_in(out, "peer_joined")
    peers.append(workplace.start(*join, "--name", "p3", name="p3"))
    until(lambda: len(events_in(out, "island_chosen")) == 4, 240, "four peers chose an island")
    assert coordinator.wait(240) == 0, coordinator.output
    for peer in peers:
        assert peer.wait(60) == 0, peer.output
        assert "island 0: 4 peers near each other hold a whole model" in peer.output
    assert {event["island"] for event in events_in(out, "peer_joined")} == {0}
    assert read_json(out / "summary.json")["peers"] == 4
    workplace.expect_nothing_left(5)
