#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_promote
short_description: Make a region's copy of PostgreSQL primary when the other region is fenced
version_added: 0.1.0
description:
  - "The unplanned move. It loses what the standby had not received: gates that weigh that come before it
    (see M(muster.platform.dr_gates)). This module itself refuses without a fresh proof of the fence, and
    while anybody outside the target region answers as a primary."
  - When it was interrupted, run it again, and it finishes.
  - Run it on the host that leads the target region; on any other it works too, but cannot help a Patroni that
    is stuck asking dead hosts.
options:
  host:
    description: This host, as it is named in O(regions).
    type: str
    required: true
  fence:
    description:
      - The proof that the other region takes no writes, as C(proven), C(region), C(provider) and C(proven_at)
        (UTC). Older than five minutes, it is refused.
    type: dict
    required: true
  timeout:
    description: Seconds until the region must take writes.
    type: float
    default: 30
extends_documentation_fragment:
  - muster.platform.patroni
  - muster.platform.patroni.unit
  - muster.platform.postgresql
  - muster.platform.postgresql.move
  - muster.platform.tls
attributes:
  check_mode:
    description: Refuses as the real run would, and changes nothing.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Make south primary, because north is gone
  muster.platform.postgresql_promote:
    regions: {north: [north-1, north-2], south: [south-1, south-2]}
    target: south
    host: "{{ inventory_hostname }}"
    fence: {proven: true, region: north, provider: power, proven_at: "2026-11-21T10:00:00Z"}
    etcd_endpoints: {north: ["https://north-1:2379"], south: ["https://south-1:2379"]}
    holder: ann
    operator_password: "{{ postgresql_operator_password }}"
    ca_certificate: /etc/muster/postgresql/ca.crt
    certificate: /etc/muster/postgresql/server.crt
    private_key: /etc/muster/postgresql/server.key
"""

RETURN = r"""
situation:
  description: V(start), or V(resume) when the region was opened by an earlier run.
  returned: always
  type: str
timeline_before:
  description: Timeline of the copy that was promoted.
  returned: when this run promoted
  type: int
fork_position:
  description: The LSN that the copy had replayed just before. The fork is there, or a little later.
  returned: when this run promoted
  type: str
timeline_after:
  description: Timeline of the new primary.
  returned: outside check mode
  type: int
position_after:
  description: The new primary's end of WAL as an LSN.
  returned: outside check mode
  type: str
patroni_replaced:
  description: Whether Patroni's process had to be replaced, because it was stuck.
  returned: outside check mode
  type: bool
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
from ansible_collections.muster.platform.plugins.module_utils._failover import Promotion
from ansible_collections.muster.platform.plugins.module_utils._handover import EtcdDcs, LockLost
from ansible_collections.muster.platform.plugins.module_utils._systemd import systemctl


def fenced_region(params: dict[str, Any]) -> str:
    """The region that is gone, when the rest of what was given fits."""
    found = _move.other_region(params, "a failover")
    if params["host"] not in [host for hosts in params["regions"].values() for host in hosts]:
        raise MusterError(f"{params['host']} is not among the PostgreSQL hosts of any region")
    if params["target"] not in params["etcd_endpoints"]:
        raise MusterError(f"etcd_endpoints must name region {params['target']}")
    return found


def replace_process(unit: str) -> None:
    """End Patroni's process alone and start a new one: PostgreSQL runs on, and is found again."""
    systemctl("kill", "--kill-who=main", "--signal=SIGKILL", unit, check=False)
    systemctl("start", unit)


def prepare(params: dict[str, Any]) -> tuple[Promotion, EtcdDcs]:
    source, target = fenced_region(params), params["target"]
    # The fenced region's hosts are most likely dead: they get little time.
    survey, dcs, sql = _move.talk_to(params, [target], timeout=1.0)
    promotion = Promotion(
        survey=survey,
        sql=sql,
        dcs=dcs,
        source=source,
        target=target,
        host=params["host"],
        fence=params["fence"],
        timeout=params["timeout"],
        replace_patroni=lambda: replace_process(params["unit"]),
    )
    return promotion, dcs


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    promotion, dcs = prepare(params)
    if check_mode:
        return {**promotion.run(check=True), "muster_phases": promotion.phases.done}
    with _move.locked(dcs, params["holder"]) as locks:
        promotion.still_held = locks[promotion.target].assert_held
        try:
            result = promotion.run()
        except LockLost as error:
            raise MusterError(
                f"{error}; nothing was changed after that: run the same command again"
            ) from error
    return {**result, "muster_phases": promotion.phases.done}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_move.OPTIONS,
            "host": {"type": "str", "required": True},
            "fence": {"type": "dict", "required": True},
            "unit": {"type": "str", "default": "patroni.service"},
            "timeout": {"type": "float", "default": 30},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
