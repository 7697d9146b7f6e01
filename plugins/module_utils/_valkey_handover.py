# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The planned move of Valkey's primary role between regions, losing nothing.

The move itself is the server's own C(FAILOVER): the old primary stops writes, waits until the target holds
every byte, becomes its replica and has it promote itself over that same connection. Nobody in between has to
live for it to end well, and there are never two writers. Around it: the Sentinels of the old region must not
interfere, so they stop watching before; the ones of the new region start after.

What is where is read from the servers each time, so that a run after an interruption finishes what it finds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _valkey
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._phases import Phases
from ansible_collections.muster.platform.plugins.module_utils._valkey import (
    ELIGIBLE,
    NEVER,
    Access,
    Server,
    Survey,
    Watching,
    World,
    in_parallel,
)
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

POLL = 0.01
IN_PROGRESS = ("waiting-for-sync", "failover-in-progress")


@dataclass(frozen=True)
class Limits:
    """Deadlines in seconds, and the lag with which a move may begin."""

    max_lag_bytes: int = 16777216
    catch_up: float = 5.0
    promote: float = 10.0
    rollback: float = 10.0
    reprotect: float = 60.0


def other_region(regions: Mapping[str, Sequence[str]], target: str, operation: str) -> str:
    """The region that is moved away from; there are exactly two."""
    names = sorted(regions)
    if target not in names:
        raise MusterError(f"{target} is no region with Valkey hosts; there are: {', '.join(names)}")
    if len(names) != 2:
        raise MusterError(f"{operation} needs two regions with Valkey hosts, found: {', '.join(names)}")
    return next(name for name in names if name != target)


@dataclass
class Handover:
    """One planned move to C(target)."""

    regions: Mapping[str, Sequence[str]]
    access: Access
    source: str
    target: str
    limits: Limits
    watching: Watching
    phases: Phases = field(default_factory=Phases)

    def look(self, sentinels: bool = True, hosts: Sequence[str] | None = None) -> World:
        return Survey(self.regions, self.access).look(sentinels, hosts)

    def run(self, check: bool = False) -> dict[str, Any]:
        with self.phases("handover: assess"):
            world = self.settled_failover(self.look(), check)
            primary = world.sole_primary()
            if primary.region == self.target:
                return self.finish(world, "resume", check)
            head = self.gates(world)
        if check:
            return {"changed": True, "situation": "start", "target_host": head.host}
        return self.move(world, primary, head)

    # --- refusing ---

    def gates(self, world: World) -> Server:
        """Who will be promoted; every doubt is a refusal before the first change."""
        primary = world.sole_primary()
        for region in (self.source, self.target):
            answered = len(world.answering(region))
            if answered < world.quorum(region):
                raise MusterError(
                    f"refused: only {answered} of {len(self.regions[region])} Sentinels "
                    f"of region {region} answer"
                )
        silent = [s.host for s in world.of(self.target) if s.error]
        if silent:
            raise MusterError(f"refused: {', '.join(silent)} of region {self.target} does not answer")
        head = world.leader(self.target)
        if head is None:
            raise MusterError(f"refused: nobody leads region {self.target}")
        self.streams(primary, head)
        loose = [s.host for s in world.of(self.target) if not s.link_up or s.replid != primary.replid]
        if loose:
            raise MusterError(f"refused: {', '.join(loose)} does not stream the primary's history")
        return head

    def streams(self, primary: Server, head: Server) -> None:
        seen = primary.replicas.get(head.host)
        if head.upstream != primary.host or not head.link_up or not seen or seen.get("state") != "online":
            raise MusterError(f"refused: {head.host} does not stream from the primary {primary.host}")
        if primary.offset is None or head.offset is None:
            raise MusterError(f"refused: how far {head.host} is behind is not known")
        lag = primary.offset - head.offset
        if lag > self.limits.max_lag_bytes:
            raise MusterError(
                f"refused: {head.host} is {lag} bytes behind, at most {self.limits.max_lag_bytes} are allowed"
            )

    # --- what an interruption may have left ---

    def settled_failover(self, world: World, check: bool) -> World:
        """See a failover that is under way to its end, whichever that is."""
        under_way = [s for s in world.servers.values() if s.failover in IN_PROGRESS]
        if not under_way or check:
            return world

        def ended() -> World | None:
            seen = self.look()
            busy = [s for s in seen.servers.values() if s.failover in IN_PROGRESS]
            return None if busy else seen

        with contextlib.suppress(MusterError):
            return wait_until(ended, "the failover that is under way to end", self.limits.promote, 0.1)
        # It waits for a target that does not answer. When that was promoted, aborting would make two.
        seen, old = self.look(), under_way[0]
        # Whichever way it goes: this run may be asked to move back.
        others = [s for s in seen.servers.values() if s.region != old.region]
        if any(s.writable for s in others):
            return seen
        silent = [s.host for s in others if s.error]
        if silent:
            raise MusterError(
                f"{old.host} hands over to region {others[0].region}, "
                f"of which {', '.join(silent)} does not answer: "
                "whether it was promoted is not known; bring it up and run the same command again"
            )
        self.abort(old.host)
        return self.look()

    def abort(self, host: str) -> None:
        """Let the old primary take writes again."""
        with contextlib.suppress(MusterError), self.access.session(host) as client:
            client.execute_command("FAILOVER", "ABORT")
        with self.access.session(host) as client:
            client.execute_command("CLIENT", "UNPAUSE")

    # --- moving ---

    def move(self, world: World, primary: Server, head: Server) -> dict[str, Any]:
        try:
            with self.phases("handover: stop the old region's Sentinels"):
                self.unwatch_source(world)
            with self.phases("handover: catch up"):
                proof = self.catch_up(primary, head)
            with self.phases("handover: promote"):
                self.fail_over(primary, head)
                offset = self.promoted(head)
        except MusterError as error:
            self.roll_back(world, primary, error)
            raise
        result = self.finish(self.look(), "start", False)
        return result | {
            "position_before": str(primary.offset),
            "proof_position": str(proof),
            "position_promoted": str(offset),
            "timeline_before": primary.replid,
        }

    def unwatch_source(self, world: World) -> None:
        """All that answer, which is a majority: the others alone cannot fail over."""
        names = list(self.regions)
        hosts = [host for host in self.regions[self.source] if not world.watches[host].error]
        in_parallel([partial(_valkey.unwatch, self.access, host, names) for host in hosts])

    def catch_up(self, primary: Server, head: Server) -> int:
        """Stop the writes, and see on the target itself that it holds all of them."""
        pause = int((self.limits.catch_up + self.limits.promote) * 1000)
        with self.access.session(primary.host) as client:
            client.execute_command("CLIENT", "PAUSE", pause, "WRITE")
            wanted = int(client.info("replication")["master_repl_offset"])
        with self.access.session(head.host) as client:

            def holds_all() -> bool:
                seen = client.info("replication")
                if seen.get("master_replid") != primary.replid:
                    raise MusterError(f"{head.host} no longer follows the history of {primary.host}")
                missing = wanted - int(seen["slave_repl_offset"])
                if missing > 0:
                    raise MusterError(f"it is {missing} bytes behind")
                return True

            wait_until(holds_all, f"{head.host} to hold all of {primary.host}", self.limits.catch_up, POLL)
        return wanted

    def fail_over(self, primary: Server, head: Server) -> None:
        """The server's own coordinated failover; it gives up by itself when the target lags."""
        timeout = int(self.limits.catch_up * 1000)
        with self.access.session(primary.host) as client:
            client.execute_command("FAILOVER", "TO", head.host, self.access.port, "TIMEOUT", timeout)

            def ended() -> str | None:
                seen = client.info("replication")
                return str(seen["role"]) if seen["master_failover_state"] == "no-failover" else None

            what = f"{head.host} to take over from {primary.host}"
            if wait_until(ended, what, self.limits.promote, POLL) == "master":
                raise MusterError(f"{primary.host} gave the failover up")
            # A failover itself leaves no line in either's file.
            client.config_rewrite()
            # Its clients, whose writes wait or fail, shall find the new primary at once.
            client.execute_command("CLIENT", "UNPAUSE")
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def promoted(self, head: Server) -> int:
        """Where the new primary's history begins, in bytes of the old one's."""
        with self.access.session(head.host) as client:
            seen = client.info("replication")
            if seen["role"] != "master":
                raise MusterError(f"{head.host} is not primary after the failover")
            client.config_rewrite()
        return int(seen["second_repl_offset"]) - 1

    def roll_back(self, world: World, primary: Server, error: MusterError) -> None:
        """Put the old primary back, unless the target was promoted or that is not known."""
        now = self.look(hosts=[*self.regions[self.target], primary.host])
        if any(s.writable for s in now.of(self.target)):
            return
        if now.servers[primary.host].error or any(s.error for s in now.of(self.target)):
            raise MusterError(
                f"{error}; whether region {self.target} was promoted is not known: run the same command again"
            ) from error
        self.abort(primary.host)

        def back() -> bool:
            # Alone: a target that was promoted at this very moment must not be told to be as before.
            return self.look().sole_primary().host == primary.host

        wait_until(back, f"{primary.host} to take writes again", self.limits.rollback, 0.1)
        self.watch(self.source, primary.host, world)
        raise MusterError(f"{error}; {primary.host} is primary as before") from error

    # --- finishing ---

    def watch(self, region: str, primary: str, world: World) -> bool:
        return _valkey.tell_sentinels(self.access, world, region, primary, self.watching)

    def finish(self, world: World, situation: str, check: bool) -> dict[str, Any]:
        """The new region watched and eligible, the old one chained behind it."""
        primary = world.sole_primary()
        changed = situation == "start"
        if check:
            return {"changed": False, "situation": "done"}
        with self.phases("handover: watch the new region"):
            # First the majority that the guard asks: from here on the old region knows its place.
            changed |= self.watch(self.target, primary.host, world)
            changed |= self.tidy(world)
        with self.phases("handover: re-protect"):
            changed |= self.chain(primary)
        if situation == "resume" and not changed:
            situation = "done"
        return {
            "changed": changed,
            "situation": situation,
            "position_after": str(primary.offset),
            "timeline_after": primary.replid,
            "primary": primary.host,
        }

    def tidy(self, world: World) -> bool:
        """Nobody watches the old region; only hosts of the new one may be chosen."""

        def unwatch(host: str) -> bool:
            return _valkey.unwatch(self.access, host, [self.source])

        def prioritise(host: str) -> bool:
            with self.access.session(host) as client:
                wanted = ELIGIBLE if host in self.regions[self.target] else NEVER
                client.config_rewrite()
                return _valkey.set_priority(client, wanted)

        jobs = [partial(unwatch, host) for host, watch in world.watches.items() if not watch.error]
        jobs += [partial(prioritise, host) for host, server in world.servers.items() if not server.error]
        return any(in_parallel(jobs))

    def chain(self, primary: Server) -> bool:
        """Every host that answers follows where it should, and streams."""
        changed = False

        def streams() -> bool:
            nonlocal changed
            seen = self.look(sentinels=False)
            loose = []
            for server in seen.servers.values():
                if server.error or server.host == primary.host:
                    continue
                upstream = _valkey.wanted_upstream(seen, server.host)
                if upstream is not None and server.upstream != upstream:
                    with self.access.session(server.host) as client:
                        _valkey.follow(client, upstream, self.access.port)
                    changed = True
                if server.upstream != upstream or not server.link_up:
                    loose.append(server.host)
            if loose:
                raise MusterError(f"not yet {', '.join(loose)}")
            return True

        what = "all that answer to stream from the new primary"
        wait_until(streams, what, self.limits.reprotect, 0.1)
        return changed
