# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Moving RabbitMQ's primary role between regions, as planned and not.

What a region is stands in its own cluster, as a global parameter: a role and an epoch that
grows with each region that is opened. In a region that is not primary no application has a
permission in any virtual host, so that none can connect.

A planned move:

1. close    the source: its record says that it is no primary and where the role goes, then
            permissions go, then the connections that were opened by them.
2. drain    until nothing is left that the target has not got: no message ready, and, with the
            link taken away, no consumer that could still hold one.
3. open     the target: its record, with the next epoch, then permissions.
4. carry    over what the source's consumers had not handled. It needs no pause: it is in the
            target twice at worst, because the target has had a copy of it since it was written.
5. turn     the link around: the source pulls from the target from now on.

A federation cannot be moved so: its queue in the source goes with the link, and what the target
had not confirmed goes with it.

Until the target's record everything can be put back. From then on a rerun finishes it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _rabbitmq_declared as declared_
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._phases import Phases
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq import Overtaken, Region, Role, now
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq_objects import bring, read, writers
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

CARRY = "muster-carry."
POLL = 0.05
SETTLE = 0.2
Key = tuple[str, str]


@dataclass
class Limits:
    """Deadlines in seconds."""

    link: float = 15.0
    close: float = 10.0
    drain: float = 30.0
    carry: float = 600.0
    reprotect: float = 60.0


def close(region: Region, declared: Mapping[str, Any], deadline: float) -> None:
    """Take from applications what they may, and end their connections; proven, or an error."""
    bring(region, declared, "closed")
    own = {declared["operator_user"], declared["upstream_user"]}
    users = [user["name"] for user in region.request("GET", "/api/users") or [] if user["name"] not in own]

    def closed() -> bool:
        # By user: the list of all connections is seconds old.
        left = [user for user in users if region.get("connections", "username", user)]
        for user in left:
            region.delete("connections", "username", user)
        if left:
            raise MusterError(f"{', '.join(left)} is still connected")
        may = writers(region, declared)
        if may:
            raise MusterError(f"these have permissions: {', '.join(may)}")
        return True

    what = f"region {region.name} to be closed for applications"
    wait_until(closed, what, deadline, POLL)
    # One that was let in just before is known a moment later.
    time.sleep(SETTLE)
    wait_until(closed, what, deadline, POLL)


def backlogs(region: Region, declared: Mapping[str, Any]) -> list[Key]:
    """The queues of a region that hold what the other has not pulled yet."""
    found = [key for key in read(region)["queues"] if key[1].startswith("federation: ")]
    if declared["standby"]["mode"] == "shovel":
        found += declared_.backlog_queues(declared)
    return sorted(set(found))


def links(region: Region) -> dict[tuple[str, str, str], Any]:
    """What pulls into a region, by virtual host, component and name."""
    found = read(region)["parameters"]
    return {
        key: body["value"]
        for key, body in found.items()
        if key[1] in ("shovel", "federation-upstream") and key[2].startswith(declared_.OWN)
    }


def carrying(region: Region) -> list[tuple[str, str, str]]:
    """The links by which a handover to a region carries over."""
    return [key for key in read(region)["parameters"] if key[2].startswith(CARRY)]


def put_links(region: Region, wanted: Mapping[tuple[str, str, str], Any]) -> None:
    items = [
        {"vhost": vhost, "component": component, "name": name, "value": value}
        for (vhost, component, name), value in wanted.items()
    ]
    if items:
        region.request("POST", "/api/definitions", {"parameters": items})


def drop_links(region: Region, keys: Any) -> None:
    for vhost, component, name in keys:
        region.delete("parameters", component, vhost, name)


def rest(depths: Mapping[Key, tuple[int, int]]) -> str:
    """What is left in queues, for a sentence; empty when nothing is."""
    found = [
        f"{name} of {vhost} has {ready} messages and {consumers} consumers"
        for (vhost, name), (ready, consumers) in depths.items()
        if ready or consumers
    ]
    return ", ".join(found)


def wait_for_links(puller: Region, source: Region, declared: Mapping[str, Any], timeout: float) -> None:
    """Until a standby pulls from its primary."""
    if not links(puller):
        return

    def pulls() -> bool:
        depths = source.depths(backlogs(source, declared))
        idle = idle_queues(depths)
        if idle or not depths:
            raise MusterError(f"nobody pulls from {', '.join(idle) or 'it'}")
        return True

    wait_until(pulls, f"region {puller.name} to pull from {source.name}", timeout, POLL)


def idle_queues(depths: Mapping[Key, tuple[int, int]]) -> list[str]:
    """The queues that nobody pulls from."""
    return [f"{name} of {vhost}" for (vhost, name), (_ready, consumers) in depths.items() if not consumers]


@dataclass
class Handover:
    """One planned move from C(source) to C(target)."""

    source: Region
    target: Region
    declared: Mapping[str, Any]
    limits: Limits = field(default_factory=Limits)
    max_backlog: int = 10000
    phases: Phases = field(default_factory=Phases)
    carried: int = 0

    # --- assess ---

    def assess(self) -> tuple[str, Role, Role]:
        """The situation (start, resume, finish, done) and both roles; refuses what cannot be moved."""
        if self.declared["standby"]["mode"] != "shovel":
            raise MusterError(
                "refused: a federation's queue goes with its link, so that nothing proves that region "
                f"{self.target.name} has all: set rabbitmq_standby to shovel and run site.yml first"
            )
        source, target = self.source.role(), self.target.role()
        if source is None or target is None:
            raise MusterError("a region has no role yet: run site.yml first")
        if target.role == "primary" and source.role == "primary":
            raise MusterError(
                f"both regions are primary by their own records ({self.source.name} epoch {source.epoch}, "
                f"{self.target.name} epoch {target.epoch}): the one with the lower epoch needs dr_reprotect"
            )
        if target.role == "primary":
            return ("finish" if self.unfinished(source, target) else "done"), source, target
        if target.moving_to:
            raise MusterError(
                f"a handover to {target.moving_to} is not finished: finish it first, with "
                f"{target.moving_to} as target"
            )
        if source.role == "primary":
            self.refuse_unready()
            return "start", source, target
        if source.moving_to != self.target.name:
            raise MusterError(
                f"no region is primary, and {self.source.name} was not on its way to {self.target.name}: "
                "dr_failover decides which region is to be primary"
            )
        return "resume", source, target

    def unfinished(self, source: Role, target: Role) -> bool:
        """Whether something is left that a finished move would not leave behind."""
        # The record of the source is the last that a move writes.
        if source.moving_to or source.epoch != target.epoch or carrying(self.target):
            return True
        wanted = declared_.wanted(self.declared, self.source.name, "standby")["parameters"]
        if wanted and not links(self.source):
            return True
        return bool(bring(self.target, self.declared, "primary", check=True))

    def refuse_unready(self) -> None:
        """Before any change: the target pulls, and what it still has to pull is little."""
        wanted = declared_.wanted(self.declared, self.target.name, "standby")["parameters"]
        missing = sorted(key[2] for key in set(wanted) - set(links(self.target)))
        if missing:
            raise MusterError(
                f"region {self.target.name} does not pull {', '.join(missing)}: run site.yml first"
            )
        if not wanted:
            return
        # A link that broke makes itself anew after some seconds.
        try:
            wait_for_links(self.target, self.source, self.declared, self.limits.link)
        except MusterError as error:
            raise MusterError(f"refused: {error}") from error
        depths = self.source.depths(backlogs(self.source, self.declared))
        total = sum(ready for ready, _consumers in depths.values())
        if total > self.max_backlog:
            raise MusterError(
                f"refused: {total} messages wait in region {self.source.name} to be pulled, "
                f"rabbitmq_handover_max_backlog allows {self.max_backlog}"
            )

    # --- the move ---

    def run(self, check: bool = False) -> dict[str, Any]:
        with self.phases("assess"):
            situation, source, target = self.assess()
        result = {"situation": situation, "changed": situation != "done"}
        if check or situation == "done":
            return {**result, "epoch": target.epoch, "carried": 0}
        epoch = target.epoch
        if situation != "finish":
            epoch = max(source.epoch, target.epoch) + 1
            self.close_and_drain(source)
            # What a run that stood still believes of the source may be long over.
            self.source.unchanged()
            # From here on it is the primary, and a rerun only goes on from here.
            self.target.set_role(Role("primary", epoch))
        self.finish(epoch)
        return {**result, "epoch": epoch, "carried": self.carried}

    def close_and_drain(self, source: Role) -> None:
        # An earlier run may have taken some of them away.
        wanted = declared_.wanted(self.declared, self.target.name, "standby")["parameters"]
        pulled = {**wanted, **links(self.target)}
        try:
            with self.phases("close"):
                moving = Role("standby", source.epoch, now(), self.target.name)
                self.source.set_role(moving)
                close(self.source, self.declared, self.limits.close)
            with self.phases("drain"):
                self.drain(pulled)
        except Overtaken:
            raise
        except MusterError as error:
            self.roll_back(source, pulled, error)

    def drain(self, pulled: Mapping[tuple[str, str, str], Any]) -> None:
        """Until the target holds all: nothing ready, and nobody who could hold what he has not confirmed."""
        queues = backlogs(self.source, self.declared)
        deadline = time.monotonic() + self.limits.drain
        have = links(self.target)
        put_links(self.target, {key: value for key, value in pulled.items() if key not in have})
        while True:
            left = max(0.1, deadline - time.monotonic())
            self.wait_for(queues, left, consumers=False)
            # What is on its way is not counted as ready: without the link it is there again, or has arrived.
            drop_links(self.target, pulled)
            depths = self.wait_for(queues, left, consumers=True)
            if not rest(depths):
                return
            if time.monotonic() >= deadline:
                raise MusterError(
                    f"region {self.source.name} was not drained in {self.limits.drain:g} s: {rest(depths)}"
                )
            put_links(self.target, pulled)

    def wait_for(self, queues: list[Key], timeout: float, consumers: bool) -> dict[Key, tuple[int, int]]:
        """Until no queue has messages, or no consumers; what they have then."""

        def look() -> dict[Key, tuple[int, int]]:
            depths = self.source.depths(queues)
            busy = {key: found for key, found in depths.items() if found[1 if consumers else 0]}
            if busy:
                raise MusterError(rest(busy))
            return depths or {("", ""): (0, 0)}

        what = "lose its consumers" if consumers else "be drained"
        return wait_until(look, f"region {self.source.name} to {what}", timeout, POLL)

    def roll_back(self, source: Role, pulled: Mapping[tuple[str, str, str], Any], error: MusterError) -> None:
        """Put the old primary back; the target was not opened."""
        with self.phases("roll back"):
            try:
                # Nobody else's primary: two would take writes.
                self.source.unchanged()
                self.target.unchanged()
                put_links(self.target, pulled)
                bring(self.source, self.declared, "primary")
                self.source.set_role(Role("primary", source.epoch))
            except Overtaken as second:
                raise Overtaken(f"{error}; nothing was put back: {second}") from error
            except MusterError as second:
                raise MusterError(
                    f"{error}; and region {self.source.name} could not be put back ({second}): "
                    "no region takes writes until the same command has run again"
                ) from error
        back = " (it was closed by an earlier run)" if source.moving_to else ""
        raise MusterError(f"{error}; region {self.source.name} is primary as before{back}") from error

    def finish(self, epoch: int) -> None:
        """What is left when the target is the primary; each part may be done again."""
        with self.phases("open"):
            bring(self.target, self.declared, "primary")
        with self.phases("carry over"):
            self.carry_over()
        with self.phases("turn the link"):
            bring(self.source, self.declared, "standby")
            self.source.set_role(Role("standby", epoch))
            wait_for_links(self.source, self.target, self.declared, self.limits.reprotect)

    def carry_over(self) -> None:
        """Move what the source's consumers had not handled: gone there only when it is safe here."""
        queues = declared_.followed_queues(self.declared)
        depths = self.source.depths(queues)
        full = [key for key, (ready, _consumers) in depths.items() if ready]
        self.carried = sum(ready for ready, _consumers in depths.values())
        present = carrying(self.target)
        if not full and not present:
            return
        deadline = time.monotonic() + self.limits.carry
        while True:
            wanted = {
                (vhost, "shovel", CARRY + name): declared_.shovel(
                    self.declared, self.target.name, vhost, name, name
                )
                for vhost, name in full
            }
            put_links(self.target, wanted)
            left = max(0.1, deadline - time.monotonic())
            self.wait_for(queues, left, consumers=False)
            drop_links(self.target, {*wanted, *present})
            depths = self.wait_for(queues, left, consumers=True)
            full = [key for key, (ready, _consumers) in depths.items() if ready]
            if not full:
                return
            if time.monotonic() >= deadline:
                raise MusterError(f"not all was carried over in {self.limits.carry:g} s: {rest(depths)}")
