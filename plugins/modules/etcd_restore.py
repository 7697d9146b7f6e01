#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_restore
short_description: Restore a snapshot of etcd, into a directory of its own or as a member's data
version_added: 0.1.0
description:
  - The steps of a restore, each of which refuses before its first change when it cannot be done.
  - etcdctl checks the SHA-256 that the snapshot carries before it restores it.
options:
  state:
    description:
      - V(checked) finds and reads the snapshot, and changes nothing.
      - V(isolated) restores it into O(directory), starts an etcd on it that only this host can reach, reads
        its keys, stops it, and records the proof in O(backup_directory).
      - V(prepared) restores it beside O(data_directory), as this member's part of a new cluster. The running
        member is not touched.
      - V(switched) moves the present data aside and what V(prepared) made into its place, and starts etcd
        without waiting. etcd must be stopped on all members of the region.
    type: str
    choices: [checked, isolated, prepared, switched]
    required: true
  snapshot:
    description: Path of the snapshot on this host, or V(latest) for the newest in O(backup_directory).
    type: str
    default: latest
  backup_directory:
    description: Where this host's snapshots and their proofs are.
    type: path
    default: /var/backups/muster/etcd
  directory:
    description: Where O(state=isolated) restores to; it must be missing or empty, and is left afterwards.
    type: path
  expected_keys:
    description: Keys that the restored copy must hold.
    type: list
    elements: str
    default: []
  token:
    description:
      - Token of the restored cluster. It must be a new one, the same on all members, so that members of the
        old cluster and the restored one cannot mix.
    type: str
  user:
    description: The operating system user that etcd runs as.
    type: str
    default: etcd
extends_documentation_fragment:
  - muster.platform.etcd
attributes:
  check_mode:
    description: Refuses what it would refuse, and changes nothing.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Prove that the newest snapshot can be restored
  muster.platform.etcd_restore:
    state: isolated
    directory: /var/lib/etcd/restored
    name: north-1
    members:
      north-1: {client_url: "https://north-1:2379", peer_url: "https://north-1:2380"}
"""

RETURN = r"""
snapshot:
  description: Path of the snapshot.
  returned: when O(state) is not V(switched)
  type: str
hash:
  description: The hash of its content, as C(etcdctl snapshot status) gives it.
  returned: when O(state) is not V(switched)
  type: str
revision:
  description: The revision that it ends at.
  returned: when O(state) is not V(switched)
  type: int
token:
  description: A new token to give to all members.
  returned: when O(state=checked)
  type: str
proof:
  description: What was read back from the restored copy.
  returned: when O(state=isolated), not in check mode
  type: dict
  contains:
    proven_at: {description: When., type: str}
    snapshot: {description: Path of the snapshot., type: str}
    hash: {description: Its hash., type: str}
    revision: {description: The revision that the copy served., type: int}
    live_keys: {description: How many keys the copy served., type: int}
    directory: {description: Where the copy is., type: str}
    seconds: {description: How long the restore and the reading took., type: float}
moved_data:
  description: Where the data went that was in place before.
  returned: when O(state=switched), not in check mode
  type: str
"""

import json
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._etcd_cluster import (
    SERVICE,
    declared_members,
    initial_file,
    service_state,
)
from ansible_collections.muster.platform.plugins.module_utils._etcd_restore import (
    Isolated,
    give,
    now,
    restore,
    snapshot_tool,
)
from ansible_collections.muster.platform.plugins.module_utils._files import write_file
from ansible_collections.muster.platform.plugins.module_utils._systemd import systemctl

RESTORE_PROOF = "last_restore_proof.json"


def find_snapshot(name: str, directory: Path) -> Path:
    """The snapshot's path; MusterError when there is none."""
    if name != "latest":
        path = Path(name)
        if not path.is_file():
            raise MusterError(f"the snapshot {path} does not exist on this host: nothing was changed")
        return path
    # Only what was proven when it was taken counts as a backup.
    found = sorted(
        proof.with_suffix("")
        for proof in directory.glob("*.snapshot.json")
        if proof.with_suffix("").is_file()
    )
    if not found:
        raise MusterError(f"there is no backup in {directory} on this host: nothing was changed")
    return found[-1]


def check(params: dict[str, Any]) -> dict[str, Any]:
    """Find the snapshot and read what it holds."""
    path = find_snapshot(params["snapshot"], Path(params["backup_directory"]))
    try:
        status = json.loads(snapshot_tool("status", str(path), "--write-out=json"))
        revision, content = int(status["revision"]), f"{int(status['hash']):08x}"
    except MusterError as error:
        raise MusterError(f"the snapshot {path} cannot be read, nothing was changed: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise MusterError(f"the snapshot {path} cannot be read, nothing was changed") from error
    return {"snapshot": str(path), "hash": content, "revision": revision}


def isolated(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Restore into a directory of its own and prove that the copy serves its keys."""
    if not params["directory"]:
        raise MusterError("directory is needed to restore into: nothing was changed")
    directory = Path(params["directory"])
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise MusterError(f"{directory} is not empty: nothing was changed")
    found = check(params)
    if check_mode:
        return {"changed": True, **found}
    started = time.monotonic()
    copy = Isolated(params)
    directory.parent.mkdir(parents=True, exist_ok=True)
    if directory.exists():
        directory.rmdir()
    restore(found["snapshot"], directory, "restored", {"restored": copy.peer_url}, f"isolated-{now()}")
    give(directory, params["user"])
    revision, keys, lacking = copy.read_back()
    if revision < found["revision"]:
        raise MusterError(f"the restored copy is at revision {revision}, the snapshot at {found['revision']}")
    if lacking:
        raise MusterError(f"the restored copy lacks the key {', '.join(lacking)}")
    proof = {
        "proven_at": now(),
        **found,
        "revision": revision,
        "live_keys": keys,
        "directory": str(directory),
        "seconds": round(time.monotonic() - started, 3),
    }
    target = Path(params["backup_directory"]) / RESTORE_PROOF
    if target.parent.is_dir():
        write_file(target, json.dumps(proof, indent=2) + "\n", 0o600)
    return {"changed": True, "proof": proof, **found}


def prepared(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Restore beside the data directory; the running member is not touched."""
    if not params["token"]:
        raise MusterError("token is needed, a new one: nothing was changed")
    declared = declared_members(params["members"])
    if params["name"] not in declared:
        raise MusterError(f"{params['name']} is not among the members: {', '.join(declared)}")
    found = check(params)
    if not check_mode:
        target = Path(params["data_directory"] + ".restored")
        shutil.rmtree(target, ignore_errors=True)
        members = {name: member.peer_url for name, member in declared.items()}
        restore(found["snapshot"], target, params["name"], members, params["token"])
        give(target, params["user"])
    return {"changed": True, **found}


def switched(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Put the prepared data in place of the present, which is kept, and start etcd."""
    data, restored = Path(params["data_directory"]), Path(params["data_directory"] + ".restored")
    if check_mode:
        return {"changed": True}
    if not (restored / "member" / "wal").is_dir():
        raise MusterError(f"nothing was prepared in {restored}: nothing was changed")
    if service_state().get("ActiveState") not in ("inactive", "failed"):
        raise MusterError("etcd must be stopped before its data is replaced: nothing was changed")
    moved = Path(f"{data}.{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    try:
        if data.exists():
            data.rename(moved)
        restored.rename(data)
        initial_file(str(data)).unlink(missing_ok=True)
    except OSError as error:
        raise MusterError(f"{restored} could not take the place of {data}: {error}") from error
    systemctl("reset-failed", SERVICE)
    systemctl("--no-block", "start", SERVICE)
    return {"changed": True, "moved_data": str(moved)}


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    if params["state"] == "checked":
        return {"changed": False, "token": f"restored-{now()}", **check(params)}
    steps = {"isolated": isolated, "prepared": prepared, "switched": switched}
    return steps[params["state"]](params, check_mode)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {
                "type": "str",
                "choices": ["checked", "isolated", "prepared", "switched"],
                "required": True,
            },
            "snapshot": {"type": "str", "default": "latest"},
            "backup_directory": {"type": "path", "default": "/var/backups/muster/etcd"},
            "directory": {"type": "path"},
            "expected_keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "name": {"type": "str", "required": True},
            "members": {"type": "dict", "required": True},
            "token": {"type": "str", "no_log": False},
            "data_directory": {"type": "path", "default": "/var/lib/etcd/muster"},
            "user": {"type": "str", "default": "etcd"},
            "ca_certificate": {"type": "path", "default": "/etc/etcd/tls/ca.crt"},
            "certificate": {"type": "path", "default": "/etc/etcd/tls/member.crt"},
            "private_key": {"type": "path", "default": "/etc/etcd/tls/member.key"},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module.params, module.check_mode)
    except MusterError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
