# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgresql_rejoin: the real main(), Patroni and etcd, and PostgreSQL's programs made up."""

from __future__ import annotations

import base64
import getpass
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.muster.platform.plugins.module_utils import _rejoin
from ansible_collections.muster.platform.plugins.modules import postgresql_rejoin
from etcd_fake import Cluster
from patroni_fake import PatroniApi, status

Run = Callable[..., dict[str, Any]]
STANDBY = {"host": "south-1,south-2", "port": 5432}
IDENTIFIER = "7710570350551003534"
PASSWORD, REWIND_PASSWORD = "not-to-be-shown", "nor-this-one"
# Each notes how it was called, and answers with what is in files beside it.
PROGRAMS = {
    "pg_controldata": "cat {home}/control",
    "pg_waldump": """echo "$*" >>{home}/waldump-calls
case "$*" in *--rmgr=Transaction*) cat {home}/commits ;; *) cat {home}/changes ;; esac
[ ! -e {home}/waldump-error ] || {{ cat {home}/waldump-error >&2; exit 1; }}""",
    "pg_rewind": """echo "$* PGPASSWORD=$PGPASSWORD" >>{home}/rewind-calls
cat {data}/muster_restore.conf >{home}/rewind-config
[ ! -e {data}/standby.signal ] || {{ echo "FATAL:  standby mode is not supported by single-user servers" >&2; exit 1; }}
[ ! -e {home}/rewind-error ] || {{ cat {home}/rewind-error >&2; exit 1; }}
sed -i "s/TimeLineID:.*/TimeLineID: 2/" {home}/control
printf '1\\t0/3000100\\tno recovery target specified\\n' >{data}/pg_wal/00000002.history""",
    "pg_ctl": """echo "$1" >>{home}/ctl-calls
case $1 in
  status) [ -e {home}/running ] || exit 3 ;;
  start) [ ! -e {home}/start-fails ] || {{ echo "FATAL:  no" >{data}/muster_restore.log; exit 1; }}
    cat {data}/muster_restore.conf >{home}/alone-config; touch {home}/running ;;
  stop) rm {home}/running ;;
esac""",
    "psql": """query=$(cat)
case $query in
  *pg_is_in_recovery*) [ ! -e {home}/replay ] || {{ head -1 {home}/replay; sed -i 1d {home}/replay; exit; }}; echo 'f|0/0' ;;
  *pg_database*) echo asked >>{home}/rows-calls; printf '5|app\\n1|template1\\n' ;;
  *pg_filenode_relation*16386*) echo public.orders ;;
  *pg_filenode_relation*16390*) echo public.untouched ;;
  *pg_filenode_relation*) : ;;
  *copy*public.orders*) cat {home}/rows ;;
  *copy*) echo xid,id ;;
esac
[ ! -e {home}/psql-error ] || {{ echo "ERROR:  invalid page" >&2; exit 1; }}""",
}
COMMITS = """\
rmgr: Transaction len (rec/tot):     34/    34, tx:        733, lsn: 0/03000178, prev 0/03000140, desc: COMMIT 2026-11-21 13:32:01.270389 UTC
rmgr: Transaction len (rec/tot):     34/    34, tx:        734, lsn: 0/030001A0, prev 0/03000178, desc: ABORT 2026-11-21 13:32:02.270389 UTC
rmgr: Transaction len (rec/tot):     34/    34, tx:        735, lsn: 0/03000200, prev 0/030001A0, desc: COMMIT 2026-11-21 13:32:03 UTC
"""
CHANGES = """\
rmgr: Heap        len (rec/tot):     59/    59, tx:        733, lsn: 0/03000110, prev 0/00, desc: INSERT off: 3, flags: 0x00, blkref #0: rel 1663/5/16386 blk 7
rmgr: Heap        len (rec/tot):     54/    54, tx:        735, lsn: 0/030001D0, prev 0/02, desc: DELETE xmax: 735, off: 2, blkref #0: rel 1663/5/16390 blk 0
rmgr: Heap        len (rec/tot):     59/    59, tx:        735, lsn: 0/030001E0, prev 0/00, desc: INSERT off: 3, flags: 0x00, blkref #0: rel 1663/9/17000 blk 1
"""
SEGMENTS = ("000000010000000000000002", "000000010000000000000003", "000000010000000000000004")


class Primary:
    """What a login to the new primary tells."""

    def __init__(self) -> None:
        self.timeline = 2
        self.history: str | None = "1\t0/3000100\tno recovery target specified\n"
        self.asked: list[dict[str, Any]] = []
        self.fails = ""

    def connect(self, **given: Any) -> Primary:
        self.asked.append(given)
        if self.fails:
            raise psycopg2.OperationalError(self.fails)
        return self

    def cursor(self) -> Primary:
        return self

    def __enter__(self) -> Primary:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def execute(self, statement: str, values: tuple[str, ...] = ()) -> None:
        self.row: tuple[Any, ...] = (self.timeline, IDENTIFIER, 16 << 20)
        if "pg_read_file" in statement:
            assert values == (f"pg_wal/{self.timeline:08X}.history",)
            self.row = (self.history,)

    def fetchone(self) -> tuple[Any, ...]:
        return self.row

    def close(self) -> None:
        pass


class Old:
    """north-1, the old primary: stopped, fenced, with two commits after the fork."""

    def __init__(self, home: Path, patroni: PatroniApi, cluster: Cluster, run_module: Run) -> None:
        self.home, self.patroni, self.cluster, self.run_module = home, patroni, cluster, run_module
        self.primary = Primary()
        self.data = home / "postgresql" / "main"
        self.saves = home / "diverged"
        self.marker = home / "fenced.json"
        self.place = self.saves / "20261121T133005"
        self.put("commits", COMMITS)
        self.put("changes", CHANGES)
        self.put("rows", 'xid,id,note\n733,1,"two\nlines"\n735,2,\n')
        self.put("unit", "masked\n")
        for name, text in PROGRAMS.items():
            self.program(name, text.format(home=home, data=self.data))
        systemctl = 'case $1 in is-enabled) cat {0}/unit ;; unmask) echo enabled >{0}/unit; echo "$*" >>{0}/units ;; esac'
        self.program("systemctl", systemctl.format(home))
        self.fence()
        self.make_data()
        for name in ("north-1", "north-2"):
            patroni[name].up = False
        patroni["south-1"].says = status("primary", timeline=2)
        self.config({"ttl": 20})

    def put(self, name: str, text: str) -> None:
        (self.home / name).write_text(text)

    def program(self, name: str, text: str) -> None:
        path = self.home / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def read(self, name: str) -> list[str]:
        path = self.home / name
        return path.read_text().splitlines() if path.exists() else []

    def fence(self, at: str = "2026-11-21T13:30:05.123456Z") -> None:
        self.marker.write_text(json.dumps({"fenced_at": at, "operation": "failover to south"}))

    def make_data(self) -> None:
        for name in ("global", "pg_wal"):
            (self.data / name).mkdir(parents=True)
        (self.data / "global" / "pg_control").touch()
        (self.data / "postgresql.auto.conf").touch()
        for name in SEGMENTS:
            (self.data / "pg_wal" / name).write_text(name)
        self.control()

    def control(self, timeline: int = 1, recovered: int = 0, identifier: str = IDENTIFIER) -> None:
        self.put(
            "control",
            f"Database system identifier:           {identifier}\n"
            f"Latest checkpoint's TimeLineID:       {timeline}\n"
            f"Min recovery ending loc's timeline:   {recovered}\n",
        )

    def history(self, timeline: int, text: str) -> None:
        (self.data / "pg_wal" / f"{timeline:08X}.history").write_text(text)

    def config(self, config: Any) -> None:
        text = config if isinstance(config, str) else json.dumps(config)
        self.cluster.put("/service/muster-north/config", text)

    def stored(self, key: str) -> str | None:
        found = self.cluster.keys.get(f"/service/muster-north/{key}")
        return base64.b64decode(found["value"]).decode() if found else None

    def step(self, step: str, check: bool = False, **more: Any) -> dict[str, Any]:
        given = self.patroni.arguments(
            step=step,
            host="north-1",
            data_directory=str(self.data),
            bin_directory=str(self.home / "bin"),
            user=getpass.getuser(),
            save_directory=str(self.saves),
            marker=str(self.marker),
            scope="muster-north",
            etcd_endpoints=self.cluster.urls(),
            standby_cluster=STANDBY,
            restore_command='/usr/local/lib/muster/archive_get muster %f "%p"',
            superuser_password=PASSWORD,
            rewind_password=REWIND_PASSWORD,
        )
        answer = self.run_module(postgresql_rejoin, given | more, check=check)
        shown = str({key: value for key, value in answer.items() if key != "invocation"})
        assert PASSWORD not in shown
        assert REWIND_PASSWORD not in shown
        return answer

    def files(self) -> set[str]:
        """Everything below the data and the saves."""
        return {str(path) for place in (self.data.parent, self.saves) for path in place.rglob("*")}


@pytest.fixture
def old(
    tmp_path: Path, patroni: PatroniApi, cluster: Cluster, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> Old:
    made = Old(tmp_path, patroni, cluster, run_module)
    monkeypatch.setattr(psycopg2, "connect", made.primary.connect)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return made


@pytest.fixture
def running(old: Old) -> Iterator[None]:
    """A server works in the data directory."""
    shutil.copy("/bin/sleep", old.home / "bin" / "postgres")
    process = subprocess.Popen([str(old.home / "bin" / "postgres"), "60"], cwd=old.data)
    yield
    process.kill()
    process.wait(10)


RUNS = "PostgreSQL on north-1 runs: the region must be fenced first"


# --- looking --------------------------------------------------------------------------------


def test_old_data(old: Old) -> None:
    answer = old.step("look")
    assert answer.pop("free_mb") > 0
    assert answer.pop("data_mb") >= 0
    answer.pop("invocation", None)
    assert answer == {
        "changed": False,
        "data": "old",
        "timeline": 1,
        "fork": "0/3000100",
        "primary": "south-1",
        "primary_timeline": 2,
        "muster_phases": [],
    }
    (asked,) = old.primary.asked
    assert (asked["host"], asked["sslmode"], asked["user"]) == ("south-1", "verify-full", "postgres")


def test_no_data(old: Old) -> None:
    shutil.rmtree(old.data)
    answer = old.step("look")
    assert (answer["data"], answer["timeline"], answer["fork"]) == ("none", None, None)


def test_data_of_another_cluster(old: Old) -> None:
    old.control(identifier="1")
    assert old.step("look")["data"] == "foreign"


def test_data_that_follows_the_primary_already(old: Old) -> None:
    old.control(timeline=2)
    old.history(2, old.primary.history or "")
    assert (old.step("look")["data"], old.step("look")["fork"]) == ("current", None)


def test_a_standby_that_has_replayed_more_than_its_last_checkpoint(old: Old) -> None:
    old.control(timeline=1, recovered=2)
    answer = old.step("look")
    assert (answer["data"], answer["timeline"]) == ("current", 2)


def test_a_timeline_that_was_begun_twice(old: Old) -> None:
    """Promoted here later than there: both call it 2."""
    old.control(timeline=2)
    old.history(2, "1\t0/4000100\tno recovery target specified\n")
    answer = old.step("look")
    assert (answer["data"], answer["timeline"], answer["fork"]) == ("old", 2, "0/3000100")


HISTORY_3 = "1\t0/2000000\tno recovery target specified\n\n2\t0/4000100\tno recovery target specified\n"


@pytest.fixture
def follower(old: Old) -> Old:
    """A replica that was killed soon after it followed the promotion of timeline 2, of which its checkpoint
    knows nothing; the new primary left that timeline with the third."""
    old.primary.timeline, old.primary.history = 3, HISTORY_3
    old.history(2, HISTORY_3.splitlines()[0])
    (old.data / "pg_wal" / "000000020000000000000004").touch()
    return old


def test_a_standby_that_follows_a_timeline_which_its_checkpoint_does_not_know(follower: Old) -> None:
    answer = follower.step("look")
    assert (answer["data"], answer["timeline"], answer["fork"]) == ("old", 2, "0/4000100")
    saved = follower.step("save")["saved"]
    assert (saved["count"], saved["timeline"], saved["fork"]) == (2, 2, "0/4000100")
    assert all("--timeline=2 --start=0/4000100" in call for call in follower.read("waldump-calls"))
    # pg_rewind goes by the control file, and so does this.
    assert follower.step("rewind")["method"] == "rewind"


@pytest.mark.parametrize(
    "unrelated",
    [
        lambda old: (old.data / "pg_wal" / "000000020000000000000004").unlink(),
        lambda old: old.history(2, "7\t0/2000000\tno recovery target specified\n"),
        lambda old: (old.data / "pg_wal" / "00000002.history").unlink(),
    ],
    ids=["no WAL of it", "of other ancestors", "no history"],
)
def test_what_its_timeline_does_not_lead_to_is_not_followed(
    follower: Old, unrelated: Callable[[Old], None]
) -> None:
    unrelated(follower)
    assert follower.step("look")["timeline"] == 1


def test_the_wal_of_a_rewind_that_was_interrupted_makes_no_data_current(saved: Old) -> None:
    """pg_rewind copies the new primary's WAL first, and writes the control file last."""
    saved.history(2, saved.primary.history or "")
    (saved.data / "pg_wal" / "000000020000000000000003").touch()
    answer = saved.step("look")
    assert (answer["data"], answer["fork"]) == ("old", "0/3000100")
    assert saved.step("rewind")["method"] == "rewind"
    assert len(saved.read("rewind-calls")) == 1


def test_looking_works_in_check_mode(old: Old) -> None:
    before = old.files()
    assert old.step("look", check=True)["data"] == "old"
    assert old.files() == before


def test_data_that_cannot_be_read_is_told(old: Old) -> None:
    old.program("pg_controldata", "echo 'pg_controldata: error: damaged' >&2; exit 1")
    assert old.step("look")["msg"] == f"{old.data} is no data directory: pg_controldata: error: damaged"


@pytest.mark.parametrize("step", ["look", "save", "configure", "rewind"])
def test_no_primary_is_a_refusal(old: Old, step: str) -> None:
    old.patroni["south-1"].says = status("standby_leader")
    before = dict(old.cluster.keys)
    assert old.step(step)["msg"] == (
        "exactly one host must take writes before a region is re-protected, found: none"
    )
    assert old.cluster.keys == before


@pytest.mark.parametrize("step", ["look", "save", "configure", "rewind"])
def test_two_primaries_are_a_refusal(old: Old, step: str) -> None:
    old.patroni["north-2"].up = True
    old.patroni["north-2"].says = status("primary")
    assert old.step(step)["msg"] == (
        "exactly one host must take writes before a region is re-protected, found: north-2, south-1"
    )


@pytest.mark.parametrize("step", ["look", "save", "configure", "rewind"])
def test_the_own_region_being_primary_is_a_refusal(old: Old, step: str) -> None:
    old.patroni["south-1"].says = status("standby_leader")
    old.patroni["north-2"].up = True
    old.patroni["north-2"].says = status("primary")
    assert old.step(step)["msg"] == "region north is primary itself: there is nothing to re-protect"


def test_a_host_of_no_region(old: Old) -> None:
    assert old.step("look", host="east-1")["msg"] == (
        "east-1 is not among the PostgreSQL hosts of any region"
    )


def test_a_primary_that_lets_nobody_in(old: Old) -> None:
    old.primary.fails = "password authentication failed\n"
    assert old.step("look")["msg"] == "PostgreSQL on south-1: password authentication failed"


def test_a_primary_without_its_history_is_not_guessed_about(old: Old) -> None:
    """Without it all of the old data would seem to be its own."""
    old.primary.history = None
    assert old.step("look")["msg"] == (
        "south-1 does not know where its timeline 2 began: its history file is gone"
    )


def test_the_first_timeline_has_no_history(old: Old) -> None:
    old.primary.timeline, old.primary.history = 1, None
    assert old.step("look")["data"] == "current"


# --- saving -----------------------------------------------------------------------------------


SAVED = {
    "count": 2,
    "reason": "",
    "first_at": "2026-11-21T13:32:01.270389Z",
    "last_at": "2026-11-21T13:32:03Z",
    "tables": [{"database": "app", "table": "public.orders", "rows": 2, "file": "app.public.orders.csv"}],
    "deleted_rows": 1,
    "wal_files": 2,
    "fork": "0/3000100",
    "timeline": 1,
    "host": "north-1",
}


def test_what_only_this_side_has_is_saved(old: Old) -> None:
    answer = old.step("save")
    assert answer["changed"] is True
    assert answer["saved"] == SAVED | {"directory": str(old.place)}
    assert [phase["name"] for phase in answer["muster_phases"]] == ["re-protect: save north-1"]
    assert sorted(path.name for path in (old.place / "wal").iterdir()) == [*SEGMENTS[1:]]
    assert (old.place / "commits.csv").read_text() == (
        "xid,committed_at,lsn\n733,2026-11-21T13:32:01.270389Z,0/03000178\n735,2026-11-21T13:32:03Z,0/03000200\n"
    )
    assert (old.place / "rows" / "app.public.orders.csv").read_text() == (old.home / "rows").read_text()
    assert old.place.stat().st_mode & 0o777 == 0o700
    assert (old.place / "rows" / "app.public.orders.csv").stat().st_mode & 0o777 == 0o600
    assert json.loads((old.place / "summary.json").read_text()) == answer["saved"]
    # The old data was started alone, and is at rest again.
    assert "start" in old.read("ctl-calls")
    assert not (old.home / "running").exists()
    config = (old.home / "alone-config").read_text()
    for setting in (
        "listen_addresses = ''", "default_transaction_read_only = 'on'", "archive_mode = 'off'",
        "recovery_target_timeline = 'latest'", "recovery_min_apply_delay = '0'",
    ):  # fmt: skip
        assert setting in config
    assert not [path.name for path in old.data.iterdir() if path.name.startswith("muster_restore")]
    assert all("--start=0/3000100" in call for call in old.read("waldump-calls"))


def test_what_is_saved_is_not_saved_again(old: Old) -> None:
    """Also when the data is gone by then: the rewind was done, and the step is run again."""
    first = old.step("save")
    (old.home / "waldump-calls").unlink()
    shutil.rmtree(old.data)
    again = old.step("save")
    assert (again["changed"], again["saved"]) == (False, first["saved"])
    assert old.read("waldump-calls") == []


def test_another_fence_is_another_folder(old: Old) -> None:
    old.step("save")
    old.fence("2026-12-01T00:00:00.000000Z")
    assert old.step("save")["saved"]["directory"] == str(old.saves / "20261201T000000")
    assert old.place.exists()


def test_a_half_written_folder_is_done_anew(old: Old) -> None:
    (old.place / "wal").mkdir(parents=True)
    (old.place / "rows").mkdir()
    (old.place / "wal" / "half").touch()
    (old.place / "summary.new").write_text("{")
    assert old.step("save")["saved"]["count"] == 2
    assert not (old.place / "wal" / "half").exists()
    assert not (old.place / "summary.new").exists()


def test_a_summary_that_cannot_be_read_is_told(old: Old) -> None:
    old.place.mkdir(parents=True)
    (old.place / "summary.json").write_text("{")
    assert old.step("save")["msg"].startswith(f"{old.place}/summary.json cannot be read: ")
    assert old.step("rewind")["msg"].startswith(f"{old.place}/summary.json cannot be read: ")


@pytest.mark.parametrize(
    ("prepare", "reason", "count"),
    [
        (lambda old: shutil.rmtree(old.data), "the data directory is lost", None),
        (lambda old: old.control(identifier="1"), "the data is of another cluster", None),
        (lambda old: old.control(timeline=2), "the data never left the new primary's line", 0),
    ],
)
def test_where_there_is_nothing_to_save(
    old: Old, prepare: Callable[[Old], None], reason: str, count: int | None
) -> None:
    prepare(old)
    answer = old.step("save")
    assert (answer["changed"], answer["saved"]["count"], answer["saved"]["reason"]) == (False, count, reason)
    assert not old.saves.exists()


def test_without_commits_no_server_is_started(old: Old) -> None:
    old.put("commits", "")
    saved = old.step("save")["saved"]
    assert (saved["count"], saved["first_at"], saved["tables"], saved["wal_files"]) == (0, None, [], 2)
    assert old.read("ctl-calls") == []


def test_wal_that_was_recycled_makes_the_count_unknown(old: Old) -> None:
    (old.data / "pg_wal" / SEGMENTS[1]).unlink()
    saved = old.step("save")["saved"]
    assert (saved["count"], saved["deleted_rows"], saved["wal_files"]) == (None, None, 1)
    assert saved["reason"] == f"the WAL from the fork on is not complete: {SEGMENTS[1]} is missing"
    assert (old.place / "wal" / SEGMENTS[2]).exists()
    assert old.step("save")["changed"] is False


def test_a_pg_waldump_that_fails_makes_the_count_unknown(old: Old) -> None:
    old.put("waldump-error", "pg_waldump: error: could not open directory\n")
    saved = old.step("save")["saved"]
    assert (saved["count"], saved["reason"]) == (
        None,
        "pg_waldump failed: pg_waldump: error: could not open directory",
    )


def test_the_end_of_the_wal_is_no_failure(old: Old) -> None:
    old.put("waldump-error", "pg_waldump: error: error in WAL record at 0/3000200: invalid record length\n")
    assert old.step("save")["saved"]["count"] == 2


def test_no_room_is_told_before_anything_is_written(old: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rejoin, "free_mb", lambda _path: (255, 1000))
    before = old.files()
    assert old.step("save")["msg"] == f"{old.place} has no room for 0 MB of WAL that only north-1 has"
    assert old.files() == before


def test_old_data_that_does_not_start_is_told(old: Old) -> None:
    (old.home / "start-fails").touch()
    answer = old.step("save")
    assert answer["msg"] == f"the old data in {old.data} does not start: no"
    assert not (old.place / "summary.json").exists(), "it is not whole"
    (old.home / "start-fails").unlink()
    assert old.step("save")["saved"]["count"] == 2


def test_a_standby_is_not_read_before_it_has_replayed_its_last_commit(old: Old) -> None:
    """It answers as soon as it is consistent, and goes on replaying."""
    old.put("replay", "t|0/0\nt|0/3000178\nt|0/3000200\nt|0/3000228\nnot asked again\n")
    assert old.step("save")["saved"]["tables"] == SAVED["tables"]
    assert old.read("replay") == ["not asked again"]


def test_a_standby_that_does_not_get_there_is_told(old: Old) -> None:
    old.put("replay", "t|0/3000178\n" * 100)
    assert old.step("save", timeout=1)["msg"] == (
        f"waited 1 s for the old data in {old.data} to be replayed to 0/03000200"
    )
    assert old.read("rows-calls") == []
    assert not (old.home / "running").exists()
    assert not (old.place / "summary.json").exists(), "it is not whole"


def test_the_last_file_of_a_timeline_that_was_left_is_read(old: Old) -> None:
    """Promoted in the region itself after the fork: that renames the file, and pg_waldump finds it all the same."""
    wal = old.data / "pg_wal"
    (wal / SEGMENTS[1]).rename(wal / f"{SEGMENTS[1]}.partial")
    (wal / f"{SEGMENTS[2]}.partial").write_text("begun, and then filled")
    old.program(
        "pg_waldump",
        f"""directory=${{1#--path=}}
[ "$2" = --timeline=1 ] || exit 0
cat "$directory/{SEGMENTS[1]}" "$directory/{SEGMENTS[2]}" >{old.home}/dumped || {{ echo "pg_waldump: error: could not find file" >&2; exit 1; }}
case "$*" in *Transaction*) cat {old.home}/commits ;; *) cat {old.home}/changes ;; esac""",
    )
    old.control(timeline=2)
    old.history(2, "1\t0/3000300\tno recovery target specified\n")
    (wal / "000000020000000000000003").touch()
    saved = old.step("save")["saved"]
    assert (saved["count"], saved["wal_files"]) == (2, 4)
    assert old.read("dumped") == ["".join(SEGMENTS[1:])], (
        "of a file that is there whole as well, the whole one"
    )


def test_a_gap_before_a_promotion_is_not_the_end_of_the_wal(old: Old) -> None:
    old.control(timeline=2)
    old.history(2, "1\t0/3000300\tno recovery target specified\n")
    old.put("waldump-error", "pg_waldump: error: could not find file\n")
    saved = old.step("save")["saved"]
    assert (saved["count"], saved["reason"]) == (
        None,
        "pg_waldump failed: pg_waldump: error: could not find file",
    )


def test_a_query_that_fails_leaves_no_server_behind(old: Old) -> None:
    (old.home / "psql-error").touch()
    assert old.step("save")["msg"] == "reading the old data: ERROR:  invalid page"
    assert not (old.home / "running").exists()


def test_more_rows_than_allowed_are_told(old: Old) -> None:
    assert old.step("save", max_rows=1)["msg"] == (
        "app: more than 1 rows of public.orders were changed after the fork"
    )


def test_a_place_that_is_no_directory_is_told(old: Old) -> None:
    old.saves.write_text("a file")
    assert old.step("save")["msg"].startswith(f"{old.place}/summary.json cannot be read: [Errno 20]")


def test_a_file_that_cannot_be_kept_is_told(old: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copy2", full)
    assert old.step("save")["msg"] == "the step save on north-1: [Errno 28] No space left on device"


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("step", ["save", "rewind"])
def test_a_running_server_is_left_alone(old: Old, step: str) -> None:
    assert old.step(step)["msg"] == RUNS
    assert not old.saves.exists()


@pytest.mark.parametrize("text", [None, "", "{}"])
def test_a_host_that_is_not_fenced_saves_nothing(old: Old, text: str | None) -> None:
    old.marker.unlink()
    if text is not None:
        old.marker.write_text(text)
    assert old.step("save")["msg"] == f"north-1 is not fenced ({old.marker} is missing or says nothing)"


def test_check_mode_saves_nothing(old: Old) -> None:
    before = old.files()
    answer = old.step("save", check=True)
    assert (answer["changed"], answer["saved"]["count"]) == (True, None)
    assert old.files() == before


# --- the configuration -----------------------------------------------------------------------


def test_the_region_is_made_a_standby(old: Old) -> None:
    for key in ("sync", "failover", "failsafe", "initialize", "history", "status", "optime/leader"):
        old.cluster.put(f"/service/muster-north/{key}", "x")
    assert old.step("configure", check=True)["changed"] is True
    assert (old.stored("config"), old.stored("sync")) == ('{"ttl": 20}', "x")
    assert old.step("configure")["changed"] is True
    assert json.loads(old.stored("config") or "") == {"ttl": 20, "standby_cluster": STANDBY}
    # With the old position nobody could lead the region: what was rewound is behind it.
    gone = ("sync", "failover", "failsafe", "status", "optime/leader")
    assert [old.stored(key) for key in gone] == [None] * 5
    assert [old.stored(key) for key in ("initialize", "history")] == ["x"] * 2
    for check in (True, False):
        assert old.step("configure", check=check)["changed"] is False


def test_a_region_without_data_forgets_what_it_knew_of_it(old: Old) -> None:
    for key in ("initialize", "history", "status"):
        old.cluster.put(f"/service/muster-north/{key}", "x")
    old.config({"standby_cluster": STANDBY})
    assert old.step("configure", forget_data=True, check=True)["changed"] is True
    assert old.stored("initialize") == "x"
    assert old.step("configure", forget_data=True)["changed"] is True
    assert [old.stored(key) for key in ("initialize", "history", "status")] == [None] * 3
    for check in (True, False):
        assert old.step("configure", forget_data=True, check=check)["changed"] is False


def test_an_interrupted_configuration_is_finished(old: Old) -> None:
    """What is removed is removed before the configuration says that all is done."""
    old.cluster.put("/service/muster-north/sync", "x")
    usual = old.cluster.kv_txn

    def other(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        old.cluster.kv_txn = usual  # type: ignore[method-assign]
        old.config({"ttl": 30})
        return usual(body)

    old.cluster.kv_txn = other  # type: ignore[method-assign]
    assert old.step("configure")["msg"] == (
        "/service/muster-north/config was changed by someone else just now: run this again"
    )
    assert old.stored("sync") is None
    old.step("configure")
    assert json.loads(old.stored("config") or "") == {"ttl": 30, "standby_cluster": STANDBY}


@pytest.mark.parametrize("section", [{}, {"host": ""}, {"create_replica_methods": ["basebackup"]}])
def test_a_section_that_makes_no_standby_is_refused(old: Old, section: dict[str, Any]) -> None:
    """Patroni would take the region for a primary's."""
    assert old.step("configure", standby_cluster=section)["msg"] == (
        "standby_cluster must name the host, the port or the archive that the region follows"
    )
    assert old.stored("config") == '{"ttl": 20}'


def test_a_region_that_was_never_provisioned(old: Old) -> None:
    old.cluster.keys.clear()
    assert old.step("configure")["msg"] == (
        "/service/muster-north/config is missing: provision the region with site.yml first"
    )


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_configuration_that_nobody_understands(old: Old, text: str) -> None:
    old.config(text)
    for step in ("configure", "release"):
        assert old.step(step)["msg"] == "/service/muster-north/config is not what Patroni writes"


def test_an_etcd_that_does_not_answer(old: Old) -> None:
    for endpoint in old.cluster.endpoints.values():
        endpoint.up = False
    for step in ("configure", "release"):
        assert old.step(step)["msg"].startswith("etcd at https://localhost:")
    assert old.marker.exists()


# --- rewinding --------------------------------------------------------------------------------


@pytest.fixture
def saved(old: Old) -> Old:
    old.step("save")
    return old


def aside(old: Old) -> Path:
    return old.data.parent / "main.before-reprotect-20261121T133005"


def test_old_data_is_rewound(saved: Old) -> None:
    answer = saved.step("rewind", restore_command="get '%f' \"%p\"")
    assert (answer["changed"], answer["method"], answer["reason"]) == (True, "rewind", "")
    assert answer["old_directory"] is None
    assert answer["seconds"] >= 0
    assert [phase["name"] for phase in answer["muster_phases"]] == ["re-protect: rewind north-1"]
    (call,) = saved.read("rewind-calls")
    assert f"--target-pgdata={saved.data}" in call
    assert (
        "--source-server=host=south-1 port=5432 user=muster_rewind dbname=postgres sslmode=verify-full"
        in call
    )
    assert REWIND_PASSWORD not in call.partition("PGPASSWORD=")[0], "no other process sees it"
    assert call.endswith(f"PGPASSWORD={REWIND_PASSWORD}")
    assert saved.read("rewind-config")[1] == "restore_command = 'get ''%f'' \"%p\"'"
    assert not (saved.data / "muster_restore.conf").exists()
    again = saved.step("rewind")
    assert (again["changed"], again["method"]) == (False, "none")


def test_data_that_never_left_the_line_is_left_alone(old: Old) -> None:
    old.control(timeline=2)
    answer = old.step("rewind")
    assert (answer["changed"], answer["method"]) == (False, "none")
    assert old.read("rewind-calls") == []


def test_nothing_is_rewound_before_it_is_saved(old: Old) -> None:
    assert old.step("rewind")["msg"] == ("what only north-1 has is not saved yet: run the step save first")
    assert old.read("rewind-calls") == []
    assert old.step("rewind", discard=True)["method"] == "rewind"


def test_check_mode_rewinds_nothing(saved: Old) -> None:
    before = saved.files()
    assert saved.step("rewind", check=True)["changed"] is True
    assert saved.files() == before
    assert saved.read("rewind-calls") == []


def test_a_replica_that_was_killed_is_rewound_too(saved: Old) -> None:
    (saved.data / "standby.signal").touch()
    answer = saved.step("rewind")
    assert (answer["method"], answer["reason"]) == ("rewind", "")


def test_where_a_rewind_is_impossible_saved_data_is_cleared(saved: Old) -> None:
    saved.put("rewind-error", "pg_rewind: servers diverged\npg_rewind: error: could not find WAL file\n")
    answer = saved.step("rewind")
    assert (answer["method"], answer["reason"]) == ("clone", "pg_rewind: error: could not find WAL file")
    assert answer["old_directory"] is None
    assert list(saved.data.iterdir()) == []
    assert saved.place.exists()
    again = saved.step("rewind")
    assert (again["method"], again["reason"]) == ("clone", "the data directory is lost")


@pytest.mark.parametrize(
    "error",
    [
        'connection to server at "south-1" (10.0.0.1), port 5432 failed: Connection refused',
        'could not translate host name "south-1" to address: Name or service not known',
        'connection to server at "south-1", port 5432 failed: FATAL:  password authentication failed',
    ],
)
def test_a_primary_that_is_not_reached_costs_no_data(saved: Old, error: str) -> None:
    saved.put("rewind-error", f"pg_rewind: error: {error}\n")
    answer = saved.step("rewind")
    assert answer["msg"] == f"north-1 cannot be rewound now, run this again: pg_rewind: error: {error}"
    assert (saved.data / "global" / "pg_control").exists()
    assert not (saved.data / "muster_restore.conf").exists()


def test_a_clearing_that_was_interrupted_is_finished(saved: Old) -> None:
    shutil.rmtree(saved.data / "global")
    answer = saved.step("rewind")
    assert (answer["method"], answer["old_directory"]) == ("clone", None)
    assert list(saved.data.iterdir()) == [], "Patroni makes a copy only where nothing is"


def test_remains_of_which_nothing_was_saved_are_set_aside(old: Old) -> None:
    shutil.rmtree(old.data / "global")
    answer = old.step("rewind")
    assert (answer["method"], answer["old_directory"]) == ("clone", str(aside(old)))
    assert (aside(old) / "pg_wal" / SEGMENTS[1]).exists()


def test_a_timeline_begun_twice_is_not_rewound(old: Old) -> None:
    """pg_rewind would take the two for the same."""
    old.control(timeline=2)
    old.history(2, "1\t0/4000100\tno recovery target specified\n")
    (old.data / "pg_wal" / "000000020000000000000004").touch()
    assert old.step("save")["saved"]["count"] == 4
    assert [
        re.search(r"--timeline=\d --start=\S+( --end=\S+)?", call)[0]
        for call in old.read("waldump-calls")[:2]
    ] == [  # type: ignore[index]
        "--timeline=1 --start=0/3000100 --end=0/4000100",
        "--timeline=2 --start=0/4000100",
    ]
    answer = old.step("rewind")
    assert (answer["method"], answer["reason"]) == (
        "clone",
        "timeline 2 was begun twice, here and at the new primary",
    )
    assert old.read("rewind-calls") == []
    assert list(old.data.iterdir()) == []


@pytest.mark.parametrize("twice", [False, True])
def test_data_of_which_the_commits_are_not_known_is_set_aside(old: Old, twice: bool) -> None:
    if twice:
        old.control(timeline=2)
        old.history(2, "1\t0/4000100\tno recovery target specified\n")
    (old.data / "pg_wal" / SEGMENTS[1]).unlink()
    old.step("save")
    answer = old.step("rewind")
    assert (answer["method"], answer["old_directory"]) == ("clone", str(aside(old)))
    assert old.read("rewind-calls") == []
    assert (aside(old) / "global" / "pg_control").exists()
    assert not old.data.exists()
    assert old.step("rewind")["old_directory"] is None


def test_foreign_data_is_set_aside(old: Old) -> None:
    old.control(identifier="1")
    answer = old.step("rewind")
    assert (answer["method"], answer["reason"]) == ("clone", "the data is of another cluster")
    assert (aside(old) / "global" / "pg_control").exists()


def test_set_aside_twice_is_told(old: Old) -> None:
    old.control(identifier="1")
    (aside(old) / "something").mkdir(parents=True)
    assert old.step("rewind")["msg"].startswith("the step rewind on north-1: ")
    assert (old.data / "global" / "pg_control").exists()


def test_unknown_commits_are_discarded_when_told_to(old: Old) -> None:
    (old.data / "pg_wal" / SEGMENTS[1]).unlink()
    old.step("save")
    old.put("rewind-error", "pg_rewind: error: could not find WAL file\n")
    answer = old.step("rewind", discard=True)
    assert (answer["method"], answer["old_directory"]) == ("clone", None)
    assert list(old.data.iterdir()) == []
    assert not aside(old).exists()


@pytest.mark.parametrize("why", ["no room", "a mount point"])
def test_where_it_cannot_be_set_aside_it_stays(old: Old, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old.control(identifier="1")
    if why == "no room":
        monkeypatch.setattr(_rejoin, "free_mb", lambda _path: (200, 1000))
    else:
        monkeypatch.setattr(os.path, "ismount", lambda path: path == str(old.data))
    assert old.step("rewind")["msg"] == (
        f"{old.data} on north-1 cannot be rewound, what only it has could not be listed, and there is no room "
        "to keep it beside a new copy: move it away, or set postgresql_reprotect_discard: true"
    )
    assert (old.data / "global" / "pg_control").exists()


def test_no_data_at_all_is_cloned(old: Old) -> None:
    shutil.rmtree(old.data)
    answer = old.step("rewind")
    assert (answer["changed"], answer["method"], answer["reason"]) == (
        True,
        "clone",
        "the data directory is lost",
    )
    assert answer["old_directory"] is None


def test_a_pg_rewind_that_is_not_there(saved: Old) -> None:
    (saved.home / "bin" / "pg_rewind").unlink()
    answer = saved.step("rewind")
    assert answer["method"] == "clone"
    assert answer["reason"].startswith("pg_rewind: [Errno 2]")


# --- releasing --------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [{"ttl": 20}, {"standby_cluster": {}}, None])
def test_a_region_that_is_no_standby_stays_fenced(old: Old, config: Any) -> None:
    old.cluster.keys.clear()
    if config is not None:
        old.config(config)
    for check in (True, False):
        assert old.step("release", check=check)["msg"] == (
            "refused to take down the fence of north-1: its region is not configured as a standby"
        )
    assert old.marker.exists()
    assert old.read("units") == []


def test_a_standbys_fence_is_taken_down(old: Old) -> None:
    old.config({"standby_cluster": STANDBY})
    assert old.step("release", check=True)["changed"] is True
    assert old.marker.exists()
    assert old.step("release")["changed"] is True
    assert not old.marker.exists()
    assert old.read("units") == ["unmask patroni.service"]
    old.cluster.keys.clear()
    assert old.step("release")["changed"] is False


@pytest.mark.parametrize("left", ["marker", "mask"])
def test_half_a_fence_is_one_too(old: Old, left: str) -> None:
    if left == "mask":
        old.marker.unlink()
    else:
        old.put("unit", "enabled\n")
    assert old.step("release")["msg"].startswith("refused to take down the fence of north-1: ")
    old.config({"standby_cluster": STANDBY})
    assert old.step("release")["changed"] is True
