#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_fence
short_description: Keep PostgreSQL on this host from taking writes, also after a reboot
version_added: 0.1.0
description:
  - Stops Patroni and PostgreSQL, masks Patroni's unit, and sees that no server process is left and nothing
    listens.
options:
  data_directory:
    description: PostgreSQL's data directory.
    type: path
    required: true
  marker:
    description: File that says that the host is fenced. Patroni's guard looks at it too.
    type: path
    default: /etc/muster/postgresql/fenced.json
  ports:
    description: The ports on which nothing may listen.
    type: list
    elements: int
    default: [5432, 8008]
extends_documentation_fragment:
  - muster.platform.fence
  - muster.platform.patroni.unit
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Fence the old primary region
  muster.platform.postgresql_fence:
    data_directory: /var/lib/postgresql/17/main
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
    processes: {description: How many processes of the store are left., type: int}
    listening: {description: Which of the ports something listens on., type: list, elements: int}
    proven_at: {description: "When it was seen, by the host's clock, UTC.", type: str}
note:
  description: What the marker holds; null when there is none.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils import _fence
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_fence.ARGUMENTS,
            "data_directory": {"type": "path", "required": True},
            "marker": {"type": "path", "default": "/etc/muster/postgresql/fenced.json"},
            "unit": {"type": "str", "default": "patroni.service"},
            "ports": {"type": "list", "elements": "int", "default": [5432, 8008]},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        fence = _fence.postgresql_fence(
            params["data_directory"], params["marker"], params["unit"], params["ports"], params["grace"]
        )
        module.exit_json(**_fence.run(fence, params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
