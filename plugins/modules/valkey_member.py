#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: valkey_member
short_description: Bring this host's Valkey and Sentinel where they belong
version_added: 0.1.0
description:
  - Never moves the primary. Whom a host follows comes from where the primary is now.
  - In the primary's region all follow the primary and the Sentinels watch it. In the other, one host
    follows the
    primary, the others follow that host, and the Sentinels watch nobody.
  - A host that is fenced is left alone.
options:
  state:
    description:
      - V(started) has both services run. The first start decides whom the server follows.
      - V(settled) waits until the server streams, applies what is declared, and sets what its Sentinel
        watches.
      - V(restarted) restarts for O(restart), while all others of the region are well.
    type: str
    choices: [started, settled, restarted]
    required: true
  bootstrap:
    description: For V(started), that no host of any region has data, so that the first primary may be chosen.
    type: bool
    default: false
  initial_primary_region:
    description: The region of the first primary. Used only with O(bootstrap).
    type: str
    required: true
  restart:
    description: For V(restarted), what waits for it. V(sentinel) is the Sentinel, all else the server.
    type: list
    elements: str
    default: []
  roles:
    description: For V(restarted), the roles of the servers to restart; one of another role is left alone.
    type: list
    elements: str
    choices: [primary, replica]
    default: [primary, replica]
  watching:
    description: How a Sentinel watches (C(down_after_ms), C(failover_timeout_ms), C(parallel_syncs)).
    type: dict
    default: {}
  timeout:
    description: Seconds until the host must be where it belongs.
    type: float
    default: 120
extends_documentation_fragment:
  - muster.platform.valkey
  - muster.platform.tls
attributes:
  check_mode:
    description: Says whether it would change anything.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Follow the primary, with the declared settings
  muster.platform.valkey_member:
    state: settled
    regions: {north: [north-1, north-2, north-3], south: [south-1, south-2, south-3]}
    host: "{{ inventory_hostname }}"
    initial_primary_region: north
    operator_password: "{{ valkey_operator_password }}"
    sentinel_password: "{{ valkey_sentinel_password }}"
    ca_certificate: /etc/muster/valkey/ca.crt
    certificate: /etc/muster/valkey/server.crt
    private_key: /etc/muster/valkey/server.key
"""

RETURN = r"""
restart:
  description: What only a restart can apply.
  returned: when O(state=settled)
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._valkey import OPTIONS, Access, Watching
from ansible_collections.muster.platform.plugins.module_utils._valkey_member import Member
from ansible_collections.muster.platform.plugins.module_utils._valkey_state import Place


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    regions, host = params["regions"], params["host"]
    if host not in [one for hosts in regions.values() for one in hosts]:
        raise MusterError(f"{host} is not among the Valkey hosts of any region")
    if params["initial_primary_region"] not in regions:
        raise MusterError(f"initial_primary_region is no region: {params['initial_primary_region']}")
    member = Member(
        host=host,
        regions=regions,
        access=Access.from_params(params),
        place=Place(),
        initial_primary_region=params["initial_primary_region"],
        watching=Watching.from_params(params["watching"]),
        timeout=params["timeout"],
    )
    if params["state"] == "started":
        return {"changed": member.start(params["bootstrap"], check_mode)}
    if params["state"] == "settled":
        return member.settle(check_mode)
    return {"changed": member.restart(params["restart"], params["roles"], check_mode)}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "state": {"type": "str", "choices": ["started", "settled", "restarted"], "required": True},
            "bootstrap": {"type": "bool", "default": False},
            "initial_primary_region": {"type": "str", "required": True},
            "restart": {"type": "list", "elements": "str", "default": []},
            "roles": {
                "type": "list",
                "elements": "str",
                "choices": ["primary", "replica"],
                "default": ["primary", "replica"],
            },
            "watching": {"type": "dict", "default": {}},
            "timeout": {"type": "float", "default": 120},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
