"""A restore to a point in time holds what was written before it, and not what came after."""

from __future__ import annotations

import time

import pytest
from e2e_lab import Lab

DIRECTORY = "/var/lib/postgresql/restored"


@pytest.fixture
def restore_host(lab: Lab) -> str:
    return f"{lab.primary_region()}-2"


def test_a_point_between_two_writes(healthy: Lab, restore_host: str) -> None:
    lab = healthy
    lab.query("north-3", "create table if not exists marks (name text primary key)", "application")
    lab.query("north-3", "delete from marks", "application")
    lab.query("north-3", "insert into marks values ('first')", "application")
    time.sleep(1.5)
    between = lab.now()
    time.sleep(1.5)
    lab.query("north-3", "insert into marks values ('second')", "application")
    time.sleep(1)
    lab.sh(restore_host, f"rm -rf {DIRECTORY}")
    run = lab.ok(
        "restore",
        "-e", f"restore_to_time={between}",
        "-e", f"restore_directory={DIRECTORY}",
        "-e", f"restore_host={restore_host}",
    )  # fmt: skip
    assert "reached" in run.output
    binaries = "/usr/lib/postgresql/17/bin"
    socket = "/var/tmp/restored-socket"
    lab.sh(
        restore_host,
        f'install -d -o postgres -m 700 {socket} && su postgres -c "{binaries}/pg_ctl -D {DIRECTORY} -w -t 60 -s '
        f"-o '-c listen_addresses= -c port=5999 -c archive_mode=off -c unix_socket_directories={socket}' "
        f'-l /var/tmp/restored.log start"',
    )
    try:
        held = lab.sh(
            restore_host,
            f"su postgres -c \"psql -h {socket} -p 5999 -Atc 'select name from marks' application\"",
        )
    finally:
        lab.sh(
            restore_host, f"su postgres -c '{binaries}/pg_ctl -D {DIRECTORY} -m immediate stop'", check=False
        )
        lab.sh(restore_host, f"rm -rf {DIRECTORY} {socket} /var/tmp/restored.log")
    assert held.split() == ["first"]
