"""C1 from what peers did to their sums: every applied sum held each contribution that counts once, nothing else.

Ownership says who should have contributed what; here the contributions themselves are followed, as they entered and
left each sum, up to the moment its snapshot was taken. A contribution that was taken twice shows although the
protocol's own bookkeeping knows of one, and although equal replicas agree on the wrong sum.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from swarmtrain.experiments.evidence import Evidence, Line, Violation, keys_of, tag_of

Tag = tuple[int, int, int]
Item = tuple[int, int]
"""(position, key)"""


@dataclass
class Snapshot:
    """What a peer's sum of one stage held when it was given to a seal."""

    contents: Mapping[Item, int]
    line: Line


@dataclass
class _Peer:
    """One peer's sums as its journal tells them. `step` is the step they belong to, None when nothing says it."""

    step: int | None = None
    counts: Counter[Item] = field(default_factory=Counter)
    sequences: Sequence[Sequence[int]] = ()

    def stage_of(self, item: Item) -> int:
        """The stage whose sum the item belongs to; -1 when the key's route has no such position."""
        position, key = item
        sequence = self.sequences[key if 0 < key < len(self.sequences) else 0]
        route = [0, *sequence, 0]
        return int(route[position]) if 0 <= position < len(route) else -1

    def restart(self, step: int | None) -> None:
        self.step, self.counts = step, Counter()


@dataclass
class Contents:
    """Follows all sums; `snapshots` are by seal, then by peer and stage."""

    evidence: Evidence
    found: list[Violation] = field(default_factory=list)
    snapshots: dict[Tag, dict[tuple[str, int], Snapshot]] = field(default_factory=dict)
    writers: set[str] = field(default_factory=set)
    _peers: dict[str, _Peer] = field(default_factory=dict)

    def follow(self) -> None:
        for lines in self.evidence.files.values():
            self._peers = {}
            for line in lines:
                self._take(line)

    def _take(self, line: Line) -> None:
        peer, event = self._peers.setdefault(line.peer, _Peer()), line.event
        match event["kind"]:
            case "peer_joined" if event["peer"] == line.peer:
                # New replicas, with empty sums. Those of a restore or a move come with their own state_applied.
                peer.restart(None)
            case "state_applied" if not event.get("is_aside"):
                peer.restart(max(event["step"] + 1, event.get("next_step", 0)))
            case "seal_assigned":
                peer.sequences = event["sequences"]
            case "sum_changed":
                self.writers.add(line.peer)
                self._change(peer, line)
            case "sum_sealed":
                self.writers.add(line.peer)
                self._seal(peer, line)

    def _change(self, peer: _Peer, line: Line) -> None:
        event, item = line.event, (line.event["position"], line.event["key"])
        if peer.step is None:
            peer.step = event["step"]
        if event["step"] != peer.step:
            what = f"a contribution to step {event['step']} changed the sum of step {peer.step}"
            self._report(f"{what}: (position, key) {item}", line)
            return
        peer.counts[item] += 1 if event["change"] == "add" else -1

    def _seal(self, peer: _Peer, line: Line) -> None:
        event = line.event
        if not peer.sequences:
            self._report(f"the sum of stage {event['stage']} was sealed unassigned", line)
            return
        contents = {
            item: count
            for item, count in peer.counts.items()
            if count and peer.stage_of(item) == event["stage"]
        }
        place = (line.peer, event["stage"])
        self.snapshots.setdefault(tag_of(event), {})[place] = Snapshot(contents, line)

    def _report(self, what: str, line: Line) -> None:
        self.found.append(self.evidence.violation("C1", f"peer {line.peer}: {what}", line))


def counted_once(evidence: Evidence) -> list[Violation]:
    """For every seal that somebody applied: each owner's snapshot held what it owns, once, and no snapshot more.

    Together with one owner per item (`checker`) this is: every contribution is once in the applied sum.
    """
    if not evidence.of("sum_changed"):
        return []
    contents = Contents(evidence)
    contents.follow()
    applied = {tag_of(line.event): line for line in reversed(evidence.of("state_applied"))}
    assigned = {tag_of(line.event): line for line in reversed(evidence.of("seal_assigned"))}
    for tag, line in sorted(assigned.items()):
        if tag in applied:
            contents.found += _compare(evidence, contents, tag, line)
    return contents.found


def _compare(evidence: Evidence, contents: Contents, tag: Tag, line: Line) -> list[Violation]:
    found, snapshots = [], contents.snapshots.get(tag, {})
    owned = _owned(line.event)
    where = f"step {tag[0]} seal {tag}"
    for place in sorted({*owned, *snapshots}):
        peer, stage = place
        if place in snapshots:
            held, wanted = snapshots[place].contents, owned.get(place, set())
            wrong = sorted(
                {item for item, count in held.items() if count != 1 or item not in wanted}
            )
            wrong += sorted(wanted - set(held))
            if wrong:
                times = [f"{item} {held.get(item, 0)} times" for item in wrong[:4]]
                what = f"{where}: the sum of stage {stage} at peer {peer} held (position, key) "
                what += ", ".join(times) + " and not as assigned"
                found.append(evidence.violation("C1", what, line, snapshots[place].line))
        elif peer in contents.writers:
            what = f"{where} was applied, but owner {peer} gave no sum of stage {stage} to it"
            found.append(evidence.violation("C1", what, line))
        else:
            what = f"{where}: no journal says what owner {peer} contributed"
            found.append(evidence.violation("JOURNAL", what, line))
    return found


def _owned(event: Mapping[str, Any]) -> dict[tuple[str, int], set[Item]]:
    """What each owner has by this assignment, by peer and stage."""
    stages = _Peer(sequences=event["sequences"])
    owned: dict[tuple[str, int], set[Item]] = {}
    for peer, positions in event["owners"]:
        for position, bitmap in positions:
            for key in keys_of(bitmap):
                item = (position, key)
                owned.setdefault((peer, stages.stage_of(item)), set()).add(item)
    return owned
