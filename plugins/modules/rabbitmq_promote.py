#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: rabbitmq_promote
short_description: Make a region's copy of RabbitMQ primary when the other region is fenced
version_added: 0.1.0
description:
  - "The unplanned move. It loses what had not been pulled: gates that weigh that come before it (see
    M(muster.platform.dr_gates)). This module itself refuses without a fresh proof of the fence, and while the
    other region answers at all."
  - When it was interrupted, run it again, and it finishes.
  - Run it on a RabbitMQ host of the target region.
options:
  fence:
    description:
      - The proof that the other region takes no writes, as C(proven), C(region), C(provider) and C(proven_at)
        (UTC). Older than five minutes, it is refused.
    type: dict
    required: true
  lock_timeout:
    description: Seconds to wait for an operation that is under way.
    type: float
    default: 10
extends_documentation_fragment:
  - muster.platform.rabbitmq
  - muster.platform.rabbitmq.declared
  - muster.platform.rabbitmq.move
attributes:
  check_mode:
    description: Refuses as the real run would, and changes nothing.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Make south primary, because north is gone
  muster.platform.rabbitmq_promote:
    regions: {north: [north-1, north-2, north-3], south: [south-1, south-2, south-3]}
    target: south
    fence: {proven: true, region: north, provider: power, proven_at: "2026-11-21T10:00:00Z"}
    holder: ann
    operator_password: "{{ rabbitmq_operator_password }}"
    ca_certificate: /etc/muster/rabbitmq/ca.crt
    declared: "{{ __rabbitmq_declared }}"
    passwords: "{{ __rabbitmq_passwords }}"
"""

RETURN = r"""
situation:
  description: V(start), or V(resume) when the region was opened by an earlier run.
  returned: always
  type: str
epoch:
  description: The region's epoch, afterwards outside check mode.
  returned: always
  type: int
muster_phases:
  description: What took how long.
  returned: always
  type: list
  elements: dict
"""

from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._failover import check_fence
from ansible_collections.muster.platform.plugins.module_utils._phases import Phases
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq import (
    DECLARED,
    MOVE,
    OPTIONS,
    Region,
    Role,
    other_region,
    read_roles,
    regions_from,
    with_passwords,
)
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq_objects import bring


def refuse_the_living(source: Region) -> None:
    """Whoever answers could take writes, whatever the fence says."""
    for host in source.hosts:
        # The fenced region's hosts are most likely dead: they get little time.
        single = Region(source.name, [host], source.login, timeout=1.0)
        found = read_roles({source.name: single})[source.name]
        if not isinstance(found, MusterError):
            raise MusterError(f"refused: RabbitMQ on {host} runs, whatever the fence says")


def next_epoch(role: Role) -> int:
    """Above any that the other region may have: where a handover was under way, it may have "
    "taken the next."""
    return role.epoch + (2 if role.moving_to else 1)


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    source = other_region(params, "a failover")
    phases = Phases()
    regions = regions_from(params)
    target = regions[params["target"]]
    with phases("assess"):
        check_fence(params["fence"], source, datetime.now(UTC))
        role = target.role()
        if role is None:
            raise MusterError(f"refused: region {target.name} has no role yet, so it was no standby")
        refuse_the_living(regions[source])
    resumed = role.role == "primary"
    result = {"situation": "resume" if resumed else "start", "changed": not resumed, "epoch": role.epoch}
    if not check_mode:
        with target.lock(params["holder"], params["lock_timeout"]), phases("open"):
            if not resumed:
                role = Role("primary", next_epoch(role))
                # Its record first: from then on a rerun only goes on from here.
                target.set_role(role)
            change = bring(target, with_passwords(params), "primary")
        result |= {"epoch": role.epoch, "changed": not resumed or bool(change)}
    return {**result, "muster_phases": phases.done}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            **DECLARED,
            **MOVE,
            "fence": {"type": "dict", "required": True},
            "lock_timeout": {"type": "float", "default": 10},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
