# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Two regions and a witness on a simulated clock: real decisions, and faults by a seed.

The witness (Lease, Decider) and the agents (Mind) are the daemons' own. Simulated are time, the network,
the etcds, and PostgreSQL. Each host has a clock of its own that runs up to a hundredth fast or slow.
"""

from __future__ import annotations

import heapq
import importlib.util
import itertools
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILES = Path(__file__).resolve().parents[2] / "roles/autofailover/files"


def load(name: str) -> Any:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, FILES / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


witness: Any = load("muster_lease")
agent: Any = load("muster_lease_agent")

LEASE, RENEW, FENCE, UNCERTAINTY, WATCHDOG = 20.0, 2.0, 5.0, 1.0, 4.0
PROBE, RETRY = 10.0, 60.0
STEP = 0.25  # seconds between two looks at the clock; the fence is so much quicker
REGIONS = {"north": ["n1", "n2"], "south": ["s1", "s2"]}
OTHER = {"north": "south", "south": "north"}


def region_of(host: str) -> str:
    return next(region for region, hosts in REGIONS.items() if host in hosts)


class Etcd:
    """One region's etcd as a party: what Seat does, in one piece, and Patroni's configuration."""

    def __init__(self, world: World, region: str) -> None:
        self.world, self.region = world, region
        self.up = True
        self.standby = region != "north"
        self.claimed = 0
        self.covered: dict[str, float] = {}

    def covers(self) -> bool:
        return any(until > self.world.now for until in self.covered.values())

    def claim(self, term: int) -> int:
        if term > self.claimed and not self.covers():
            self.claimed = term
        return self.claimed

    def cover(self, host: str, term: int, granted_at: float) -> bool:
        if self.claimed > term or not self.standby or granted_at + LEASE <= self.world.now:
            return False
        self.covered[host] = granted_at + LEASE
        return True


class Host:
    """A PostgreSQL host: its agent's mind, the fence, and whether PostgreSQL runs."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name, self.region = world, name, region_of(name)
        self.rate = world.random.uniform(0.99, 1.01)
        self.offset = world.random.uniform(0, 1000)
        self.disk: dict[str, Any] = {}
        self.alive = True  # the machine
        self.hung_until = -1.0  # the agent
        self.frozen_until = -1.0
        self.running = True
        self.down = False
        self.gone_for_good = False
        self.fencing_since: float | None = None
        self.start_agent(0.0)

    def clock(self) -> float:
        return self.offset + self.world.now * self.rate

    def start_agent(self, word_until: float) -> None:
        timing = agent.Timing(LEASE, RENEW, FENCE, UNCERTAINTY, WATCHDOG)
        self.mind = agent.Mind(self.region, timing, dict(self.disk), self.disk.update)
        if word_until and self.mind.holds:
            self.mind.by_witness = word_until
            self.mind.heard = self.clock()

    @property
    def etcd(self) -> Etcd:
        return self.world.etcds[self.region]

    @property
    def awake(self) -> bool:
        return self.alive and self.world.now >= max(self.hung_until, self.frozen_until)

    @property
    def writes(self) -> bool:
        """PostgreSQL here would acknowledge a write."""
        return (
            self.alive
            and self.running
            and self.world.now >= self.frozen_until
            and not self.etcd.standby
            and self.name == self.world.leaders[self.region]
        )

    # --- what the daemon's threads do ---

    def renew(self) -> None:
        if self.awake:
            asked = self.clock()
            said = {
                **self.mind.words(asked),
                "role": "standby_leader"
                if self.etcd.standby and self.name == self.world.leaders[self.region]
                else "replica",
                "writable": self.writes,
            }
            mind = self.mind

            def answered(answer: dict[str, Any]) -> None:
                if self.mind is mind and self.awake:
                    mind.on_answer(asked, self.clock(), answer)

            self.world.ask_witness(self, said, answered)
        self.world.after(RENEW, self.renew)

    def look(self) -> None:
        if self.awake:
            self.mind.writable = self.writes
            if self.etcd.up:
                self.mind.on_config(self.clock(), self.etcd.standby, self.etcd.covers())
                if self.mind.wanted > self.etcd.claimed:
                    self.etcd.claim(self.mind.wanted)
                self.mind.on_claimed(self.etcd.claimed)
        self.world.after(RENEW / 2, self.look)

    def cover(self) -> None:
        if self.awake and self.mind.wants_cover(self.clock()):
            asked, term, mind = self.clock(), self.mind.term, self.mind

            def answered(accepted: bool) -> None:
                if accepted and self.mind is mind and self.awake:
                    mind.on_cover(asked, term)

            self.world.ask_etcd(self, term, answered)
        self.world.after(RENEW, self.cover)

    def step(self) -> None:
        if self.awake:
            action, _why = self.mind.decide(self.clock())
            if action == agent.RUN:
                self.fencing_since = None
                calm = (
                    self.mind.calm >= agent.CALM or self.mind.is_standby(self.clock()) or not self.mind.armed
                )
                if self.down and calm and not self.gone_for_good:
                    self.down, self.running = False, True
            else:
                self.down = True
                self.gone_for_good |= action == agent.LOST
                if self.fencing_since is None:
                    self.fencing_since = self.world.now
                    self.fence_takes = self.world.random.uniform(0, FENCE - 2 * STEP)
                if self.world.now - self.fencing_since >= self.fence_takes:
                    self.running = False
        self.world.after(STEP, self.step)

    # --- what happens to it ---

    def kill_agent(self) -> None:
        """Killed, by somebody or by systemd's watchdog: started again, it goes on with the word it noted."""
        until = self.mind.until()
        self.hung_until = self.world.now + self.world.random.uniform(0.1, 0.9)
        self.world.after(
            self.hung_until - self.world.now,
            lambda: self.start_agent(until if until > 0 else 0.0),
        )

    def hang_agent(self) -> None:
        self.hung_until = self.world.now + 60
        self.world.after(WATCHDOG - 1, self.kill_agent)

    def freeze(self, seconds: float) -> None:
        self.frozen_until = self.world.now + seconds

    def die(self) -> None:
        self.alive = self.running = False

    def boot(self) -> None:
        if not self.alive:
            self.alive, self.down = True, True
            self.start_agent(0.0)


class Failover:
    """In the place of ansible-playbook: what it does between the lease and the first write."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.code: int | None = None
        self.busy = False

    def start(self, source: str, target: str, proof: dict[str, Any]) -> None:
        assert proof["proven"], proof
        assert proof["region"] == source
        self.busy = True
        self.world.after(self.world.random.uniform(0.1, 20), lambda: self.promote(target))

    def promote(self, target: str) -> None:
        etcd = self.world.etcds[target]
        if etcd.up and self.world.linked("w", target) and self.world.random.random() >= self.world.clumsy:
            etcd.standby = False
            self.code = 0
        else:
            self.code = 2

    def poll(self) -> int | None:
        code, self.code = self.code, None
        if code is not None:
            self.busy = False
        return code


class World:
    """The clock, the network, and whoever lives there."""

    def __init__(self, seed: int, directory: Path) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.now = 0.0
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.cut: set[frozenset[str]] = set()
        self.directory = directory
        self.etcds = {region: Etcd(self, region) for region in REGIONS}
        self.leaders = {region: hosts[0] for region, hosts in REGIONS.items()}
        self.locked = False
        self.clumsy = 0.0  # how often the failover's command fails
        self.blind = False  # a canary that sees no write, ever: then the lease alone has to be safe
        self.witness_rate = self.random.uniform(0.99, 1.01)
        self.last_write = 0.0
        self.passes: list[tuple[float, str]] = []
        self.violation = ""
        self.hosts = {host: Host(self, host) for hosts in REGIONS.values() for host in hosts}
        self.witness_up = False
        self.start_witness()
        self.lease.hold("north")
        for host in self.hosts.values():
            for work in (host.renew, host.look, host.cover, host.step):
                self.after(self.random.uniform(0, RENEW), work)
        self.after(0.5, self.decide)

    # --- time and network ---

    def after(self, seconds: float, work: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (self.now + seconds, next(self.order), work))

    def run(self, until: float) -> None:
        while self.queue and self.queue[0][0] <= until:
            self.now, _order, work = heapq.heappop(self.queue)
            work()
            self.check()
        self.now = until

    def linked(self, one: str, two: str) -> bool:
        return one == two or frozenset((one, two)) not in self.cut

    def delay(self) -> float:
        """Mostly milliseconds; now and then as long as the client waits."""
        return self.random.choice((0.001, 0.005, 0.02, 0.3, 1.2)) * self.random.random()

    def arrives(self, one: str, two: str) -> bool:
        return self.linked(one, two) and self.random.random() > 0.02

    def ask_witness(
        self, host: Host, said: dict[str, Any], answered: Callable[[dict[str, Any]], None]
    ) -> None:
        def arrive() -> None:
            if self.witness_up and self.arrives(host.region, "w"):
                answer = self.lease.renew(host.name, said)
                self.after(self.delay(), lambda: self.arrives(host.region, "w") and answered(answer))

        self.after(self.delay(), arrive)

    def ask_etcd(self, host: Host, term: int, answered: Callable[[bool], None]) -> None:
        target = self.etcds[OTHER[host.region]]

        def granted() -> None:
            granted_at = self.now
            if target.up and self.arrives(host.region, target.region):
                self.after(self.delay(), lambda: put(granted_at))

        def put(granted_at: float) -> None:
            if target.up and self.arrives(host.region, target.region):
                accepted = target.cover(host.name, term, granted_at)
                self.after(
                    self.delay(), lambda: self.arrives(host.region, target.region) and answered(accepted)
                )

        self.after(self.delay(), granted)

    # --- the witness ---

    def start_witness(self) -> None:
        if self.witness_up:
            return
        self.witness_up = True
        timing = witness.Timing(LEASE, RENEW, PROBE, RETRY)
        clock = lambda: self.now * self.witness_rate  # noqa: E731
        self.lease = witness.Lease(REGIONS, timing, self.directory, clock, lambda: 1_795_255_200.0 + self.now)
        self.runner = Failover(self)
        self.decider = witness.Decider(self.lease, self.probe, self.lock, self.runner)

    def stop_witness(self) -> None:
        self.witness_up = False

    def decide(self) -> None:
        if self.witness_up:
            before = self.lease.holders
            self.decider.tick()
            if self.lease.holders != before:
                self.passes.append((self.now, self.lease.holders[0]))
        self.after(0.5, self.decide)

    def lock(self) -> dict[str, Any] | None:
        return {"operation": "drill", "target": "south"} if self.locked else None

    def probe(self) -> tuple[bool | None, str]:
        """The canary writes through both regions' edges, and each edge finds the primary wherever it is."""
        silent = self.now - self.last_write
        if self.blind:
            return True, "the canary always says so"
        return silent >= PROBE, f"last write {silent:.1f} s ago"

    def reached(self, host: Host) -> bool:
        return any(
            self.linked("w", edge) and self.linked(edge, host.region)
            and any(each.alive for each in self.hosts.values() if each.region == edge)
            for edge in REGIONS
        )  # fmt: skip

    # --- what must never be ---

    def check(self) -> None:
        writers = [host for host in self.hosts.values() if host.writes]
        if any(self.reached(host) for host in writers):
            self.last_write = self.now
        if len({host.region for host in writers}) > 1 and not self.violation:
            self.violation = (
                f"seed {self.seed}: at {self.now:.3f} s {', '.join(h.name for h in writers)} take writes"
            )
        entitled = {
            host.region
            for host in self.hosts.values()
            if host.mind.armed and host.mind.holders == [host.region] and host.clock() < host.mind.until()
        }
        if len(entitled) > 1 and not self.violation:
            self.violation = (
                f"seed {self.seed}: at {self.now:.3f} s {', '.join(sorted(entitled))} are both entitled"
            )
