# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What only a lost region's old data has: the commits after the fork, from its WAL, and their rows.

pg_waldump reads the WAL of the data directory at rest; for the rows the data is started
alone: no network, no archive, nothing written but what crash recovery writes.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._patroni import format_lsn, parse_lsn
from ansible_collections.muster.platform.plugins.module_utils._pgbackrest import PROGRAMS, identity
from ansible_collections.muster.platform.plugins.module_utils._restore import (
    CONFIG,
    LOG,
    Server,
)
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

COMMIT = re.compile(
    r"rmgr: Transaction .* tx: +(?P<tx>\d+), lsn: (?P<lsn>[0-9A-F]+/[0-9A-F]+), .*?"
    r"desc: COMMIT(?P<prepared>_PREPARED (?P<xid>\d+):?)? +(?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?) UTC"
)
SUBTRANSACTIONS = re.compile(r"subxacts: ([\d ]+)")
CHANGE = re.compile(r"rmgr: (Heap|Heap2) .* tx: +(?P<tx>\d+), lsn: .*?desc: (?P<what>[A-Z_+]+)")
BLOCK = re.compile(
    r"blkref #\d+: rel \d+/(?P<database>\d+)/(?P<file>\d+) (?P<fork>fork \w+ )?blk (?P<block>\d+)"
)
END_OF_WAL = re.compile(
    r"error in WAL record|invalid record length|invalid magic number|unexpected pageaddr"
    r"|could not find a valid record|could not find file"
)
WHERE_IT_IS = "select pg_is_in_recovery(), coalesce(pg_last_wal_replay_lsn(), '0/0')"
OFFSETS = 291  # the most rows that a page of 8 kB holds
PAGES = 500  # in one query


@dataclass(frozen=True)
class Commit:
    """A transaction that was committed after the fork."""

    xid: int
    committed_at: str  # UTC, ISO 8601
    lsn: str
    subtransactions: tuple[int, ...] = ()


@dataclass
class Changes:
    """The pages that the commits touched, by database and file, and how many rows they deleted."""

    pages: dict[tuple[int, int], set[int]] = field(default_factory=dict)
    deleted: int = 0


@dataclass(frozen=True)
class Stretch:
    """A part of a timeline, from one LSN to another; None is its end."""

    timeline: int
    start: int
    end: int | None


def parse_commits(lines: Iterable[str]) -> list[Commit]:
    """The commits among what pg_waldump prints of transactions, in its order."""
    found = []
    for line in lines:
        match = COMMIT.search(line)
        if not match:
            continue
        children = SUBTRANSACTIONS.search(line)
        found.append(
            Commit(
                int(match["xid"] or match["tx"]),
                match["at"].replace(" ", "T") + "Z",
                match["lsn"],
                tuple(int(word) for word in children[1].split()) if children else (),
            )
        )
    return found


def parse_changes(lines: Iterable[str], xids: set[int]) -> Changes:
    """What these transactions changed in tables, by pg_waldump."""
    changes = Changes()
    for line in lines:
        match = CHANGE.search(line)
        if not match or int(match["tx"]) not in xids:
            continue
        if match["what"].startswith("DELETE"):
            changes.deleted += 1
        for block in BLOCK.finditer(line):
            if not block["fork"]:
                key = (int(block["database"]), int(block["file"]))
                changes.pages.setdefault(key, set()).add(int(block["block"]))
    return changes


def with_children(commits: Iterable[Commit]) -> set[int]:
    return set(itertools.chain.from_iterable((c.xid, *c.subtransactions) for c in commits))


def commits_csv(commits: Iterable[Commit]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["xid", "committed_at", "lsn"])
    writer.writerows((commit.xid, commit.committed_at, commit.lsn) for commit in commits)
    return text.getvalue()


class Waldump:
    """pg_waldump over the WAL of a data directory at rest, one stretch after the other."""

    def __init__(
        self, bin_directory: str, wal: str, stretches: Sequence[Stretch], segment_size: int, user: str
    ) -> None:
        self.program = f"{bin_directory}/pg_waldump"
        self.wal = wal
        self.stretches = stretches
        self.segment_size = segment_size
        self.user = user

    def lines(self, *managers: str) -> Iterator[str]:
        """Its lines as they come; a MusterError when the WAL from the fork on is not all there."""
        for stretch in self.stretches:
            if not self.ends_before(stretch):
                with readable(self.wal, stretch.timeline) as directory:
                    yield from self._lines(directory, stretch, managers)

    def ends_before(self, stretch: Stretch) -> bool:
        """Whether this data never got as far as the stretch: then nothing of it is missing."""
        names = all_segments(self.wal, stretch.timeline)
        if not names:
            raise MusterError(f"there is no WAL of timeline {stretch.timeline} any more")
        first = segment_name(stretch.timeline, stretch.start, self.segment_size)
        if first not in (name[:24] for name in names) and names[-1][:24] > first:
            raise MusterError(f"the WAL from the fork on is not complete: {first} is missing")
        return names[-1][:24] < first

    def _lines(self, directory: str, stretch: Stretch, managers: Sequence[str]) -> Iterator[str]:
        words = [
            self.program, f"--path={directory}", f"--timeline={stretch.timeline}",
            f"--start={format_lsn(stretch.start)}",
            *([f"--end={format_lsn(stretch.end)}"] if stretch.end is not None else []),
            *(f"--rmgr={name}" for name in managers),
        ]  # fmt: skip
        with subprocess.Popen(  # pylint: disable=ansible-bad-function
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", cwd="/",
            env={"PATH": PROGRAMS, "LC_ALL": "C.UTF-8", "TZ": "UTC", "PGTZ": "UTC"}, **identity(self.user),
        ) as process:  # fmt: skip
            yield from process.stdout or ()
            errors = process.stderr.read().strip() if process.stderr else ""
        # Without an end it ends with an error: where the WAL ends, there is no valid record. With one, a part
        # is missing.
        ended = stretch.end is None and END_OF_WAL.search(errors)
        if process.returncode != 0 and not ended:
            raise MusterError(
                f"pg_waldump failed: {errors.splitlines()[-1] if errors else process.returncode}"
            )


def segment_name(timeline: int, lsn: int, segment_size: int) -> str:
    number, per_id = lsn // segment_size, 0x100000000 // segment_size
    return f"{timeline:08X}{number // per_id:08X}{number % per_id:08X}"


def all_segments(wal: str, timeline: int) -> list[str]:
    """The WAL files of a timeline, the partly filled ones too, in their order."""
    pattern = re.compile(rf"{timeline:08X}[0-9A-F]{{16}}(\.partial)?")
    return sorted(name for name in os.listdir(wal) if pattern.fullmatch(name))


@contextlib.contextmanager
def readable(wal: str, timeline: int) -> Iterator[str]:
    """A directory in which pg_waldump finds a timeline's WAL: a promotion calls its last file .partial."""
    with tempfile.TemporaryDirectory(prefix="muster-wal-") as directory:
        Path(directory).chmod(0o755)  # pg_waldump runs as another user; there is nothing in it but names
        # Backwards: where there is a whole file too, it is that.
        for link, name in {name[:24]: name for name in reversed(all_segments(wal, timeline))}.items():
            Path(directory, link).symlink_to(os.path.join(wal, name))
        yield directory


def segments_of(wal: str, stretch: Stretch, segment_size: int) -> list[str]:
    """The WAL files that hold a stretch."""
    first = segment_name(stretch.timeline, stretch.start, segment_size)
    return [name for name in all_segments(wal, stretch.timeline) if name[:24] >= first]


class Alone(Server):
    """The old data started by itself, to read from it."""

    def settings(self) -> dict[str, str]:
        return {
            **super().settings(),
            "cluster_name": "muster-diverged",
            "autovacuum": "off",
            "default_transaction_read_only": "on",
            "restore_command": "",
            "max_wal_size": "64GB",  # nothing that was not saved is to be recycled
            "recovery_target_timeline": "latest",
            "recovery_min_apply_delay": "0",
        }

    def open(self, timeout: float) -> None:
        self.prepare()
        words = self.start_words("-w", "-t", str(int(timeout)))
        if self._run(*words, timeout=timeout + 60).returncode != 0:
            raise MusterError(f"the old data in {self.directory} does not start: {self.last_words()}")

    def has_replayed(self, lsn: str) -> bool:
        recovering, at = self.psql("postgres", WHERE_IT_IS).strip().split("|")
        return recovering == "f" or parse_lsn(at) > parse_lsn(lsn)

    def wait_for(self, lsn: str, timeout: float) -> None:
        """Wait for a record: a standby lets itself be asked before it has replayed all of its WAL."""
        if not self.has_replayed(lsn):  # a server that cannot be asked at all is told at once
            what = f"the old data in {self.directory} to be replayed to {lsn}"
            wait_until(lambda: self.has_replayed(lsn), what, timeout, 0.1)

    def close(self) -> None:
        self.stop(120)
        for name in ("muster_restore_hba.conf", CONFIG, LOG, f"{LOG}.1"):
            if os.path.exists(f"{self.directory}/{name}"):
                os.unlink(f"{self.directory}/{name}")

    def psql(self, database: str, query: str) -> str:
        """What one query answers; it may be longer than a command line."""
        words = [
            f"{self.bin}/psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", self.directory, "-p", str(self.port),
            "-U", self.user, "-d", database,
        ]  # fmt: skip
        try:
            result = subprocess.run(  # pylint: disable=ansible-bad-function
                words, input=query, capture_output=True, text=True, errors="replace", timeout=600,
                check=False, cwd="/", env={"PATH": PROGRAMS, "LC_ALL": "C.UTF-8"}, **identity(self.user),
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            raise MusterError(f"reading the old data: {error}") from error
        if result.returncode != 0:
            raise MusterError(f"reading the old data: {result.stderr.strip()}")
        return result.stdout


def batches(values: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def export_rows(
    server: Alone, changes: Changes, xids: set[int], directory: Path, most: int
) -> list[dict[str, Any]]:
    """Write the rows that those transactions left, a CSV file per table; what was written."""
    names = {
        int(oid): name
        for oid, name in (
            line.split("|", 1)
            for line in server.psql("postgres", "select oid, datname from pg_database").splitlines()
        )
    }
    found: list[dict[str, Any]] = []
    for (database, file), pages in sorted(changes.pages.items()):
        if database not in names:
            continue  # a database that is gone, or the shared catalogs
        table = table_of(server, names[database], file)
        if table:
            found.append(export_table(server, names[database], table, sorted(pages), xids, directory, most))
    return [entry for entry in found if entry["rows"]]


TABLE = """
select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.oid = pg_filenode_relation(0, {file}) and c.relkind = 'r'
  and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
"""
# Only pages that the transactions touched are read.
ROWS = """
copy (select xmin::text as xid, t.* from {table} t
      where ctid = any(array(select format('(%s,%s)', page, place)::tid
                             from unnest(array[{pages}]::bigint[]) page, generate_series(1, {most}) place))
        and xmin::text::bigint = any(array[{xids}]::bigint[]) order by ctid)
to stdout with (format csv, header)
"""


def table_of(server: Alone, database: str, file: int) -> str | None:
    """The table, quoted and with its schema, that a file holds; None for catalogs, indexes and TOAST."""
    return server.psql(database, TABLE.format(file=file)).strip() or None


def export_table(
    server: Alone, database: str, table: str, pages: Sequence[int], xids: set[int], directory: Path, most: int
) -> dict[str, Any]:
    """The rows of one table that those transactions left."""
    numbers = ",".join(str(xid % 2**32) for xid in sorted(xids))
    path = directory / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', f'{database}.{table}')}.csv"
    rows = 0
    with path.open("w", encoding="utf-8", newline="") as stream:
        os.chmod(path, 0o600)
        for part in batches(pages, PAGES):
            given = {"pages": ",".join(str(page) for page in part), "xids": numbers, "most": OFFSETS}
            text = server.psql(database, ROWS.format(table=table, **given))
            # As PostgreSQL wrote it: its CSV tells null from an empty text.
            stream.write(text if stream.tell() == 0 else text.partition("\n")[2])
            rows += sum(1 for _line in csv.reader(io.StringIO(text))) - 1
            if rows > most:
                raise MusterError(f"{database}: more than {most} rows of {table} were changed after the fork")
    if not rows:
        path.unlink()
    return {"database": database, "table": table, "rows": rows, "file": path.name}


def copy_wal(wal: str, names: Sequence[str], directory: Path) -> int:
    """Keep the WAL files themselves; their size in bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    size = 0
    for name in names:
        shutil.copy2(f"{wal}/{name}", directory / name)
        size += (directory / name).stat().st_size
    return size


def own_stretches(
    mine: Mapping[int, int], own: int, theirs: Mapping[int, int], current: int
) -> list[Stretch]:
    """What a copy has beyond the fork with the primary's line; empty when it never left that line.

    C(mine) and C(theirs) say where each ancestor of the timelines C(own) and C(current) was left.
    """
    my_line: list[tuple[int, int | None]] = [*sorted(mine.items()), (own, None)]
    their_line: dict[int, int | None] = {**theirs, current: None}
    start, rest = 0, my_line
    for index, (timeline, end) in enumerate(my_line):
        if timeline not in their_line:
            rest = my_line[index:]
            break
        left = their_line[timeline]
        if end == left:
            if end is None:
                return []
            start = end
            continue
        # Left at different places: what comes after the earlier one is this copy's alone.
        if left is None or (end is not None and end < left):
            start, rest = end or 0, my_line[index + 1 :]
        else:
            start, rest = left, my_line[index:]
        break
    found = []
    for timeline, end in rest:
        found.append(Stretch(timeline, start, end))
        start = end or 0
    return found
