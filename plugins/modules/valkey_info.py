#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: valkey_info
short_description: Tell a Valkey host's recovery status, and which region is primary
version_added: 0.1.0
description:
  - Asks every server and every Sentinel of both regions, in parallel, and returns what this host's recovery
    status is. The stores hold the truth about which region is primary; this reads it.
  - A figure that cannot be known is null.
options:
  backup_proof:
    description: File in which the newest backup of this host is noted.
    type: path
    default: /var/lib/muster/valkey-backup.json
  restore_proof:
    description: File in which the last restore that proved a backup is noted on this host.
    type: path
    default: /var/lib/muster/valkey-restore-proof.json
  backups:
    description: Whether this host is to have backups, so that none is a reason against it.
    type: bool
    default: false
  watching:
    description: How a Sentinel shall watch (C(down_after_ms), C(failover_timeout_ms), C(parallel_syncs)), so
      that another way is part of the plan.
    type: dict
extends_documentation_fragment:
  - muster.platform.valkey
  - muster.platform.tls
  - muster.platform.info
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Read the recovery status
  muster.platform.valkey_info:
    regions:
      north: [north-1, north-2, north-3]
      south: [south-1, south-2, south-3]
    host: "{{ inventory_hostname }}"
    operator_password: "{{ valkey_operator_password }}"
    sentinel_password: "{{ valkey_sentinel_password }}"
    ca_certificate: /etc/muster/valkey/ca.crt
    certificate: /etc/muster/valkey/server.crt
    private_key: /etc/muster/valkey/server.key
  register: info
"""

RETURN = r"""
recovery_status:
  description: The keys that every store reports.
  returned: always
  type: dict
  contains:
    store: {description: "Always V(valkey).", type: str}
    region: {description: The host's region., type: str}
    role: {description: "V(primary), V(standby), V(fenced), V(stopped) or V(unknown).", type: str}
    healthy: {description: Whether there are no reasons against it., type: bool}
    reasons: {description: Why it is not healthy., type: list, elements: str}
    ready: {description: "Whether a standby could take over now, because it streams; else null.", type: bool}
    position: {description: "Replication offset in bytes: written on a primary, received on a replica.",
      type: str}
    timeline: {description: Replication ID; a promotion makes a new one., type: str}
    lag_bytes: {description: What the primary wrote and this host did not receive., type: int}
    lag_seconds: {description: "Seconds since it last heard its upstream, while something is outstanding.",
      type: float}
    last_backup_at: {description: "When this host's newest backup was taken, UTC.", type: str}
    last_restore_proof_at: {description: When a restore was last proven., type: str}
    versions: {description: Of Valkey., type: dict}
primary_region:
  description: The region whose host takes writes now; null when none or more than one does.
  returned: always
  type: str
regions:
  description: What was read of each region.
  returned: always
  type: dict
  contains:
    leader: {description: "The primary, or the replica that follows the other region; null when there is
      none.", type: str}
    watching: {description: How many of its Sentinels watch it., type: int}
    members: {description: "Role, upstream, offset and error of each host.", type: dict}
initialized:
  description: Whether this host knows whom it follows, so that it has had a part.
  returned: always
  type: bool
plan:
  description: What the role has to do here, V(start), V(settle) or V(none).
  returned: always
  type: str
pending:
  description: The settings and files that the running server does not know yet.
  returned: always
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils import _valkey_status
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._valkey import OPTIONS, Access, Survey, Watching
from ansible_collections.muster.platform.plugins.module_utils._valkey_member import Member
from ansible_collections.muster.platform.plugins.module_utils._valkey_state import Place


def run(params: dict[str, Any]) -> dict[str, Any]:
    access, place = Access.from_params(params), Place()
    world = Survey(params["regions"], access).look()
    world.home(params["host"])
    watching = None if params["watching"] is None else Watching.from_params(params["watching"])
    member = Member(params["host"], params["regions"], access, place, "", watching, 0)
    plan, pending = member.plan(world) if not member.fenced() else ("none", [])
    primary = world.primary()
    return {
        "recovery_status": _valkey_status.recovery_status(world, params["host"], place, params),
        "primary_region": primary.region if primary else None,
        "regions": _valkey_status.describe(world),
        "initialized": place.upstream() is not None,
        "plan": plan,
        "pending": pending,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "backup_proof": {"type": "path", "default": "/var/lib/muster/valkey-backup.json"},
            "restore_proof": {"type": "path", "default": "/var/lib/muster/valkey-restore-proof.json"},
            "backups": {"type": "bool", "default": False},
            "watching": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(changed=False, **run(module.params))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
