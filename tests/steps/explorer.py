"""Runs a world: delivers in random order, injects faults, and does what timers would do once nothing else moves."""

from collections.abc import Callable

from swarmtrain.core.messages import Commit
from swarmtrain.core.types import PeerId, Roster, is_majority
from tests.steps.actor import Actor
from tests.steps.world import STAGES, Kind, Parcel, Result, Setting, Verdict, Violation, World

IDLE_LIMIT = 8


class Explorer:
    """One seeded run of a world."""

    def __init__(self, seed: int, setting: Setting, world: type[World] = World) -> None:
        self.world = world(seed, setting)
        self.random, self.setting = self.world.random, setting

    def run(self) -> Verdict:
        try:
            return self._verdict(*self._explore())
        except Violation as violation:
            return self._verdict(violation.result, violation.why)
        except (AssertionError, KeyError) as error:
            return self._verdict("broke", repr(error))

    def _verdict(self, result: Result, why: str) -> Verdict:
        world = self.world
        repeats = sum(actor.worker.repeats for actor in world.actors.values())
        acknowledged = world.acknowledged == set(range(self.setting.steps))
        return Verdict(
            result, why, world.events, world.takeovers, repeats, acknowledged, world.rejoin
        )

    def _explore(self) -> tuple[Result, str]:
        world, idle = self.world, 0
        self._stand(world.actors[world.edges[0]])
        while world.events < self.setting.events and idle < IDLE_LIMIT:
            if self._over():
                return "ok", ""
            world.events += 1
            self._due()
            parcel = self._pick()
            if parcel is not None:
                parcel.deliver()
                idle = 0
            elif not self._tick():
                idle += 1
                if world.heals:
                    world.heals.pop(0)[1]()
        return self._unfinished()

    def _over(self) -> bool:
        """Everybody alive in the last committed roster has the last step."""
        last = self._last_commit()
        if last is None or last.step + 1 < self.setting.steps:
            return False
        roster = [self.world.actors[peer] for peer in last.roster.peers]
        if not all(a.member.step >= self.setting.steps or a.ended for a in roster if a.alive):
            return False
        return last.step in self.world.acknowledged

    def _unfinished(self) -> tuple[Result, str]:
        """Stopped with an event, lost with its last holder, or stalled."""
        world = self.world
        if world.stopped:
            return "stopped", world.stopped
        alive = self._alive()
        front = max((a.member.step for a in world.actors.values()), default=0)
        for stage in range(STAGES + 1):
            if not any(a.stage == stage and a.holds(front) for a in alive):
                return "lost", f"nobody alive holds stage {stage} of step {front}"
        if not is_majority([actor.peer for actor in alive], self._base_roster()):
            return "lost", "no majority of the last committed roster is alive"
        return "stalled", f"steps {sorted(a.member.step for a in alive)}"

    def _base_roster(self) -> Roster:
        last = self._last_commit()
        return last.roster if last is not None else self.world.roster

    def _last_commit(self) -> Commit | None:
        commits = [a.member.last for a in self._alive() if a.member.last is not None]
        return max(commits, key=lambda commit: commit.step, default=None)

    def _alive(self) -> list[Actor]:
        return [actor for actor in self.world.actors.values() if actor.alive]

    # ---- delivery ---------------------------------------------------------------------------------------------

    def _pick(self) -> Parcel | None:
        """Any parcel that can arrive now; of one link's tells the oldest, when the network keeps their order."""
        world = self.world
        world.parcels = [parcel for parcel in world.parcels if world.actors[parcel.to].alive]
        here = [i for i, parcel in enumerate(world.parcels) if self._arrives(parcel)]
        ready = [i for i in here if world.parcels[i].not_before <= world.events] or here
        if not ready:
            return None
        chosen = self.random.choice(ready)
        parcel = world.parcels[chosen]
        if self.setting.fifo and parcel.kind == "tell":
            link = (parcel.sender, parcel.to)
            chosen = next(
                i
                for i, other in enumerate(world.parcels)
                if other.kind == "tell" and (other.sender, other.to) == link
            )
        return world.parcels.pop(chosen)

    def _arrives(self, parcel: Parcel) -> bool:
        return self.world.reaches(parcel.sender, parcel.to)

    def _due(self) -> None:
        world = self.world
        while self._faults_due():
            self._fault(world.faults.pop(0)[1])
        for entry in [heal for heal in world.heals if heal[0] <= world.events]:
            world.heals.remove(entry)
            entry[1]()

    def _faults_due(self) -> bool:
        faults = self.world.faults
        return bool(faults) and faults[0][0] <= self.world.events

    # ---- faults -----------------------------------------------------------------------------------------------

    def _fault(self, kind: Kind) -> None:
        match kind:
            case "crash" | "freeze":
                self._strike(kind)
            case "lose":
                self._lose()
            case "repeat":
                tells = [parcel for parcel in self.world.parcels if parcel.kind in ("tell", "call")]
                if tells:
                    self.world.parcels.append(self.random.choice(tells))
            case "reroute":
                calls = [c for c in self.world.calls.values() if self.world.actors[c.caller].live]
                if calls:
                    self._reroute(self.random.choice(calls).number)
            case "overlap":
                edges = [self.world.actors[peer] for peer in self.world.edges]
                idle = [edge for edge in edges if edge.live and edge.conductor is None]
                if idle:
                    self._stand(self.random.choice(idle))
            case "partition":
                self._partition()
            case "slow":
                work = [parcel for parcel in self.world.parcels if parcel.kind in ("local", "call")]
                if work:
                    late = self.world.events + self.random.randrange(20, 200)
                    self.random.choice(work).not_before = late
            case "sloppy reduce":
                self.random.choice(list(self._alive())).reducer.sloppy = True

    def _strike(self, kind: Kind) -> None:
        """Crash or freeze a peer, but never the last one alive of a stage."""
        alive = [actor for actor in self._alive() if not actor.frozen]
        victims = [a for a in alive if sum(o.stage == a.stage for o in self._alive()) > 1]
        if not victims:
            return
        victim = self.random.choice(victims)
        if kind == "crash":
            victim.alive = False
            if self.random.random() < 0.5:
                world = self.world
                world.parcels = [p for p in world.parcels if p.sender != victim.peer]
            return
        victim.frozen = True

        def wake() -> None:
            victim.frozen = False

        self._heal(20, 400, wake)

    def _lose(self) -> None:
        parcels = self.world.parcels
        losable = [index for index, parcel in enumerate(parcels) if parcel.kind != "local"]
        if losable:
            parcels.pop(self.random.choice(losable)).lost()

    def _partition(self) -> None:
        """Two halves that hear nothing of each other; what is on its way arrives after the healing, or never."""
        world = self.world
        for actor in world.actors.values():
            actor.group = self.random.randint(0, 1)
        if self.random.random() < 0.5:
            cut = [
                p for p in world.parcels if world.actors[p.sender].group != world.actors[p.to].group
            ]
            world.parcels = [parcel for parcel in world.parcels if parcel not in cut]
            for parcel in cut:
                parcel.lost()

        def heal() -> None:
            for actor in world.actors.values():
                actor.group = 0

        self._heal(50, 500, heal)

    def _heal(self, soonest: int, latest: int, heal: Callable[[], None]) -> None:
        when = self.world.events + self.random.randrange(soonest, latest)
        self.world.heals.append((when, heal))
        self.world.heals.sort(key=lambda entry: entry[0])

    # ---- what timers and deadlines would do -------------------------------------------------------------------

    def _tick(self) -> bool:
        """Nothing moves: suspect, call again, stand, ask again. False when even that changes nothing."""
        world = self.world
        world.ticks += 1
        if self._suspect():
            return True
        moved = any([self._call_again(actor) for actor in self._alive() if actor.live])
        if moved and world.ticks % 3:
            return True
        return any([moved, self._stand_somebody(), self._ask_again(), self._fetch_state()])

    def _suspect(self) -> bool:
        """Conductors hear of peers that they cannot reach; while a heal is to come, not if that ended the run."""
        moved = False
        for actor in list(self._alive()):
            conductor = actor.conductor
            if not actor.live or conductor is None:
                continue
            for peer in conductor.roster.peers:
                if actor.conductor is not conductor or self._reaches(actor, peer):
                    continue
                rest = conductor.roster.without(peer)
                survives = not rest.missing_stages(STAGES) and is_majority(
                    rest.peers, conductor.base_roster
                )
                if survives or not self.world.heals:
                    before = len(self.world.parcels)
                    actor.perform(conductor.lost(peer))
                    moved |= len(self.world.parcels) > before or not actor.alive
        return moved

    def _reaches(self, actor: Actor, peer: PeerId) -> bool:
        return self.world.reaches(actor.peer, peer)

    def _call_again(self, actor: Actor) -> bool:
        calls = [c.number for c in self.world.calls.values() if c.caller == actor.peer]
        refused, actor.worker.refused = actor.worker.refused, []
        moved = [self._reroute(number) for number in calls]
        return any(moved + [actor.worker.again(call) for call in refused])

    def _reroute(self, number: int) -> bool:
        call = self.world.calls.pop(number)
        return self.world.actors[call.caller].worker.again(call)

    def _stand(self, actor: Actor) -> None:
        self.world.takeovers += 1
        actor.stand(self.world.rank(actor))

    def _stand_somebody(self) -> bool:
        """An edge stands when it reaches nobody who conducts or stands, itself included."""
        edges = [self.world.actors[peer] for peer in self.world.edges]
        for edge in edges:
            if not edge.live or edge.ended or edge.wants_state:
                continue
            busy = any(
                (other.conductor is not None or other.candidate is not None)
                and not other.ended
                and self._reaches(edge, other.peer)
                for other in edges
            )
            if not busy:
                self._stand(edge)
                return True
        return False

    def _ask_again(self) -> bool:
        """Tick every conductor and candidate; a candidate with a majority concludes without the unreachable."""
        before = len(self.world.parcels)
        for actor in list(self._alive()):
            candidate = actor.candidate
            if not actor.live:
                continue
            if candidate is not None:
                asked = [p for p in candidate.roster.peers if self._reaches(actor, p)]
                if candidate.has_majority and all(p in candidate.promises for p in asked):
                    actor.conclude()
                    return True
                actor.perform(candidate.start())
            elif actor.conductor is not None:
                actor.perform(actor.conductor.tick())
        return any(self._arrives(parcel) for parcel in self.world.parcels[before:])

    def _fetch_state(self) -> bool:
        return any([a.resync() for a in list(self._alive()) if a.live and a.wants_state])


def explore(seed: int, setting: Setting) -> Verdict:
    """One run, wholly determined by `seed` and `setting`."""
    return Explorer(seed, setting).run()
