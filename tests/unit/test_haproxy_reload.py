"""haproxy_reload.py: what the role runs around a reload of HAProxy."""

from __future__ import annotations

import importlib.util
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "roles/haproxy/files/haproxy_reload.py"
PROCESSES = """#<PID>          <type>          <reloads>       <uptime>        <version>
159             master          3 [failed: 0]   0d00h03m50s     3.0.11-1+deb13u3
# workers
772             worker          0               0d00h00m01s     3.0.11-1+deb13u3
# old workers
{old}# programs

"""
OLD = "735             worker          1               0d00h00m32s     3.0.11-1+deb13u3\n"
STAT = "# pxname,svname,scur,status,\n{rows}\n"
SESSIONS = """0x7f8fc8b64400: proto=sockpair src=unix:2 fe=GLOBAL be=<NONE> srv=<none> ts=00 epoch=0 age=0s
0x7f8fc8c9b000: proto=tcpv4 src=127.0.0.1:50114 fe=rw be=rw srv=north-1 ts=00 epoch=0 age=1s
0x7f8fc8c9b100: proto=tcpv4 src=127.0.0.1:50115 fe=rw be=rw srv=south-1 ts=00 epoch=0 age=1s
0x7f8fc8c9b200: proto=tcpv4 src=127.0.0.1:50116 fe=ro be=ro srv=north-1 ts=00 epoch=0 age=1s

"""


def serve(path: Path, answer: Callable[[str], str]) -> socketserver.BaseServer:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(answer(self.rfile.readline().decode().strip()).encode())

    server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


class HAProxy:
    """A master with one old process, and a new process; keeps the commands that it was given."""

    def __init__(self, directory: Path) -> None:
        self.commands: list[str] = []
        self.now = "rw,north-1,0,DOWN,\nrw,south-1,1,UP,\nro,north-1,1,UP,"
        self.before = "rw,north-1,1,UP,\nrw,south-1,1,UP,\nro,north-1,1,UP,"
        self.old_processes = True
        self.servers = [
            serve(directory / "master.sock", self.master),
            serve(directory / "admin.sock", self.admin),
        ]

    def master(self, command: str) -> str:
        if command == "show proc":
            return PROCESSES.format(old=OLD if self.old_processes else "")
        if command == "@!735 show stat":
            return STAT.format(rows=self.before)
        if command == "@!735 show sess":
            return SESSIONS
        self.commands.append(command)
        self.old_processes = False
        return "\n"

    def admin(self, command: str) -> str:
        return {"show stat": STAT.format(rows=self.now), "show servers state": "1\n# be_id …\n"}[command]


@pytest.fixture
def reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("haproxy_reload", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in {
        "ADMIN_SOCKET": str(tmp_path / "admin.sock"),
        "MASTER_SOCKET": str(tmp_path / "master.sock"),
        "STATE_FILE": str(tmp_path / "state"),
        "INTERVAL": 0.01,
        "PATIENCE": 0.2,
    }.items():
        monkeypatch.setattr(module, name, value)
    return module


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[HAProxy]:
    found = HAProxy(tmp_path)
    yield found
    for server in found.servers:
        server.shutdown()
        server.server_close()


def test_save_writes_down_which_servers_are_up(reload: Any, haproxy: HAProxy, tmp_path: Path) -> None:
    assert reload.main(["save"]) == 0
    assert (tmp_path / "state").read_text() == "1\n# be_id …\n"


def test_save_without_haproxy_keeps_nobody_from_reloading(reload: Any, capsys: Any, tmp_path: Path) -> None:
    assert reload.main(["save"]) == 0
    assert "could not be saved" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_drain_cuts_only_the_old_sessions_on_servers_that_are_down(reload: Any, haproxy: HAProxy) -> None:
    assert reload.main(["drain"]) == 0
    assert haproxy.commands == ["@!735 shutdown session 0x7f8fc8c9b000"]


def test_drain_leaves_sessions_alone_while_their_servers_are_up(reload: Any, haproxy: HAProxy) -> None:
    haproxy.now = haproxy.now.replace("DOWN", "UP")
    threading.Timer(0.4, setattr, (haproxy, "old_processes", False)).start()
    assert reload.main(["drain"]) == 0
    assert haproxy.commands == []


def test_drain_ends_when_haproxy_is_gone(reload: Any) -> None:
    assert reload.main(["drain"]) == 0


def test_many_sessions_are_cut_in_batches(
    reload: Any, haproxy: HAProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "BATCH", 1)
    haproxy.now = haproxy.now.replace("ro,north-1,1,UP", "ro,north-1,1,DOWN")
    assert reload.main(["drain"]) == 0
    assert haproxy.commands == [
        "@!735 shutdown session 0x7f8fc8c9b000",
        "@!735 shutdown session 0x7f8fc8c9b200",
    ]


def test_anything_else_is_explained(reload: Any, capsys: Any) -> None:
    assert reload.main([]) == 2
    assert "usage: haproxy_reload.py save|drain" in capsys.readouterr().err
