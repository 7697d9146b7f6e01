#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle
short_description: Bring this collection, and files of the controller, to a host that shall run playbooks
version_added: 0.1.0
description:
  - The controller packs the collection, as it runs there, and O(files) into one archive. The host unpacks it
    beside what is there and then makes C(current) in O(directory) lead to it, so that a playbook never finds
    half of it.
  - Nothing is sent when the host has the same files already.
  - Everything belongs to root and is readable for nobody else.
  - What was unpacked before stays until the time after, because a playbook may still run from it.
options:
  directory:
    description: Directory on the host. Made when it is missing.
    type: path
    required: true
  files:
    description: Files and directories of the controller.
    type: list
    elements: dict
    default: []
    suboptions:
      src:
        description: Path on the controller, of a file or a directory.
        type: path
        required: true
      dest:
        description: Where it goes, relative to C(current). Without C(..).
        type: str
        required: true
  inventories:
    description:
      - Inventory sources of the controller, as files or directories. A file goes with the C(group_vars) and
        C(host_vars) beside it.
    type: list
    elements: path
    default: []
  sha256:
    description: Hash of the archive. Set by the action.
    type: str
  archive:
    description: The archive on the host. Set by the action.
    type: path
attributes:
  action:
    description: The part on the controller packs and sends.
    support: full
  check_mode:
    description: Says whether anything would be sent.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Let the witness run playbooks
  become: true
  muster.platform.bundle:
    directory: /var/lib/muster/controller
    files:
      - {src: tasks/power.yml, dest: tasks/power.yml}
    inventories: [inventories/prod]
"""

RETURN = r"""
path:
  description: Where the files are, C(current) in O(directory). The collection is below C(collections) there.
  returned: success
  type: str
inventories:
  description: Where the O(inventories) are on the host, for C(ansible-playbook -i).
  returned: success
  type: list
  elements: str
sha256:
  description: Hash of what is there.
  returned: success
  type: str
"""

import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

CURRENT = "current"


def unpacked(directory: Path) -> str | None:
    """The hash of what is there; None when nothing whole is."""
    try:
        target = os.readlink(directory / CURRENT)
    except OSError:
        return None
    return target if (directory / target).is_dir() else None


def unpack(directory: Path, archive: str, name: str) -> None:
    previous = unpacked(directory)
    fresh = directory / f"{name}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    with tarfile.open(archive) as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is None or ".." in Path(member.name).parts or os.path.isabs(member.name):
                raise MusterError(f"the archive holds {member.name}, which is no file of a bundle")
            place = fresh / member.name
            for folder in reversed(Path(member.name).parents):
                (fresh / folder).mkdir(mode=0o700, exist_ok=True)
            with open(place, "wb") as stream:
                os.fchmod(stream.fileno(), member.mode & 0o700)
                shutil.copyfileobj(content, stream)
    shutil.rmtree(directory / name, ignore_errors=True)
    fresh.rename(directory / name)
    link = directory / f"{CURRENT}.new"
    link.unlink(missing_ok=True)
    link.symlink_to(name)
    link.replace(directory / CURRENT)
    for entry in directory.iterdir():
        if len(entry.name.removesuffix(".new")) == 64 and entry.name not in (name, previous):
            shutil.rmtree(entry, ignore_errors=True)


def run(params: dict[str, Any], check: bool) -> dict[str, Any]:
    if not params["sha256"]:
        raise MusterError("what shall be there is not known: bundle runs through its action only")
    directory = Path(params["directory"])
    result = {"path": str(directory / CURRENT), "sha256": params["sha256"]}
    if unpacked(directory) == params["sha256"]:
        return {**result, "changed": False, "wanted": False}
    if check or not params["archive"]:
        return {**result, "changed": check, "wanted": not check}
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        unpack(directory, params["archive"], params["sha256"])
    except (OSError, tarfile.TarError) as error:
        raise MusterError(f"the files cannot be unpacked into {directory}: {error}") from error
    return {**result, "changed": True, "wanted": False}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "src": {"type": "path", "required": True},
                    "dest": {"type": "str", "required": True},
                },
            },
            "inventories": {"type": "list", "elements": "path", "default": []},
            "sha256": {"type": "str"},
            "archive": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
