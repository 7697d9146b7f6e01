# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgresql_handover: the real main() against two etcds and four Patronis that follow them; and its parts."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._etcd import Lock
from ansible_collections.muster.platform.plugins.module_utils._handover import (
    NOTE,
    EtcdDcs,
    LockLost,
    Psycopg,
    Recovery,
    Truth,
)
from ansible_collections.muster.platform.plugins.module_utils._patroni import Survey, Tls
from ansible_collections.muster.platform.plugins.modules import postgresql_handover
from etcd_fake import Cluster
from patroni_fake import REGIONS
from platform_fake import STANDBY, Platform

Run = Callable[..., dict[str, Any]]


def arguments(platform: Platform, target: str = "south", **more: Any) -> dict[str, Any]:
    return platform.patroni.arguments(
        target=target,
        standby_cluster={"host": f"{target}-1,{target}-2", "port": 5432},
        etcd_endpoints={name: cluster.urls() for name, cluster in platform.etcd.items()},
        holder="drill 7",
        operator_password="not to be shown",
        **more,
    )


# --- the module -----------------------------------------------------------------------------


def test_the_whole_move_and_back(platform: Platform, run_module: Run) -> None:
    answer = run_module(postgresql_handover, arguments(platform))
    assert (answer["changed"], answer["situation"]) == (True, "start")
    assert (answer["timeline_before"], answer["timeline_after"]) == (1, 2)
    assert answer["proof_position"] == "0/5000000"
    assert [phase["name"] for phase in answer["muster_phases"]] == [
        "handover: checkpoint", "handover: demote", "handover: catch up", "handover: promote", "handover: re-protect",
    ]  # fmt: skip
    assert platform.primaries() == ["south-1"]
    assert json.loads(platform.stored("north", "config") or "") == {"ttl": 20, "standby_cluster": STANDBY}
    assert json.loads(platform.stored("south", "config") or "") == {"ttl": 20}
    assert platform.statements[:2] == ["north-1 SELECT r, ", "north-1 CHECKPOINT"]
    assert "not to be shown" not in str(answer)
    back = run_module(postgresql_handover, arguments(platform, "north"))
    assert (back["situation"], back["timeline_after"]) == ("start", 3)
    assert platform.primaries() == ["north-1"]
    for cluster in platform.etcd.values():
        assert not [key for key in cluster.keys if key.startswith("/muster/")], "locks and notes are gone"


def test_nothing_is_left_to_do(platform: Platform, run_module: Run) -> None:
    run_module(postgresql_handover, arguments(platform))
    answer = run_module(postgresql_handover, arguments(platform))
    assert (answer["changed"], answer["situation"], answer["timeline_after"]) == (False, "done", 2)


def test_check_mode_takes_no_lock_and_changes_nothing(platform: Platform, run_module: Run) -> None:
    before = [dict(cluster.keys) for cluster in platform.etcd.values()]
    answer = run_module(postgresql_handover, arguments(platform), check=True)
    assert (answer["changed"], answer["situation"], answer["muster_phases"]) == (True, "start", [])
    assert [dict(cluster.keys) for cluster in platform.etcd.values()] == before
    assert not [line for line in platform.statements if "CHECKPOINT" in line]


def test_an_interrupted_move_is_finished(platform: Platform, run_module: Run) -> None:
    platform.set_config("north", {"ttl": 20, "standby_cluster": STANDBY})
    platform.etcd["north"].put(NOTE, json.dumps({"last_primary": "north-1"}))
    answer = run_module(postgresql_handover, arguments(platform))
    assert (answer["changed"], answer["situation"]) == (True, "resume")
    assert "timeline_before" not in answer
    assert platform.primaries() == ["south-1"]


def test_an_old_primary_that_does_not_demote_is_put_back(platform: Platform, run_module: Run) -> None:
    platform.frozen.add("north-1")
    answer = run_module(postgresql_handover, arguments(platform, timeouts={"demote": 0.5}))
    assert answer["msg"] == (
        "the switch to south failed and was rolled back: waited 0.5 s for north-1 to be in recovery"
    )
    assert platform.primaries() == ["north-1"]
    assert not platform.standby("north")
    assert platform.stored("north", NOTE) is None


def test_an_answer_of_etcd_that_is_lost_does_not_matter(platform: Platform, run_module: Run) -> None:
    def losing(cluster: Cluster) -> Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]:
        usual = cluster.kv_txn

        def txn(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
            if "request_put" in str(body) and body not in lost:
                lost.append(body)
                cluster.swallow = ["/v3/kv/txn"]
            return usual(body)

        return txn

    lost: list[Any] = []
    for cluster in platform.etcd.values():
        cluster.kv_txn = losing(cluster)  # type: ignore[method-assign]
    answer = run_module(postgresql_handover, arguments(platform))
    # Both locks, the demotion and the promotion.
    assert len(lost) >= 4
    assert answer["situation"] == "start"
    assert platform.primaries() == ["south-1"]


def test_a_second_one_is_told_who_holds_the_lock(
    platform: Platform, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Lock.__init__

    def impatient(lock: Lock, *given: Any, **more: Any) -> None:
        real(lock, *given, **more)
        lock.wait = 0.3

    monkeypatch.setattr(Lock, "__init__", impatient)
    with platform.etcd["south"].client().lock("dr", "drill 6"):
        answer = run_module(postgresql_handover, arguments(platform))
    assert answer["msg"].startswith("the lock dr is held by drill 6 since 2")
    assert platform.primaries() == ["north-1"]


def test_a_lock_lost_under_way_is_taken_anew(platform: Platform, run_module: Run) -> None:
    """Its key is gone when the target shall be opened: nothing is done without it, then the rest with another."""
    south = platform.etcd["south"]
    usual = south.kv_txn
    lost: list[bool] = []

    def txn(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if not lost and platform.standby("north") and "request_put" in str(body):
            lost.append(True)
            for lease in list(south.leases):
                south.drop(lease)
        return usual(body)

    south.kv_txn = txn  # type: ignore[method-assign]
    answer = run_module(postgresql_handover, arguments(platform))
    assert lost
    assert (answer["changed"], answer["situation"]) == (True, "resume")
    assert platform.primaries() == ["south-1"]


def test_a_lock_lost_twice_is_given_up(
    platform: Platform, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_lock: Lock) -> None:
        raise MusterError("the lock dr of drill 7 was lost")

    monkeypatch.setattr(Lock, "assert_held", lost)
    answer = run_module(postgresql_handover, arguments(platform))
    assert answer["msg"] == (
        "the lock dr of drill 7 was lost; nothing was changed after that: run the same command again"
    )
    assert platform.primaries() == ["north-1"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"target": "east"}, "east is no region with PostgreSQL hosts; there are: north, south"),
        (
            {"regions": {"south": ["south-1"]}},
            "a switch needs two regions with PostgreSQL hosts, found: south",
        ),
        ({"etcd_endpoints": {"north": ["https://localhost:1"]}}, "etcd_endpoints must name both regions"),
        (
            {"timeouts": {"catchup": 3}},
            "timeouts: unknown catchup; known are catch_up, demote, promote, reprotect, rollback",
        ),
        ({"ca_certificate": "/nowhere"}, "cannot use the TLS files /nowhere"),
    ],
)
def test_wrong_arguments_are_told(
    platform: Platform, run_module: Run, given: dict[str, Any], sentence: str
) -> None:
    answer = run_module(postgresql_handover, arguments(platform) | given)
    assert answer["failed"] is True
    assert answer["msg"].startswith(sentence)


def test_a_silent_etcd_is_a_refusal(platform: Platform, run_module: Run) -> None:
    for endpoint in platform.etcd["south"].endpoints.values():
        endpoint.up = False
    answer = run_module(postgresql_handover, arguments(platform), check=True)
    assert answer["msg"].startswith(
        "refused: the configuration of region south is not known (etcd at https://"
    )


def test_a_silent_region_is_a_refusal(platform: Platform, run_module: Run) -> None:
    for name in REGIONS["south"]:
        platform.patroni[name].up = False
    answer = run_module(postgresql_handover, arguments(platform), check=True)
    assert answer["msg"].startswith(
        "refused: the configuration of region south is not known (its scope is not known: Patroni on south-1 "
    )


# --- the truth in etcd ------------------------------------------------------------------------


@pytest.fixture
def dcs(platform: Platform) -> EtcdDcs:
    clients = {name: cluster.client() for name, cluster in platform.etcd.items()}
    return EtcdDcs(clients, Survey(REGIONS, Tls(**platform.patroni.files()), platform.patroni.port))


def test_a_region_is_read_in_one_piece(dcs: EtcdDcs, platform: Platform) -> None:
    platform.etcd["south"].put(NOTE, json.dumps({"last_primary": "south-2"}))
    truth = dcs.read("south")
    assert (truth.standby, truth.leader, truth.last_primary) == (True, "south-1", "south-2")
    assert platform.etcd["south"].client().delete("/service/muster-south/leader")
    platform.etcd["south"].put(NOTE, json.dumps({"source": "north", "old_primary": "north-1"}))
    truth = dcs.read("south")
    assert (truth.leader, truth.last_primary) == (None, None)


@pytest.mark.parametrize(
    ("config", "note", "sentence"),
    [
        (None, None, "/service/muster-south/config is missing in the etcd of region south"),
        ("[]", None, "/service/muster-south/config is missing in the etcd of region south"),
        ("{", None, "/service/muster-south/config or .* is not what Muster or Patroni writes"),
        ("{}", "{", "/service/muster-south/config or .* is not what Muster or Patroni writes"),
        ("{}", "[1]", "/service/muster-south/config or .* is not what Muster or Patroni writes"),
    ],
)
def test_what_cannot_be_read_is_an_error(
    dcs: EtcdDcs, platform: Platform, config: str | None, note: str | None, sentence: str
) -> None:
    client = platform.etcd["south"].client()
    client.delete("/service/muster-south/config")
    for key, value in (("/service/muster-south/config", config), (NOTE, note)):
        if value is not None:
            platform.etcd["south"].put(key, value)
    with pytest.raises(MusterError, match=f"^{sentence}"):
        dcs.read("south")


def test_a_change_needs_everything_as_it_was_seen(dcs: EtcdDcs, platform: Platform) -> None:
    client = platform.etcd["south"].client()
    seen = dcs.read("south")
    with client.lock("dr", "me") as lock:
        dcs.locks = {"south": lock}
        assert not dcs.change("south", seen, None, None, leader="south-2")
        platform.set_config("south", dict(seen.config) | {"ttl": 30})
        assert not dcs.change("south", seen, None, None, leader="south-1")
        assert platform.standby("south")
        seen = dcs.read("south")
        assert dcs.change("south", seen, None, None, leader="south-1")
        assert not dcs.change("south", seen, None, None, leader="south-1"), "it has changed since"
        assert json.loads(platform.stored("south", "config") or "") == {"ttl": 30}
        assert dcs.change("south", dcs.read("south"), STANDBY, "south-1", leader=None)
        assert dcs.read("south").last_primary == "south-1"
        dcs.forget("south")
        assert platform.stored("south", NOTE) is None


def test_nothing_is_changed_without_the_lock(dcs: EtcdDcs, platform: Platform) -> None:
    cluster = platform.etcd["south"]
    client = cluster.client()
    seen = dcs.read("south")
    before = platform.stored("south", "config")
    with client.lock("dr", "me") as lock:
        dcs.locks = {"south": lock}
        # By its own clock the lock is held; somebody else has it.
        for lease in list(cluster.leases):
            cluster.drop(lease)
        with cluster.client().lock("dr", "another"):
            assert lock.still_held()
            for change in (
                lambda: dcs.change("south", seen, None, None, "south-1"),
                lambda: dcs.forget("south"),
            ):
                with pytest.raises(LockLost, match=r"^the lock dr of me was lost$"):
                    change()
        with pytest.raises(LockLost):
            dcs.change("south", seen, None, None, "south-1")
    assert platform.stored("south", "config") == before


def test_a_scope_is_asked_of_whoever_answers_and_kept(dcs: EtcdDcs, platform: Platform) -> None:
    platform.patroni["south-1"].up = False
    assert dcs.scope("south") == "muster-south"
    platform.patroni["south-2"].up = False
    assert dcs.scope("south") == "muster-south"
    platform.patroni["north-2"].says["patroni"]["scope"] = "other"
    with pytest.raises(MusterError, match=r"^its scope is not known: muster-north, other$"):
        dcs.scope("north")


def test_truth_is_patronis_own_rule() -> None:
    assert Truth({"standby_cluster": {}}, 1, None, None).standby is False
    assert Truth({"standby_cluster": STANDBY}, 1, None, None).standby is True


# --- PostgreSQL ----------------------------------------------------------------------------------


class Login:
    """A psycopg2 connection whose next statements may fail."""

    def __init__(self, answer: Any, failures: list[Exception]) -> None:
        self.answer = answer
        self.failures = failures
        self.description = ("some",)
        self.closed = False

    def __enter__(self) -> Login:
        return self

    def __exit__(self, *_arguments: Any) -> None:
        pass

    def cursor(self) -> Login:
        return self

    def close(self) -> None:
        self.closed = True

    def execute(self, statement: str) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.description = None if statement == "CHECKPOINT" else ("some",)  # type: ignore[assignment]

    def fetchone(self) -> Any:
        return self.answer


@pytest.fixture
def logins(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What logins are answered with, and which were made."""
    found: dict[str, Any] = {"answer": (True, 5, 4, 3), "failures": [], "made": []}

    def connect(**given: Any) -> Login:
        found["made"].append(given)
        return Login(found["answer"], found["failures"])

    monkeypatch.setattr(psycopg2, "connect", connect)
    return found


def test_positions_are_asked_over_one_kept_login(logins: dict[str, Any]) -> None:
    sql = Psycopg("op", "secret", "/ca", 5433)
    assert sql.recovery("north-1") == Recovery(True, 5, 4, 3)
    sql.checkpoint("north-1")
    (made,) = logins["made"]
    assert (made["sslmode"], made["sslrootcert"], made["port"]) == ("verify-full", "/ca", 5433)
    assert made["keepalives_idle"] <= 5, "a host that is gone must not hold a switch"


def test_a_login_that_broke_is_made_anew_once(logins: dict[str, Any]) -> None:
    sql = Psycopg("op", "secret", "/ca")
    sql.recovery("north-1")
    logins["failures"].append(psycopg2.OperationalError("server closed the connection"))
    assert sql.recovery("north-1").position == 5
    assert len(logins["made"]) == 2
    logins["failures"] += [psycopg2.OperationalError("closed"), psycopg2.OperationalError("starting up\n")]
    with pytest.raises(MusterError, match=r"^PostgreSQL on north-1: starting up$"):
        sql.recovery("north-1")
    assert len(logins["made"]) == 3


def test_a_refused_statement_is_not_repeated(logins: dict[str, Any]) -> None:
    sql = Psycopg("op", "secret", "/ca")
    sql.recovery("north-1")
    logins["failures"].append(psycopg2.ProgrammingError("must be superuser"))
    with pytest.raises(MusterError, match=r"^PostgreSQL on north-1: must be superuser$"):
        sql.checkpoint("north-1")
    assert len(logins["made"]) == 1


@pytest.mark.parametrize("answer", [(True, None, 4, 3), ()])
def test_a_position_that_is_not_known_is_an_error(logins: dict[str, Any], answer: Any) -> None:
    logins["answer"] = answer
    with pytest.raises(MusterError, match=r"^PostgreSQL on north-1 does not know its position yet$"):
        Psycopg("op", "secret", "/ca").recovery("north-1")


def test_threads_are_gone_when_a_run_has_ended(platform: Platform, run_module: Run) -> None:
    run_module(postgresql_handover, arguments(platform))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lock-")]
