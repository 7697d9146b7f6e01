# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The five faults of automatic failover, and thousands of random ones: never two regions that write."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lease_world import FENCE, LEASE, REGIONS, Etcd, Host, World, agent, witness

# A few in each run; MUSTER_SCHEDULES=5000 MUSTER_SEED=1001 for many others.
SCHEDULES = int(os.environ.get("MUSTER_SCHEDULES", "60"))
FIRST_SEED = int(os.environ.get("MUSTER_SEED", "1"))
# As the daemons, it knows nothing of Ansible: scripts/unit runs it on one generation.
pytestmark = pytest.mark.daemons


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is kept; that it is also on the platter takes a second a schedule, and is tested elsewhere."""
    monkeypatch.setattr(witness.os, "fsync", lambda _descriptor: None)
    monkeypatch.setattr(witness, "say", lambda _text: None)


def settled(tmp_path: Path, seed: int = 1) -> World:
    """A world in which north writes under its lease."""
    world = World(seed, tmp_path)
    for _look in range(120):
        world.run(world.now + 0.25)
        assert world.hosts["n1"].writes, "turning it on stopped the primary"
    assert world.hosts["n1"].writes
    assert all(world.hosts[host].mind.armed for host in REGIONS["north"])
    return world


def writer(world: World) -> str | None:
    return next((host.name for host in world.hosts.values() if host.writes), None)


def cut(world: World, one: str, two: str) -> None:
    world.cut.add(frozenset((one, two)))


def heal(world: World) -> None:
    world.cut.clear()


# --- the five faults -------------------------------------------------------------------


def test_region_killed_the_other_takes_over_in_time(tmp_path: Path) -> None:
    world = settled(tmp_path)
    for host in REGIONS["north"]:
        world.hosts[host].die()
    world.etcds["north"].up = False
    began = world.now
    world.run(began + 90)
    assert writer(world) == "s1"
    assert [region for _when, region in world.passes] == ["south"]
    assert LEASE - 4 < world.passes[0][0] - began < LEASE + 6
    assert not world.violation
    # It comes back with its old data, and stays down.
    world.etcds["north"].up = True
    for host in REGIONS["north"]:
        world.hosts[host].boot()
    world.run(world.now + 60)
    assert writer(world) == "s1"
    assert all(world.hosts[host].gone_for_good for host in REGIONS["north"])
    assert not world.violation


def test_region_isolated_fences_itself_before_the_other_takes_over(tmp_path: Path) -> None:
    world = settled(tmp_path)
    cut(world, "north", "w")
    cut(world, "north", "south")
    began = world.now
    world.run(began + LEASE - 1)
    assert writer(world) is None
    assert world.passes == []
    world.run(began + 90)
    assert writer(world) == "s1"
    heal(world)
    world.run(world.now + 60)
    assert writer(world) == "s1"
    assert not world.violation


def test_region_isolated_for_a_short_time_comes_back_by_itself(tmp_path: Path) -> None:
    world = settled(tmp_path)
    cut(world, "north", "w")
    cut(world, "north", "south")
    world.run(world.now + LEASE - 2)
    assert writer(world) is None
    heal(world)
    world.run(world.now + 30)
    assert writer(world) == "n1"
    assert world.passes == []


def test_witness_killed_moves_nothing_and_stops_nothing(tmp_path: Path) -> None:
    world = settled(tmp_path)
    world.stop_witness()
    for _second in range(300):
        world.run(world.now + 1)
        assert writer(world) == "n1"
    world.start_witness()
    world.run(world.now + 120)
    assert (writer(world), world.passes, world.violation) == ("n1", [], "")


def test_witness_cut_off_from_both_moves_nothing(tmp_path: Path) -> None:
    world = settled(tmp_path)
    cut(world, "north", "w")
    cut(world, "south", "w")
    world.run(world.now + 300)
    assert (writer(world), world.passes, world.violation) == ("n1", [], "")
    assert "cut off" in world.decider.last["reason"]


@pytest.mark.parametrize("region", ["north", "south"])
def test_witness_isolated_from_one_region_moves_nothing(region: str, tmp_path: Path) -> None:
    world = settled(tmp_path)
    cut(world, region, "w")
    world.run(world.now + 300)
    assert (writer(world), world.passes, world.violation) == ("n1", [], "")


def test_witness_restarted_waits_a_whole_lease(tmp_path: Path) -> None:
    world = settled(tmp_path)
    world.blind = True
    isolate(world, world.hosts["n1"])
    world.run(world.now + 3)
    world.stop_witness()
    world.start_witness()
    began = world.now
    world.run(began + LEASE - 1)
    assert world.passes == []
    world.run(began + 90)
    assert (writer(world), world.violation) == ("s1", "")


def test_a_flapping_link_neither_moves_nor_doubles(tmp_path: Path) -> None:
    world = settled(tmp_path)
    for _flap in range(20):
        cut(world, "north", "w")
        cut(world, "north", "south")
        world.run(world.now + world.random.uniform(1, LEASE - 6))
        heal(world)
        world.run(world.now + world.random.uniform(3, 12))
    world.run(world.now + 30)
    assert (writer(world), world.passes, world.violation) == ("n1", [], "")


# --- other things that happen ------------------------------------------------------------


def test_a_witness_that_lost_the_region_it_covers_both_ways_stops_the_isolated_one(tmp_path: Path) -> None:
    """Witness and other region gone: one of three cannot know that it is not the one that is cut off."""
    world = settled(tmp_path)
    world.stop_witness()
    cut(world, "north", "south")
    world.run(world.now + LEASE + FENCE)
    assert writer(world) is None


def test_a_cover_keeps_the_other_region_from_claiming(tmp_path: Path) -> None:
    world = settled(tmp_path)
    cut(world, "north", "w")
    world.run(world.now + 60)
    assert world.etcds["south"].covers()
    assert world.etcds["south"].claim(99) < 99


def test_a_hung_agent_of_an_isolated_region_is_replaced_in_time(tmp_path: Path) -> None:
    for seed in range(1, 6):
        directory = tmp_path / str(seed)
        directory.mkdir()
        world = settled(directory, seed)
        cut(world, "north", "w")
        cut(world, "north", "south")
        world.run(world.now + world.random.uniform(0, 12))
        for host in REGIONS["north"]:
            world.hosts[host].hang_agent()
        world.run(world.now + 120)
        assert not world.violation
        assert writer(world) == "s1"


def test_an_operation_under_way_is_not_disturbed(tmp_path: Path) -> None:
    world = settled(tmp_path)
    world.locked = True
    for host in REGIONS["north"]:
        world.hosts[host].die()
    world.run(world.now + 120)
    assert world.passes == []
    assert "a DR operation is under way (drill)" in world.decider.last["reason"]


def test_a_host_that_never_renewed_is_not_trusted_to_fence_itself(tmp_path: Path) -> None:
    world = World(1, tmp_path)
    world.hosts["n2"].die()
    world.run(30)
    world.hosts["n1"].die()
    world.run(world.now + 120)
    assert world.passes == []
    assert "n2 never renewed it" in world.decider.last["reason"]


def test_a_planned_move_under_a_shared_lease(tmp_path: Path) -> None:
    world = settled(tmp_path)
    assert world.lease.share("south")
    world.run(world.now + 6)
    south = [world.hosts[host] for host in REGIONS["south"]]
    assert all(host.clock() < host.mind.until() for host in south)
    world.etcds["north"].standby = True
    world.run(world.now + 0.1)
    world.etcds["south"].standby = False
    with pytest.raises(witness.Refused, match="does not say that region north is a standby"):
        world.lease.hold("south")
    world.run(world.now + 6)
    assert world.lease.hold("south")
    world.run(world.now + 30)
    assert writer(world) == "s1"
    assert all(world.hosts[host].running for host in REGIONS["north"])  # a standby, not fenced
    assert not world.violation


def test_a_planned_move_that_is_rolled_back_leaves_the_lease_where_the_primary_is(tmp_path: Path) -> None:
    world = settled(tmp_path)
    world.lease.share("south")
    world.run(world.now + 10)
    with pytest.raises(witness.Refused, match="does not say that region north is a standby"):
        world.lease.hold("south")
    assert world.lease.hold("north")
    world.run(world.now + 60)
    assert (writer(world), world.violation) == ("n1", "")


def test_two_failovers_there_and_back(tmp_path: Path) -> None:
    world = settled(tmp_path)
    for lost, target in (("north", "south"), ("south", "north")):
        for host in REGIONS[lost]:
            world.hosts[host].die()
        world.run(world.now + 120)
        assert writer(world) == REGIONS[target][0]
        # dr_reprotect
        world.etcds[lost].standby = True
        for host in REGIONS[lost]:
            world.hosts[host].boot()
            world.hosts[host].gone_for_good = False
        world.run(world.now + 120)
        assert writer(world) == REGIONS[target][0]
    assert not world.violation


# --- anything, in any order --------------------------------------------------------------


LINKS = list(itertools.combinations(("north", "south", "w"), 2))


def isolate(world: World, host: Host) -> None:
    world.cut |= {each for each in map(frozenset, LINKS) if host.region in each}


def restart_witness(world: World, _host: Host) -> None:
    world.stop_witness()
    world.after(world.random.uniform(0.2, 40), world.start_witness)


def stop_etcd(world: World, host: Host) -> None:
    etcd = world.etcds[host.region]
    etcd.up = False
    world.after(world.random.uniform(1, 30), lambda: setattr(etcd, "up", True))


def die(world: World, host: Host) -> None:
    for name in REGIONS[host.region] if world.random.random() < 0.4 else [host.name]:
        world.hosts[name].die()


def boot(world: World, _host: Host) -> None:
    for each in world.hosts.values():
        each.boot()


FAULTS: dict[str, Callable[[World, Host], Any]] = {
    "cut": lambda world, _host: world.cut.add(frozenset(world.random.choice(LINKS))),
    "isolate": isolate,
    "isolate too": isolate,
    "heal": lambda world, _host: world.cut.discard(frozenset(world.random.choice(LINKS))),
    "heal all": lambda world, _host: heal(world),
    "die": die,
    "boot": boot,
    "kill": lambda _world, host: host.awake and host.kill_agent(),
    "hang": lambda _world, host: host.awake and host.hang_agent(),
    # Longer ones are a known limit: what a thawed PostgreSQL does before its agent runs is not prevented.
    "freeze": lambda world, host: host.awake and host.freeze(world.random.uniform(0.1, 3.0)),
    "witness": restart_witness,
    "etcd": stop_etcd,
}


def disturb(world: World) -> str:
    """One random fault, or one repair."""
    kind = world.random.choice(list(FAULTS))
    FAULTS[kind](world, world.hosts[world.random.choice(list(world.hosts))])
    return kind


def reprotect(world: World) -> None:
    """Now and then somebody repairs what is left: the region that does not hold the lease becomes a standby."""
    if len(world.lease.holders) != 1 or world.random.random() > 0.2:
        return
    keeper = world.lease.holders[0]
    loser = "south" if keeper == "north" else "north"
    if not world.etcds[keeper].standby and writer(world) in REGIONS[keeper]:
        world.etcds[loser].standby = True
        for name in REGIONS[loser]:
            world.hosts[name].gone_for_good = False


def explore(seeds: range, tmp_path: Path) -> tuple[Counter[str], str]:
    """Run a schedule for each seed, up to the first in which two regions could write."""
    tally: Counter[str] = Counter()
    for seed in seeds:
        directory = tmp_path / str(seed)
        directory.mkdir()
        world = World(seed, directory)
        world.blind, world.clumsy = bool(seed % 2), 0.1
        world.run(25)
        for _fault in range(world.random.randint(2, 10)):
            tally[disturb(world)] += 1
            world.run(world.now + world.random.choice((0.5, 3, 8, 15, 30, 60)) * world.random.random())
            reprotect(world)
        world.run(world.now + 40)
        tally["passes"] += len(world.passes)
        tally["writers"] += writer(world) is not None
        if world.violation:
            return tally, world.violation
    return tally, ""


def test_never_two_regions_that_write(tmp_path: Path) -> None:
    seeds = range(FIRST_SEED, FIRST_SEED + SCHEDULES)
    tally, violation = explore(seeds, tmp_path)
    print(f"seeds {seeds[0]} to {seeds[-1]}: {dict(tally)}")
    assert not violation, violation
    assert tally["passes"] > SCHEDULES / 10, "the schedules hardly ever led to a failover"


def never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A witness that believes a restart changes nothing."""
    monkeypatch.setattr(
        witness.Lease,
        "expires_at",
        lambda self, region: (
            LEASE + max([-1000.0] + [self.renewed[h] for h in REGIONS[region] if h in self.renewed])
        ),
    )


def counts_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent whose word outlives the lease."""
    monkeypatch.setattr(agent.Timing, "validity", property(lambda self: self.lease + 10))


def ignores_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A region that claims a term while it covers the other one, of a witness that does not ask it."""
    monkeypatch.setattr(Etcd, "covers", lambda self: False)


@pytest.mark.parametrize("mistake", [counts_too_long, ignores_covers])
def test_the_search_finds_mistakes(
    mistake: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake(monkeypatch)
    _tally, violation = explore(range(1, 401), tmp_path)
    assert violation


def test_without_its_wait_a_restarted_witness_would_make_a_second_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never_waits(monkeypatch)
    world = settled(tmp_path)
    world.blind = True
    isolate(world, world.hosts["n1"])
    world.stop_witness()
    world.start_witness()
    world.run(world.now + LEASE)
    assert world.violation
