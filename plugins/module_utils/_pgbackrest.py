# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""pgBackRest: running it as its own user, and reading what it says instead of its exit code."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

# Options that every module of this family has.
OPTIONS: dict[str, dict[str, Any]] = {
    "stanza": {"type": "str", "required": True},
    "user": {"type": "str", "default": "postgres"},
    "config": {"type": "path"},
}
PROGRAMS = "/usr/sbin:/usr/bin:/sbin:/bin"
# Another backup of the same cluster is under way: pgBackRest's lock file on this
# host, or its advisory lock in PostgreSQL, which the other repository host holds.
BUSY = re.compile(r"unable to acquire (lock on file|pgBackRest advisory lock)", re.IGNORECASE)
ERROR_LINE = re.compile(r"(?:^|\s)(?:ERROR|WARN): *(?:\[\d+\]: *)?(.*)")
NO_SPACE = "No space left on device"
STANZA_OK, STANZA_NO_PATH, STANZA_NO_BACKUPS, STANZA_NO_DATA = 0, 1, 2, 3
SETS_VERIFY_SINCE = (2, 51)

Result = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Backup:
    """One backup as a repository lists it; times are seconds since 1970."""

    label: str
    type: str
    repository: int
    start: int
    stop: int
    size: int  # bytes of the database
    delta: int  # bytes read for this backup
    repository_size: int | None  # bytes that a restore reads
    repository_delta: int | None  # bytes that this backup added
    error: bool | None  # page checksum errors; None when the repository does not tell
    lsn_start: str | None
    lsn_stop: str | None
    wal_start: str | None
    wal_stop: str | None
    references: list[str] = field(default_factory=list)

    @property
    def stopped_at(self) -> str:
        return utc(self.stop)


@dataclass(frozen=True)
class Repository:
    """What one stanza looks like in the repositories that were read."""

    exists: bool
    code: int
    message: str
    backups: list[Backup]
    archives: list[dict[str, Any]]
    problems: list[str] = field(default_factory=list)  # of single repositories
    locked: bool = False  # a backup is under way

    @property
    def good(self) -> list[Backup]:
        return [backup for backup in self.backups if not backup.error]

    @property
    def newest(self) -> Backup | None:
        return max(self.good, key=lambda backup: backup.stop, default=None)


def utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_backup(raw: Mapping[str, Any]) -> Backup:
    info = raw.get("info") or {}
    repository = info.get("repository") or {}
    return Backup(
        label=raw["label"],
        type=raw["type"],
        repository=(raw.get("database") or {}).get("repo-key", 1),
        start=raw["timestamp"]["start"],
        stop=raw["timestamp"]["stop"],
        size=info.get("size", 0),
        delta=info.get("delta", 0),
        repository_size=repository.get("size"),
        repository_delta=repository.get("delta"),
        error=raw.get("error"),
        lsn_start=(raw.get("lsn") or {}).get("start"),
        lsn_stop=(raw.get("lsn") or {}).get("stop"),
        wal_start=(raw.get("archive") or {}).get("start"),
        wal_stop=(raw.get("archive") or {}).get("stop"),
        references=list(raw.get("reference") or []),
    )


def read_info(document: Any, stanza: str) -> Repository:
    """Read the answer of `pgbackrest info --output=json`."""
    found = next((entry for entry in document if entry.get("name") == stanza), None)
    if found is None:
        return Repository(False, STANZA_NO_PATH, "missing stanza path", [], [])
    status = found.get("status") or {}
    code = status.get("code", STANZA_OK)
    problems = [
        f"repository {repo.get('key')}: {(repo.get('status') or {}).get('message')}"
        for repo in found.get("repo") or []
        if (repo.get("status") or {}).get("code") not in (STANZA_OK, STANZA_NO_BACKUPS)
    ]
    archives = [
        {
            "id": archive.get("id"),
            "repository": (archive.get("database") or {}).get("repo-key", 1),
            "min": archive.get("min"),
            "max": archive.get("max"),
        }
        for archive in found.get("archive") or []
    ]
    return Repository(
        exists=code not in (STANZA_NO_PATH, STANZA_NO_DATA),
        code=code,
        message=status.get("message", ""),
        backups=sorted(map(read_backup, found.get("backup") or []), key=lambda backup: backup.stop),
        archives=archives,
        problems=problems,
        locked=bool(((status.get("lock") or {}).get("backup") or {}).get("held")),
    )


def reason_from(output: str) -> str:
    """What pgBackRest said was wrong, as one line without its log prefix."""
    said: list[str] = []
    for line in output.splitlines():
        match = ERROR_LINE.search(line)
        if match and match[1].strip():
            said.append(match[1].strip())
        elif said and line.startswith(" ") and line.strip():
            said[-1] += " " + line.strip()
    if not said:
        said = [line for line in output.splitlines() if line.strip()][-1:]
    return re.sub(r"\s+", " ", "; ".join(dict.fromkeys(said)))[:1000] or "it said nothing"


def identity(name: str) -> dict[str, Any]:
    """The arguments with which subprocess runs a program as this user."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise MusterError(f"there is no user {name}: PostgreSQL's packages are not installed") from None
    if os.geteuid() == entry.pw_uid:
        return {}
    if os.geteuid() != 0:
        raise MusterError(f"only root and {name} can do this")
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


class PgBackRest:
    """The program on this host, run as the user who owns its files."""

    def __init__(self, stanza: str, user: str = "postgres", config: str | None = None) -> None:
        self.stanza = stanza
        self.user = user
        self.options = [f"--stanza={stanza}", *([f"--config={config}"] if config else [])]

    def run(self, *words: str, timeout: float) -> Result:
        """Run one command to its end; its exit code is for the caller to judge."""
        try:
            return subprocess.run(  # pylint: disable=ansible-bad-function
                ["pgbackrest", *words],
                capture_output=True, text=True, errors="replace", timeout=timeout, check=False, cwd="/",
                env={"PATH": PROGRAMS, "LC_ALL": "C.UTF-8"},
                **identity(self.user),
            )  # fmt: skip
        except FileNotFoundError:
            raise MusterError("pgBackRest is not installed") from None
        except subprocess.TimeoutExpired:
            raise MusterError(f"pgbackrest {words[0]} took longer than {timeout:g} s: ended") from None

    def command(self, command: str, *words: str, timeout: float) -> Result:
        """Run a command on the stanza; what it says is all on standard output."""
        return self.run(command, *self.options, "--log-level-stderr=off", *words, timeout=timeout)

    def info(self, *options: str, timeout: float = 60) -> Repository:
        """What the repositories hold of the stanza."""
        quiet = ("--output=json", "--log-level-console=off", "--log-level-file=off")
        result = self.command("info", *quiet, *options, timeout=timeout)
        try:
            document = json.loads(result.stdout)
        except ValueError:
            # Nothing was logged so that there would be only JSON: ask again for the reason.
            again = self.command("info", "--log-level-console=warn", *options, timeout=timeout)
            reason = reason_from(again.stdout + again.stderr)
            raise MusterError(f"the repository cannot be read: {reason}") from None
        return read_info(document, self.stanza)

    def version(self) -> tuple[int, ...] | None:
        """Of the installed program; None when there is none."""
        try:
            text = self.run("version", timeout=10).stdout
        except MusterError:
            return None
        match = re.search(r"(\d+(?:\.\d+)+)", text)
        return tuple(map(int, match[1].split("."))) if match else None

    def verify(self, label: str, timeout: float) -> None:
        """Read the whole backup set again; MusterError unless all of it is intact.

        The exit code is 0 whatever is found. The text report is what counts, and it
        must name the backup as valid.
        """
        options = ["--output=text", "--verbose", "--log-level-console=off"]
        version = self.version()
        if version and version >= SETS_VERIFY_SINCE:
            options.append(f"--set={label}")
        result = self.command("verify", *options, timeout=timeout)
        problem = verify_problem(result.stdout, label, only_this=len(options) > 3)
        if result.returncode != 0 and problem is None:
            problem = reason_from(result.stdout + result.stderr)
        if problem:
            raise MusterError(f"the backup {label} is listed, but `pgbackrest verify` says: {problem}")


def verify_problem(report: str, label: str, only_this: bool) -> str | None:
    """What is wrong with a backup by the report of `pgbackrest verify`; None when it is proven intact.

    C(only_this): the report is on this backup and the WAL it needs, so all of it must be good.
    """
    lines = [line.strip() for line in report.splitlines() if line.strip()]
    valid = any(re.match(rf"backup: {re.escape(label)}, status: valid\b", line) for line in lines)
    if valid and (not only_this or "status: ok" in lines):
        return None
    wrong = [line for line in lines if not re.search(r"status: (ok|valid)\b|^stanza:", line)]
    return "; ".join(wrong)[:500] or "its report does not name the backup"


def when_free(attempt: Callable[[], Result], timeout: float, interval: float = 2.0) -> Result:
    """Repeat C(attempt) while another backup is under way, until the deadline."""
    deadline = time.monotonic() + timeout
    while True:
        result = attempt()
        if result.returncode == 0 or not BUSY.search(result.stdout + result.stderr):
            return result
        if time.monotonic() >= deadline:
            raise MusterError(
                f"another pgBackRest command holds the cluster's lock, still after {timeout:g} s"
            )
        time.sleep(interval)


def free_mb(path: str) -> tuple[int, int]:
    """Free and total MB of the file system that C(path) is or will be on."""
    while not os.path.isdir(path) and path != "/":
        path = os.path.dirname(path)
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize >> 20, found.f_blocks * found.f_frsize >> 20


def as_dict(backup: Backup) -> dict[str, Any]:
    """A backup as modules return it."""
    return {
        "label": backup.label,
        "type": backup.type,
        "repository": backup.repository,
        "started_at": utc(backup.start),
        "stopped_at": utc(backup.stop),
        "size_bytes": backup.size,
        "read_bytes": backup.delta,
        "repository_size_bytes": backup.repository_size,
        "repository_delta_bytes": backup.repository_delta,
        "error": backup.error,
        "lsn_start": backup.lsn_start,
        "lsn_stop": backup.lsn_stop,
        "wal_start": backup.wal_start,
        "wal_stop": backup.wal_stop,
        "references": backup.references,
    }
