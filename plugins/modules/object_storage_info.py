#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: object_storage_info
short_description: Read the object store's state and its recovery status
version_added: 0.1.0
description:
  - "Asks the program that keeps each region in its role. The lag is the age of the newest canary that has
    arrived: the primary region writes one every few seconds. SeaweedFS's own lag metric is never asked: it
    stays at its last value when the link is cut, and reads zero when a crash has lost what was to be copied."
  - A standby is ready only when a comparison of both sides, made after the last start of either, found
    nothing missing.
  - Never fails because a store is down.
options:
  region:
    description: The region of this host, for the answer when it has no O(configuration) yet.
    type: str
    required: true
  endpoint:
    description:
      - Address of an S3 endpoint that is not Muster's. Then only that is asked, for O(bucket). It has no
        region, and its lag is its own business.
    type: str
  bucket:
    description: Bucket that must be there, for O(endpoint).
    type: str
  access_key:
    description: Access key for O(endpoint).
    type: str
  secret_key:
    description: Its secret key.
    type: str
  signing_region:
    description: Name of the region that requests to O(endpoint) are signed for.
    type: str
    default: us-east-1
  backup_proof:
    description: File on this host that notes when the copy was proven last.
    type: path
    default: /var/lib/muster/object-storage-backup.json
  restore_proof:
    description: File on this host that notes when files were last read whole from the copy, and were right.
    type: path
    default: /var/lib/muster/object-storage-restore-proof.json
extends_documentation_fragment:
  - muster.platform.object_storage
  - muster.platform.info
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Ask
  muster.platform.object_storage_info:
    region: north
  register: info
"""

RETURN = r"""
recovery_status:
  description: The design's recovery status of this host.
  returned: always
  type: dict
primary_region:
  description: The region that takes writes; null when there is none, or when there are several.
  returned: always
  type: str
leader:
  description: The host that leads this region; null when there is none.
  returned: always
  type: str
regions:
  description: What each region says, by name.
  returned: always
  type: dict
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils import _s3
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._object_storage import OPTIONS, Region, Stores

STALE = 30.0  # seconds after which a canary that does not come is a reason


def age(own: Region, at: float) -> float | None:
    """Seconds since the newest canary that has arrived was written."""
    beat = own.told.get("heartbeat") or {}
    return round(max(0.0, at - beat["at"]), 3) if "at" in beat else None


def gaps(own: Region) -> list[str]:
    """Why a standby is not known to hold all that was there when it was last compared."""
    found = own.told.get("compared")
    reasons = [] if own.told.get("copying") else [f"nothing is copied to {own.name}"]
    if not found:
        reasons.append(f"{own.name} has not been compared with its primary since the last start of either")
    elif found["missing"] or found["different"]:
        reasons.append(f"{own.name} lacks {found['missing'] + found['different']} entries of its primary")
    if not own.told.get("heartbeat"):
        reasons.append(f"no canary has arrived in {own.name} yet")
    return reasons


def copy_reasons(own: Region, primary: Region | None, lag: float | None) -> list[str]:
    """What speaks against a standby; its primary being gone does, and is no gap."""
    reasons = gaps(own)
    if lag is not None and lag > STALE:
        reasons.append(f"the newest canary in {own.name} is {lag:.0f} s old")
    if own.told.get("compare_error"):
        reasons.append(f"the last comparison failed: {own.told['compare_error']}")
    if primary is None:
        reasons.append("no primary answers in any region")
    return reasons


def reasons_for(own: Region, primaries: list[Region], lag: float | None) -> list[str]:
    if not own.known:
        return [own.trouble]
    reasons = [own.told["reason"]] if own.told.get("reason") else []
    if len(primaries) > 1:
        reasons.append("more than one region takes writes: " + ", ".join(region.name for region in primaries))
    if own.role is None:
        reasons.append(f"{own.name} has no role yet")
    if own.role == "primary" and not own.open and not reasons:
        reasons.append(f"the gateway of {own.name} is not open")
    if own.role == "standby":
        reasons += copy_reasons(own, primaries[0] if len(primaries) == 1 else None, lag)
    return reasons


def role_of(own: Region, fenced: bool) -> str:
    if fenced:
        return "fenced"
    if not own.known:
        return "stopped" if own.error and "refused" in own.error else "unknown"
    if own.role == "primary":
        # Made primary once, and kept closed because another region is.
        return "primary" if own.open else "fenced" if own.told.get("reason") else "stopped"
    return own.role or "unknown"


def noted(path: str) -> str | None:
    """When something was proven last, as far as this host knows."""
    try:
        told: str | None = json.loads(Path(path).read_text(encoding="utf-8")).get("proven_at")
    except (OSError, ValueError, AttributeError):
        return None
    return told


def status_of(
    stores: Stores, found: dict[str, Region], fenced: bool, at: float, params: dict[str, Any]
) -> dict[str, Any]:
    own = found[stores.region]
    primaries = [region for region in found.values() if region.open]
    role = role_of(own, fenced)
    lag = None if role not in ("primary", "standby") else 0.0 if own.open else age(own, at)
    reasons = ["this host is fenced"] if fenced else reasons_for(own, primaries, lag)
    beat = own.told.get("heartbeat") or {}
    return {
        "store": "object_storage",
        "region": stores.region,
        "role": role,
        "healthy": not reasons,
        "reasons": reasons,
        "ready": not gaps(own) if role == "standby" else None,
        "position": f"{beat['epoch']}/{beat['sequence']}" if beat else None,
        # Of a standby, the epoch of the primary whose canary it holds.
        "timeline": own.epoch or None if own.open else beat.get("epoch"),
        "lag_bytes": 0 if own.open else None,
        "lag_seconds": lag,
        "lag_measure": "lag_seconds",
        "last_backup_at": noted(params["backup_proof"]),
        "last_restore_proof_at": noted(params["restore_proof"]),
        "versions": {"seaweedfs": stores.given["version"]},
    }


def unprovisioned(region: str, reason: str) -> dict[str, Any]:
    unknown = ("ready", "position", "timeline", "lag_bytes", "lag_seconds")
    return {
        "store": "object_storage",
        "region": region,
        "role": "unknown",
        "healthy": False,
        "reasons": [reason],
        "lag_measure": "lag_seconds",
        **dict.fromkeys((*unknown, "last_backup_at", "last_restore_proof_at")),
        "versions": {"seaweedfs": None},
    }


def external(params: dict[str, Any]) -> dict[str, Any]:
    """An endpoint that is there: whether it answers is all that can be told."""
    status = unprovisioned(params["region"], "")
    try:
        client = _s3.connect({**params, "region": params["signing_region"]}, params["endpoint"])
        what = f"{params['endpoint']} does not answer"
        if _s3.ask(what, client.head_bucket, Bucket=params["bucket"]) is None:
            raise MusterError(f"{params['endpoint']} has no bucket {params['bucket']}")
        status |= {"role": "primary", "healthy": True, "reasons": []}
    except MusterError as error:
        status["reasons"] = [str(error)]
    return {"recovery_status": status, "primary_region": None, "leader": None, "regions": {}}


def run(params: dict[str, Any]) -> dict[str, Any]:
    if params["endpoint"]:
        return external(params)
    try:
        stores = Stores.load(params["configuration"])
    except MusterError as error:
        status = unprovisioned(params["region"], str(error))
        return {"recovery_status": status, "primary_region": None, "leader": None, "regions": {}}
    try:
        found = stores.survey()
    except MusterError as error:
        found = {name: Region(name, hosts[0], error=str(error)) for name, hosts in stores.regions.items()}
    fenced = os.path.lexists(stores.given["marker"])
    primaries = [region.name for region in found.values() if region.open]
    own = found[stores.region]
    return {
        "recovery_status": status_of(stores, found, fenced, datetime.now(UTC).timestamp(), params),
        "primary_region": primaries[0] if len(primaries) == 1 else None,
        "leader": own.host if own.known and own.role and not own.told.get("reason") else None,
        "regions": {
            name: {"host": region.host, "error": region.error, **region.told}
            for name, region in found.items()
        },
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "region": {"type": "str", "required": True},
            "endpoint": {"type": "str"},
            "bucket": {"type": "str"},
            "access_key": {"type": "str", "no_log": False},
            "secret_key": {"type": "str", "no_log": True},
            "signing_region": {"type": "str", "default": "us-east-1"},
            "backup_proof": {"type": "path", "default": "/var/lib/muster/object-storage-backup.json"},
            "restore_proof": {"type": "path", "default": "/var/lib/muster/object-storage-restore-proof.json"},
        },
        required_by={"endpoint": ["bucket", "access_key", "secret_key"]},
        supports_check_mode=True,
    )
    module.exit_json(**run(module.params))


if __name__ == "__main__":
    main()
