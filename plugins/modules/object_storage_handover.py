#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: object_storage_handover
short_description: Move the object store's primary role to this region without losing an object
version_added: 0.1.0
description:
  - "Both regions are compared; the old region's gateway is closed; a canary written after that must arrive,
    and a second comparison must find nothing missing; this region's gateway is opened; the copying is turned
    around. No lag metric is asked."
  - When a step before the opening fails, the old region is opened again. Run again after an interruption, it
    finishes the move, or rolls it back.
options:
  holder:
    description: Who does it; noted in the regions' states.
    type: str
    required: true
  max_lag:
    description: Most seconds that the newest canary may be old when the move begins.
    type: float
    default: 30
  max_pause:
    description:
      - Most seconds that a comparison may take before the old region is closed, because it is repeated then.
    type: float
    default: 30
  timeouts:
    description: Deadlines in seconds, any of C(catch_up), C(open), C(rollback) and C(reprotect).
    type: dict
    default: {}
extends_documentation_fragment:
  - muster.platform.object_storage
attributes:
  check_mode:
    description: Refuses as the real run would, and changes nothing.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Make this host's region primary
  muster.platform.object_storage_handover:
    holder: ann
"""

RETURN = r"""
situation:
  description:
    - V(start), V(resume) after an interruption, V(return) when an interrupted move away from here was undone,
      V(settle) when only the copying had to be turned around, or V(done).
  returned: success
  type: str
epoch:
  description: Epoch of the new primary region.
  returned: success, outside check mode
  type: int
paused_seconds:
  description:
    - From the closing of the old region until the gateway of the new one answered. Null when this run closed
      none.
  returned: success, outside check mode
  type: float
compared:
  description: How many files the last comparison, made while no region took writes, has found to be the same.
  returned: success, outside check mode
  type: int
muster_phases:
  description: What took how long.
  returned: success
  type: list
  elements: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._object_handover import Handover, Limits
from ansible_collections.muster.platform.plugins.module_utils._object_storage import (
    OPTIONS,
    Stores,
    other_region,
)

TIMEOUTS = ("catch_up", "open", "rollback", "reprotect")


def limits(params: dict[str, Any]) -> Limits:
    unknown = sorted(set(params["timeouts"]) - set(TIMEOUTS))
    if unknown:
        raise MusterError(f"timeouts has no {', '.join(unknown)}; there are {', '.join(TIMEOUTS)}")
    times = {key: float(value) for key, value in params["timeouts"].items()}
    return Limits(max_lag=params["max_lag"], max_pause=params["max_pause"], **times)


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    stores = Stores.load(params["configuration"])
    source = other_region(stores, "a handover")
    move = Handover(stores, source, stores.region, params["holder"], limits(params))
    result = move.run(check_mode)
    if not check_mode:
        result |= {"paused_seconds": move.paused, "compared": (move.proof or {}).get("files")}
    return {**result, "muster_phases": move.phases.done}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "holder": {"type": "str", "required": True},
            "max_lag": {"type": "float", "default": 30},
            "max_pause": {"type": "float", "default": 30},
            "timeouts": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
