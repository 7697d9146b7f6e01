# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The witness and the agents as real processes over TLS, with links that can be cut and a PostgreSQL to stop."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _lease
from etcd_fake import Cluster, Server

FILES = Path(__file__).resolve().parents[2] / "roles/autofailover/files"
REGIONS = {"north": ["north-1"], "south": ["south-1"]}
OTHER = {"north": "south", "south": "north"}
LEASE, RENEW = 2.5, 0.2
STANDBY = {"standby_cluster": {"host": "other", "port": 5432}}


def wait(check: Callable[[], Any], what: str, seconds: float = 12.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = check()
        if found:
            return found
        time.sleep(0.03)
    raise AssertionError(f"waited {seconds:g} s for {what}")


# A witness that is killed comes back at its place: nobody else may have been given that meanwhile.
PORTS = itertools.count(8433)


def own_place() -> tuple[str, int]:
    """An address and a port that no other test uses: the address is this process's alone."""
    first, second, third = os.getpid().to_bytes(3)
    return f"127.{64 + first}.{second}.{third}", next(PORTS)


class Link:
    """A way from one host to a port, which can be cut: what is cut says nothing, it does not refuse."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self.target = address, port
        self.up = True
        self.pairs: list[socket.socket] = []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.server.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                client, _address = self.server.accept()
                if not self.up:
                    self.pairs.append(client)  # left without an answer
                    continue
                other = socket.create_connection(self.target, 1)
            except OSError:
                if self.server.fileno() < 0:
                    return
                client.close()
                continue
            for one, two in ((client, other), (other, client)):
                threading.Thread(target=self.copy, args=(one, two), daemon=True).start()

    def copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                while not self.up:
                    time.sleep(0.05)
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class FakePatroni:
    """GET /patroni of one host."""

    def __init__(self, pki: Path, role: str) -> None:
        self.role = role
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                raw = json.dumps({"state": "running", "role": outer.role}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki / "member.crt", pki / "member.key")
        self.server.socket = context.wrap_socket(
            self.server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.port = self.server.server_address[1]


class Machine:
    """One PostgreSQL host: a directory, an agent, and a process that is called postgres."""

    def __init__(self, world: Processes, name: str, region: str) -> None:
        self.world, self.name, self.region = world, name, region
        self.root = world.root / name
        for folder in ("data", "run", "state", "bin"):
            (self.root / folder).mkdir(parents=True)
        shutil.copy("/bin/sleep", self.root / "postgres")
        self.calls = self.root / "systemctl.log"
        self.calls.touch()
        systemctl = self.root / "bin/systemctl"
        systemctl.write_text(
            f'#!/bin/sh\necho "$*" >> {self.calls}\n'
            f'case "$1" in is-active) cat {self.root}/active 2>/dev/null || echo active;;\n'
            f"show) cat {self.root}/show 2>/dev/null;;\n"
            f"mask) ln -sf /dev/null {self.root}/mask;; esac\n"
        )
        systemctl.chmod(0o755)
        self.patroni = FakePatroni(world.pki, "primary" if region == "north" else "standby_leader")
        self.to_witness = Link(world.port, world.address)
        self.postgres: subprocess.Popen[bytes] | None = None
        self.agent: subprocess.Popen[bytes] | None = None
        self.config = self.root / "agent.json"
        self.configure()
        self.start_postgres()
        self.start_agent()

    def configure(self, **changes: Any) -> None:
        tls = {
            "ca_certificate": str(self.world.pki / "ca.crt"),
            "certificate": str(self.world.pki / "member.crt"),
            "private_key": str(self.world.pki / "member.key"),
        }
        document = {
            **tls,
            "host": self.name,
            "region": self.region,
            "regions": REGIONS,
            "witness": f"https://localhost:{self.to_witness.port}",
            "patroni": f"https://localhost:{self.patroni.port}",
            "scopes": {region: f"muster-{region}" for region in REGIONS},
            "etcd_endpoints": {
                region: [self.world.etcds[region].urls()[0]]
                if region == self.region
                else [f"https://localhost:{self.world.between.port_of(region)}"]
                for region in REGIONS
            },
            "lease_seconds": LEASE,
            "renew_seconds": RENEW,
            "fence_seconds": 0.5,
            "clock_uncertainty_seconds": 0.1,
            "watchdog_seconds": 0.3,
            "directory": str(self.root / "state"),
            "runtime_directory": str(self.root / "run"),
            "data_directory": str(self.root / "data"),
            "unit": "patroni.service",
            "agent_unit": "muster-lease-agent.service",
            "cgroup": str(self.root / "cgroup"),
            "marker": str(self.root / "fenced.json"),
            "mask_path": str(self.root / "mask"),
        }
        self.config.write_text(json.dumps({**document, **changes}))

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"PATH": f"{self.root}/bin:{os.environ['PATH']}"}

    def start_postgres(self) -> None:
        self.postgres = subprocess.Popen([self.root / "postgres", "600"], cwd=self.root / "data")

    def start_agent(self) -> None:
        log = open(self.root / "agent.log", "ab")  # noqa: SIM115
        command = [sys.executable, "-I", FILES / "muster_lease_agent.py", self.config]
        self.agent = subprocess.Popen(command, stderr=log, env=self.environment)

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", FILES / "muster_lease_agent.py", self.config, *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=20)

    @property
    def runs(self) -> bool:
        return self.postgres is not None and self.postgres.poll() is None

    def kill_agent(self) -> None:
        assert self.agent
        self.agent.kill()
        self.agent.wait()

    def die(self) -> None:
        self.kill_agent()
        assert self.postgres
        self.postgres.kill()
        self.postgres.wait()

    def log(self) -> str:
        return (self.root / "agent.log").read_text()

    def note(self) -> str:
        return (self.root / "run/lease.json").read_text()


class Between:
    """The ways from each region to the other one's etcd."""

    def __init__(self, etcds: dict[str, Cluster]) -> None:
        self.links = {region: Link(int(etcd.urls()[0].rsplit(":", 1)[1])) for region, etcd in etcds.items()}

    def port_of(self, region: str) -> int:
        return self.links[region].port


class Processes:
    """A witness, two regions of a host each, and a canary."""

    def __init__(self, root: Path, pki: Path) -> None:
        self.root, self.pki = root, pki
        self.etcds = {region: Cluster(pki) for region in REGIONS}
        for region, etcd in self.etcds.items():
            self.configure_region(etcd, region, region != "north")
        self.between = Between(self.etcds)
        self.address, self.port = own_place()
        self.acknowledging = True
        self.canary_runs = True
        for folder in ("witness", "canary", "lock"):
            (root / folder).mkdir()
        self.socket = str(root / "control.sock")
        self.ran = root / "ran"
        self.witness: subprocess.Popen[bytes] | None = None
        self.exit_code = 0
        self.write_config()
        self.sequence = 0
        self.machines: dict[str, Machine] = {}
        self.closed = False
        threading.Thread(target=self.canary, daemon=True).start()
        time.sleep(0.1)
        self.start_witness()
        _lease.ask(self.socket, {"state": "held", "region": "north"})
        self.machines |= {
            host: Machine(self, host, region) for region, hosts in REGIONS.items() for host in hosts
        }

    @staticmethod
    def configure_region(etcd: Cluster, region: str, standby: bool) -> None:
        def b64(text: str) -> str:
            return base64.b64encode(text.encode()).decode()

        text = json.dumps({"ttl": 20, **(STANDBY if standby else {})})
        etcd.kv_put({"key": b64(f"/service/muster-{region}/config"), "value": b64(text)})

    def write_config(self) -> None:
        script = (
            "import sys, pathlib; "
            f"pathlib.Path({str(self.ran)!r}).open('a').write(' '.join(sys.argv[1:]) + chr(10)); "
            f"sys.exit(int(pathlib.Path({str(self.root / 'exit')!r}).read_text()))"
        )
        (self.root / "exit").write_text(str(self.exit_code))
        config = {
            "address": self.address,
            "port": self.port,
            "regions": REGIONS,
            "lease_seconds": LEASE,
            "renew_seconds": RENEW,
            "probe_seconds": 1.0,
            "retry_seconds": 2.0,
            "store": "postgresql",
            "canary_config": str(self.root / "canary.json"),
            "lock_directory": str(self.root / "lock"),
            "directory": str(self.root / "witness"),
            "socket": self.socket,
            "ca_certificate": str(self.pki / "ca.crt"),
            "certificate": str(self.pki / "member.crt"),
            "private_key": str(self.pki / "member.key"),
            "command": [sys.executable, "-c", script, "{source}", "{target}", "{proof}"],
            "command_timeout": 20,
        }
        (self.root / "witness.json").write_text(json.dumps(config))
        canary = {
            "interval_ms": 50,
            "directory": str(self.root / "canary"),
            "stores": [{"name": "postgresql", "endpoints": [{"name": "north"}, {"name": "south"}]}],
        }
        (self.root / "canary.json").write_text(json.dumps(canary))

    def canary(self) -> None:
        """Writes the ledger as the canary does."""
        with open(self.root / "canary/ledger.csv", "a", encoding="utf-8", buffering=1) as ledger:
            ledger.write("store,sequence,sent_at,acknowledged_at,endpoint,answer\n")
            while not self.closed:
                good = self.acknowledging and self.takes_writes()
                for endpoint in REGIONS if self.canary_runs else ():
                    self.sequence += 1
                    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                    answered = now if good else ""
                    ledger.write(f"postgresql,{self.sequence},{now},{answered},{endpoint},x\n")
                time.sleep(0.05)

    def takes_writes(self) -> bool:
        return any(each.runs and each.patroni.role == "primary" for each in self.machines.values())

    def start_witness(self) -> None:
        log = open(self.root / "witness.log", "ab")  # noqa: SIM115
        command = [sys.executable, "-I", FILES / "muster_lease.py", self.root / "witness.json"]
        self.witness = witness = subprocess.Popen(command, stderr=log, stdout=log)

        def answers() -> bool:
            assert witness.poll() is None, f"the witness has ended: {self.log()}"
            try:
                return bool(self.info())
            except _lease.MusterError:
                return False

        wait(answers, "the witness to start")

    def kill_witness(self) -> None:
        assert self.witness
        self.witness.kill()
        self.witness.wait()

    def info(self) -> dict[str, Any]:
        return _lease.ask(self.socket, {"state": "info"})

    def said(self, host: str) -> dict[str, Any]:
        found: dict[str, Any] = self.info()["agents"].get(host, {})
        return found

    def isolate(self, host: str, up: bool = False) -> None:
        """Cut a host from the witness, and the regions from each other."""
        self.machines[host].to_witness.up = up
        for link in self.between.links.values():
            link.up = up

    def settle(self) -> None:
        wait(lambda: self.said("north-1").get("entitled"), "north to have its lease")
        wait(lambda: self.said("south-1").get("standby"), "south to say that it is a standby")
        wait(lambda: self.info()["armed"] == ["north-1"], "north's host to be armed")
        # For its successor, and for Patroni's start.
        wait(lambda: "may write" in self.machines["north-1"].note(), "north to note its word")

    def log(self) -> str:
        return (self.root / "witness.log").read_text()

    def close(self) -> None:
        self.closed = True
        for machine in self.machines.values():
            for process in (machine.agent, machine.postgres):
                if process is not None and process.poll() is None:
                    process.send_signal(signal.SIGCONT)
                    process.kill()
                    process.wait(10)
            machine.to_witness.server.close()
            machine.patroni.server.shutdown()
        if self.witness and self.witness.poll() is None:
            self.kill_witness()
        for link in self.between.links.values():
            link.server.close()
        for etcd in self.etcds.values():
            etcd.close()
