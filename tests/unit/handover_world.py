# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Two regions of PostgreSQL under Patroni, simulated: what the handover's tests break on purpose.

Time is virtual. An application writes all the while to whatever takes writes, and an
acknowledged write is remembered for ever. The world itself sees when two hosts take
writes at the same instant; a test need not look at the right moment.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _handover
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._handover import (
    Handover,
    Limits,
    LockLost,
    Recovery,
    Truth,
)
from ansible_collections.muster.platform.plugins.module_utils._patroni import Member, Region
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

TICK = 0.02
CALL = 0.01  # what a question to a host or to etcd takes
LOCK_TTL = 10.0
LEADER_TTL = 20.0
REACTION = 0.05  # from a change in etcd to Patroni's acting on it
STOP, START, PROMOTE = 0.05, 0.25, 0.12
RECORD = 100  # bytes of WAL of one write
HOSTS = {"north": ("north-1", "north-2"), "south": ("south-1", "south-2")}
OTHER = {"north": "south", "south": "north"}
STANDBY = {"host": "the others", "port": 5432}


class Killed(BaseException):
    """The process is gone: nothing of it runs any more, not even what cleans up."""


class Node:
    """One host: its PostgreSQL, its WAL, and what Patroni on it is about to do."""

    def __init__(self, name: str, region: str, state: str) -> None:
        self.name = name
        self.region = region
        self.state = state  # primary | recovery | stopped
        self.timeline = 1
        self.wal: list[int] = []
        self.alive = True
        self.replayed = 0
        self.replaying = True
        self.receiving = True
        self.obeys = True  # whether Patroni does anything
        self.recovers = True  # whether PostgreSQL starts as a standby
        self.told_timeline: int | None = None  # what Patroni answers, when it is not the truth
        self.unknown_position = False
        self.due: tuple[float, str] | None = None  # an action under way: when it is done, and which
        self.acts_at = 0.0
        self.loop_at = 0.0
        self.system_identifier = "7710570350551003534"

    @property
    def position(self) -> int:
        return 1000 + RECORD * (len(self.wal) if self.state == "primary" else self.replayed)


class Side:
    """One region's etcd and hosts."""

    def __init__(self, name: str, standby: bool) -> None:
        self.name = name
        first = "recovery" if standby else "primary"
        self.nodes = {
            host: Node(host, name, first if number == 0 else "recovery")
            for number, host in enumerate(HOSTS[name])
        }
        self.standby = standby
        self.revision = 1
        self.leader: str | None = HOSTS[name][0]
        self.leader_until = LEADER_TTL
        self.last_primary: str | None = None
        self.readable = True
        self.elects = True


class World:
    """Both regions, the application, the lock, and the clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sides = {"north": Side("north", False), "south": Side("south", True)}
        self.numbers = itertools.count(1)
        self.acknowledged: set[int] = set()
        self.waiting: dict[str, list[int]] = {}
        self.dual: list[str] = []
        self.link = True  # whether regions replicate to each other
        self.lock: object | None = None
        self.lock_until = 0.0
        self.renews = False  # whether the lock's holder lives and is not stalled
        self.late: dict[str, float] = {}  # by change: when it is carried out, its answer being an error
        self.coming: list[tuple[float, Callable[[], None]]] = []
        self.steps = 0
        self.hooks: dict[int, Callable[[str, str], None]] = {}  # by step: what goes wrong there
        self.trace: list[str] = []
        self.advance(0.5)

    # --- time -----------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = round(self.now + TICK, 6)
            if self.renews:
                self.lock_until = self.now + LOCK_TTL
            elif self.now >= self.lock_until:
                self.lock = None
            for arrival in [arrival for arrival in self.coming if self.now >= arrival[0]]:
                self.coming.remove(arrival)
                arrival[1]()
            for side in self.sides.values():
                self.elect(side)
                for node in side.nodes.values():
                    self.finish(node)
                    self.act(side, node)
            if round(self.now / TICK) % 2 == 0:
                self.write()
            for side in self.sides.values():
                for node in side.nodes.values():
                    self.replicate(side, node)
            self.acknowledge()
            self.watch()

    def nodes(self) -> list[Node]:
        return [node for side in self.sides.values() for node in side.nodes.values()]

    def node(self, host: str) -> Node:
        return next(node for node in self.nodes() if node.name == host)

    def elect(self, side: Side) -> None:
        """The leader's key lives while its Patroni does; another host takes a free one."""
        leader = side.nodes.get(side.leader or "")
        if leader is not None and leader.alive:
            side.leader_until = self.now + LEADER_TTL
            return
        if (leader is not None and self.now < side.leader_until) or not side.elects:
            return
        able = [node for node in side.nodes.values() if node.alive and node.state == "recovery"]
        best = max(able, key=lambda node: len(node.wal), default=None)
        side.leader = best.name if best else None

    def finish(self, node: Node) -> None:
        """What was begun is done when its time has come, whatever was decided meanwhile."""
        if not node.alive or node.due is None or self.now < node.due[0]:
            return
        action = node.due[1]
        node.due = None
        if action == "stop":
            node.state = "stopped"
            node.replayed = len(node.wal)
        elif action == "start":
            node.state = "recovery"
        elif action == "promote":
            node.state = "primary"
            node.timeline = max(other.timeline for other in self.nodes()) + 1
            node.wal = node.wal[: node.replayed]

    def act(self, side: Side, node: Node) -> None:
        """One run of Patroni's loop."""
        if not node.alive or not node.obeys or self.now < node.acts_at:
            return
        node.loop_at = self.now
        if node.due is not None:
            return
        node.acts_at = self.now + REACTION
        writable = side.leader == node.name and not side.standby
        if node.state == "primary" and not writable:
            node.due = (self.now + STOP, "stop")
        elif node.state == "recovery" and writable:
            node.due = (self.now + PROMOTE, "promote")
        elif node.state == "stopped" and (node.recovers or writable):
            node.due = (self.now + START, "start")

    def lose(self, host: str) -> None:
        """The whole host is gone, without a word."""
        node = self.node(host)
        node.alive, node.state, node.due = False, "stopped", None
        node.replayed = len(node.wal)

    def bring_back(self, host: str) -> None:
        self.node(host).alive = True

    # --- writes ---------------------------------------------------------------------

    def writers(self) -> list[Node]:
        return [node for node in self.nodes() if node.alive and node.state == "primary"]

    def write(self) -> None:
        for node in self.writers():
            number = next(self.numbers)
            node.wal.append(number)
            self.waiting.setdefault(node.name, []).append(number)

    def acknowledge(self) -> None:
        """Commit waits for the region's other host, as synchronous replication has it, while that lives."""
        for host, numbers in self.waiting.items():
            node = self.node(host)
            if node.state != "primary" or not node.alive:
                numbers.clear()
                continue
            others = [n for n in self.sides[node.region].nodes.values() if n is not node and n.alive]
            held = set(numbers).intersection(*[other.wal[-100:] for other in others])
            self.acknowledged |= held
            numbers[:] = [number for number in numbers if number not in held]

    def replicate(self, side: Side, node: Node) -> None:
        if not node.alive or node.state != "recovery" or not node.receiving:
            return
        if side.leader == node.name:
            other = self.sides[OTHER[side.name]]
            upstream = other.nodes.get(other.leader or "") if self.link and side.standby else None
        else:
            upstream = side.nodes.get(side.leader or "")
        if upstream is not None and upstream.alive and upstream.state != "stopped":
            self.copy(upstream, node)
        if node.replaying:
            node.replayed = len(node.wal)

    @staticmethod
    def copy(upstream: Node, node: Node) -> None:
        common = len(node.wal)
        # A number is written once: where the last one is the same, so is all before it.
        if common and upstream.wal[common - 1 : common] != node.wal[-1:]:
            pairs = zip(node.wal, upstream.wal, strict=False)
            common = next((i for i, (a, b) in enumerate(pairs) if a != b), min(common, len(upstream.wal)))
        if common < len(node.wal):
            if upstream.timeline <= node.timeline:
                return  # upstream is behind, which PostgreSQL refuses to follow
            del node.wal[common:]  # rewound
        node.wal.extend(upstream.wal[common : common + 50])
        node.timeline = upstream.timeline

    def watch(self) -> None:
        writers = self.writers()
        if len(writers) > 1:
            self.dual.append(f"{self.now:.2f} s: {', '.join(node.name for node in writers)}")

    # --- the verdict ------------------------------------------------------------------

    def judge(self) -> str:
        """The region that takes writes, after a while of quiet; everything that must hold is asserted."""
        self.hooks = {}
        self.advance(8)
        writers = self.writers()
        assert not self.dual, f"two writers: {self.dual[:3]}"
        assert len(writers) == 1, f"writers: {[node.name for node in writers]}"
        lost = self.acknowledged - set(writers[0].wal)
        assert not lost, f"{len(lost)} acknowledged writes are lost"
        before = len(self.acknowledged)
        self.advance(0.5)
        assert len(self.acknowledged) > before, "the application cannot write"
        for node in self.nodes():
            if node.alive and node is not writers[0] and self.link:
                assert node.timeline == writers[0].timeline, f"{node.name} does not follow"
        return writers[0].region

    # --- calls ------------------------------------------------------------------------

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Every question and every change of the handover passes here, and may go wrong here."""
        self.steps += 1
        hook = self.hooks.get(self.steps)
        self.trace.append(name)
        if hook:
            hook("before", name)
        self.advance(CALL)
        try:
            yield
        finally:
            if hook:
                hook("after", name)

    # --- the lock ---------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self) -> Iterator[object]:
        """One holder at a time; a dead or stalled one loses it when its time is over."""
        mine = object()
        deadline = self.now + 20
        while self.lock is not None:
            if self.now > deadline:
                raise MusterError("the lock dr is held")
            self.advance(0.25)
        self.lock, self.renews, self.lock_until = mine, True, self.now + LOCK_TTL
        try:
            yield mine
        except Killed:
            self.renews = False
            raise
        except BaseException:
            self.release(mine)
            raise
        self.release(mine)

    def release(self, mine: object) -> None:
        if self.lock is mine:
            self.lock, self.renews = None, False

    def stall(self) -> None:
        """The process that holds the lock stands still until it has lost it."""
        self.renews = False
        self.advance(LOCK_TTL + 1)

    def holds(self, mine: object) -> bool:
        return self.lock is mine


# --- what the handover sees ---------------------------------------------------------


class Api:
    """The survey: what Patroni on each host answers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.regions = {name: list(hosts) for name, hosts in HOSTS.items()}

    def _member(self, region: str, host: str) -> Member:
        side = self.world.sides[region]
        node = side.nodes[host]
        if not node.alive:
            return Member(host=host, region=region, error=f"Patroni on {host} did not answer")
        role = node.state
        if role == "recovery":
            role = "standby_leader" if side.leader == host and side.standby else "replica"
        return Member(
            host=host,
            region=region,
            role=role,
            state="stopped" if node.state == "stopped" else "running",
            timeline=node.told_timeline or node.timeline,
            lsn=None if node.state == "stopped" or node.unknown_position else node.position,
            replication_state="streaming" if node.state == "recovery" and node.receiving else None,
            received=1000 + RECORD * len(node.wal) if node.state == "recovery" else None,
            loop_at=node.loop_at,
            system_identifier=node.system_identifier,
            scope=f"muster-{region}",
        )

    def member(self, region: str, host: str) -> Member:
        with self.world.step(f"member {host}"):
            return self._member(region, host)

    def _region(self, name: str) -> Region:
        members = {host: self._member(name, host) for host in HOSTS[name]}
        return Region(name, members, {"standby_cluster": STANDBY} if self.world.sides[name].standby else {})

    def region(self, name: str) -> Region:
        with self.world.step(f"region {name}"):
            return self._region(name)

    def members(self, without: Collection[str] = ()) -> list[Member]:
        with self.world.step("members"):
            return [self._member(n, host) for n in HOSTS for host in HOSTS[n] if host not in without]

    def all(self) -> dict[str, Region]:
        with self.world.step("survey"):
            return {name: self._region(name) for name in HOSTS}


class Database:
    """SQL, by host."""

    def __init__(self, world: World) -> None:
        self.world = world

    def up(self, host: str) -> Node:
        node = self.world.node(host)
        if not node.alive or node.state == "stopped":
            raise MusterError(f"PostgreSQL on {host}: connection refused")
        return node

    def checkpoint(self, host: str) -> None:
        with self.world.step(f"checkpoint {host}"):
            self.up(host)

    def recovery(self, host: str) -> Recovery:
        with self.world.step(f"recovery {host}"):
            node = self.up(host)
            return Recovery(node.state == "recovery", node.position, node.position - RECORD, node.timeline)


class Etcds:
    """Both regions' etcds, for one run with its lock."""

    def __init__(self, world: World, lock: object) -> None:
        self.world = world
        self.lock = lock

    def read(self, region: str) -> Truth:
        with self.world.step(f"read {region}"):
            side = self.world.sides[region]
            self.available(side)
            config = {"standby_cluster": STANDBY} if side.standby else {"ttl": 20}
            return Truth(config, side.revision, side.leader, side.last_primary)

    def change(
        self,
        region: str,
        seen: Truth,
        standby_cluster: Mapping[str, Any] | None,
        last_primary: str | None,
        leader: str | None,
    ) -> bool:
        side = self.world.sides[region]

        def transaction() -> bool:
            if not self.world.holds(self.lock):
                raise LockLost("the lock dr was lost")
            if side.revision != seen.revision or (leader is not None and side.leader != leader):
                return False
            side.revision += 1
            side.standby = standby_cluster is not None
            side.last_primary = last_primary
            return True

        def arrive() -> None:
            with contextlib.suppress(LockLost):
                transaction()

        name = f"{'close' if standby_cluster else 'open'} {region}"
        with self.world.step(name):
            if name in self.world.late:
                self.world.coming.append((self.world.now + self.world.late.pop(name), arrive))
                raise MusterError("context deadline exceeded")
            self.available(side)
            return transaction()

    def forget(self, region: str) -> None:
        with self.world.step(f"forget {region}"):
            self.available(self.world.sides[region])
            if not self.world.holds(self.lock):
                raise LockLost("the lock dr was lost")
            self.world.sides[region].last_primary = None

    @staticmethod
    def available(side: Side) -> None:
        if not side.readable:
            raise MusterError(f"etcd of {side.name}: no leader")


def handover(world: World, target: str, lock: object, **limits: float) -> Handover:
    """A run of the real code over this world, whose clock its waits use from now on."""
    _handover.wait_until = in_virtual_time(world)  # type: ignore[assignment]

    def still_held() -> None:
        with world.step("lock"):
            if not world.holds(lock):
                raise MusterError("the lock dr was lost")

    return Handover(
        survey=Api(world),  # type: ignore[arg-type]
        sql=Database(world),
        dcs=Etcds(world, lock),
        source=OTHER[target],
        target=target,
        standby_cluster=STANDBY,
        limits=Limits(**limits),  # type: ignore[arg-type]
        still_held=still_held,
    )


def switch(world: World, target: str, **limits: float) -> dict[str, Any]:
    """The command: take the lock and move, in the world's time."""
    with world.locked() as lock:
        return handover(world, target, lock, **limits).run()


def in_virtual_time(world: World) -> Callable[..., Any]:
    """wait_until, with the world's clock."""

    def waiting(check: Any, what: str, timeout: float, interval: float = 0.2) -> Any:
        return wait_until(check, what, timeout, interval, lambda: world.now, world.advance)

    return waiting
