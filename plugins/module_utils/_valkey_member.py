# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One host's Valkey and Sentinel, brought where they belong without moving the primary."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _valkey
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._systemd import systemctl
from ansible_collections.muster.platform.plugins.module_utils._valkey import (
    ELIGIBLE,
    NEVER,
    Access,
    Server,
    Survey,
    Watching,
    World,
)
from ansible_collections.muster.platform.plugins.module_utils._valkey_state import (
    SENTINEL_UNIT,
    SERVER_UNIT,
    Place,
    declared,
    pending,
)
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

POLL = 0.1
TLS_NAMES = ("tls-ca-cert-file", "tls-cert-file", "tls-key-file")
# The server takes these only when it starts.
FIXED = ("immutable", "protected")


@dataclass
class Member:
    """The host that this runs on."""

    host: str
    regions: Mapping[str, Any]
    access: Access
    place: Place
    initial_primary_region: str
    watching: Watching | None  # None where that is not asked about
    timeout: float

    def look(self, sentinels: bool = True) -> World:
        return Survey(self.regions, self.access).look(sentinels)

    # --- what is not as it should be ---

    def plan(self, world: World) -> tuple[str, list[str]]:
        """V(start), V(settle) or V(none), and the settings that wait to be applied."""
        server, watch = world.servers[self.host], world.watches[self.host]
        if self.place.upstream() is None or server.error or watch.error:
            return "start", []
        try:
            waiting = self.pending()
        except MusterError:
            return "start", []  # it went away just now
        if waiting or self.misplaced(world):
            return "settle", waiting
        return "none", []

    def pending(self) -> list[str]:
        with self.access.session(self.host) as client:
            running = client.config_get("*")
        wanted = declared(f"{self.place.config}/server.conf")
        return pending(wanted, running) + [f"file {name}" for name in self.place.not_applied()]

    def misplaced(self, world: World) -> bool:
        """Whether whom it follows, or what its Sentinel watches, is not as the primary's place asks for."""
        primary = world.primary()
        if primary is None:
            return False
        server = world.servers[self.host]
        region = world.home(self.host)
        names = set(world.watches[self.host].monitors)
        expected = {_valkey.monitor_name(region)} if region == primary.region else set()
        ours = {_valkey.monitor_name(name) for name in world.regions}
        settings = world.watches[self.host].settings.get(_valkey.monitor_name(region), {})
        wanted = self.watching.settings(world.quorum(region)) if self.watching and expected else {}
        priority = ELIGIBLE if region == primary.region else NEVER
        return (
            (server.follows and not (server.link_up and server.upstream == self.target(world)))
            or (names & ours) != expected
            or any(settings.get(name) != value for name, value in wanted.items())
            or (server.priority is not None and server.priority != priority)
        )

    def target(self, world: World) -> str | None:
        return _valkey.wanted_upstream(world, self.host)

    # --- starting ---

    def start(self, bootstrap: bool, check: bool) -> bool:
        """Have both services run; the first start decides whom the server follows."""
        if self.fenced():
            return False
        changed = False
        if self.place.upstream() is None:
            if not check:
                self.first_state(bootstrap)
            changed = True
        if not os.path.exists(self.place.sentinel_state) and not check:
            self.place.write(self.place.sentinel_state, "# Kept by Sentinel itself.\n")
        for unit in (SERVER_UNIT, SENTINEL_UNIT):
            if systemctl("is-active", unit, check=False) != "active":
                changed = True
                if not check:
                    self.start_unit(unit)
                    self.place.note_applied(["acl", "tls"] if unit == SERVER_UNIT else ["sentinel"])
        return changed

    def first_state(self, bootstrap: bool) -> None:
        if bootstrap:
            upstream, primary_region = self.first_upstream(), self.initial_primary_region
        else:
            upstream, primary_region = self.joining()
        region = next(name for name, hosts in self.regions.items() if self.host in hosts)
        self.place.write_state(upstream, self.access.port, ELIGIBLE if region == primary_region else NEVER)
        if bootstrap and not upstream:
            self.place.write(self.place.first_start, "")

    def first_upstream(self) -> str:
        """Where nobody has data: the first host of the first primary region is the primary."""
        first = self.regions[self.initial_primary_region][0]
        if self.host == first:
            return ""
        own = next(hosts for hosts in self.regions.values() if self.host in hosts)
        return str(first if own[0] == self.host else own[0])

    def joining(self) -> tuple[str, str]:
        """Whom a host without data follows, and the region that is primary."""
        try:
            world = self.look(sentinels=False)
            primary, upstream = world.sole_primary(), self.target(world)
        except MusterError as error:
            raise MusterError(
                f"{self.host} has no data, and whom it shall follow is not known ({error}): "
                "bring up the hosts of both regions, or include all of them in this run"
            ) from error
        if upstream is None:
            raise MusterError(f"{self.host} takes writes but has no {self.place.server_state}")
        return upstream, primary.region

    def start_unit(self, unit: str) -> None:
        try:
            systemctl("start", unit, timeout=max(60, self.timeout))
        except MusterError as error:
            name = "server" if unit == SERVER_UNIT else "sentinel"
            with (
                contextlib.suppress(OSError),
                open(f"{self.place.reason}-{name}", encoding="utf-8") as stream,
            ):
                said = stream.read().strip()
                if said:
                    raise MusterError(f"{self.host}: {said}") from error
            raise

    def fenced(self) -> bool:
        return os.path.lexists(self.place.marker)

    # --- settling ---

    def settle(self, check: bool) -> dict[str, Any]:
        """Follow whom it should, with the declared settings, watched or not as its region asks for."""
        if self.fenced():
            return {"changed": False, "restart": []}
        if check:
            world = self.look()
            server = world.servers[self.host]
            fresh = server.error is not None
            changed = fresh or self.misplaced(world) or bool(self.pending())
            return {"changed": changed, "restart": []}
        self.answering()
        world = wait_until(self.with_primary, "exactly one host to take writes", self.timeout, POLL)
        changed, restart = self.apply()
        changed |= self.connect(world)
        changed |= self.watch(world)
        self.linked()
        return {"changed": changed, "restart": restart}

    def answering(self) -> Server:
        def ready() -> Server | None:
            server = Survey(self.regions, self.access).server(self.host, "")
            if server.error:
                raise MusterError(server.error)
            return None if server.loading else server

        return wait_until(ready, f"Valkey on {self.host} to answer", self.timeout, POLL)

    def with_primary(self) -> World | None:
        world = self.look()
        world.sole_primary()
        return world

    def connect(self, world: World) -> bool:
        """Whom it follows, and whether its Sentinels may choose it."""
        primary, server = world.sole_primary(), world.servers[self.host]
        region = world.home(self.host)
        changed = False
        with self.access.session(self.host) as client:
            upstream = self.target(world)
            if upstream is not None and server.upstream != upstream:
                _valkey.follow(client, upstream, self.access.port)
                changed = True
            priority = ELIGIBLE if region == primary.region else NEVER
            changed |= _valkey.set_priority(client, priority)
        return changed

    def watch(self, world: World) -> bool:
        primary, region = world.sole_primary(), world.home(self.host)
        watched = region == primary.region
        others = [name for name in world.regions if name != region or not watched]

        def done() -> list[bool]:
            changed = _valkey.unwatch(self.access, self.host, others)
            if watched:
                quorum, how = world.quorum(region), self.watching or Watching()
                changed |= _valkey.watch_primary(self.access, self.host, region, primary.host, quorum, how)
            return [changed]

        return wait_until(done, f"the Sentinel on {self.host} to answer", self.timeout, POLL)[0]

    def linked(self) -> None:
        def up() -> bool:
            server = Survey(self.regions, self.access).server(self.host, "")
            if server.error:
                raise MusterError(server.error)
            return server.writable or server.link_up

        wait_until(up, f"{self.host} to stream", self.timeout, POLL)

    def apply(self) -> tuple[bool, list[str]]:
        """Apply what is declared to the running server; also what only a restart can apply."""
        changed, restart, done = False, [], []
        wanted = declared(f"{self.place.config}/server.conf")
        with self.access.session(self.host) as client:
            before = client.config_get("*")
            for name in pending(wanted, before):
                if not self.set(client, name, wanted[name]):
                    restart.append(name)
            stale = self.place.not_applied()
            if "acl" in stale:
                client.execute_command("ACL", "LOAD")
                done.append("acl")
            if "tls" in stale:
                # The paths stay the same; setting them makes the server read the files again.
                pairs = [word for name in TLS_NAMES for word in (name, wanted.get(name, ""))]
                client.execute_command("CONFIG", "SET", *pairs)
                done.append("tls")
            changed = bool(done) or client.config_get("*") != before
        if "sentinel" in stale:
            restart.append("sentinel")
        self.place.note_applied(done)
        return changed, restart

    @staticmethod
    def set(client: Any, name: str, value: str) -> bool:
        """Whether the running server took it."""
        import redis

        try:
            client.config_set(name, value)
        except redis.ResponseError as error:
            if any(word in str(error) for word in FIXED):
                return False
            raise MusterError(f"valkey_settings: {name} cannot be {value!r}: {error}") from error
        return True

    # --- restarting ---

    def restart(self, names: list[str], roles: list[str], check: bool) -> bool:
        """Restart what must be, while all others of the region are well."""
        if not names or self.answering().role not in roles:
            return False
        if check:
            return True
        self.gate()
        if "sentinel" in names:
            systemctl("restart", SENTINEL_UNIT)
            wait_until(self.watcher, f"the Sentinel on {self.host} to answer", self.timeout, POLL)
            self.place.note_applied(["sentinel"])
        if [name for name in names if name != "sentinel"]:
            systemctl("restart", SERVER_UNIT, timeout=max(60, self.timeout))
            self.answering()
            self.linked()
            self.place.note_applied(["acl", "tls"])
        return True

    def watcher(self) -> bool:
        watch = Survey(self.regions, self.access).watch(self.host, "")
        if watch.error:
            raise MusterError(watch.error)
        return True

    def gate(self) -> None:
        """Never two of a region at once: that would take the quorum away."""
        world = self.look()
        for host in self.regions[world.home(self.host)]:
            server, watch = world.servers[host], world.watches[host]
            if host == self.host:
                continue
            if server.error or watch.error:
                raise MusterError(f"{self.host} is not restarted: {server.error or watch.error}")
            if server.follows and not server.link_up:
                raise MusterError(f"{self.host} is not restarted: {host} does not stream")
