# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""1 GB of data in the lab, for benches that depend on how much there is."""

from __future__ import annotations

import time

from bench.lab import BenchError, Lab

DATABASE = "muster_bench"
# pgbench makes 15 MB for each.
SCALE = 68
ARCHIVED_SECONDS = 900


def psql(lab: Lab, primary: str, statements: str, database: str = "postgres") -> str:
    return lab.run(primary, f"runuser -u postgres -- psql -qAt -v ON_ERROR_STOP=1 -d {database}", statements)


def fill(lab: Lab, primary: str) -> None:
    """1 GB in a database of its own, its WAL archived and replayed everywhere before anything is measured."""
    drop(lab, primary)
    psql(lab, primary, f"create database {DATABASE};")
    pgbench = lab.run(primary, "ls /usr/lib/postgresql/*/bin/pgbench").split()[-1]
    lab.run(primary, f"runuser -u postgres -- {pgbench} -q -i -I dtGvp -s {SCALE} {DATABASE} 2>&1")
    psql(lab, primary, "checkpoint; select pg_switch_wal();")
    deadline = time.monotonic() + ARCHIVED_SECONDS
    while int(
        psql(lab, primary, "select count(*) from pg_ls_archive_statusdir() where name like '%.ready';")
    ):
        if time.monotonic() > deadline:
            raise BenchError(f"the WAL of the new data is not archived after {ARCHIVED_SECONDS} s")
        time.sleep(2)
    lab.patroni("settle")


def drop(lab: Lab, primary: str) -> None:
    psql(lab, primary, f"drop database if exists {DATABASE};")
