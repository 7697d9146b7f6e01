# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Declaring buckets: the module's real main() against an S3 in memory, and the verification through it."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils import _s3
from ansible_collections.muster.platform.plugins.module_utils._object_storage import Stores
from ansible_collections.muster.platform.plugins.modules import (
    object_storage_bucket,
    object_storage_info,
    object_storage_verify,
)
from botocore.exceptions import ClientError

Run = Callable[..., dict[str, Any]]
RULE = {
    "ID": "old",
    "Status": "Enabled",
    "Filter": {"Prefix": ""},
    "NoncurrentVersionExpiration": {"NoncurrentDays": 9},
}
POLICY = {
    "Statement": [
        {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteBucket", "Resource": "arn:aws:s3:::logs"}
    ]
}


def missing(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": code}}, "call")


class S3:
    """What the modules use of boto3's client."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.broken = False

    def part(self, bucket: str, name: str, code: str) -> Any:
        if name not in self.buckets[bucket]:
            raise missing(code)
        return self.buckets[bucket][name]

    def head_bucket(self, Bucket: str) -> dict[str, Any]:
        if self.broken:
            raise missing("SlowDown")
        if Bucket not in self.buckets:
            raise missing("404")
        return {}

    def create_bucket(self, Bucket: str, ObjectLockEnabledForBucket: bool = False) -> None:
        self.calls.append(f"create {Bucket}")
        self.buckets[Bucket] = {}
        if ObjectLockEnabledForBucket:
            self.buckets[Bucket] = {"versioning": "Enabled", "lock": {"ObjectLockEnabled": "Enabled"}}

    def get_bucket_versioning(self, Bucket: str) -> dict[str, Any]:
        found = self.buckets[Bucket].get("versioning")
        return {"Status": found} if found else {}

    def put_bucket_versioning(self, Bucket: str, VersioningConfiguration: dict[str, Any]) -> None:
        self.calls.append(f"versioning {Bucket}")
        self.buckets[Bucket]["versioning"] = VersioningConfiguration["Status"]

    def get_object_lock_configuration(self, Bucket: str) -> dict[str, Any]:
        lock = self.part(Bucket, "lock", "ObjectLockConfigurationNotFoundError")
        return {"ObjectLockConfiguration": lock}

    def put_object_lock_configuration(self, Bucket: str, ObjectLockConfiguration: dict[str, Any]) -> None:
        self.calls.append(f"lock {Bucket}")
        self.buckets[Bucket]["lock"] = ObjectLockConfiguration

    def get_bucket_lifecycle_configuration(self, Bucket: str) -> dict[str, Any]:
        return {"Rules": self.part(Bucket, "rules", "NoSuchLifecycleConfiguration")}

    def put_bucket_lifecycle_configuration(self, Bucket: str, LifecycleConfiguration: dict[str, Any]) -> None:
        self.calls.append(f"lifecycle {Bucket}")
        self.buckets[Bucket]["rules"] = LifecycleConfiguration["Rules"]

    def delete_bucket_lifecycle(self, Bucket: str) -> None:
        self.buckets[Bucket].pop("rules")

    def get_bucket_policy(self, Bucket: str) -> dict[str, Any]:
        return {"Policy": self.part(Bucket, "policy", "NoSuchBucketPolicy")}

    def put_bucket_policy(self, Bucket: str, Policy: str) -> None:
        self.calls.append(f"policy {Bucket}")
        document = json.loads(Policy)
        for statement in document["Statement"]:
            statement["Action"] = [statement["Action"]]  # as SeaweedFS gives it back
        self.buckets[Bucket]["policy"] = json.dumps(document)

    def delete_bucket_policy(self, Bucket: str) -> None:
        self.buckets[Bucket].pop("policy")

    def put_object(self, Bucket: str, Key: str, Body: bytes) -> None:
        if Bucket not in self.buckets:
            raise missing("AccessDenied")
        self.objects[Key] = b"other" if self.broken else Body

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:
        return {"Body": io.BytesIO(self.objects[Key])}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> S3:
    found = S3()
    monkeypatch.setattr(_s3, "connect", lambda _params, _endpoint: found)
    return found


@pytest.fixture
def declare(run_module: Run) -> Run:
    def call(*buckets: dict[str, Any], **more: Any) -> dict[str, Any]:
        flags = {key: more.pop(key) for key in ("check", "diff") if key in more}
        given = {
            "endpoint": "https://s3.example.com",
            "access_key": "a",
            "secret_key": "quite-secret",
            "buckets": list(buckets),
        }
        return run_module(object_storage_bucket, {**given, **more}, **flags)

    return call


LOCKED = {"name": "backups", "object_lock": {"days": 30}}


def test_buckets_are_made_once(s3: S3, declare: Run) -> None:
    logs = {"name": "logs", "lifecycle": [RULE], "policy": POLICY}
    first = declare(LOCKED, logs, {"name": "scratch", "versioning": False})
    assert first["changes"] == {
        "backups": ["bucket", "versioning", "object_lock"],
        "logs": ["bucket", "versioning", "lifecycle", "policy"],
        "scratch": ["bucket"],
    }
    assert s3.buckets["backups"]["lock"]["Rule"]["DefaultRetention"] == {"Mode": "COMPLIANCE", "Days": 30}
    again = declare(LOCKED, logs, {"name": "scratch", "versioning": False})
    assert (again["changed"], again["changes"]) == (False, {})


def test_a_change_changes_that_alone(s3: S3, declare: Run) -> None:
    declare({"name": "logs", "lifecycle": [RULE], "policy": POLICY})
    s3.calls.clear()
    answer = declare(
        {"name": "logs", "lifecycle": [{**RULE, "ID": "new"}], "policy": json.dumps(POLICY)}, diff=True
    )
    assert s3.calls == ["lifecycle logs"]
    assert answer["diff"][0]["after"]["lifecycle"][0]["ID"] == "new"
    assert declare({"name": "logs"})["changes"] == {"logs": ["lifecycle", "policy"]}
    assert s3.buckets["logs"] == {"versioning": "Enabled"}


def test_a_lock_becomes_longer(s3: S3, declare: Run) -> None:
    declare(LOCKED)
    assert declare({**LOCKED, "object_lock": {"days": 60}})["changes"] == {"backups": ["object_lock"]}


@pytest.mark.parametrize(
    ("bucket", "text"),
    [
        ({"name": "backups"}, "its lock (COMPLIANCE, 30 days) would have to be removed"),
        ({**LOCKED, "object_lock": {"days": 29}}, "weakened from 30 to 29 days"),
        ({**LOCKED, "object_lock": {"days": 30, "mode": "GOVERNANCE"}}, "from COMPLIANCE to GOVERNANCE"),
        ({"name": "backups", "versioning": False}, "its versioning would have to be suspended"),
    ],
)
def test_no_lock_is_weakened_and_nothing_else_is_changed(
    s3: S3, declare: Run, bucket: dict[str, Any], text: str
) -> None:
    declare(LOCKED)
    s3.calls.clear()
    answer = declare({"name": "before"}, bucket)
    assert answer["failed"]
    assert text in answer["msg"]
    assert s3.calls == []


@pytest.mark.parametrize(
    ("bucket", "text"),
    [
        ({"name": "ab"}, "bucket 'ab' cannot have this name: 3 to 63"),
        ({"name": "Capital"}, "cannot have this name"),
        ({"name": "192.168.1.1"}, "it looks like an address"),
        ({"name": "a..b"}, "two dots in a row"),
        ({"name": "xn--abc"}, "the standard forbids"),
        ({"name": "logs", "policy": "{"}, "bucket logs: the policy does not parse"),
        ({"name": "logs", "policy": {"Statement": []}}, "it has no list Statement"),
        ({"name": "logs", "policy": {"Statement": [{"Effect": "Allow"}]}}, "no Principal, Action, Resource"),
        (
            {"name": "logs", "policy": {"Statement": [{**POLICY["Statement"][0], "Effect": "Perhaps"}]}},
            "Effect is 'Perhaps', not Allow or Deny",
        ),
        ({**LOCKED, "versioning": False}, "bucket backups: object_lock needs versioning"),
        ({**LOCKED, "object_lock": {"days": 0}}, "0 days, which is no time"),
        ({"name": "logs", "quota_mb": -1}, "quota_mb is -1"),
        ({"name": "logs", "quota_mb": 1}, "quota_mb is for the embedded store only"),
    ],
)
@pytest.mark.parametrize("state", ["present", "checked"])
def test_what_cannot_be_is_refused_before_anybody_is_asked(
    s3: S3, declare: Run, bucket: dict[str, Any], text: str, state: str
) -> None:
    s3.broken = True
    answer = declare(bucket, state=state)
    assert answer["failed"]
    assert text in answer["msg"]


def test_a_bucket_declared_twice_is_refused(s3: S3, declare: Run) -> None:
    assert declare({"name": "logs"}, {"name": "logs"})["msg"] == "bucket logs is declared twice"


def test_what_s3_says_is_told(s3: S3, declare: Run) -> None:
    s3.broken = True
    assert declare({"name": "logs"})["msg"] == "bucket logs could not be read: SlowDown (SlowDown)"


def test_without_buckets_nobody_is_asked(declare: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_rest: Any) -> None:
        raise AssertionError("it was asked")

    monkeypatch.setattr(_s3, "connect", connect)
    answer = declare()
    assert (answer["changed"], answer["changes"]) == (False, {})


def test_check_mode_and_checked_change_nothing(s3: S3, declare: Run) -> None:
    assert declare({"name": "logs"}, check=True)["changed"] is True
    assert declare({"name": "logs"}, state="checked")["changed"] is False
    assert s3.buckets == {}


def test_the_status_of_an_endpoint_that_is_there(s3: S3, run_module: Run) -> None:
    given = {"region": "north", "endpoint": "https://s3.example.com", "bucket": "canary", "access_key": "a"}
    given["secret_key"] = "quite-secret"
    told = run_module(object_storage_info, given)["recovery_status"]
    assert (told["role"], told["reasons"]) == ("unknown", ["https://s3.example.com has no bucket canary"])
    s3.create_bucket("canary")
    told = run_module(object_storage_info, given)["recovery_status"]
    assert (told["role"], told["healthy"], told["lag_seconds"]) == ("primary", True, None)


def verify(run_module: Run, **more: Any) -> dict[str, Any]:
    given = {
        "endpoints": [{"host": "edge", "port": 9000}],
        "bucket": "canary",
        "access_key": "a",
        "secret_key": "quite-secret",
    }
    return run_module(object_storage_verify, {**given, "timeout": 0.1, **more})


def test_verify_writes_and_reads_back(s3: S3, run_module: Run) -> None:
    s3.create_bucket("canary")
    answer = verify(run_module)
    assert answer["endpoints"][0]["endpoint"] == "https://edge:9000"
    assert "muster-verify" in s3.objects


def test_verify_tells_what_is_wrong(s3: S3, run_module: Run) -> None:
    assert "the write: AccessDenied" in verify(run_module)["msg"]
    s3.create_bucket("canary")
    s3.broken = True
    assert "what was written was not read back" in verify(run_module)["msg"]
    assert "there is no endpoint to verify" in verify(run_module, endpoints=[])["msg"]


# --- the embedded store ---------------------------------------------------------------------------


@pytest.fixture
def embedded(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A store whose filer tells of quotas, and whether its gateway serves."""
    path = tmp_path / "muster.json"
    given = {
        "region": "north",
        "host": "north-1",
        "regions": {},
        "filer_port": 1,
        "master_port": 2,
        "weed": "w",
    }
    path.write_text(json.dumps(given))
    found: dict[str, Any] = {
        "configuration": str(path),
        "quotas": {},
        "status": 200,
        "serves": True,
        "said": [],
    }

    def request(_stores: Any, method: str, *_words: Any, **_more: Any) -> tuple[int, bytes]:
        entries = [{"FullPath": f"/buckets/{name}", "Quota": size} for name, size in found["quotas"].items()]
        return found["status"], json.dumps({"Entries": entries}).encode()

    def run(argv: list[str], input: str, **_how: Any) -> subprocess.CompletedProcess[str]:
        found["said"].append(input)
        if found.get("deaf"):
            return subprocess.CompletedProcess(argv, 0, "", "E1126 no")
        words = dict(word.lstrip("-").split("=") for word in input.splitlines()[0].split()[1:])
        found["quotas"][words["name"]] = int(words.get("sizeMB", 0)) * 1024 * 1024
        return subprocess.CompletedProcess(argv, 0, "", "")

    monkeypatch.setattr(Stores, "request", request)
    monkeypatch.setattr(Stores, "s3_healthy", lambda _stores, _host: found["serves"])
    monkeypatch.setattr(object_storage_bucket.subprocess, "run", run)
    return found


def test_a_quota_is_set_once_and_taken_away(embedded: dict[str, Any], declare: Run) -> None:
    where = {"configuration": embedded["configuration"]}
    answer = declare({"name": "logs", "quota_mb": 5}, diff=True, **where)
    assert answer["changes"] == {"logs": ["bucket", "versioning", "quota_mb"]}
    assert answer["diff"][-1]["after"] == {"quota_mb": 5}
    enforce = "\ns3.bucket.quota.enforce -apply\n"
    assert embedded["said"] == [f"s3.bucket.quota -name=logs -op=set -sizeMB=5{enforce}"]
    assert declare({"name": "logs", "quota_mb": 5}, **where)["changed"] is False
    assert declare({"name": "logs"}, **where)["changes"] == {"logs": ["quota_mb"]}
    assert embedded["said"][1:] == [f"s3.bucket.quota -name=logs -op=remove{enforce}"]


def test_a_quota_that_is_not_there_afterwards_was_not_set(embedded: dict[str, Any], declare: Run) -> None:
    embedded["deaf"] = True
    answer = declare({"name": "logs", "quota_mb": 5}, configuration=embedded["configuration"])
    assert answer["msg"] == "bucket logs: the quota was not set: E1126 no"


def test_quotas_that_are_not_known_are_not_none(s3: S3, embedded: dict[str, Any], declare: Run) -> None:
    embedded["status"] = 500
    answer = declare({"name": "logs"}, configuration=embedded["configuration"])
    assert "the store of north-1 answers 500 for /buckets/" in answer["msg"]
    assert s3.calls == []


def test_a_gateway_that_is_slow_has_no_quota_left_out(embedded: dict[str, Any], declare: Run) -> None:
    embedded["serves"] = False
    answer = declare({"name": "logs", "quota_mb": 5}, configuration=embedded["configuration"])
    assert "quota_mb" in answer["changes"]["logs"]


@pytest.mark.parametrize("lacks", ["the configuration", "the gateway", "boto3"])
def test_before_it_is_provisioned_nothing_is_asked(
    s3: S3, embedded: dict[str, Any], declare: Run, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    s3.broken = True
    where = embedded["configuration"]
    if lacks == "the configuration":
        where += ".none"
    if lacks == "boto3":
        monkeypatch.setattr(object_storage_bucket, "find_spec", lambda _name: None)
    embedded["serves"] = lacks != "the gateway"
    for how in ({"state": "checked"}, {"check": True}):
        assert declare({"name": "logs"}, configuration=where, **how)["changes"] == {}


def test_a_change_to_a_bucket_that_is_gone_is_no_success(
    s3: S3, declare: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(**_arguments: Any) -> None:
        raise missing("NoSuchBucket")

    monkeypatch.setattr(s3, "put_bucket_versioning", gone)
    assert declare({"name": "logs"})["msg"] == "bucket logs was not changed: NoSuchBucket (NoSuchBucket)"
