# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The unplanned move: make a region's copy of Valkey writable when the other side is fenced.

The region's Sentinels are told first. From then on a majority of them says that the region is primary, which
is what the guard of the other region asks when its hosts come back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _valkey
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._failover import check_fence
from ansible_collections.muster.platform.plugins.module_utils._phases import Phases
from ansible_collections.muster.platform.plugins.module_utils._valkey import (
    ELIGIBLE,
    Access,
    Server,
    Survey,
    Watching,
    World,
    in_parallel,
)
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

POLL = 0.02
PATIENT = 3.0  # seconds for a host, once the region takes writes


@dataclass
class Promotion:
    """One unplanned move to C(target); C(source) is the fenced region."""

    regions: Mapping[str, Sequence[str]]
    access: Access
    source: str
    target: str
    fence: Mapping[str, Any]
    watching: Watching
    timeout: float = 30.0
    phases: Phases = field(default_factory=Phases)

    def look(self) -> World:
        return Survey(self.regions, self.access).look()

    def run(self, check: bool = False) -> dict[str, Any]:
        with self.phases("promote: assess"):
            world = self.look()
            self.refuse_writers(world)
            own = [server for server in world.of(self.target) if server.writable]
            if not own:
                check_fence(self.fence, self.source, datetime.now(UTC))
                chosen = self.choose(world)
        if own:
            return self.finish(world, own[0], "resume", check)
        if check:
            return {"changed": True, "situation": "start", "primary": chosen.host}
        with self.phases("promote: tell the Sentinels"):
            self.watch(world, chosen.host)
        with self.phases("promote: open"):
            offset = self.open(chosen.host)
        result = self.finish(world, chosen, "start", False)
        return result | {"fork_position": str(offset), "timeline_before": chosen.replid}

    # --- refusing ---

    def refuse_writers(self, world: World) -> None:
        """Whoever takes writes now is no copy to promote beside."""
        others = [server.host for server in world.of(self.source) if server.writable]
        if others:
            raise MusterError(f"refused: {', '.join(others)} takes writes, whatever the fence says")
        own = [server.host for server in world.of(self.target) if server.writable]
        if len(own) > 1:
            raise MusterError(f"refused: {', '.join(own)} take writes both")

    def choose(self, world: World) -> Server:
        """The host with the most data, of those that answer; a majority must."""
        answering = [server for server in world.of(self.target) if server.error is None]
        if len(answering) < world.quorum(self.target):
            said = "; ".join(server.error or "" for server in world.of(self.target) if server.error)
            raise MusterError(
                f"refused: only {len(answering)} of {len(self.regions[self.target])} hosts of region "
                f"{self.target} answer ({said})"
            )
        whole = [s for s in answering if not s.copying and not s.loading and s.offset is not None]
        whole = [s for s in whole if s.replid and s.replid.strip("0")]
        if not whole:
            raise MusterError(f"refused: no host of region {self.target} holds a whole copy")
        histories = {server.replid for server in whole}
        if len(histories) > 1:
            said = ", ".join(f"{server.host} at {server.replid}" for server in whole)
            raise MusterError(
                f"refused: the hosts of region {self.target} follow different histories, so that which has "
                f"more is not known ({said})"
            )
        head = world.leader(self.target)
        return max(whole, key=lambda server: (server.offset or 0, head is not None and server is head))

    # --- changing ---

    def watch(self, world: World, primary: str) -> bool:
        return _valkey.tell_sentinels(self.access, world, self.target, primary, self.watching)

    def open(self, host: str) -> int:
        """Take writes; how much it held then."""
        with self.access.session(host) as client:
            offset = int(client.info("replication")["slave_repl_offset"])
            client.execute_command("REPLICAOF", "NO", "ONE")

            def takes_writes() -> bool:
                return str(client.info("replication")["role"]) == "master"

            wait_until(takes_writes, f"{host} to take writes", self.timeout, POLL)
            client.config_rewrite()
        return offset

    def finish(self, world: World, primary: Server, situation: str, check: bool) -> dict[str, Any]:
        """All of the region behind the primary, which its Sentinels watch."""
        if check:
            return {"changed": False, "situation": situation}
        changed = situation == "start"
        with self.phases("promote: the rest of the region"):
            # Again, with more time: one that was slow before must not stay without.
            self.access = replace(self.access, timeout=PATIENT)
            changed |= self.watch(world, primary.host)
            hosts = [server.host for server in world.of(self.target) if server.error is None]
            changed |= any(in_parallel([partial(self.join, host, primary.host) for host in hosts]))
            after = Survey(self.regions, self.access).server(primary.host, self.target)
        if not after.writable:
            raise MusterError(f"{primary.host} does not take writes: {after.error or after.role}")
        return {
            "changed": changed,
            "situation": situation,
            "primary": primary.host,
            "timeline_after": after.replid,
            "position_after": str(after.offset),
            "silent": [server.host for server in world.of(self.target) if server.error],
        }

    def join(self, host: str, primary: str) -> bool:
        with self.access.session(host) as client:
            changed = False
            if host != primary and client.info("replication").get("master_host") != primary:
                _valkey.follow(client, primary, self.access.port)
                changed = True
            return _valkey.set_priority(client, ELIGIBLE) or changed
