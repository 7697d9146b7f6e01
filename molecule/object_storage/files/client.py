# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What an application, and somebody with bad intent, do with the object store; prints what they saw as JSON.

usage: client.py JSON     an object with what (the name of a function below), host and secret, and its arguments
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

GIVEN = json.loads(sys.argv[1])
CA = "/etc/seaweedfs/tls/ca.crt"
CERTIFICATE = ("/etc/seaweedfs/tls/server.crt", "/etc/seaweedfs/tls/server.key")
PORTS = {"s3": 9000, "agent": 9332, "master": 9333, "filer": 8888, "volume": 8080}


def client(user: str = "application", secret: str | None = None) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=f"https://{GIVEN['host']}:9000",
        aws_access_key_id=user,
        aws_secret_access_key=GIVEN["secret"] if secret is None else secret,
        region_name="us-east-1",
        verify=CA,
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}, connect_timeout=3),
    )


def attempt(action: Any, **arguments: Any) -> str:
    """ok, or why not."""
    try:
        action(**arguments)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    except BotoCoreError as error:
        return type(error).__name__
    return "ok"


def put(names: list[str], bucket: str = "application", user: str = "application") -> dict[str, str]:
    s3 = client(user)
    return {name: attempt(s3.put_object, Bucket=bucket, Key=name, Body=name.encode() * 10) for name in names}


def remove(names: list[str], bucket: str, user: str) -> dict[str, str]:
    s3 = client(user)
    return {name: attempt(s3.delete_object, Bucket=bucket, Key=name) for name in names}


def there(names: list[str], bucket: str, user: str) -> dict[str, str]:
    s3 = client(user)
    return {name: attempt(s3.get_object, Bucket=bucket, Key=name) for name in names}


def held(bucket: str = "application", user: str = "application") -> dict[str, Any]:
    """Every object with the ids of its versions, and whether each can be read."""
    s3 = client(user)
    found: dict[str, Any] = {}
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        for version in page.get("Versions", []):
            found.setdefault(version["Key"], []).append(version["VersionId"])
    for name in found:
        body = s3.get_object(Bucket=bucket, Key=name)["Body"].read()
        assert body == name.encode() * 10 or name == "muster-verify", name
        found[name] = sorted(found[name])
    return found


def limits() -> dict[str, Any]:
    """What nobody may: an S3 client first."""
    operator, backup = client("muster-operator"), client("backup")
    version = backup.put_object(
        Bucket="backups", Key="locked", Body=b"lockedlockedlockedlockedlockedlockedlockedlockedlockedlocked"
    )["VersionId"]
    arguments = {"Bucket": "backups", "Key": "locked", "VersionId": version}
    lock = operator.get_object_lock_configuration(Bucket="backups")["ObjectLockConfiguration"]
    return {
        "lock": lock["Rule"]["DefaultRetention"],
        "delete_locked": attempt(operator.delete_object, **arguments),
        "delete_locked_bypassing": attempt(
            operator.delete_object, **arguments, BypassGovernanceRetention=True
        ),
        "shorten": attempt(
            operator.put_object_retention,
            **arguments,
            Retention={"Mode": "GOVERNANCE", "RetainUntilDate": "2020-01-01"},
        ),
        "foreign_bucket": attempt(client().put_object, Bucket="backups", Key="x", Body=b"x"),
        "wrong_secret": attempt(client(secret="wrong").list_objects_v2, Bucket="application"),
        "nobody": attempt(client("nobody").list_objects_v2, Bucket="application"),
        "policy": attempt(client("muster-operator").delete_bucket, Bucket="application"),
        "versioning": operator.get_bucket_versioning(Bucket="application").get("Status"),
        "lifecycle": operator.get_bucket_lifecycle_configuration(Bucket="application")["Rules"][0]["ID"],
    }


def request(port: int, method: str, path: str, certificate: bool) -> str:
    context = ssl.create_default_context(cafile=CA)
    if certificate:
        context.load_cert_chain(*CERTIFICATE)
    connection = http.client.HTTPSConnection(GIVEN["host"], port, timeout=5, context=context)
    try:
        connection.request(method, path)
        return str(connection.getresponse().status)
    except ConnectionRefusedError:
        return "nobody listens"
    except (OSError, http.client.HTTPException) as error:
        return "no certificate" if "CERTIFICATE_REQUIRED" in str(error).upper() else type(error).__name__
    finally:
        connection.close()


def plain(port: int) -> str:
    connection = http.client.HTTPConnection(GIVEN["host"], port, timeout=5)
    try:
        connection.request("GET", "/")
        return str(connection.getresponse().status)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def attack() -> dict[str, Any]:
    """Remove a locked object by each port, first as anybody, then with a certificate of the CA but no token."""
    paths = {
        "s3": "/backups/locked",
        "agent": "/state",
        "master": "/vol/vacuum?garbageThreshold=0.0001",
        "filer": "/buckets/backups/locked.versions?recursive=true",
        "volume": "/1,01637037d6",
    }
    ways = {
        name: [request(PORTS[name], "DELETE", path, certificate) for certificate in (False, True)]
        for name, path in paths.items()
    }
    ways["grpc"] = [
        request(port + 10000, "POST", "/filer_pb.SeaweedFiler/DeleteEntry", False)
        for port in (8888, 9333, 8080)
    ]
    ways["plain"] = [plain(port) for port in PORTS.values()]
    return ways


print(json.dumps(globals()[GIVEN["what"]](**GIVEN.get("arguments", {}))))
