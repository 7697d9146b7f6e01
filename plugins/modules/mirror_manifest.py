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
from ansible_collections.muster.platform.plugins.module_utils._files import file_hash, write_file

MANIFEST = "manifest.sha256"
ABOUT = "mirror.json"


def listed(directory: Path) -> list[Path]:
    """Every file but the manifest, and what begins with a dot: an interrupted run has left that half-way."""
    return sorted(
        path
        for path in directory.rglob("*")
        if path.is_file()
        and path != directory / MANIFEST
        and not any(part.startswith(".") for part in path.relative_to(directory).parts)
    )


def written(path: Path, text: str, check: bool) -> bool:
    """Have a file say something; whether it said, or did not say, anything else."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    if not check:
        write_file(path, text, 0o644)
    return True


def run(directory: Path, about: dict[str, Any], check: bool) -> dict[str, Any]:
    changed = written(directory / ABOUT, json.dumps(about, indent=2, sort_keys=True) + "\n", check)
    files = listed(directory)
    lines = [f"{file_hash(path)}  {path.relative_to(directory)}" for path in files]
    changed = written(directory / MANIFEST, "\n".join([*lines, ""]), check) or changed
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
