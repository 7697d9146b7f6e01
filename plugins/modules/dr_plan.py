#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: dr_plan
short_description: Identify the plan that a drill is run from
version_added: 0.1.0
description:
  - "Runs on the controller. The plan is the code and the inventory: the commit of the checkout, and a hash
    over the inventory's files, so that evidence tells which plan it proves."
options:
  repository:
    description: Directory of the checkout.
    type: path
    required: true
  inventory:
    description: The inventory sources, files or directories.
    type: list
    elements: path
    required: true
  drills:
    description: Directory of the drills' evidence, to compare the plan with that of the last one that passed.
    type: path
  scenario:
    description: The scenario whose last passed drill is looked for in O(drills).
    type: str
    default: region_loss
extends_documentation_fragment:
  - muster.platform.info
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Read what the plan is
  muster.platform.dr_plan:
    repository: "{{ playbook_dir | dirname }}"
    inventory: "{{ ansible_inventory_sources }}"
  register: dr_plan
"""

RETURN = r"""
git_sha:
  description: Commit of the checkout, with C(-dirty) when tracked files differ from it; null outside git.
  returned: always
  type: str
inventory_sha256:
  description: SHA-256 over the names and contents of the inventory's files.
  returned: always
  type: str
now:
  description: The time, UTC, ISO 8601 with microseconds.
  returned: always
  type: str
now_compact:
  description: The same as a name, such as V(20261121T101500Z).
  returned: always
  type: str
changed_since_last_pass:
  description:
    - Whether the plan differs from that of the last drill of the scenario that passed. Null when there is
      none, when O(drills) is not given, or when the checkouts have changes that no commit tells.
  returned: always
  type: bool
"""

import hashlib
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils import _chain, _drill
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError


def git_sha(repository: Path) -> str | None:
    """The commit, or None where there is no git or no commit."""
    command = ["git", "-C", str(repository)]
    try:
        sha = subprocess.run(  # pylint: disable=ansible-bad-function
            [*command, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
        dirty = subprocess.run(  # pylint: disable=ansible-bad-function
            [*command, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{sha}-dirty" if dirty else sha


def inventory_sha256(sources: list[str]) -> str:
    """A hash that any change of the inventory changes."""
    digest = hashlib.sha256()
    for source in sorted(sources):
        root = Path(source)
        # Beside a file, Ansible reads the variables of groups and hosts.
        roots = [root] if root.is_dir() else [root.parent / name for name in ("group_vars", "host_vars")]
        files = sorted(path for place in roots for path in place.rglob("*") if path.is_file())
        if not root.is_dir():
            files, root = [root, *files], root.parent
        for path in files:
            if "__pycache__" in path.parts:
                continue
            name = path.relative_to(root)
            try:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError as error:
                raise MusterError(f"the inventory's file {path} cannot be read: {error.strerror}") from error
            digest.update(f"{content}  {name}\n".encode())
    return digest.hexdigest()


def run(params: dict[str, Any]) -> dict[str, Any]:
    now = datetime.now(UTC)
    plan = {
        "git_sha": git_sha(Path(params["repository"])),
        "inventory_sha256": inventory_sha256(params["inventory"]),
    }
    passed = _chain.last_pass(Path(params["drills"]), params["scenario"]) if params["drills"] else None
    return {
        "changed": False,
        **plan,
        "changed_since_last_pass": _drill.plan_changed(plan, passed),
        "now": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "now_compact": now.strftime("%Y%m%dT%H%M%SZ"),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "repository": {"type": "path", "required": True},
            "inventory": {"type": "list", "elements": "path", "required": True},
            "drills": {"type": "path"},
            "scenario": {"type": "str", "default": "region_loss"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
