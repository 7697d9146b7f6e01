"""postgresql_restore: what is refused before anything, what is chosen, and what an interruption leaves."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.muster.platform.plugins.module_utils import _restore, _restore_steps
from ansible_collections.muster.platform.plugins.module_utils._etcd import KeyValue
from ansible_collections.muster.platform.plugins.modules import postgresql_restore

sys.path.insert(0, str(Path(__file__).parent))
from pgbackrest_fake import FakePgBackRest, backup, info

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR_AGO = int((NOW - timedelta(hours=1)).timestamp())
FIRST, SECOND = "20261121-100000F", "20261121-110000F"
HISTORY = "1\t0/4000000\tno recovery target specified\n\n2\t0/5000000\tno recovery target specified\n"

PG_CTL = """#!/bin/sh
echo "$@" >> {home}/pg_ctl.calls
case $1 in
  start) {start} ;;
  status) test -f {home}/running ;;
  stop) rm -f {home}/running ;;
esac
"""
PSQL = "#!/bin/sh\necho '{row}'\n"
CONTROLDATA = """#!/bin/sh
echo 'Database cluster state:               {state}'
echo 'max_connections setting:              250'
"""


class Server:
    """PostgreSQL's programs as the module sees them."""

    def __init__(self, fake: FakePgBackRest) -> None:
        self.fake = fake
        self.set()

    def set(
        self,
        row: str = "t|t|0/4001000|2026-11-21T11:00:00.000000Z|1",
        start: str = "touch {home}/running",
        state: str = "shut down in recovery",
    ) -> None:
        home = str(self.fake.home)
        self.fake.program("pg_ctl", PG_CTL.format(home=home, start=start.format(home=home)))
        self.fake.program("psql", PSQL.format(row=row))
        self.fake.program("pg_controldata", CONTROLDATA.format(state=state))


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePgBackRest:
    monkeypatch.setattr(_restore_steps, "LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(_restore_steps, "ROOM_MB", 0)
    monkeypatch.setattr(_restore_steps.os, "chown", lambda *_arguments: None)
    monkeypatch.setattr(_restore_steps, "systemctl", lambda *_words, **_options: "")
    monkeypatch.setattr(_restore_steps, "drop_in", lambda _params: str(tmp_path / "unit.d" / "restore.conf"))
    found = FakePgBackRest(tmp_path, monkeypatch)
    found.answer("repo-ls", "")
    return found


@pytest.fixture
def server(fake: FakePgBackRest) -> Server:
    return Server(fake)


def call(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str], step: str, **arguments: Any
) -> dict[str, Any]:
    common = {
        "step": step,
        "stanza": "muster",
        "host": "north-2",
        "user": fake.user,
        "data_directory": str(fake.home / "data"),
        "bin_directory": str(fake.home),
        "timeout": 2,
    }
    with patch_module_args(common | arguments), pytest.raises(SystemExit):
        postgresql_restore.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return answer


def at(moment: datetime) -> str:
    return moment.isoformat()


# --- what is asked for -------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "2026-11-21T10:00:00",
            "'2026-11-21T10:00:00' has no time zone; for UTC write it like 2026-11-21T10:00:00Z",
        ),
        ("yesterday", "'yesterday' is no point in time"),
        (at(NOW + timedelta(days=1)), "is in the future: it is "),
        (
            at(NOW - timedelta(hours=2)),
            f"is before the end of the backup {FIRST}: the earliest possible time is {_restore.utc(HOUR_AGO)}",
        ),
    ],
    # The times would be in the names, and differ between the processes that run the tests.
    ids=["no zone", "no time", "future", "before the backup"],
)
def test_an_impossible_time_is_refused(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str], text: str, reason: str
) -> None:
    fake.answer("info", info(backup(FIRST, HOUR_AGO)))
    found = call(fake, capsys, "plan", to_time=text)
    assert found["failed"] is True
    assert found["msg"].startswith("postgresql_restore_to_time")
    assert reason in found["msg"]


def test_a_time_in_another_zone_is_the_same_time(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answer("info", info(backup(FIRST, HOUR_AGO)))
    text = "2026-11-21T12:30:00.250000+02:00"
    moment = _restore.parse_time(text, datetime.fromisoformat(text) + timedelta(hours=1))
    assert moment is not None
    assert _restore.format_time(moment) == "2026-11-21T10:30:00.25Z"
    assert _restore.format_target(moment) == "2026-11-21 10:30:00.250000+00"


def test_the_newest_backup_before_the_time_is_chosen(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answer("info", info(backup(FIRST, HOUR_AGO), backup(SECOND, HOUR_AGO + 1800)))
    early = call(fake, capsys, "plan", to_time=at(NOW - timedelta(minutes=45)))
    late = call(fake, capsys, "plan", to_time=at(NOW - timedelta(minutes=15)))
    newest = call(fake, capsys, "plan")
    assert [found["restored"]["backup"] for found in (early, late, newest)] == [FIRST, SECOND, SECOND]
    assert newest["restored"]["target"] == "the end of the archive"
    assert early["needed_mb"] == 47


def test_a_named_backup(fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answer("info", info(backup(FIRST, HOUR_AGO), backup(SECOND, HOUR_AGO + 1800)))
    assert call(fake, capsys, "plan", backup=FIRST)["restored"]["target"] == f"the state of backup {FIRST}"
    unknown = call(fake, capsys, "plan", backup="20200101-000000F")
    assert unknown["msg"] == (
        f"postgresql_restore_backup '20200101-000000F' is not in this repository, whose newest are: {FIRST}, {SECOND}"
    )
    early = call(fake, capsys, "plan", backup=SECOND, to_time=at(NOW - timedelta(minutes=45)))
    assert f"before the end of the backup {SECOND}" in early["msg"]


def test_nothing_to_restore_from(fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answer("info", info(backup(FIRST, HOUR_AGO, error=True)))
    assert call(fake, capsys, "plan")["msg"] == "this repository has no backup to restore from"


def test_a_repository_that_cannot_be_used(fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answer("info", info(code=99, message="[CryptoError] unable to flush"))
    found = call(fake, capsys, "plan", repository=2)
    assert found["msg"] == (
        "postgresql_restore_repository 2 cannot be used: repository 1: [CryptoError] unable to flush"
    )


# --- timelines ---------------------------------------------------------------


def test_a_backup_of_an_abandoned_timeline_is_not_used(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]
) -> None:
    """Timeline 3 left 2 at 0/5000000; the second backup was taken on 2 after that."""
    fake.answers["repo-ls"] = []
    fake.answer("repo-ls", "00000002.history\n00000003.history\n")
    fake.answer("repo-get", HISTORY)
    fake.answer(
        "info",
        info(
            backup(FIRST, HOUR_AGO, timeline=1, lsn="0/3000100"),
            backup(SECOND, HOUR_AGO + 1800, timeline=2, lsn="0/5000100"),
        ),
    )
    found = call(fake, capsys, "plan", to_time=at(NOW - timedelta(minutes=5)))["restored"]
    assert (found["backup"], found["target_timeline"]) == (FIRST, 3)
    assert fake.calls("repo-get")[0][-1] == "archive/muster/17-1/00000003.history"
    refused = call(fake, capsys, "plan", to_time=at(NOW - timedelta(minutes=5)), backup=SECOND)
    assert "is not on the history of timeline 3" in refused["msg"]


def test_an_abandoned_timeline_can_be_asked_for(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answer("repo-get", "1\t0/4000000\tx\n")
    fake.answer("info", info(backup(FIRST, HOUR_AGO), backup(SECOND, HOUR_AGO + 1800, timeline=2)))
    found = call(fake, capsys, "plan", timeline=2, to_time=at(NOW - timedelta(minutes=5)))
    assert (found["restored"]["backup"], found["restored"]["target_timeline"]) == (SECOND, 2)


def test_every_other_repository_is_asked_for_a_newer_timeline(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]
) -> None:
    known, newer = info(backup(FIRST, HOUR_AGO)), info(newest_wal="000000020000000000000009")
    for answer in (known, known, newer, known):  # planned from 1, then 2, 3 and 1 are compared
        fake.answer("info", answer)
    found = call(fake, capsys, "plan", repositories=[1, 2, 3])
    assert found["msg"] == (
        "repository 3 of north-2 knows a newer timeline than repository 1: set postgresql_restore_repository to 3"
    )


def test_the_repository_must_know_the_newest_timeline(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = info(backup(FIRST, HOUR_AGO)), info(newest_wal="000000020000000000000009")
    for answer in (first, second, first):  # planned from 1, then 2 and 1 are compared
        fake.answer("info", answer)
    found = call(fake, capsys, "plan")
    assert found["msg"] == (
        "repository 2 of north-2 knows a newer timeline than repository 1: set postgresql_restore_repository to 2"
    )


def test_a_taken_timeline_is_refused(fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]) -> None:
    """Timeline 3 ended before its history was archived: after 2 comes 3 again, and its WAL is there."""
    fake.answers["repo-ls"] = []
    fake.answer("repo-ls", "00000002.history\n00000004.history\n")
    fake.answer("repo-get", "1\t0/4000000\tx\n")
    fake.answer("info", info(backup(FIRST, HOUR_AGO, timeline=2), newest_wal="000000040000000000000009"))
    moment = at(NOW - timedelta(minutes=5))
    found = call(fake, capsys, "plan", to_time=moment, timeline=2)
    assert (
        "timeline 2 cannot be followed into place: the new one would be 3, whose WAL repository 1 has already"
        in found["msg"]
    )


def test_a_named_backup_follows_the_newest_timeline_that_it_leads_to(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers["repo-ls"] = []
    fake.answer("repo-ls", "00000002.history\n00000003.history\n")
    fake.answer("repo-get", HISTORY)
    fake.answer(
        "info",
        info(backup(FIRST, HOUR_AGO), backup(SECOND, HOUR_AGO + 1800, timeline=2, lsn="0/5000100")),
    )
    found = [call(fake, capsys, "plan", backup=label)["restored"] for label in (FIRST, SECOND)]
    assert [restored["target_timeline"] for restored in found] == [3, 2]


# --- into a directory --------------------------------------------------------


def restored_files(directory: Path) -> dict[str, str]:
    auto = "shared_buffers = '8GB'\nrestore_command = 'x'\nrecovery_target_time = 'y'\nwork_mem = '4MB'\n"
    return {f"{directory}/PG_VERSION": "17\n", f"{directory}/postgresql.auto.conf": auto}


@pytest.fixture
def restorable(fake: FakePgBackRest) -> Path:
    """A repository with a backup; the directory into which it comes."""
    directory = fake.home / "restored"
    fake.answer("info", info(backup(FIRST, HOUR_AGO)))
    fake.answer("restore", "", files=restored_files(directory))
    return directory


def test_restore_into_a_directory(
    fake: FakePgBackRest, server: Server, restorable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moment = NOW - timedelta(minutes=5)
    found = call(fake, capsys, "isolated", directory=str(restorable), to_time=at(moment))
    assert found["changed"] is True
    assert found["restored"] == {
        "backup": FIRST,
        "repository": 1,
        "target": f"the state of {_restore.format_time(moment)}",
        "target_time": _restore.format_time(moment),
        "target_timeline": 1,
        "position": "0/4001000",
        "last_commit_at": "2026-11-21T11:00:00.000000Z",
        "timeline": 1,
    }
    words = fake.calls("restore")[0]
    assert {
        f"--set={FIRST}",
        "--repo=1",
        "--type=time",
        "--target-action=pause",
        "--archive-mode=off",
    } <= set(words)
    assert f"--target={_restore.format_target(moment)}" in words
    assert not (fake.home / "running").exists()
    config = (restorable / "muster_restore.conf").read_text()
    assert "listen_addresses = ''" in config
    assert "archive_mode = 'off'" in config
    assert "max_connections = '250'" in config
    # What ALTER SYSTEM had set must not win over that.
    assert "shared_buffers" not in (restorable / "postgresql.auto.conf").read_text()
    assert "work_mem" in (restorable / "postgresql.auto.conf").read_text()
    assert any("pg_ctl start" in line for line in found["lines"])


def test_check_mode_restores_nothing(
    fake: FakePgBackRest, server: Server, restorable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = call(fake, capsys, "isolated", directory=str(restorable), _ansible_check_mode=True)
    assert found["changed"] is True
    assert not fake.calls("restore")
    assert not restorable.exists()


@pytest.mark.parametrize(
    ("directory", "reason"),
    [
        ("{home}", "is not empty: name another, or remove it when nothing in it is needed"),
        ("{home}/data/x", "is inside the live data directory"),
        ("/" + "x" * 200, "must be an absolute path of at most 92 letters"),
        ("/with space", "must be an absolute path of at most 92 letters"),
    ],
)
def test_a_directory_that_cannot_be_used(
    fake: FakePgBackRest, restorable: Path, capsys: pytest.CaptureFixture[str], directory: str, reason: str
) -> None:
    found = call(fake, capsys, "isolated", directory=directory.format(home=fake.home))
    assert found["failed"] is True
    assert found["msg"].startswith("postgresql_restore_directory")
    assert reason in found["msg"]
    assert not fake.calls("restore")


def test_a_disk_that_is_too_small(
    fake: FakePgBackRest,
    restorable: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_restore_steps, "free_mb", lambda _path: (10, 100))
    found = call(fake, capsys, "isolated", directory=str(restorable))
    assert f"on north-2 has 10 MB free, but the backup {FIRST} needs 47 MB" in found["msg"]
    assert not restorable.exists()


def test_an_archive_that_ends_too_early(
    fake: FakePgBackRest, server: Server, restorable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fatal = "FATAL:  recovery ended before configured recovery target was reached"
    last = "LOG:  last completed transaction was at log time 2026-11-21 10:59:00.5+00"
    log = f"{restorable}/muster_restore.log"
    server.set(start=f"printf '%s\\\\n%s\\\\n' '{last}' '{fatal}' > {log}; exit 1")
    found = call(fake, capsys, "isolated", directory=str(restorable), to_time=at(NOW))
    assert found["msg"] == (
        f"the archive ends before the state of {_restore.format_time(NOW)} is reached; "
        "the last commit in it is of 2026-11-21 10:59:00.5+00"
    )


def test_a_target_that_is_not_reached_in_time(
    fake: FakePgBackRest, server: Server, restorable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.set(row="t|f|0/4000000||1")
    found = call(fake, capsys, "isolated", directory=str(restorable), to_time=at(NOW))
    assert f"the recovery in {restorable} to reach the state of" in found["msg"]
    assert not (fake.home / "running").exists()


# --- into place --------------------------------------------------------------


@pytest.fixture
def live(fake: FakePgBackRest, server: Server) -> Path:
    """A live data directory, and a repository to restore it from."""
    data = fake.home / "data"
    data.mkdir()
    (data / "PG_VERSION").write_text("17\n")
    fake.answer("info", info(backup(FIRST, HOUR_AGO)))
    fake.answer("restore", "", files=restored_files(data))
    server.set(row="f|f|0/4001000||2", state="shut down")
    return data


PLACE = {"id": "20261121T120000Z", "restore_host": "north-2", "restore_region": "north"}


def test_the_steps_of_a_restore_into_place(
    fake: FakePgBackRest, live: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Path(f"{live}.before-restore-{PLACE['id']}")
    etcd = {"north": Etcd({"standby_cluster": {"host": "x"}}), "south": Etcd({})}
    monkeypatch.setattr(_restore_steps, "EtcdClient", lambda endpoints, *_files: etcd[endpoints[0]])
    blocked = fake.home / "unit.d" / "restore.conf"

    aside = call(fake, capsys, "set_aside", **PLACE)
    assert aside["old_directory"] == str(old)
    assert (old / "PG_VERSION").exists()
    assert not live.exists()
    assert blocked.exists()

    recovered = call(fake, capsys, "recover", **PLACE)
    assert recovered["restored"]["timeline"] == 2
    assert "--target-action=promote" not in fake.calls("restore")[0]  # to the end of the archive
    started = (fake.home / "pg_ctl.calls").read_text()
    assert "archive_mode=on" in started
    assert (
        "archive_command='pgbackrest --config=/etc/pgbackrest.conf --stanza=muster archive-push %p'"
        in started
    )
    assert (live / "postgresql.auto.conf").read_text() == "shared_buffers = '8GB'\nwork_mem = '4MB'\n"

    arguments = {
        "etcd_endpoints": {"north": ["north"], "south": ["south"]},
        "standby_cluster": {"host": "north-2"},
    }
    assert call(fake, capsys, "clear", **PLACE, **arguments)["changed"] is True
    assert etcd["north"].config["standby_cluster"] is None
    assert etcd["south"].config["standby_cluster"] == {"host": "north-2"}
    assert "/service/muster-north/initialize" in etcd["north"].deleted
    assert "/service/muster-south/history" in etcd["south"].deleted
    assert not any(key.endswith("/config") for key in etcd["north"].deleted)

    assert call(fake, capsys, "finish", **PLACE)["msg"] == "Patroni on north-2 has not been released"
    assert call(fake, capsys, "release", **PLACE)["changed"] is True
    assert not blocked.exists()
    assert call(fake, capsys, "finish", **PLACE)["changed"] is True

    # Done: nothing is noted any more.
    assert call(fake, capsys, "look")["journal"] is None


class Etcd:
    """The keys of one region, as far as Patroni's matter."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.deleted: list[str] = []

    def get(self, key: str) -> KeyValue:
        return KeyValue(key, json.dumps(self.config), 7, None)

    def put_if(self, _key: str, value: str, revision: int) -> bool:
        assert revision == 7
        self.config = json.loads(value)
        return True

    def delete(self, key: str) -> bool:
        self.deleted.append(key)
        return True

    def close(self) -> None:
        return


def test_what_was_done_is_not_done_again(
    fake: FakePgBackRest, live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(fake, capsys, "set_aside", **PLACE)
    assert call(fake, capsys, "set_aside", **PLACE)["changed"] is False
    first = call(fake, capsys, "recover", **PLACE)
    again = call(fake, capsys, "recover", **PLACE)
    assert again["changed"] is False
    assert again["restored"] == first["restored"]
    assert len(fake.calls("restore")) == 1
    assert (live / "PG_VERSION").exists()


def test_an_interrupted_recovery_is_begun_again(
    fake: FakePgBackRest, live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(fake, capsys, "set_aside", **PLACE)
    journal = Path(f"{live}.restore.json")
    journal.write_text(json.dumps(json.loads(journal.read_text()) | {"stage": "restoring"}))
    live.mkdir()
    (live / "half").write_text("of a backup")
    assert call(fake, capsys, "recover", **PLACE)["changed"] is True
    assert not (live / "half").exists()
    assert Path(f"{live}.before-restore-{PLACE['id']}").exists()


def test_a_rename_that_was_interrupted_is_finished(
    fake: FakePgBackRest, live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(fake, capsys, "set_aside", **PLACE)
    journal = Path(f"{live}.restore.json")
    journal.write_text(json.dumps(json.loads(journal.read_text()) | {"stage": "stopping"}))
    assert call(fake, capsys, "set_aside", **PLACE)["changed"] is True
    assert json.loads(journal.read_text())["stage"] == "aside"


def test_another_restore_is_not_touched(
    fake: FakePgBackRest, live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(fake, capsys, "set_aside", **PLACE)
    found = call(fake, capsys, "recover", **(PLACE | {"id": "20261121T130000Z"}))
    assert f"is of the restore {PLACE['id']}: finish that one first" in found["msg"]


def test_nothing_is_restored_over_live_data(
    fake: FakePgBackRest, live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = call(fake, capsys, "recover", **PLACE)
    assert found["msg"] == "the old data directory on north-2 has not been set aside"
    assert (live / "PG_VERSION").exists()


def test_etcd_is_not_cleared_before_the_restore(
    fake: FakePgBackRest, live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(fake, capsys, "set_aside", **PLACE)
    found = call(fake, capsys, "clear", **PLACE, etcd_endpoints={}, standby_cluster={})
    assert found["msg"] == "nothing has been restored on north-2 yet"


def test_old_data_is_removed_when_that_is_wanted(
    fake: FakePgBackRest, live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (live / "base").mkdir()
    found = call(fake, capsys, "set_aside", **PLACE, keep_old=False)
    assert found["old_directory"] is None
    assert os.listdir(live) == []


def test_tablespaces_are_refused(
    fake: FakePgBackRest, live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (live / "pg_tblspc" / "16400").mkdir(parents=True)
    assert (
        "has tablespaces, which a restore into place does not handle" in call(fake, capsys, "look")["problem"]
    )
