# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgresql_archive_get: the real script, real ports, and a pgbackrest of our own."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "roles/postgresql/files/postgresql_archive_get.sh"
WAL = "000000010000000000000007"
# Each repository is a directory; what is in it can be got.
PGBACKREST = """#!/bin/sh
echo "$*" >>{0}/calls
for word in "$@"; do case $word in --repo=*) number=${{word#--repo=}} ;; esac; done
[ "$3" = archive-get ] && cp "{0}/repository-$number/$4" "$5"
"""


class Archive:
    """The repositories as one host sees them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.run = home / "run"
        self.run.mkdir()
        program = home / "bin" / "pgbackrest"
        program.parent.mkdir()
        program.write_text(PGBACKREST.format(home))
        program.chmod(0o755)
        # The paths of a host become this test's.
        text = SCRIPT.read_text()
        for fixed, own in (
            ("/run/muster-postgresql", str(self.run)),
            ("/etc/muster/postgresql/repositories", str(home / "repositories")),
        ):
            assert text.count(fixed) == 1
            text = text.replace(fixed, own)
        self.script = home / "archive_get"
        self.script.write_text(text)
        self.sockets: list[socket.socket] = []

    def repository(self, *files: str, up: bool = True) -> socket.socket:
        """Add one; without a listener its port is closed."""
        listener = socket.create_server(("127.0.0.1", 0))
        number = len(self.sockets) + 1
        self.sockets.append(listener)
        place = self.home / f"repository-{number}"
        place.mkdir()
        for name in files:
            (place / name).write_text(f"of repository {number}\n")
        with (self.home / "repositories").open("a") as stream:
            stream.write(f"127.0.0.1 {listener.getsockname()[1]}\n")
        if not up:
            listener.close()
        return listener

    def get(self, file: str = WAL) -> int:
        target = self.home / "target"
        target.unlink(missing_ok=True)
        environment = {"PATH": f"{self.home}/bin:{os.environ['PATH']}"}
        words = ["sh", str(self.script), "muster", file, str(target)]
        return subprocess.run(words, env=environment, cwd=self.home, timeout=30, check=False).returncode

    def got(self) -> str:
        return (self.home / "target").read_text().strip()

    def asked(self) -> list[str]:
        """The numbers of the repositories that were asked since the last look."""
        calls = self.home / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        assert all(line.startswith("--stanza=muster --repo=") for line in lines)
        return [line.split()[1].removeprefix("--repo=") for line in lines]


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    made = Archive(tmp_path)
    yield made
    for listener in made.sockets:
        listener.close()


def test_the_first_repository_has_it(archive: Archive) -> None:
    archive.repository(WAL)
    archive.repository(WAL)
    assert archive.get() == 0
    assert (archive.got(), archive.asked()) == ("of repository 1", ["1"])


def test_only_the_second_has_it(archive: Archive) -> None:
    archive.repository()
    archive.repository(WAL)
    assert archive.get() == 0
    assert (archive.got(), archive.asked()) == ("of repository 2", ["1", "2"])


def test_none_has_it(archive: Archive) -> None:
    """PostgreSQL takes 1 for a file that is not there; more than 125 would end the recovery."""
    archive.repository()
    archive.repository()
    assert archive.get("00000002.history") == 1
    assert archive.asked() == ["1", "2"]


def test_a_dead_one_is_skipped_and_left_alone_for_ten_seconds(archive: Archive) -> None:
    dead = archive.repository(WAL, up=False)
    archive.repository(WAL)
    assert archive.get() == 0
    assert (archive.got(), archive.asked()) == ("of repository 2", ["2"])
    # It is back, but was seen dead a moment ago.
    port = int((archive.home / "repositories").read_text().split()[1])
    dead = socket.create_server(("127.0.0.1", port))
    archive.sockets.append(dead)
    assert archive.get() == 0
    assert archive.asked() == ["2"]
    down = archive.run / "repository-1-down"
    old = time.time() - 11
    os.utime(down, (old, old))
    assert archive.get() == 0
    assert (archive.got(), archive.asked()) == ("of repository 1", ["1"])


def test_all_are_dead(archive: Archive) -> None:
    archive.repository(WAL, up=False)
    archive.repository(WAL, up=False)
    assert archive.get() == 1
    assert archive.asked() == []


def test_a_dead_one_that_cannot_be_noted_does_not_hide_the_next(archive: Archive) -> None:
    """After a reboot with Patroni masked nobody has made the directory in /run, and pg_rewind asks."""
    archive.run.rmdir()
    archive.repository(WAL, up=False)
    archive.repository(WAL)
    assert archive.get() == 0
    assert archive.got() == "of repository 2"


def test_no_repositories_at_all(archive: Archive) -> None:
    assert archive.get() == 1
