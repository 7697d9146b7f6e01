# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""patroni_member: the real main(), a systemctl of our own, and Patroni's API."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.modules import patroni_member
from patroni_fake import PatroniApi, status

Run = Callable[..., dict[str, Any]]
SYSTEMCTL = """#!/bin/sh
echo "$@" >>{0}/calls
case $1 in
  is-active) cat {0}/state; [ "$(cat {0}/state)" = active ] ;;
  start) [ -e {0}/broken ] && {{ echo "Job for $2 failed." >&2; exit 1; }}; echo active >{0}/state ;;
esac
"""


@pytest.fixture
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which the made-up systemctl keeps what it was told."""
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(SYSTEMCTL.format(tmp_path))
    program.chmod(0o755)
    (tmp_path / "state").write_text("inactive\n")
    (tmp_path / "calls").touch()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path


def arguments(patroni: PatroniApi, host: str = "north-1", **more: Any) -> dict[str, Any]:
    return {"host": host, "api_port": patroni.port, **patroni.files(), **more}


def calls(unit: Path) -> list[str]:
    return (unit / "calls").read_text().splitlines()


def test_a_stopped_unit_is_started(unit: Path, patroni: PatroniApi, run_module: Run) -> None:
    answer = run_module(patroni_member, arguments(patroni))
    assert (answer["changed"], answer["role"], answer["timeline"]) == (True, "primary", 1)
    assert calls(unit) == ["is-active patroni.service", "start patroni.service"]


@pytest.mark.parametrize(
    ("host", "role"), [("north-1", "primary"), ("north-2", "replica"), ("south-1", "standby_leader")]
)
def test_a_running_member_is_left_alone(
    unit: Path, patroni: PatroniApi, run_module: Run, host: str, role: str
) -> None:
    (unit / "state").write_text("active\n")
    answer = run_module(patroni_member, arguments(patroni, host))
    assert (answer["changed"], answer["role"]) == (False, role)
    assert calls(unit) == ["is-active patroni.service"]


def test_check_mode_starts_nothing_and_does_not_wait(
    unit: Path, patroni: PatroniApi, run_module: Run
) -> None:
    patroni["north-1"].up = False
    assert run_module(patroni_member, arguments(patroni, unit="p.service"), check=True)["changed"] is True
    (unit / "state").write_text("active\n")
    assert run_module(patroni_member, arguments(patroni, unit="p.service"), check=True)["changed"] is False
    assert calls(unit) == ["is-active p.service"] * 2
    assert patroni["north-1"].requests == []


def test_it_waits_until_a_replica_streams(unit: Path, patroni: PatroniApi, run_module: Run) -> None:
    patroni["north-2"].says = status("replica", replication_state="in archive recovery")
    stream = threading.Timer(0.5, lambda: patroni["north-2"].says.update(replication_state="streaming"))
    stream.start()
    answer = run_module(patroni_member, arguments(patroni, "north-2"))
    stream.join()
    assert (answer["changed"], answer["role"]) == (True, "replica")


@pytest.mark.parametrize(
    ("says", "doing"),
    [
        (
            status("replica", state="creating replica", replication_state=None),
            "it is replica, creating replica, replication not begun",
        ),
        (status("replica", cluster_unlocked=True), "it streams, but nobody leads its region"),
        (status("replica", replication_state=None), "it is replica, running, replication not begun"),
        (status("primary", state="starting"), "it is primary, starting, replication not begun"),
        ({"state": "stopped"}, "it is stopped, stopped, replication not begun"),
    ],
)
def test_a_member_that_does_not_serve_in_time_is_told(
    unit: Path, patroni: PatroniApi, run_module: Run, says: dict[str, Any], doing: str
) -> None:
    patroni["north-2"].says = says
    answer = run_module(patroni_member, arguments(patroni, "north-2", timeout=0))
    assert answer["failed"] is True
    assert answer["msg"] == (
        f"waited 0 s for PostgreSQL on north-2 to serve (see journalctl -u patroni.service): {doing}"
    )


def test_a_unit_that_does_not_start_is_told(unit: Path, patroni: PatroniApi, run_module: Run) -> None:
    (unit / "broken").touch()
    answer = run_module(patroni_member, arguments(patroni))
    assert answer["msg"] == "systemctl start patroni.service failed: Job for patroni.service failed."


@pytest.mark.parametrize(
    ("kept", "sentence"),
    [
        ("region south is primary\n", "patroni.service may not start: region south is primary"),
        ("", "systemctl start patroni.service failed: Job for patroni.service failed."),
        (None, "systemctl start patroni.service failed: Job for patroni.service failed."),
    ],
)
def test_the_guards_reason_is_told(
    unit: Path,
    patroni: PatroniApi,
    run_module: Run,
    monkeypatch: pytest.MonkeyPatch,
    kept: str | None,
    sentence: str,
) -> None:
    """systemd itself says only that the job failed."""
    monkeypatch.setattr(patroni_member, "GUARD", str(unit / "guard"))
    if kept is not None:
        (unit / "guard").write_text(kept)
    (unit / "broken").touch()
    assert run_module(patroni_member, arguments(patroni))["msg"] == sentence


def test_the_reason_of_an_earlier_start_hides_nothing(
    unit: Path, patroni: PatroniApi, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit that starts is not asked for the guard's reason."""
    monkeypatch.setattr(patroni_member, "GUARD", str(unit / "guard"))
    (unit / "guard").write_text("region south is primary\n")
    assert run_module(patroni_member, arguments(patroni))["changed"] is True
