# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Buckets over S3: what may be declared, what is there, and how the one becomes the other."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
MODES = {"GOVERNANCE": 1, "COMPLIANCE": 2}
ABSENT = {
    "NoSuchBucket", "404", "NotFound", "NoSuchBucketPolicy", "NoSuchLifecycleConfiguration",
    "ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration",
}  # fmt: skip

Bucket = Mapping[str, Any]


def connect(params: Mapping[str, Any], endpoint: str) -> Any:
    """A client of one endpoint, whose certificate is verified."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise MusterError("python3-boto3 is not installed") from error
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=params["access_key"],
        aws_secret_access_key=params["secret_key"],
        region_name=params["region"],
        verify=params.get("ca_certificate") or True,
        config=Config(
            s3={"addressing_style": "path"}, retries={"max_attempts": 1}, connect_timeout=3, read_timeout=20
        ),
    )


class Absent(MusterError):
    """What was asked for is not there."""


def call(what: str, action: Callable[..., Any], **arguments: Any) -> Any:
    """Have S3 do something; its own words when it refuses."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return action(**arguments)
    except ClientError as error:
        told = error.response.get("Error", {})
        code = told.get("Code", "")
        kind = Absent if code in ABSENT else MusterError
        raise kind(f"{what}: {told.get('Message') or code} ({code})") from error
    except BotoCoreError as error:
        raise MusterError(f"{what}: {error}") from error


def ask(what: str, action: Callable[..., Any], **arguments: Any) -> Any:
    """What S3 answers; None for what is not there."""
    try:
        return call(what, action, **arguments)
    except Absent:
        return None


# --- what may be declared -------------------------------------------------------------------------


def name_trouble(name: str) -> str | None:
    """Why a bucket may not be called this; None when it may."""
    if not NAME.fullmatch(name):
        return (
            "3 to 63 lower-case letters, digits, dots and hyphens are allowed, a letter or digit at both ends"
        )
    if ".." in name or name.startswith("xn--") or name.endswith(("-s3alias", "--ol-s3")):
        return "the standard forbids two dots in a row, the start xn-- and the ends -s3alias and --ol-s3"
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return None
    return "it looks like an address"


def parse_policy(bucket: str, policy: Any) -> dict[str, Any] | None:
    """The policy as a document; MusterError when it is none."""
    if not policy:
        return None
    where = f"bucket {bucket}: the policy does not parse"
    if isinstance(policy, str):
        try:
            policy = json.loads(policy)
        except ValueError as error:
            raise MusterError(f"{where}: {error}") from error
    statements = policy.get("Statement") if isinstance(policy, dict) else None
    if not isinstance(statements, list) or not statements:
        raise MusterError(f"{where}: it has no list Statement")
    for statement in statements:
        lacks = [key for key in ("Effect", "Principal", "Action", "Resource") if not statement.get(key)]
        if lacks:
            raise MusterError(f"{where}: a statement has no {', '.join(lacks)}")
        if statement["Effect"] not in ("Allow", "Deny"):
            raise MusterError(f"{where}: Effect is {statement['Effect']!r}, not Allow or Deny")
    return {"Version": "2012-10-17", **policy}


def check(buckets: list[dict[str, Any]]) -> None:
    """Refuse what can be seen to be wrong without asking anybody; all of it at once."""
    troubles = []
    names = [bucket["name"] for bucket in buckets]
    troubles += [
        f"bucket {name} is declared twice" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    for bucket in buckets:
        trouble = name_trouble(bucket["name"])
        if trouble:
            troubles.append(f"bucket {bucket['name']!r} cannot have this name: {trouble}")
        lock = bucket["object_lock"]
        if lock and not bucket["versioning"]:
            troubles.append(f"bucket {bucket['name']}: object_lock needs versioning")
        if lock and lock["days"] < 1:
            troubles.append(
                f"bucket {bucket['name']}: object_lock keeps for {lock['days']} days, which is no time"
            )
        if bucket["quota_mb"] < 0:
            troubles.append(f"bucket {bucket['name']}: quota_mb is {bucket['quota_mb']}")
        try:
            parse_policy(bucket["name"], bucket["policy"])
        except MusterError as error:
            troubles.append(str(error))
    if troubles:
        raise MusterError("; ".join(troubles))


# --- what is there ------------------------------------------------------------------------------------


def canonical(document: Any) -> Any:
    """For comparing: a single word and a list of one are the same, and the order of a list means nothing."""
    if isinstance(document, dict):
        return {key: canonical(value) for key, value in sorted(document.items()) if value not in (None, "")}
    if isinstance(document, list):
        return sorted(
            (canonical(value) for value in document), key=lambda value: json.dumps(value, sort_keys=True)
        )
    return document


def canonical_policy(policy: dict[str, Any] | None) -> Any:
    if not policy:
        return None
    statements = []
    for statement in policy["Statement"]:
        found = dict(statement)
        for key in ("Action", "Resource"):
            found[key] = [found[key]] if isinstance(found.get(key), str) else found.get(key)
        principal = found.get("Principal")
        if isinstance(principal, dict):
            found["Principal"] = {k: [v] if isinstance(v, str) else v for k, v in principal.items()}
        statements.append(found)
    return canonical(statements)


def read(client: Any, name: str) -> dict[str, Any] | None:
    """A bucket as it is; None when there is none."""
    what = f"bucket {name} could not be read"
    if ask(what, client.head_bucket, Bucket=name) is None:
        return None
    versioning = ask(what, client.get_bucket_versioning, Bucket=name) or {}
    lock = (ask(what, client.get_object_lock_configuration, Bucket=name) or {}).get(
        "ObjectLockConfiguration", {}
    )
    retention = (lock.get("Rule") or {}).get("DefaultRetention") or {}
    lifecycle = ask(what, client.get_bucket_lifecycle_configuration, Bucket=name) or {}
    policy = ask(what, client.get_bucket_policy, Bucket=name)
    return {
        "versioning": versioning.get("Status") == "Enabled",
        "lockable": lock.get("ObjectLockEnabled") == "Enabled",
        "object_lock": {
            "mode": retention["Mode"],
            "days": retention.get("Days") or retention.get("Years", 0) * 365,
        }
        if retention.get("Mode")
        else None,
        "lifecycle": lifecycle.get("Rules", []),
        "policy": json.loads(policy["Policy"]) if policy and policy.get("Policy") else None,
    }


def weakened(bucket: Bucket, seen: Mapping[str, Any]) -> str | None:
    """What of a bucket's lock would have to be weakened; None when nothing."""
    was, wanted = seen["object_lock"], bucket["object_lock"]
    if seen["lockable"] and not bucket["versioning"]:
        return "its versioning would have to be suspended, and it has object lock"
    if not was:
        return None
    if not wanted:
        return f"its lock ({was['mode']}, {was['days']} days) would have to be removed"
    if MODES[wanted["mode"]] < MODES.get(was["mode"], 0):
        return f"its lock would have to be weakened from {was['mode']} to {wanted['mode']}"
    if wanted["days"] < was["days"]:
        return f"its lock would have to be weakened from {was['days']} to {wanted['days']} days"
    return None


# --- how it becomes so ----------------------------------------------------------------------------------


def differences(bucket: Bucket, seen: Mapping[str, Any] | None) -> list[str]:
    """Which parts of a bucket are not as declared."""
    if seen is None:
        parts = {"bucket": True, "versioning": bucket["versioning"], "object_lock": bucket["object_lock"]}
        parts |= {"lifecycle": bucket["lifecycle"], "policy": bucket["policy"]}
        return [part for part, wanted in parts.items() if wanted]
    policy = parse_policy(bucket["name"], bucket["policy"])
    found = []
    if seen["versioning"] != bucket["versioning"]:
        found.append("versioning")
    if seen["object_lock"] != bucket["object_lock"]:
        found.append("object_lock")
    if canonical(seen["lifecycle"]) != canonical(bucket["lifecycle"]):
        found.append("lifecycle")
    if canonical_policy(seen["policy"]) != canonical_policy(policy):
        found.append("policy")
    return found


def apply(client: Any, bucket: Bucket, parts: list[str]) -> None:
    """Bring these parts of a bucket to what is declared."""
    name = bucket["name"]
    what = f"bucket {name} was not changed"
    lock = bucket["object_lock"]
    if "bucket" in parts:
        extra = {"ObjectLockEnabledForBucket": True} if lock else {}
        call(f"bucket {name} was not made", client.create_bucket, Bucket=name, **extra)
    if "versioning" in parts and not (lock and "bucket" in parts):
        status = "Enabled" if bucket["versioning"] else "Suspended"
        call(what, client.put_bucket_versioning, Bucket=name, VersioningConfiguration={"Status": status})
    if "object_lock" in parts:
        rule = {"DefaultRetention": {"Mode": lock["mode"], "Days": lock["days"]}}
        wanted = {"ObjectLockEnabled": "Enabled", "Rule": rule}
        call(what, client.put_object_lock_configuration, Bucket=name, ObjectLockConfiguration=wanted)
    if "lifecycle" in parts and bucket["lifecycle"]:
        rules = {"Rules": bucket["lifecycle"]}
        call(what, client.put_bucket_lifecycle_configuration, Bucket=name, LifecycleConfiguration=rules)
    elif "lifecycle" in parts:
        ask(what, client.delete_bucket_lifecycle, Bucket=name)
    if "policy" in parts and bucket["policy"]:
        policy = json.dumps(parse_policy(name, bucket["policy"]))
        call(what, client.put_bucket_policy, Bucket=name, Policy=policy)
    elif "policy" in parts:
        ask(what, client.delete_bucket_policy, Bucket=name)
