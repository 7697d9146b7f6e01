# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The planned move of PostgreSQL from one region to the other, losing nothing.

The order is the safety: the source's configuration makes it a standby; only when
it is seen in recovery, and the target has replayed all that it holds, is the
target's configuration opened. Whatever interrupts this leaves a state that tells
what remains to be done, so a second run finishes or rolls back, and at no point
may two regions take writes.

Configurations are read and changed in etcd itself, never through Patroni's API: what
Patroni answers may be a loop old, and what is sent to it arrives even when the sender
has lost the lock meanwhile. Here each change is one transaction which fails unless the
lock is still held, nothing has changed since it was read, and the host that the change
is about leads its region. Patroni watches its configuration and acts at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._etcd import (
    EtcdClient,
    Lock,
    has_revision,
    has_value,
    reading,
    removing,
    writing,
)
from ansible_collections.muster.platform.plugins.module_utils._patroni import (
    NAMESPACE,
    Member,
    Survey,
    format_lsn,
    is_standby,
)
from ansible_collections.muster.platform.plugins.module_utils._phases import Phases
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

POLL = 0.03
CHANGE = 10.0  # seconds that etcd may take to accept a change: it may be electing a leader
NOTE = "/muster/handover/postgresql"


class LockLost(Exception):
    """Another run may be at work: this one may change nothing any more, not even to put things back."""


@dataclass(frozen=True)
class Truth:
    """What a region's etcd says, read in one piece and linearizably."""

    config: Mapping[str, Any]
    revision: int  # of the configuration
    leader: str | None  # who holds the region's leader key
    last_primary: str | None  # noted by the change that made this region a standby

    @property
    def standby(self) -> bool:
        return is_standby(self.config)


@dataclass(frozen=True)
class Recovery:
    """What a server says of its own recovery."""

    in_recovery: bool
    position: int  # written on a primary, replayed on a standby
    checkpoint: int  # its latest checkpoint record
    timeline: int


class Sql(Protocol):
    """What the handover asks of PostgreSQL itself, by host."""

    def checkpoint(self, host: str) -> None: ...

    def recovery(self, host: str) -> Recovery: ...


class Dcs(Protocol):
    """The etcd of each region, by region."""

    def read(self, region: str) -> Truth: ...

    def change(
        self,
        region: str,
        seen: Truth,
        standby_cluster: Mapping[str, Any] | None,
        last_primary: str | None,
        leader: str | None,
    ) -> bool:
        """Change the region and its note at once; False when it is not as C(seen) or C(leader) does not lead.

        Raises LockLost when the lock is not held any more: nothing has been changed then.
        """

    def forget(self, region: str) -> None:
        """Remove the region's note: it has been overtaken."""


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
    dcs: Dcs
    source: str
    target: str
    standby_cluster: Mapping[str, Any]  # what makes the source a standby of the target
    limits: Limits = field(default_factory=Limits)
    phases: Phases = field(default_factory=Phases)
    still_held: Callable[[], None] = lambda: None  # raises MusterError when the lock may be lost

    # --- reading -------------------------------------------------------------

    def look(self) -> tuple[Truth, Truth]:
        """What etcd says of the source and of the target."""
        found = []
        for name in (self.source, self.target):
            try:
                found.append(self.dcs.read(name))
            except MusterError as error:
                raise MusterError(
                    f"refused: the configuration of region {name} is not known ({error})"
                ) from error
        return found[0], found[1]

    def situation(self, source: Truth, target: Truth) -> str:
        """C(done), C(start) or C(resume)."""
        if not source.standby and not target.standby:
            raise MusterError(
                f"refused: both {self.source} and {self.target} are configured as primary; "
                "decide by hand which one holds the truth, then make the other a standby"
            )
        if not target.standby:
            return "done"
        return "resume" if source.standby else "start"

    def assess(self, source: Truth, target: Truth) -> tuple[Member, Member]:
        """Refuse what cannot be switched without loss; returns the primary and who is to succeed it."""
        found = self.survey.all()
        writers = [m.host for region in found.values() for m in region.members.values() if m.writable]
        primary, leader = found[self.source].primary, found[self.target].standby_leader
        if len(writers) != 1 or primary is None:
            raise MusterError(
                f"refused: {self.source} must hold the only primary, found {', '.join(writers) or 'none'}"
            )
        if leader is None:
            raise MusterError(f"refused: region {self.target} has no standby leader to promote")
        for member, truth in ((primary, source), (leader, target)):
            if truth.leader != member.host:
                raise MusterError(
                    f"refused: {member.host} leads region {member.region} by its own account, "
                    f"but by etcd's {truth.leader or 'nobody'} does"
                )
        self._assess_copy(primary, leader)
        return primary, leader

    def _assess_copy(self, primary: Member, leader: Member) -> None:
        if leader.system_identifier != primary.system_identifier:
            raise MusterError(
                f"refused: {leader.host} is not a copy of {primary.host} (system identifiers differ)"
            )
        if leader.timeline != primary.timeline:
            raise MusterError(
                f"refused: timelines differ ({primary.host} {primary.timeline}, "
                f"{leader.host} {leader.timeline})"
            )
        if leader.replication_state != "streaming":
            raise MusterError(f"refused: {leader.host} is not streaming, so its lag is not known")
        if primary.lsn is None or leader.lsn is None:
            raise MusterError(f"refused: the lag of {leader.host} is not known")
        lag = primary.lsn - leader.lsn
        if lag > self.limits.max_lag_bytes:
            raise MusterError(
                f"refused: {leader.host} is {lag} bytes behind, "
                f"more than the {self.limits.max_lag_bytes} allowed"
            )

    def last_writers(self, source: Truth, target: Truth) -> list[str]:
        """Whose WAL the target must hold before a half-done switch may be finished."""
        noted = [truth.last_primary for truth in (source, target) if truth.last_primary]
        if noted:
            return noted
        # Nothing tells who was primary: then every host of both regions must be heard.
        return [host for name in (self.source, self.target) for host in self.survey.regions[name]]

    # --- changing --------------------------------------------------------------

    def hold(self) -> None:
        try:
            self.still_held()
        except MusterError as error:
            raise LockLost(str(error)) from error

    def configure(
        self,
        region: str,
        standby_cluster: Mapping[str, Any] | None,
        timeout: float,
        leader: str | None = None,
        note: str | None = None,
    ) -> None:
        """Make a region a standby, or open it, while C(leader) leads it; sure of the outcome or an error."""
        wanted = standby_cluster is not None
        asked_at: list[int] = []

        def attempt() -> bool:
            self.hold()
            seen = self.dcs.read(region)
            if asked_at and seen.revision != asked_at[-1] and seen.standby == wanted:
                return True  # our own change, of which the answer was lost
            if leader and seen.leader != leader:
                raise MusterError(f"{leader} no longer leads region {region}, {seen.leader or 'nobody'} does")
            asked_at.append(seen.revision)
            return self.dcs.change(region, seen, standby_cluster, note, leader)

        what = f"region {region} to accept being {'a standby' if wanted else 'primary'}"
        wait_until(attempt, what, timeout, 0.1)

    def keep_closed(self, region: str) -> None:
        """Write a standby's configuration again as it is: what is still on its way to open it then fails."""

        def attempt() -> bool:
            self.hold()
            seen = self.dcs.read(region)
            if not seen.standby:
                raise MusterError(f"region {region} is configured as primary")
            return self.dcs.change(region, seen, seen.config["standby_cluster"], seen.last_primary, None)

        wait_until(attempt, f"region {region} to stay a standby", CHANGE, 0.1)

    def demote(self, primary: str) -> None:
        """Make the source a standby; from then on it never takes writes again but by a change of ours."""
        self.configure(self.source, dict(self.standby_cluster), CHANGE, leader=primary, note=primary)

    def demoted(self, host: str) -> Recovery:
        """Wait until a host is seen in recovery; Patroni would tell a second later than PostgreSQL itself."""

        def in_recovery() -> Recovery | None:
            found = self.sql.recovery(host)
            return found if found.in_recovery else None

        return wait_until(in_recovery, f"{host} to be in recovery", self.limits.demote, POLL)

    def caught_up(self, old: list[str], leader: str) -> Recovery:
        """The target's position once it holds all that the old primary does, and nobody takes writes."""
        held = self.sql.recovery(leader)
        if not held.in_recovery:
            raise MusterError(f"{leader} takes writes already")
        for host in old:
            was = self.sql.recovery(host)
            if not was.in_recovery:
                raise MusterError(f"{host} takes writes again")
            if held.position < was.position or held.position < was.checkpoint:
                raise MusterError(
                    f"{leader} has replayed {format_lsn(held.position)}, "
                    f"{host} holds {format_lsn(was.position)}"
                )
        others = self.survey.members(without={leader, *old})
        writers = [member.host for member in others if member.writable]
        if writers:
            raise MusterError(f"{', '.join(writers)} takes writes")
        return held

    def catch_up(self, old: list[str], leader: str) -> Recovery:
        what = f"{leader} to hold all of {', '.join(old)}"
        return wait_until(lambda: self.caught_up(old, leader), what, self.limits.catch_up, POLL)

    def open(self, leader: str) -> None:
        """Open the target, under the leader that was proven to hold everything."""
        if not self.dcs.read(self.source).standby:
            raise MusterError(f"region {self.source} is configured as primary again")
        self.configure(self.target, None, CHANGE, leader=leader)

    def opened(self, leader: str) -> Recovery:
        """Wait until the target takes writes."""

        def takes_writes() -> Recovery | None:
            try:
                found = self.sql.recovery(leader)
                if not found.in_recovery:
                    return found
            except MusterError:
                pass  # whoever leads the region now is as good
            other = self.survey.region(self.target).primary
            return self.sql.recovery(other.host) if other else None

        return wait_until(takes_writes, f"{leader} to take writes", self.limits.promote, POLL)

    def roll_back(self, reason: MusterError) -> NoReturn:
        """Before the promotion: the old primary is put back. Always raises."""
        try:
            source = self.dcs.read(self.source)
            if source.standby and source.last_primary is None:
                raise MusterError(f"nothing proves that region {self.source} was the last to take writes")
            self.keep_closed(self.target)
            self.configure(self.source, None, self.limits.rollback)
            wait_until(
                lambda: self.survey.region(self.source).primary,
                f"region {self.source} to take writes again",
                self.limits.rollback,
            )
        except MusterError as error:
            raise MusterError(
                f"the switch to {self.target} failed ({reason}) and could not be rolled back ({error}); "
                f"no region takes writes until the same command, or one back to {self.source}, has succeeded"
            ) from error
        raise MusterError(f"the switch to {self.target} failed and was rolled back: {reason}") from reason

    # --- the whole -----------------------------------------------------------

    def run(self, check: bool = False) -> dict[str, Any]:
        """Do what is left to do; LockLost when the lock was lost: nothing was changed after that."""
        source, target = self.look()
        situation = self.situation(source, target)
        if situation == "done":
            return self.settle(check)
        if situation == "resume":
            if check:
                return {"changed": True, "situation": situation}
            if target.leader is None:
                self.roll_back(MusterError(f"nobody leads region {self.target}"))
            return self._finish(situation, self.last_writers(source, target), target.leader)
        primary, leader = self.assess(source, target)
        before = self.sql.recovery(primary.host)
        if check:
            return {"changed": True, "situation": situation}
        result = self._begin(primary.host, leader.host)
        return result | {
            "timeline_before": before.timeline,
            "position_before": format_lsn(before.position),
        }

    def _begin(self, primary: str, leader: str) -> dict[str, Any]:
        # What the old primary must flush and recover from shrinks to almost nothing.
        with self.phases("handover: checkpoint"):
            self.sql.checkpoint(primary)
        for region in (self.source, self.target):
            self.dcs.forget(region)  # one region takes writes: an older note would only mislead
        return self._finish("start", [primary], leader)

    def _finish(self, situation: str, old: list[str], leader: str) -> dict[str, Any]:
        try:
            with self.phases("handover: demote"):
                if situation == "start":
                    self.demote(old[0])
                for host in old:
                    self.demoted(host)
            with self.phases("handover: catch up"):
                proof = self.catch_up(old, leader)
            self.open(leader)
        except MusterError as error:
            self.roll_back(error)
        with self.phases("handover: promote"):
            opened = self.opened(leader)
        self._overtake()
        with self.phases("handover: re-protect"):
            self.reprotected(opened.timeline)
        return {
            "changed": True,
            "situation": situation,
            "proof_position": format_lsn(proof.position),
            "timeline_after": opened.timeline,
            "position_after": format_lsn(opened.position),
        }

    def _overtake(self) -> None:
        """The source's note is history now; where etcd does not answer, the next switch removes it."""
        try:
            self.dcs.forget(self.source)
        except MusterError:
            return

    def settle(self, check: bool) -> dict[str, Any]:
        """The target is primary already, or becomes it just now by an earlier run."""

        def primary() -> Member | None:
            return self.survey.region(self.target).primary

        leader = wait_until(primary, f"region {self.target} to take writes", self.limits.promote)
        writers = [member.host for member in self.survey.members() if member.writable]
        if writers != [leader.host]:
            raise MusterError(
                f"refused: {self.target} is primary, but these take writes: {', '.join(writers)}"
            )
        if not check:
            self._overtake()
        found = self.sql.recovery(leader.host)
        return {
            "changed": False,
            "situation": "done",
            "timeline_after": found.timeline,
            "position_after": format_lsn(found.position),
        }

    def reprotected(self, timeline: int) -> None:
        """Wait until the old side streams on the new timeline: only then is a second region there again."""

        def streaming() -> bool:
            leader = self.survey.region(self.source).standby_leader
            return bool(leader and leader.replication_state == "streaming" and leader.timeline == timeline)

        wait_until(streaming, f"region {self.source} to stream as a standby", self.limits.reprotect, 0.1)


class EtcdDcs:
    """The regions' truth in their etcds. Changes need the lock of the same etcd, in C(locks)."""

    def __init__(self, clients: Mapping[str, EtcdClient], survey: Survey, namespace: str = NAMESPACE) -> None:
        self.clients = clients
        self.survey = survey
        self.namespace = namespace.rstrip("/")
        self.locks: dict[str, Lock] = {}
        self._scopes: dict[str, str] = {}

    def scope(self, region: str) -> str:
        """The name of the region's cluster, from whichever of its hosts answers."""
        if region not in self._scopes:
            members = [self.survey.member(region, host) for host in self.survey.regions[region]]
            scopes = {member.scope for member in members if member.scope}
            if len(scopes) != 1:
                errors = [member.error for member in members if member.error]
                raise MusterError(f"its scope is not known: {'; '.join(errors) or ', '.join(sorted(scopes))}")
            self._scopes[region] = scopes.pop()
        return self._scopes[region]

    def key(self, region: str, name: str) -> str:
        return f"{self.namespace}/{self.scope(region)}/{name}"

    def read(self, region: str) -> Truth:
        keys = (self.key(region, "config"), self.key(region, "leader"), NOTE)
        _all, found = self.clients[region].transaction([], [reading(key) for key in keys])
        config, leader, note = (pairs[0] if pairs else None for pairs in found)
        try:
            document = json.loads(config.value) if config else None
            noted = json.loads(note.value).get("last_primary") if note else None
        except (ValueError, AttributeError) as error:
            raise MusterError(f"{keys[0]} or {NOTE} is not what Muster or Patroni writes") from error
        if config is None or not isinstance(document, dict):
            raise MusterError(f"{keys[0]} is missing in the etcd of region {region}")
        return Truth(document, config.mod_revision, leader.value if leader else None, noted)

    def change(
        self,
        region: str,
        seen: Truth,
        standby_cluster: Mapping[str, Any] | None,
        last_primary: str | None,
        leader: str | None,
    ) -> bool:
        config = {key: value for key, value in seen.config.items() if key != "standby_cluster"}
        if standby_cluster is not None:
            config["standby_cluster"] = dict(standby_cluster)
        key = self.key(region, "config")
        compare = [has_revision(key, seen.revision)]
        if leader is not None:
            compare.append(has_value(self.key(region, "leader"), leader))
        note = writing(NOTE, json.dumps({"last_primary": last_primary})) if last_primary else removing(NOTE)
        return self._guarded(region, compare, [writing(key, json.dumps(config)), note])

    def forget(self, region: str) -> None:
        self._guarded(region, [], [removing(NOTE)])

    def _guarded(self, region: str, compare: list[dict[str, Any]], success: list[dict[str, Any]]) -> bool:
        """A transaction that only the holder of the region's lock can make."""
        lock = self.locks[region]
        done, found = self.clients[region].transaction([lock.guard(), *compare], success, [reading(lock.key)])
        if not done and not lock.is_mine(found[0]):
            raise LockLost(f"the lock {lock.name} of {lock.holder} was lost")
        return done


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
            # A host that is gone without a word is noticed in seconds.
            "tcp_user_timeout": 5000,
            "keepalives_idle": 2,
            "keepalives_interval": 1,
            "keepalives_count": 3,
            "application_name": "muster-handover",
            "options": "-c statement_timeout=30000",
        }
        self._connections: dict[str, Any] = {}

    def query(self, host: str, statement: str) -> tuple[Any, ...]:
        """Run one statement over the kept connection, or over a new one if that has broken."""
        import psycopg2  # Debian's, on PostgreSQL hosts only

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
            "SELECT r, "
            "CASE WHEN r THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END - '0/0', "
            "c.checkpoint_lsn - '0/0', CASE WHEN r THEN c.timeline_id "
            "ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END "
            "FROM pg_is_in_recovery() AS r, pg_control_checkpoint() AS c",
        )
        if len(row) != 4 or None in row:
            raise MusterError(f"PostgreSQL on {host} does not know its position yet")
        return Recovery(bool(row[0]), int(row[1]), int(row[2]), int(row[3]))
