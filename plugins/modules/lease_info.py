#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: lease_info
short_description: Tell which region holds the lease to write, and what the witness decided last
version_added: 0.1.0
description:
  - Runs on the witness as root, and asks the lease's daemon there.
  - Waits for what is asked for; without O(agents) and O(failover_after) it tells how things stand now.
options:
  agents:
    description:
      - Hosts whose agents must be heard. What each said last still counts, it could tell whether its region
        is a standby, and it lets its host run.
    type: list
    elements: str
    default: []
  failover_after:
    description:
      - A moment in UTC, by the witness's clock, such as V(2026-11-21T10:00:00.000000Z). A failover must have
        passed the lease after it, and have ended well.
    type: str
  timeout:
    description: Seconds to wait for O(agents) and O(failover_after).
    type: float
    default: 30
  socket:
    description: The daemon's socket.
    type: path
    default: /run/muster-lease/control.sock
extends_documentation_fragment:
  - muster.platform.info
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Look at the lease
  become: true
  muster.platform.lease_info:
  register: lease

- name: Wait until the witness hears these hosts again
  become: true
  muster.platform.lease_info:
    agents: [north-1, north-2]

- name: Is the other region fenced by its lease?
  ansible.builtin.assert:
    that: lease.proof.proven
    fail_msg: "{{ lease.proof.detail }}"
"""

RETURN = r"""
term:
  description: Number of the lease. Every change of who holds it makes it higher.
  returned: success
  type: int
holder:
  description: The region that holds the lease. Null when nobody does, and in a planned move.
  returned: success
  type: str
holders:
  description: The regions that hold the lease; two during a planned move.
  returned: success
  type: list
  elements: str
since:
  description: When this term began, by the witness's clock, UTC.
  returned: success
  type: str
expires_in_seconds:
  description: For how long the holder's lease lasts when no host renews it any more; null without one holder.
  returned: success
  type: float
expired_at:
  description: When the holder's lease ended, UTC. Null while it lasts.
  returned: success
  type: str
regions:
  description: The PostgreSQL hosts of each region.
  returned: success
  type: dict
fresh_seconds:
  description: For how long what a host said counts.
  returned: success
  type: float
armed:
  description:
    - The hosts whose agents fence them when they have no word. Nothing is decided without all of a region's.
  returned: success
  type: list
  elements: str
agents:
  description:
    - What each host said last, C(seconds_ago), with C(role), C(writable), C(standby), C(covers), C(claimed),
      C(term), C(armed), C(entitled) and C(down).
  returned: success
  type: dict
candidate:
  description: The C(region) that is asked to claim the next C(term). Null while nothing is decided.
  returned: success
  type: dict
passed:
  description:
    - The last time that the lease was passed in a failover, with C(from), C(to), C(by), C(at), C(expired),
      C(expired_at) and C(finished).
  returned: success
  type: dict
proof:
  description: The fence that the lease is. What M(muster.platform.postgresql_promote) takes as a fence.
  returned: success
  type: dict
  contains:
    proven:
      description: Whether the other region's lease has ended, and its hosts are known to fence themselves.
      type: bool
    provider: {description: Always V(lease)., type: str}
    region: {description: The region that is fenced., type: str}
    proven_at: {description: "When this was true, UTC; null when it is not.", type: str}
    detail: {description: Why., type: str}
    term: {description: The term., type: int}
decision:
  description: What the witness thought last, C(at), C(verdict), C(reason). Null before the first look.
  returned: success
  type: dict
running:
  description: Whether a failover of the witness's own is under way.
  returned: success
  type: bool
reasons:
  description: Why the lease is not fit to decide anything; empty when it is.
  returned: success
  type: list
  elements: str
"""

from datetime import datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils import _lease
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._ledger import read_time
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until


def unheard(found: dict[str, Any], host: str) -> str:
    """Why a host does not count as heard; an empty text when it does."""
    said = _lease.heard(found, [host]).get(host)
    if said is None:
        return f"{host} is not heard"
    if said.get("down"):
        return f"{host} keeps PostgreSQL down"
    return f"{host} does not know whether its region is a standby" if said.get("standby") is None else ""


def failed_over(found: dict[str, Any], after: datetime) -> bool:
    """Whether a failover passed the lease after that moment, and has ended well."""
    passed = found["passed"]
    if not passed or read_time(passed["at"], "the time of the last failover") <= after:
        raise MusterError("the lease has not been passed since")
    if not passed["finished"] or found["running"]:
        raise MusterError(f"the failover to {passed['to']} has not ended")
    return True


def look(params: dict[str, Any], after: datetime | None) -> dict[str, Any]:
    """What the daemon tells, once it is what is waited for."""
    found = _lease.ask(params["socket"], {"state": "info"})
    missing = [reason for host in params["agents"] if (reason := unheard(found, host))]
    if missing:
        raise MusterError("; ".join(missing))
    if after:
        failed_over(found, after)
    return found


def run(params: dict[str, Any]) -> dict[str, Any]:
    after = read_time(params["failover_after"], "failover_after") if params["failover_after"] else None
    what = [f"the agents of {', '.join(params['agents'])}"] if params["agents"] else []
    what += [f"a failover after {params['failover_after']}"] if after else []
    if not what:
        return look(params, None)
    return wait_until(lambda: look(params, after), " and ".join(what), params["timeout"], 0.5)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "agents": {"type": "list", "elements": "str", "default": []},
            "failover_after": {"type": "str"},
            "timeout": {"type": "float", "default": 30},
            "socket": {"type": "path", "default": _lease.SOCKET},
        },
        supports_check_mode=True,
    )
    try:
        found = run(module.params)
    except MusterError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**found)


if __name__ == "__main__":
    main()
