# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Two regions of the object store in memory: the real program of each, and what it talks to replaced at the edge."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs

import pytest
from ansible_collections.muster.platform.plugins.module_utils import _object_storage as client

PROGRAM = Path(__file__).parents[2] / "roles/object_storage/files/muster_object_storage.py"
AGENT, FILER = 9332, 8888


def load_program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("muster_object_storage", PROGRAM)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Process:
    """A child that lives until it is killed."""

    def __init__(self, argv: list[str], **_how: Any) -> None:
        self.argv, self.dead = argv, False

    def poll(self) -> int | None:
        return 0 if self.dead else None

    def kill(self) -> None:
        self.dead = True

    def wait(self) -> int:
        return 0

    def send_signal(self, _number: int) -> None:
        pass


class World:
    """north-1 and south-1, a filer and the program on each."""

    def __init__(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.program = load_program()
        self.patch = patch
        self.filers: dict[str, dict[str, bytes]] = {"north-1": {}, "south-1": {}}
        self.down: set[str] = set()  # hosts that do not answer
        self.copying = True  # whether what is copied arrives
        self.fail: list[tuple[str, str]] = []  # methods and hosts whose next answer is lost, after the act
        self.configuration: dict[str, str] = {}
        patch.setattr(self.program, "print", lambda *_words, **_how: None, raising=False)
        patch.setattr(self.program.subprocess, "Popen", Process)
        patch.setattr(self.program, "server_instance", lambda _weed: "server-1")
        self.keepers = {host: self.keeper(home, host) for host in self.filers}
        patch.setattr(client.Stores, "request", lambda _stores, *words, **more: self.request(*words, **more))
        patch.setattr(client.Stores, "s3_healthy", lambda _stores, host: self.serves(host))
        patch.setattr(client.Stores, "s3_listens", lambda _stores, host: self.serves(host))
        patch.setattr(
            client.Stores,
            "compare",
            lambda _stores, source, target, *_rest, **_more: self.compare(source, target),
        )

    def keeper(self, home: Path, host: str) -> Any:
        region = host.split("-")[0]
        (home / host).mkdir()
        given = {
            "region": region, "host": host, "regions": {"north": ["north-1"], "south": ["south-1"]},
            "port": AGENT, "filer_port": FILER, "s3_port": 9000, "master_port": 9333, "volume_port": 8080,
            "weed": "/opt/weed", "identities": "i", "certificate": "c", "private_key": "k", "ca_certificate": "a",
            "read_key": "r", "write_key": "w", "run_directory": str(home / host), "version": "4.48",
            "marker": str(home / host / "fenced.json"), "program": "p", "compare_seconds": 900.0,
            "compare_settle": 0.0, "compare_timeout": 5.0,
        }  # fmt: skip
        path = home / host / "muster.json"
        path.write_text(json.dumps(given))
        self.configuration[region] = str(path)
        site = self.program.Site(given)
        site.request = lambda method, to, port, path, _key, body=None: self.answer(
            method, to, port, path, body
        )
        return self.program.Keeper(site)

    # --- the edge ---

    def answer(
        self, method: str, host: str, port: int, path: str, body: bytes | None = None
    ) -> tuple[int, bytes]:
        if host in self.down:
            raise self.program.Unknown(f"{host}:{port} does not answer (refused)")
        if port == AGENT and method == "GET":
            return 200, json.dumps(self.keepers[host].tell()).encode()
        if port == AGENT:
            try:
                return 200, json.dumps(self.keepers[host].change(json.loads(body or b""))).encode()
            except self.program.Refused as error:
                return 409, json.dumps({"error": str(error)}).encode()
        filer = self.filers[host]
        path, _mark, query = path.partition("?")
        if method == "GET" and path.endswith("/"):
            return self.listing(filer, path, parse_qs(query))
        if method == "PUT":
            filer[path] = body or b""
            self.copy()
            return 201, b""
        if method == "DELETE":
            for name in [name for name in filer if name == path or name.startswith(path + "/")]:
                del filer[name]
            return 204, b""
        return (200, filer[path]) if path in filer else (404, b"")

    @staticmethod
    def listing(filer: dict[str, bytes], directory: str, query: dict[str, list[str]]) -> tuple[int, bytes]:
        names = {path.removeprefix(directory).split("/")[0] for path in filer if path.startswith(directory)}
        after, most = query.get("lastFileName", [""])[0], int(query.get("limit", ["100000"])[0])
        entries = [
            {"FullPath": directory + name, "Mode": 0 if directory + name in filer else client.DIRECTORY}
            for name in sorted(names)
            if name > after
        ]
        # As the real one: null where nothing is left, and nothing at all where there is no directory.
        return (200, json.dumps({"Entries": entries[:most] or None}).encode()) if names else (404, b"")

    def request(
        self, method: str, host: str, port: int, path: str, body: bytes | None = None, **_more: Any
    ) -> tuple[int, bytes]:
        try:
            found = self.answer(method, host, port, path, body)
        except self.program.Unknown as error:
            raise client.Silent(str(error)) from error
        if (method, host) in self.fail:
            self.fail.remove((method, host))
            raise client.Silent(f"{host}:{port} does not answer (timed out)")
        self.copy()
        return found

    def serves(self, host: str) -> bool:
        return host not in self.down and self.keepers[host].gateway.alive

    def compare(self, source: str, target: str) -> dict[str, Any]:
        held = {path: body for path, body in self.filers[source].items() if path.startswith("/buckets/")}
        there = self.filers[target]
        return {
            "source": source,
            "target": target,
            "seconds": 0.1,
            "files": len(held),
            "missing": [path for path in held if path not in there],
            "directories": [],
            "different": [path for path, body in held.items() if there.get(path, body) != body],
            "extra": [],
        }

    def copy(self) -> None:
        """What filer.sync does, where it runs."""
        for host, keeper in self.keepers.items():
            source = keeper.source()
            if not self.copying or not keeper.sync.alive or {host, source} & self.down:
                continue
            for path, body in self.filers[source or ""].items():
                if path.startswith("/buckets/"):
                    self.filers[host][path] = body

    # --- what happens ---

    def act(self) -> None:
        for host, keeper in self.keepers.items():
            if host not in self.down:
                keeper.peers_at = -1e9
                keeper.act()
                keeper.heartbeat()
        self.copy()
        for host, keeper in self.keepers.items():
            if host not in self.down:
                keeper.heartbeat()

    def begin(self) -> None:
        """North is primary, south follows."""
        for host in self.filers:
            state = {"role": "primary" if host == "north-1" else "standby", "primary": "north", "epoch": 1}
            self.filers[host]["/muster/region.json"] = json.dumps(state).encode()
        self.act()  # north waits until south knows its own role
        self.act()
        assert self.open() == ["north"]

    def open(self) -> list[str]:
        return [host.split("-")[0] for host, keeper in self.keepers.items() if keeper.gateway.alive]

    def state(self, region: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.filers[f"{region}-1"]["/muster/region.json"])
        return found

    def put(self, region: str, name: str) -> None:
        """An application's write, which the gateway acknowledges."""
        assert region in self.open()
        self.filers[f"{region}-1"][f"/buckets/b/{name}"] = f"{name} {time.time()}".encode()
        self.copy()

    def holds(self, region: str, name: str) -> bool:
        return f"/buckets/b/{name}" in self.filers[f"{region}-1"]


@pytest.fixture
def regions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)
