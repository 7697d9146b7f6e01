#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: pgbackrest_info
short_description: Tell what a pgBackRest repository holds, and whether that is good enough
version_added: 0.1.0
author:
  - The Muster authors (@muster-platform)
description:
  - Reads the backups and the WAL archive of a stanza, the room on the repository's disk and the
    state of pgBackRest's server, and returns the recovery status of the repository host.
  - Changes nothing. A figure that cannot be known is null; a repository that cannot be read is a
    reason in RV(recovery_status), not a failure.
options:
  directory:
    description:
      - The repository's directory, whose room is measured. Of one that does not exist yet, the
        nearest parent that does is measured.
      - Not needed on a host that has no repository of its own.
    type: path
  host:
    description: This host's name, for the sentences in RV(recovery_status).
    type: str
    default: this host
  region:
    description: This host's region, repeated in RV(recovery_status).
    type: str
    default: ""
  min_free_mb:
    description: Room in MB that the disk must have at least to be healthy.
    type: int
    default: 0
  max_age_hours:
    description: Hours after which the newest backup is too old to be healthy.
    type: float
    default: 26
  unit:
    description: systemd unit of pgBackRest's server.
    type: str
    default: pgbackrest.service
extends_documentation_fragment:
  - muster.platform.pgbackrest
  - muster.platform.info
attributes:
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Read what is backed up
  muster.platform.pgbackrest_info:
    stanza: muster
    directory: /var/lib/pgbackrest
    host: "{{ inventory_hostname }}"
    max_age_hours: 26
  become: true
  register: repository
"""

RETURN = r"""
recovery_status:
  description: The keys that every store reports, and C(size_bytes).
  returned: always
  type: dict
  contains:
    store: {description: "Always V(backup_repository).", type: str}
    region: {description: The host's region., type: str}
    role:
      description: V(primary) while the server runs, as each repository is written on its own, else V(stopped)
      type: str
    healthy: {description: Whether there are no reasons against it., type: bool}
    reasons: {description: Why it is not healthy., type: list, elements: str}
    ready: {description: Null; it has no standby that could take over., type: bool}
    position: {description: The newest archived WAL segment., type: str}
    timeline: {description: That segment's timeline., type: int}
    lag_bytes: {description: Not known from here., type: int}
    lag_seconds: {description: Not known from here., type: float}
    last_backup_at: {description: End of the newest good backup., type: str}
    last_restore_proof_at: {description: When a restore was last proven., type: str}
    size_bytes: {description: Bytes that all backups take in the repository., type: int}
    versions: {description: Of pgBackRest., type: dict}
backups:
  description: Every backup, oldest first.
  returned: always
  type: list
  elements: dict
  contains:
    label: {description: Its name., type: str}
    type: {description: "V(full), V(diff) or V(incr).", type: str}
    repository: {description: "Number of the repository, as this host counts them.", type: int}
    started_at: {description: When it began., type: str}
    stopped_at: {description: When it ended; the earliest point in time to restore to from it., type: str}
    size_bytes: {description: Size of the database., type: int}
    read_bytes: {description: What was read of it., type: int}
    repository_size_bytes: {description: What a restore reads; null when that is not known., type: int}
    repository_delta_bytes: {description: What it added to the repository., type: int}
    error: {description: Whether data pages had wrong checksums., type: bool}
    lsn_start: {description: WAL position at its start., type: str}
    lsn_stop: {description: WAL position at its end., type: str}
    wal_start: {description: First WAL segment that it needs., type: str}
    wal_stop: {description: Last WAL segment that it needs., type: str}
    references: {description: Backups that it builds on., type: list, elements: str}
archives:
  description: The WAL archives, each C(id), C(repository), and its first (C(min)) and last (C(max)) segment.
  returned: always
  type: list
  elements: dict
stanza_exists:
  description: Whether the stanza has been created; null when the repository cannot be read.
  returned: always
  type: bool
message:
  description: pgBackRest's own word on the stanza.
  returned: always
  type: str
disk:
  description: C(free_mb) and C(total_mb) of the repository's file system; null without O(directory).
  returned: always
  type: dict
version:
  description: Of the installed pgBackRest; null when there is none.
  returned: always
  type: str
"""

import subprocess
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._pgbackrest import (
    OPTIONS,
    PgBackRest,
    Repository,
    as_dict,
    free_mb,
)


def active(unit: str) -> bool | None:
    """Whether systemd runs the unit; None where there is no systemd to ask."""
    try:
        result = subprocess.run(  # pylint: disable=ansible-bad-function
            ["systemctl", "is-active", unit], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() == "active"


def disk_of(directory: str | None) -> dict[str, int] | None:
    if directory is None:
        return None
    free, total = free_mb(directory)
    return {"free_mb": free, "total_mb": total}


def reasons_for(
    params: dict[str, Any], found: Repository | None, disk: dict[str, int] | None, now: float
) -> list[str]:
    """Why the repository is not good enough."""
    host, reasons = params["host"], []
    if disk and disk["free_mb"] < params["min_free_mb"]:
        free, least = disk["free_mb"], params["min_free_mb"]
        reasons.append(f"{params['directory']} on {host} has {free} MB free, less than {least} MB")
    if found is None:
        return reasons
    if not found.exists:
        return [*reasons, f"the stanza {params['stanza']} does not exist on {host}"]
    reasons += [f"{problem} on {host}" for problem in found.problems]
    if found.newest is None:
        return [*reasons, f"{host} has no backup yet"]
    age = (now - found.newest.stop) / 3600
    if age > params["max_age_hours"]:
        reasons.append(
            f"the newest backup on {host} is {age:.1f} h old, more than the {params['max_age_hours']:g} h"
            " that its timers allow"
        )
    return reasons


def newest_wal(found: Repository | None) -> str | None:
    names = [archive["max"] for archive in found.archives if archive["max"]] if found else []
    return max(names, default=None)


def run(params: dict[str, Any]) -> dict[str, Any]:
    """Read, and put together what the module returns."""
    program = PgBackRest(params["stanza"], params["user"], params["config"])
    numbers = program.version()
    version = ".".join(map(str, numbers)) if numbers else None
    disk, serves = disk_of(params["directory"]), active(params["unit"])
    found: Repository | None = None
    unreadable: list[str] = []
    try:
        found = program.info()
    except MusterError as error:
        unreadable.append(f"{params['host']}: {error}")
    reasons = unreadable + reasons_for(params, found, disk, time.time())
    if serves is False:
        reasons.append(f"{params['unit']} on {params['host']} does not run")
    wal = newest_wal(found)
    status = {
        "store": "backup_repository",
        "region": params["region"],
        "role": {True: "primary", False: "stopped", None: "unknown"}[serves],
        "healthy": not reasons,
        "reasons": reasons,
        "ready": None,
        "position": wal,
        "timeline": int(wal[:8], 16) if wal else None,
        "lag_bytes": None,
        "lag_seconds": None,
        "last_backup_at": found.newest.stopped_at if found and found.newest else None,
        "last_restore_proof_at": None,
        "size_bytes": sum(backup.repository_delta or 0 for backup in found.backups) if found else None,
        "versions": {"pgbackrest": version},
    }
    return {
        "recovery_status": status,
        "backups": [as_dict(backup) for backup in found.backups] if found else [],
        "archives": found.archives if found else [],
        "stanza_exists": found.exists if found else None,
        "message": found.message if found else unreadable[0],
        "disk": disk,
        "version": version,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "directory": {"type": "path"},
            "host": {"type": "str", "default": "this host"},
            "region": {"type": "str", "default": ""},
            "min_free_mb": {"type": "int", "default": 0},
            "max_age_hours": {"type": "float", "default": 26},
            "unit": {"type": "str", "default": "pgbackrest.service"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(changed=False, **run(module.params))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
