# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Valkey servers and Sentinels of two regions, behind python3-redis's interface: roles, offsets, links, failures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

REGIONS = {"north": ["north-1", "north-2", "north-3"], "south": ["south-1", "south-2", "south-3"]}
PARAMS = {
    "regions": REGIONS,
    "host": "south-1",
    "operator_password": "operator-password",
    "sentinel_password": "sentinel-password",
    "ca_certificate": "/ca.crt",
    "certificate": "/server.crt",
    "private_key": "/server.key",
}


class RedisError(Exception):
    pass


class ResponseError(RedisError):
    pass


class Unreached(RedisError):
    pass


@dataclass
class Node:
    """One host's server and Sentinel."""

    host: str
    upstream: str | None = None
    offset: int = 1000
    replid: str = "a" * 40
    second: int = -1
    link: str = "up"
    copying: int = 0
    priority: int = 100
    failover: str = "no-failover"
    down: bool = False
    sentinel_down: bool = False
    monitors: dict[str, dict[str, Any]] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)
    persistence: dict[str, Any] = field(default_factory=dict)


class Platform:
    """What all of them do when they are asked."""

    def __init__(self) -> None:
        self.nodes = {host: Node(host) for hosts in REGIONS.values() for host in hosts}
        self.calls: list[str] = []
        self.on_call: Callable[[str, tuple[Any, ...]], None] = lambda _host, _words: None
        self.lead("north-1")

    def lead(self, primary: str) -> None:
        """A whole platform with this primary."""
        region = primary.split("-", maxsplit=1)[0]
        other = "south" if region == "north" else "north"
        for node in self.nodes.values():
            node.upstream = None if node.host == primary else primary
            if node.host.startswith(other) and node.host != f"{other}-1":
                node.upstream = f"{other}-1"
            home = node.host.startswith(region)
            node.priority = 100 if home else 0
            node.monitors = {f"muster-{region}": {"ip": primary}} if home else {}

    def primaries(self) -> list[str]:
        return [n.host for n in self.nodes.values() if n.upstream is None and not n.down]

    def client(self, host: str, sentinel: bool) -> Client:
        return Client(self, self.nodes[host], sentinel)


class Client:
    """As much of the client as Muster uses."""

    def __init__(self, platform: Platform, node: Node, sentinel: bool) -> None:
        self.platform, self.node, self.sentinel = platform, node, sentinel

    def close(self) -> None:
        pass

    def _reach(self, *words: Any) -> None:
        self.platform.calls.append(" ".join([self.node.host, *map(str, words)]))
        self.platform.on_call(self.node.host, words)
        if self.node.sentinel_down if self.sentinel else self.node.down:
            raise Unreached("Connection refused")

    def info(self, *sections: str) -> dict[str, Any]:
        self._reach("INFO", *sections)
        found: dict[str, Any] = {}
        if "server" in sections:
            found |= {"valkey_version": "8.1.1"}
        if "persistence" in sections:
            found |= {
                "loading": 0,
                "aof_enabled": 1,
                "aof_last_write_status": "ok",
                "rdb_last_bgsave_status": "ok",
            } | self.node.persistence
        return found | (self._replication() if "replication" in sections else {})

    def _replication(self) -> dict[str, Any]:
        node = self.node
        found: dict[str, Any] = {
            "role": "slave" if node.upstream else "master",
            "master_replid": node.replid,
            "second_repl_offset": node.second,
            "master_failover_state": node.failover,
            "master_repl_offset": node.offset,
            "connected_slaves": 0,
        }
        below = [n for n in self.platform.nodes.values() if n.upstream == node.host and not n.down]
        for index, other in enumerate(below):
            found[f"slave{index}"] = {
                "ip": other.host,
                "port": 6379,
                "state": "online",
                "offset": other.offset,
            }
            found["connected_slaves"] = index + 1
        if node.upstream:
            alive = node.link == "up" and not self.platform.nodes[node.upstream].down
            found |= {
                "master_host": node.upstream,
                "master_link_status": "up" if alive else "down",
                "master_sync_in_progress": node.copying,
                "slave_repl_offset": node.offset,
                "slave_priority": node.priority,
                "master_last_io_seconds_ago": 0 if alive else -1,
            }
        return found

    def sentinel_masters(self) -> dict[str, dict[str, Any]]:
        self._reach("SENTINEL", "MASTERS")
        return {name: dict(state) for name, state in self.node.monitors.items()}

    def config_get(self, name: str) -> dict[str, str]:
        self._reach("CONFIG", "GET", name)
        if name == "replica-priority":
            return {name: str(self.node.priority)}
        return dict(self.node.config)

    def config_set(self, name: str, value: Any) -> None:
        self._reach("CONFIG", "SET", name)
        if name == "replica-priority":
            self.node.priority = int(value)
        elif name == "databases":
            raise ResponseError("CONFIG SET failed - can't set immutable config")
        elif value == "nonsense":
            raise ResponseError("argument couldn't be parsed")
        else:
            self.node.config[name] = str(value)

    def config_rewrite(self) -> None:
        self._reach("CONFIG", "REWRITE")

    def execute_command(self, *words: Any) -> Any:
        self._reach(*words)
        node, first = self.node, str(words[0])
        if first == "REPLICAOF":
            self._replicaof(str(words[1]))
        elif words[:2] == ("SENTINEL", "MONITOR"):
            node.monitors[str(words[2])] = {"ip": str(words[3]), "quorum": str(words[5])}
        elif words[:2] == ("SENTINEL", "REMOVE"):
            del node.monitors[str(words[2])]
        elif words[:2] == ("SENTINEL", "SET"):
            node.monitors[str(words[2])] |= dict(
                zip(map(str, words[3::2]), map(str, words[4::2]), strict=True)
            )
        elif words[:2] == ("FAILOVER", "TO"):
            self._failover(self.platform.nodes[str(words[2])])
        elif words[:2] == ("FAILOVER", "ABORT"):
            if node.failover == "no-failover":
                raise ResponseError("No failover in progress.")
            node.failover, node.upstream = "no-failover", None
        return None

    def _replicaof(self, host: str) -> None:
        if host == "NO":
            self.node.upstream, self.node.second = None, self.node.offset + 1
            self.node.replid = "c" * 40
        else:
            self.node.upstream = host
            self.node.replid = self.platform.nodes[host].replid

    def _failover(self, target: Node) -> None:
        """The servers' own: both change, or neither."""
        target.upstream, target.second = None, target.offset + 1
        self.node.upstream = target.host
        for node in self.platform.nodes.values():
            node.replid = "b" * 40


@pytest.fixture
def valkeys(monkeypatch: pytest.MonkeyPatch) -> Platform:
    """Both regions, north primary, reached by what the modules import as redis."""
    platform = Platform()
    library(monkeypatch, platform)
    return platform


def library(monkeypatch: pytest.MonkeyPatch, platform: Platform) -> None:
    def connect(host: str, port: int, **_more: Any) -> Client:
        return platform.client(host, port == 26379)

    redis = ModuleType("redis")
    vars(redis).update(Redis=connect, RedisError=RedisError, ResponseError=ResponseError)
    for name, words in {"backoff": ("NoBackoff",), "retry": ("Retry",)}.items():
        part = ModuleType(f"redis.{name}")
        vars(part).update({word: lambda *_arguments: None for word in words})
        monkeypatch.setitem(sys.modules, f"redis.{name}", part)
    monkeypatch.setitem(sys.modules, "redis", redis)
