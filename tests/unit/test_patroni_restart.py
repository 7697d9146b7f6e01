# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""patroni_restart: the real main() against Patroni's API; restarts and switchovers change what it says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.modules import patroni_restart
from patroni_fake import Answer, PatroniApi, status

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory with a postgres that is 17.11."""
    program = tmp_path / "postgres"
    program.write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 17.11 (Debian 17.11-0+deb13u1)'\n")
    program.chmod(0o755)
    return tmp_path


@pytest.fixture
def north(patroni: PatroniApi) -> PatroniApi:
    """Patroni does what it is asked: a restart ends what waits for one, a switchover swaps the roles."""

    def act(host: str) -> Callable[[str, Any], Answer]:
        def on_post(path: str, body: Any) -> Answer:
            if path == "/restart":
                patroni[host].says |= {"pending_restart": False, "server_version": 170011}
                return 200, "restarted"
            assert path == "/switchover"
            old, new = patroni[body["leader"]], patroni[body["candidate"]]
            new.says = status("primary", 2, server_version=new.says["server_version"])
            old.says = status("replica", 2, server_version=old.says["server_version"])
            return 200, "switched"

        return on_post

    for name, instance in patroni.hosts.items():
        instance.on_post = act(name)
    return patroni


def arguments(patroni: PatroniApi, programs: Path, host: str, **more: Any) -> dict[str, Any]:
    return patroni.arguments(host=host, bin_directory=str(programs), **more)


def posted(patroni: PatroniApi) -> dict[str, list[str]]:
    return {name: instance.posted() for name, instance in patroni.hosts.items() if instance.posted()}


@pytest.mark.parametrize("host", ["north-1", "north-2", "south-1"])
def test_nothing_waits_nothing_is_done(north: PatroniApi, programs: Path, run_module: Run, host: str) -> None:
    answer = run_module(patroni_restart, arguments(north, programs, host))
    assert (answer["changed"], answer["reason"]) == (False, None)
    assert posted(north) == {}


@pytest.mark.parametrize("host", ["north-1", "north-2", "south-1"])
def test_a_setting_that_waits_restarts_in_place(
    north: PatroniApi, programs: Path, run_module: Run, host: str
) -> None:
    north[host].says["pending_restart"] = True
    announced = run_module(patroni_restart, arguments(north, programs, host), check=True)
    assert (announced["changed"], posted(north)) == (True, {})
    answer = run_module(patroni_restart, arguments(north, programs, host))
    assert (answer["changed"], answer["reason"]) == (True, "a setting waits for a restart")
    assert posted(north) == {host: ["POST /restart"]}
    assert run_module(patroni_restart, arguments(north, programs, host))["changed"] is False


def test_a_newer_program_restarts_a_replica(north: PatroniApi, programs: Path, run_module: Run) -> None:
    north["north-2"].says["server_version"] = 170010
    answer = run_module(patroni_restart, arguments(north, programs, "north-2"))
    assert answer["reason"] == "the installed PostgreSQL 170011 is newer than the running 170010"
    assert posted(north) == {"north-2": ["POST /restart"]}


def test_a_newer_program_moves_the_primary_first(north: PatroniApi, programs: Path, run_module: Run) -> None:
    north["north-1"].says["server_version"] = 170010
    assert run_module(patroni_restart, arguments(north, programs, "north-1"))["changed"] is True
    assert posted(north) == {"north-1": ["POST /switchover", "POST /restart"]}
    assert north["north-2"].says["role"] == "primary"


def test_an_older_or_missing_program_restarts_nothing(
    north: PatroniApi, programs: Path, run_module: Run
) -> None:
    north["north-2"].says["server_version"] = 170012
    assert run_module(patroni_restart, arguments(north, programs, "north-2"))["changed"] is False
    (programs / "postgres").unlink()
    north["north-2"].says["server_version"] = 160001
    assert run_module(patroni_restart, arguments(north, programs, "north-2"))["changed"] is False
    (programs / "postgres").write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 18beta1'\n")
    (programs / "postgres").chmod(0o755)
    assert run_module(patroni_restart, arguments(north, programs, "north-2"))["changed"] is False


def test_only_the_roles_asked_for(north: PatroniApi, programs: Path, run_module: Run) -> None:
    for name in ("north-1", "north-2"):
        north[name].says["pending_restart"] = True
    roles = {"roles": ["replica", "standby_leader"]}
    assert run_module(patroni_restart, arguments(north, programs, "north-1", **roles))["changed"] is False
    assert run_module(patroni_restart, arguments(north, programs, "north-2", **roles))["changed"] is True
    assert posted(north) == {"north-2": ["POST /restart"]}


def test_it_gives_patroni_time_to_notice(north: PatroniApi, programs: Path, run_module: Run) -> None:
    notice = threading.Timer(0.5, lambda: north["north-2"].says.update(pending_restart=True))
    notice.start()
    answer = run_module(patroni_restart, arguments(north, programs, "north-2", settle=5))
    notice.join()
    assert answer["changed"] is True


def test_no_restart_while_the_other_is_not_well(north: PatroniApi, programs: Path, run_module: Run) -> None:
    north["north-1"].says["pending_restart"] = True
    north["north-2"].says = status("replica", state="starting", replication_state=None)
    answer = run_module(patroni_restart, arguments(north, programs, "north-1"))
    assert answer["msg"] == "refused to restart north-1: north-2 is not healthy (starting)"
    north["north-2"].up = False
    answer = run_module(patroni_restart, arguments(north, programs, "north-1"))
    assert answer["msg"].startswith(
        "refused to restart north-1: north-2 is not healthy (Patroni on north-2 did not answer GET /patroni"
    )
    assert posted(north) == {}


def test_the_other_regions_health_does_not_matter(north: PatroniApi, programs: Path, run_module: Run) -> None:
    for name in ("south-1", "south-2"):
        north[name].up = False
    north["north-2"].says["pending_restart"] = True
    assert run_module(patroni_restart, arguments(north, programs, "north-2"))["changed"] is True


def test_a_primary_alone_is_not_moved_for_an_upgrade(
    north: PatroniApi, programs: Path, run_module: Run
) -> None:
    north["north-1"].says["server_version"] = 170010
    given = arguments(north, programs, "north-1", regions={"north": ["north-1"]})
    answer = run_module(patroni_restart, given)
    assert answer["msg"] == "refused to restart north-1: no healthy replica to switch to"
    assert posted(north) == {}


def test_the_synchronous_replica_is_preferred(north: PatroniApi, programs: Path, run_module: Run) -> None:
    # A third host, farther ahead, but whose commits nobody has waited for.
    north["south-1"].says = status("replica", lsn=0x6000000)
    north["north-1"].says["server_version"] = 170010
    north["north-2"].says["sync_standby"] = True
    regions = {"north": ["north-1", "north-2", "south-1"]}
    run_module(patroni_restart, arguments(north, programs, "north-1", regions=regions))
    assert north["north-2"].says["role"] == "primary"


def test_a_refused_switchover_is_told(north: PatroniApi, programs: Path, run_module: Run) -> None:
    north["north-1"].says["server_version"] = 170010
    north["north-1"].on_post = lambda _path, _body: (412, "no good candidates have been found")
    answer = run_module(patroni_restart, arguments(north, programs, "north-1"))
    assert answer["msg"] == (
        "Patroni on north-1 answered 412 to POST /switchover: no good candidates have been found"
    )


def test_a_member_that_does_not_come_back_is_told(north: PatroniApi, programs: Path, run_module: Run) -> None:
    north["north-2"].says["pending_restart"] = True

    def break_it(_path: str, _body: Any) -> Answer:
        north["north-2"].says |= {"state": "start failed"}
        return 200, "restarted"

    north["north-2"].on_post = break_it
    answer = run_module(patroni_restart, arguments(north, programs, "north-2", timeout=1))
    assert answer["msg"] == "waited 1 s for replica north-2 to serve again after its restart"


def test_a_host_that_does_not_answer_or_is_nobodys(
    north: PatroniApi, programs: Path, run_module: Run
) -> None:
    north["north-2"].up = False
    answer = run_module(patroni_restart, arguments(north, programs, "north-2"))
    assert answer["msg"].startswith("Patroni on north-2 did not answer GET /patroni")
    answer = run_module(patroni_restart, arguments(north, programs, "east-1"))
    assert answer["msg"] == "east-1 is not among the PostgreSQL hosts of any region"


LOWERED = {"max_connections": {"old_value": "200", "new_value": "100"}}
MIXED = {**LOWERED, "shared_buffers": {"old_value": "128MB", "new_value": "64MB"}}


def test_a_lowered_setting_waits_for_the_primary(north: PatroniApi, programs: Path, run_module: Run) -> None:
    north["north-2"].says |= {"pending_restart": True, "pending_restart_reason": LOWERED}
    answer = run_module(patroni_restart, arguments(north, programs, "north-2"))
    assert (answer["changed"], posted(north)) == (False, {})
    answer = run_module(patroni_restart, arguments(north, programs, "north-2", after_primary=True))
    assert answer["changed"] is True
    assert posted(north) == {"north-2": ["POST /restart"]}


def test_the_primary_lowers_its_own(north: PatroniApi, programs: Path, run_module: Run) -> None:
    north["north-1"].says |= {"pending_restart": True, "pending_restart_reason": LOWERED}
    assert run_module(patroni_restart, arguments(north, programs, "north-1"))["changed"] is True


def test_a_raised_setting_does_not_wait(north: PatroniApi, programs: Path, run_module: Run) -> None:
    raised = {"max_connections": {"old_value": "100", "new_value": "200"}}
    north["north-2"].says |= {"pending_restart": True, "pending_restart_reason": raised}
    assert run_module(patroni_restart, arguments(north, programs, "north-2"))["changed"] is True


@pytest.mark.parametrize("last", [False, True])
def test_what_is_lowered_beside_others_may_go_on_waiting(
    north: PatroniApi, programs: Path, run_module: Run, last: bool
) -> None:
    north["north-2"].says |= {"pending_restart": True, "pending_restart_reason": MIXED}

    def as_patroni_does(_path: str, _body: Any) -> Answer:
        north["north-2"].says |= {"pending_restart_reason": LOWERED}
        return 200, "restarted"

    north["north-2"].on_post = as_patroni_does
    given = arguments(north, programs, "north-2", after_primary=last, timeout=2)
    answer = run_module(patroni_restart, given)
    if last:
        assert answer["msg"] == "waited 2 s for replica north-2 to serve again after its restart"
    else:
        assert answer["changed"] is True


def test_an_old_patroni_without_reasons_is_not_waited_for_in_vain(
    north: PatroniApi, programs: Path, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patroni_restart, "UNTOLD", 0.3)
    north["north-2"].says |= {"pending_restart": True}
    north["north-2"].on_post = lambda _path, _body: (200, "restarted")
    assert run_module(patroni_restart, arguments(north, programs, "north-2", timeout=5))["changed"] is True
    given = arguments(north, programs, "north-2", timeout=1, after_primary=True)
    assert run_module(patroni_restart, given)["msg"].startswith("waited 1 s")
