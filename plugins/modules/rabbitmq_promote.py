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
    M(muster.platform.dr_gates)). This module itself refuses without a fresh proof of the fence, and while
    anything listens in the other region."
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

import contextlib
from concurrent.futures import ThreadPoolExecutor
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
    listens,
    other_region,
    regions_from,
    with_passwords,
)
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq_objects import bring


def refuse_the_living(source: Region) -> None:
    """Whoever listens could take writes, whatever the fence says, and whatever it would answer."""

    def lives(host: str) -> bool:
        return any(listens(host, port) for port in (source.login.port, source.login.api_port))

    with ThreadPoolExecutor(max_workers=max(1, len(source.hosts))) as pool:
        alive = dict(zip(source.hosts, pool.map(lives, source.hosts), strict=True))
    if found := [host for host in source.hosts if alive[host]]:
        raise MusterError(f"refused: RabbitMQ on {', '.join(found)} runs, whatever the fence says")


def next_epoch(role: Role) -> int:
    """Above any that the other region may have: one that a handover was moving to may have taken the next."""
    return role.epoch + (2 if role.moving_to else 1)


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    source = other_region(params, "a failover")
    phases = Phases()
    regions = regions_from(params)
    target = regions[params["target"]]
    check_fence(params["fence"], source, datetime.now(UTC))
    lock = contextlib.nullcontext() if check_mode else target.lock(params["holder"], params["lock_timeout"])
    # What is looked at is what is changed: an operation that was waited for may have ended otherwise.
    with lock:
        with phases("assess"):
            role = target.role()
            if role is None:
                raise MusterError(f"refused: region {target.name} has no role yet, so it was no standby")
            refuse_the_living(regions[source])
        resumed = role.role == "primary"
        changed = not resumed
        if not check_mode:
            with phases("open"):
                if not resumed:
                    role = Role("primary", next_epoch(role))
                    # Its record first: from then on a rerun only goes on from here.
                    target.set_role(role)
                changed |= bool(bring(target, with_passwords(params), "primary"))
    return {
        "situation": "resume" if resumed else "start",
        "changed": changed,
        "epoch": role.epoch,
        "muster_phases": phases.done,
    }


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
