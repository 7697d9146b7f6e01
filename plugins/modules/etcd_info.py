#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_info
short_description: Tell the state of an etcd member and its cluster, and what it needs next
version_added: 0.1.0
description:
  - Looks at the member on this host and asks all members of its region, in parallel, with this host's
    own certificate.
  - A figure that cannot be known is null.
options:
  region:
    description: The region that RV(recovery_status) names.
    type: str
    default: ""
  quota_bytes:
    description: The database's quota; more than 80% of it is a reason not to be healthy. 0 is unlimited.
    type: int
    default: 0
  backup_directory:
    description: Where this host's snapshots are; when given, their age is part of RV(recovery_status).
    type: path
  backup_max_age:
    description: Seconds after which the newest backup is too old.
    type: int
    default: 93600
  warn_unlisted:
    description: Warn of members that the cluster has and O(members) has not.
    type: bool
    default: false
extends_documentation_fragment:
  - muster.platform.etcd
  - muster.platform.etcd.settings
  - muster.platform.info
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Read the member's state
  muster.platform.etcd_info:
    name: north-1
    region: north
    members:
      north-1: {client_url: "https://north-1:2379", peer_url: "https://north-1:2380"}
      north-2: {client_url: "https://north-2:2379", peer_url: "https://north-2:2380"}
      north-3: {client_url: "https://north-3:2379", peer_url: "https://north-3:2380"}
  register: etcd
"""

RETURN = r"""
plan:
  description:
    - What the member needs. V(none); V(bootstrap) when nothing here and no working cluster was found;
      V(start) to start or to become healthy; V(join) to be added; V(replace) to be added again because its
      data is gone; V(promote) to get its vote; V(restart) because it runs with other settings than its
      files hold; V(refuse) when the hosts belong to different clusters.
  returned: always
  type: str
fresh:
  description: Whether this host is not known to have ever been part of a working cluster.
  returned: always
  type: bool
restart_reasons:
  description: Why the running process is not what the files on the host describe.
  returned: always
  type: list
  elements: str
quorum:
  description: Whether a majority of the voting members is healthy.
  returned: always
  type: bool
leader:
  description: Name of the leading member; null when there is none.
  returned: always
  type: str
members:
  description: The members of the cluster, with id, name, peer_url, is_learner, healthy and error.
  returned: always
  type: list
  elements: dict
unlisted:
  description: Names (or peer URLs) of members that the cluster has and O(members) has not.
  returned: always
  type: list
  elements: str
missing:
  description: Names in O(members) that the cluster does not have.
  returned: always
  type: list
  elements: str
recovery_status:
  description: The keys that every store reports.
  returned: always
  type: dict
  contains:
    store: {description: "Always V(etcd).", type: str}
    region: {description: The value of O(region)., type: str}
    role:
      description: "V(primary): each region's cluster serves that region. V(stopped) or V(unknown) otherwise."
      type: str
    healthy: {description: Whether there are no reasons against it., type: bool}
    reasons: {description: Why it is not healthy., type: list, elements: str}
    ready: {description: Null; it has no standby that could take over., type: bool}
    position: {description: The revision that this member has., type: str}
    timeline: {description: Null; etcd has none., type: int}
    lag_bytes: {description: Null; the regions' clusters do not follow each other., type: int}
    lag_seconds: {description: Null; the regions' clusters do not follow each other., type: float}
    last_backup_at: {description: When the newest proven snapshot of this host was taken., type: str}
    last_restore_proof_at: {description: When a restore was last proven on this host., type: str}
    versions: {description: Version of etcd., type: dict}
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._etcd import Status
from ansible_collections.muster.platform.plugins.module_utils._etcd_cluster import (
    OPTIONS,
    Declared,
    Local,
    Seen,
    Survey,
    client_of,
    declared_members,
    local_state,
    patient_survey,
    plan,
)

RESTORE_PROOF = "last_restore_proof.json"


def proof_time(path: Path, key: str) -> str | None:
    """A moment out of a proof file; None when it is missing or not readable as one."""
    try:
        value = json.loads(path.read_text())[key]
        datetime.fromisoformat(value)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value


def newest_backup(directory: Path) -> str | None:
    """When the newest snapshot that still has its file was taken."""
    moments = [
        proof_time(proof, "taken_at")
        for proof in directory.glob("*.snapshot.json")
        if proof.with_suffix("").exists()
    ]
    return max((moment for moment in moments if moment), default=None)


def backup_reasons(last: str | None, max_age: int, now: datetime) -> list[str]:
    if last is None:
        return ["there is no backup yet"]
    age = (now - datetime.fromisoformat(last)).total_seconds()
    return [f"the last backup is {age / 3600:.0f} h old"] if age > max_age else []


def member_reasons(me: Declared, local: Local, mine: Seen | None, seen: Survey) -> list[str]:
    """What is wrong with this host's own member."""
    reasons = []
    if not local.running:
        reasons.append(f"etcd on {me.name} does not run ({local.active})")
    elif seen.answers and mine is None:
        reasons.append(f"{me.name} is not a member of its region's cluster")
    elif mine is not None and mine.error:
        reasons.append(mine.error)
    elif mine is not None and mine.is_learner:
        reasons.append(f"{me.name} has no vote yet")
    elif not seen.answers:
        reasons.append(seen.silence)
    if local.restart_reasons:
        reasons.append("a restart is due: " + "; ".join(local.restart_reasons))
    return reasons


def cluster_reasons(mine: Seen | None, seen: Survey, declared: dict[str, Declared]) -> list[str]:
    """What is wrong with the cluster, beside this host's own member."""
    if not seen.answers:
        return []
    reasons = [seen.split()] if seen.split() else []
    if not seen.has_quorum():
        reasons.append("the cluster has no quorum")
    reasons += [member.error for member in seen.members if member.error and member is not mine]
    reasons += [f"{name} is listed and not a member" for name in seen.missing(declared)]
    reasons += [f"{member.label} is a member and not listed" for member in seen.unlisted(declared)]
    reasons += [f"the alarm {alarm} is raised" for alarm in seen.alarms]
    return reasons


def quota_reasons(status: Status | None, quota: int) -> list[str]:
    if status is None or not status.db_size or not quota or status.db_size <= 0.8 * quota:
        return []
    return [f"the database has {status.db_size / quota:.0%} of its quota of {quota} bytes"]


def recovery_status(
    params: dict[str, Any], local: Local, seen: Survey, declared: dict[str, Declared], now: datetime
) -> dict[str, Any]:
    """The design's recovery_status of one etcd host."""
    me = declared[params["name"]]
    mine = seen.find(me)
    status = mine.status if mine and mine.status and not mine.status.error else None
    reasons = member_reasons(me, local, mine, seen) + cluster_reasons(mine, seen, declared)
    reasons += quota_reasons(status, params["quota_bytes"])
    last_backup = last_proof = None
    if params["backup_directory"]:
        directory = Path(params["backup_directory"])
        last_backup = newest_backup(directory)
        last_proof = proof_time(directory / RESTORE_PROOF, "proven_at")
        reasons += backup_reasons(last_backup, params["backup_max_age"], now)
    role = "primary" if mine and mine.healthy and seen.has_quorum() else "unknown"
    return {
        "store": "etcd",
        "region": params["region"],
        "role": role if local.running else "stopped",
        "healthy": not reasons,
        "reasons": reasons,
        "ready": None,
        "position": str(status.revision) if status else None,
        "timeline": None,
        "lag_bytes": None,
        "lag_seconds": None,
        "last_backup_at": last_backup,
        "last_restore_proof_at": last_proof,
        "versions": {"etcd": status.version if status else None},
    }


def describe(member: Seen) -> dict[str, Any]:
    return {
        "id": member.id,
        "name": member.name,
        "peer_url": member.peer_url,
        "is_learner": member.is_learner,
        "healthy": member.healthy,
        "error": member.error,
    }


def run(params: dict[str, Any]) -> dict[str, Any]:
    """Look, and put together what the module returns."""
    declared = declared_members(params["members"])
    if params["name"] not in declared:
        raise MusterError(f"{params['name']} is not among the members: {', '.join(declared)}")
    me = declared[params["name"]]
    client = client_of(params)
    seen = patient_survey(client, me.client_url) if client else Survey()
    local = local_state(params)
    leaders = [m.name for m in seen.members if m.status is not None and m.status.is_leader]
    return {
        "plan": plan(me, local, seen),
        "fresh": local.fresh,
        "restart_reasons": list(local.restart_reasons),
        "quorum": seen.has_quorum(),
        "leader": leaders[0] if len(leaders) == 1 else None,
        "members": [describe(member) for member in seen.members],
        "unlisted": [member.label for member in seen.unlisted(declared)],
        "missing": seen.missing(declared) if seen.answers else [],
        "recovery_status": recovery_status(params, local, seen, declared, datetime.now(UTC)),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "region": {"type": "str", "default": ""},
            "quota_bytes": {"type": "int", "default": 0},
            "backup_directory": {"type": "path"},
            "backup_max_age": {"type": "int", "default": 93600},
            "warn_unlisted": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module.params)
    except MusterError as error:
        module.fail_json(msg=str(error))
    if module.params["warn_unlisted"] and result["unlisted"]:
        module.warn(
            f"members of the cluster that the inventory does not list: {', '.join(result['unlisted'])}"
        )
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
