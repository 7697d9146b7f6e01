#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: valkey_promote
short_description: Make a region's copy of Valkey primary when the other region is fenced
version_added: 0.1.0
description:
  - "The unplanned move. It loses what the standby had not received: gates that weigh that come before it
    (see M(muster.platform.dr_gates)). This module itself refuses without a fresh proof of the fence, and
    while anybody outside the target region answers as a primary."
  - Of the region's hosts that answer, the one with the most data is promoted.
  - When it was interrupted, run it again, and it finishes.
options:
  fence:
    description:
      - The proof that the other region takes no writes, as C(proven), C(region), C(provider) and C(proven_at)
        (UTC). Older than five minutes, it is refused.
    type: dict
    required: true
  timeout:
    description: Seconds until the region must take writes.
    type: float
    default: 30
extends_documentation_fragment:
  - muster.platform.valkey
  - muster.platform.valkey.move
  - muster.platform.tls
attributes:
  check_mode:
    description: Refuses as the real run would, and changes nothing.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Make south primary, because north is gone
  muster.platform.valkey_promote:
    regions: {north: [north-1, north-2, north-3], south: [south-1, south-2, south-3]}
    host: south-1
    target: south
    fence: {proven: true, region: north, provider: power, proven_at: "2026-11-21T10:00:00Z"}
    operator_password: "{{ valkey_operator_password }}"
    sentinel_password: "{{ valkey_sentinel_password }}"
    ca_certificate: /etc/muster/valkey/ca.crt
    certificate: /etc/muster/valkey/server.crt
    private_key: /etc/muster/valkey/server.key
"""

RETURN = r"""
situation:
  description: V(start), or V(resume) when the region was opened by an earlier run.
  returned: always
  type: str
primary:
  description: The host that was promoted, or would be.
  returned: always but for a resume in check mode
  type: str
timeline_before:
  description: Replication ID of the copy that was promoted.
  returned: when this run promoted
  type: str
fork_position:
  description: The offset in bytes that the copy held when it was promoted.
  returned: when this run promoted
  type: str
timeline_after:
  description: Replication ID of the new primary.
  returned: outside check mode
  type: str
position_after:
  description: The new primary's offset in bytes.
  returned: outside check mode
  type: str
silent:
  description: Hosts of the region that did not answer, and may hold more than the one that was promoted.
  returned: outside check mode
  type: list
  elements: str
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
from ansible_collections.muster.platform.plugins.module_utils._valkey_failover import Promotion
from ansible_collections.muster.platform.plugins.module_utils._valkey_handover import other_region
from ansible_collections.muster.platform.plugins.module_utils._valkey_state import operation_lock

# The fenced region's hosts are most likely dead: they get little time.
PATIENCE = 0.6


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    promotion = Promotion(
        regions=params["regions"],
        access=Access.from_params(params, timeout=PATIENCE),
        source=other_region(params["regions"], params["target"], "a failover"),
        target=params["target"],
        fence=params["fence"],
        watching=Watching.from_params(params["watching"]),
        timeout=params["timeout"],
    )
    with operation_lock(check_mode):
        result = promotion.run(check_mode)
    return {**result, "muster_phases": promotion.phases.done}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "target": {"type": "str", "required": True},
            "watching": {"type": "dict", "default": {}},
            "fence": {"type": "dict", "required": True},
            "timeout": {"type": "float", "default": 30},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
