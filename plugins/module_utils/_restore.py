# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Restoring PostgreSQL: what to restore from, and a temporary server that replays WAL to the target.

The temporary server listens on no network. Its socket is in the restored directory,
which nobody but its owner can enter, so nothing writes to it by mistake.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._patroni import parse_lsn
from ansible_collections.muster.platform.plugins.module_utils._pgbackrest import (
    PROGRAMS,
    Backup,
    PgBackRest,
    Repository,
    identity,
    reason_from,
    utc,
)
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

HBA = "muster_restore_hba.conf"
CONFIG = "muster_restore.conf"
AUTO = "postgresql.auto.conf"
LOG = "muster_restore.log"
# A socket's path has at most 107 characters.
LONGEST_DIRECTORY = 107 - len("/.s.PGSQL.65535")
# Settings that a standby needs at least as large as the primary had them.
SIZES = {
    "max_connections setting": "max_connections",
    "max_worker_processes setting": "max_worker_processes",
    "max_wal_senders setting": "max_wal_senders",
    "max_prepared_xacts setting": "max_prepared_transactions",
    "max_locks_per_xact setting": "max_locks_per_transaction",
}
# What pgBackRest writes there for the recovery, and a running member must not keep.
RECOVERY_SETTING = re.compile(r"\s*(restore_command|recovery_target\w*|archive_mode)\s*=")


@dataclass(frozen=True)
class Target:
    """What to restore: a backup, and how far to replay from it."""

    backup: Backup
    time: datetime | None  # None: to the end of the archive, or to the backup's own end
    named: bool  # the backup was named and no time given: stop as soon as it is consistent
    timeline: int
    repository: int

    @property
    def words(self) -> str:
        if self.time:
            return f"the state of {format_time(self.time)}"
        return f"the state of backup {self.backup.label}" if self.named else "the end of the archive"

    def options(self, action: str) -> list[str]:
        """pgBackRest's words for it."""
        general = [f"--repo={self.repository}", f"--set={self.backup.label}"]
        if self.time:
            timeline = f"--target-timeline={self.timeline}"
            return [
                *general,
                "--type=time",
                f"--target={format_target(self.time)}",
                f"--target-action={action}",
                timeline,
            ]
        if self.named:
            # pgBackRest takes no timeline for this type, but PostgreSQL does.
            timeline = f"--recovery-option=recovery_target_timeline={self.timeline}"
            return [*general, "--type=immediate", f"--target-action={action}", timeline]
        return [*general, "--type=default", f"--target-timeline={self.timeline}"]


def format_time(moment: datetime) -> str:
    """In UTC, with as many digits as it needs."""
    text = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return text.rstrip("0").rstrip(".") + "Z"


def format_target(moment: datetime) -> str:
    """As recovery_target_time takes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00")


def parse_time(text: str, now: datetime) -> datetime | None:
    """The point in time that a user wrote; None for none."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise MusterError(
            f"postgresql_restore_to_time '{text}' is no point in time; write it like 2026-11-21T10:00:00Z"
        ) from None
    if moment.tzinfo is None:
        raise MusterError(
            f"postgresql_restore_to_time '{text}' has no time zone; for UTC write it like {text.strip()}Z"
        )
    if moment > now:
        raise MusterError(
            f"postgresql_restore_to_time {format_time(moment)} is in the future: it is {format_time(now)} now"
        )
    return moment


# --- timelines ---------------------------------------------------------------


def parse_history(text: str) -> dict[int, int]:
    """A timeline's history file: the LSN at which each of its ancestors was left."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0].isdigit():
            found[int(words[0])] = parse_lsn(words[1])
    return found


def timeline_of(backup: Backup) -> int | None:
    return int(backup.wal_stop[:8], 16) if backup.wal_stop else None


def on_history(backup: Backup, timeline: int, history: Mapping[int, int]) -> bool:
    """Whether the timeline can be reached from the backup: it ended before its own was left."""
    own = timeline_of(backup)
    return (
        own is None
        or own == timeline
        or (own in history and parse_lsn(backup.lsn_stop or "0/0") <= history[own])
    )


class Archive:
    """The timelines that a repository's WAL archive knows of."""

    def __init__(self, program: PgBackRest, repository: int, found: Repository) -> None:
        self.program = program
        self.repository = repository
        ids = [archive["id"] for archive in found.archives if archive["id"]]
        self.path = f"archive/{program.stanza}/{ids[-1]}" if ids else None
        self.segments = [archive["max"] for archive in found.archives if archive["max"]]

    def _command(self, command: str, *words: str) -> str:
        result = self.program.command(command, f"--repo={self.repository}", *words, timeout=60)
        if result.returncode != 0:
            reason = reason_from(result.stdout + result.stderr)
            raise MusterError(f"the archive of repository {self.repository} cannot be read: {reason}")
        return result.stdout

    def histories(self) -> set[int]:
        """The timelines whose history files are there."""
        if self.path is None:
            return set()
        names = self._command("repo-ls", "--filter=[.]history$", self.path).split()
        return {int(name[:8], 16) for name in names}

    def newest(self) -> int:
        """The highest timeline that has WAL or a history in the archive."""
        return max([*(int(name[:8], 16) for name in self.segments), *self.histories()], default=1)

    def refuse_taken_timeline(self, timeline: int) -> None:
        """PostgreSQL takes the first number without a history file after the one it follows.

        A timeline that ended before its history was archived leaves a gap, and its
        WAL is there all the same: archiving would fail on it for ever.
        """
        histories, taken = self.histories(), timeline + 1
        while taken in histories:
            taken += 1
        if taken <= self.newest():
            raise MusterError(
                f"timeline {timeline} cannot be followed into place: the new one would be {taken}, "
                f"whose WAL repository {self.repository} has already; restore into a directory instead"
            )

    def history(self, timeline: int) -> dict[int, int]:
        if timeline == 1 or self.path is None:
            return {}
        return parse_history(self._command("repo-get", f"{self.path}/{timeline:08X}.history"))


# --- choosing ----------------------------------------------------------------


def choose(found: Repository, target: datetime | None, label: str, fits: Callable[[Backup], bool]) -> Backup:
    """The backup to start from; refuses with the earliest time there is."""
    if not found.good:
        raise MusterError("this repository has no backup to restore from")
    if label:
        named = next((backup for backup in found.good if backup.label == label), None)
        if named is None:
            labels = ", ".join(backup.label for backup in found.good[-10:])
            raise MusterError(
                f"postgresql_restore_backup '{label}' is not in this repository, whose newest are: {labels}"
            )
        usable = [named]
    else:
        usable = [backup for backup in found.good if fits(backup)]
        if not usable:
            raise MusterError(
                "no backup leads to this timeline: choose another with postgresql_restore_timeline"
            )
    if target is None:
        return usable[-1]
    within = [backup for backup in usable if backup.stop <= target.timestamp()]
    if not within:
        raise MusterError(
            f"postgresql_restore_to_time {format_time(target)} is before the end of the backup "
            f"{usable[0].label}: the earliest possible time is {utc(usable[0].stop)}"
        )
    return within[-1]


def plan(
    program: PgBackRest, repository: int, to_time: str, label: str, timeline: int, now: datetime
) -> Target:
    """Check what was asked for against what the repository holds."""
    moment = parse_time(to_time, now)
    try:
        found = program.info(f"--repo={repository}")
    except MusterError as error:
        raise MusterError(f"postgresql_restore_repository {repository}: {error}") from error
    if found.problems or not found.exists:
        reason = "; ".join(found.problems) or f"it has no stanza {program.stanza}"
        raise MusterError(f"postgresql_restore_repository {repository} cannot be used: {reason[:300]}")
    archive = Archive(program, repository, found)
    wanted = timeline or archive.newest()
    history = archive.history(wanted)
    backup = choose(found, moment, label, lambda candidate: on_history(candidate, wanted, history))
    named = bool(label) and moment is None
    if not on_history(backup, wanted, history):
        if not named:
            raise MusterError(
                f"postgresql_restore_backup {label} is not on the history of timeline {wanted}: "
                "give its own as postgresql_restore_timeline"
            )
        wanted = timeline_of(backup) or wanted
    return Target(backup, None if named else moment, named, wanted, repository)


# --- the temporary server ----------------------------------------------------


@dataclass(frozen=True)
class Reached:
    """What a recovery arrived at."""

    position: str
    last_commit_at: str | None
    timeline: int
    promoted: bool


class Server:
    """A PostgreSQL that is started from a restored directory for the recovery only."""

    def __init__(
        self, directory: str, bin_directory: str, user: str, port: int, archive_command: str | None
    ) -> None:
        self.directory = directory
        self.bin = bin_directory
        self.user = user
        self.port = port
        self.archive_command = archive_command

    def _run(self, *words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(  # pylint: disable=ansible-bad-function
                words, capture_output=True, text=True, errors="replace", timeout=timeout, check=False,
                cwd="/", stdin=subprocess.DEVNULL,
                env={"PATH": PROGRAMS, "LC_ALL": "C.UTF-8", "PGCONNECT_TIMEOUT": "5"},
                **identity(self.user),
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MusterError(f"{words[0]} failed: {error}") from error

    # --- settings ---

    def control(self) -> dict[str, str]:
        """What pg_controldata says of the directory."""
        result = self._run(f"{self.bin}/pg_controldata", "-D", self.directory)
        if result.returncode != 0:
            raise MusterError(f"{self.directory} is no data directory: {result.stderr.strip()}")
        pairs = (line.partition(":") for line in result.stdout.splitlines())
        return {name.strip(): value.strip() for name, _colon, value in pairs}

    def settings(self) -> dict[str, str]:
        """Settings over the restored ones: no network, nothing shared with another server."""
        control = self.control()
        sizes = {name: control[label] for label, name in SIZES.items() if label in control}
        archive = {"archive_mode": "off"}
        if self.archive_command:
            archive = {"archive_mode": "on", "archive_command": self.archive_command}
        return {
            **sizes,
            **archive,
            "port": str(self.port),
            "listen_addresses": "",
            "unix_socket_directories": self.directory,
            "hba_file": f"{self.directory}/{HBA}",
            "cluster_name": "muster-restore",
            "hot_standby": "on",
            "ssl": "off",
            "shared_buffers": "128MB",
            "huge_pages": "off",
            "logging_collector": "off",
            "log_destination": "stderr",
            "log_min_messages": "warning",
            "lc_messages": "C",
            "synchronous_standby_names": "",
            "primary_conninfo": "",
            "primary_slot_name": "",
        }

    def start_words(self, *how: str) -> list[str]:
        if self.archive_command:
            options = " ".join(f"-c {name}={shlex.quote(value)}" for name, value in self.settings().items())
        else:
            options = f"-c config_file={self.directory}/{CONFIG}"
        log = f"{self.directory}/{LOG}"
        return [f"{self.bin}/pg_ctl", "start", *how, "-s", "-D", self.directory, "-l", log, "-o", options]

    # --- running ---

    def prepare(self) -> None:
        """Write the one rule that lets only this user in, through the socket, and settings that stay.

        A server that becomes the live one gets its settings on the command line
        instead, and none of them stays.
        """
        self._write(HBA, "local all all peer\n")
        if self.archive_command:
            return
        settings = self.settings()
        lines = [f"{name} = '{value}'" for name, value in settings.items()]
        self._write(CONFIG, "\n".join(["include_if_exists 'postgresql.conf'", *lines, ""]))
        # What ALTER SYSTEM set in the backup comes after this file, and would win.
        self._filter(re.compile(rf"\s*({'|'.join(settings)})\s*="))

    def _write(self, name: str, text: str) -> None:
        path = f"{self.directory}/{name}"
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(path, 0o644)

    def _filter(self, unwanted: re.Pattern[str]) -> None:
        """Take settings out of postgresql.auto.conf."""
        path = f"{self.directory}/{AUTO}"
        with open(path, encoding="utf-8") as stream:
            lines = stream.readlines()
        with open(path, "w", encoding="utf-8") as stream:
            stream.writelines(line for line in lines if not unwanted.match(line))

    @property
    def running(self) -> bool:
        return self._run(f"{self.bin}/pg_ctl", "status", "-D", self.directory).returncode == 0

    def start(self, target: Target, timeout: float) -> None:
        """Start it and wait until it lets itself be asked: its data is consistent then."""
        words = self.start_words("-w", "-t", str(int(timeout)))
        if self._run(*words, timeout=timeout + 60).returncode == 0:
            return
        if not self.running:
            raise self._died(target)
        raise MusterError(f"waited {timeout:g} s for the data in {self.directory} to be consistent")

    def stop(self, timeout: float) -> None:
        """Stop it cleanly, if it runs at all."""
        if not self.running:
            return
        words = ("stop", "-s", "-w", "-t", str(int(timeout)), "-m", "fast", "-D", self.directory)
        result = self._run(f"{self.bin}/pg_ctl", *words, timeout=timeout + 30)
        if result.returncode != 0:
            raise MusterError(f"PostgreSQL in {self.directory} does not stop: {result.stderr.strip()}")

    def sql(self, query: str) -> list[str] | None:
        """One row; None while the server does not take questions yet."""
        result = self._run(
            f"{self.bin}/psql", "-XAtq", "-h", self.directory, "-p", str(self.port), "-U", self.user,
            "-d", "postgres", "-c", query,
        )  # fmt: skip
        return result.stdout.strip().split("|") if result.returncode == 0 else None

    def log(self) -> str:
        try:
            with open(f"{self.directory}/{LOG}", encoding="utf-8", errors="replace") as stream:
                return stream.read()
        except OSError:
            return ""

    def last_words(self) -> str:
        """The reason that the log gives, as one line."""
        lines = [
            line for line in self.log().splitlines() if re.search(r"\b(FATAL|PANIC|ERROR|DETAIL|HINT):", line)
        ]
        return "; ".join(re.sub(r"^.*?\b(FATAL|PANIC|ERROR|DETAIL|HINT): +", "", line) for line in lines[-4:])

    # --- recovering ---

    def recover(self, target: Target, promote: bool, timeout: float) -> Reached:
        """Start it, and wait until the target is reached; starts anew when a setting was too small."""
        deadline = time.monotonic() + timeout
        for _attempt in range(4):
            self.prepare()
            try:
                self.start(target, timeout)
                reached = wait_until(
                    lambda: self._look(target, promote),
                    f"the recovery in {self.directory} to reach {target.words}",
                    max(1.0, deadline - time.monotonic()),
                )
            except Ended as error:
                raise MusterError(str(error)) from None
            if reached is not self._TOO_SMALL:
                return reached
            # pg_control holds what the WAL asks for by now.
            self.stop(60)
            os.replace(f"{self.directory}/{LOG}", f"{self.directory}/{LOG}.1")
        raise MusterError(f"the recovery in {self.directory} asks for larger settings again and again")

    _TOO_SMALL = Reached("", None, 0, False)

    def _look(self, target: Target, promote: bool) -> Reached | None:
        """Where the recovery is: None when it goes on."""
        row = self.sql(QUERY)
        if row is None:
            if not self.running:
                raise self._died(target)
            return None
        recovering, paused, position, commit, timeline = row
        if recovering == "t" and paused == "t" and "insufficient parameter settings" in self.log():
            return self._TOO_SMALL
        promotes = promote or (target.time is None and not target.named)
        done = recovering == "f" if promotes else paused == "t"
        if not done:
            return None
        return Reached(position, commit or None, int(timeline), recovering == "f")

    def _died(self, target: Target) -> Ended:
        """Why the server ended."""
        text = self.log()
        if "recovery ended before configured recovery target was reached" in text:
            last = re.findall(r"last completed transaction was at log time ([0-9: .+-]+)", text)
            until = f"; the last commit in it is of {last[-1].strip()}" if last else ""
            return Ended(f"the archive ends before {target.words} is reached{until}")
        return Ended(f"the restored server ended: {self.last_words() or 'its log says nothing'}")

    # --- afterwards ---

    def forget_recovery(self) -> None:
        """Remove what was for this recovery only."""
        self._filter(RECOVERY_SETTING)
        for name in (HBA, LOG, f"{LOG}.1"):
            if os.path.exists(f"{self.directory}/{name}"):
                os.unlink(f"{self.directory}/{name}")

    def reading_commands(self) -> tuple[str, str, str]:
        """What a person runs to start the restored server, to read from it, and to stop it."""
        become = ["sudo", "-u", self.user]
        ask = ["psql", "-h", self.directory, "-p", str(self.port), "postgres"]
        stop = [f"{self.bin}/pg_ctl", "stop", "-D", self.directory]
        return (
            shlex.join([*become, *self.start_words("-w")]),
            shlex.join([*become, *ask]),
            shlex.join([*become, *stop]),
        )


QUERY = """
select pg_is_in_recovery(),
       case when pg_is_in_recovery() then pg_get_wal_replay_pause_state() = 'paused' else false end,
       case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end,
       to_char(pg_last_xact_replay_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
       case when pg_is_in_recovery()
            then (select greatest(c.timeline_id, r.min_recovery_end_timeline)
                  from pg_control_checkpoint() c, pg_control_recovery() r)
            else (select ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int) end
"""


class Ended(Exception):
    """The recovery is over, and failed: no use in looking again."""


def restore_files(
    program: PgBackRest, target: Target, directory: str, action: str, extra: Sequence[str], timeout: float
) -> None:
    """Let pgBackRest write the backup's files, and how to recover, into the directory."""
    options = [
        *target.options(action),
        f"--pg1-path={directory}",
        "--no-delta",
        "--log-level-console=warn",
        *extra,
    ]
    result = program.command("restore", *options, timeout=timeout)
    if result.returncode != 0:
        raise MusterError(
            f"the restore of {target.backup.label} into {directory} failed: "
            + reason_from(result.stdout + result.stderr)
        )


def as_dict(target: Target, reached: Reached | None) -> dict[str, Any]:
    """A restore as modules return it."""
    result: dict[str, Any] = {
        "backup": target.backup.label,
        "repository": target.repository,
        "target": target.words,
        "target_time": format_time(target.time) if target.time else None,
        "target_timeline": target.timeline,
    }
    if reached:
        result |= {
            "position": reached.position,
            "last_commit_at": reached.last_commit_at,
            "timeline": reached.timeline,
        }
    return result


def as_lines(target: Target, reached: Reached, directory: str) -> list[str]:
    """A restore told to a person."""
    at = reached.last_commit_at
    commit = f"the last commit is of {at}" if at else "no commit was replayed"
    label, number = target.backup.label, target.repository
    return [
        f"reached {target.words} in {directory}, from backup {label} of repository {number}",
        f"  at {reached.position} on timeline {reached.timeline}; {commit}",
    ]
