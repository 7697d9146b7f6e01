# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""RabbitMQ of two regions at the edge of the wire: the management API's answers, and queues as AMQP shows them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

import pytest
from ansible_collections.muster.platform.plugins.module_utils import _rabbitmq
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq import MusterError, Region, Silent
from ansible_collections.muster.platform.plugins.modules import rabbitmq_member, rabbitmq_promote

PASSWORDS = {"muster_operator": "0p3r4t0r", "muster_upstream": "up//:", "ingest": "secret"}
REGIONS = {"north": ["north-1", "north-2", "north-3"], "south": ["south-1"]}
DECLARED: dict[str, Any] = {
    "regions": REGIONS,
    "operator_user": "muster_operator",
    "upstream_user": "muster_upstream",
    "port": 5671,
    "ca_certificate": "/etc/muster/rabbitmq/ca.crt",
    "vhosts": ["docs"],
    "users": [
        {"name": "ingest", "password": "-", "permissions": [{"vhost": "docs", "write": "^in$", "read": "^q"}]}
    ],
    "exchanges": [{"vhost": "docs", "name": "in"}, {"vhost": "docs", "name": "dead", "type": "fanout"}],
    "queues": [{"vhost": "docs", "name": "q", "dead_letter": {"exchange": "dead"}}],
    "bindings": [{"vhost": "docs", "source": "in", "destination": "q", "routing_key": "#"}],
    "policies": [
        {
            "vhost": "docs",
            "name": "short",
            "pattern": "^q$",
            "apply_to": "queues",
            "definition": {"max-length": 5},
        }
    ],
    "standby": {"mode": "shovel", "prefetch": 10, "replay_seconds": 60, "max_messages": 9},
}


class World:
    """Both regions, and what moves between them while the wall's clock is looked at."""

    def __init__(self) -> None:
        self.clusters = {name: Cluster(name, hosts, self) for name, hosts in REGIONS.items()}
        self.log: list[str] = []
        self.link_works = True
        self.listening: set[tuple[str, int]] = set()  # of hosts that are not up
        self.locked: Callable[[str], None] = lambda _region: None  # called when a lock is taken
        self.watch: Callable[[], None] = lambda: None

    def other(self, name: str) -> Cluster:
        return next(cluster for other, cluster in self.clusters.items() if other != name)

    def open_for_writes(self) -> list[str]:
        return [name for name, c in self.clusters.items() if any(u == "ingest" for _v, u in c.permissions)]

    def tick(self) -> None:
        """Each shovel moves what it can."""
        for cluster in self.clusters.values():
            source = self.other(cluster.name)
            for (vhost, component, _name), value in cluster.parameters.items():
                if component == "shovel" and self.link_works and source.up and cluster.up:
                    if not cluster.has_queue(vhost, value["dest-queue"]):
                        if value.get("dest-predeclared"):
                            continue
                        # What nobody has declared a shovel declares itself, in its own way.
                        bare = {"vhost": vhost, "name": value["dest-queue"], "durable": True, "arguments": {}}
                        cluster.objects.setdefault("queues", []).append(bare)
                    waiting = source.queues.get(value["src-queue"], [])
                    cluster.queues.setdefault(value["dest-queue"], []).extend(waiting)
                    waiting.clear()
        self.watch()


class Cluster:
    """One region: definitions as the API has them, and the messages of each queue."""

    def __init__(self, name: str, hosts: list[str], world: World) -> None:
        self.name, self.hosts, self.world = name, hosts, world
        self.up = True
        self.locked = False
        self.role: dict[str, Any] | None = None
        self.objects: dict[str, list[dict[str, Any]]] = {}
        self.permissions: dict[tuple[str, str], dict[str, Any]] = {}
        self.parameters: dict[tuple[str, str, str], Any] = {}
        self.queues: dict[str, list[Any]] = {}
        self.sent: dict[str, int] = {}  # messages on their way to a consumer, which are not ready
        self.connections: dict[str, int] = {}
        self.stubborn = False
        self.running = dict.fromkeys(hosts, True)
        self.critical = False
        self.posts = 0

    def has_queue(self, vhost: str, name: str) -> bool:
        return any((q["vhost"], q["name"]) == (vhost, name) for q in self.objects.get("queues", []))

    def definitions(self) -> dict[str, Any]:
        return {
            **self.objects,
            "permissions": [{"vhost": v, "user": u, **body} for (v, u), body in self.permissions.items()],
            "parameters": [
                {"vhost": v, "component": c, "name": n, "value": value}
                for (v, c, n), value in self.parameters.items()
            ],
        }

    def load(self, document: dict[str, Any]) -> None:
        self.posts += 1
        for item in document.pop("permissions", []):
            body = {k: item[k] for k in ("configure", "write", "read")}
            self.permissions[item["vhost"], item["user"]] = body
        for item in document.pop("parameters", []):
            self.parameters[item["vhost"], item["component"], item["name"]] = item["value"]
        for kind, items in document.items():
            known = self.objects.setdefault(kind, [])
            for item in items:
                same = [k for k in known if all(k.get(x) == item.get(x) for x in ("name", "vhost"))]
                if kind == "bindings":
                    same = [k for k in known if k == item]
                for old in same:
                    known.remove(old)
                known.append(json.loads(json.dumps(item)))
                if kind == "queues":
                    self.queues.setdefault(item["name"], [])

    def answer(self, host: str, method: str, path: str, body: Any) -> tuple[int, Any]:
        if not self.up or not self.running[host]:
            raise Silent(f"RabbitMQ on {host}: Connection refused")
        parts = [unquote(part) for part in path.split("/")[2:]]
        if method != "GET":
            self.world.log.append(f"{self.name}: {method} {' '.join(parts)}")
        found = getattr(self, "do_" + parts[0].replace("-", "_"))(method, parts[1:], body)
        self.world.tick()
        return found if isinstance(found, tuple) else (200, found)

    def do_definitions(self, method: str, _parts: list[str], body: Any) -> Any:
        return self.load(json.loads(json.dumps(body))) if method == "POST" else self.definitions()

    def do_global_parameters(self, method: str, _parts: list[str], body: Any) -> Any:
        if method == "PUT":
            self.role = body["value"]
            return 204, None
        return (200, {"value": self.role}) if self.role else (404, {"error": "Object Not Found"})

    def do_permissions(self, method: str, parts: list[str], _body: Any) -> Any:
        if method == "DELETE":
            self.permissions.pop((parts[0], parts[1]), None)
            return 204, None
        return self.definitions()["permissions"]

    def do_parameters(self, method: str, parts: list[str], _body: Any) -> Any:
        if method == "DELETE":
            self.parameters.pop((parts[1], parts[0], parts[2]), None)
            return 204, None
        return self.definitions()["parameters"]

    def do_policies(self, _method: str, parts: list[str], _body: Any) -> Any:
        known = self.objects["policies"]
        known[:] = [item for item in known if [item["vhost"], item["name"]] != parts]
        return 204, None

    def do_queues(self, _method: str, parts: list[str], _body: Any) -> Any:
        known = self.objects["queues"]
        known[:] = [item for item in known if [item["vhost"], item["name"]] != parts]
        return 204, None

    def do_users(self, method: str, parts: list[str], _body: Any) -> Any:
        if method == "DELETE":
            self.objects["users"] = [user for user in self.objects["users"] if user["name"] != parts[0]]
            return 204, None
        return self.objects.get("users", [])

    def do_connections(self, method: str, parts: list[str], _body: Any) -> Any:
        if method == "DELETE" and not self.stubborn:
            self.connections.pop(parts[1], None)
        return [{}] * self.connections.get(parts[1], 0)

    def do_nodes(self, *_rest: Any) -> Any:
        return [{"name": f"rabbit@{host}", "running": runs} for host, runs in self.running.items()]

    def do_overview(self, *_rest: Any) -> Any:
        return {"rabbitmq_version": "4.0.5", "erlang_version": "27", "queue_totals": {"messages": 12}}

    def do_shovels(self, *_rest: Any) -> Any:
        state = "running" if self.world.link_works else "starting"
        return [{"vhost": v, "name": n, "state": state} for (v, c, n) in self.parameters if c == "shovel"]

    def do_health(self, *_rest: Any) -> Any:
        return (
            (503, {"status": "failed", "reason": "q would lose its quorum"})
            if self.critical
            else {"status": "ok"}
        )

    def depth(self, name: str) -> tuple[int, int]:
        self.world.tick()
        pulled = [
            value["src-queue"]
            for (_v, component, _n), value in self.world.other(self.name).parameters.items()
            if component == "shovel" and self.world.link_works
        ]
        return len(self.queues.get(name, [])) - self.sent.get(name, 0), pulled.count(name)


def patch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every Region talk to the world instead of the network."""

    def send(region: Region, host: str, method: str, path: str, body: Any) -> tuple[int, str]:
        status, found = world.clusters[region.name].answer(host, method, path, body)
        return status, "" if found is None else json.dumps(found)

    def depths(region: Region, queues: list[tuple[str, str]]) -> dict[tuple[str, str], tuple[int, int]]:
        cluster = world.clusters[region.name]
        if not cluster.up:
            raise Silent(f"no AMQP in region {region.name}")
        return {key: cluster.depth(key[1]) for key in queues}

    @contextmanager
    def lock(region: Region, holder: str, wait: float) -> Iterator[None]:
        cluster = world.clusters[region.name]
        if cluster.locked:
            raise MusterError(
                f"another operation on RabbitMQ holds the lock of region {region.name}; {holder} waited"
            )
        cluster.locked = True
        world.locked(region.name)
        try:
            yield
        finally:
            cluster.locked = False

    def listens(host: str, port: int) -> bool:
        up = next(c.up and c.running[host] for c in world.clusters.values() if host in c.running)
        return up or (host, port) in world.listening

    for module in (rabbitmq_member, rabbitmq_promote):
        monkeypatch.setattr(module, "listens", listens)
    monkeypatch.setattr(Region, "lets_in", lambda region: world.clusters[region.name].up)
    monkeypatch.setattr(Region, "_send", send)
    monkeypatch.setattr(Region, "depths", depths)
    monkeypatch.setattr(Region, "lock", lock)
    monkeypatch.setattr(_rabbitmq.ssl, "create_default_context", lambda cafile=None: None)


def options(**more: Any) -> dict[str, Any]:
    return {
        "regions": REGIONS,
        "operator_password": "0p3r4t0r",
        "ca_certificate": "/etc/muster/rabbitmq/ca.crt",
        "declared": DECLARED,
        "passwords": PASSWORDS,
        **more,
    }
