#!/usr/bin/python3
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Take a snapshot of etcd, prove that it is whole, keep the newest few.

Run by muster-etcd-backup.timer and by the role's verb `backup`. Prints the proof as
one line of JSON. Never trusts an exit code alone: the snapshot's own SHA-256 is
recomputed, and its revision must not be older than the cluster's was before.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SUFFIX = ".snapshot"
SHA256_BYTES = 32
# A snapshot is a database, whose size is a multiple of this, and a SHA-256 behind it.
PAGE_BYTES = 512
RUN_SECONDS = 1800


class BackupError(Exception):
    """Why there is no backup, in one sentence."""


def run(arguments: argparse.Namespace, *command: str) -> str:
    """Run etcdctl against this host's member."""
    environment = {
        "PATH": os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin"),
        "ETCDCTL_API": "3",
        "ETCDCTL_ENDPOINTS": arguments.endpoint,
        "ETCDCTL_CACERT": arguments.ca_certificate,
        "ETCDCTL_CERT": arguments.certificate,
        "ETCDCTL_KEY": arguments.private_key,
    }
    shown = " ".join(command[:3])
    try:
        result = subprocess.run(
            [*command], capture_output=True, text=True, env=environment, timeout=RUN_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackupError(f"{shown}: {error}") from error
    if result.returncode:
        lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
        reason = lines[-1] if lines else f"exit status {result.returncode}"
        raise BackupError(f"{shown} of {arguments.endpoint}: {reason}")
    return result.stdout


def parse(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BackupError(f"{what} was not answered in JSON") from error


def before(arguments: argparse.Namespace) -> dict[str, Any]:
    """The member's status, after a read that needs the cluster's quorum."""
    run(arguments, "etcdctl", "endpoint", "health")
    answer = parse(run(arguments, "etcdctl", "endpoint", "status", "--write-out=json"), "endpoint status")
    try:
        status: dict[str, Any] = answer[0]["Status"]
        needed = int(status["dbSize"])
    except (IndexError, KeyError, TypeError) as error:
        raise BackupError(f"{arguments.endpoint} did not tell its status") from error
    free = shutil.disk_usage(arguments.directory).free
    if free < needed * 1.1:
        raise BackupError(
            f"{arguments.directory} has {free} bytes free, the snapshot needs {needed}: nothing was changed"
        )
    return status


def sha256_of_snapshot(path: Path) -> str:
    """The checksum that the snapshot carries, proven by computing it again."""
    size = path.stat().st_size
    if size % PAGE_BYTES != SHA256_BYTES:
        raise BackupError(f"the snapshot {path} is cut off or carries no checksum")
    digest = hashlib.sha256()
    left = size - SHA256_BYTES
    with path.open("rb") as stream:
        while left:
            block = stream.read(min(left, 1 << 20))
            if not block:
                raise BackupError(f"the snapshot {path} became shorter while it was read")
            digest.update(block)
            left -= len(block)
        carried = stream.read()
    if carried != digest.digest():
        raise BackupError(f"the snapshot {path} does not have the checksum that it carries")
    return digest.hexdigest()


def prove(arguments: argparse.Namespace, path: Path, status: dict[str, Any]) -> dict[str, Any]:
    """What the snapshot holds, read back from the file."""
    checksum = sha256_of_snapshot(path)
    # etcdctl of etcd 3.6 no longer reads snapshots; etcdutl does.
    tool = "etcdutl" if shutil.which("etcdutl") else "etcdctl"
    found = parse(
        run(arguments, tool, "snapshot", "status", str(path), "--write-out=json"), "snapshot status"
    )
    revision, oldest = int(found["revision"]), int(status["header"]["revision"])
    if revision < oldest or int(found["totalKey"]) < 1:
        raise BackupError(f"the snapshot ends at revision {revision}, the cluster was at {oldest} before it")
    return {
        "hash": f"{int(found['hash']):08x}",
        "revision": revision,
        "total_keys": int(found["totalKey"]),
        "bytes": path.stat().st_size,
        "sha256": checksum,
        "version": status.get("version"),
    }


def prune(directory: Path, keep: int) -> list[str]:
    """Remove all but the newest snapshots, and what an interrupted run left."""
    old = sorted(directory.glob("*" + SUFFIX))[:-keep]
    for path in old:
        path.unlink()
        path.with_name(path.name + ".json").unlink(missing_ok=True)
    for path in directory.glob("*.part"):
        path.unlink()
    return [path.name for path in old]


def save(arguments: argparse.Namespace) -> dict[str, Any]:
    directory: Path = arguments.directory
    started = time.monotonic()
    with (directory / ".lock").open("w") as lock:
        # The timer and the verb may meet: the second waits, and takes its own.
        fcntl.flock(lock, fcntl.LOCK_EX)
        status = before(arguments)
        taken_at = datetime.now(UTC)
        path = directory / f"{taken_at:%Y%m%dT%H%M%S.%fZ}{SUFFIX}"
        # Kept out of the list until it is proven.
        unproven = path.with_name("unproven.part")
        unproven.unlink(missing_ok=True)
        try:
            run(arguments, "etcdctl", "snapshot", "save", str(unproven))
            proof = prove(arguments, unproven, status)
        except (BackupError, OSError, KeyError, ValueError):
            unproven.unlink(missing_ok=True)
            raise
        proof = {
            "taken_at": taken_at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "region": arguments.region,
            "member": arguments.member,
            "snapshot": str(path),
            **proof,
        }
        unproven.rename(path)
        proof_path = path.with_name(path.name + ".json")
        proof_path.write_text(json.dumps(proof, indent=2) + "\n")
        os.sync()
        proof["removed"] = prune(directory, arguments.keep)
        proof["seconds"] = round(time.monotonic() - started, 3)
    return proof


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def main() -> int:
    parser = argparse.ArgumentParser(description="Take a snapshot of etcd and prove it.")
    parser.add_argument("--directory", type=Path, required=True, help="where the snapshots are kept")
    parser.add_argument("--keep", type=positive, required=True, help="how many to keep")
    parser.add_argument("--endpoint", required=True, help="client URL of this host's member")
    parser.add_argument("--region", default="")
    parser.add_argument("--member", default="")
    parser.add_argument("--ca-certificate", default="/etc/etcd/tls/ca.crt")
    parser.add_argument("--certificate", default="/etc/etcd/tls/member.crt")
    parser.add_argument("--private-key", default="/etc/etcd/tls/member.key")
    os.umask(0o077)
    try:
        print(json.dumps(save(parser.parse_args())))
    except (BackupError, OSError, KeyError, ValueError) as error:
        print(f"no backup was taken: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
