#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: object_storage_held
short_description: Tell which of the canary's numbers a region's object store holds
version_added: 0.1.0
description:
  - The gateway of a standby is closed, so this lists the canary's objects in the filer of the host that it
    runs on, by the role's own certificate. Only what is listed there counts.
  - Whatever the region's role is. No other region is asked, because it may be dead.
  - Fails when it cannot be known.
options:
  bucket:
    description: The canary's bucket, which keeps no versions.
    type: str
    default: muster-canary
extends_documentation_fragment:
  - muster.platform.object_storage
  - muster.platform.info
seealso:
  - module: muster.platform.dr_lag
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: List the canary's objects on this host
  become: true
  muster.platform.object_storage_held:
    bucket: muster-canary
  register: held
"""

RETURN = r"""
ranges:
  description: The numbers, as pairs of the first and the last of each range.
  returned: success
  type: list
  elements: list
  sample: [[1, 4700], [4702, 4711]]
region:
  description: The region of the host.
  returned: success
  type: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._object_storage import OPTIONS, Stores
from ansible_collections.muster.platform.plugins.module_utils._ranges import to_pairs

# As the canary names its objects: see roles/canary/files/muster_canary_object_storage.py.
FOLDER = "canary"
DIGITS = 16


def numbers(names: list[str]) -> list[int]:
    return sorted(
        {int(name) for name in names if len(name) == DIGITS and name.isascii() and name.isdecimal()}
    )


def names_in(stores: Stores, bucket: str) -> list[str]:
    place = f"/buckets/{bucket}"
    if stores.get(stores.host, f"{place}/", "limit=1") is None:
        raise MusterError(f"the store of {stores.host} has no bucket {bucket}")
    return stores.names(stores.host, f"{place}/{FOLDER}")


def run(params: dict[str, Any]) -> dict[str, Any]:
    stores = Stores.load(params["configuration"])
    try:
        found = numbers(names_in(stores, params["bucket"]))
    except MusterError as error:
        raise MusterError(f"what region {stores.region} holds of the canary is not known: {error}") from error
    return {"ranges": to_pairs(found), "region": stores.region}


def main() -> None:
    module = AnsibleModule(
        argument_spec={**OPTIONS, "bucket": {"type": "str", "default": "muster-canary"}},
        supports_check_mode=True,
    )
    try:
        module.exit_json(changed=False, **run(module.params))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
