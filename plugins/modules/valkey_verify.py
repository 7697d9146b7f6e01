#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: valkey_verify
short_description: Write and read Valkey through the endpoints that applications use
version_added: 0.1.0
description:
  - Logs in to each endpoint as an ordinary user, over TLS with a verified name, writes a key and reads it
    back.
  - Fails when an endpoint does not lead to a server that takes writes in time, or leads to another region
    than
    asked. Which host answered is read from its certificate.
options:
  endpoints:
    description: The endpoints, each with C(host) and C(port).
    type: list
    elements: dict
    required: true
    suboptions:
      host: {description: Host to dial., type: str, required: true}
      port: {description: Port to dial., type: int, required: true}
  user:
    description: User to log in as.
    type: str
    required: true
  password:
    description: Its password.
    type: str
    required: true
  key:
    description: Key to write, which the user must be allowed to. It lives for a minute.
    type: str
    default: muster:verify
  ca_certificate:
    description: Path on the host of the CA.
    type: path
    required: true
  hosts:
    description: The Valkey hosts of which one must answer; empty for any.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds an endpoint may take to lead to the primary.
    type: float
    default: 30
attributes:
  check_mode:
    description: Does nothing in check mode, since it would write.
    support: none
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Write and read as an application does
  muster.platform.valkey_verify:
    endpoints: [{host: north-3, port: 6379}, {host: south-3, port: 6379}]
    user: muster_canary
    password: "{{ canary_password }}"
    ca_certificate: /etc/muster/valkey/ca.crt
"""

RETURN = r"""
endpoints:
  description: What each endpoint led to.
  returned: success
  type: list
  elements: dict
  contains:
    endpoint: {description: Host and port., type: str}
    server: {description: Common name in the certificate of the server that answered., type: str}
    milliseconds: {description: "Time to connect, write and read back.", type: float}
"""

import secrets
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._valkey import first_line
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until


def common_name(certificate: dict[str, Any]) -> str:
    """Whose certificate it is."""
    for part in certificate.get("subject", ()):
        for name, value in part:
            if name == "commonName":
                return str(value)
    return ""


def write_and_read(params: dict[str, Any], host: str, port: int) -> dict[str, Any]:
    """One login, one write, one read of it; MusterError with the reason when any of it fails."""
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as error:
        raise MusterError("python3-redis is not installed") from error
    started = time.monotonic()
    connection = redis.SSLConnection(
        host=host,
        port=port,
        username=params["user"],
        password=params["password"],
        ssl_ca_certs=params["ca_certificate"],
        ssl_check_hostname=True,
        socket_timeout=5,
        socket_connect_timeout=3,
        retry=Retry(NoBackoff(), 0),
        lib_name=None,
        lib_version=None,
    )
    value = secrets.token_hex(8)
    try:
        connection.connect()
        server = common_name(connection._sock.getpeercert())
        connection.send_command("SET", params["key"], value, "EX", 60)
        connection.read_response()
        connection.send_command("GET", params["key"])
        read = connection.read_response()
    except (redis.RedisError, OSError) as error:
        raise MusterError(first_line(error)) from error
    finally:
        connection.disconnect()
    if read != value.encode():
        raise MusterError("what was written was not read back")
    if params["hosts"] and server not in params["hosts"]:
        raise MusterError(f"it leads to {server}, which is not of {', '.join(params['hosts'])}")
    taken = round((time.monotonic() - started) * 1000, 1)
    return {"endpoint": f"{host}:{port}", "server": server, "milliseconds": taken}


def run(params: dict[str, Any]) -> dict[str, Any]:
    found = []
    for endpoint in params["endpoints"]:
        host, port = endpoint["host"], endpoint["port"]

        def attempt(host: str = host, port: int = port) -> dict[str, Any]:
            return write_and_read(params, host, port)

        found.append(wait_until(attempt, f"a write through {host}:{port}", params["timeout"], 0.2))
    return {"changed": False, "endpoints": found}


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
            "user": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "key": {"type": "str", "default": "muster:verify", "no_log": False},
            "ca_certificate": {"type": "path", "required": True},
            "hosts": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "float", "default": 30},
        },
    )
    try:
        module.exit_json(**run(module.params))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
