# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The unplanned move: broken in a simulated world, and the real main() against etcd and Patroni."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils import _failover
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._etcd import Lock
from ansible_collections.muster.platform.plugins.module_utils._failover import Promotion, check_fence
from ansible_collections.muster.platform.plugins.module_utils._handover import LockLost
from ansible_collections.muster.platform.plugins.modules import postgresql_promote
from handover_world import HOSTS, RECORD, Api, Database, Etcds, Killed, World, in_virtual_time
from platform_fake import Platform

Run = Callable[..., dict[str, Any]]
NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)


def proof(ago: float = 1.0, now: datetime | None = None, **more: Any) -> dict[str, Any]:
    at = (now or datetime.now(UTC)) - timedelta(seconds=ago)
    return {"proven": True, "region": "north", "provider": "power", "proven_at": at.isoformat()} | more


# --- the proof of the fence ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fence", "sentence"),
    [
        ({}, "refused: region north is not proven to be fenced"),
        (proof(now=NOW, proven=False), "refused: region north is not proven to be fenced"),
        (proof(now=NOW, proven="yes"), "refused: region north is not proven to be fenced"),
        (proof(now=NOW, region="south"), "refused: the fence is of region south, not of north"),
        (proof(now=NOW, region=None), "refused: the fence is of region None, not of north"),
        (proof(301, NOW), "refused: the fence of north was proven 301 s ago; run dr_failover again"),
        (
            proof(-900, NOW),
            "refused: the fence of north was proven 900 s in the future by this host's clock, "
            "so its age is not known",
        ),
        *(
            (
                proof(now=NOW, proven_at=at),
                "refused: the fence does not say when it was proven (proven_at, UTC)",
            )
            for at in (None, "", "soon", "2026-11-21T09:59:59")
        ),
        (
            {"proven": True, "region": "north"},
            "refused: the fence does not say when it was proven (proven_at, UTC)",
        ),
    ],
)
def test_a_fence_that_proves_nothing_now(fence: Mapping[str, Any], sentence: str) -> None:
    with pytest.raises(MusterError) as caught:
        check_fence(fence, "north", NOW)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("ago", [0, 299, -5])
def test_a_fresh_fence(ago: float) -> None:
    check_fence(proof(ago, NOW), "north", NOW)


# --- in the simulated world ------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What promotion() sets is put back."""
    monkeypatch.setattr(_failover, "wait_until", _failover.wait_until)
    monkeypatch.setattr(_failover, "time", _failover.time)


def lost() -> World:
    """North is gone, a moment after its link was cut."""
    world = World()
    world.link = False
    world.advance(0.5)
    for host in HOSTS["north"]:
        world.lose(host)
    world.advance(0.1)
    return world


@pytest.fixture
def world() -> World:
    return lost()


def promotion(world: World, lock: object, host: str = "south-1", **more: Any) -> Promotion:
    """A run of the real code over this world, whose clock it uses from now on."""
    _failover.wait_until = in_virtual_time(world)  # type: ignore[assignment]
    _failover.time = SimpleNamespace(  # type: ignore[assignment]
        monotonic=lambda: world.now, time=lambda: world.now
    )

    def still_held() -> None:
        with world.step("lock"):
            if not world.holds(lock):
                raise MusterError("the lock dr was lost")

    def replace_patroni() -> None:
        world.trace.append(f"replace {host}")
        world.node(host).obeys = True

    return Promotion(
        survey=Api(world),  # type: ignore[arg-type]
        sql=Database(world),
        dcs=Etcds(world, lock),
        source="north",
        target="south",
        host=host,
        fence=proof(),
        still_held=still_held,
        replace_patroni=replace_patroni,
        **more,
    )


def promote(world: World, **more: Any) -> dict[str, Any]:
    with world.locked() as lock:
        return promotion(world, lock, **more).run()


def attempt(world: World) -> str:
    """What the command said when it failed."""
    try:
        promote(world)
    except (MusterError, LockLost) as error:
        return str(error)
    return ""


def refused(world: World, **more: Any) -> str:
    """Why it was not done; the target is as it was."""
    revision = world.sides["south"].revision
    with pytest.raises((MusterError, LockLost)) as caught:
        promote(world, **more)
    assert world.sides["south"].revision == revision
    assert world.sides["south"].standby
    return str(caught.value)


def assert_south(world: World) -> None:
    world.hooks = {}
    world.advance(3)
    assert not world.dual
    assert [node.region for node in world.writers()] == ["south"]


def test_the_copy_is_promoted(world: World) -> None:
    before = world.node("south-1")
    position = f"0/{1000 + RECORD * len(before.wal):X}"
    with world.locked() as lock:
        run = promotion(world, lock)
        result = run.run()
    assert (result["changed"], result["situation"]) == (True, "start")
    assert (result["timeline_before"], result["timeline_after"]) == (1, 2)
    assert (result["fork_position"], result["patroni_replaced"]) == (position, False)
    assert [phase["name"] for phase in run.phases.done] == ["promote: open", "promote: take writes"]
    assert_south(world)


def test_a_second_run_has_nothing_to_do_and_needs_no_fence(world: World) -> None:
    promote(world)
    result = promote(world)
    assert (result["changed"], result["situation"], result["timeline_after"]) == (False, "resume", 2)
    assert "fork_position" not in result
    assert_south(world)


def test_without_a_proven_fence_nothing_is_done(world: World) -> None:
    with world.locked() as lock:
        run = promotion(world, lock)
        run.fence = {}
        with pytest.raises(MusterError, match="refused: region north is not proven to be fenced"):
            run.run()
    assert world.sides["south"].standby
    assert not world.writers()


def test_whoever_takes_writes_elsewhere_is_a_refusal() -> None:
    assert refused(World()) == "refused: north-1 takes writes, whatever the fence says"


def test_a_region_without_a_leader_is_waited_for_and_told(world: World) -> None:
    world.sides["south"].leader, world.sides["south"].elects = None, False
    began = world.now
    assert refused(world) == (
        "waited 45 s for region south to have a leader: nobody leads region south at the moment "
        "(south-1: replica, running, streaming, timeline 1 at 0/898; "
        "south-2: replica, running, streaming, timeline 1 at 0/898)"
    )
    assert 45 <= world.now - began < 47


def test_who_does_not_answer_meanwhile_is_told_as_well(world: World) -> None:
    world.sides["south"].leader, world.sides["south"].elects = None, False
    world.node("south-2").up = False
    assert "streaming, timeline 1 at 0/898; south-2: " in refused(world)


def test_a_leader_that_returns_in_time_is_promoted(world: World) -> None:
    side = world.sides["south"]
    side.leader, side.elects = None, False
    world.coming.append((world.now + 10, lambda: setattr(side, "elects", True)))
    assert promote(world)["changed"] is True
    assert_south(world)


def test_a_leader_that_does_not_answer_is_not_promoted(world: World) -> None:
    """Its key lives on for a while. Another takes it then, and is promoted."""
    world.lose("south-1")
    world.sides["south"].elects = False
    assert "south-1 leads region south by etcd's account, but it is Patroni on south-1 did not" in refused(
        world
    )
    world.sides["south"].elects = True
    assert promote(world)["changed"] is True
    assert [node.name for node in world.writers()] == ["south-2"]


def test_a_leader_that_is_stopped_is_not_promoted(world: World) -> None:
    world.node("south-1").state, world.node("south-1").recovers = "stopped", False
    assert refused(world).endswith("south-1 leads region south by etcd's account, but it is stopped")


def test_a_leader_of_another_name_is_not_promoted(world: World) -> None:
    with world.locked() as lock:
        run = promotion(world, lock)
        truth = run.dcs.read("south")
        with pytest.raises(
            MusterError, match="east-1 leads region south by etcd's account, but it is unknown"
        ):
            run.leader(type(truth)(truth.config, truth.revision, "east-1", None))


def test_a_replica_that_has_more_is_not_passed_over(world: World) -> None:
    """What it received counts, not only what it replayed."""
    ahead = world.node("south-2")
    ahead.replaying = False
    ahead.wal = [*ahead.wal, 90001, 90002]
    assert refused(world) == (
        "waited 45 s for region south to have a leader: "
        "south-2 has more WAL than south-1, which leads region south"
    )


def test_the_leader_moves_between_the_look_and_the_change() -> None:
    """Whoever is promoted must be the one that was looked at."""
    for number in range(1, 30):
        world = lost()

        def move(at: str, _name: str, world: World = world) -> None:
            if at == "before":
                world.hooks = {}
                world.sides["south"].leader = "south-2"

        world.hooks = {world.steps + number: move}
        opened = "open south"
        if said := attempt(world):
            assert said == (
                "waited 10 s for region south to accept being primary: south-1 no longer leads region south"
            ), number
            assert world.sides["south"].standby
            promote(world)
        assert opened in world.trace
        assert_south(world)


def test_etcd_that_does_not_answer_is_an_error_and_changes_nothing(world: World) -> None:
    world.sides["south"].readable = False
    assert refused(world) == "etcd of south: no leader"


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_step_the_next_run_ends_it(when: str) -> None:
    undisturbed = lost()
    begun = undisturbed.steps
    promote(undisturbed)
    situations = set()
    for number in range(1, undisturbed.steps - begun + 1):
        world = lost()

        def kill(at: str, name: str) -> None:
            if at == when:
                raise Killed(name)

        world.hooks = {world.steps + number: kill}
        with contextlib.suppress(Killed):
            promote(world)
        world.hooks = {}
        situations.add(promote(world)["situation"])
        assert_south(world)
    assert situations == {"start", "resume"}


@pytest.mark.parametrize("when", ["before", "after"])
def test_without_the_lock_nothing_is_changed(when: str) -> None:
    """Each time the next run ends it."""
    undisturbed = lost()
    begun = undisturbed.steps
    promote(undisturbed)
    for number in range(1, undisturbed.steps - begun + 1):
        world = lost()
        revisions: list[int] = []

        def lose(at: str, _name: str, world: World = world, revisions: list[int] = revisions) -> None:
            if at == when:
                world.hooks = {}
                world.lock = None
                revisions.append(world.sides["south"].revision)

        world.hooks = {world.steps + number: lose}
        began = world.now
        said = attempt(world)
        assert said in ("", "the lock dr was lost"), number
        assert not said or world.now - began < 5, "it is told at once"
        assert revisions == [world.sides["south"].revision], number
        promote(world)
        assert_south(world)


@pytest.mark.parametrize("applied", [True, False])
def test_an_answer_of_etcd_that_is_lost_does_not_matter(world: World, applied: bool) -> None:
    left = [3]

    def fail(at: str, name: str) -> None:
        if name == "open south" and left[0] and at == ("after" if applied else "before"):
            left[0] -= 1
            raise MusterError("context deadline exceeded")

    world.hooks = dict.fromkeys(range(1, 5000), fail)
    assert promote(world)["situation"] == "start"
    assert_south(world)


def test_a_stuck_patroni_is_replaced_once(world: World) -> None:
    world.node("south-1").obeys = False
    world.advance(2)
    result = promote(world)
    assert (result["changed"], result["patroni_replaced"]) == (True, True)
    assert world.trace.count("replace south-1") == 1
    assert_south(world)


def test_a_stuck_patroni_is_replaced_in_a_resumed_run_too(world: World) -> None:
    world.node("south-1").obeys = False
    with pytest.raises(MusterError, match="waited 2 s for region south to take writes"):
        promote(world, host="south-2", timeout=2)
    result = promote(world)
    assert (result["changed"], result["situation"], result["patroni_replaced"]) == (True, "resume", True)
    assert_south(world)


def test_one_that_does_not_help_is_not_replaced_again(world: World) -> None:
    node = world.node("south-1")
    node.obeys = False
    world.advance(2)
    with world.locked() as lock:
        run = promotion(world, lock, timeout=10)
        replaced: list[float] = []
        run.replace_patroni = lambda: replaced.append(world.now)
        with pytest.raises(MusterError, match="waited 10 s for region south to take writes"):
            run.run()
    assert len(replaced) == 1


@pytest.mark.parametrize("slow", [0.5, 4.0])
def test_a_patroni_that_works_is_never_replaced(
    world: World, slow: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its promotion takes long, but it goes round its loop."""
    monkeypatch.setattr("handover_world.PROMOTE", slow)
    assert promote(world)["patroni_replaced"] is False
    assert_south(world)


def test_another_hosts_patroni_is_left_alone(world: World) -> None:
    world.node("south-1").obeys = False
    with pytest.raises(MusterError, match="waited 5 s for region south to take writes"):
        promote(world, host="south-2", timeout=5)
    assert not [step for step in world.trace if step.startswith("replace")]


def test_check_mode_looks_and_refuses_and_changes_nothing(world: World) -> None:
    with world.locked() as lock:
        found = promotion(world, lock).run(check=True)
        assert found == {"changed": True, "situation": "start", "leader": "south-1"}
        world.sides["south"].leader, world.sides["south"].elects = None, False
        with pytest.raises(MusterError, match="nobody leads region south"):
            promotion(world, lock).run(check=True)
    assert world.sides["south"].standby
    world.sides["south"].elects = True
    promote(world)
    with world.locked() as lock:
        assert promotion(world, lock).run(check=True) == {"changed": False, "situation": "resume"}


# --- the module --------------------------------------------------------------------------------


SYSTEMCTL = '#!/bin/sh\necho "$*" >>{0}/calls\n[ $1 != start ] || touch {0}/replaced\n'


@pytest.fixture
def south(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """Both hosts of the north are dead; a systemctl of our own."""
    for name in HOSTS["north"]:
        platform.patroni[name].up = False
    for name in HOSTS["south"]:
        platform.patroni[name].says["dcs_last_seen"] = int(time.time()) + 3600
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(SYSTEMCTL.format(tmp_path))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return platform


def arguments(platform: Platform, **more: Any) -> dict[str, Any]:
    return platform.patroni.arguments(
        target="south",
        host="south-1",
        fence=proof(),
        etcd_endpoints={name: cluster.urls() for name, cluster in platform.etcd.items()},
        holder="ann",
        operator_password="not to be shown",
    ) | dict(more)


def test_the_module_promotes(south: Platform, run_module: Run, tmp_path: Path) -> None:
    north = dict(south.etcd["north"].keys)
    answer = run_module(postgresql_promote, arguments(south))
    assert (answer["changed"], answer["situation"]) == (True, "start")
    assert (answer["timeline_before"], answer["timeline_after"]) == (1, 2)
    assert (answer["fork_position"], answer["patroni_replaced"]) == ("0/5000000", False)
    assert [phase["name"] for phase in answer["muster_phases"]] == ["promote: open", "promote: take writes"]
    assert south.primaries() == ["south-1"]
    assert json.loads(south.stored("south", "config") or "") == {"ttl": 20}
    assert south.etcd["north"].keys == north, "the lost region's etcd is not asked"
    assert not south.etcd["north"].requests[4:]
    assert not [key for key in south.etcd["south"].keys if key.startswith("/muster/")]
    assert "not to be shown" not in str(answer)
    assert not (tmp_path / "calls").exists()
    again = run_module(postgresql_promote, arguments(south, fence={}))
    assert (again["changed"], again["situation"], again["timeline_after"]) == (False, "resume", 2)


def test_the_change_is_one_transaction_under_lock_and_leader(south: Platform, run_module: Run) -> None:
    bodies: list[dict[str, Any]] = []
    usual = south.etcd["south"].kv_txn

    def txn(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        bodies.append(body)
        return usual(body)

    south.etcd["south"].kv_txn = txn  # type: ignore[method-assign]
    run_module(postgresql_promote, arguments(south))
    changes = [body for body in bodies if len(body["compare"]) > 1]
    assert len(changes) == 1
    assert [compare["target"] for compare in changes[0]["compare"]] == ["LEASE", "MOD", "VALUE"]


def test_check_mode_of_the_module(south: Platform, run_module: Run) -> None:
    before = dict(south.etcd["south"].keys)
    answer = run_module(postgresql_promote, arguments(south), check=True)
    assert (answer["changed"], answer["situation"], answer["leader"]) == (True, "start", "south-1")
    assert south.etcd["south"].keys == before
    refusal = run_module(postgresql_promote, arguments(south, fence={}), check=True)
    assert refusal["msg"] == "refused: region north is not proven to be fenced"


def test_a_writer_elsewhere(south: Platform, run_module: Run) -> None:
    south.patroni["north-1"].up = True
    answer = run_module(postgresql_promote, arguments(south))
    assert answer["msg"] == "refused: north-1 takes writes, whatever the fence says"
    assert south.standby("south")


def test_a_lock_that_is_lost_is_one_sentence(
    south: Platform, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_lock: Lock) -> None:
        raise MusterError("the lock dr of ann was lost")

    monkeypatch.setattr(Lock, "assert_held", gone)
    began = time.monotonic()
    answer = run_module(postgresql_promote, arguments(south))
    assert answer["msg"] == (
        "the lock dr of ann was lost; nothing was changed after that: run the same command again"
    )
    assert time.monotonic() - began < 5
    assert south.standby("south")


def test_a_lock_that_etcd_gave_to_another_is_one_sentence(south: Platform, run_module: Run) -> None:
    """By our own clock it is held, but etcd has ended the lease."""
    cluster = south.etcd["south"]
    usual = cluster.kv_txn

    def txn(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if len(body["compare"]) > 1:
            for lease in list(cluster.leases):
                cluster.drop(lease)
        return usual(body)

    cluster.kv_txn = txn  # type: ignore[method-assign]
    answer = run_module(postgresql_promote, arguments(south))
    assert answer["failed"] is True
    assert answer["msg"].startswith("the lock dr of ann (pid ")
    assert answer["msg"].endswith("was lost; nothing was changed after that: run the same command again")
    assert south.standby("south")


def test_a_second_one_is_told_who_holds_the_lock(
    south: Platform, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Lock.__init__

    def impatient(lock: Lock, *given: Any, **more: Any) -> None:
        real(lock, *given, **more)
        lock.wait = 0.3

    monkeypatch.setattr(Lock, "__init__", impatient)
    with south.etcd["south"].client().lock("dr", "bob"):
        answer = run_module(postgresql_promote, arguments(south))
    assert answer["msg"].startswith("the lock dr is held by bob since 2")
    assert south.standby("south")


class Stuck(set[str]):
    """Frozen until its process has been replaced."""

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.home = home

    def __contains__(self, name: object) -> bool:
        return name == "south-1" and not (self.home / "replaced").exists()


@pytest.fixture
def stuck(south: Platform, tmp_path: Path) -> Platform:
    south.frozen = Stuck(tmp_path)
    south.patroni["south-1"].says["dcs_last_seen"] = int(time.time()) - 30
    return south


def test_the_process_of_a_stuck_patroni_is_replaced(stuck: Platform, run_module: Run, tmp_path: Path) -> None:
    answer = run_module(postgresql_promote, arguments(stuck))
    assert (answer["changed"], answer["patroni_replaced"]) == (True, True)
    assert (tmp_path / "calls").read_text().splitlines() == [
        "kill --kill-who=main --signal=SIGKILL patroni.service",
        "start patroni.service",
    ]
    assert stuck.primaries() == ["south-1"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"target": "east"}, "east is no region with PostgreSQL hosts; there are: north, south"),
        (
            {"regions": {"south": ["south-1"]}},
            "a failover needs two regions with PostgreSQL hosts, found: south",
        ),
        ({"host": "east-1"}, "east-1 is not among the PostgreSQL hosts of any region"),
        ({"etcd_endpoints": {"north": ["https://localhost:1"]}}, "etcd_endpoints must name region south"),
        ({"ca_certificate": "/nowhere"}, "cannot use the TLS files /nowhere"),
        ({"fence": {}}, "refused: region north is not proven to be fenced"),
    ],
)
def test_wrong_arguments_are_told(
    south: Platform, run_module: Run, given: dict[str, Any], sentence: str
) -> None:
    answer = run_module(postgresql_promote, arguments(south) | given)
    assert answer["failed"] is True
    assert answer["msg"].startswith(sentence)
