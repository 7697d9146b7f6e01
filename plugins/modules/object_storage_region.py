#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: object_storage_region
short_description: Give a region of the object store its role when no region has one yet
version_added: 0.1.0
description:
  - A region that has a role keeps it, whatever it is. This only waits until the gateway of a primary region
    serves, or a standby region copies.
  - Where no region has a role, O(initial_primary_region) becomes primary. All regions must answer for that.
  - A region without a role beside one that has one becomes its standby. Beside one that has been a standby of
    it, it has lost its data, and gets none.
options:
  initial_primary_region:
    description: The region that becomes primary when none has a role.
    type: str
    required: true
  timeout:
    description: Seconds that the servers may take to start.
    type: float
    default: 120
extends_documentation_fragment:
  - muster.platform.object_storage
attributes:
  check_mode:
    description: Says what would be done, as far as the servers run already.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Give the region its role, once
  muster.platform.object_storage_region:
    initial_primary_region: north
"""

RETURN = r"""
role:
  description: The region's role. Null when it has none yet, which only happens in check mode.
  returned: success
  type: str
  sample: primary
epoch:
  description: How often a role was changed.
  returned: success
  type: int
waiting:
  description: Why the gateway of a primary region is not open; empty when it is, and in a standby region.
  returned: success
  type: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._object_storage import OPTIONS, Region, Stores
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until


def answer(stores: Stores, name: str) -> Region:
    found = stores.ask(name)
    if not found.known:
        raise MusterError(found.trouble)
    return found


def first_role(stores: Stores, others: list[Region], initial: str) -> dict[str, Any]:
    """What this region becomes beside the others."""
    primaries = [region.name for region in others if region.role == "primary"]
    copies = [region.name for region in others if region.epoch > 1 or region.told.get("heartbeat")]
    if copies and not primaries:
        raise MusterError(
            f"region {stores.region} has no role and no data, and {', '.join(copies)} holds a copy: opened, "
            f"it would be empty; dr_failover to {copies[0]} comes first"
        )
    role = "primary" if stores.region == initial and not primaries else "standby"
    return {"role": role, "primary": primaries[0] if primaries else initial}


def begin(stores: Stores, initial: str) -> bool:
    """Give this region its first role; a MusterError when one that must be asked for it is not there yet."""
    own = answer(stores, stores.region)
    if own.role:
        return True
    others = [answer(stores, name) for name in stores.regions if name != stores.region]
    epoch = max([region.epoch for region in others], default=0) or 1
    stores.change(own, epoch, by="the first start", **first_role(stores, others, initial))
    return True


def settled(stores: Stores) -> Region | None:
    found = answer(stores, stores.region)
    if found.told.get("reason"):
        return found  # it is kept closed, and says why: no wait makes that better
    if found.role == "primary":
        return found if found.open and stores.s3_healthy(stores.host) else None
    return found if found.told["copying"] or not found.told["source"] else None


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    if check_mode:
        return look(params)
    stores = Stores.load(params["configuration"])
    own = wait_until(
        lambda: answer(stores, stores.region), "this region's store to answer", params["timeout"], 0.3
    )
    if not own.role:
        # The stores of both regions have just been started.
        initial = params["initial_primary_region"]
        what = f"region {stores.region} to get a role"
        wait_until(lambda: begin(stores, initial), what, params["timeout"], 0.5)
    what = f"region {stores.region} to be in its role"
    found = wait_until(lambda: settled(stores), what, params["timeout"], 0.2)
    return {
        "changed": not own.role,
        "role": found.role,
        "epoch": found.epoch,
        "waiting": found.told.get("reason", ""),
    }


def look(params: dict[str, Any]) -> dict[str, Any]:
    """What check mode can tell: on a fresh host nothing runs yet."""
    try:
        stores = Stores.load(params["configuration"])
        own = answer(stores, stores.region)
    except MusterError:
        return {"changed": True, "role": None, "epoch": 0, "waiting": ""}
    return {
        "changed": not own.role,
        "role": own.role,
        "epoch": own.epoch,
        "waiting": own.told.get("reason", ""),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "initial_primary_region": {"type": "str", "required": True},
            "timeout": {"type": "float", "default": 120},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
