#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: valkey_fence
short_description: Keep Valkey on this host from taking writes, also after a reboot
version_added: 0.1.0
description:
  - "V(fenced) stops Valkey and Sentinel, by force when they do not stop by themselves, masks both units for
    good, and proves it: the units are masked, no process is left, nothing listens."
  - A fence that cannot be proven is an error.
  - V(released) takes the fence down, and starts nothing.
options:
  state:
    description: What the host shall be.
    type: str
    choices: [fenced, released]
    default: fenced
  operation:
    description: Which operation puts the fence up; kept in O(marker) for a person.
    type: str
    default: ''
  reason:
    description: Why; kept in O(marker) for a person.
    type: str
    default: ''
  data_directory:
    description: Valkey's data directory.
    type: path
    default: /var/lib/valkey
  marker:
    description: File that says that the host is fenced. The guard of both units looks at it too.
    type: path
    default: /etc/muster/valkey/fenced.json
  ports:
    description: The ports on which nothing may listen.
    type: list
    elements: int
    default: [6379, 26379]
  grace:
    description: Seconds that Valkey may take to stop by itself.
    type: float
    default: 5
attributes:
  check_mode:
    description: Says whether it would change anything.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Fence the old primary region
  muster.platform.valkey_fence:
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
    masked: {description: Whether the units are masked for good., type: bool}
    processes: {description: How many processes are left., type: int}
    listening: {description: Which of the ports something listens on., type: list, elements: int}
    proven_at: {description: "When it was seen, by the host's clock, UTC.", type: str}
note:
  description: What O(marker) holds; null when there is none.
  returned: always
  type: dict
"""

from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._fence import listening
from ansible_collections.muster.platform.plugins.module_utils._valkey_fence import ValkeyFence, processes


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    fence = ValkeyFence(
        params["data_directory"], params["marker"], ports=params["ports"], grace=params["grace"]
    )
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
            "processes": len(processes(params["data_directory"])),
            "listening": listening(params["ports"]),
            "proven_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        },
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["fenced", "released"], "default": "fenced"},
            "operation": {"type": "str", "default": ""},
            "reason": {"type": "str", "default": ""},
            "data_directory": {"type": "path", "default": "/var/lib/valkey"},
            "marker": {"type": "path", "default": "/etc/muster/valkey/fenced.json"},
            "ports": {"type": "list", "elements": "int", "default": [6379, 26379]},
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
