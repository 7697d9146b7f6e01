#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: patroni_member
short_description: Start this host's Patroni and wait until its PostgreSQL serves
version_added: 0.1.0
description:
  - Starts Patroni's unit when it does not run, and waits until the host is a running primary, or a
    standby that streams. It never decides a role; Patroni does.
options:
  host:
    description: This host's name, as its certificate has it.
    type: str
    required: true
  timeout:
    description: Seconds to wait at most.
    type: int
    default: 300
extends_documentation_fragment:
  - muster.platform.patroni
  - muster.platform.patroni.unit
  - muster.platform.tls
attributes:
  check_mode:
    description: Says whether it would start the unit, and does not wait.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Start this member
  muster.platform.patroni_member:
    host: "{{ inventory_hostname }}"
    ca_certificate: /etc/muster/postgresql/ca.crt
    certificate: /etc/muster/postgresql/server.crt
    private_key: /etc/muster/postgresql/server.key
"""

RETURN = r"""
role:
  description: Patroni's own word for the member's role.
  returned: outside check mode
  type: str
timeline:
  description: PostgreSQL's timeline.
  returned: outside check mode
  type: int
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._patroni import (
    TLS_OPTIONS,
    Member,
    Patroni,
    Tls,
    member_from,
)
from ansible_collections.muster.platform.plugins.module_utils._systemd import systemctl
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

# Why the role's guard, if there is one, kept the unit from starting.
GUARD = "/run/muster-postgresql/guard"


def start(params: dict[str, Any]) -> None:
    """Start the unit; where the guard forbids it, the guard's reason is the error."""
    try:
        systemctl("start", params["unit"], timeout=120)
    except MusterError as error:
        try:
            with open(GUARD, encoding="utf-8") as stream:
                reason = stream.read().strip()
        except OSError:
            reason = ""
        raise MusterError(f"{params['unit']} may not start: {reason}" if reason else str(error)) from error


def serving(patroni: Patroni, host: str) -> Member | None:
    """The member once it serves; a MusterError tells what it is doing instead."""
    member = member_from(host, "", patroni.get("/patroni"))
    if member.writable:
        return member
    if member.role in ("replica", "standby_leader") and member.replication_state == "streaming":
        if member.unled:
            raise MusterError("it streams, but nobody leads its region")
        return member
    raise MusterError(
        f"it is {member.role}, {member.state}, replication {member.replication_state or 'not begun'}"
    )


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Start, wait, report."""
    active = systemctl("is-active", params["unit"], check=False) == "active"
    if check_mode:
        return {"changed": not active}
    if not active:
        start(params)
    patroni = Patroni(params["host"], Tls.from_params(params), params["api_port"])
    what = f"PostgreSQL on {params['host']} to serve (see journalctl -u {params['unit']})"
    member = wait_until(lambda: serving(patroni, params["host"]), what, params["timeout"], 0.3)
    return {"changed": not active, "role": member.role, "timeline": member.timeline}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "unit": {"type": "str", "default": "patroni.service"},
            "timeout": {"type": "int", "default": 300},
            "api_port": {"type": "int", "default": 8008},
            **TLS_OPTIONS,
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
