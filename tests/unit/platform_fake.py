# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Two regions whose Patronis follow their etcds: what the modules that move a region talk to.

The fixture is in conftest.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.muster.platform.plugins.module_utils._handover import NOTE
from etcd_fake import Cluster
from patroni_fake import REGIONS, Answer, Instance, PatroniApi, status

STANDBY = {"host": "south-1,south-2", "port": 5432}


class Platform:
    """Each Patroni does what its region's etcd says, after a moment, as the real one does."""

    def __init__(self, pki: Path, patroni: PatroniApi) -> None:
        self.patroni = patroni
        self.etcd = {"north": Cluster(pki), "south": Cluster(pki)}
        self.timeline = 1
        self.acts_at: dict[str, float] = {}
        self.delay = 0.05
        self.frozen: set[str] = set()
        self.statements: list[str] = []
        self.set_config("north", {"ttl": 20})
        self.set_config("south", {"ttl": 20, "standby_cluster": {"host": "north-1,north-2", "port": 5432}})
        for region in REGIONS:
            self.etcd[region].put(f"/service/muster-{region}/leader", f"{region}-1")
        for name, instance in patroni.hosts.items():
            instance.says["patroni"] = {
                "version": "4.0.7",
                "scope": f"muster-{instance.region}",
                "name": name,
            }
        usual = patroni.answer

        def answer(instance: Instance, method: str, path: str, body: Any) -> Answer:
            self.act(instance)
            return usual(instance, method, path, body)

        patroni.answer = answer  # type: ignore[method-assign]

    def set_config(self, region: str, config: dict[str, Any]) -> None:
        self.etcd[region].put(f"/service/muster-{region}/config", json.dumps(config))

    def stored(self, region: str, name: str) -> str | None:
        key = name if name == NOTE else f"/service/muster-{region}/{name}"
        found = self.etcd[region].keys.get(key)
        return base64.b64decode(found["value"]).decode() if found else None

    def standby(self, region: str) -> bool:
        return '"standby_cluster"' in (self.stored(region, "config") or "")

    def act(self, instance: Instance) -> None:
        """Demote or promote a region's leader once its configuration has said so for a moment."""
        name, says = instance.name, instance.says
        standby = self.standby(instance.region)
        self.patroni.configs[instance.region] = {"standby_cluster": STANDBY} if standby else {}
        leads = self.stored(instance.region, "leader") == name
        wanted = ("standby_leader" if standby else "primary") if leads else "replica"
        if says["role"] == wanted or name in self.frozen:
            says["timeline"] = says["timeline"] if says["role"] == "primary" else self.timeline
            self.acts_at.pop(name, None)
            return
        if time.monotonic() < self.acts_at.setdefault(name, time.monotonic() + self.delay):
            return
        if wanted == "primary":
            self.timeline += 1
        says.clear()
        says.update(status(wanted, self.timeline, patroni={"scope": f"muster-{instance.region}"}))

    def connect(self, **given: Any) -> Connection:
        instance = self.patroni[given["host"]]
        if not instance.up:
            raise psycopg2.OperationalError("connection refused")
        return Connection(self, instance)

    def primaries(self) -> list[str]:
        for instance in self.patroni.hosts.values():
            self.act(instance)
        return [
            name
            for name, instance in self.patroni.hosts.items()
            if instance.up and instance.says["role"] == "primary"
        ]


class Connection:
    """A login to one host; knows the two statements of the handover."""

    def __init__(self, platform: Platform, instance: Instance) -> None:
        self.platform = platform
        self.instance = instance
        self.description: Any = None
        self.autocommit = False

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_arguments: Any) -> None:
        pass

    def cursor(self) -> Connection:
        return self

    def close(self) -> None:
        pass

    def execute(self, statement: str) -> None:
        self.platform.statements.append(f"{self.instance.name} {statement[:10]}")
        self.description = ("some",) if statement.startswith("SELECT") else None

    def fetchone(self) -> tuple[Any, ...]:
        self.platform.act(self.instance)
        primary = self.instance.says["role"] == "primary"
        return (not primary, 0x5000000, 0x4FFFF00, self.instance.says["timeline"])


@pytest.fixture
def platform(pki: Path, patroni: PatroniApi, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    made = Platform(pki, patroni)
    monkeypatch.setattr(psycopg2, "connect", made.connect)
    yield made
    for cluster in made.etcd.values():
        cluster.close()
