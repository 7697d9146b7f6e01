#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: rabbitmq_held
short_description: Tell which of the canary's numbers a region's RabbitMQ holds
version_added: 0.1.0
description:
  - A standby lets no application in, so this reads the canary's queue as the operator. Nothing is
    acknowledged, and every message stays where it is.
  - Only hosts of O(host)'s own region are asked, whatever its role is. The other region may be dead.
  - Fails when it cannot be known, for example while somebody else reads the queue. At most 50000 messages are
    read, so the queue needs an C(x-message-ttl). It also needs C(x-delivery-limit=-1), because what is read
    and left there counts as a failed delivery.
options:
  host:
    description: The host to ask first, as it is named in O(regions).
    type: str
    required: true
  vhost:
    description: Virtual host of the queue.
    type: str
    default: muster
  queue:
    description: The canary's queue.
    type: str
    default: muster.canary
extends_documentation_fragment:
  - muster.platform.rabbitmq
  - muster.platform.info
seealso:
  - module: muster.platform.dr_lag
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Read what the canary's queue holds
  muster.platform.rabbitmq_held:
    regions:
      north: [north-1, north-2, north-3]
      south: [south-1, south-2, south-3]
    host: south-1
    operator_password: "{{ rabbitmq_operator_password }}"
    ca_certificate: /etc/muster/rabbitmq/ca.crt
  register: held
"""

RETURN = r"""
ranges:
  description: The numbers, as pairs of the first and the last of each range.
  returned: success
  type: list
  elements: list
  sample: [[1, 4700], [4702, 4711]]
messages:
  description: How many messages were read. A number may be there more than once.
  returned: success
  type: int
region:
  description: The region that was asked.
  returned: success
  type: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._canary_queue import (
    count_messages,
    numbers_of,
    read_queue,
)
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq import OPTIONS, Region, regions_from
from ansible_collections.muster.platform.plugins.module_utils._ranges import to_pairs

TIMEOUT = 3.0


def home_region(params: dict[str, Any]) -> Region:
    """The host's own region, which is asked at this host first."""
    for region in regions_from(params, timeout=TIMEOUT).values():
        if params["host"] in region.hosts:
            region.connected_to = params["host"]
            return region
    raise MusterError(f"{params['host']} is not among the RabbitMQ hosts of any region")


def run(params: dict[str, Any]) -> dict[str, Any]:
    region, vhost, queue = home_region(params), params["vhost"], params["queue"]
    try:
        with region.amqp(vhost) as watch:
            ids = read_queue(lambda: region.amqp(vhost), watch, queue, count_messages(watch, queue))
    except MusterError as error:
        raise MusterError(f"what region {region.name} holds of the canary is not known: {error}") from error
    return {"ranges": to_pairs(sorted(numbers_of(ids))), "messages": len(ids), "region": region.name}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "host": {"type": "str", "required": True},
            "vhost": {"type": "str", "default": "muster"},
            "queue": {"type": "str", "default": "muster.canary"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(changed=False, **run(module.params))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
