#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: rabbitmq_rejoin
short_description: Bring a region that was failed over from back as a standby of RabbitMQ
version_added: 0.1.0
description:
  - "V(look) refuses unless another region is primary with a newer epoch. It changes nothing."
  - "V(rejoin) is for one host of the region when its nodes run again. The region is closed for good, then
    what only it has is written to files, message by message, and taken from the queues only when it is on
    the disk. Then the region pulls from the primary."
options:
  step:
    description: What to do.
    type: str
    choices: [look, rejoin]
    required: true
  region:
    description: The region that comes back.
    type: str
    required: true
  holder:
    description: Who asks for it, for the one who is refused meanwhile.
    type: str
    default: dr_reprotect
  save_directory:
    description:
      - Directory in which a new one is made for what is saved. Each line of C(only-here.jsonl) is a message
        that is not known to have reached the other region; each of C(copies.jsonl) one that its consumers had
        not handled, and that the other region has had a copy of.
    type: path
    default: /var/lib/muster/diverged
  canary_queue:
    description: The queue that the canary writes to, whose numbers are told of what was saved.
    type: dict
    suboptions:
      vhost: {description: Its virtual host., type: str, required: true}
      name: {description: Its name., type: str, required: true}
  timeout:
    description: Seconds for each wait.
    type: float
    default: 60
extends_documentation_fragment:
  - muster.platform.rabbitmq
  - muster.platform.rabbitmq.declared
attributes:
  check_mode:
    description: Refuses as the real run would, and changes nothing.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Save what only north has, and have it pull from south
  muster.platform.rabbitmq_rejoin:
    step: rejoin
    regions: {north: [north-1, north-2, north-3], south: [south-1, south-2, south-3]}
    region: north
    operator_password: "{{ rabbitmq_operator_password }}"
    ca_certificate: /etc/muster/rabbitmq/ca.crt
    declared: "{{ __rabbitmq_declared }}"
    passwords: "{{ __rabbitmq_passwords }}"
"""

RETURN = r"""
primary:
  description: The region that is primary.
  returned: always
  type: str
saved:
  description: What was saved; null when there was nothing.
  returned: when O(step=rejoin), outside check mode
  type: dict
  contains:
    directory: {description: Where., type: str}
    only_here: {description: Messages not known to have reached the other region., type: int}
    copies: {description: Messages that the other region has had a copy of., type: int}
    queues: {description: "Messages of each queue, as vhost/name.", type: dict}
    canary: {description: "The canary's numbers among them, as ranges such as V(1-5,7).", type: str}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq import (
    DECLARED,
    OPTIONS,
    own_region,
    regions_from,
    with_passwords,
)
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq_rejoin import Rejoin

NAMED = {"type": "str", "required": True}


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    region = own_region(params).name
    canary = params["canary_queue"] or {"vhost": "", "name": ""}
    rejoin = Rejoin(
        regions_from(params),
        region,
        with_passwords(params),
        params["save_directory"],
        params["timeout"],
        (canary["vhost"], canary["name"]),
    )
    primary = rejoin.look()
    if params["step"] == "look" or check_mode:
        return {"changed": False, "primary": primary.name}
    return {**rejoin.run(params["holder"]), "primary": primary.name}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            **DECLARED,
            "step": {"type": "str", "choices": ["look", "rejoin"], "required": True},
            "region": {"type": "str", "required": True},
            "holder": {"type": "str", "default": "dr_reprotect"},
            "save_directory": {"type": "path", "default": "/var/lib/muster/diverged"},
            "canary_queue": {"type": "dict", "options": dict.fromkeys(("vhost", "name"), NAMED)},
            "timeout": {"type": "float", "default": 60},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
