# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgresql_info: the real main() against the Patroni of every host, and a pgbackrest of our own."""

from __future__ import annotations

import getpass
import json
import os
import pwd
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.modules import postgresql_info
from patroni_fake import PatroniApi, resolving, status

Run = Callable[..., dict[str, Any]]
Backups = Callable[..., None]


@pytest.fixture
def repositories(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Both repository hosts, as far as their port goes."""
    monkeypatch.setattr(socket, "getaddrinfo", resolving(dict.fromkeys(("north-3", "south-3"), "127.0.0.1")))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(postgresql_info, "REPOSITORY_PORT", listener.getsockname()[1])
        yield listener


@pytest.fixture
def backups(tmp_path: Path, repositories: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Backups:
    """Call it with what pgbackrest shall print for a repository, and its exit code.

    Only root may run it as somebody else: who was asked for is noted instead.
    """
    program = tmp_path / "bin" / "pgbackrest"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$PWD $@" >>{tmp_path}/calls\nnumber=${{2#--repo=}}\n'
        f"cat {tmp_path}/answer-$number\nexit $(cat {tmp_path}/code-$number)\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    real = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        account = {name: options.pop(name) for name in ("user", "group", "extra_groups")}
        (tmp_path / "account").write_text(json.dumps(account))
        return real(command, **options)

    monkeypatch.setattr(subprocess, "run", run)

    def say(number: int, document: Any, code: int = 0) -> None:
        (tmp_path / f"answer-{number}").write_text(json.dumps(document))
        (tmp_path / f"code-{number}").write_text(str(code))

    return say


def stanza(*stops: int, bad: int = 0, code: int = 0, message: str = "ok") -> list[dict[str, Any]]:
    backups = [{"timestamp": {"stop": stop}, "error": False} for stop in stops]
    backups += [{"timestamp": {"stop": bad}, "error": True}] if bad else []
    return [{"name": "muster", "backup": backups, "repo": [{"status": {"code": code, "message": message}}]}]


def info(patroni: PatroniApi, run_module: Run, host: str, **more: Any) -> dict[str, Any]:
    return run_module(postgresql_info, patroni.arguments(host=host, **more))


def test_the_primary(patroni: PatroniApi, run_module: Run) -> None:
    answer = info(patroni, run_module, "north-1")
    assert answer["changed"] is False
    assert answer["primary_region"] == "north"
    assert answer["recovery_status"] == {
        "store": "postgresql",
        "region": "north",
        "role": "primary",
        "healthy": True,
        "reasons": [],
        "ready": None,
        "position": "0/5000000",
        "timeline": 1,
        "lag_bytes": 0,
        "lag_seconds": 0.0,
        "last_backup_at": None,
        "last_restore_proof_at": None,
        "versions": {"postgresql": "17.11", "patroni": "4.0.7"},
    }


def test_a_standby_that_is_behind(patroni: PatroniApi, run_module: Run) -> None:
    patroni["south-1"].says["xlog"] = {
        "received_location": 0x4FFFF00,
        "replayed_location": 0x4FFFC00,
        "replayed_timestamp": "2026-11-21 10:00:00.5+00:00",
    }
    answer = info(patroni, run_module, "south-1")
    found = answer["recovery_status"]
    assert (found["role"], found["healthy"], found["lag_bytes"]) == ("standby", True, 0x400)
    assert found["lag_seconds"] > 0
    south = answer["regions"]["south"]
    assert (south["declared_standby"], south["leader"], south["initialized"]) == (True, "south-1", True)
    assert south["members"]["south-1"]["position"] == "0/4FFFC00"
    assert south["members"]["south-1"]["received"] == "0/4FFFF00"
    assert south["members"]["south-2"]["role"] == "replica"


def test_a_region_that_does_not_answer(patroni: PatroniApi, run_module: Run) -> None:
    for name in ("north-1", "north-2"):
        patroni[name].up = False
    answer = info(patroni, run_module, "south-1")
    assert answer["primary_region"] is None
    assert answer["recovery_status"]["lag_bytes"] is None
    assert answer["recovery_status"]["reasons"] == [
        "no primary answers in any region, so the lag is not known"
    ]
    north = answer["regions"]["north"]
    assert (north["declared_standby"], north["initialized"], north["leader"]) == (None, False, None)
    assert north["members"]["north-1"]["error"].startswith("Patroni on north-1 did not answer")
    lost = info(patroni, run_module, "north-1")["recovery_status"]
    assert (lost["role"], lost["healthy"], lost["position"]) == ("unknown", False, None)
    assert lost["reasons"] == [north["members"]["north-1"]["error"]]


def test_two_writers_are_no_primary_region(patroni: PatroniApi, run_module: Run) -> None:
    patroni["south-1"].says = status("primary")
    answer = info(patroni, run_module, "north-1")
    assert answer["primary_region"] is None
    assert answer["recovery_status"]["reasons"] == ["more than one host takes writes: north-1, south-1"]


def test_a_host_of_no_region_is_refused(patroni: PatroniApi, run_module: Run) -> None:
    answer = info(patroni, run_module, "east-1")
    assert answer["msg"] == "east-1 is not among the PostgreSQL hosts of any region"


def asking(patroni: PatroniApi, run_module: Run, **more: Any) -> dict[str, Any]:
    given = {"stanza": "muster", "repositories": ["north-3", "south-3"], "backup_user": getpass.getuser()}
    found: dict[str, Any] = info(patroni, run_module, "north-1", **{**given, **more})["recovery_status"]
    return found


def test_the_newest_good_backup_of_any_repository(
    patroni: PatroniApi, run_module: Run, backups: Backups, tmp_path: Path
) -> None:
    backups(1, stanza(1795255200, bad=1795262400))
    backups(2, stanza(1795255200, 1795258800))
    found = asking(patroni, run_module)
    assert (found["last_backup_at"], found["healthy"], found["reasons"]) == ("2026-11-21T11:00:00Z", True, [])
    calls = sorted((tmp_path / "calls").read_text().splitlines())
    assert calls == [
        f"/ --stanza=muster --repo={number} --output=json --log-level-console=off info" for number in (1, 2)
    ]
    account = json.loads((tmp_path / "account").read_text())
    assert (account["user"], account["group"]) == (os.getuid(), pwd.getpwuid(os.getuid()).pw_gid)


@pytest.mark.parametrize(
    ("document", "code", "reason"),
    [
        ([], 0, "the backup repository on south-3 holds no backup yet"),
        (stanza(), 0, "the backup repository on south-3 holds no backup yet"),
        (stanza(bad=1795262400), 0, "the backup repository on south-3 holds no backup yet"),
        ([{"backup": [{"timestamp": {}}]}], 0, "the backup repository on south-3 could not be read: 'stop'"),
        ([], 56, "the backup repository on south-3 could not be read: Command "),
        (
            stanza(1795262400, code=99, message="[HostConnectError] timeout\nmore"),
            0,
            "the backup repository on south-3 could not be read: [HostConnectError] timeout",
        ),
    ],
)
def test_a_repository_without_a_backup_is_a_reason_and_hides_no_other(
    patroni: PatroniApi, run_module: Run, backups: Backups, document: Any, code: int, reason: str
) -> None:
    backups(1, stanza(1795255200))
    backups(2, document, code)
    found = asking(patroni, run_module)
    assert (found["last_backup_at"], found["healthy"]) == ("2026-11-21T10:00:00Z", False)
    assert len(found["reasons"]) == 1
    assert found["reasons"][0].startswith(reason)


def test_a_repository_host_that_is_gone_is_not_waited_for(
    patroni: PatroniApi, run_module: Run, backups: Backups, repositories: socket.socket, tmp_path: Path
) -> None:
    """pgBackRest would take its time."""
    backups(1, stanza(1795255200))
    backups(2, stanza(1795255200))
    repositories.close()
    found = asking(patroni, run_module)
    assert (found["last_backup_at"], found["healthy"]) == (None, False)
    assert found["reasons"] == [
        f"the backup repository on {host} could not be read: Connection refused"
        for host in ("north-3", "south-3")
    ]
    assert not (tmp_path / "calls").exists()


def test_the_repository_in_s3_is_asked_too(
    patroni: PatroniApi, run_module: Run, backups: Backups, repositories: socket.socket, tmp_path: Path
) -> None:
    backups(1, stanza(1795255200))
    backups(2, stanza(1795255200))
    backups(3, stanza(1795258800))
    s3 = {"number": 3, "host": "127.0.0.1", "port": repositories.getsockname()[1]}
    found = asking(patroni, run_module, s3_repository=s3)
    assert (found["last_backup_at"], found["reasons"]) == ("2026-11-21T11:00:00Z", [])
    (tmp_path / "calls").unlink()
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    found = asking(patroni, run_module, s3_repository={**s3, "port": port})
    assert found["last_backup_at"] == "2026-11-21T10:00:00Z"
    assert found["reasons"] == [
        f"the backup repository in S3 at 127.0.0.1:{port} could not be read: Connection refused"
    ]
    assert "--repo=3" not in (tmp_path / "calls").read_text()


@pytest.mark.usefixtures("repositories")
def test_an_unknown_backup_user_is_a_reason(patroni: PatroniApi, run_module: Run) -> None:
    found = asking(patroni, run_module, backup_user="nobody-at-all")
    assert len(found["reasons"]) == 2
    assert found["reasons"][0].startswith("the backup repository on north-3 could not be read: ")
    assert (found["last_backup_at"], found["healthy"]) == (None, False)


@pytest.mark.parametrize(
    ("note", "reason"),
    [
        (
            '{"fenced_at": "2026-11-21T13:30:05Z", "operation": "failover to south"}',
            "fenced since 2026-11-21T13:30:05Z (failover to south); dr_reprotect brings it back",
        ),
        (
            '{"fenced_at": "2026-11-21T13:30:05Z", "operation": ""}',
            "fenced since 2026-11-21T13:30:05Z (by hand); dr_reprotect brings it back",
        ),
        *((text, "fenced; dr_reprotect brings it back") for text in ("", "{}", "[]", "null", "7")),
    ],
)
def test_a_fenced_host(patroni: PatroniApi, run_module: Run, tmp_path: Path, note: str, reason: str) -> None:
    """The file alone makes it one, as it does for the guard; what Patroni does not say comes after that."""
    patroni["north-1"].up = False
    marker = tmp_path / "fenced.json"
    marker.write_text(note)
    found = info(patroni, run_module, "north-1", fence_marker=str(marker))["recovery_status"]
    assert (found["role"], found["healthy"]) == ("fenced", False)
    assert found["reasons"][0] == reason
    assert found["reasons"][1].startswith("Patroni on north-1 did not answer")


def test_a_host_without_a_fence(patroni: PatroniApi, run_module: Run, tmp_path: Path) -> None:
    answer = info(patroni, run_module, "north-1", fence_marker=str(tmp_path / "fenced.json"))
    assert (answer["recovery_status"]["role"], answer["recovery_status"]["reasons"]) == ("primary", [])


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ('{"proven_at": "2026-11-21T10:00:00Z"}', "2026-11-21T10:00:00Z"),
        *((text, None) for text in (None, "", "{}", "[]", "null")),
    ],
)
def test_the_last_restore_proof(
    patroni: PatroniApi, run_module: Run, tmp_path: Path, text: str | None, at: str | None
) -> None:
    proof = tmp_path / "proof.json"
    if text is not None:
        proof.write_text(text)
    answer = info(patroni, run_module, "north-1", restore_proof=str(proof))
    assert answer["recovery_status"]["last_restore_proof_at"] == at
