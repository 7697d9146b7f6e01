# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Patroni's REST API on several hosts, behind mutual TLS: what unit tests talk to.

Every host has an address of its own and all have one port, as in a real platform; only
the resolution of names is made up. Fixtures are in conftest.
"""

from __future__ import annotations

import errno
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from etcd_fake import HOSTS, Server

REGIONS = {"north": ["north-1", "north-2"], "south": ["south-1", "south-2"]}
STANDBY = {"host": "north-1,north-2", "port": 5432}
Answer = tuple[int, str]


def status(role: str, timeline: int = 1, lsn: int = 0x5000000, **more: Any) -> dict[str, Any]:
    """What GET /patroni says of a running member of that role."""
    xlog: dict[str, Any] = {"location": lsn}
    if role not in ("primary", "master"):
        xlog = {
            "received_location": lsn,
            "replayed_location": lsn,
            "replayed_timestamp": None,
            "paused": False,
        }
        more.setdefault("replication_state", "streaming")
    return {
        "state": "running",
        "role": role,
        "server_version": 170011,
        "xlog": xlog,
        "timeline": timeline,
        "database_system_identifier": "7710570350551003534",
        "patroni": {"version": "4.0.7", "scope": "muster-north", "name": "north-1"},
        **more,
    }


class Instance:
    """One host's Patroni. Tests change what it says, or how it fails."""

    def __init__(self, api: PatroniApi, name: str, address: str) -> None:
        self.name = name
        self.region = name.split("-")[0]
        self.address = address
        self.up = True
        self.config: dict[str, Any] | None = None  # of this host alone, when not its region's
        self.says: dict[str, Any] = {}
        self.answers: dict[str, Answer] = {}  # by "GET /path": instead of the usual answer
        self.hang_up_next = False
        self.requests: list[str] = []
        self.connections = 0
        self.on_post: Callable[[str, Any], Answer] = lambda _path, _body: (200, "done")
        self.server = Server((address, api.port), _handler(api, self))
        self.server.daemon_threads = True
        api.port = self.server.server_address[1]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(api.pki / "member.crt", api.pki / "member.key")
        context.load_verify_locations(api.pki / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        self.server.socket = context.wrap_socket(
            self.server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def posted(self) -> list[str]:
        return [request for request in self.requests if request.startswith("POST")]


def _handler(api: PatroniApi, instance: Instance) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            instance.connections += 1

        def log_message(self, *_arguments: Any) -> None:
            pass

        def respond(self, body: Any = None) -> None:
            request = f"{self.command} {self.path}"
            instance.requests.append(request)
            if not instance.up or instance.hang_up_next:
                instance.hang_up_next = False
                self.close_connection = True
                return
            code, text = instance.answers.get(request) or api.answer(instance, self.command, self.path, body)
            raw = text.encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def do_GET(self) -> None:
            self.respond()

        def do_POST(self) -> None:
            self.respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    return Handler


class PatroniApi:
    """All hosts; the north is the primary region."""

    def __init__(self, pki: Path) -> None:
        self.pki = pki
        self.port = 0
        self.configs: dict[str, dict[str, Any]] = {
            "north": {"ttl": 20},
            "south": {"standby_cluster": STANDBY},
        }
        self.hosts: dict[str, Instance] = {}
        while not self.listen():
            pass
        for name, role in zip(HOSTS, ("primary", "replica", "standby_leader", "replica"), strict=True):
            self.hosts[name].says = status(role)

    def listen(self) -> bool:
        """One port on all addresses: what is free on the first may be taken on another one."""
        try:
            for number, name in enumerate(HOSTS, start=1):
                self.hosts[name] = Instance(self, name, f"127.0.2.{number}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not self.hosts:
                raise
            self.close()
            self.hosts, self.port = {}, 0
            return False
        return True

    def __getitem__(self, host: str) -> Instance:
        return self.hosts[host]

    def answer(self, instance: Instance, method: str, path: str, body: Any) -> Answer:
        if method == "POST":
            return instance.on_post(path, body)
        if path == "/patroni":
            return 200, json.dumps(instance.says)
        config = instance.config if instance.config is not None else self.configs[instance.region]
        return (200, json.dumps(config)) if path == "/config" else (404, "not found")

    def files(self) -> dict[str, str]:
        """The TLS arguments of every module."""
        names = {"ca_certificate": "ca.crt", "certificate": "member.crt", "private_key": "member.key"}
        return {option: str(self.pki / name) for option, name in names.items()}

    def arguments(self, **more: Any) -> dict[str, Any]:
        return {"regions": REGIONS, "api_port": self.port, **self.files(), **more}

    def close(self) -> None:
        # Each takes up to a poll interval to hear of it: all at once.
        enders = [threading.Thread(target=instance.server.shutdown) for instance in self.hosts.values()]
        for ender in enders:
            ender.start()
        for ender, instance in zip(enders, self.hosts.values(), strict=True):
            ender.join()
            instance.server.server_close()


def resolving(addresses: Mapping[str, str]) -> Callable[..., Any]:
    """getaddrinfo that also knows some names."""
    real = socket.getaddrinfo

    def resolve(host: Any, *arguments: Any, **options: Any) -> Any:
        return real(addresses.get(host, host), *arguments, **options)

    return resolve


@pytest.fixture
def patroni(pki: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PatroniApi]:
    api = PatroniApi(pki)
    addresses = {name: instance.address for name, instance in api.hosts.items()}
    monkeypatch.setattr(socket, "getaddrinfo", resolving(addresses))
    yield api
    api.close()
