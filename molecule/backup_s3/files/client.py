# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Somebody with bad intent, at the bucket of the backups; prints what came of it as JSON.

usage: client.py JSON     an object with what (the name of a function below), secret and label
"""

from __future__ import annotations

import json
import sys
from typing import Any

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

GIVEN = json.loads(sys.argv[1])
BUCKET, CA = "backups", "/etc/muster/backup/ca.crt"


def client(signed: bool = True) -> Any:
    keys = {"aws_access_key_id": "backup", "aws_secret_access_key": GIVEN["secret"]} if signed else {}
    more = {} if signed else {"signature_version": UNSIGNED}
    return boto3.client(
        "s3", endpoint_url="https://north-3:9000", region_name="us-east-1", verify=CA, **keys,
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}, **more),
    )  # fmt: skip


def attempt(action: Any, **arguments: Any) -> str:
    """ok, or why not."""
    try:
        action(**arguments)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return "ok"


def versions() -> list[dict[str, Any]]:
    pages = client().get_paginator("list_object_versions").paginate(Bucket=BUCKET)
    return [version for page in pages for version in page.get("Versions", [])]


def remove() -> dict[str, Any]:
    """Each version of what the backup consists of, as the backup's own user and as nobody."""
    own, nobody = client(), client(signed=False)
    found = [version for version in versions() if f"/backup/muster/{GIVEN['label']}/" in f"/{version['Key']}"]
    seen: dict[str, Any] = {"versions": len(found), "own": [], "nobody": [], "retention": []}
    for version in found:
        which = {"Bucket": BUCKET, "Key": version["Key"], "VersionId": version["VersionId"]}
        seen["own"].append(attempt(own.delete_object, **which))
        seen["nobody"].append(attempt(nobody.delete_object, **which))
        seen["nobody"].append(attempt(nobody.delete_object, Bucket=BUCKET, Key=version["Key"]))
        seen["retention"].append(own.head_object(**which).get("ObjectLockMode"))
    return {key: sorted(set(value)) if isinstance(value, list) else value for key, value in seen.items()}


def hide() -> dict[str, Any]:
    """Everything, by delete markers, which the backup's user may set: pgBackRest has to expire."""
    own = client()
    keys = sorted({version["Key"] for version in versions() if version["IsLatest"]})
    return {key: attempt(own.delete_object, Bucket=BUCKET, Key=key) for key in keys}


print(json.dumps(globals()[GIVEN["what"]]()))
