#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: object_storage_backup
short_description: Prove that the other region holds a copy of every object and version
version_added: 0.1.0
description:
  - "The backup of an object store is its versions, which object lock keeps, in the other region. This takes
    one now: a canary written in the primary region must arrive, everything that was there before must be
    found in the standby region, and some of the files are read from both and compared byte by byte."
  - What is missing is sent again first.
  - That files were read whole from the other region, and were what the primary region holds, proves as well
    that they can be restored from there. It is noted as a restore proof, unless none was read.
options:
  samples:
    description: How many files are read from both sides, spread over the first tenfold of them.
    type: int
    default: 20
  proof:
    description: File on this host that notes when the copy was proven last.
    type: path
    default: /var/lib/muster/object-storage-backup.json
  restore_proof:
    description: File on this host that notes when files were last read whole from the copy, and were right.
    type: path
    default: /var/lib/muster/object-storage-restore-proof.json
  timeout:
    description: Seconds until the copy must be complete.
    type: float
    default: 3600
extends_documentation_fragment:
  - muster.platform.object_storage
attributes:
  check_mode:
    description: Does nothing.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Prove the copy
  muster.platform.object_storage_backup:
"""

RETURN = r"""
proof:
  description: What was proven.
  returned: outside check mode
  type: dict
  contains:
    label: {description: "Epoch and time, by which a person finds it again.", type: str}
    source: {description: Host of the primary region., type: str}
    target: {description: Host of the region that holds the copy., type: str}
    files: {description: How many files were found in both., type: int}
    extra: {description: How many entries only the copy has., type: int}
    repaired: {description: How many entries had to be sent again., type: int}
    sampled: {description: How many files were read from both., type: int}
    sampled_bytes: {description: How much that was., type: int}
    sampled_sha256:
      description: "SHA-256 of the SHA-256 sums of the files that were read from the copy, in their order."
      type: str
    seconds: {description: How long it took., type: float}
    began_at: {description: "UTC; all that was written before is in the copy.", type: str}
    proven_at: {description: "When, UTC.", type: str}
    checks:
      description: "What was checked: C(name), C(passed) and C(detail)."
      type: list
"""

import hashlib
import json
import os
import time
from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._files import write_file
from ansible_collections.muster.platform.plugins.module_utils._object_storage import (
    OPTIONS,
    Region,
    Stores,
    missing,
)


def both_ends(stores: Stores) -> tuple[Region, Region]:
    found = stores.survey()
    primaries = [region for region in found.values() if region.open]
    if len(primaries) != 1:
        names = ", ".join(region.name for region in primaries) or "none"
        raise MusterError(f"one region must be primary for a backup, and there is {names}")
    copies = [region for region in found.values() if region.told.get("source") == primaries[0].host]
    copies = [region for region in copies if region.told.get("copying")]
    if not copies:
        raise MusterError(f"no region copies from {primaries[0].name}, so there is no backup")
    return primaries[0], copies[0]


def sample(stores: Stores, source: str, target: str, paths: list[str], wanted: int) -> dict[str, Any]:
    """Read some files whole from both; how many, how much, and their sums."""
    chosen = paths[:: max(1, len(paths) // max(1, wanted))][:wanted]
    count = size = 0
    sums = hashlib.sha256()
    for path in chosen:
        ours, theirs = stores.get(source, path), stores.get(target, path)
        if ours is None:
            continue  # removed meanwhile
        if theirs is None or ours != theirs:
            raise MusterError(f"{path} is not the same in {source} and {target}")
        count, size = count + 1, size + len(theirs)
        sums.update(hashlib.sha256(theirs).digest())
    return {"sampled": count, "sampled_bytes": size, "sampled_sha256": sums.hexdigest()}


def utc() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def checks(copy: Region, files: int, sampled: dict[str, Any]) -> list[dict[str, Any]]:
    """What the copy was held against; the first and the second failed with a sentence of their own."""
    read = sampled["sampled"]
    detail = (
        f"{read} files ({sampled['sampled_bytes']} bytes) read whole from {copy.host} are what was written"
    )
    return [
        {"name": "canary", "passed": True, "detail": f"what was written last has arrived in {copy.name}"},
        {"name": "complete", "passed": True, "detail": f"{copy.name} holds all {files} files"},
        {
            "name": "read back",
            "passed": read > 0,
            "detail": detail
            if read
            else f"no file was read from {copy.host}, so nothing is proven to restore",
        },
    ]


def prove(stores: Stores, params: dict[str, Any]) -> dict[str, Any]:
    began, began_at = time.monotonic(), utc()
    primary, copy = both_ends(stores)
    stores.send_canary(primary, copy, "backup", params["timeout"])
    # What was written since is not part of this backup, and may be on its way.
    recent = time.monotonic() - began + 1
    limit = params["timeout"]
    found = stores.compare(primary.host, copy.host, recent=recent, action="repair", timeout=limit)
    if missing(found):
        raise MusterError(
            f"{copy.name} lacks {missing(found)} entries of {primary.name}: there is no whole backup"
        )
    files = stores.files(copy.host, "/buckets", most=10 * params["samples"])
    sampled = sample(stores, primary.host, copy.host, files, params["samples"])
    at = utc()
    return {
        "label": f"{primary.epoch}-{at}",
        "source": primary.host,
        "target": copy.host,
        "files": found["files"],
        "extra": len(found["extra"]),
        "repaired": found["repaired"],
        **sampled,
        "seconds": round(time.monotonic() - began, 3),
        "began_at": began_at,
        "proven_at": at,
        "checks": checks(copy, found["files"], sampled),
    }


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    stores = Stores.load(params["configuration"])
    if check_mode:
        return {"changed": True}
    proof = prove(stores, params)
    noted = [params["proof"]]
    if all(check["passed"] for check in proof["checks"]):
        noted.append(params["restore_proof"])
    for path in noted:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_file(path, json.dumps(proof) + "\n", 0o644)
    return {"changed": True, "proof": proof}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "samples": {"type": "int", "default": 20},
            "proof": {"type": "path", "default": "/var/lib/muster/object-storage-backup.json"},
            "restore_proof": {"type": "path", "default": "/var/lib/muster/object-storage-restore-proof.json"},
            "timeout": {"type": "float", "default": 3600},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
