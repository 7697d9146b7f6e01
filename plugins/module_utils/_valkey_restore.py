# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Restoring a backup of Valkey: into a directory of its own, or as a host's part of a restore into place."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _valkey_isolated
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._files import file_hash, write_file
from ansible_collections.muster.platform.plugins.module_utils._room import room
from ansible_collections.muster.platform.plugins.module_utils._systemd import systemctl
from ansible_collections.muster.platform.plugins.module_utils._valkey import ELIGIBLE, NEVER
from ansible_collections.muster.platform.plugins.module_utils._valkey_state import (
    DATA,
    SENTINEL_UNIT,
    SERVER_UNIT,
    Place,
)

# As the program that takes the backups encrypts.
CIPHER = ["openssl", "enc", "-d", "-aes-256-ctr", "-pbkdf2", "-iter", "200000", "-md", "sha256"]
CHECK_RDB = "/usr/bin/valkey-check-rdb"
PROOF = "/var/lib/muster/valkey-restore-proof.json"
BASE = "appendonly.aof.1.base.rdb"
Params = Mapping[str, Any]


def find(params: Params) -> tuple[Path, dict[str, Any]]:
    """The backup, and the proof that was written when it was taken."""
    directory = Path(params["backup_directory"])
    if params["backup"] == "latest":
        proven = [file for file in sorted(directory.glob("valkey-*.rdb.enc")) if note_of(file).exists()]
        if not proven:
            raise MusterError(f"{params['host']} has no proven backup in {directory}")
        path = proven[-1]
    else:
        path = Path(params["backup"])
        if not path.is_absolute():
            path = directory / path
    try:
        proof = json.loads(note_of(path).read_text(encoding="utf-8"))
        return path, {"taken_at": proof["taken_at"], "sha256": proof["sha256"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MusterError(f"{path} is no backup that was proven when it was taken ({error})") from error


def note_of(backup: Path) -> Path:
    return backup.with_suffix(".json")


def decrypt(backup: Path, target: Path, key: str, wanted: str) -> None:
    with open(backup, "rb") as source, open(target, "wb", opener=_valkey_isolated.private) as output:
        done = subprocess.run(  # pylint: disable=ansible-bad-function
            [*CIPHER, "-pass", f"file:{key}"],
            stdin=source,
            stdout=output,
            stderr=subprocess.PIPE,
            check=False,
        )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise MusterError(f"{backup} cannot be decrypted: {said[-1] if said else done.returncode}")
    if file_hash(target) != wanted:
        raise MusterError(
            f"{backup} does not decrypt to what was saved: another passphrase, or it is damaged"
        )


def counted(file: Path) -> int:
    """How many keys an RDB holds, by the program that checks one: not by the server that is to read them."""
    done = subprocess.run(  # pylint: disable=ansible-bad-function
        [CHECK_RDB, str(file)], capture_output=True, text=True, errors="replace", check=False
    )
    found = re.search(r"^\[info\] (\d+) keys read$", done.stdout, re.MULTILINE)
    if done.returncode != 0 or found is None:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise MusterError(f"{CHECK_RDB} does not read the RDB: {said[-1] if said else done.returncode}")
    return int(found[1])


def read_back(params: Params, backup: Path, proof: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Decrypt into a directory and let a server read all of it; what was found, and whether that was all."""
    began = time.monotonic()
    _valkey_isolated.check_room(directory, backup.stat().st_size)
    decrypt(backup, directory / "dump.rdb", params["key"], proof["sha256"])
    wanted = counted(directory / "dump.rdb")
    with _valkey_isolated.served(directory, False, params["timeout"]) as client:
        keys = sum(int(found["keys"]) for found in client.info("keyspace").values())
        persistence = client.info("persistence")
    # Not the keys that are there now: some expire while they are counted.
    loaded, expired = (int(persistence[f"rdb_last_load_keys_{what}"]) for what in ("loaded", "expired"))
    return {
        "backup": str(backup),
        "taken_at": proof["taken_at"],
        "proven_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "host": params["host"],
        "key_count": keys,
        "keys_expired": expired,
        "bytes": (directory / "dump.rdb").stat().st_size,
        "seconds": round(time.monotonic() - began, 3),
        "checks": [
            {
                "name": "sha256",
                "passed": True,  # decrypt() ends with an error otherwise
                "detail": f"it decrypts to the RDB that was saved, byte for byte ({proof['sha256']})",
            },
            {
                "name": "keys",
                "passed": loaded + expired == wanted,
                "detail": f"of {wanted} keys a server read {loaded}, and {expired} more had expired",
            },
        ],
    }


def note(restored: Mapping[str, Any]) -> None:
    """The status tells it from then on: only what passed every check is a proof."""
    if all(check["passed"] for check in restored["checks"]):
        os.makedirs(os.path.dirname(PROOF), exist_ok=True)
        write_file(PROOF, json.dumps(restored), 0o644)


def isolated(params: Params, check: bool) -> dict[str, Any]:
    """Decrypt, let a server read all of it, and leave it stopped."""
    backup, proof = find(params)
    directory = Path(params["directory"])
    if directory.exists() and any(directory.iterdir()):
        raise MusterError(f"{directory} is not empty: nothing was restored")
    if check:
        return {"changed": True, "restored": {"backup": str(backup), "taken_at": proof["taken_at"]}}
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    restored = read_back(params, backup, proof, directory)
    failed = [found["detail"] for found in restored["checks"] if not found["passed"]]
    # What is restored here may replace live data next.
    if failed:
        raise MusterError(f"{backup} is not restored whole: {'; '.join(failed)}")
    note(restored)
    return {"changed": True, "restored": restored}


def prove(params: Params, check: bool) -> dict[str, Any]:
    """The same in a directory of its own, of which nothing is left."""
    backup, proof = find(params)
    if check:
        return {"changed": True, "restored": {"backup": str(backup), "taken_at": proof["taken_at"]}}
    with room(Path(params["directory"])) as directory:
        restored = read_back(params, backup, proof, directory)
    note(restored)
    return {"changed": True, "restored": restored}


def replace(params: Params, check: bool) -> dict[str, Any]:
    """Stop, set the old data aside, and take the part that the host has afterwards."""
    place = Place()
    if os.path.lexists(place.marker):
        raise MusterError(f"{params['host']} is fenced: dr_reprotect brings it back first")
    source = Path(params["directory"]) / "dump.rdb"
    if not params["upstream"] and not source.exists() and not check:
        raise MusterError(f"{source} is missing: restore into that directory first")
    if check:
        return {"changed": True, "old_directory": None}
    for unit in (SENTINEL_UNIT, SERVER_UNIT):
        systemctl("stop", unit, timeout=120)
    old = set_aside(place, params["keep_old"])
    if not params["upstream"]:
        put(place, source)
        # Nobody knows it yet; the guard lets it start once.
        place.write(place.first_start, "")
    place.write_state(params["upstream"], params["port"], ELIGIBLE if params["eligible"] else NEVER)
    place.write(place.sentinel_state, "# Kept by Sentinel itself.\n")
    return {"changed": True, "old_directory": old}


def set_aside(place: Place, keep: bool) -> str | None:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    target = Path(place.data) / f"before-restore-{stamp}"
    target.mkdir(mode=0o700)
    for name in DATA:
        source = Path(place.data) / name
        if source.exists():
            os.replace(source, target / name)
    if keep and any(target.iterdir()):
        return str(target)
    shutil.rmtree(target)
    return None


def put(place: Place, source: Path) -> None:
    """Both as RDB and as the base of an AOF: a server with an AOF reads nothing else."""
    append = Path(place.append_directory)
    append.mkdir(mode=0o750)
    shutil.copyfile(source, append / BASE)
    (append / "appendonly.aof.manifest").write_text(f"file {BASE} seq 1 type b\n", encoding="ascii")
    shutil.copyfile(source, Path(place.data) / "dump.rdb")
    for path in (append, append / BASE, append / "appendonly.aof.manifest", Path(place.data) / "dump.rdb"):
        place.give(str(path))
    os.sync()


def run(params: Params, check: bool) -> dict[str, Any]:
    steps = {"isolated": isolated, "prove": prove, "replace": replace}
    return steps[params["step"]](params, check)
