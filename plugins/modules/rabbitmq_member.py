#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: rabbitmq_member
short_description: Start or restart a RabbitMQ node when its cluster can do without it
version_added: 0.1.0
description:
  - Starts a node that does not run and waits until it is a member of its region's cluster.
  - Restarts one that runs with other settings than its files hold, when every other node of the region
    runs and no quorum queue would lose its majority. Call it for one host at a time (C(throttle)).
options:
  host:
    description: This host, as it is named in O(regions).
    type: str
    required: true
  region:
    description: Its region.
    type: str
    required: true
  restart:
    description: Restart it whether it needs that or not.
    type: bool
    default: false
  watched_files:
    description: Files that a running node has read when it started.
    type: list
    elements: path
    default: []
  timeout:
    description: Seconds for each wait.
    type: float
    default: 180
extends_documentation_fragment:
  - muster.platform.rabbitmq
attributes:
  check_mode:
    description: Says what it would do.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Restart the nodes that need it, one at a time
  muster.platform.rabbitmq_member:
    regions: {north: [north-1, north-2, north-3]}
    region: north
    host: "{{ inventory_hostname }}"
    watched_files: [/etc/rabbitmq/rabbitmq.conf]
    operator_password: "{{ rabbitmq_operator_password }}"
    ca_certificate: /etc/muster/rabbitmq/ca.crt
  throttle: 1
"""

RETURN = r"""
steps:
  description: What was done, or would be in check mode.
  returned: always
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq import (
    OPTIONS,
    Refusal,
    Region,
    listens,
    own_region,
)
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq_node import UNIT, local_state, nodes
from ansible_collections.muster.platform.plugins.module_utils._systemd import systemctl
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until


class Hopeless(Exception):
    """Waiting longer makes no sense."""


class Worker:
    """One node, brought to run as its files say."""

    def __init__(self, params: dict[str, Any], check_mode: bool) -> None:
        self.params = params
        self.check = check_mode
        self.host: str = params["host"]
        region = own_region(params)
        if self.host not in region.hosts:
            raise MusterError(f"{self.host} is not among the RabbitMQ hosts of region {params['region']}")
        self.hosts = region.hosts
        self.own = Region(region.name, [self.host], region.login)
        self.steps: list[str] = []
        self.was_open = False

    def run(self) -> None:
        local = local_state(self.params["watched_files"])
        if local.masked:
            raise MusterError(f"{self.host} is fenced: {UNIT} is masked; dr_reprotect brings it back")
        if not local.running:
            self.do("start", "start RabbitMQ")
        elif self.params["restart"] or local.restart_reasons:
            if not self.check:
                self.was_open = listens(self.host, self.params["port"])
                wait_until(
                    self.dispensable,
                    f"region {self.own.name} to do without {self.host}",
                    self.params["timeout"],
                    0.5,
                )
            self.do("restart", "restart RabbitMQ")

    def do(self, verb: str, step: str) -> None:
        self.steps.append(step)
        if self.check:
            return
        # A node that starts waits for others, so systemd's answer is not waited for.
        systemctl("reset-failed", UNIT, check=False)
        systemctl(verb, "--no-block", UNIT)
        what = f"RabbitMQ on {self.host} to be a member of its cluster"
        try:
            wait_until(self.serves, what, self.params["timeout"], 0.3)
        except Hopeless as error:
            raise MusterError(str(error)) from error

    def dispensable(self) -> bool:
        """Whether the cluster keeps its majority, and each quorum queue its own, without this node."""
        # One that has not joined yet does not run either.
        known = {**dict.fromkeys(self.hosts, False), **nodes(self.own)}
        down = [host for host, runs in known.items() if not runs and host != self.host]
        if down:
            raise MusterError(f"{', '.join(down)} does not run")
        try:
            self.own.request("GET", "/api/health/checks/node-is-quorum-critical")
        except Refusal as error:
            if len(self.hosts) > 1:
                raise MusterError(f"some quorum queue would lose its majority: {error}") from error
        return True

    def serves(self) -> bool:
        """Whether the node answers, knows all of its region, and lets clients in where it should."""
        state = local_state([])
        if state.active == "failed" or state.restarts >= 3:
            raise Hopeless(f"RabbitMQ on {self.host} does not start: see its /var/log/rabbitmq")
        if not state.running:
            raise MusterError(f"{UNIT} is {state.active}")
        known = nodes(self.own)
        missing = [host for host in self.hosts if host not in known]
        if missing:
            raise MusterError(
                f"{', '.join(missing)} is not in the cluster of {self.host}: where a node was once started "
                "alone, empty its /var/lib/rabbitmq/mnesia first"
            )
        # One that was open for clients opens again; whether another may is its gate's to say.
        if self.was_open and not listens(self.host, self.params["port"]):
            raise MusterError(f"port {self.params['port']} of {self.host} is closed")
        return bool(known.get(self.host))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "host": {"type": "str", "required": True},
            "region": {"type": "str", "required": True},
            "restart": {"type": "bool", "default": False},
            "watched_files": {"type": "list", "elements": "path", "default": []},
            "timeout": {"type": "float", "default": 180},
        },
        supports_check_mode=True,
    )
    try:
        worker = Worker(module.params, module.check_mode)
        worker.run()
    except MusterError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(worker.steps), steps=worker.steps)


if __name__ == "__main__":
    main()
