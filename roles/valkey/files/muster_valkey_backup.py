#!/usr/bin/python3
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Take an RDB of this host's Valkey, encrypt it, and prove it.

The server saves an RDB. It is encrypted by openssl (AES-256-CTR, a key derived by PBKDF2), so that openssl
alone
reads it again. The proof: it is decrypted, has the same SHA-256, and valkey-check-rdb reads all of it.
Only then
older ones are removed. Prints the proof as JSON; ends 1 with one sentence when there is none.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

CIPHER = ["openssl", "enc", "-aes-256-ctr", "-pbkdf2", "-iter", "200000", "-md", "sha256"]
POLL = 0.1


class BackupError(Exception):
    """There is no backup; the text says why."""


def connect(given: dict[str, Any]) -> Any:
    import redis

    return redis.Redis(
        host=given["host"],
        port=given["port"],
        username=given["operator"],
        password=given["operator_password"],
        ssl=True,
        ssl_ca_certs=given["ca_certificate"],
        ssl_certfile=given["certificate"],
        ssl_keyfile=given["private_key"],
        ssl_check_hostname=True,
        socket_timeout=30,
        decode_responses=True,
    )


def save(client: Any, timeout: float) -> dict[str, Any]:
    """Have the server write an RDB that was begun after now; what it said of itself then."""
    deadline = time.monotonic() + timeout

    def idle() -> dict[str, Any]:
        while True:
            info: dict[str, Any] = client.info("persistence")
            if not int(info["rdb_bgsave_in_progress"]) and not int(info["aof_rewrite_in_progress"]):
                return info
            if time.monotonic() > deadline:
                raise BackupError(f"the server did not finish to save within {timeout:g} s")
            time.sleep(POLL)

    # Not LASTSAVE: that counts whole seconds.
    before = int(idle()["rdb_saves"])
    client.execute_command("BGSAVE")
    info = idle()
    if info["rdb_last_bgsave_status"] != "ok" or int(info["rdb_saves"]) <= before:
        raise BackupError("the server could not save an RDB: see its journal")
    replication = client.info("replication")
    keys = sum(int(value["keys"]) for value in client.info("keyspace").values())
    return {
        "role": "primary" if replication["role"] == "master" else "replica",
        "position": str(replication.get("slave_repl_offset") or replication["master_repl_offset"]),
        "timeline": replication["master_replid"],
        "keys_about": keys,
    }


def ask_to_save(given: dict[str, Any]) -> dict[str, Any]:
    try:
        import redis
    except ImportError as error:
        raise BackupError("python3-redis is not installed") from error
    try:
        return save(connect(given), given["timeout"])
    except redis.RedisError as error:
        raise BackupError(f"{given['host']}: {error}") from error


def run(words: list[str], **more: Any) -> None:
    done = subprocess.run(words, check=False, stderr=subprocess.PIPE, **more)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        raise BackupError(f"{words[0]} failed: {said.splitlines()[-1]}")


def encrypt(source: Path, target: Path, key: str) -> str:
    """The SHA-256 of what was encrypted; the file may be replaced by the server meanwhile."""
    # Without a buffer: openssl reads on where this stands.
    with open(source, "rb", buffering=0) as plain:
        total = hashlib.file_digest(plain, "sha256").hexdigest()
        plain.seek(0)
        with open(target, "xb") as output:
            run([*CIPHER, "-salt", "-pass", f"file:{key}"], stdin=plain, stdout=output)
            os.fsync(output.fileno())
    return total


def prove(encrypted: Path, wanted: str, key: str, room: Path) -> None:
    """Read it back as a restore would."""
    with tempfile.TemporaryDirectory(dir=room, prefix=".proof-") as directory:
        plain = Path(directory) / "dump.rdb"
        with open(encrypted, "rb") as source, open(plain, "wb") as output:
            run([*CIPHER, "-d", "-pass", f"file:{key}"], stdin=source, stdout=output)
        with open(plain, "rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != wanted:
                raise BackupError(f"{encrypted} does not decrypt to what was saved")
        run(["valkey-check-rdb", str(plain)], stdout=subprocess.DEVNULL)


def prune(directory: Path, days: int, newest: str) -> list[str]:
    """Remove what is older than it is to be kept, and never the newest."""
    limit = (datetime.now(UTC) - timedelta(days=days)).strftime("%Y%m%dT%H%M%SZ")
    removed = []
    for file in sorted(directory.glob("valkey-*.rdb.enc")):
        stamp = file.name.removeprefix("valkey-").removesuffix(".rdb.enc")
        if stamp < limit and file.name != newest:
            file.unlink()
            file.with_suffix(".json").unlink(missing_ok=True)
            removed.append(file.name)
    return removed


def backup(given: dict[str, Any]) -> dict[str, Any]:
    started, began = datetime.now(UTC), time.monotonic()
    directory = Path(given["directory"])
    state = ask_to_save(given)
    stamp = started.strftime("%Y%m%dT%H%M%SZ")
    target = directory / f"valkey-{stamp}.rdb.enc"
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    total = encrypt(Path(given["rdb"]), partial, given["key"])
    prove(partial, total, given["key"], directory)
    os.replace(partial, target)
    proof = {
        "taken_at": started.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "host": given["host"],
        "region": given["region"],
        "backup": str(target),
        "sha256": total,
        "bytes": target.stat().st_size,
        **state,
        "seconds": round(time.monotonic() - began, 3),
    }
    # The proof is what makes a file a backup: it comes last.
    target.with_suffix(".json").write_text(json.dumps(proof, indent=2) + "\n")
    Path(given["noted"]).write_text(json.dumps(proof) + "\n")
    os.sync()
    return proof | {"removed": prune(directory, given["keep_days"], target.name)}


def main() -> int:
    parser = argparse.ArgumentParser(description="Take a backup of this host's Valkey and prove it.")
    parser.add_argument("configuration", help="JSON file that says where everything is")
    os.umask(0o077)
    try:
        given = json.loads(Path(parser.parse_args().configuration).read_text())
        print(json.dumps(backup(given)))
    except (BackupError, OSError, KeyError, ValueError) as error:
        print(f"no backup was taken: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
