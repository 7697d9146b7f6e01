#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: patroni_restart
short_description: Restart this host's PostgreSQL where a setting or an upgrade needs it
version_added: 0.1.0
description:
  - Restarts PostgreSQL through Patroni when Patroni says that a setting waits for it, or when the
    installed program is newer than the one that runs. Does nothing otherwise.
  - "Behind a gate: it refuses while another member of the region is not healthy. For a newer program
    the primary is first moved to a healthy replica of its region."
  - "Run it under C(throttle: 1): replicas, then the primary, then the replicas again. A standby may not have
    less than its primary of what replay needs (C(max_connections) and others), so that it takes up a lowered
    value only after its primary has."
options:
  regions:
    description: The PostgreSQL hosts of each region, by region name.
    type: dict
    required: true
  host:
    description: This host, as it is named in O(regions).
    type: str
    required: true
  roles:
    description: Act only when the host has one of these roles now.
    type: list
    elements: str
    choices: [primary, standby_leader, replica]
    default: [primary, standby_leader, replica]
  after_primary:
    description:
      - Whether the primary has been restarted. A standby for which nothing waits but lowered settings of
        those that replay needs is restarted only then.
    type: bool
    default: false
  settle:
    description: Seconds to give Patroni to notice a changed configuration before deciding.
    type: float
    default: 0
  bin_directory:
    description: Directory of the installed PostgreSQL programs.
    type: path
    required: true
  timeout:
    description: Seconds a restart may take.
    type: int
    default: 300
extends_documentation_fragment:
  - muster.platform.patroni
  - muster.platform.tls
attributes:
  check_mode:
    description: Says whether it would restart.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Restart the replicas that need it, one at a time
  muster.platform.patroni_restart:
    regions: {north: [north-1, north-2]}
    host: "{{ inventory_hostname }}"
    roles: [replica, standby_leader]
    bin_directory: /usr/lib/postgresql/17/bin
    ca_certificate: /etc/muster/postgresql/ca.crt
    certificate: /etc/muster/postgresql/server.crt
    private_key: /etc/muster/postgresql/server.key
  throttle: 1
"""

RETURN = r"""
reason:
  description: Why it was restarted; null when it was not.
  returned: always
  type: str
"""

import re
import subprocess
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._patroni import (
    TLS_OPTIONS,
    Member,
    Region,
    Survey,
    Tls,
)
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

# What PostgreSQL does not let a standby have less of than its primary.
NOT_LESS_THAN_PRIMARY = frozenset(
    {
        "max_connections",
        "max_locks_per_transaction",
        "max_prepared_transactions",
        "max_wal_senders",
        "max_worker_processes",
    }
)
# How long a restarted Patroni of before 4.0, which gives no reasons, is heard until its word is taken.
UNTOLD = 10.0


def installed_version(bin_directory: str) -> int | None:
    """The installed server's version as PostgreSQL numbers it (17.11 is 170011)."""
    try:
        text = subprocess.run(  # pylint: disable=ansible-bad-function
            [f"{bin_directory}/postgres", "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"\s(\d+)\.(\d+)", text)
    return int(found[1]) * 10000 + int(found[2]) if found else None


def waits_for_primary(member: Member) -> bool:
    """Whether nothing waits for a restart but what Patroni will not lower before the primary has.

    Patroni then starts the standby with the old value again and goes on saying that it waits.
    """
    reasons = member.pending_reasons
    if member.writable or not reasons:
        return False
    try:
        return all(
            name in NOT_LESS_THAN_PRIMARY and int(values["new_value"]) < int(values["old_value"])
            for name, values in reasons.items()
        )
    except (KeyError, TypeError, ValueError):
        return False


def reason_to_restart(member: Member, installed: int | None, last: bool = False) -> str | None:
    if member.pending_restart and (last or not waits_for_primary(member)):
        return "a setting waits for a restart"
    if installed and member.server_version and installed > member.server_version:
        return f"the installed PostgreSQL {installed} is newer than the running {member.server_version}"
    return None


def healthy(member: Member) -> bool:
    return member.writable or (
        member.role in ("replica", "standby_leader") and member.replication_state == "streaming"
    )


def gate(region: Region, host: str) -> None:
    """Refuse while another member of the region is not well."""
    for member in region.members.values():
        if member.host != host and not healthy(member):
            raise MusterError(
                f"refused to restart {host}: {member.host} is not healthy ({member.error or member.state})"
            )


class Restart:
    """The steps of one host's restart."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.host: str = params["host"]
        self.timeout: int = params["timeout"]
        self.last: bool = params["after_primary"]
        home = [name for name, hosts in params["regions"].items() if self.host in hosts]
        if not home:
            raise MusterError(f"{self.host} is not among the PostgreSQL hosts of any region")
        self.home = home[0]
        hosts = {self.home: params["regions"][self.home]}
        self.survey = Survey(hosts, Tls.from_params(params), params["api_port"])

    def me(self) -> Member:
        return self.survey.member(self.home, self.host)

    def decide(self, params: dict[str, Any]) -> tuple[Member, str | None]:
        """What the host is, and why it needs a restart (waiting for Patroni to notice a change)."""
        installed = installed_version(params["bin_directory"])
        deadline = time.monotonic() + params["settle"]
        while True:
            member = self.me()
            reason = reason_to_restart(member, installed, self.last)
            if reason or time.monotonic() >= deadline:
                return member, reason
            time.sleep(0.3)

    def step_down(self) -> None:
        """Move the primary role to a healthy replica of the region."""
        region = self.survey.region(self.home)
        candidates = [m for m in region.members.values() if m.host != self.host and healthy(m)]
        if not candidates:
            raise MusterError(f"refused to restart {self.host}: no healthy replica to switch to")
        best = max(candidates, key=lambda m: (m.sync_standby, m.lsn or 0))
        body = {"leader": self.host, "candidate": best.host}
        self.survey.clients[self.host].post("/switchover", body, self.timeout)
        wait_until(
            lambda: healthy(self.me()) and self.me().role == "replica",
            f"{self.host} to follow {best.host}",
            self.timeout,
        )

    def restart(self) -> None:
        before = self.me()
        self.survey.clients[self.host].post("/restart", {}, self.timeout)

        asked = time.monotonic()

        def back() -> bool:
            now = self.me()
            if not healthy(now):
                return False
            untold = not now.writable and now.pending_reasons is None and time.monotonic() - asked > UNTOLD
            # The last time round everything must have been taken up.
            return not now.pending_restart or (not self.last and (waits_for_primary(now) or untold))

        wait_until(back, f"{before.role} {self.host} to serve again after its restart", self.timeout)


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Decide, pass the gate, restart."""
    task = Restart(params)
    member, reason = task.decide(params)
    if member.error:
        raise MusterError(member.error)
    if member.role not in params["roles"] or reason is None:
        return {"changed": False, "reason": None}
    if not check_mode:
        gate(task.survey.region(task.home), task.host)
        if member.role == "primary" and not member.pending_restart:
            task.step_down()
        task.restart()
    return {"changed": True, "reason": reason}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "regions": {"type": "dict", "required": True},
            "host": {"type": "str", "required": True},
            "roles": {
                "type": "list",
                "elements": "str",
                "choices": ["primary", "standby_leader", "replica"],
                "default": ["primary", "standby_leader", "replica"],
            },
            "after_primary": {"type": "bool", "default": False},
            "settle": {"type": "float", "default": 0},
            "bin_directory": {"type": "path", "required": True},
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
