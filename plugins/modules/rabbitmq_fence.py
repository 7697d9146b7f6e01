#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: rabbitmq_fence
short_description: Keep RabbitMQ on this host from taking messages, also after a reboot
version_added: 0.1.0
description:
  - Stops RabbitMQ, masks its unit, and sees that no node is left and nothing listens.
options:
  marker:
    description: File that says that the host is fenced. RabbitMQ's unit does not start where it is.
    type: path
    default: /etc/muster/rabbitmq/fenced.json
  ports:
    description: The ports on which nothing may listen.
    type: list
    elements: int
    default: [5671, 15671, 25672]
extends_documentation_fragment:
  - muster.platform.fence
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Fence the old primary region
  muster.platform.rabbitmq_fence:
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
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq_fence import rabbitmq_fence


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_fence.ARGUMENTS,
            "marker": {"type": "path", "default": "/etc/muster/rabbitmq/fenced.json"},
            "ports": {"type": "list", "elements": "int", "default": [5671, 15671, 25672]},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        fence = rabbitmq_fence(params["marker"], params["ports"], params["grace"])
        module.exit_json(**_fence.run(fence, params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
