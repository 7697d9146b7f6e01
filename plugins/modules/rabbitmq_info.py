#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: rabbitmq_info
short_description: Tell a RabbitMQ host's recovery status, and which region is primary
version_added: 0.1.0
description:
  - Asks the cluster of every region, in parallel, for the role that it holds of itself, and looks at this
    host.
  - A figure that cannot be known is null.
options:
  host:
    description: The host to report on, as it is named in O(regions).
    type: str
    required: true
  watched_files:
    description: Files that a running node has read when it started.
    type: list
    elements: path
    default: []
  fence_marker:
    description: File that a fence leaves on this host. Where it is there, the role is V(fenced).
    type: path
  backup_directory:
    description: Where this region's backups are; when given, their age is part of RV(recovery_status).
    type: path
  backlogs:
    description: Queues, as C(vhost) and C(name), whose depth in the primary region is read for RV(backlog).
    type: list
    elements: dict
    default: []
extends_documentation_fragment:
  - muster.platform.rabbitmq
  - muster.platform.info
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Read the recovery status
  muster.platform.rabbitmq_info:
    regions:
      north: [north-1, north-2, north-3]
      south: [south-1, south-2, south-3]
    host: "{{ inventory_hostname }}"
    operator_password: "{{ rabbitmq_operator_password }}"
    ca_certificate: /etc/muster/rabbitmq/ca.crt
  register: info
"""

RETURN = r"""
recovery_status:
  description: The keys that every store reports.
  returned: always
  type: dict
  contains:
    store: {description: "Always V(rabbitmq).", type: str}
    region: {description: The host's region., type: str}
    role: {description: "V(primary), V(standby), V(fenced), V(stopped) or V(unknown).", type: str}
    healthy: {description: Whether there are no reasons against it., type: bool}
    reasons: {description: Why it is not healthy., type: list, elements: str}
    ready: {description: Whether a standby could take over now; null for what is none., type: bool}
    position:
      description:
        - The messages in the region's queues, as the management API counted them some seconds ago. Messages
          have no common position; this one tells that there is something, and about how much.
      type: str
    timeline: {description: The region's epoch. It grows with each region that is opened., type: int}
    lag_bytes: {description: Null; RabbitMQ tells messages., type: int}
    lag_seconds: {description: Null; the canary measures it., type: float}
    last_backup_at: {description: When this region's newest backup on this host was taken., type: str}
    last_restore_proof_at: {description: When a restore was last proven on this host., type: str}
    versions: {description: Of RabbitMQ and Erlang., type: dict}
    shared: {description: "Always true: every node of the primary region takes writes.", type: bool}
    lag_measure: {description: "Always V(lag_messages), which holds the lag.", type: str}
    lag_messages: {description: RV(backlog)., type: int}
primary_region:
  description: The region that takes writes by the newest epoch; null when none or more than one does.
  returned: always
  type: str
backlog:
  description:
    - Messages that wait in the primary region to be pulled by the other, as the queues count them now. Up to
      the link's prefetch more are on their way. Null when it could not be read.
  returned: always
  type: int
regions:
  description: What was read of each region.
  returned: always
  type: dict
  contains:
    role: {description: What its cluster says it is; null when it has no role or does not answer., type: str}
    epoch: {description: Its epoch., type: int}
    moving_to: {description: The region that a handover under way moves to., type: str}
    leader: {description: The first host that runs., type: str}
    members: {description: Whether each host runs., type: dict}
    error: {description: Why nothing is known., type: str}
restart_reasons:
  description: Why the running node is not what the files on the host describe.
  returned: always
  type: list
  elements: str
masked:
  description: Whether the host is kept from running.
  returned: always
  type: bool
running:
  description: Whether the node on this host runs.
  returned: always
  type: bool
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq import (
    OPTIONS,
    Region,
    primary_region,
    regions_from,
)
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq_node import (
    Local,
    local_state,
    nodes,
    read_file,
)


def look(region: Region) -> dict[str, Any]:
    """One region as plain data."""
    found: dict[str, Any] = dict.fromkeys(("role", "epoch", "leader", "error", "position"))
    found |= {
        "moving_to": "",
        "members": dict.fromkeys(region.hosts),
        "versions": {},
        "parsed": None,
    }
    try:
        role = region.role()
        members = nodes(region)
        overview = region.request("GET", "/api/overview") or {}
    except MusterError as error:
        return found | {"error": str(error), "parsed": error}
    total = (overview.get("queue_totals") or {}).get("messages")
    found["position"] = None if total is None else f"{total} messages"
    found["versions"] = {
        "rabbitmq": overview.get("rabbitmq_version"), "erlang": overview.get("erlang_version"),
    }  # fmt: skip
    found["members"] = {host: members.get(host, False) for host in region.hosts}
    found["leader"] = next((host for host in region.hosts if members.get(host)), None)
    if role is not None:
        found |= {"role": role.role, "epoch": role.epoch, "moving_to": role.moving_to, "parsed": role}
    return found


def links(region: Region) -> list[str]:
    """Why what pulls from the other region does not run; that it runs is no proof that anything arrives."""
    declared = region.request("GET", "/api/parameters") or []
    mine = [
        p
        for p in declared
        if p["name"].startswith("muster.") and p["component"] in ("shovel", "federation-upstream")
    ]
    if not mine:
        return ["nothing pulls from the other region"]
    found = []
    shovels = {(s["vhost"], s["name"]): s for s in region.request("GET", "/api/shovels") or []}
    for item in mine:
        if item["component"] == "shovel":
            state = shovels.get((item["vhost"], item["name"]), {}).get("state", "missing")
            if state != "running":
                found.append(f"the shovel {item['name']} of vhost {item['vhost']} is {state}")
    if any(item["component"] == "federation-upstream" for item in mine):
        states = region.request("GET", "/api/federation-links") or []
        found += [
            f"the federation of {s.get('exchange')} of vhost {s.get('vhost')} is {s.get('status')}"
            for s in states
            if s.get("status") != "running"
        ]
        if not states:
            found.append("no federation link runs")
    return found


def backlog(region: Region | None, wanted: list[dict[str, str]]) -> int | None:
    """What waits in the primary region; None when it cannot be read."""
    if region is None or not wanted:
        return None
    try:
        depths = region.depths([(queue["vhost"], queue["name"]) for queue in wanted])
    except MusterError:
        return None
    return sum(ready for ready, _consumers in depths.values())


def fenced(marker: str | None) -> list[str]:
    """That this host is fenced, and since when; an empty list when it is not."""
    if not marker or not Path(marker).exists():
        return []
    try:
        note = json.loads(read_file(marker))
        since = f" since {note['fenced_at']} ({note.get('operation') or 'by hand'})"
    except (ValueError, KeyError, TypeError, AttributeError):
        since = ""
    return [f"fenced{since}; dr_reprotect brings it back"]


def noted(directory: str | None, pattern: str, key: str) -> str | None:
    """The newest moment in the notes of a directory; None when there is none."""
    moments = []
    for path in Path(directory or "/nowhere").glob(pattern):
        try:
            moments.append(str(json.loads(read_file(str(path)))[key]))
        except (ValueError, KeyError, TypeError):
            continue
    return max(moments, default=None)


def member_reasons(host: str, local: Local, own: dict[str, Any], mine: bool | None) -> list[str]:
    if not local.running:
        return [f"RabbitMQ on {host} does not run ({local.active})"]
    found = []
    if own["error"]:
        found.append(own["error"])
    elif not mine:
        found.append(f"{host} is not a running member of its region's cluster")
    found += [
        f"{name} does not run" for name, runs in own["members"].items() if runs is False and name != host
    ]
    if local.restart_reasons:
        found.append("a restart is due: " + "; ".join(local.restart_reasons))
    return found


def own_role(home: str, local: Local, regions: dict[str, dict[str, Any]]) -> tuple[str, list[str]]:
    """What this host's region is, and what speaks against that."""
    own = regions[home]
    if not local.running:
        return "stopped", []
    if own["role"] is None:
        return "unknown", [] if own["error"] else [f"region {home} has no role yet"]
    if own["moving_to"]:
        return own["role"], [f"its move to region {own['moving_to']} is not finished: run it again"]
    newer = [name for name, other in regions.items() if (other["epoch"] or 0) > own["epoch"]]
    if own["role"] == "primary" and newer:
        return "fenced", [
            f"region {newer[0]} is primary since; dr_reprotect brings this one back as its standby"
        ]
    return own["role"], []


def recovery_status(
    params: dict[str, Any],
    home: str,
    local: Local,
    regions: dict[str, dict[str, Any]],
    standby: list[str] | None,
) -> dict[str, Any]:
    own = regions[home]
    role, reasons = own_role(home, local, regions)
    reasons = [*member_reasons(params["host"], local, own, own["members"].get(params["host"])), *reasons]
    marked = fenced(params["fence_marker"])
    role = "fenced" if marked else role
    ready = None
    if role == "standby":
        reasons += standby or []
        ready = standby == [] and own["leader"] is not None
    last = noted(params["backup_directory"], "*.backup.json", "taken_at")
    if params["backup_directory"] and last is None and role == "primary":
        reasons.append("there is no backup yet")
    return {
        "store": "rabbitmq",
        "region": home,
        "role": role,
        "healthy": not (marked or reasons),
        "reasons": [*marked, *reasons],
        "ready": ready,
        "position": own["position"],
        "timeline": own["epoch"],
        "lag_bytes": None,
        "lag_seconds": None,
        "last_backup_at": last,
        "last_restore_proof_at": noted(params["backup_directory"], "restore-proof.json", "proven_at"),
        "versions": own["versions"],
    }


def run(params: dict[str, Any]) -> dict[str, Any]:
    """Look, and put together what the module returns."""
    home = next((name for name, hosts in params["regions"].items() if params["host"] in hosts), None)
    if home is None:
        raise MusterError(f"{params['host']} is not among the RabbitMQ hosts of any region")
    clusters = regions_from(params, timeout=3.0)
    # What this host's own node says comes first.
    clusters[home].connected_to = params["host"]
    with ThreadPoolExecutor(max_workers=len(clusters)) as pool:
        found = dict(zip(clusters, pool.map(look, clusters.values()), strict=True))
    local = local_state(params["watched_files"])
    standby = None
    if found[home]["role"] == "standby":
        try:
            standby = links(clusters[home])
        except MusterError as error:
            standby = [str(error)]
    primary = primary_region({name: region.pop("parsed") for name, region in found.items()})
    waiting = backlog(clusters[primary] if primary else None, params["backlogs"])
    return {
        # Each node of a region takes writes; and what waits to be copied is counted in messages.
        "recovery_status": {
            **recovery_status(params, home, local, found, standby),
            "shared": True,
            "lag_measure": "lag_messages",
            "lag_messages": waiting,
        },
        "primary_region": primary,
        "backlog": waiting,
        "regions": found,
        "restart_reasons": list(local.restart_reasons),
        "masked": local.masked,
        "running": local.running,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "host": {"type": "str", "required": True},
            "watched_files": {"type": "list", "elements": "path", "default": []},
            "fence_marker": {"type": "path"},
            "backup_directory": {"type": "path"},
            "backlogs": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(changed=False, **run(module.params))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
