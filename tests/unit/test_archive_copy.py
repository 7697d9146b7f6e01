# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgresql_archive_copy: WAL goes into S3 beside PostgreSQL; repositories here are directories."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "roles/postgresql/files/postgresql_archive_copy.py"
# What it asks of pgBackRest, with a directory for each repository. Repository 3 is the one in S3.
PGBACKREST = """#!/usr/bin/python3
import json, os, sys
home, words = {home!r}, sys.argv[1:]
options = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
rest = [word for word in words if not word.startswith("--")]
number = options.get("repo", "3")
place = f"{{home}}/repository-{{number}}"
if os.path.exists(place + "-down"):
    print("cannot connect", file=sys.stderr)
    sys.exit(49)
names = sorted(os.listdir(place)) if os.path.isdir(place) else []
if rest[0] == "info":
    archive = [{{"id": "17-1", "min": names[0] if names else None}}] if os.path.isdir(place) else []
    backups = [{{"archive": {{"start": start}}}} for start in open(home + "/starts").read().split()] if number == "3" else []
    print(json.dumps([{{"name": "muster", "archive": archive, "backup": backups}}]))
elif rest[0] == "repo-ls":
    assert rest[1] == "archive/muster/17-1" and "recurse" in options
    for name in names:
        print(name if name.endswith(".history") else f"{{name[:16]}}/{{name}}-{{'0' * 40}}.zst")
    print("0000000100000000")
elif rest[0] == "archive-get":
    if rest[1] not in names:
        sys.exit(1)
    open(rest[2], "w").write(open(f"{{place}}/{{rest[1]}}").read())
elif rest[0] == "archive-push" and os.path.exists(f"{{home}}/other-{{os.path.basename(rest[1])}}"):
    print("ERROR: [045]: exists with a different checksum", file=sys.stderr)
    sys.exit(45)
elif rest[0] == "archive-push":
    assert options["config"] == home + "/s3.conf"
    open(home + "/pushed", "a").write(os.path.basename(rest[1]) + "\\n")
    open(f"{{place}}/{{os.path.basename(rest[1])}}", "w").write(open(rest[1]).read())
"""


def segment(number: int, timeline: int = 1) -> str:
    return f"{timeline:08X}{0:08X}{number:08X}"


class World:
    def __init__(self, home: Path, module: ModuleType) -> None:
        self.home, self.module = home, module
        self.data = home / "data"
        (self.data / "pg_wal/archive_status").mkdir(parents=True)
        for name in ("spool", "bin", "repository-1", "repository-2", "repository-3"):
            (home / name).mkdir()
        (home / "starts").write_text("")
        (self.data / "postmaster.pid").write_text("1\n")
        program = home / "bin/pgbackrest"
        program.write_text(PGBACKREST.format(home=str(home)))
        program.chmod(0o755)
        self.copier: Any = module.Copier(
            {
                "stanza": "muster",
                "config": f"{home}/s3.conf",
                "number": 3,
                "sources": [1, 2],
                "data_directory": str(self.data),
                "spool": f"{home}/spool",
            }
        )

    def archive(self, *names: str, hosts: tuple[int, ...] = (1, 2), listed: bool = True) -> None:
        for name in names:
            for number in hosts:
                (self.home / f"repository-{number}" / name).write_text(f"content of {name}")
            if listed:
                (self.data / "pg_wal/archive_status" / f"{name}.done").touch()

    def wait(self, name: str) -> None:
        (self.data / "pg_wal" / name).write_text(f"waiting {name}")
        (self.data / "pg_wal/archive_status" / f"{name}.ready").touch()

    def in_s3(self) -> list[str]:
        return sorted(path.name for path in (self.home / "repository-3").iterdir())

    def pushed(self) -> list[str]:
        """Since the last look, in order."""
        path = self.home / "pushed"
        found = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    def down(self, number: int, down: bool = True) -> None:
        path = self.home / f"repository-{number}-down"
        path.touch() if down else path.unlink()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    spec = importlib.util.spec_from_file_location("postgresql_archive_copy", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return World(tmp_path, module)


def test_each_segment_once_and_in_order(world: World) -> None:
    world.archive(segment(1))
    world.copier.step()
    world.archive(segment(3), segment(2))
    world.copier.step()
    world.copier.step()
    assert world.pushed() == [segment(1), segment(2), segment(3)]
    assert (world.home / "repository-3" / segment(2)).read_text() == f"content of {segment(2)}"
    assert os.listdir(world.home / "spool") == []


def test_a_new_repository_begins_with_the_present(world: World) -> None:
    world.archive(*map(segment, range(1, 9)))
    world.copier.step()
    assert world.pushed() == [segment(8)]


def test_what_no_backup_needs_any_more_is_not_sent_again(world: World) -> None:
    world.archive(*map(segment, range(1, 9)), listed=False)
    world.archive(segment(5), hosts=(3,), listed=False)
    (world.home / "starts").write_text(f"{segment(4)}\n{segment(7)}\n")
    world.copier.step()
    assert world.pushed() == [segment(number) for number in (4, 6, 7, 8)]


def test_a_standby_sends_nothing_and_compares_when_it_is_promoted(world: World) -> None:
    """What the old primary had not copied any more is sent by the new one, from the repository hosts."""
    world.archive(segment(1))
    world.copier.step()
    (world.data / "standby.signal").touch()
    world.archive(segment(2), segment(3), listed=False)
    world.copier.step()
    assert world.in_s3() == [segment(1)]
    (world.data / "standby.signal").unlink()
    world.archive("00000002.history", segment(4, timeline=2))
    world.copier.step()
    assert world.in_s3() == sorted(
        [segment(1), segment(2), segment(3), "00000002.history", segment(4, timeline=2)]
    )


def test_a_server_that_does_not_run_has_nothing_to_send(world: World) -> None:
    (world.data / "postmaster.pid").unlink()
    world.archive(segment(1))
    world.copier.step()
    assert world.in_s3() == []


def test_s3_that_is_down_is_caught_up_with(world: World) -> None:
    world.archive(segment(1))
    world.copier.step()
    world.down(3)
    world.archive(segment(2), segment(3))
    with pytest.raises(world.module.Trouble, match=f"{segment(2)}: cannot connect"):
        world.copier.step()
    assert os.listdir(world.home / "spool") == []
    world.down(3, False)
    world.archive(segment(4))
    world.copier.step()
    assert world.in_s3() == [segment(number) for number in (1, 2, 3, 4)]


def test_after_an_outage_what_s3_has_lost_is_sent_again(world: World) -> None:
    """An object store that was failed over lacks what had not reached its copy."""
    world.archive(segment(1))
    (world.home / "starts").write_text(segment(1))
    world.copier.step()
    world.archive(segment(2))
    world.copier.step()
    world.down(3)
    world.archive(segment(3))
    with pytest.raises(world.module.Trouble):
        world.copier.step()
    world.down(3, False)
    (world.home / "repository-3" / segment(2)).unlink()
    world.copier.step()
    assert world.in_s3() == [segment(1), segment(2), segment(3)]


def test_the_other_repository_host_stands_in(world: World) -> None:
    world.down(1)
    world.archive(segment(1))
    world.copier.step()
    world.archive(segment(2))
    world.copier.step()
    assert world.in_s3() == [segment(1), segment(2)]


def test_what_waits_for_archive_command_is_sent_from_where_it_is(world: World) -> None:
    """With a repository host gone archive_command fails, and S3 is what is left."""
    world.archive(segment(1))
    world.copier.step()
    world.wait(segment(2))
    world.copier.step()
    world.copier.step()
    assert world.pushed() == [segment(1), segment(2)]
    assert (world.home / "repository-3" / segment(2)).read_text() == f"waiting {segment(2)}"


def test_without_any_repository_host_what_waits_is_sent(world: World) -> None:
    world.archive(segment(1))
    world.copier.step()
    (world.home / "starts").write_text(segment(1))
    world.down(1)
    world.down(2)
    world.copier.copied = None
    world.wait(segment(2))
    for _again in range(2):
        with pytest.raises(world.module.Trouble, match="repository 1: cannot connect; repository 2: cannot"):
            world.copier.step()
        assert world.in_s3() == [segment(1), segment(2)]
    assert world.pushed() == [segment(1), segment(2)]


def test_one_that_is_archived_while_it_is_copied_is_got_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been overwritten meanwhile."""
    world.archive(segment(1))
    world.copier.step()
    world.wait(segment(2))

    def copy(_source: str, target: str) -> None:
        Path(target).write_text("half of the next segment")
        (world.data / "pg_wal/archive_status" / f"{segment(2)}.ready").unlink()
        world.archive(segment(2))

    monkeypatch.setattr(world.module.shutil, "copyfile", copy)
    world.copier.step()
    assert (world.home / "repository-3" / segment(2)).read_text() == f"content of {segment(2)}"


def test_one_that_is_nowhere_is_left_out_and_one_that_cannot_be_read_is_waited_for(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.archive(segment(1))
    world.copier.step()
    world.archive(segment(2), hosts=())
    world.archive(segment(3))
    world.copier.step()
    assert f"{segment(2)} is in no repository: it is left out" in capsys.readouterr().out
    assert world.in_s3() == [segment(1), segment(3)]
    world.archive(segment(4), hosts=())
    world.down(2)
    with pytest.raises(world.module.Trouble, match=f"{segment(4)} cannot be read"):
        world.copier.step()


def test_what_s3_has_with_another_content_holds_up_nothing(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.archive(segment(1))
    world.copier.step()
    world.archive(segment(2), segment(3))
    (world.home / f"other-{segment(2)}").touch()
    world.copier.step()
    assert world.in_s3() == [segment(1), segment(3)]
    assert f"{segment(2)} is left out, and a new full backup is needed" in capsys.readouterr().out


def test_without_a_stanza_it_waits(world: World) -> None:
    (world.home / "repository-3").rmdir()
    world.archive(segment(1))
    with pytest.raises(world.module.Trouble, match="repository 3 has no stanza muster yet"):
        world.copier.step()


def test_partial_segments_and_labels_are_not_copied(world: World) -> None:
    world.archive(segment(1), f"{segment(1)}.00000028.backup", f"{segment(2)}.partial")
    world.copier.step()
    world.archive(f"{segment(3)}.partial")
    world.copier.step()
    assert world.in_s3() == [segment(1)]
