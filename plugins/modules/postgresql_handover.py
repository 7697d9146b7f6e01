#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_handover
short_description: Move PostgreSQL's primary role to another region, losing nothing
version_added: 0.1.0
description:
  - "The planned move in one call: the source becomes a standby; when it is seen in recovery and the target
    has replayed all that the old primary holds, proven by LSN, the target opens for writes."
  - When a step before the promotion fails, the old primary is put back. When it is interrupted, run it
    again; it finishes, or rolls back. At no point may both regions take writes.
  - Holds a lock in the etcd of every region while it works, so that a second one waits or is refused. Each
    change is a transaction of that etcd which fails when the lock is not held any more.
  - Patroni's names of its members must be the hosts' names in O(regions), and its namespace C(/service).
  - Run it on a PostgreSQL host of the target region.
options:
  standby_cluster:
    description: Patroni's C(standby_cluster) that makes the source follow the target.
    type: dict
    required: true
  max_lag_bytes:
    description: Refuse while the standby is further behind than this many bytes.
    type: int
    default: 16777216
  timeouts:
    description: Deadlines in seconds (C(demote), C(catch_up), C(promote), C(rollback), C(reprotect)).
    type: dict
    default: {}
extends_documentation_fragment:
  - muster.platform.patroni
  - muster.platform.postgresql
  - muster.platform.postgresql.move
  - muster.platform.tls
attributes:
  check_mode:
    description: Assesses and refuses as the real run would, and changes nothing.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Make south the primary region
  muster.platform.postgresql_handover:
    regions: {north: [north-1, north-2], south: [south-1, south-2]}
    target: south
    standby_cluster: {host: "south-1,south-2", port: 5432}
    etcd_endpoints: {north: ["https://north-1:2379"], south: ["https://south-1:2379"]}
    holder: drill-2026-11-21
    operator_password: "{{ postgresql_operator_password }}"
    ca_certificate: /etc/muster/postgresql/ca.crt
    certificate: /etc/muster/postgresql/server.crt
    private_key: /etc/muster/postgresql/server.key
"""

RETURN = r"""
situation:
  description:
    - V(start) for a whole move, V(resume) for one that an earlier run began, V(done) when there was nothing
      to do.
  returned: always
  type: str
timeline_before:
  description: Timeline of the old primary.
  returned: when the move was begun by this run
  type: int
position_before:
  description: The old primary's end of WAL as an LSN, before it was demoted.
  returned: when the move was begun by this run
  type: str
proof_position:
  description: The LSN that the new primary had replayed when it was found to hold all of the old one's.
  returned: when something was moved
  type: str
timeline_after:
  description: Timeline of the new primary.
  returned: outside check mode
  type: int
position_after:
  description: The new primary's end of WAL as an LSN.
  returned: outside check mode
  type: str
muster_phases:
  description: What took how long.
  returned: always
  type: list
  elements: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils import _move
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._etcd import Lock
from ansible_collections.muster.platform.plugins.module_utils._handover import (
    EtcdDcs,
    Handover,
    Limits,
    LockLost,
)


def limits_from(params: dict[str, Any]) -> Limits:
    known = {"demote", "catch_up", "promote", "rollback", "reprotect"}
    unknown = sorted(set(params["timeouts"]) - known)
    if unknown:
        raise MusterError(f"timeouts: unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    values = {name: float(value) for name, value in params["timeouts"].items()}
    return Limits(max_lag_bytes=params["max_lag_bytes"], **values)


def prepare(params: dict[str, Any]) -> tuple[Handover, EtcdDcs]:
    """The move, with everything it talks to."""
    source = _move.other_region(params, "a switch")
    if not set(params["regions"]) <= set(params["etcd_endpoints"]):
        raise MusterError("etcd_endpoints must name both regions")
    survey, dcs, sql = _move.talk_to(params, params["regions"])
    handover = Handover(
        survey=survey,
        sql=sql,
        dcs=dcs,
        source=source,
        target=params["target"],
        standby_cluster=params["standby_cluster"],
        limits=limits_from(params),
    )
    return handover, dcs


def move(handover: Handover, dcs: EtcdDcs, holder: str) -> dict[str, Any]:
    """Take the locks and move; when they are lost, take them anew and go on as a rerun would."""
    lost = False
    while True:
        with _move.locked(dcs, holder) as locks:

            def still_held(locks: dict[str, Lock] = locks) -> None:
                for lock in locks.values():
                    lock.assert_held()

            handover.still_held = still_held
            try:
                result = handover.run()
                return {**result, "changed": result["changed"] or lost}
            except LockLost as error:
                if lost:
                    raise MusterError(
                        f"{error}; nothing was changed after that: run the same command again"
                    ) from error
                lost = True


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    handover, dcs = prepare(params)
    result = handover.run(check=True) if check_mode else move(handover, dcs, params["holder"])
    return {**result, "muster_phases": handover.phases.done}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_move.OPTIONS,
            "standby_cluster": {"type": "dict", "required": True},
            "max_lag_bytes": {"type": "int", "default": 16777216},
            "timeouts": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
