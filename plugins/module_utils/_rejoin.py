# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The steps by which a region that was failed over from comes back as a standby.

Each is run on a host of that region while its fence is up. What only the old side had is
saved before anything is rewound; a copy is made anew only where a rewind is impossible.
Every step may be run again: it goes on where an interruption left it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _diverged
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._etcd import EtcdClient
from ansible_collections.muster.platform.plugins.module_utils._fence import Fence, postgresql_fence, servers
from ansible_collections.muster.platform.plugins.module_utils._files import write_file
from ansible_collections.muster.platform.plugins.module_utils._patroni import (
    Survey,
    Tls,
    format_lsn,
    is_standby,
)
from ansible_collections.muster.platform.plugins.module_utils._pgbackrest import PROGRAMS, free_mb, identity
from ansible_collections.muster.platform.plugins.module_utils._phases import Phases
from ansible_collections.muster.platform.plugins.module_utils._restore import CONFIG, parse_history
from ansible_collections.muster.platform.plugins.module_utils._restore_steps import directory_mb, empty

Params = Mapping[str, Any]
# Left behind in etcd by a region that ended without a word. The leader too: an etcd that was killed
# gives the key of the dead leader a fresh lease when it returns. And how far its last leader had come: who
# is more than a megabyte behind that may not lead, and what was rewound is behind it.
STALE = ("leader", "failover", "failsafe", "sync", "status", "optime/leader")
# With them Patroni waits for ever for data that nobody has any more.
OF_LOST_DATA = ("initialize", "history", "status", "optime/leader")
ROOM_MB = 256
HISTORY = re.compile(r"[0-9A-F]{8}\.history")
UNREACHED = re.compile(r"connection to server .* failed|could not (connect to server|translate host name)")


# --- the new primary -----------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """The timeline that is now, and where it left the older ones."""

    host: str
    timeline: int
    system_identifier: str
    segment_size: int
    history: dict[int, int]


def ask_primary(params: Params) -> Line:
    """The one primary, outside this host's region, and its timeline's history."""
    survey = Survey(params["regions"], Tls.from_params(params), params["api_port"], timeout=2.0)
    home = next((name for name, hosts in params["regions"].items() if params["host"] in hosts), None)
    if home is None:
        raise MusterError(f"{params['host']} is not among the PostgreSQL hosts of any region")
    writers = [member for member in survey.members() if member.writable]
    if len(writers) != 1:
        names = ", ".join(member.host for member in writers) or "none"
        raise MusterError(
            f"exactly one host must take writes before a region is re-protected, found: {names}"
        )
    if writers[0].region == home:
        raise MusterError(f"region {home} is primary itself: there is nothing to re-protect")
    return _line(params, writers[0].host)


def _line(params: Params, host: str) -> Line:
    import psycopg2  # Debian's, on PostgreSQL hosts only

    try:
        connection = psycopg2.connect(
            host=host, port=params["port"], user="postgres", password=params["superuser_password"],
            dbname="postgres", sslmode="verify-full", sslrootcert=params["ca_certificate"], connect_timeout=5,
        )  # fmt: skip
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(
                "select ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int, "
                "(select system_identifier::text from pg_control_system()), "
                "(select setting::int from pg_settings where name = 'wal_segment_size')"
            )
            timeline, identifier, size = cursor.fetchone()
            cursor.execute("select pg_read_file(%s, 0, 1000000, true)", (f"pg_wal/{timeline:08X}.history",))
            history = parse_history(cursor.fetchone()[0] or "")
        connection.close()
    except psycopg2.Error as error:
        raise MusterError(f"PostgreSQL on {host}: {str(error).strip()}") from error
    if timeline > 1 and not history:
        raise MusterError(
            f"{host} does not know where its timeline {timeline} began: its history file is gone"
        )
    return Line(host, int(timeline), str(identifier), int(size), history)


# --- this host's data -----------------------------------------------------------


def alone(params: Params) -> _diverged.Alone:
    return _diverged.Alone(
        params["data_directory"], params["bin_directory"], params["user"], params["port"], None
    )


def fence_of(params: Params) -> Fence:
    return postgresql_fence(
        params["data_directory"], params["marker"], params["unit"], (params["port"], params["api_port"])
    )


def data_state(params: Params, line: Line) -> dict[str, Any]:
    """What the data directory holds, seen from the new primary's line.

    C(data) is none, foreign (another cluster's), current (never left that line) or old,
    with C(stretches) of its own. Two servers that were promoted without knowing of each
    other begin timelines of one number, which pg_rewind takes for the same: not C(rewindable).
    """
    data = params["data_directory"]
    state: dict[str, Any] = {"data": "none", "timeline": None, "stretches": [], "rewindable": False}
    if not os.path.isfile(f"{data}/global/pg_control"):
        return state
    control = alone(params).control()
    if control.get("Database system identifier") != line.system_identifier:
        return state | {"data": "foreign"}
    # A standby's last checkpoint may be of an older timeline than what it has replayed since.
    timeline = max(
        int(control["Latest checkpoint's TimeLineID"]),
        int(control.get("Min recovery ending loc's timeline", "0")),
    )
    newest = newest_timeline(data, timeline)
    # What the control file does not know yet is in the WAL all the same. That alone does not make data
    # current: a rewind that was interrupted left the new primary's WAL there.
    ways = [
        _diverged.own_stretches(own_history(data, number, line), number, line.history, line.timeline)
        for number in (newest, timeline)
    ]
    return state | {
        "data": "old" if any(ways) else "current",
        "timeline": newest,
        "stretches": ways[0] or ways[1],
        "rewindable": timeline != line.timeline,
    }


def newest_timeline(data: str, known: int) -> int:
    """The newest timeline that the data's own leads to, of which there is WAL.

    A standby notes that it followed a promotion with its next checkpoint, which may be minutes later.
    """
    wal = f"{data}/pg_wal"
    numbers = [int(name[:8], 16) for name in os.listdir(wal) if HISTORY.fullmatch(name)]
    for number in sorted(numbers, reverse=True):
        if known in read_history(wal, number) and _diverged.all_segments(wal, number):
            return number
    return known


def own_history(data: str, timeline: int, line: Line) -> dict[int, int]:
    """Where this data's timeline left its ancestors; by the primary's account where no file tells."""
    try:
        return read_history(f"{data}/pg_wal", timeline)
    except FileNotFoundError:
        return {number: lsn for number, lsn in line.history.items() if number < timeline}


def read_history(wal: str, timeline: int) -> dict[int, int]:
    with open(f"{wal}/{timeline:08X}.history", encoding="utf-8") as stream:
        return parse_history(stream.read())


def look(params: Params, _check_mode: bool) -> dict[str, Any]:
    """Where this host stands."""
    line = ask_primary(params)
    state = data_state(params, line)
    return {
        "changed": False,
        "data": state["data"],
        "timeline": state["timeline"],
        "fork": format_lsn(state["stretches"][0].start) if state["stretches"] else None,
        "primary": line.host,
        "primary_timeline": line.timeline,
        "free_mb": free_mb(params["data_directory"])[0],
        "data_mb": directory_mb(params["data_directory"]),
    }


# --- saving what only this side had ------------------------------------------------


def folder(params: Params) -> Path:
    """Named after the moment of the fence, which stays the same however often a step is run."""
    note = fence_of(params).marked()
    if not note:
        raise MusterError(f"{params['host']} is not fenced ({params['marker']} is missing or says nothing)")
    return Path(params["save_directory"]) / "".join(c for c in str(note["fenced_at"])[:19] if c.isalnum())


def kept(params: Params) -> dict[str, Any] | None:
    """What an earlier run of this step saved."""
    try:
        found = json.loads((folder(params) / "summary.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise MusterError(f"{folder(params)}/summary.json cannot be read: {error}") from error
    return found if isinstance(found, dict) else None


def nothing(reason: str, count: int | None) -> dict[str, Any]:
    return {
        "count": count, "reason": reason, "first_at": None, "last_at": None, "tables": [],
        "deleted_rows": None if count is None else 0, "wal_files": 0, "directory": None,
    }  # fmt: skip


def save(params: Params, check_mode: bool) -> dict[str, Any]:
    """Keep the WAL after the fork, list its commits, and export their rows."""
    earlier = kept(params)
    if earlier:
        return {"changed": False, "saved": earlier}
    line = ask_primary(params)
    state = data_state(params, line)
    if state["data"] == "none":
        return {"changed": False, "saved": nothing("the data directory is lost", None)}
    if state["data"] == "foreign":
        return {"changed": False, "saved": nothing("the data is of another cluster", None)}
    if state["data"] == "current":
        return {"changed": False, "saved": nothing("the data never left the new primary's line", 0)}
    if check_mode:
        return {"changed": True, "saved": nothing("check mode", None)}
    refuse_running(params)
    return {"changed": True, "saved": _save(params, line, state)}


def refuse_running(params: Params) -> None:
    if servers(params["data_directory"]):
        raise MusterError(f"PostgreSQL on {params['host']} runs: the region must be fenced first")


def _save(params: Params, line: Line, state: Mapping[str, Any]) -> dict[str, Any]:
    place = folder(params)
    if place.exists():
        shutil.rmtree(place)  # half-written: there is no summary
    wal = f"{params['data_directory']}/pg_wal"
    stretches: list[_diverged.Stretch] = state["stretches"]
    names = [name for part in stretches for name in _diverged.segments_of(wal, part, line.segment_size)]
    size = sum(os.path.getsize(f"{wal}/{name}") for name in names) >> 20
    if free_mb(str(place))[0] < size + ROOM_MB:
        raise MusterError(f"{place} has no room for {size} MB of WAL that only {params['host']} has")
    place.mkdir(parents=True, mode=0o700)
    _diverged.copy_wal(wal, names, place / "wal")
    dump = _diverged.Waldump(params["bin_directory"], wal, stretches, line.segment_size, params["user"])
    try:
        commits = _diverged.parse_commits(dump.lines("Transaction"))
        changes = _diverged.parse_changes(dump.lines("Heap", "Heap2"), _diverged.with_children(commits))
    except MusterError as error:
        summary = {**nothing(str(error), None), "wal_files": len(names), "directory": str(place)}
    else:
        (place / "commits.csv").write_text(_diverged.commits_csv(commits), encoding="utf-8")
        summary = {
            "count": len(commits),
            "reason": "",
            "first_at": min((c.committed_at for c in commits), default=None),
            "last_at": max((c.committed_at for c in commits), default=None),
            "tables": _rows(params, commits, changes, place) if commits else [],
            "deleted_rows": changes.deleted,
            "wal_files": len(names),
            "directory": str(place),
        }
    first = stretches[0]
    summary |= {"fork": format_lsn(first.start), "timeline": first.timeline, "host": params["host"]}
    # It comes last: with it the folder is whole.
    write_file(place / "summary.json", json.dumps(summary))
    return summary


def _rows(
    params: Params, commits: Sequence[_diverged.Commit], changes: _diverged.Changes, place: Path
) -> list[dict[str, Any]]:
    """Start the old data by itself, and write the rows that those commits left."""
    (place / "rows").mkdir(mode=0o700)
    server = alone(params)
    try:
        server.open(params["timeout"])
        server.wait_for(commits[-1].lsn, params["timeout"])
        xids = _diverged.with_children(commits)
        return _diverged.export_rows(server, changes, xids, place / "rows", params["max_rows"])
    finally:
        server.close()


# --- the region's configuration ------------------------------------------------------


def region_config(params: Params, client: EtcdClient) -> tuple[dict[str, Any] | None, int]:
    """The region's configuration in its own etcd, and its revision; None when there is none."""
    key = f"/service/{params['scope']}/config"
    stored = client.get(key)
    if stored is None:
        return None, 0
    try:
        config = json.loads(stored.value)
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise MusterError(f"{key} is not what Patroni writes")
    return config, stored.mod_revision


def configure(params: Params, check_mode: bool) -> dict[str, Any]:
    """Make the region a standby in its own etcd, before anything of it may start."""
    if not is_standby(params):
        raise MusterError(
            "standby_cluster must name the host, the port or the archive that the region follows"
        )
    ask_primary(params)
    client = EtcdClient(
        params["etcd_endpoints"], params["ca_certificate"], params["certificate"], params["private_key"]
    )
    prefix = f"/service/{params['scope']}"
    try:
        config, revision = region_config(params, client)
        if config is None:
            raise MusterError(f"{prefix}/config is missing: provision the region with site.yml first")
        wanted = not is_standby(config)
        # What is removed comes first: with the configuration the step is done, and is not done again.
        keys = [*(STALE if wanted else ()), *(OF_LOST_DATA if params["forget_data"] else ())]
        keys = [f"{prefix}/{key}" for key in keys]
        if check_mode:
            return {"changed": wanted or any(client.get(key) for key in keys)}
        removed = [key for key in keys if client.delete(key)]
        if wanted:
            text = json.dumps(config | {"standby_cluster": dict(params["standby_cluster"])})
            if not client.put_if(f"{prefix}/config", text, revision):
                raise MusterError(f"{prefix}/config was changed by someone else just now: run this again")
        return {"changed": wanted or bool(removed)}
    finally:
        client.close()


# --- rewinding ------------------------------------------------------------------------


def rewind(params: Params, check_mode: bool) -> dict[str, Any]:
    """Make the data a copy again: by pg_rewind, or by clearing it for a new copy."""
    line = ask_primary(params)
    state = data_state(params, line)
    if state["data"] == "current":
        return {"changed": False, "method": "none", "reason": "the data never left the new primary's line"}
    if check_mode:
        return {"changed": True, "method": "rewind", "reason": ""}
    refuse_running(params)
    began = time.monotonic()
    reason = why_no_rewind(params, state) or pg_rewind(params, line)
    method = "clone" if reason else "rewind"
    aside = clear(params) if method == "clone" and left_over(params["data_directory"]) else None
    return {
        "changed": True,
        "method": method,
        "reason": reason,
        "old_directory": aside,
        "seconds": round(time.monotonic() - began, 3),
    }


def why_no_rewind(params: Params, state: Mapping[str, Any]) -> str:
    """Why it is not even tried; empty when it is. Nothing is lost by it that was not saved."""
    if state["data"] == "none":
        return "the data directory is lost"
    if state["data"] == "foreign":
        return "the data is of another cluster"
    saved = kept(params)
    if saved is None and not params["discard"]:
        raise MusterError(f"what only {params['host']} has is not saved yet: run the step save first")
    if not state["rewindable"]:
        return f"timeline {state['timeline']} was begun twice, here and at the new primary"
    if saved and saved.get("count") is None and not params["discard"]:
        return f"what only it has could not be listed: {saved.get('reason')}"
    return ""


def left_over(data: str) -> bool:
    """Whether there is anything in the directory; clearing it may have been interrupted."""
    return os.path.isdir(data) and bool(set(os.listdir(data)) - {"lost+found"})


def pg_rewind(params: Params, line: Line) -> str:
    """Rewind to the fork; why that was not possible, or an empty text."""
    data = params["data_directory"]
    restore_command = params["restore_command"].replace("'", "''")
    source = (
        f"host={line.host} port={params['port']} user={params['rewind_user']} dbname=postgres "
        f"sslmode=verify-full sslrootcert={params['ca_certificate']} connect_timeout=5"
    )
    # WAL that was recycled since is fetched from the archive.
    config = Path(data) / CONFIG
    config.write_text(
        f"include_if_exists 'postgresql.conf'\nrestore_command = '{restore_command}'\n",
        encoding="utf-8",
    )
    config.chmod(0o644)
    # A server that was killed is first recovered by pg_rewind, in single-user mode, which refuses to be a
    # standby. Patroni makes these files anew.
    for name in ("standby.signal", "recovery.signal"):
        Path(data, name).unlink(missing_ok=True)
    words = [
        f"{params['bin_directory']}/pg_rewind", f"--target-pgdata={data}", f"--source-server={source}",
        "--restore-target-wal", f"--config-file={config}",
    ]  # fmt: skip
    environment = {"PATH": PROGRAMS, "LC_ALL": "C.UTF-8", "PGPASSWORD": params["rewind_password"]}
    try:
        result = subprocess.run(  # pylint: disable=ansible-bad-function
            words, capture_output=True, text=True, errors="replace", timeout=params["timeout"], check=False,
            cwd="/", env=environment, **identity(params["user"]),
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return f"pg_rewind: {error}"
    finally:
        config.unlink(missing_ok=True)
    if result.returncode == 0:
        return ""
    lines = [text for text in result.stderr.splitlines() if "error" in text or "fatal" in text]
    reason = (lines or result.stderr.splitlines() or ["pg_rewind failed"])[-1]
    if UNREACHED.search(reason):
        # Nothing was written yet, and a new copy would not get any further.
        raise MusterError(f"{params['host']} cannot be rewound now, run this again: {reason}")
    return reason


def clear(params: Params) -> str | None:
    """Make way for a new copy. Data of which nothing could be saved is set aside, not removed."""
    data = params["data_directory"]
    saved = kept(params)
    if saved and saved.get("count") is not None:
        empty(data)
        return None
    if params["discard"]:
        empty(data)
        return None
    aside = f"{data}.before-reprotect-{folder(params).name}"
    if os.path.ismount(data) or free_mb(data)[0] < directory_mb(data) + ROOM_MB:
        raise MusterError(
            f"{data} on {params['host']} cannot be rewound, what only it has could not be listed, and there "
            "is no room to keep it beside a new copy: move it away, or set postgresql_reprotect_discard: true"
        )
    os.rename(data, aside)
    return aside


# --- the last steps ---------------------------------------------------------------------


def release(params: Params, check_mode: bool) -> dict[str, Any]:
    """Take the fence down; the region's configuration must be a standby's by now."""
    fence = fence_of(params)
    if not fence.stands():
        return {"changed": False}
    client = EtcdClient(
        params["etcd_endpoints"], params["ca_certificate"], params["certificate"], params["private_key"]
    )
    try:
        config, _revision = region_config(params, client)
    finally:
        client.close()
    if config is None or not is_standby(config):
        raise MusterError(
            f"refused to take down the fence of {params['host']}: its region is not configured as a standby"
        )
    return {"changed": True if check_mode else fence.take_down()}


STEPS: dict[str, Callable[[Params, bool], dict[str, Any]]] = {
    "look": look,
    "save": save,
    "configure": configure,
    "rewind": rewind,
    "release": release,
}


def run(params: Params, check_mode: bool) -> dict[str, Any]:
    phases, step = Phases(), params["step"]
    try:
        with phases(f"re-protect: {step} {params['host']}"):
            result = STEPS[step](params, check_mode)
    except OSError as error:
        raise MusterError(f"the step {step} on {params['host']}: {error}") from error
    return {**result, "muster_phases": phases.done if step in ("save", "rewind") else []}
