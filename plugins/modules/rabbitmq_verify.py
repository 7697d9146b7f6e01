#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: rabbitmq_verify
short_description: Publish and consume through the endpoints that applications use
version_added: 0.1.0
description:
  - Logs in to each endpoint as an ordinary user, over TLS with a verified name, publishes a message that the
    broker must confirm and route, and consumes it. No administrator, no API.
  - Fails when an endpoint does not lead to a region that takes writes in time, or leads to another one
    than asked.
options:
  endpoints:
    description: The endpoints, each with C(host) and C(port).
    type: list
    elements: dict
    required: true
    suboptions:
      host: {description: Host to dial., type: str, required: true}
      port: {description: Port to dial., type: int, required: true}
  vhost:
    description: Virtual host.
    type: str
    required: true
  exchange:
    description: Exchange to publish to.
    type: str
    required: true
  routing_key:
    description: Routing key to publish with.
    type: str
    required: true
  queue:
    description: Queue to consume from. All that is in it is consumed.
    type: str
    required: true
  user:
    description: User to log in as.
    type: str
    required: true
  password:
    description: Its password.
    type: str
    required: true
  ca_certificate:
    description: Path on the host of the CA.
    type: path
    required: true
  cluster:
    description: The cluster's name that the server must report, which tells its region.
    type: str
  timeout:
    description: Seconds an endpoint may take to lead to the primary.
    type: float
    default: 30
attributes:
  check_mode:
    description: Does nothing in check mode, since it would write.
    support: partial
    details: Nothing is published or consumed then.
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Publish and consume as an application does
  muster.platform.rabbitmq_verify:
    endpoints: [{host: north-3, port: 5671}, {host: south-3, port: 5671}]
    vhost: muster
    exchange: muster.verify
    routing_key: verify
    queue: muster.verify
    user: muster_canary
    password: "{{ canary_password }}"
    ca_certificate: /etc/muster/rabbitmq/ca.crt
"""

RETURN = r"""
endpoints:
  description: What each endpoint led to.
  returned: outside check mode
  type: list
  elements: dict
  contains:
    endpoint: {description: Host and port., type: str}
    cluster: {description: The name of the cluster that answered., type: str}
    seconds: {description: From the connection to the consumed message., type: float}
"""

import time
import uuid
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq import (
    Login,
    describe,
    dial,
    hang_up,
    pika_errors,
)
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

ATTEMPT = 5.0  # seconds that one attempt may take at each step


def connect(params: dict[str, Any], endpoint: dict[str, Any]) -> Any:
    as_user = {"operator_user": params["user"], "operator_password": params["password"]}
    login = Login.from_params({**params, **as_user, "port": endpoint["port"], "api_port": 0})
    return dial(endpoint["host"], params["vhost"], login, ATTEMPT)


def cluster_name(connection: Any) -> str:
    """What the server says of itself when a connection opens."""
    properties = getattr(getattr(connection, "_impl", None), "server_properties", None) or {}
    found = properties.get("cluster_name", "")
    return found.decode() if isinstance(found, bytes) else str(found)


def round_trip(connection: Any, params: dict[str, Any]) -> None:
    """A message out and in again; others that lie in the queue are let go on the way."""
    import pika  # pylint: disable=import-error

    channel = connection.channel()
    channel.confirm_delivery()
    wanted = str(uuid.uuid4())
    properties = pika.BasicProperties(message_id=wanted, delivery_mode=2, content_type="text/plain")
    channel.basic_publish(params["exchange"], params["routing_key"], b"verify", properties, mandatory=True)
    deadline = time.monotonic() + ATTEMPT
    while time.monotonic() < deadline:
        method, found, _body = channel.basic_get(params["queue"])
        if method is None:
            connection.sleep(0.05)
            continue
        channel.basic_ack(method.delivery_tag)
        if found.message_id == wanted:
            return
    raise MusterError(f"the confirmed message did not arrive in the queue {params['queue']}")


def attempt(params: dict[str, Any], endpoint: dict[str, Any]) -> dict[str, Any]:
    name = f"{endpoint['host']}:{endpoint['port']}"
    started = time.monotonic()
    connection = connect(params, endpoint)
    try:
        cluster = cluster_name(connection)
        if params["cluster"] and cluster != params["cluster"]:
            raise MusterError(f"{name} leads to {cluster}, not to {params['cluster']}")
        round_trip(connection, params)
    except pika_errors() as error:
        raise MusterError(f"{name}: {describe(error)}") from error
    finally:
        hang_up(connection)
    return {"endpoint": name, "cluster": cluster, "seconds": round(time.monotonic() - started, 3)}


def run(params: dict[str, Any]) -> dict[str, Any]:
    if not params["endpoints"]:
        raise MusterError("there are no endpoints to verify: set rabbitmq_verify_endpoints")
    found = []
    for endpoint in params["endpoints"]:

        def works(endpoint: dict[str, Any] = endpoint) -> dict[str, Any]:
            return attempt(params, endpoint)

        what = f"{endpoint['host']}:{endpoint['port']} to take and give a message as {params['user']}"
        found.append(wait_until(works, what, params["timeout"], 0.3))
    return {"endpoints": found}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "endpoints": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "host": {"type": "str", "required": True},
                    "port": {"type": "int", "required": True},
                },
            },
            "vhost": {"type": "str", "required": True},
            "exchange": {"type": "str", "required": True},
            "routing_key": {"type": "str", "required": True, "no_log": False},
            "queue": {"type": "str", "required": True},
            "user": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "ca_certificate": {"type": "path", "required": True},
            "cluster": {"type": "str"},
            "timeout": {"type": "float", "default": 30},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False, skipped=True, msg="it would write")
    try:
        module.exit_json(changed=False, **run(module.params))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
