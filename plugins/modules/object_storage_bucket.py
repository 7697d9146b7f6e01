#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: object_storage_bucket
short_description: Declare all buckets of an S3 endpoint at once
version_added: 0.1.0
description:
  - Makes buckets, and sets their versioning, object lock, lifecycle rules, policy and quota. All are looked
    at before the first is changed, and what would weaken a lock is refused.
  - The modules of amazon.aws take several calls for each bucket, have no default retention that another mode
    or a shorter time is refused for, and know no quota.
  - A bucket that is not listed is left alone. None is ever removed.
options:
  state:
    description: V(checked) only refuses what cannot be, as far as it can tell, and changes nothing.
    type: str
    choices: [present, checked]
    default: present
  configuration:
    description:
      - File that the role object_storage writes. Needed for quotas, which are none of S3's business.
      - Not given for an endpoint that is not Muster's.
    type: path
  endpoint:
    description: Address of the endpoint.
    type: str
    required: true
  buckets:
    description: The buckets.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name, as the standard allows it.
        type: str
        required: true
      versioning:
        description: Whether each version of an object is kept.
        type: bool
        default: true
      object_lock:
        description: How long a new version can be neither changed nor removed.
        type: dict
        suboptions:
          mode:
            description: V(COMPLIANCE) binds everybody; V(GOVERNANCE) can be bypassed by who is allowed to.
            type: str
            choices: [COMPLIANCE, GOVERNANCE]
            default: COMPLIANCE
          days:
            description: Days. They can be made more, never less.
            type: int
            required: true
      lifecycle:
        description: Lifecycle rules, as S3's API has them.
        type: list
        elements: dict
        default: []
      policy:
        description: Bucket policy, as a document or its JSON.
        type: raw
      quota_mb:
        description: Megabytes that it may hold, 0 for no limit. It takes no writes while it holds more.
        type: int
        default: 0
extends_documentation_fragment:
  - muster.platform.object_storage.s3
attributes:
  check_mode:
    description: Says what would be changed.
    support: full
  diff_mode:
    description: Shows each part that changes.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Have a bucket whose objects nobody removes for thirty days
  muster.platform.object_storage_bucket:
    endpoint: https://s3.example.com
    access_key: operator
    secret_key: "{{ operator_secret_key }}"
    buckets:
      - name: backups
        object_lock: {mode: COMPLIANCE, days: 30}
        lifecycle:
          - ID: old-versions
            Status: Enabled
            Filter: {Prefix: ""}
            NoncurrentVersionExpiration: {NoncurrentDays: 60}
"""

RETURN = r"""
changes:
  description: What was changed, by bucket.
  returned: success
  type: dict
  sample: {backups: [bucket, object_lock]}
"""

import json
import os
import subprocess
from importlib.util import find_spec
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils import _s3
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._object_storage import Stores

BUCKET = {
    "name": {"type": "str", "required": True},
    "versioning": {"type": "bool", "default": True},
    "object_lock": {
        "type": "dict",
        "options": {
            "mode": {"type": "str", "choices": ["COMPLIANCE", "GOVERNANCE"], "default": "COMPLIANCE"},
            "days": {"type": "int", "required": True},
        },
    },
    "lifecycle": {"type": "list", "elements": "dict", "default": []},
    "policy": {"type": "raw"},
    "quota_mb": {"type": "int", "default": 0},
}
MEGABYTE = 1024 * 1024


def quotas(stores: Stores | None) -> dict[str, int]:
    """The quota of each bucket in megabytes, as its store has it."""
    if stores is None:
        return {}
    body = stores.get(stores.host, "/buckets/", "limit=100000")
    # A quota that is not enforced now has a minus.
    entries = json.loads(body).get("Entries") or [] if body else []
    return {entry["FullPath"].rsplit("/", 1)[1]: entry.get("Quota", 0) // MEGABYTE for entry in entries}


def set_quota(stores: Stores, name: str, megabytes: int) -> None:
    how = f"-op=set -sizeMB={megabytes}" if megabytes else "-op=remove"
    ports = [f"-{key}={stores.host}:{stores.given[key + '_port']}" for key in ("master", "filer")]
    # Enforced at once: nothing else opens a bucket that was full when it loses the last quota that there is.
    done = subprocess.run(  # pylint: disable=ansible-bad-function
        [stores.given["weed"], "shell", *ports],
        input=f"s3.bucket.quota -name={name} {how}\ns3.bucket.quota.enforce -apply\n",
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode != 0 or quotas(stores).get(name, 0) != megabytes:
        raise MusterError(
            f"bucket {name}: the quota was not set: {(done.stderr or done.stdout).strip()[-200:]}"
        )


class Plan:
    """What every bucket lacks, found before anything is changed."""

    def __init__(self, params: dict[str, Any], stores: Stores | None) -> None:
        self.params = params
        self.stores = stores
        self.client = _s3.connect(params, params["endpoint"])
        self.seen = {bucket["name"]: _s3.read(self.client, bucket["name"]) for bucket in params["buckets"]}
        self.refuse()
        self.had = quotas(stores)
        self.changes: dict[str, list[str]] = {}
        for bucket in params["buckets"]:
            parts = _s3.differences(bucket, self.seen[bucket["name"]])
            if stores is not None and self.had.get(bucket["name"], 0) != bucket["quota_mb"]:
                parts.append("quota_mb")
            if parts:
                self.changes[bucket["name"]] = parts

    def refuse(self) -> None:
        troubles = []
        for bucket in self.params["buckets"]:
            seen = self.seen[bucket["name"]]
            trouble = _s3.weakened(bucket, seen) if seen else None
            if trouble:
                troubles.append(f"bucket {bucket['name']} is refused: {trouble}")
        if troubles:
            raise MusterError("; ".join(troubles))

    def apply(self) -> None:
        for bucket in self.params["buckets"]:
            parts = self.changes.get(bucket["name"], [])
            _s3.apply(self.client, bucket, parts)
            if "quota_mb" in parts and self.stores is not None:
                set_quota(self.stores, bucket["name"], bucket["quota_mb"])

    def diff(self) -> list[dict[str, Any]]:
        found = []
        for bucket in self.params["buckets"]:
            name = bucket["name"]
            was = {**(self.seen[name] or {}), "quota_mb": self.had.get(name, 0)}
            for part in self.changes.get(name, []):
                ends = {"before": {part: was.get(part)}, "after": {part: bucket.get(part)}}
                found.append({**ends, "before_header": name, "after_header": name})
        return found


def can_be_asked(params: dict[str, Any]) -> bool:
    """Whether there is something to ask before the role has provisioned this host and its region's role."""
    if find_spec("boto3") is None:
        return False
    if not params["configuration"]:
        return True
    if not os.path.exists(params["configuration"]):
        return False
    stores = Stores.load(params["configuration"])
    return stores.s3_healthy(stores.host)


def run(params: dict[str, Any], check_mode: bool, diff: bool) -> dict[str, Any]:
    _s3.check(params["buckets"])
    if any(bucket["quota_mb"] for bucket in params["buckets"]) and not params["configuration"]:
        raise MusterError("quota_mb is for the embedded store only: S3 knows no quotas")
    ahead = params["state"] == "checked" or check_mode
    if not params["buckets"] or (ahead and not can_be_asked(params)):
        return {"changed": False, "changes": {}}
    plan = Plan(params, Stores.load(params["configuration"]) if params["configuration"] else None)
    if params["state"] == "checked":
        return {"changed": False, "changes": {}}
    if not check_mode:
        plan.apply()
    result: dict[str, Any] = {"changed": bool(plan.changes), "changes": plan.changes}
    return {**result, "diff": plan.diff()} if diff else result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "checked"], "default": "present"},
            "configuration": {"type": "path"},
            "endpoint": {"type": "str", "required": True},
            "region": {"type": "str", "default": "us-east-1"},
            "access_key": {"type": "str", "required": True, "no_log": False},
            "secret_key": {"type": "str", "required": True, "no_log": True},
            "ca_certificate": {"type": "path"},
            "buckets": {"type": "list", "elements": "dict", "required": True, "options": BUCKET},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode, module._diff))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
