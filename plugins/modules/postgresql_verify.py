#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_verify
short_description: Write and read through the endpoints that applications use
version_added: 0.1.0
description:
  - Logs in to each endpoint as an ordinary role, over TLS with a verified name, writes a row and reads it
    back. No socket, no superuser.
  - Fails when an endpoint does not lead to a writable server in time, or leads to another region than asked.
options:
  endpoints:
    description: The endpoints, each with C(host) and C(port).
    type: list
    elements: dict
    required: true
    suboptions:
      host: {description: Host to dial., type: str, required: true}
      port: {description: Port to dial., type: int, required: true}
  database:
    description: Database to write to.
    type: str
    required: true
  user:
    description: Role to log in as.
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
    description: The C(cluster_name) that the server must report, which tells its region.
    type: str
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
  muster.platform.postgresql_verify:
    endpoints: [{host: north-3, port: 5432}, {host: south-3, port: 5432}]
    database: muster
    user: muster_canary
    password: "{{ canary_password }}"
    ca_certificate: /etc/muster/postgresql/ca.crt
    cluster: muster-south
"""

RETURN = r"""
endpoints:
  description: What each endpoint led to.
  returned: success
  type: list
  elements: dict
  contains:
    endpoint: {description: Host and port., type: str}
    server: {description: Address of the server that wrote., type: str}
    cluster: {description: Its cluster_name., type: str}
    milliseconds: {description: "Time to connect, write and read back.", type: float}
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

# Not among the options of the login, which PgBouncer refuses.
LIMIT = "SET LOCAL statement_timeout = 5000"
TABLE = "CREATE TABLE IF NOT EXISTS muster_verify (id bigint PRIMARY KEY, written_at timestamptz NOT NULL)"
WRITE = (
    "INSERT INTO muster_verify VALUES (1, clock_timestamp()) "
    "ON CONFLICT (id) DO UPDATE SET written_at = excluded.written_at RETURNING written_at"
)
READ = (
    "SELECT written_at, host(inet_server_addr()), current_setting('cluster_name') "
    "FROM muster_verify WHERE id = 1"
)


def write_and_read(params: dict[str, Any], host: str, port: int) -> dict[str, Any]:
    """One login, one write, one read of it; MusterError with the reason when any of it fails."""
    try:
        import psycopg2
    except ImportError as error:
        raise MusterError("python3-psycopg2 is not installed") from error
    started = time.monotonic()
    try:
        connection = psycopg2.connect(
            host=host,
            port=port,
            dbname=params["database"],
            user=params["user"],
            password=params["password"],
            sslmode="verify-full",
            sslrootcert=params["ca_certificate"],
            connect_timeout=3,
        )
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(LIMIT)
                cursor.execute(TABLE)
                cursor.execute(WRITE)
                written = cursor.fetchone()
            with connection, connection.cursor() as cursor:
                cursor.execute(LIMIT)
                cursor.execute(READ)
                row = cursor.fetchone()
        finally:
            connection.close()
    except psycopg2.Error as error:
        raise MusterError(str(error).strip().splitlines()[0]) from error
    if not row or not written or row[0] != written[0]:
        raise MusterError("what was written was not read back")
    if params["cluster"] and row[2] != params["cluster"]:
        raise MusterError(f"it leads to {row[2]}, not to {params['cluster']}")
    taken = round((time.monotonic() - started) * 1000, 1)
    return {"endpoint": f"{host}:{port}", "server": row[1], "cluster": row[2], "milliseconds": taken}


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
            "database": {"type": "str", "required": True},
            "user": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "ca_certificate": {"type": "path", "required": True},
            "cluster": {"type": "str"},
            "timeout": {"type": "float", "default": 30},
        },
    )
    try:
        module.exit_json(**run(module.params))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
