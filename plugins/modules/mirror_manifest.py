#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: mirror_manifest
short_description: Write down what a mirror directory holds
version_added: 0.1.0
description:
  - Writes C(mirror.json), which says what the directory is for, and C(manifest.sha256) with the SHA-256 of
    every other file, for C(sha256sum --check).
  - Nothing is written when both say it already.
options:
  directory:
    description: The directory.
    type: path
    required: true
  about:
    description: What C(mirror.json) shall say.
    type: dict
    required: true
attributes:
  check_mode:
    description: Says whether anything would be written.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Write down what is there
  muster.platform.mirror_manifest:
    directory: /srv/muster-mirror
    about: {inventory: [inventories/prod]}
"""

RETURN = r"""
files:
  description: How many files the manifest names.
  returned: success
  type: int
bytes:
  description: How large they are together.
  returned: success
  type: int
"""

import json
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._mirror import STAGING, sha256, write_changed

MANIFEST = "manifest.sha256"
ABOUT = "mirror.json"


def listed(directory: Path) -> list[Path]:
    """Every file but the manifest, and what an interrupted run has left half-way."""
    return sorted(
        path
        for path in directory.rglob("*")
        if path.is_file() and STAGING not in path.parts and path != directory / MANIFEST
    )


def run(directory: Path, about: dict[str, Any], check: bool) -> dict[str, Any]:
    text = json.dumps(about, indent=2, sort_keys=True) + "\n"
    about_file, manifest = directory / ABOUT, directory / MANIFEST
    told = about_file.is_file() and about_file.read_text(encoding="utf-8") == text
    changed = not told
    if not told and not check:
        write_changed(about_file, text)
    files = listed(directory)
    lines = [f"{sha256(path)}  {path.relative_to(directory)}" for path in files]
    wanted = "\n".join([*lines, ""])
    if not manifest.is_file() or manifest.read_text(encoding="utf-8") != wanted:
        changed = True
        if not check:
            write_changed(manifest, wanted)
    return {"changed": changed, "files": len(files), "bytes": sum(path.stat().st_size for path in files)}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "about": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(Path(module.params["directory"]), module.params["about"], module.check_mode))
    except OSError as error:
        module.fail_json(msg=f"what {module.params['directory']} holds cannot be written down: {error}")


if __name__ == "__main__":
    main()
