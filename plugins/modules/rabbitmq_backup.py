#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: rabbitmq_backup
short_description: Keep a cluster's definitions in an encrypted file, or bring them back
version_added: 0.1.0
description:
  - "V(taken) writes the region's definitions (virtual hosts, users with their passwords' hashes, permissions,
    policies, exchanges, queues, bindings, parameters) into an encrypted file of mode 0600, reads it back and
    compares it with what the cluster has. It holds no messages."
  - "V(read) decrypts one and compares it with what the cluster has now, and changes nothing. That it can be
    read is no proof that it can be restored, and is not noted as one."
  - "V(proved) restores one for real: into a node of its own, empty, with a cookie, a port and a directory of
    its own, which joins nobody and takes no AMQP. What that node has then is compared with the file, and the
    node is removed. What was found complete is noted as a proof. It needs some 200 MB of memory meanwhile."
  - "V(restored) brings back what is missing or differs, and compares. Permissions of applications, policies
    and links follow the region's role and are not taken from the file but from what is declared: run the role
    afterwards. The operator's own password stays as it is."
options:
  state:
    description: What to do.
    type: str
    choices: [taken, read, proved, restored]
    default: taken
  region:
    description: The region.
    type: str
    required: true
  directory:
    description: Where this host's backups are.
    type: path
    required: true
  name:
    description: The file's name; V(latest) is the newest.
    type: str
    default: latest
  passphrase:
    description: Encrypts the file.
    type: str
    required: true
  keep:
    description: How many backups are kept.
    type: int
    default: 14
  room:
    description: For V(proved), a directory that the user rabbitmq reaches, for one of the node's own in it.
    type: path
    default: /var/lib/rabbitmq
  timeout:
    description: For V(proved), seconds until the node must have started.
    type: float
    default: 180
extends_documentation_fragment:
  - muster.platform.rabbitmq
attributes:
  check_mode:
    description: Says that it would write.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Keep the definitions
  muster.platform.rabbitmq_backup:
    regions: {north: [north-1, north-2, north-3]}
    region: north
    directory: /var/backups/muster/rabbitmq
    passphrase: "{{ rabbitmq_backup_passphrase }}"
    operator_password: "{{ rabbitmq_operator_password }}"
    ca_certificate: /etc/muster/rabbitmq/ca.crt
"""

RETURN = r"""
proof:
  description: What was kept, read, proved or restored.
  returned: outside check mode
  type: dict
  contains:
    file: {description: Path of the file., type: str}
    taken_at: {description: When the definitions were read., type: str}
    objects: {description: "How many objects it holds, by kind.", type: dict}
    differs:
      description: What the cluster had not of it, before a restore, by kind. Not for O(state=proved).
      type: list
    checks:
      description: "For O(state=proved), what was checked: C(name), C(passed) and C(detail)."
      type: list
    seconds: {description: "For O(state=proved), how long it took.", type: float}
    proven_at: {description: "For O(state=proved), when, UTC; null when a check did not pass.", type: str}
"""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils import _rabbitmq_isolated
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._files import write_file
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq import (
    OPTIONS,
    Region,
    now,
    own_region,
)
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq_backup import (
    KINDS,
    RESTORED,
    missing,
    seal,
    unseal,
)
from ansible_collections.muster.platform.plugins.module_utils._room import room

SUFFIX = ".backup"


def take(params: dict[str, Any], region: Region) -> dict[str, Any]:
    directory = Path(params["directory"])
    taken_at = now()
    definitions = region.request("GET", "/api/definitions")
    path = directory / (datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ") + SUFFIX)
    document = json.dumps({"taken_at": taken_at, "definitions": definitions})
    write_file(path, seal(document, params["passphrase"]), 0o600)
    found, proof = read(params, region, path)
    if missing(definitions, found):
        raise MusterError(f"{path} does not hold what was read: {', '.join(missing(definitions, found))}")
    write_file(f"{path}.json", json.dumps(proof) + "\n", 0o600)
    for old in sorted(directory.glob(f"*{SUFFIX}"))[: -max(1, params["keep"])]:
        old.unlink()
        Path(f"{old}.json").unlink(missing_ok=True)
    return proof


def find(params: dict[str, Any]) -> Path:
    directory = Path(params["directory"])
    known = sorted(directory.glob(f"*{SUFFIX}"))
    if params["name"] != "latest":
        known = [path for path in known if path.name == params["name"]]
    if not known:
        raise MusterError(f"there is no backup {params['name']} in {directory}")
    return known[-1]


def opened(params: dict[str, Any], path: Path) -> dict[str, Any]:
    """What a file holds."""
    text = unseal(path.read_text(errors="replace"), params["passphrase"], str(path))
    document: dict[str, Any] = json.loads(text)
    return document


def counts(definitions: dict[str, Any]) -> dict[str, int]:
    return {kind: len(definitions.get(kind, [])) for kind in KINDS}


def read(params: dict[str, Any], region: Region, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a file holds, and what is to be said of it."""
    document = opened(params, path)
    definitions = document["definitions"]
    have = region.request("GET", "/api/definitions")
    return definitions, {
        "file": str(path),
        "taken_at": document["taken_at"],
        "objects": counts(definitions),
        "differs": missing(definitions, have),
    }


def verdict(wanted: dict[str, Any], before: list[str], left: list[str]) -> tuple[bool, str]:
    """Whether the import into an empty node is a proof, and of what."""
    held = ", ".join(f"{len(items)} {kind}" for kind, items in wanted.items())
    if left:
        return False, f"of {held} a node of its own lacks {', '.join(left)} after the restore"
    if not before:
        return False, f"an empty node has {held} without a restore, so that nothing is proven"
    return True, f"a node of its own holds {held} after the restore"


def prove(params: dict[str, Any], path: Path) -> dict[str, Any]:
    """Restore what a restore would bring back, into a node of its own, and look whether it is there."""
    began = time.monotonic()
    document = opened(params, path)
    wanted = {kind: document["definitions"].get(kind, []) for kind in RESTORED}
    with (
        room(Path(params["room"])) as directory,
        _rabbitmq_isolated.served(directory, params["timeout"]) as node,
    ):
        before = missing(wanted, node.request("GET", "/api/definitions"))
        node.request("POST", "/api/definitions", wanted)
        left = missing(wanted, node.request("GET", "/api/definitions"))
    passed, detail = verdict(wanted, before, left)
    return {
        "file": str(path),
        "taken_at": document["taken_at"],
        "objects": counts(document["definitions"]),
        "seconds": round(time.monotonic() - began, 3),
        "proven_at": now() if passed else None,
        "checks": [
            {"name": "sealed", "passed": True, "detail": "it decrypts, and nothing in it was changed"},
            {"name": "definitions", "passed": passed, "detail": detail},
        ],
    }


def note(params: dict[str, Any], proof: dict[str, Any]) -> None:
    """The status tells it from then on."""
    if proof["proven_at"]:
        write_file(Path(params["directory"]) / "restore-proof.json", json.dumps(proof) + "\n", 0o600)


def restore(params: dict[str, Any], region: Region) -> dict[str, Any]:
    definitions, proof = read(params, region, find(params))
    wanted = {kind: definitions.get(kind, []) for kind in RESTORED}
    # An earlier password of its own would lock this out before it has looked.
    wanted["users"] = [user for user in wanted["users"] if user["name"] != params["operator_user"]]
    region.request("POST", "/api/definitions", wanted)
    left = missing(wanted, region.request("GET", "/api/definitions"))
    if left:
        raise MusterError(
            f"after the restore of {proof['file']} region {region.name} still lacks {', '.join(left)}"
        )
    return proof


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    region = own_region(params)
    if params["state"] == "taken":
        return {"changed": True} if check_mode else {"changed": True, "proof": take(params, region)}
    if params["state"] == "proved" and not check_mode:
        proof = prove(params, find(params))
        note(params, proof)
        return {"changed": True, "proof": proof}
    if params["state"] == "read" or check_mode:
        _found, proof = read(params, region, find(params))
        return {"changed": params["state"] != "read", "proof": proof}
    return {"changed": True, "proof": restore(params, region)}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "state": {"type": "str", "choices": ["taken", "read", "proved", "restored"], "default": "taken"},
            "region": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "name": {"type": "str", "default": "latest"},
            "passphrase": {"type": "str", "required": True, "no_log": True},
            "keep": {"type": "int", "default": 14},
            "room": {"type": "path", "default": "/var/lib/rabbitmq"},
            "timeout": {"type": "float", "default": 180},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
