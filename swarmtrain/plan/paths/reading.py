"""NETWORK.json to an `Instance`: every value checked, every complaint names its place ("peers[3].stages")."""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from swarmtrain.core.errors import ConfigError
from swarmtrain.plan.paths.instance import Instance, PeerCosts
from swarmtrain.plan.paths.sequences import stage_sets

NEEDED = ("peers", "send_seconds", "stages", "microbatches", "visits")
OPTIONAL = ("stage_sizes", "max_swaps", "max_jump", "task_gap_seconds", "quotas", "visit_shares")
REMARKS = ("comment", "published_seconds")
"""Keys that only people read."""

PEER_KEYS = (
    "name",
    "stages",
    "forward_seconds",
    "backward_seconds",
    "loss_seconds",
    "memory_slots",
)

MOST_PEERS, MOST_MICROBATCHES, MOST_STAGES = 2000, 20_000, 256
"""Bounds on what one plan may be about (I8)."""

LEAST_TASK_SECONDS, MOST_SECONDS = 1e-9, 1e9
"""Bounds on costs: what is computed with them stays finite, and no task ends at the instant it starts."""


def read_instance(text: str) -> Instance:
    """The instance that a JSON text describes (issue 4's format; `protected_stages` is an optional list besides).

    Raises:
        ConfigError: not JSON, a key missing or unknown, or a value that cannot be; names its place.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError("the network is not JSON", str(error), "check the file") from None
    network = _object(found, "the network")
    _keys(network, "", NEEDED, (*OPTIONAL, "protected_stages", *REMARKS))
    stages = _whole(network["stages"], "stages", 2, MOST_STAGES)
    peers = tuple(
        _peer(entry, f"peers[{index}]", stages)
        for index, entry in enumerate(_list(network["peers"], "peers", MOST_PEERS))
    )
    instance = Instance(
        peers=peers,
        send_seconds=_matrix(network["send_seconds"], len(peers)),
        stages=stages,
        microbatches=_whole(network["microbatches"], "microbatches", 1, MOST_MICROBATCHES),
        visits=_whole(network["visits"], "visits", 2, MOST_STAGES),
        max_swaps=_whole(network.get("max_swaps", 2), "max_swaps", 0, MOST_STAGES),
        max_jump=_whole(network.get("max_jump", 4), "max_jump", 1, MOST_STAGES),
        task_gap_seconds=_seconds(network.get("task_gap_seconds", 0.0), "task_gap_seconds"),
        quotas=_share(network.get("quotas", "equal"), "quotas"),
        visit_shares=_share(network.get("visit_shares", "equal"), "visit_shares"),
        stage_sizes=_sizes(network.get("stage_sizes"), stages),
        protected_stages=_protected(network.get("protected_stages", []), stages),
    )
    check(instance)
    return instance


def check(instance: Instance) -> None:
    """What no single value shows: visits fit the stages, every stage has a host, sizes and jumps can be kept.

    Raises:
        ConfigError: no plan of this instance can exist.
    """
    names = [peer.name for peer in instance.peers]
    for index, name in enumerate(names):
        if name in names[:index]:
            _refuse(f"peers[{index}].name", f"{name!r} is taken", "give every peer its own name")
    if instance.visits > instance.stages:
        why = f"{instance.visits} visits, but there are {instance.stages} stages"
        _refuse("visits", why, "visit each stage at most once, the edge included")
    if len(instance.protected_stages) > instance.middle_visits:
        why = f"{len(instance.protected_stages)} stages in {instance.middle_visits} middle visits"
        _refuse("protected_stages", why, "protect fewer stages or raise visits")
    sets = stage_sets(
        instance.stages - 1, instance.middle_visits, instance.protected_stages, instance.max_jump
    )
    if next(sets, None) is None:  # without a swap each of them is legal
        _refuse("max_jump", "no choice of stages keeps it", "raise max_jump or visits")
    _check_hosts(instance)


def _check_hosts(instance: Instance) -> None:
    unplaced, sizes = len(instance.unplaced), instance.stage_sizes
    for stage, hosts in enumerate(instance.hosts):
        # Peers without a place fill up what is left, so with them only too many hosts are wrong.
        if sizes and (len(hosts) > sizes[stage] or (len(hosts) < sizes[stage] and not unplaced)):
            why = f"{sizes[stage]}, but {len(hosts)} peers name stage {stage}"
            _refuse(f"stage_sizes[{stage}]", why, "make stage_sizes and the peers agree")
        if not hosts and not unplaced:
            _refuse("peers", f"nobody hosts stage {stage}", f"give a peer stage {stage}")
    empty = sum(not hosts for hosts in instance.hosts)
    if empty > unplaced:
        why = f"{empty} stages have no peer, and {unplaced} peers have no stage"
        _refuse("peers", why, "add peers, or lower stages")
    if sizes is not None and sum(sizes) != sum(map(len, instance.hosts)) + unplaced:
        why = f"they sum to {sum(sizes)}, not to the number of places the peers fill"
        _refuse("stage_sizes", why, "make stage_sizes and the peers agree")


def _peer(found: Any, place: str, stages: int) -> PeerCosts:
    entry = _object(found, place)
    _keys(entry, f"{place}.", PEER_KEYS, ())
    if not isinstance(entry["name"], str) or not entry["name"]:
        _refuse(f"{place}.name", f"{entry['name']!r} is not a name", "write a text")
    hosted = None
    if entry["stages"] is not None:
        listed = _list(entry["stages"], f"{place}.stages", stages)
        hosted = tuple(
            sorted(
                _whole(stage, f"{place}.stages[{index}]", 0, stages - 1)
                for index, stage in enumerate(listed)
            )
        )
        if len(set(hosted)) < len(hosted):
            _refuse(f"{place}.stages", "a stage comes twice", "name each stage once")
    task, is_edge = LEAST_TASK_SECONDS, hosted is None or 0 in hosted
    return PeerCosts(
        name=entry["name"],
        stages=hosted,
        forward_seconds=_seconds(entry["forward_seconds"], f"{place}.forward_seconds", task),
        backward_seconds=_seconds(entry["backward_seconds"], f"{place}.backward_seconds", task),
        loss_seconds=_seconds(entry["loss_seconds"], f"{place}.loss_seconds", task * is_edge),
        memory_slots=_whole(entry["memory_slots"], f"{place}.memory_slots", 1, 1 << 20),
    )


def _matrix(found: Any, size: int) -> tuple[tuple[float, ...], ...]:
    rows = _list(found, "send_seconds", MOST_PEERS)
    if len(rows) != size:
        why = f"{len(rows)} rows for {size} peers"
        _refuse("send_seconds", why, "give one row and one column for each peer")
    matrix = []
    for a, row in enumerate(rows):
        cells = _list(row, f"send_seconds[{a}]", MOST_PEERS)
        if len(cells) != size:
            why = f"{len(cells)} columns for {size} peers"
            _refuse(f"send_seconds[{a}]", why, "give one row and one column for each peer")
        matrix.append(
            tuple(_seconds(cell, f"send_seconds[{a}][{b}]") for b, cell in enumerate(cells))
        )
    return tuple(matrix)


def _sizes(found: Any, stages: int) -> tuple[int, ...] | None:
    if found is None:
        return None
    sizes = _list(found, "stage_sizes", MOST_STAGES)
    if len(sizes) != stages:
        _refuse("stage_sizes", f"{len(sizes)} sizes for {stages} stages", "give one for each")
    return tuple(
        _whole(size, f"stage_sizes[{index}]", 1, MOST_PEERS) for index, size in enumerate(sizes)
    )


def _protected(found: Any, stages: int) -> tuple[int, ...]:
    listed = _list(found, "protected_stages", MOST_STAGES)
    return tuple(
        sorted(
            {
                _whole(stage, f"protected_stages[{index}]", 1, stages - 1)
                for index, stage in enumerate(listed)
            }
        )
    )


def _object(found: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        _refuse(place, "not an object", "write it as {...}")
    return found


def _list(found: Any, place: str, most: int) -> list[Any]:
    if not isinstance(found, list):
        _refuse(place, f"{found!r:.40} is not a list", "write it as [...]")
    if len(found) > most:
        _refuse(place, f"{len(found)} entries, at most {most}", "plan for fewer")
    return found


def _keys(
    found: Mapping[str, Any], at: str, needed: tuple[str, ...], more: tuple[str, ...]
) -> None:
    for key in needed:
        if key not in found:
            _refuse(f"{at}{key}", "missing", f"keys needed: {', '.join(needed)}")
    for key in found:
        if key not in needed and key not in more:
            _refuse(f"{at}{key}", "unknown key", f"keys known: {', '.join(needed + more)}")


def _whole(found: Any, place: str, least: int, most: int) -> int:
    if not isinstance(found, int) or isinstance(found, bool):
        _refuse(place, f"{found!r:.40} is not a whole number", "write a whole number")
    if not least <= found <= most:
        _refuse(
            place, f"{found!r:.40} is not within {least} and {most}", "write a number in this range"
        )
    return found


def _seconds(found: Any, place: str, least: float = 0.0) -> float:
    """Seconds of the network, from `least` to `MOST_SECONDS`."""
    if not isinstance(found, int | float) or isinstance(found, bool):
        _refuse(place, f"{found!r:.40} is not a number", "write seconds")
    if not least <= found <= MOST_SECONDS:
        remedy = f"write seconds from {least:g} to {MOST_SECONDS:g}"
        _refuse(place, f"{found!r:.40} is no duration", remedy)
    return float(found)


def _share(found: Any, place: str) -> Any:
    if found not in ("equal", "free"):
        _refuse(place, f"{found!r:.40} is not a choice", 'write "equal" or "free"')
    return found


def _refuse(place: str, why: str, remedy: str) -> NoReturn:
    raise ConfigError(f"{place} cannot be used", why, remedy)
