# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The planned move of PostgreSQL from one region to the other, losing nothing.

The order is the safety: the source's configuration makes it a standby; only when
it is seen in recovery, and the target has replayed all that it holds, is the
target's configuration opened. Whatever interrupts this leaves a state that tells
what remains to be done, so a second run finishes or rolls back, and at no point
may two regions take writes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._patroni import (
    Member,
    Region,
    Survey,
    format_lsn,
)
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

POLL = 0.03
JOURNAL = "/muster/handover/postgresql"


class Sql(Protocol):
    """What the handover asks of PostgreSQL itself, by host."""

    def checkpoint(self, host: str) -> None: ...

    def recovery(self, host: str) -> Recovery: ...


class Journal(Protocol):
    """Where the handover notes who was primary before it touched anything."""

    def read(self) -> dict[str, Any] | None: ...

    def write(self, entry: Mapping[str, Any]) -> None: ...

    def clear(self) -> None: ...


@dataclass(frozen=True)
class Recovery:
    """What a server says of its own recovery."""

    in_recovery: bool
    position: int  # written on a primary, replayed on a standby
    checkpoint: int  # its latest checkpoint record
    timeline: int


@dataclass
class Limits:
    """Deadlines in seconds, and the lag in bytes at which a switch may begin."""

    max_lag_bytes: int = 16 * 1024 * 1024
    demote: float = 30.0
    catch_up: float = 15.0
    promote: float = 30.0
    rollback: float = 60.0
    reprotect: float = 30.0


@dataclass
class Handover:
    """One planned move from C(source) to C(target)."""

    survey: Survey
    sql: Sql
    journal: Journal
    source: str
    target: str
    standby_cluster: Mapping[str, Any]  # what makes the source a standby of the target
    limits: Limits = field(default_factory=Limits)
    phases: list[dict[str, Any]] = field(default_factory=list)
    still_held: Callable[[], None] = lambda: None

    # --- reading -------------------------------------------------------------

    def look(self) -> tuple[Region, Region]:
        found = self.survey.all()
        return found[self.source], found[self.target]

    def situation(self, source: Region, target: Region) -> str:
        """C(done), C(start) or C(resume); anything else is refused with its reason."""
        for region in (source, target):
            if region.declared_standby is None:
                raise MusterError(
                    f"refused: the configuration of region {region.name} is not known ({region.config_error})"
                )
        if not source.declared_standby and not target.declared_standby:
            raise MusterError(
                f"refused: both {source.name} and {target.name} are configured as primary; "
                "decide by hand which one holds the truth, then make the other a standby"
            )
        if source.declared_standby and not target.declared_standby:
            return "done"
        return "resume" if source.declared_standby else "start"

    def assess(self, source: Region, target: Region) -> Member:
        """Refuse what cannot be switched without loss; returns the primary."""
        writers = [m.host for region in (source, target) for m in region.members.values() if m.writable]
        primary, leader = source.primary, target.standby_leader
        if len(writers) != 1 or primary is None:
            raise MusterError(f"refused: {source.name} must hold the only primary, found {writers or 'none'}")
        if leader is None:
            raise MusterError(f"refused: region {target.name} has no standby leader to promote")
        if leader.system_identifier != primary.system_identifier:
            raise MusterError(f"refused: {leader.host} is not a copy of {primary.host} (system identifiers differ)")
        if leader.timeline != primary.timeline:
            raise MusterError(
                f"refused: timelines differ ({primary.host} {primary.timeline}, {leader.host} {leader.timeline})"
            )
        if leader.replication_state != "streaming":
            raise MusterError(f"refused: {leader.host} is not streaming, so its lag is not known")
        if primary.lsn is None or leader.lsn is None:
            raise MusterError(f"refused: the lag of {leader.host} is not known")
        lag = primary.lsn - leader.lsn
        if lag > self.limits.max_lag_bytes:
            raise MusterError(
                f"refused: {leader.host} is {lag} bytes behind, more than the {self.limits.max_lag_bytes} allowed"
            )
        return primary

    # --- steps ---------------------------------------------------------------

    def _phase(self, name: str, step: Callable[[], Any]) -> Any:
        started, clock = datetime.now(UTC), time.monotonic()
        try:
            return step()
        finally:
            self.phases.append(
                {
                    "name": name,
                    "started_at": started.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                    "seconds": round(time.monotonic() - clock, 3),
                }
            )

    def patch(self, region: str, change: Mapping[str, Any], timeout: float, first: str | None = None) -> None:
        """Change a region's configuration through whichever member answers, and see it changed."""
        wanted = bool(change["standby_cluster"])
        hosts = sorted(self.survey.regions[region], key=lambda host: host != first)

        def attempt() -> bool:
            reasons = []
            for host in hosts:
                try:
                    self.survey.clients[host].patch_config(change)
                    return True
                except MusterError as error:
                    reasons.append(str(error))
                    try:
                        config = self.survey.clients[host].get("/config")
                    except MusterError:
                        continue
                    if bool(config.get("standby_cluster")) == wanted:
                        return True
            raise MusterError("; ".join(reasons))

        what = f"region {region} to accept being {'a standby' if wanted else 'primary'}"
        wait_until(attempt, what, timeout, 0.2)

    def demote(self, primary: str) -> None:
        """Make the source a standby and wait until its old primary is seen in recovery."""
        self.patch(self.source, {"standby_cluster": dict(self.standby_cluster)}, 5.0, first=primary)
        wait_until(lambda: self.in_recovery(primary), f"{primary} to be in recovery", self.limits.demote, POLL)

    def in_recovery(self, host: str) -> Recovery | None:
        member = self.survey.member(self.source, host)
        if member.error or member.writable or member.state not in ("running", "streaming"):
            return None
        found = self.sql.recovery(host)
        return found if found.in_recovery else None

    def caught_up(self, old_primaries: list[str], leader: str) -> Recovery | None:
        """The target's position once it holds all that the source's old primary does, else None."""
        held = self.sql.recovery(leader)
        for host in old_primaries:
            old = self.sql.recovery(host)
            if not old.in_recovery:
                raise MusterError(f"{host} takes writes again")
            if held.position < old.position or held.position < old.checkpoint:
                raise MusterError(
                    f"{leader} has replayed {format_lsn(held.position)}, {host} holds {format_lsn(old.position)}"
                )
        return held

    def promote(self, leader: str) -> Recovery:
        """Open the target for writes. From its first request on there is no way back."""
        self.patch(self.target, {"standby_cluster": None}, self.limits.promote, first=leader)

        def opened() -> Recovery | None:
            member = self.survey.member(self.target, leader)
            if not member.writable:
                if member.error:
                    raise MusterError(member.error)
                return None
            found = self.sql.recovery(leader)
            return None if found.in_recovery else found

        return wait_until(opened, f"{leader} to take writes", self.limits.promote, POLL)

    def roll_back(self, reason: MusterError) -> None:
        """Before the promotion: the old primary is put back. Always raises."""
        try:
            target = self.survey.region(self.target)
            if target.declared_standby is not True or target.primary is not None:
                raise MusterError(f"region {self.target} is not proven to be a standby")
            self.patch(self.source, {"standby_cluster": None}, self.limits.rollback)
            wait_until(
                lambda: self.survey.region(self.source).primary,
                f"region {self.source} to take writes again",
                self.limits.rollback,
            )
        except MusterError as error:
            raise MusterError(
                f"the switch to {self.target} failed ({reason}) and could not be rolled back ({error}); "
                "no region takes writes until the same command has been run again"
            ) from error
        self.journal.clear()
        raise MusterError(f"the switch to {self.target} failed and was rolled back: {reason}") from reason

    # --- the whole -----------------------------------------------------------

    def run(self, check: bool = False) -> dict[str, Any]:
        source, target = self.look()
        situation = self.situation(source, target)
        if situation == "done":
            return self._finish(False, self._settled(target))
        if situation == "start":
            primary = self.assess(source, target).host
            old_primaries, before = [primary], self.sql.recovery(primary)
        else:
            old_primaries, before = self._interrupted(source, target), None
        if check:
            return {"changed": True, "situation": situation}
        leader = target.standby_leader
        if leader is None:
            self.roll_back(MusterError(f"region {self.target} has no standby leader to promote"))
            raise AssertionError("unreachable")
        return self._move(situation, old_primaries, leader.host, before)

    def _move(self, situation: str, old: list[str], leader: str, before: Recovery | None) -> dict[str, Any]:
        if situation == "start":
            # What the old primary must flush and recover from shrinks to almost nothing.
            self._phase("handover: checkpoint", lambda: self.sql.checkpoint(old[0]))
            self.journal.write({"source": self.source, "target": self.target, "old_primary": old[0]})
        try:
            self.still_held()
            self._phase("handover: demote", lambda: [self.demote(host) for host in old])
            what = f"{leader} to hold all of {', '.join(old)}"
            proof = self._phase(
                "handover: catch up",
                lambda: wait_until(lambda: self.caught_up(old, leader), what, self.limits.catch_up, POLL),
            )
            self.still_held()
        except MusterError as error:
            self.roll_back(error)
        opened = self._phase("handover: promote", lambda: self.promote(leader))
        self.journal.clear()
        self._phase("handover: re-protect", lambda: self.reprotected(opened.timeline))
        result = self._finish(True, opened)
        result |= {"situation": situation, "proof_position": format_lsn(proof.position)}
        if before:
            result |= {"timeline_before": before.timeline, "position_before": format_lsn(before.position)}
        return result

    def _interrupted(self, source: Region, target: Region) -> list[str]:
        """Whose WAL the target must hold before a half-done switch may be finished."""
        entry = self.journal.read()
        if entry and entry.get("source") == source.name:
            return [entry["old_primary"]]
        # Nothing tells who was primary: then every member of the source must be heard.
        return list(source.members)

    def _settled(self, target: Region) -> Recovery:
        """The position of a target that is primary already; finishes a promotion that is under way."""
        def opened() -> Member | None:
            return self.survey.region(self.target).primary

        leader = target.primary or wait_until(opened, f"region {self.target} to take writes", self.limits.promote)
        self.journal.clear()
        return self.sql.recovery(leader.host)

    def reprotected(self, timeline: int) -> None:
        """Wait until the old side streams on the new timeline: only then is a second region there again."""

        def streaming() -> bool:
            leader = self.survey.region(self.source).standby_leader
            return bool(leader and leader.replication_state == "streaming" and leader.timeline == timeline)

        wait_until(streaming, f"region {self.source} to stream as a standby", self.limits.reprotect, 0.1)

    def _finish(self, changed: bool, after: Recovery) -> dict[str, Any]:
        return {
            "changed": changed,
            "situation": "done",
            "timeline_after": after.timeline,
            "position_after": format_lsn(after.position),
        }


class EtcdJournal:
    """The journal in the target region's etcd, which outlives controller and old primary alike."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def read(self) -> dict[str, Any] | None:
        found = self.client.get(JOURNAL)
        if found is None:
            return None
        entry = json.loads(found.value)
        return entry if isinstance(entry, dict) else None

    def write(self, entry: Mapping[str, Any]) -> None:
        self.client.put(JOURNAL, json.dumps(dict(entry)))

    def clear(self) -> None:
        self.client.delete(JOURNAL)


class Psycopg:
    """Asks PostgreSQL over TLS with verified names, as the operator role."""

    def __init__(self, user: str, password: str, ca_certificate: str, port: int = 5432) -> None:
        self.arguments = {
            "user": user,
            "password": password,
            "dbname": "postgres",
            "port": port,
            "sslmode": "verify-full",
            "sslrootcert": ca_certificate,
            "connect_timeout": 3,
            "application_name": "muster-handover",
            "options": "-c statement_timeout=30000",
        }
        self._connections: dict[str, Any] = {}

    def query(self, host: str, statement: str) -> tuple[Any, ...]:
        """Run one statement over the kept connection, or over a new one if that has broken."""
        import psycopg2  # noqa: PLC0415 - Debian's, on PostgreSQL hosts only

        kept = host in self._connections
        try:
            if not kept:
                self._connections[host] = psycopg2.connect(host=host, **self.arguments)
                self._connections[host].autocommit = True
            with self._connections[host].cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchone() if cursor.description else ()
        except psycopg2.Error as error:
            connection = self._connections.pop(host, None)
            if connection is not None:
                connection.close()
            if kept and isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
                return self.query(host, statement)
            raise MusterError(f"PostgreSQL on {host}: {str(error).strip()}") from error

    def checkpoint(self, host: str) -> None:
        self.query(host, "CHECKPOINT")

    def recovery(self, host: str) -> Recovery:
        row = self.query(
            host,
            "SELECT r, CASE WHEN r THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END - '0/0', "
            "c.checkpoint_lsn - '0/0', CASE WHEN r THEN c.timeline_id "
            "ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END "
            "FROM pg_is_in_recovery() AS r, pg_control_checkpoint() AS c",
        )
        return Recovery(bool(row[0]), int(row[1]), int(row[2]), int(row[3]))
