"""The pgbackrest_* modules: what the repository says counts, never an exit code alone."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.muster.platform.plugins.module_utils import _pgbackrest
from ansible_collections.muster.platform.plugins.modules import (
    pgbackrest_backup,
    pgbackrest_info,
    pgbackrest_stanza,
)

sys.path.insert(0, str(Path(__file__).parent))
from pgbackrest_fake import NO_STANZA, FakePgBackRest, backup, info

NOW = int(time.time())
FIRST, SECOND = "20261121-100000F", "20261121-110000F"
VALID = (
    "stanza: muster\nstatus: ok\n  backup: {}, status: valid, total files checked: 9, total valid files: 9\n"
)
INVALID = (
    "stanza: muster\nstatus: error\n  backup: {}, status: invalid, total files checked: 9, total valid files: 8\n"
    "    missing: 0, checksum invalid: 1, size invalid: 0, other: 0\n"
)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePgBackRest:
    return FakePgBackRest(tmp_path, monkeypatch)


def call(module: Any, capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    """Run a module's main() and return what it answers."""
    with patch_module_args(arguments), pytest.raises(SystemExit):
        module.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return answer


# --- pgbackrest_info ---------------------------------------------------------


def read(fake: FakePgBackRest, capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    common = {"stanza": "muster", "user": fake.user, "host": "north-3", "unit": "no-such.service"}
    return call(pgbackrest_info, capsys, **(common | arguments))


def test_info_of_a_good_repository(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pgbackrest_info, "active", lambda _unit: True)
    fake.answer(
        "info",
        info(backup(FIRST, NOW - 7200), backup(SECOND, NOW - 60), newest_wal="00000004000000000000001D"),
    )
    found = read(fake, capsys, directory=str(tmp_path / "not" / "yet"), region="north")
    status = found["recovery_status"]
    assert found["changed"] is False
    assert status["healthy"] is True
    assert status["reasons"] == []
    assert (status["role"], status["ready"]) == ("primary", None)
    assert status["last_backup_at"] == _pgbackrest.utc(NOW - 60)
    assert (status["position"], status["timeline"]) == ("00000004000000000000001D", 4)
    assert status["size_bytes"] == 18_000_000
    assert status["versions"] == {"pgbackrest": "2.55.1"}
    assert [b["label"] for b in found["backups"]] == [FIRST, SECOND]
    assert found["stanza_exists"] is True
    assert found["disk"]["total_mb"] > 0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (NO_STANZA, "the stanza muster does not exist on north-3"),
        ([], "the stanza muster does not exist on north-3"),
        (info(code=2, message="no valid backups"), "north-3 has no backup yet"),
        (info(backup(FIRST, NOW, error=True)), "north-3 has no backup yet"),
        (
            info(backup(FIRST, NOW - 40 * 3600)),
            "the newest backup on north-3 is 40.0 h old, more than the 26 h that its timers allow",
        ),
    ],
)
def test_info_gives_the_reason(
    fake: FakePgBackRest,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    answer: Any,
    reason: str,
) -> None:
    # The ages were made when the tests were collected, which may be minutes ago.
    monkeypatch.setattr(pgbackrest_info, "time", SimpleNamespace(time=lambda: NOW))
    fake.answer("info", answer)
    status = read(fake, capsys)["recovery_status"]
    assert status["healthy"] is False
    assert reason in status["reasons"]


def test_info_of_a_repository_that_cannot_be_read(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answer("info", "", rc=31)
    fake.answer(
        "info", "P00  ERROR: [095]: unable to flush\n            HINT: is the passphrase right?\n", rc=31
    )
    found = read(fake, capsys)
    assert found["recovery_status"]["reasons"][0] == (
        "north-3: the repository cannot be read: unable to flush HINT: is the passphrase right?"
    )
    assert found["recovery_status"]["last_backup_at"] is None
    assert found["stanza_exists"] is None


def test_info_of_a_full_disk(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgbackrest_info, "free_mb", lambda _path: (3, 1000))
    fake.answer("info", info(backup(FIRST, NOW)))
    status = read(fake, capsys, directory="/repo", min_free_mb=512)["recovery_status"]
    assert "/repo on north-3 has 3 MB free, less than 512 MB" in status["reasons"]


def test_info_without_the_program(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = FakePgBackRest(tmp_path, monkeypatch)
    fake.uninstall()
    found = read(fake, capsys)
    assert found["version"] is None
    assert "north-3: pgBackRest is not installed" in found["recovery_status"]["reasons"]


# --- pgbackrest_stanza -------------------------------------------------------


def have(fake: FakePgBackRest, capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    return call(pgbackrest_stanza, capsys, **({"stanza": "muster", "user": fake.user} | arguments))


def test_a_stanza_that_exists_is_left_alone(fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answer("info", info(code=2, message="no valid backups"))
    found = have(fake, capsys)
    assert (found["changed"], found["message"]) == (False, "no valid backups")
    assert not fake.calls("stanza-create")


def test_a_missing_stanza_is_created_and_checked(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answer("info", NO_STANZA)
    fake.answer("info", info(code=2, message="no valid backups"))
    found = have(fake, capsys)
    assert found["changed"] is True
    assert len(fake.calls("stanza-create")) == 1
    assert len(fake.calls("check")) == 1


def test_a_stanza_in_which_no_wal_arrives_is_a_failure(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answer("info", NO_STANZA)
    fake.answer("info", info(code=2, message="no valid backups"))
    fake.answer("check", "P00  ERROR: [082]: WAL segment was not archived\n", rc=82)
    found = have(fake, capsys)
    assert found["failed"] is True
    assert "was created, but no WAL arrives in it: WAL segment was not archived" in found["msg"]


def test_a_stanza_that_is_still_missing_is_a_failure(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answer("info", NO_STANZA)
    found = have(fake, capsys)
    assert found["failed"] is True
    assert "the stanza muster could not be created" in found["msg"]


@pytest.mark.parametrize("installed", [True, False])
def test_check_mode_announces_the_stanza(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str], installed: bool
) -> None:
    fake.answer("info", NO_STANZA)
    if not installed:
        (fake.home / "pgbackrest").unlink()
    assert have(fake, capsys, _ansible_check_mode=True)["changed"] is True
    assert not fake.calls("stanza-create")


# --- pgbackrest_backup -------------------------------------------------------


def take(fake: FakePgBackRest, capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    common = {"stanza": "muster", "user": fake.user, "host": "north-3", "directory": str(fake.home)}
    return call(pgbackrest_backup, capsys, **(common | arguments))


def test_a_backup_that_is_listed_and_read(fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answer("info", info(backup(FIRST, NOW - 60)))
    fake.answer("info", info(backup(FIRST, NOW - 60), backup(SECOND, NOW)))
    fake.answer("verify", VALID.format(SECOND))
    found = take(fake, capsys, type="full")
    assert found["changed"] is True
    assert found["label"] == SECOND
    assert found["bytes"] == 40_000_000
    assert found["bytes_per_second"] > 0
    assert "--type=full" in fake.calls("backup")[0]
    assert f"--set={SECOND}" in fake.calls("verify")[0]


def test_success_without_a_new_backup_is_a_failure(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answer("info", info(backup(FIRST, NOW - 60)))
    found = take(fake, capsys)
    assert found["failed"] is True
    assert found["msg"] == "pgbackrest on north-3 reported success, but lists no new backup"


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (INVALID.format(SECOND), "status: invalid"),
        ("stanza: muster\nstatus: ok\n", "its report does not name the backup"),
        ("", "its report does not name the backup"),
        (
            VALID.format(SECOND).replace("status: ok", "status: error\n  archiveId: 17-1, missing: 1"),
            "missing: 1",
        ),
    ],
)
def test_a_backup_that_cannot_be_read_is_a_failure(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str], report: str, reason: str
) -> None:
    fake.answer("info", info())
    fake.answer("info", info(backup(SECOND, NOW)))
    fake.answer("verify", report)  # with exit code 0, as pgBackRest has it
    found = take(fake, capsys)
    assert found["failed"] is True
    assert f"the backup {SECOND} is listed, but `pgbackrest verify` says: " in found["msg"]
    assert reason in found["msg"]


def test_an_older_verify_reads_everything(fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["version"] = []
    fake.answer("version", "pgBackRest 2.45\n")
    fake.answer("info", info(backup(FIRST, NOW - 60)))
    fake.answer("info", info(backup(FIRST, NOW - 60), backup(SECOND, NOW)))
    # Another backup is damaged; this one is not.
    fake.answer("verify", INVALID.format(FIRST) + VALID.format(SECOND))
    assert take(fake, capsys)["label"] == SECOND
    assert not [word for word in fake.calls("verify")[0] if word.startswith("--set")]


def test_wrong_page_checksums_are_a_failure(fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answer("info", info())
    fake.answer("info", info(backup(SECOND, NOW, error=True)))
    found = take(fake, capsys)
    assert found["failed"] is True
    assert "holds data pages with wrong checksums" in found["msg"]


def test_another_repository_has_its_turn(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pgbackrest.time, "sleep", lambda _seconds: None)
    fake.answer("info", info())
    fake.answer("info", info(backup(SECOND, NOW)))
    fake.answer("backup", "P00  ERROR: [056]: unable to acquire pgBackRest advisory lock\n", rc=56)
    fake.answer("backup", "")
    fake.answer("verify", VALID.format(SECOND))
    assert take(fake, capsys)["label"] == SECOND
    assert len(fake.calls("backup")) == 2


def test_a_standby_that_does_not_keep_up_does_not_cost_the_backup(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answer("info", info())
    fake.answer("info", info(backup(SECOND, NOW)))
    fake.answer(
        "backup", "P00  ERROR: [082]: timeout before standby checkpoint lsn reached 0/8A000028\n", rc=82
    )
    fake.answer("backup", "")
    fake.answer("verify", VALID.format(SECOND))
    assert take(fake, capsys)["label"] == SECOND
    assert ["--backup-standby=n" in words for words in fake.calls("backup")] == [False, True]


def test_a_full_disk_is_said_and_cleaned_up(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = fake.home / "backup" / "muster"
    for name in (FIRST, SECOND, "backup.history"):
        (place / name).mkdir(parents=True)
    (place / "backup.info").write_text("")
    monkeypatch.setattr(pgbackrest_backup, "free_mb", lambda _path: (0, 1000))
    fake.answer("info", info(backup(FIRST, NOW - 60)))
    fake.answer("backup", f"P00  ERROR: [064]: unable to write '{place}/{SECOND}/x'\n", rc=64)
    found = take(fake, capsys)
    assert found["msg"] == (
        f"the disk of {fake.home} on north-3 is full (0 MB free): no backup was taken; "
        f"earlier backups are as they were (1, the newest {FIRST})"
    )
    assert sorted(path.name for path in place.iterdir()) == [FIRST, "backup.history", "backup.info"]


def test_too_little_room_is_refused(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgbackrest_backup, "free_mb", lambda _path: (100, 1000))
    fake.answer("info", info())
    found = take(fake, capsys, min_free_mb=512)
    assert "refused to begin a backup" in found["msg"]
    assert "on north-3 has 100 MB free, less than 512 MB; there is no earlier backup" in found["msg"]
    assert not fake.calls("backup")


def test_a_repository_elsewhere_has_no_disk_here(
    fake: FakePgBackRest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What S3's configuration names is not below the directory, full as that may be."""
    monkeypatch.setattr(pgbackrest_backup, "free_mb", lambda _path: (3, 1000))
    fake.answer("info", info(backup(FIRST, NOW - 60)))
    fake.answer("backup", "P00  ERROR: [103]: no endpoint\n", rc=103)
    told = take(fake, capsys, config="/etc/muster/backup/s3.conf", min_free_mb=512)["msg"]
    assert "failed: no endpoint; earlier backups are as they were" in told
    for command in ("info", "backup"):
        assert fake.calls(command)[0][1:3] == ["--stanza=muster", "--config=/etc/muster/backup/s3.conf"]


def test_any_other_failure_keeps_its_reason(fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answer("info", info(backup(FIRST, NOW)))
    fake.answer("backup", "P00  ERROR: [056]: unable to find primary cluster - cannot proceed\n", rc=56)
    found = take(fake, capsys)
    assert "the backup on north-3 failed: unable to find primary cluster - cannot proceed" in found["msg"]


def test_no_stanza_is_a_failure(fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answer("info", NO_STANZA)
    assert "the stanza muster does not exist on north-3" in take(fake, capsys)["msg"]


def test_only_if_none(fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answer("info", info(backup(FIRST, NOW)))
    found = take(fake, capsys, only_if_none=True)
    assert (found["changed"], found["label"]) == (False, FIRST)
    assert not fake.calls("backup")


def test_check_mode_takes_nothing(fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answer("info", info(backup(FIRST, NOW)))
    assert take(fake, capsys, _ansible_check_mode=True)["changed"] is True
    assert not fake.calls("backup")


def test_check_mode_on_a_fresh_host(fake: FakePgBackRest, capsys: pytest.CaptureFixture[str]) -> None:
    fake.uninstall()
    assert take(fake, capsys, only_if_none=True, _ansible_check_mode=True)["changed"] is True
    assert take(fake, capsys, _ansible_check_mode=True)["msg"] == "north-3: pgBackRest is not installed"
