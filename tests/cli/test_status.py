"""What `swarmtrain status` says of a run in words."""

from typing import Any

from swarmtrain.cli.status import _table

PEER = {
    "name": "anna",
    "state": "serving",
    "stages": [0],
    "address": "127.0.0.1:1",
    "island": 0,
    "island_reason": "",
    "sent_bytes_per_token": None,
    "received_bytes_per_token": None,
}


def shown(peer: dict[str, Any], **run: Any) -> list[str]:
    state = {
        "run": "mine",
        "run_hash": "ab" * 32,
        "step": 3,
        "steps": 9,
        "loss_last": 1.5,
        "tokens_per_second": 100.0,
        "bytes_per_token": None,
        "stopped": False,
        "waiting_for": "",
        "conductor": "a",
        "peers": [peer],
        "log": [],
    }
    return _table({**state, **run}).splitlines()


def test_bytes_a_token_are_shown_for_the_run_and_each_peer_once_they_are_known() -> None:
    header, peer = shown(PEER)
    assert header.endswith("loss 1.5000, 100 tokens/s") and peer.endswith("127.0.0.1:1")
    known = {**PEER, "sent_bytes_per_token": 2048.0, "received_bytes_per_token": 100.4}
    header, peer = shown(known, bytes_per_token=4096.0)
    assert header.endswith("100 tokens/s, 4KiB sent a token")
    assert peer.endswith("127.0.0.1:1  a token 2KiB up, 100B down")
