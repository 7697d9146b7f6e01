#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: object_storage_promote
short_description: Make this region's copy of the object store primary when the other region is fenced
version_added: 0.1.0
description:
  - "The unplanned move. It loses what had not arrived here: gates that weigh that come before it (see
    M(muster.platform.dr_gates)). This module itself refuses without a fresh proof of the fence, and while the
    other region's gateway is open."
  - When it was interrupted, run it again, and it finishes.
options:
  fence:
    description:
      - The proof that the other region takes no writes, as C(proven), C(region), C(provider) and C(proven_at)
        (UTC). Older than five minutes, it is refused.
    type: dict
    required: true
  holder:
    description: Who does it; noted in the region's state.
    type: str
    required: true
  timeout:
    description: Seconds until the region must take writes.
    type: float
    default: 60
extends_documentation_fragment:
  - muster.platform.object_storage
attributes:
  check_mode:
    description: Refuses as the real run would, and changes nothing.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Make this region primary, because north is gone
  muster.platform.object_storage_promote:
    fence: {proven: true, region: north, provider: power, proven_at: "2026-11-21T10:00:00Z"}
    holder: ann
"""

RETURN = r"""
situation:
  description: V(start), or V(resume) when the region was opened by an earlier run.
  returned: success
  type: str
epoch:
  description: Epoch of the new primary region.
  returned: success, outside check mode
  type: int
heartbeat:
  description: The newest canary that had arrived before, with C(at) in seconds since 1970.
  returned: success
  type: dict
muster_phases:
  description: What took how long.
  returned: success
  type: list
  elements: dict
"""

from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._failover import check_fence
from ansible_collections.muster.platform.plugins.module_utils._object_storage import (
    OPTIONS,
    Stores,
    other_region,
)
from ansible_collections.muster.platform.plugins.module_utils._phases import Phases
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

# The other side cannot be asked how far it got in a move that was interrupted: a few more than known here.
# What is promoted must be higher, or the other side would not give way when it returns.
AHEAD = 10


def promote(stores: Stores, params: dict[str, Any], check_mode: bool, phases: Phases) -> dict[str, Any]:
    source = other_region(stores, "a failover")
    check_fence(params["fence"], source, datetime.now(UTC))
    old, own = stores.ask(source), stores.ask(stores.region)
    if old.open:
        raise MusterError(f"refused: region {source} takes writes, whatever its fence says")
    if not own.known or own.role is None:
        raise MusterError(
            f"refused: the role of region {stores.region} is not known ({own.trouble or 'it has none'})"
        )
    situation = "resume" if own.role == "primary" else "start"
    if check_mode or (situation == "resume" and own.open):
        return {
            "changed": not own.open,
            "situation": situation,
            "epoch": own.epoch,
            "heartbeat": own.told.get("heartbeat"),
        }
    with phases("promote: open"):
        epoch = max(own.epoch, old.epoch) + AHEAD
        opened = stores.change(
            own, epoch, role="primary", primary=stores.region, by=params["holder"], fenced=True
        )
        what = f"the gateway of {stores.region} to serve"
        wait_until(lambda: stores.s3_healthy(opened.host), what, params["timeout"], 0.05)
    return {"changed": True, "situation": situation, "epoch": epoch, "heartbeat": own.told.get("heartbeat")}


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    phases = Phases()
    result = promote(Stores.load(params["configuration"]), params, check_mode, phases)
    return {**result, "muster_phases": phases.done}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "fence": {"type": "dict", "required": True},
            "holder": {"type": "str", "required": True},
            "timeout": {"type": "float", "default": 60},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
