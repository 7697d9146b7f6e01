#!/usr/bin/python3
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bring WAL into the repository in S3, beside PostgreSQL and never in its way.

PostgreSQL's archive_command does not know of the repository in S3. Were it one of its own, an
endpoint that is down would hold up each push, and fail it: WAL would pile up until pgBackRest
drops it for the good repositories too, and a server that is to stop would wait for its archiver.

On the host that takes writes, each segment that PostgreSQL has finished is pushed into S3. One
that still waits for archive_command is copied from where it is; one that has been archived, and
may be overwritten, is got back from a repository host. After a start, a promotion, and whatever
went wrong, both archives are compared first: what a lost region had not sent any more, or what
an object store that was failed over had not received, is sent again.

What it needs to remember is in the repositories. Without its file in CONFIGURATION's C(config)
it ends. Only the standard library.

usage: postgresql_archive_copy.py CONFIGURATION
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any

WANTED = re.compile(r"[0-9A-F]{24}|[0-9A-F]{8}\.history")
# In the archive a segment's name has its checksum and how it is compressed behind it.
ARCHIVED = re.compile(r"(?:.*/)?([0-9A-F]{24}|[0-9A-F]{8}\.history)(?:-[0-9a-f]{40}(?:\.[a-z0-9]+)?)?")
NOT_THERE = 1
OTHER_CONTENT = 45
WAIT_AFTER_TROUBLE = 10.0


class Trouble(Exception):
    """What keeps WAL from being copied now; it is tried again."""


def say(text: str) -> None:
    print(text, flush=True)


def reason(done: subprocess.CompletedProcess[str]) -> str:
    """What pgBackRest said was wrong, as one line."""
    return " ".join((done.stderr or done.stdout).split())[:300] or "it said nothing"


class Copier:
    def __init__(self, given: dict[str, Any]) -> None:
        self.stanza: str = given["stanza"]
        self.config: str = given["config"]
        self.number: int = given["number"]
        self.sources: list[int] = given["sources"]
        self.data: str = given["data_directory"]
        self.spool: str = given["spool"]
        # Of what PostgreSQL has finished and still lists, what is in S3; None before the comparison.
        self.copied: set[str] | None = None

    # --- PostgreSQL -------------------------------------------------------------

    def writes(self) -> bool:
        """Whether the server here runs and is no standby."""
        signals = ("standby.signal", "recovery.signal")
        return os.path.exists(f"{self.data}/postmaster.pid") and not any(
            os.path.exists(f"{self.data}/{name}") for name in signals
        )

    def listed(self, *states: str) -> set[str]:
        """What PostgreSQL lists as finished; C(ready) waits for archive_command, C(done) was taken by it."""
        found = (name.rpartition(".") for name in os.listdir(f"{self.data}/pg_wal/archive_status"))
        return {name for name, _dot, state in found if state in states and WANTED.fullmatch(name)}

    def waits(self, name: str) -> bool:
        return os.path.exists(f"{self.data}/pg_wal/archive_status/{name}.ready")

    # --- pgBackRest -------------------------------------------------------------

    def run(self, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run one command, which says nothing but its answer and, on the other stream, what is wrong."""
        logs = (
            "--log-level-console=off",
            "--log-level-file=off",
            "--log-level-stderr=error",
            "--io-timeout=10",
        )
        try:
            return subprocess.run(
                ["pgbackrest", f"--stanza={self.stanza}", *logs, *words],
                capture_output=True, text=True, errors="replace", timeout=timeout, check=False, cwd="/",
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Trouble(f"pgbackrest {words[-1]} took longer than {timeout:g} s") from None

    def ask(self, *words: str) -> str:
        done = self.run(*words)
        if done.returncode != 0:
            raise Trouble(f"repository {words[0].removeprefix('--repo=')}: {reason(done)}")
        return done.stdout

    def stanza_of(self, number: int) -> dict[str, Any]:
        """What a repository tells of the stanza."""
        found = json.loads(self.ask(f"--repo={number}", "--output=json", "info"))
        entry: dict[str, Any] = next((one for one in found if one.get("name") == self.stanza), {})
        if not entry.get("archive") and not entry.get("db"):
            raise Trouble(f"repository {number} has no stanza {self.stanza} yet")
        return entry

    def names(self, number: int) -> set[str]:
        """Every segment and every history file that a repository's archive of this cluster has."""
        archives = self.stanza_of(number).get("archive") or []
        if not archives or not archives[-1].get("id"):
            return set()
        place = f"archive/{self.stanza}/{archives[-1]['id']}"
        listed = self.ask(f"--repo={number}", "--recurse", "repo-ls", place).split()
        return {match[1] for match in map(ARCHIVED.fullmatch, listed) if match}

    def first_of(self, there: set[str], here: set[str]) -> str:
        """The oldest segment worth copying: what the oldest backup in S3 needs; without one, what S3 has."""
        backups = self.stanza_of(self.number).get("backup") or []
        starts = [(backup.get("archive") or {}).get("start") for backup in backups]
        segments = [name for name in there if len(name) == 24] or [max(here, default="")]
        return min([start for start in starts if start] or segments)

    # --- copying ----------------------------------------------------------------

    def fetch(self, name: str) -> str | None:
        """A copy of a file; None when every repository host answers and none has it."""
        path, troubles = f"{self.spool}/{name}", []
        if self.waits(name):
            shutil.copyfile(f"{self.data}/pg_wal/{name}", path)
            # PostgreSQL leaves it alone as long as it waits, and it waited all the time.
            if self.waits(name):
                return path
        for number in self.sources:
            done = self.run(f"--repo={number}", f"--pg1-path={self.data}", "archive-get", name, path)
            if done.returncode == 0:
                return path
            if done.returncode != NOT_THERE:
                troubles.append(f"repository {number}: {reason(done)}")
        if troubles:
            raise Trouble(f"{name} cannot be read: {'; '.join(troubles)}")
        return None

    def copy(self, name: str) -> None:
        path = self.fetch(name)
        if path is None:
            say(f"{name} is in no repository: it is left out")
            return
        where = (f"--config={self.config}", f"--pg1-path={self.data}", "--compress-type=zst")
        try:
            done = self.run(*where, "archive-push", path)
        finally:
            os.unlink(path)
        if done.returncode == OTHER_CONTENT:
            # Of a line that was left: both regions may have begun the same timeline. Waiting mends nothing.
            say(f"{name} is left out, and a new full backup is needed: {reason(done)}")
        elif done.returncode != 0:
            raise Trouble(f"{name}: {reason(done)}")

    def copy_all(self, names: Iterable[str]) -> int:
        """In order, so that what is in S3 has no gap; history files first, which are few."""
        count = 0
        for name in sorted(names, key=lambda name: (len(name), name)):
            self.copy(name)
            count += 1
            if self.copied is not None:
                self.copied.add(name)
        return count

    def compare(self) -> None:
        """Send what S3 lacks of what the repository hosts have and its backups need."""
        done, ready = self.listed("done"), self.listed("ready")
        # S3 first: it is the one that is away, and nothing else is asked then.
        there = self.names(self.number)
        try:
            here = self.names_at_source()
        except Trouble:
            # What PostgreSQL still has can be sent without them.
            self.copy_all(ready - there)
            raise
        first = self.first_of(there, {name for name in here if len(name) == 24})
        missing = {name for name in here - there if len(name) != 24 or name >= first}
        count = self.copy_all(missing)
        say(f"compared with repository {self.number}: it lacked {count} of {len(here)}")
        self.copied = done | (ready & here)

    def names_at_source(self) -> set[str]:
        """Of the first repository host that answers."""
        troubles = []
        for number in self.sources:
            try:
                return self.names(number)
            except Trouble as error:
                troubles.append(str(error))
        raise Trouble("; ".join(troubles))

    def step(self) -> None:
        """Once around: nothing at all on a standby."""
        if not self.writes():
            self.copied = None
            return
        try:
            if self.copied is None:
                self.compare()
            else:
                self.follow(self.copied)
        except Trouble:
            # What went wrong may have been an object store that moved, and lost something on the way.
            self.copied = None
            raise

    def follow(self, copied: set[str]) -> None:
        """Send what PostgreSQL has finished since the last time."""
        listed = self.listed("done", "ready")
        copied &= listed
        self.copy_all(listed - copied)


def main() -> int:
    with open(sys.argv[1], encoding="utf-8") as stream:
        given = json.load(stream)
    copier, trouble = Copier(given), ""
    for name in os.listdir(copier.spool):
        os.unlink(f"{copier.spool}/{name}")
    while os.path.exists(copier.config):
        wait = float(given["interval"])
        try:
            copier.step()
            if trouble:
                say("it goes on")
            trouble = ""
        except (Trouble, OSError, ValueError) as error:
            if str(error) != trouble:
                say(f"WAL waits to be copied: {error}")
            trouble, wait = str(error), WAIT_AFTER_TROUBLE
        time.sleep(wait)
    return 0


if __name__ == "__main__":
    sys.exit(main())
