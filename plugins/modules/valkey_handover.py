#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: valkey_handover
short_description: Move Valkey's primary role to another region, losing nothing
version_added: 0.1.0
description:
  - "The planned move in one call: the old region's Sentinels stop watching, writes pause, the target is
    seen to
    hold every byte, and the servers hand over by their own coordinated failover. Then the new region's
    Sentinels
    watch, and the old region is chained behind the new one."
  - When a step before the promotion fails, the old primary is put back. When it is interrupted, run it
    again; it
    finishes, or rolls back. At no point may both regions take writes.
  - Run it on a Valkey host of the target region.
options:
  max_lag_bytes:
    description: Refuse while the target is further behind than this many bytes.
    type: int
    default: 16777216
  timeouts:
    description: Deadlines in seconds (C(catch_up), C(promote), C(rollback), C(reprotect)).
    type: dict
    default: {}
extends_documentation_fragment:
  - muster.platform.valkey
  - muster.platform.valkey.move
  - muster.platform.tls
attributes:
  check_mode:
    description: Assesses and refuses as the real run would, and changes nothing.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Make south the primary region
  muster.platform.valkey_handover:
    regions: {north: [north-1, north-2, north-3], south: [south-1, south-2, south-3]}
    host: south-1
    target: south
    operator_password: "{{ valkey_operator_password }}"
    sentinel_password: "{{ valkey_sentinel_password }}"
    ca_certificate: /etc/muster/valkey/ca.crt
    certificate: /etc/muster/valkey/server.crt
    private_key: /etc/muster/valkey/server.key
"""

RETURN = r"""
situation:
  description:
    - V(start) for a whole move, V(resume) for one that an earlier run began, V(done) when there was
      nothing to do.
  returned: always
  type: str
timeline_before:
  description: The old primary's replication ID.
  returned: when the move was begun by this run
  type: str
position_before:
  description: The old primary's offset in bytes, before writes were paused.
  returned: when the move was begun by this run
  type: str
proof_position:
  description: The old primary's offset after writes had been paused, which the target was seen to hold.
  returned: when the move was begun by this run
  type: str
position_promoted:
  description: The offset at which the new primary's history leaves the old one's; not below the proof.
  returned: when the move was begun by this run
  type: str
timeline_after:
  description: The new primary's replication ID.
  returned: outside check mode
  type: str
position_after:
  description: The new primary's offset in bytes.
  returned: outside check mode
  type: str
primary:
  description: The new primary.
  returned: outside check mode
  type: str
muster_phases:
  description: What took how long.
  returned: always
  type: list
  elements: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._valkey import OPTIONS, Access, Watching
from ansible_collections.muster.platform.plugins.module_utils._valkey_handover import (
    Handover,
    Limits,
    other_region,
)
from ansible_collections.muster.platform.plugins.module_utils._valkey_state import operation_lock


def limits_from(params: dict[str, Any]) -> Limits:
    known = {"catch_up", "promote", "rollback", "reprotect"}
    unknown = sorted(set(params["timeouts"]) - known)
    if unknown:
        raise MusterError(f"timeouts: unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    values = {name: float(value) for name, value in params["timeouts"].items()}
    return Limits(max_lag_bytes=params["max_lag_bytes"], **values)


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    handover = Handover(
        regions=params["regions"],
        access=Access.from_params(params),
        source=other_region(params["regions"], params["target"], "a switch"),
        target=params["target"],
        limits=limits_from(params),
        watching=Watching.from_params(params["watching"]),
    )
    with operation_lock(check_mode):
        result = handover.run(check_mode)
    return {**result, "muster_phases": handover.phases.done}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "target": {"type": "str", "required": True},
            "watching": {"type": "dict", "default": {}},
            "max_lag_bytes": {"type": "int", "default": 16777216},
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
