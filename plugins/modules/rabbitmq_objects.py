#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: rabbitmq_objects
short_description: Declare all that a region's RabbitMQ holds, in one round trip
version_added: 0.1.0
description:
  - "Virtual hosts, users with permissions, policies, exchanges, queues, bindings, and what makes a region a
    standby. The cluster's definitions are read once, and what differs is written once: with
    C(community.rabbitmq) each object is a task of its own, and a password is set anew by each run."
  - What applications may, and the policies, follow the region's role, which the cluster itself holds. A
    region that has no role yet gets O(initial_role). While it is moved, a change waits for the move's lock.
  - What nobody declared is left alone, but for permissions in a region that is not primary, the user
    C(guest), and what Muster made earlier and needs no more.
  - A queue or an exchange that runs with other arguments than declared is refused before anything is changed.
options:
  region:
    description: The region.
    type: str
    required: true
  initial_role:
    description: The role of a region that has none yet. Without it, one is refused.
    type: str
    choices: [primary, standby]
  refuse_only:
    description:
      - Change nothing, and only refuse what a cluster that runs could not become. Where none answers yet, or
        this host has no O(ca_certificate), there is nothing to refuse.
    type: bool
    default: false
extends_documentation_fragment:
  - muster.platform.rabbitmq
  - muster.platform.rabbitmq.declared
attributes:
  check_mode:
    description: Says what it would change.
    support: full
  diff_mode:
    description: Shows each object that differs, without secrets.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Declare what the region holds
  muster.platform.rabbitmq_objects:
    regions: {north: [north-1, north-2, north-3]}
    region: north
    initial_role: primary
    operator_password: "{{ rabbitmq_operator_password }}"
    ca_certificate: /etc/muster/rabbitmq/ca.crt
    declared: "{{ __rabbitmq_declared }}"
    passwords: "{{ __rabbitmq_passwords }}"
"""

RETURN = r"""
role:
  description: The region's role.
  returned: when not O(refuse_only=true)
  type: str
objects:
  description: The objects that were written or removed.
  returned: when not O(refuse_only=true)
  type: list
  elements: str
"""

import json
import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq import (
    DECLARED,
    OPTIONS,
    Region,
    Role,
    Silent,
    own_region,
    with_passwords,
)
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq_declared import wanted
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq_objects import (
    Change,
    bring,
    read,
    refuse_redefinition,
)
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

PATIENCE = 30.0  # seconds for a move that is under way, and for a gate that is about to open


def refuse(params: dict[str, Any]) -> dict[str, Any]:
    """Whatever a cluster that runs could not become; a new host, or one that is all down, has none to ask."""
    if os.path.exists(params["ca_certificate"]):
        region = own_region(params)
        try:
            have = read(region)
        except Silent:
            return {"changed": False}
        refuse_redefinition(have, wanted(with_passwords(params), region.name, "primary"), region.name)
    return {"changed": False}


def declare(region: Region, declared: dict[str, Any], check_mode: bool) -> tuple[Role, Change]:
    """Bring a region that has a role to what is declared; a move of it is not met half-way."""
    role = region.role()
    if role is None:
        raise MusterError(f"region {region.name} has no role yet, and none was given to it")
    change = bring(region, declared, role.meaning, check=True)
    if not change or check_mode:
        return role, change
    wait_until(region.lets_in, f"region {region.name} to let the operator in", PATIENCE)
    with region.lock("site.yml", PATIENCE):
        role = region.role() or role
        return role, bring(region, declared, role.meaning)


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    if params["refuse_only"]:
        return refuse(params)
    region = own_region(params)
    declared = with_passwords(params)
    first = params["initial_role"] and region.role() is None
    if first:
        role = Role(params["initial_role"], 1)
        change = bring(region, declared, role.role, check_mode)
        if not check_mode:
            # Last: the gate opens for clients when there is a role.
            region.set_role(role)
    else:
        role, change = declare(region, declared, check_mode)
    return {
        "changed": bool(change) or bool(first),
        "role": role.role,
        "objects": sorted({*change.before, *change.after}),
        "diff": {"before": _lines(change.before), "after": _lines(change.after)},
    }


def _lines(objects: dict[str, Any]) -> str:
    found = {name: body for name, body in objects.items() if body is not None}
    return "".join(f"{name}: {json.dumps(found[name], sort_keys=True)}\n" for name in sorted(found))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "region": {"type": "str", "required": True},
            "initial_role": {"type": "str", "choices": ["primary", "standby"]},
            "refuse_only": {"type": "bool", "default": False},
            **DECLARED,
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
