# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""archive_command: PostgreSQL archives what it likes; Patroni, before a rewind, nothing from the fork on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "roles/postgresql/files/postgresql_archive_push.sh"
HISTORY = "9\t0/F0230F0\tno recovery target specified\n\n10\t0/F028630\tno recovery target specified\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The script beside an archive_get of the test's, and a pgbackrest that notes what it is asked."""
    programs = tmp_path / "bin"
    programs.mkdir()
    get = tmp_path / "archive_get"
    get.write_text(f'#!/bin/sh\ntest "$2" = 0000000B.history && cat {tmp_path}/history >"$3"\n')
    pgbackrest = programs / "pgbackrest"
    pgbackrest.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n')
    script = tmp_path / "archive_push"
    script.write_text(SCRIPT.read_text().replace("/usr/local/lib/muster/postgresql_archive_get", str(get)))
    for program in (get, pgbackrest, script):
        program.chmod(0o755)
    return tmp_path


def push(place: Path, name: str, shell: str = "/bin/sh") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [shell, "-c", f"{place}/archive_push muster pg_wal/{name}; exit $?"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": f"{place}/bin:{os.environ['PATH']}"},
    )


def calls(place: Path) -> str:
    path = place / "calls"
    return path.read_text() if path.exists() else ""


def test_postgresql_itself_archives_whatever_it_has(place: Path) -> None:
    """Its archiver starts a shell, which here has the archiver's name."""
    shell = place / "postgres"
    shutil.copy("/bin/sh", shell)
    done = push(place, "0000000A000000000000000F", str(shell))
    assert done.returncode == 0, done.stderr
    assert (
        calls(place)
        == "--config=/etc/pgbackrest.conf --stanza=muster archive-push pg_wal/0000000A000000000000000F\n"
    )


def test_what_came_before_the_fork_is_archived(place: Path) -> None:
    (place / "history").write_text(HISTORY)
    assert push(place, "0000000A000000000000000E").returncode == 0
    assert (
        calls(place)
        == "--config=/etc/pgbackrest.conf --stanza=muster --no-archive-async archive-push pg_wal/0000000A000000000000000E\n"
    )


@pytest.mark.parametrize("name", ["0000000A000000000000000F", "0000000A0000000000000010"])
def test_what_comes_from_the_fork_on_is_not(place: Path, name: str) -> None:
    (place / "history").write_text(HISTORY)
    done = push(place, name)
    assert done.returncode == 1
    assert done.stderr == f"{name} is not archived: its timeline was left at 0/F028630\n"
    assert calls(place) == ""


def test_an_unknown_fork_is_no_consent(place: Path) -> None:
    done = push(place, "0000000A000000000000000E")
    assert done.returncode == 1
    assert "where its timeline was left is not known" in done.stderr


@pytest.mark.parametrize(
    "history",
    [
        pytest.param("", id="empty"),
        pytest.param("9\t0/F0230F0\tno recovery target specified\n", id="of another timeline"),
        pytest.param("10\n", id="without an LSN"),
        pytest.param("10\tnowhere\tat all\n", id="no LSN"),
        pytest.param("10\t0/G028630\todd\n", id="an odd LSN"),
        pytest.param("10\t0/F028630\tonce\n10\t0/A000000\ttwice\n", id="two LSNs"),
        pytest.param("<html>not found</html>\n", id="no history"),
    ],
)
@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_a_history_that_does_not_tell_the_fork_is_no_consent(place: Path, history: str, shell: str) -> None:
    (place / "history").write_text(history)
    script = place / "archive_push"
    script.write_text(script.read_text().replace("#!/bin/sh", f"#!{shutil.which(shell)}", 1))
    done = push(place, "0000000A000000000000000E")
    assert (done.returncode, calls(place)) == (1, "")
    assert done.stderr == (
        "0000000A000000000000000E is not archived: the history of its timeline does not say where it was left\n"
    )
