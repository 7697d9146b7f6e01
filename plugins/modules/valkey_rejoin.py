#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: valkey_rejoin
short_description: Bring a Valkey host of a region that was failed over from back as a standby
version_added: 0.1.0
description:
  - "V(look) refuses unless the other region, and it alone, is primary. Nothing may be fenced before."
  - The others run on a host that M(muster.platform.valkey_fence) fenced.
  - "V(save) moves the old data aside, its AOF and RDB, and lists every key that the new primary lacks or
    holds with
    another value. A key that expired, or that was deleted there since, is in the list too."
  - V(rejoin) takes the fence down and starts the host as a replica, which copies everything.
options:
  step:
    description: What to do. They belong together, in this order.
    type: str
    choices: [look, save, rejoin]
    required: true
  head:
    description: The host of the region that follows the new primary; the others follow it.
    type: str
    required: true
  save_directory:
    description: Where what only this side had is kept, in a folder named after the moment of the fence.
    type: path
    default: /var/lib/muster/diverged
  max_keys:
    description: The most keys that are listed. All are counted.
    type: int
    default: 1000000
  timeout:
    description: Seconds that reading the old data, or the new copy, may take.
    type: float
    default: 3600
extends_documentation_fragment:
  - muster.platform.valkey
  - muster.platform.tls
attributes:
  check_mode:
    description: Says what would change.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Save what only this side has
  muster.platform.valkey_rejoin:
    step: save
    head: north-1
    regions: {north: [north-1, north-2, north-3], south: [south-1, south-2, south-3]}
    host: "{{ inventory_hostname }}"
    operator_password: "{{ valkey_operator_password }}"
    sentinel_password: "{{ valkey_sentinel_password }}"
    ca_certificate: /etc/muster/valkey/ca.crt
    certificate: /etc/muster/valkey/server.crt
    private_key: /etc/muster/valkey/server.key
"""

RETURN = r"""
primary:
  description: The host that takes writes.
  returned: for O(step=look)
  type: str
saved:
  description:
    - "What was saved: C(count) of keys that only this side had (C(missing) and C(different)), C(file) that
      lists them, C(bytes) of the old data, C(directory), C(host), C(primary), C(reason) and C(canary), the
      canary's numbers among them as ranges. Null when the host was back already."
  returned: for O(step=save)
  type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._valkey import OPTIONS, Access
from ansible_collections.muster.platform.plugins.module_utils._valkey_fence import valkey_fence
from ansible_collections.muster.platform.plugins.module_utils._valkey_member import Member
from ansible_collections.muster.platform.plugins.module_utils._valkey_rejoin import Rejoin
from ansible_collections.muster.platform.plugins.module_utils._valkey_state import Place


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    access, place = Access.from_params(params), Place()
    regions, host = params["regions"], params["host"]
    home = next((hosts for hosts in regions.values() if host in hosts), None)
    if home is None:
        raise MusterError(f"{host} is not among the Valkey hosts of any region")
    if params["head"] not in home:
        raise MusterError(f"head is {params['head']}, which is no host of the region of {host}")
    rejoin = Rejoin(
        host=host,
        head=params["head"],
        regions=regions,
        access=access,
        place=place,
        fence=valkey_fence(place.data, place.marker, [params["port"], params["sentinel_port"]]),
        member=Member(host, regions, access, place, "", None, params["timeout"]),
        save_directory=params["save_directory"],
        max_keys=params["max_keys"],
        timeout=params["timeout"],
    )
    if params["step"] == "look":
        return {"changed": False, "primary": rejoin.primary().host}
    if params["step"] == "save":
        return rejoin.save(check_mode)
    return {"changed": rejoin.rejoin(check_mode)}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "step": {"type": "str", "choices": ["look", "save", "rejoin"], "required": True},
            "head": {"type": "str", "required": True},
            "save_directory": {"type": "path", "default": "/var/lib/muster/diverged"},
            "max_keys": {"type": "int", "default": 1000000, "no_log": False},
            "timeout": {"type": "float", "default": 3600},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
