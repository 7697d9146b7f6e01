#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: rabbitmq_handover
short_description: Move RabbitMQ's primary role to another region, losing nothing
version_added: 0.1.0
description:
  - "The planned move in one call: the source is closed for applications; when the target is proven to have
    pulled all that was confirmed there, it opens; then what the source's consumers had not handled is
    carried over, and the link is turned around."
  - When a step before the opening fails, the old primary is put back. When it is interrupted, run it again;
    it finishes, or rolls back. At no point may applications write in both regions.
  - Holds a lock in both regions while it works, so that a second one is refused.
  - Run it on a RabbitMQ host of the target region.
options:
  max_backlog:
    description: Refuse while more messages than this wait to be pulled.
    type: int
    default: 10000
  timeouts:
    description: Deadlines in seconds (C(lock), C(link), C(close), C(drain), C(carry), C(reprotect)).
    type: dict
    default: {}
extends_documentation_fragment:
  - muster.platform.rabbitmq
  - muster.platform.rabbitmq.declared
  - muster.platform.rabbitmq.move
attributes:
  check_mode:
    description: Assesses and refuses as the real run would, and changes nothing.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Make south the primary region
  muster.platform.rabbitmq_handover:
    regions: {north: [north-1, north-2, north-3], south: [south-1, south-2, south-3]}
    target: south
    holder: drill-2026-11-21
    operator_password: "{{ rabbitmq_operator_password }}"
    ca_certificate: /etc/muster/rabbitmq/ca.crt
    declared: "{{ __rabbitmq_declared }}"
    passwords: "{{ __rabbitmq_passwords }}"
"""

RETURN = r"""
situation:
  description:
    - V(start) for a whole move, V(resume) for one that an earlier run began, V(finish) when only what follows
      the opening was left, V(done) when there was nothing to do.
  returned: always
  type: str
epoch:
  description: The epoch of the primary region.
  returned: always
  type: int
carried:
  description: Messages that the old primary's consumers had not handled and that were carried over.
  returned: always
  type: int
muster_phases:
  description: What took how long.
  returned: always
  type: list
  elements: dict
"""

from contextlib import ExitStack
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq import (
    DECLARED,
    MOVE,
    OPTIONS,
    other_region,
    regions_from,
    with_passwords,
)
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq_move import Handover, Limits


def limits_from(timeouts: dict[str, Any]) -> tuple[Limits, float]:
    """The deadlines of the move, and how long the lock is waited for."""
    known = {"lock", "link", "close", "drain", "carry", "reprotect"}
    unknown = sorted(set(timeouts) - known)
    if unknown:
        raise MusterError(f"timeouts: unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    try:
        values = {name: float(value) for name, value in timeouts.items()}
    except (TypeError, ValueError) as error:
        raise MusterError(f"timeouts: each is a number of seconds: {error}") from error
    wait = values.pop("lock", 20.0)
    return Limits(**values), wait


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    source = other_region(params, "a switch")
    limits, wait = limits_from(params["timeouts"])
    regions = regions_from(params)
    handover = Handover(
        regions[source], regions[params["target"]], with_passwords(params), limits, params["max_backlog"]
    )
    if check_mode:
        return {**handover.run(check=True), "muster_phases": handover.phases.done}
    with ExitStack() as stack:
        # In the order of their names: two cannot block each other.
        for name in sorted(regions):
            stack.enter_context(regions[name].lock(params["holder"], wait))
        result = handover.run()
    return {**result, "muster_phases": handover.phases.done}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            **DECLARED,
            **MOVE,
            "max_backlog": {"type": "int", "default": 10000},
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
