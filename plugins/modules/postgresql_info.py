#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_info
short_description: Tell a PostgreSQL host's recovery status, and which region is primary
version_added: 0.1.0
description:
  - Asks Patroni on every PostgreSQL host of every region, in parallel, and returns what this host's
    recovery status is. The stores hold the truth about which region is primary; this reads it.
  - A figure that cannot be known is null.
options:
  regions:
    description: The PostgreSQL hosts of each region, by region name.
    type: dict
    required: true
  host:
    description: The host to report on, as it is named in O(regions).
    type: str
    required: true
  stanza:
    description: pgBackRest's stanza; given, RV(recovery_status.last_backup_at) is read from the repositories.
    type: str
  repositories:
    description: The repository hosts, in the order in which pgBackRest on this host numbers them.
    type: list
    elements: str
    default: []
  s3_repository:
    description: The repository in S3, as C(number), C(host) and C(port) of its endpoint; empty for none.
    type: dict
    default: {}
  backup_user:
    description: Operating system user that runs pgBackRest.
    type: str
    default: postgres
  restore_proof:
    description: File in which the last restore that proved a backup is noted on this host.
    type: path
  fence_marker:
    description: File that a fence leaves on this host. Where it is there, the role is V(fenced).
    type: path
extends_documentation_fragment:
  - muster.platform.patroni
  - muster.platform.tls
  - muster.platform.info
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Read the recovery status
  muster.platform.postgresql_info:
    regions:
      north: [north-1, north-2]
      south: [south-1, south-2]
    host: "{{ inventory_hostname }}"
    ca_certificate: /etc/muster/postgresql/ca.crt
    certificate: /etc/muster/postgresql/server.crt
    private_key: /etc/muster/postgresql/server.key
  register: info
"""

RETURN = r"""
recovery_status:
  description: The keys that every store reports.
  returned: always
  type: dict
  contains:
    store: {description: "Always V(postgresql).", type: str}
    region: {description: The host's region., type: str}
    role: {description: "V(primary), V(standby), V(fenced), V(stopped) or V(unknown).", type: str}
    healthy: {description: Whether there are no reasons against it., type: bool}
    reasons: {description: Why it is not healthy., type: list, elements: str}
    ready: {description: Whether a standby could take over now; null for what is none., type: bool}
    position: {description: "End of WAL as an LSN: written on a primary, replayed on a standby.", type: str}
    timeline: {description: PostgreSQL's timeline., type: int}
    lag_bytes: {description: WAL of the primary that is not replayed here., type: int}
    lag_seconds: {description: Age of the newest replayed commit while something is outstanding., type: float}
    last_backup_at: {description: End of the newest good backup in any repository., type: str}
    last_restore_proof_at: {description: When a restore was last proven., type: str}
    versions: {description: Of PostgreSQL and Patroni., type: dict}
primary_region:
  description: The region whose member takes writes now; null when none or more than one does.
  returned: always
  type: str
regions:
  description: What was read of each region.
  returned: always
  type: dict
  contains:
    declared_standby: {description: Whether its configuration makes it a standby; null if unknown, type: bool}
    leader: {description: The host that leads the region., type: str}
    initialized: {description: Whether it has a configuration., type: bool}
    members: {description: "Role, state, timeline, position and error of each host.", type: dict}
"""

import dataclasses
import json
import os
import pwd
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._patroni import (
    TLS_OPTIONS,
    Region,
    Survey,
    Tls,
    format_lsn,
)
from ansible_collections.muster.platform.plugins.module_utils._recovery import primaries, recovery_status

REPOSITORY_PORT = 8432  # pgBackRest's own


def newest_backup(document: Any) -> str | None:
    """The end of the newest backup without an error, in UTC, from `pgbackrest info --output=json`."""
    stops = [
        backup["timestamp"]["stop"]
        for stanza in document
        for backup in stanza.get("backup", [])
        if not backup.get("error")
    ]
    if not stops:
        return None
    return datetime.fromtimestamp(max(stops), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def complaints(document: Any) -> list[str]:
    """Why a repository could not be read, by the same document; that it is empty is no such reason."""
    return [
        repository["status"]["message"]
        for found in document
        for repository in found.get("repo", [])
        if repository["status"]["code"] not in (0, 1, 2, 3)
    ]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a repository is, as this host numbers it."""

    number: int
    host: str
    port: int
    name: str


def places(params: dict[str, Any]) -> list[Place]:
    """The repository hosts, and S3."""
    found = [
        Place(number, host, REPOSITORY_PORT, f"the backup repository on {host}")
        for number, host in enumerate(params["repositories"], 1)
    ]
    if params["s3_repository"]:
        number, host, port = (params["s3_repository"][key] for key in ("number", "host", "port"))
        found.append(Place(int(number), host, int(port), f"the backup repository in S3 at {host}:{port}"))
    return found


def read_repository(stanza: str, user: str, place: Place) -> tuple[str | None, str | None]:
    """The newest backup's time in one repository, or why it is not known.

    A host that is gone is found out in a second; pgBackRest would take its time.

    One repository a call: over several, pgBackRest 2.55 asks only the first for its cipher.
    """
    try:
        socket.create_connection((place.host, place.port), 1.0).close()
    except OSError as error:
        return None, f"{place.name} could not be read: {error.strerror or error}"
    command = [
        "pgbackrest",
        f"--stanza={stanza}",
        f"--repo={place.number}",
        "--output=json",
        "--log-level-console=off",
    ]
    try:
        account = pwd.getpwnam(user)
        result = subprocess.run(  # pylint: disable=ansible-bad-function
            [*command, "info"],
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=os.getgrouplist(user, account.pw_gid),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
            check=True,
            cwd="/",
        )
        document = json.loads(result.stdout)
        bad = complaints(document)
        at = newest_backup(document)
    except (OSError, LookupError, TypeError, ValueError, subprocess.SubprocessError) as error:
        return None, f"{place.name} could not be read: {error}"
    if bad:
        return None, f"{place.name} could not be read: {bad[0].splitlines()[0]}"
    return at, None if at else f"{place.name} holds no backup yet"


def read_backups(params: dict[str, Any]) -> tuple[str | None, list[str]]:
    """The newest backup's time in any repository, and what is wrong with each."""
    stanza, user, asked = params["stanza"], params["backup_user"], places(params)
    with ThreadPoolExecutor(max_workers=max(1, len(asked))) as pool:
        found = list(pool.map(lambda place: read_repository(stanza, user, place), asked))
    times = [at for at, _reason in found if at]
    return max(times, default=None), [reason for _at, reason in found if reason]


def describe(region: Region) -> dict[str, Any]:
    """One region as plain data."""
    members = {}
    for host, member in region.members.items():
        data = dataclasses.asdict(member)
        data["position"] = format_lsn(data.pop("lsn"))
        data["received"] = format_lsn(data.pop("received"))
        members[host] = data
    return {
        "declared_standby": region.declared_standby,
        "initialized": region.config is not None,
        "leader": region.leader.host if region.leader else None,
        "members": members,
    }


def read_fence(marker: str | None) -> list[str]:
    """That this host is fenced, and since when; an empty list when it is not."""
    if not marker or not os.path.exists(marker):
        return []
    try:
        with open(marker, encoding="utf-8") as stream:
            note = json.load(stream)
        since = f" since {note['fenced_at']} ({note.get('operation') or 'by hand'})"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        since = ""
    return [f"fenced{since}; dr_reprotect brings it back"]


def read_proof(path: str | None) -> str | None:
    """When a restore proved a backup last; None when that is not known."""
    try:
        with open(path or "", encoding="utf-8") as stream:
            return str(json.load(stream)["proven_at"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def run(params: dict[str, Any]) -> dict[str, Any]:
    """Read, and put together what the module returns."""
    home = next((name for name, hosts in params["regions"].items() if params["host"] in hosts), None)
    if home is None:
        raise MusterError(f"{params['host']} is not among the PostgreSQL hosts of any region")
    regions = Survey(params["regions"], Tls.from_params(params), params["api_port"]).all()
    status = recovery_status(regions[home].members[params["host"]], regions)
    if params["stanza"]:
        status["last_backup_at"], reasons = read_backups(params)
        status["reasons"] += reasons
        status["healthy"] = not status["reasons"]
    fenced = read_fence(params["fence_marker"])
    if fenced:
        status |= {"role": "fenced", "healthy": False, "reasons": [*fenced, *status["reasons"]]}
    status["last_restore_proof_at"] = read_proof(params["restore_proof"])
    found = primaries(regions)
    return {
        "recovery_status": status,
        "primary_region": found[0].region if len(found) == 1 else None,
        "regions": {name: describe(region) for name, region in regions.items()},
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "regions": {"type": "dict", "required": True},
            "host": {"type": "str", "required": True},
            "api_port": {"type": "int", "default": 8008},
            **TLS_OPTIONS,
            "stanza": {"type": "str"},
            "repositories": {"type": "list", "elements": "str", "default": []},
            "s3_repository": {"type": "dict", "default": {}},
            "backup_user": {"type": "str", "default": "postgres"},
            "fence_marker": {"type": "path"},
            "restore_proof": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(changed=False, **run(module.params))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
