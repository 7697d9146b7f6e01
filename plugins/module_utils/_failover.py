# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The unplanned move: make a region's copy of PostgreSQL writable when the other side is fenced.

Run on the host that leads the target region. The change itself is one transaction in
that region's etcd, as in the planned move; Patroni then promotes within its loop. A
Patroni that is stuck asking dead hosts whether it must rewind would notice seconds
later: its process is replaced, which PostgreSQL does not feel.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._handover import (
    CHANGE,
    Dcs,
    LockLost,
    Recovery,
    Sql,
    Truth,
)
from ansible_collections.muster.platform.plugins.module_utils._patroni import Member, Survey, format_lsn
from ansible_collections.muster.platform.plugins.module_utils._phases import Phases
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

POLL = 0.03
# How long Patroni may take to begin the promotion. One that is free begins at once.
PATIENCE = 1.0
# How long the target region may take to have a leader again: the lease of one that died (Patroni's ttl is
# 20 s), and the election after it.
ELECTION = 45.0
# How old a fence's proof may be, in seconds: what was off five minutes ago may be on.
FRESH = 300.0


def check_fence(fence: Mapping[str, Any], source: str, now: datetime) -> None:
    """Refuse unless another region is proven, just now, to take no writes."""
    if fence.get("proven") is not True:
        raise MusterError(f"refused: region {source} is not proven to be fenced")
    if fence.get("region") != source:
        raise MusterError(f"refused: the fence is of region {fence.get('region')}, not of {source}")
    try:
        at = datetime.fromisoformat(str(fence["proven_at"]))
        age = (now - at).total_seconds()
    except (KeyError, TypeError, ValueError) as error:
        raise MusterError("refused: the fence does not say when it was proven (proven_at, UTC)") from error
    if age > FRESH:
        raise MusterError(f"refused: the fence of {source} was proven {age:.0f} s ago; run dr_failover again")
    if age < -FRESH:
        raise MusterError(
            f"refused: the fence of {source} was proven {-age:.0f} s in the future by this host's clock, "
            "so its age is not known"
        )


def describe(member: Member) -> str:
    """What a host said of itself, for a person."""
    if member.error:
        return f"{member.host}: {member.error}"
    words = [member.role, member.state, member.replication_state]
    at = f"timeline {member.timeline} at {format_lsn(max(member.received or 0, member.lsn or 0))}"
    return f"{member.host}: {', '.join(word for word in (*words, at) if word)}"


@dataclass
class Promotion:
    """One unplanned move to C(target); C(source) is the fenced region."""

    survey: Survey
    sql: Sql
    dcs: Dcs
    source: str
    target: str
    host: str  # where this runs
    fence: Mapping[str, Any]
    timeout: float = 30.0
    still_held: Callable[[], None] = lambda: None
    replace_patroni: Callable[[], None] = lambda: None
    phases: Phases = field(default_factory=Phases)
    replaced: bool = False

    # --- gates of its own ---

    def refuse_writers(self) -> None:
        """Whoever takes writes now is no copy to promote beside."""
        writers = [m for m in self.survey.members() if m.writable]
        others = [m.host for m in writers if m.region != self.target]
        if others:
            raise MusterError(f"refused: {', '.join(others)} takes writes, whatever the fence says")

    def leader(self, truth: Truth) -> Member:
        """Who is promoted: the region's leader, if nobody in the region has more WAL."""
        members = self.survey.region(self.target).members
        if truth.leader is None:
            said = "; ".join(describe(member) for member in members.values())
            raise MusterError(f"nobody leads region {self.target} at the moment ({said})")
        found = members.get(truth.leader)
        if found is None or found.error or found.role != "standby_leader":
            said = found.error or found.role if found else "unknown"
            raise MusterError(
                f"{truth.leader} leads region {self.target} by etcd's account, but it is {said}"
            )
        ahead = [
            member.host
            for member in members.values()
            if (member.received or member.lsn or 0) > max(found.received or 0, found.lsn or 0)
        ]
        if ahead:
            raise MusterError(
                f"{', '.join(ahead)} has more WAL than {found.host}, which leads region {self.target}"
            )
        return found

    # --- the whole ---

    def run(self, check: bool = False) -> dict[str, Any]:
        """Promote, or finish what an earlier run began."""
        truth = self.dcs.read(self.target)
        if not truth.standby:
            return self._finish("resume", check)
        check_fence(self.fence, self.source, datetime.now(UTC))
        self.refuse_writers()
        leader = wait_until(
            lambda: self.leader(self.dcs.read(self.target)),
            f"region {self.target} to have a leader",
            ELECTION,
            0.3,
        )
        before = self.sql.recovery(leader.host)
        if check:
            return {"changed": True, "situation": "start", "leader": leader.host}
        with self.phases("promote: open"):
            self.open(leader.host)
        result = self._finish("start", False)
        return result | {"fork_position": format_lsn(before.position), "timeline_before": before.timeline}

    def open(self, leader: str) -> None:
        """Take the region's standby configuration away, while that host leads it."""

        def attempt() -> bool:
            try:
                self.still_held()
            except MusterError as error:
                raise LockLost(str(error)) from error
            seen = self.dcs.read(self.target)
            if not seen.standby:
                return True
            if seen.leader != leader:
                raise MusterError(f"{leader} no longer leads region {self.target}")
            return self.dcs.change(self.target, seen, None, None, leader)

        wait_until(attempt, f"region {self.target} to accept being primary", CHANGE, 0.1)

    def stuck(self) -> bool:
        """Whether this host's Patroni has not gone round its loop since the region was opened."""
        member = self.survey.member(self.target, self.host)
        return member.loop_at is None or time.time() - member.loop_at > 2 * PATIENCE

    def _finish(self, situation: str, check: bool) -> dict[str, Any]:
        if check:
            return {"changed": False, "situation": situation}
        with self.phases("promote: take writes"):
            opened = self.opened()
        return {
            "changed": situation == "start" or self.replaced,
            "situation": situation,
            "timeline_after": opened.timeline,
            "position_after": format_lsn(opened.position),
            "patroni_replaced": self.replaced,
        }

    def opened(self) -> Recovery:
        """Wait until the region takes writes; help a Patroni that is stuck."""
        began = time.monotonic()

        def takes_writes() -> Recovery | None:
            leader = self.dcs.read(self.target).leader
            if leader is None:
                return None
            found = self.sql.recovery(leader)
            if not found.in_recovery:
                return found
            if (
                leader == self.host
                and not self.replaced
                and time.monotonic() - began > PATIENCE
                and self.stuck()
            ):
                self.replaced = True
                self.replace_patroni()
            return None

        return wait_until(takes_writes, f"region {self.target} to take writes", self.timeout, POLL)
