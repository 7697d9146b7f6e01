"""haproxy_info: what a HAProxy leads to, read from its admin socket and tried by connecting."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.muster.platform.plugins.modules import haproxy_info

HEADER = "# pxname,svname,scur,status,bck,lastchg,check_status,last_chk,"


class Admin:
    """HAProxy's admin socket; C(rows) is what `show stat` tells."""

    def __init__(self, path: Path) -> None:
        self.rows: list[str] = []
        admin = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                command = self.rfile.readline().decode().strip()
                answers = {
                    "show info": f"Name: HAProxy\nVersion: 3.0.11-1+deb13u3\nPid: {os.getpid()}\nMaxconn: 4000\n\n",
                    "show stat": "\n".join([HEADER, *admin.rows]) + "\n\n",
                }
                self.wfile.write(answers[command].encode())

        self.server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        self.server.daemon_threads = True
        self.path = str(path)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    found = Admin(tmp_path / "admin.sock")
    yield found
    found.server.shutdown()
    found.server.server_close()


class Endpoint:
    """A port that keeps connections open, or closes them at once as HAProxy does without a server."""

    def __init__(self, leads_somewhere: bool) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.leads_somewhere = leads_somewhere
        self.kept: list[socket.socket] = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                connection, _address = self.listener.accept()
            except OSError:
                return
            if self.leads_somewhere:
                self.kept.append(connection)
            else:
                connection.close()


@pytest.fixture
def good() -> Iterator[Endpoint]:
    endpoint = Endpoint(True)
    yield endpoint
    endpoint.listener.close()


@pytest.fixture
def closing() -> Iterator[Endpoint]:
    endpoint = Endpoint(False)
    yield endpoint
    endpoint.listener.close()


def run(capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        haproxy_info.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def row(backend: str, server: str, status: str = "UP", backup: bool = False, check: str = "L7OK,") -> str:
    return f"{backend},{server},2,{status},{int(backup)},29,{check},"


def test_an_endpoint_that_leads_to_the_primary_is_healthy(capsys, admin: Admin, good: Endpoint) -> None:
    admin.rows = [
        "rw,FRONTEND,0,OPEN,,,,,",
        row("rw", "north-1", check="* L7OK,"),
        row("rw", "south-1", "DOWN", check="L7STS,Service Unavailable"),
        "rw,BACKEND,0,UP,0,29,,,",
    ]
    result = run(
        capsys,
        endpoints=[{"name": "rw", "port": good.port, "single": True}],
        socket=admin.path,
        region="north",
    )
    assert result["changed"] is False
    assert result["recovery_status"] == {
        "store": "haproxy",
        "region": "north",
        "role": None,
        "healthy": True,
        "reasons": [],
        "ready": None,
        "position": None,
        "timeline": None,
        "lag_bytes": None,
        "lag_seconds": None,
        "last_backup_at": None,
        "last_restore_proof_at": None,
        "versions": {"haproxy": "3.0.11"},
    }
    assert result["max_connections"] == 4000
    (endpoint,) = result["endpoints"]
    assert endpoint["live"] == ["north-1"]
    assert endpoint["error"] is None
    assert endpoint["fallback"] is False
    assert endpoint["servers"]["north-1"] == {
        "up": True,
        "backup": False,
        "status": "UP L7OK",
        "sessions": 2,
        "since_seconds": 29,
    }


def test_an_endpoint_without_a_host_says_what_its_hosts_answered(
    capsys, admin: Admin, closing: Endpoint
) -> None:
    admin.rows = [row("rw", "north-1", "DOWN", check="L6RSP,SSL handshake failure")]
    result = run(capsys, endpoints=[{"name": "rw", "port": closing.port}], socket=admin.path)
    assert result["recovery_status"]["healthy"] is False
    assert result["recovery_status"]["reasons"] == [
        f"endpoint rw (port {closing.port}) leads to no host (north-1 is DOWN L6RSP SSL handshake failure)"
    ]
    assert result["recovery_status"]["region"] is None


def test_two_that_claim_to_be_the_one_are_not_healthy(capsys, admin: Admin, closing: Endpoint) -> None:
    admin.rows = [row("rw", "north-1"), row("rw", "south-1")]
    result = run(capsys, endpoints=[{"name": "rw", "port": closing.port, "single": True}], socket=admin.path)
    assert result["recovery_status"]["reasons"] == [
        f"endpoint rw (port {closing.port}) is refused: more than one host claims to serve it (north-1, south-1)"
    ]


def test_an_endpoint_that_closes_connections_is_not_healthy_though_its_host_is_up(
    capsys, admin: Admin, closing: Endpoint
) -> None:
    admin.rows = [row("pooler", "north-1")]
    result = run(capsys, endpoints=[{"name": "pooler", "port": closing.port}], socket=admin.path)
    assert result["recovery_status"]["reasons"] == [
        f"endpoint pooler (port {closing.port}) does not work: the connection was closed at once"
    ]


def test_a_port_where_nobody_listens_is_told(capsys, admin: Admin) -> None:
    admin.rows = [row("rw", "north-1")]
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        endpoint = {"name": "rw", "port": bound.getsockname()[1]}
        result = run(capsys, endpoints=[endpoint], socket=admin.path)
    (reason,) = result["recovery_status"]["reasons"]
    assert "does not work: [Errno 111] Connection refused" in reason


def test_hosts_of_the_own_region_come_before_backups(capsys, admin: Admin, good: Endpoint) -> None:
    admin.rows = [row("ro", "north-2"), row("ro", "south-1", backup=True), row("ro", "south-2", backup=True)]
    ask = {"endpoints": [{"name": "ro", "port": good.port}], "socket": admin.path}
    assert run(capsys, **ask)["endpoints"][0]["live"] == ["north-2"]
    admin.rows[0] = row("ro", "north-2", "DOWN")
    assert run(capsys, **ask)["endpoints"][0]["live"] == ["south-1", "south-2"]


def test_the_fallback_serves_when_the_endpoint_has_no_host_of_its_own(
    capsys, admin: Admin, good: Endpoint
) -> None:
    admin.rows = [row("rw", "north-1"), row("ro", "south-1", "DOWN")]
    result = run(capsys, endpoints=[{"name": "ro", "port": good.port, "fallback": "rw"}], socket=admin.path)
    assert result["recovery_status"]["healthy"] is True
    assert result["endpoints"][0]["live"] == ["north-1"]
    assert result["endpoints"][0]["fallback"] is True


def test_a_haproxy_that_does_not_run_is_told_and_no_failure(capsys, tmp_path: Path) -> None:
    path = str(tmp_path / "nothing.sock")
    result = run(capsys, endpoints=[{"name": "rw", "port": 1}], socket=path)
    assert result.get("failed") is None
    assert result["endpoints"] == []
    assert result["recovery_status"]["role"] == "stopped"
    assert result["recovery_status"]["reasons"] == [
        f"HAProxy does not answer at {path}: [Errno 2] No such file or directory"
    ]


def test_a_file_that_changed_after_the_start_is_stale(capsys, admin: Admin, tmp_path: Path) -> None:
    old, new = tmp_path / "old.cfg", tmp_path / "new.cfg"
    for path, age in ((old, -86400.0), (new, 5.0)):
        path.write_text("x")
        os.utime(path, (time.time() + age, time.time() + age))
    result = run(
        capsys, endpoints=[], socket=admin.path, files=[str(old), str(new), str(tmp_path / "missing.cfg")]
    )
    assert result["stale_files"] == [str(new)]
    assert result["recovery_status"]["reasons"] == [
        f"HAProxy runs without the changes of {new}: see its journal, or reload it"
    ]


def test_the_start_of_a_process_is_known_to_a_fraction_of_a_second() -> None:
    before = time.time()
    pid = os.posix_spawn("/bin/sleep", ["sleep", "5"], {})
    try:
        assert before - 0.1 <= haproxy_info.started_at(pid) <= time.time() + 0.1
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_waiting_ends_when_all_is_healthy(capsys, admin: Admin, good: Endpoint) -> None:
    admin.rows = [row("rw", "north-1", "DOWN")]

    def recover() -> None:
        time.sleep(0.2)
        admin.rows = [row("rw", "north-1")]

    threading.Thread(target=recover).start()
    result = run(capsys, endpoints=[{"name": "rw", "port": good.port}], socket=admin.path, timeout=10)
    assert result["recovery_status"]["healthy"] is True


def test_waiting_fails_with_the_reason_when_time_runs_out(capsys, admin: Admin, good: Endpoint) -> None:
    admin.rows = []
    result = run(capsys, endpoints=[{"name": "rw", "port": good.port}], socket=admin.path, timeout=0)
    assert result["failed"] is True
    assert result["msg"] == (
        "waited 0 s for HAProxy to serve every endpoint: "
        f"endpoint rw (port {good.port}) leads to no host (HAProxy has no such backend)"
    )
