# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Restoring objects from their versions, and proving the copy in the other region."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils import _s3
from ansible_collections.muster.platform.plugins.module_utils._object_storage import Stores
from ansible_collections.muster.platform.plugins.modules import (
    object_storage_backup,
    object_storage_info,
    object_storage_restore,
)
from object_world import World, regions

__all__ = ["regions"]

Run = Callable[..., dict[str, Any]]
NOW = datetime.now(UTC)


class Versions:
    """A bucket with versions, of which a page holds two."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.copied: list[tuple[str, str, str]] = []
        self.removed: list[str] = []
        self.missing = False

    def add(self, key: str, version: str, minutes_ago: float, marker: bool = False) -> None:
        entry = {"Key": key, "VersionId": version, "LastModified": NOW - timedelta(minutes=minutes_ago)}
        entry["IsLatest"] = all(other["Key"] != key for other in self.entries)
        self.entries.append(entry if marker else {**entry, "ETag": "e"})

    def list_object_versions(self, Bucket: str, Prefix: str, **more: str) -> dict[str, Any]:
        chosen = [entry for entry in self.entries if entry["Key"].startswith(Prefix)]
        start = int(more.get("KeyMarker", 0))
        page = chosen[start : start + 2]
        return {
            "Versions": [entry for entry in page if "ETag" in entry],
            "DeleteMarkers": [entry for entry in page if "ETag" not in entry],
            "IsTruncated": start + 2 < len(chosen),
            "NextKeyMarker": str(start + 2),
            "NextVersionIdMarker": "x",
        }

    def copy_object(self, Bucket: str, Key: str, CopySource: dict[str, str]) -> dict[str, Any]:
        self.copied.append((Bucket, Key, CopySource["VersionId"]))
        return {}

    def delete_object(self, Bucket: str, Key: str) -> dict[str, Any]:
        self.removed.append(Key)
        return {}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Versions:
    found = Versions()
    monkeypatch.setattr(_s3, "connect", lambda _params, _endpoint: found)
    monkeypatch.setattr(
        _s3, "read", lambda client, _name: None if client.missing else {"versioning": bool(client.entries)}
    )
    found.add("changed", "new", 1)
    found.add("changed", "old", 20)
    found.add("same", "only", 20)
    found.add("removed", "marker", 1, marker=True)
    found.add("removed", "was", 20)
    found.add("later", "first", 1)
    found.add("gone", "marker", 15, marker=True)
    found.add("gone", "was", 20)
    return found


def restore(run_module: Run, check: bool = False, **more: Any) -> dict[str, Any]:
    given = {
        "endpoint": "https://s3", "access_key": "a", "secret_key": "quite-secret", "bucket": "b", "target": "b",
        "to_time": (NOW - timedelta(minutes=10)).isoformat(),
    }  # fmt: skip
    return run_module(object_storage_restore, {**given, **more}, check=check)


def test_into_place(bucket: Versions, run_module: Run) -> None:
    answer = restore(run_module)
    assert (answer["restored"], answer["removed"], answer["unchanged"]) == (2, 1, 2)
    assert bucket.copied == [("b", "changed", "old"), ("b", "removed", "was")]
    assert bucket.removed == ["later"]


def test_of_two_in_one_second_the_latest_counts(bucket: Versions, run_module: Run) -> None:
    bucket.entries.clear()
    bucket.add("quick", "marker", 20, marker=True)
    bucket.add("quick", "was", 20)
    assert restore(run_module, target="other")["restored"] == 0
    bucket.entries.clear()
    bucket.add("quick", "was", 20)
    bucket.add("quick", "marker", 20, marker=True)
    assert restore(run_module, target="other")["restored"] == 1


def test_into_another_bucket(bucket: Versions, run_module: Run) -> None:
    assert restore(run_module, target="other")["restored"] == 3
    assert bucket.copied[-1] == ("other", "same", "only")
    assert bucket.removed == []


def test_a_prefix_and_check_mode(bucket: Versions, run_module: Run) -> None:
    answer = restore(run_module, prefix="cha", check=True)
    assert (answer["changed"], answer["restored"], bucket.copied) == (True, 1, [])


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"to_time": "yesterday"}, "give ISO 8601"),
        ({"to_time": "2026-01-01T00:00:00"}, "without a time zone"),
        ({"to_time": "2999-01-01T00:00:00Z"}, "which has not come yet"),
    ],
)
def test_no_time(bucket: Versions, run_module: Run, given: dict[str, str], text: str) -> None:
    assert text in restore(run_module, **given)["msg"]


def test_a_bucket_that_cannot_be_restored(bucket: Versions, run_module: Run) -> None:
    bucket.entries.clear()
    assert "bucket b has no versioning" in restore(run_module)["msg"]
    bucket.missing = True
    assert restore(run_module)["msg"] == "there is no bucket b"


# --- backup ---


@pytest.fixture
def copied(regions: World, monkeypatch: pytest.MonkeyPatch) -> World:
    def compare(_stores: Any, source: str, target: str, **_more: Any) -> dict[str, Any]:
        return {**regions.compare(source, target), "repaired": 0}

    def files(_stores: Any, host: str, _directory: str, most: int) -> list[str]:
        return [path for path in regions.filers[host] if path.startswith("/buckets/b/")][:most]

    monkeypatch.setattr(Stores, "compare", compare)
    monkeypatch.setattr(Stores, "files", files)
    regions.begin()
    for number in range(5):
        regions.put("north", f"object-{number}")
    return regions


def backup(run_module: Run, world: World, tmp_path: Path, **more: Any) -> dict[str, Any]:
    given = {
        "configuration": world.configuration["south"],
        "proof": str(tmp_path / "var/proof.json"),
        "restore_proof": str(tmp_path / "var/restore.json"),
        "timeout": 0.3,
    }
    return run_module(object_storage_backup, {**given, **more})


def test_a_backup_is_a_proven_copy(copied: World, run_module: Run, tmp_path: Path) -> None:
    proof = backup(run_module, copied, tmp_path)["proof"]
    assert (proof["source"], proof["target"], proof["sampled"]) == ("north-1", "south-1", 5)
    assert proof["sampled_bytes"] > 0
    held = [body for path, body in sorted(copied.filers["south-1"].items()) if "/object-" in path]
    sums = b"".join(hashlib.sha256(body).digest() for body in held)
    assert proof["sampled_sha256"] == hashlib.sha256(sums).hexdigest()
    assert json.loads((tmp_path / "var/proof.json").read_text()) == proof
    assert proof["began_at"] <= proof["proven_at"]


def told(run_module: Run, world: World, tmp_path: Path) -> list[str | None]:
    notes = {
        "backup_proof": str(tmp_path / "var/proof.json"),
        "restore_proof": str(tmp_path / "var/restore.json"),
    }
    given = {"configuration": world.configuration["south"], "region": "south", **notes}
    status = run_module(object_storage_info, given)["recovery_status"]
    return [status[key] for key in ("last_backup_at", "last_restore_proof_at")]


def test_what_was_read_whole_from_the_copy_is_a_restore_proof(
    copied: World, run_module: Run, tmp_path: Path
) -> None:
    assert told(run_module, copied, tmp_path) == [None, None]
    proof = backup(run_module, copied, tmp_path)["proof"]
    assert all(check["passed"] for check in proof["checks"])
    size = sum(len(body) for path, body in copied.filers["south-1"].items() if path.startswith("/buckets/b/"))
    assert (
        proof["checks"][2]["detail"] == f"5 files ({size} bytes) read whole from south-1 are what was written"
    )
    assert told(run_module, copied, tmp_path) == [proof["proven_at"]] * 2


@pytest.mark.parametrize("empty", [False, True])
def test_without_a_file_that_was_read_nothing_is_proven_to_restore(
    copied: World, run_module: Run, tmp_path: Path, empty: bool
) -> None:
    for filer in copied.filers.values():
        for path in [path for path in filer if empty and path.startswith("/buckets/b/")]:
            del filer[path]
    proof = backup(run_module, copied, tmp_path, **({} if empty else {"samples": 0}))["proof"]
    assert [check["passed"] for check in proof["checks"]] == [True, True, False]
    assert proof["checks"][2]["detail"] == "no file was read from south-1, so nothing is proven to restore"
    assert told(run_module, copied, tmp_path) == [proof["proven_at"], None]


def test_a_copy_that_lacks_something_is_no_backup(copied: World, run_module: Run, tmp_path: Path) -> None:
    copied.copying = False
    assert "waited 0.3 s for a canary from north" in backup(run_module, copied, tmp_path)["msg"]
    assert not (tmp_path / "var/proof.json").exists()


def test_a_copy_with_other_bytes_is_no_backup(
    copied: World, run_module: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Stores,
        "compare",
        lambda *_words, **_more: {"missing": [], "different": [], "extra": [], "files": 5, "repaired": 0},
    )
    real = Stores.get

    def get(stores: Any, host: str, path: str) -> bytes | None:
        return b"rotten" if host == "south-1" and path.endswith("object-3") else real(stores, host, path)

    monkeypatch.setattr(Stores, "get", get)
    assert "object-3 is not the same in north-1 and south-1" in backup(run_module, copied, tmp_path)["msg"]


def test_without_a_copy_there_is_no_backup(copied: World, run_module: Run, tmp_path: Path) -> None:
    copied.keepers["south-1"].sync.stop()
    assert "no region copies from north" in backup(run_module, copied, tmp_path)["msg"]
    copied.keepers["north-1"].gateway.stop()
    assert "one region must be primary" in backup(run_module, copied, tmp_path)["msg"]
