#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: object_storage_fence
short_description: Keep the object store on this host from taking writes, also after a reboot
version_added: 0.1.0
description:
  - "V(fenced) stops the gateway and the storage server, by force when they do not stop by themselves, masks
    their units for good, and proves it: the units are masked, no process is left, nothing listens."
  - A fence that cannot be proven is an error.
  - V(released) takes the fence down, and starts nothing.
options:
  state:
    description: What the host shall be.
    type: str
    choices: [fenced, released]
    default: fenced
  operation:
    description: Which operation puts the fence up; kept for a person.
    type: str
    default: ''
  reason:
    description: Why; kept for a person.
    type: str
    default: ''
  grace:
    description: Seconds that the storage server may take to stop by itself.
    type: float
    default: 5
extends_documentation_fragment:
  - muster.platform.object_storage
attributes:
  check_mode:
    description: Says whether it would change anything.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Fence the old primary region
  muster.platform.object_storage_fence:
    operation: failover to south
"""

RETURN = r"""
fenced:
  description: Whether the host is fenced now, proven.
  returned: outside check mode
  type: bool
proof:
  description: What was looked at to prove it.
  returned: when O(state=fenced), outside check mode
  type: dict
  contains:
    masked: {description: The units that are masked for good., type: list, elements: str}
    processes: {description: How many processes are left., type: int}
    listening: {description: Which of the ports something listens on., type: list, elements: int}
    proven_at: {description: "When it was seen, by the host's clock, UTC.", type: str}
note:
  description: What was noted when it was put up; null when there is none.
  returned: always
  type: dict
"""

from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._fence import listening
from ansible_collections.muster.platform.plugins.module_utils._object_fence import ObjectFence
from ansible_collections.muster.platform.plugins.module_utils._object_storage import OPTIONS, Stores


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    fence = ObjectFence(Stores.load(params["configuration"]).given, params["grace"])
    if params["state"] == "released":
        changed = fence.stands() if check_mode else fence.take_down()
        return {"changed": changed, "fenced": False, "note": fence.marked()}
    if check_mode:
        return {"changed": bool(fence.doubts()), "note": fence.marked()}
    changed = fence.put_up({"operation": params["operation"], "reason": params["reason"]})
    return {
        "changed": changed,
        "fenced": True,
        "note": fence.marked(),
        "proof": {
            "masked": fence.masked(),
            "processes": len(fence.processes()),
            "listening": listening(fence.ports),
            "proven_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        },
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "state": {"type": "str", "choices": ["fenced", "released"], "default": "fenced"},
            "operation": {"type": "str", "default": ""},
            "reason": {"type": "str", "default": ""},
            "grace": {"type": "float", "default": 5},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
