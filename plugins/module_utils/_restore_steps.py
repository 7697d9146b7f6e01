# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The steps of a restore, each on one host, for the module postgresql_restore.

A restore into place runs over all hosts of all regions: every data directory is set
aside, one host restores and promotes, and all others copy it afresh. What was done is
noted beside the data directory, so that an interrupted restore goes on where it was.
The drop-in that keeps Patroni from starting survives a reboot: a host that came up
with an empty directory and an empty etcd would make a new, empty cluster.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._etcd import EtcdClient
from ansible_collections.muster.platform.plugins.module_utils._files import wait_for_lock, write_file
from ansible_collections.muster.platform.plugins.module_utils._pgbackrest import PgBackRest, free_mb
from ansible_collections.muster.platform.plugins.module_utils._phases import Phases
from ansible_collections.muster.platform.plugins.module_utils._restore import (
    LONGEST_DIRECTORY,
    Archive,
    Server,
    Target,
    as_dict,
    as_lines,
    plan,
    restore_files,
)
from ansible_collections.muster.platform.plugins.module_utils._systemd import systemctl
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

Params = Mapping[str, Any]

# What Patroni keeps of a cluster's past; its configuration stays.
FORGET = ("initialize", "history", "status", "failover", "leader", "sync", "failsafe", "optime/leader")
LOCK = "/run/muster-restore.lock"
# WAL that comes on top of a backup's size while it is replayed.
ROOM_MB = 256
STOPPED_STATES = ("shut down", "shut down in recovery")


# --- small things ------------------------------------------------------------


class Journal:
    """What a restore into place has done on this host; None when there is none under way."""

    def __init__(self, params: Params) -> None:
        self.path = f"{params['data_directory']}.restore.json"
        self.id = params["id"]
        self.entry = self._read()

    def _read(self) -> dict[str, Any] | None:
        try:
            with open(self.path, encoding="utf-8") as stream:
                entry = json.load(stream)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise MusterError(f"the journal of a restore, {self.path}, cannot be read: {error}") from error
        return entry if isinstance(entry, dict) else None

    def write(self, **changes: Any) -> None:
        """Note it on the disk before anything goes on."""
        self.entry = {**(self.entry or {"id": self.id}), **changes}
        write_file(self.path, json.dumps(self.entry), 0o600)

    def remove(self) -> None:
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.entry = None

    @property
    def stage(self) -> str | None:
        """How far this host is: stopping, aside, restoring, promoted, cleared, released."""
        return self.entry.get("stage") if self.entry else None

    def belongs(self) -> None:
        """Refuse to touch what another restore has under way."""
        if self.entry and self.entry.get("id") != self.id:
            raise MusterError(f"{self.path} is of the restore {self.entry.get('id')}: finish that one first")


@contextmanager
def alone(timeout: float) -> Iterator[None]:
    """Only one step at a time on a host: one whose controller was killed goes on until it ends."""
    with open(LOCK, "w", encoding="utf-8") as stream:
        wait_for_lock(stream, fcntl.LOCK_EX, "a step of an earlier run on this host to end", timeout, 0.5)
        yield


def directory_mb(path: str) -> int:
    """Size of what is in a directory."""
    total = 0
    for place, _names, files in os.walk(path):
        for name in files:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
            except OSError:
                continue
    return total >> 20


def program_of(params: Params) -> PgBackRest:
    return PgBackRest(params["stanza"], params["user"])


def target_of(params: Params) -> Target:
    """What was asked for, checked against the repository."""
    return plan(
        program_of(params),
        params["repository"],
        params["to_time"],
        params["backup"],
        params["timeline"],
        datetime.now(UTC),
    )


def needed_mb(target: Target) -> int:
    return (target.backup.size >> 20) + ROOM_MB


def server_of(params: Params, directory: str, archive_command: str | None = None) -> Server:
    return Server(directory, params["bin_directory"], params["user"], params["port"], archive_command)


# --- the present, into the archive -------------------------------------------


def archive_the_present(params: Params) -> None:
    """Have the primary commit something and finish its WAL segment, and wait until it is archived.

    Recovery ends at the first commit after the target: without one in the archive a
    target of a moment ago could not be reached. Where this fails, the recovery tells.
    """
    if not params["primary"]:
        return
    import psycopg2

    try:
        connection = psycopg2.connect(
            host=params["primary"], port=params["port"], dbname="postgres", user=params["user"],
            password=params["superuser_password"], sslmode="verify-full",
            sslrootcert=params["ca_certificate"], connect_timeout=5,
        )  # fmt: skip
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("select txid_current()")
            cursor.execute("select pg_walfile_name(pg_switch_wal())")
            segment = cursor.fetchone()[0]
        connection.close()
    except psycopg2.Error:
        return
    program, option = program_of(params), f"--repo={params['repository']}"

    def archived() -> bool:
        return any((archive["max"] or "") >= segment for archive in program.info(option).archives)

    try:
        wait_until(archived, f"WAL segment {segment} to be archived", 30, 0.5)
    except MusterError:
        return


# --- steps -------------------------------------------------------------------


def look(params: Params, _check_mode: bool) -> dict[str, Any]:
    """What this host has, and what a restore noted on it."""
    data = params["data_directory"]
    journal = Journal(params)
    problem = ""
    if os.path.ismount(data) and params["keep_old"]:
        problem = (
            f"{data} on {params['host']} is a mount point and cannot be renamed: "
            "set postgresql_restore_keep_old to false, and the old data is removed"
        )
    elif os.path.isdir(f"{data}/pg_tblspc") and os.listdir(f"{data}/pg_tblspc"):
        problem = f"{data} on {params['host']} has tablespaces, which a restore into place does not handle"
    return {
        "changed": False,
        "journal": journal.entry,
        "free_mb": free_mb(data)[0],
        "data_mb": directory_mb(data),
        "problem": problem,
    }


def check(params: Params, _check_mode: bool) -> dict[str, Any]:
    """Whether what was asked for can be had, into place."""
    target = target_of(params)
    refuse_wrong_timeline(params, target)
    return {"changed": False, "restored": as_dict(target, None), "needed_mb": needed_mb(target)}


def refuse_wrong_timeline(params: Params, target: Target) -> None:
    """The timeline that the promotion begins must be new to every repository."""
    program = program_of(params)

    def archive(repository: int) -> Archive:
        return Archive(program, repository, program.info(f"--repo={repository}"))

    def newest(repository: int) -> int:
        try:
            return archive(repository).newest()
        except MusterError:
            return 0

    chosen = params["repository"]
    elsewhere = {other: newest(other) for other in params["repositories"] if other != chosen}
    here = archive(chosen)
    for other, timeline in elsewhere.items():
        if timeline > here.newest():
            raise MusterError(
                f"repository {other} of {params['host']} knows a newer timeline than repository {chosen}: "
                f"set postgresql_restore_repository to {other}"
            )
    here.refuse_taken_timeline(target.timeline)


def refuse_directory(params: Params, target: Target) -> None:
    """The directory must be free, nameable, and its disk must have the room."""
    directory = params["directory"]
    if os.path.lexists(directory) and (not os.path.isdir(directory) or os.listdir(directory)):
        raise MusterError(
            f"postgresql_restore_directory {directory} on {params['host']} is not empty: "
            "name another, or remove it when nothing in it is needed"
        )
    if len(directory) > LONGEST_DIRECTORY or not re.fullmatch(r"/[A-Za-z0-9_./-]+", directory):
        raise MusterError(
            f"postgresql_restore_directory {directory} must be an absolute path "
            f"of at most {LONGEST_DIRECTORY} letters, digits and the signs _./-"
        )
    if os.path.commonpath([directory, params["data_directory"]]) == params["data_directory"]:
        raise MusterError(f"postgresql_restore_directory {directory} is inside the live data directory")
    free, needed = free_mb(directory)[0], needed_mb(target)
    if free < needed:
        raise MusterError(
            f"{directory} on {params['host']} has {free} MB free, but the backup {target.backup.label} "
            f"needs {needed} MB"
        )


def make_directory(params: Params, directory: str) -> None:
    os.makedirs(directory, exist_ok=True)
    entry = pwd.getpwnam(params["user"])
    os.chown(directory, entry.pw_uid, entry.pw_gid)
    os.chmod(directory, 0o700)


def isolated(params: Params, check_mode: bool) -> dict[str, Any]:
    """Restore into a directory of its own, replay, stop, report."""
    target = target_of(params)
    refuse_directory(params, target)
    if check_mode:
        return {"changed": True, "restored": as_dict(target, None)}
    phases, directory = Phases(), params["directory"]
    with phases("archive the present"):
        archive_the_present(params)
    make_directory(params, directory)
    with phases("copy the backup"):
        extra = ["--archive-mode=off", restore_command(params, directory)]
        restore_files(program_of(params), target, directory, "pause", extra, params["timeout"])
    server = server_of(params, directory)
    try:
        with phases("replay"):
            reached = server.recover(target, promote=False, timeout=params["timeout"])
    finally:
        server.stop(120)
    refuse_unclean(server)
    return {
        "changed": True,
        "restored": as_dict(target, reached),
        "lines": [*as_lines(target, reached, directory), *reading_lines(server)],
        "muster_phases": phases.done,
    }


def restore_command(params: Params, directory: str) -> str:
    """How PostgreSQL gets WAL from the one repository that was asked for.

    It takes any exit code up to 125 for the end of the archive. A repository that does
    not answer is not that: better fail than stop short of what the archive holds.
    """
    get = f"pgbackrest --stanza={params['stanza']} --repo={params['repository']} --pg1-path={directory}"
    command = f'{get} archive-get %f "%p" || {{ test $? = 1 && exit 1; exit 255; }}'
    return f"--recovery-option=restore_command={command}"


def reading_lines(server: Server) -> list[str]:
    start, ask, stop = server.reading_commands()
    return ["  to read from it:", f"    {start}", f"    {ask}", f"    {stop}"]


def refuse_unclean(server: Server) -> None:
    state = server.control().get("Database cluster state", "")
    if state not in STOPPED_STATES:
        raise MusterError(f"PostgreSQL in {server.directory} was not stopped cleanly: it is '{state}'")


# --- into place --------------------------------------------------------------


def drop_in(params: Params) -> str:
    return f"/etc/systemd/system/{params['unit']}.d/muster-restore.conf"


def block_patroni(params: Params) -> None:
    """Keep Patroni from starting until it is released, over reboots."""
    path = drop_in(params)
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    note = "# A restore is under way, or was interrupted: run it again.\n"
    write_file(path, f"{note}[Unit]\nConditionPathExists=!{path}\n", 0o644)
    systemctl("daemon-reload")
    systemctl("stop", params["unit"], timeout=180)


def set_aside(params: Params, check_mode: bool) -> dict[str, Any]:
    """Stop this host's PostgreSQL for good, and move its data out of the way."""
    journal, data = Journal(params), params["data_directory"]
    journal.belongs()
    if journal.stage not in (None, "stopping"):
        return {"changed": False, "old_directory": (journal.entry or {}).get("old_directory")}
    if check_mode:
        return {"changed": True}
    if journal.stage is None:
        journal.write(
            stage="stopping",
            request=request_of(params),
            restore_host=params["restore_host"],
            restore_region=params["restore_region"],
            old_directory=f"{data}.before-restore-{params['id']}" if params["keep_old"] else None,
        )
    if params["primary"] == params["host"]:
        archive_the_present(params)
    block_patroni(params)
    if os.path.isfile(f"{data}/PG_VERSION"):
        server_of(params, data).stop(300)
    old = (journal.entry or {})["old_directory"]
    move_away(data, old)
    journal.write(stage="aside")
    return {"changed": True, "old_directory": old}


def empty(directory: str) -> None:
    """Remove what is in a directory, but not itself: it may be a mount point."""
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def move_away(data: str, old: str | None) -> None:
    if not os.path.lexists(data):
        return
    if old is None:
        empty(data)
    elif os.path.lexists(old):
        raise MusterError(
            f"both {data} and {old} exist, so it is not known which is the old data: move one away"
        )
    else:
        os.rename(data, old)


def request_of(params: Params) -> dict[str, Any]:
    """What a restore was asked for: the same command has the same."""
    return {name: params[name] for name in ("to_time", "backup", "timeline")}


def recover(params: Params, check_mode: bool) -> dict[str, Any]:
    """Restore into place, replay, promote, and leave the server stopped for Patroni to start."""
    journal, data = Journal(params), params["data_directory"]
    journal.belongs()
    if journal.stage in ("promoted", "cleared", "released"):
        done = {name: (journal.entry or {})[name] for name in ("restored", "lines")}
        return {"changed": False, **done, "muster_phases": []}
    if check_mode:
        return {"changed": True, "restored": as_dict(target_of(params), None), "muster_phases": []}
    if journal.stage not in ("aside", "restoring"):
        raise MusterError(f"the old data directory on {params['host']} has not been set aside")
    stanza, phases = params["stanza"], Phases()
    # The server archives, or the new timeline's history would be missing from the archive for ever.
    # Into the repository hosts alone, as the live one does: S3 gets it from there.
    push = f"pgbackrest --config=/etc/pgbackrest.conf --stanza={stanza} archive-push %p"
    server = server_of(params, data, push)
    if journal.stage == "restoring" and os.path.isdir(data):
        if os.path.isfile(f"{data}/PG_VERSION"):
            server.stop(120)
        empty(data)
    target = target_of(params)
    journal.write(stage="restoring")
    make_directory(params, data)
    with phases("copy the backup"):
        extra = [restore_command(params, data)]
        restore_files(program_of(params), target, data, "promote", extra, params["timeout"])
    try:
        with phases("replay and promote"):
            reached = server.recover(target, promote=True, timeout=params["timeout"])
    finally:
        server.stop(300)
    refuse_unclean(server)
    server.forget_recovery()
    old = (journal.entry or {}).get("old_directory")
    lines = as_lines(target, reached, data)
    if old and os.path.lexists(old):
        lines.append(f"  every host keeps its old data as {old}: remove it when it is not needed any more")
    done = {"restored": as_dict(target, reached), "lines": lines}
    journal.write(stage="promoted", **done)
    return {"changed": True, **done, "muster_phases": phases.done}


def clear(params: Params, check_mode: bool) -> dict[str, Any]:
    """Make every region's etcd forget the old cluster, and know which region is primary."""
    journal = Journal(params)
    journal.belongs()
    if journal.stage in ("cleared", "released"):
        return {"changed": False}
    if check_mode:
        return {"changed": True}
    if journal.stage != "promoted":
        raise MusterError(f"nothing has been restored on {params['host']} yet")
    for name, endpoints in params["etcd_endpoints"].items():
        forget(params, name, endpoints)
    journal.write(stage="cleared")
    return {"changed": True}


def forget(params: Params, name: str, endpoints: list[str]) -> None:
    """One region's keys; its configuration says whether it follows the other."""
    client = EtcdClient(endpoints, params["ca_certificate"], params["certificate"], params["private_key"])
    prefix = f"/service/{params['stanza']}-{name}"
    try:
        stored = client.get(f"{prefix}/config")
        if stored is None:
            raise MusterError(f"{prefix}/config is missing: provision the platform again")
        config = json.loads(stored.value)
        standby = None if name == params["restore_region"] else params["standby_cluster"]
        if bool(config.get("standby_cluster")) != bool(standby):
            config["standby_cluster"] = standby
            if not client.put_if(f"{prefix}/config", json.dumps(config), stored.mod_revision):
                raise MusterError(f"{prefix}/config was changed by someone else just now: run this again")
        for key in FORGET:
            client.delete(f"{prefix}/{key}")
    except MusterError as error:
        raise MusterError(f"etcd of region {name}: {error}") from error
    finally:
        client.close()


def release(params: Params, check_mode: bool) -> dict[str, Any]:
    """Let Patroni start again."""
    journal = Journal(params)
    journal.belongs()
    blocked = os.path.exists(drop_in(params))
    if not blocked and journal.stage in (None, "released"):
        return {"changed": False}
    if not check_mode:
        if blocked:
            os.unlink(drop_in(params))
            if not os.listdir(os.path.dirname(drop_in(params))):
                os.rmdir(os.path.dirname(drop_in(params)))
        systemctl("daemon-reload")
        journal.write(stage="released")
    return {"changed": True}


def finish(params: Params, check_mode: bool) -> dict[str, Any]:
    """The restore is over on this host."""
    journal = Journal(params)
    journal.belongs()
    if journal.entry is None:
        return {"changed": False}
    if journal.stage != "released":
        raise MusterError(f"Patroni on {params['host']} has not been released")
    if not check_mode:
        journal.remove()
    return {"changed": True}


STEPS: dict[str, Callable[[Params, bool], dict[str, Any]]] = {
    "look": look,
    "plan": check,
    "isolated": isolated,
    "set_aside": set_aside,
    "recover": recover,
    "clear": clear,
    "release": release,
    "finish": finish,
}


def run(params: Params, check_mode: bool) -> dict[str, Any]:
    """One step; those of a restore into place one at a time."""
    step = STEPS[params["step"]]
    if step in (look, check, isolated) or check_mode:
        return step(params, check_mode)
    with alone(params["timeout"]):
        return step(params, check_mode)
