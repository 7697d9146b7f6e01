#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: object_storage_restore
short_description: Bring the objects of a bucket back to what they were at a time, from their versions
version_added: 0.1.0
description:
  - For each object, the newest version that was there at O(to_time) is copied. What was removed at that time,
    or did not exist yet, gets a delete marker when O(target) is the bucket itself.
  - Nothing is lost by it, because what is replaced stays as a version. It is refused for a bucket without
    versioning, where nothing could be brought back.
  - Reaches no further back than the lifecycle rules leave versions.
options:
  endpoint:
    description: Address of the endpoint.
    type: str
    required: true
  bucket:
    description: Bucket to read from.
    type: str
    required: true
  target:
    description: Bucket to write to, which must exist; O(bucket) itself to restore into place.
    type: str
    required: true
  prefix:
    description: Restores only what begins with this.
    type: str
    default: ''
  to_time:
    description: The time, ISO 8601 with a time zone.
    type: str
    required: true
extends_documentation_fragment:
  - muster.platform.object_storage.s3
attributes:
  check_mode:
    description: Counts what would be restored.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Bring back what was there before the bad release
  muster.platform.object_storage_restore:
    endpoint: https://north-1:9000
    access_key: muster-operator
    secret_key: "{{ object_storage_operator_secret_key }}"
    bucket: documents
    target: documents
    to_time: "2026-11-26T09:59:00Z"
"""

RETURN = r"""
restored:
  description: How many objects were copied from a version.
  returned: success
  type: int
removed:
  description: How many objects got a delete marker, because they were not there at that time.
  returned: success
  type: int
unchanged:
  description: How many objects are what they were.
  returned: success
  type: int
to_time:
  description: The time, in UTC.
  returned: success
  type: str
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils import _s3
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError


@dataclass
class Key:
    """One object: what it is now, and what it was."""

    name: str
    now: dict[str, Any]
    then: dict[str, Any] | None


def parse_time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise MusterError(f"to_time is {text!r}: give ISO 8601, such as 2026-11-26T09:59:00Z") from error
    if found.tzinfo is None:
        raise MusterError(f"to_time is {text!r}, without a time zone")
    if found > datetime.now(UTC):
        raise MusterError(f"to_time is {text}, which has not come yet")
    return found.astimezone(UTC)


def history(client: Any, params: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Every version and every delete marker, by object, the newest first."""
    found: dict[str, list[dict[str, Any]]] = {}
    more: dict[str, str] = {}
    what = f"bucket {params['bucket']} could not be listed"
    while True:
        page = _s3.call(
            what, client.list_object_versions, Bucket=params["bucket"], Prefix=params["prefix"], **more
        )
        for entry in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
            found.setdefault(entry["Key"], []).append(entry)
        if not page.get("IsTruncated"):
            break
        more = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}
    for entries in found.values():
        # Of two versions in one second the listing has the newer one first, and sorting leaves that as it is;
        # it has delete markers apart, but tells which entry is the newest.
        entries.sort(key=lambda entry: (entry["LastModified"], entry["IsLatest"]), reverse=True)
    return found


def keys(found: dict[str, list[dict[str, Any]]], moment: datetime) -> Iterator[Key]:
    for name, entries in sorted(found.items()):
        then = next((entry for entry in entries if entry["LastModified"] <= moment), None)
        yield Key(name, entries[0], then if then and "ETag" in then else None)


def step(key: Key, in_place: bool) -> str:
    """C(restored), C(removed) or C(unchanged)."""
    if key.then is None:
        return "removed" if in_place and "ETag" in key.now else "unchanged"
    return "unchanged" if in_place and key.then["VersionId"] == key.now["VersionId"] else "restored"


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    moment = parse_time(params["to_time"])
    client = _s3.connect(params, params["endpoint"])
    seen = _s3.read(client, params["bucket"])
    if seen is None:
        raise MusterError(f"there is no bucket {params['bucket']}")
    if not seen["versioning"]:
        raise MusterError(f"bucket {params['bucket']} has no versioning: nothing of it can be brought back")
    in_place = params["target"] == params["bucket"]
    counts = dict.fromkeys(("restored", "removed", "unchanged"), 0)
    for key in keys(history(client, params), moment):
        what = step(key, in_place)
        counts[what] += 1
        if check_mode or what == "unchanged":
            continue
        if what == "removed":
            _s3.call(
                f"{key.name} was not removed", client.delete_object, Bucket=params["target"], Key=key.name
            )
            continue
        if key.then is None:
            raise MusterError(f"{key.name} was not restored: it had no version then")
        source = {"Bucket": params["bucket"], "Key": key.name, "VersionId": key.then["VersionId"]}
        failure = f"{key.name} was not restored"
        _s3.call(failure, client.copy_object, Bucket=params["target"], Key=key.name, CopySource=source)
    changed = bool(counts["restored"] or counts["removed"])
    return {"changed": changed, **counts, "to_time": moment.strftime("%Y-%m-%dT%H:%M:%SZ")}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "endpoint": {"type": "str", "required": True},
            "region": {"type": "str", "default": "us-east-1"},
            "access_key": {"type": "str", "required": True, "no_log": False},
            "secret_key": {"type": "str", "required": True, "no_log": True},
            "ca_certificate": {"type": "path"},
            "bucket": {"type": "str", "required": True},
            "target": {"type": "str", "required": True},
            "prefix": {"type": "str", "default": ""},
            "to_time": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
