#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: object_storage_rejoin
short_description: Bring a fenced side of the object store back as a standby, after saving what only it has
version_added: 0.1.0
description:
  - Starts the storage server alone, without a gateway, and compares it with the primary region. What the
    primary lacks, or holds differently, is written to O(save_directory) with a list, and only then removed.
  - Then the region follows the primary, and what it lacks is sent until a comparison finds nothing missing.
  - An object that the new primary removed after the failover counts as one that only this side had. It is
    saved too.
  - When it was interrupted, run it again. What an earlier run has saved stays in the list.
options:
  save_directory:
    description: Where the objects are kept, in a folder named after the moment of the fence.
    type: path
    default: /var/lib/muster/diverged
  canary_bucket:
    description: The bucket that the canary writes to, whose numbers are told of what was saved.
    type: str
    default: muster-canary
  timeout:
    description: Seconds that the storage server may take to start, and the copying to be complete, each.
    type: float
    default: 3600
extends_documentation_fragment:
  - muster.platform.object_storage
attributes:
  check_mode:
    description: Refuses as the real run would, and changes nothing.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Bring it back
  muster.platform.object_storage_rejoin:
"""

RETURN = r"""
saved:
  description: What only this side had.
  returned: outside check mode
  type: dict
  contains:
    directory: {description: "Where it is; null when there was nothing.", type: str}
    objects: {description: How many files were saved., type: int}
    bytes: {description: How much that is., type: int}
    list: {description: "File with a JSON object a line: path, bytes and sha256.", type: str}
    canary: {description: "The canary's numbers among them, as ranges such as V(1-5,7).", type: str}
compared:
  description: How many files of the primary were found to be here too.
  returned: outside check mode
  type: int
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._files import write_file
from ansible_collections.muster.platform.plugins.module_utils._object_fence import (
    KEEPER,
    SERVER,
    object_fence,
)
from ansible_collections.muster.platform.plugins.module_utils._object_storage import (
    OPTIONS,
    OWN,
    STATE,
    Region,
    Stores,
    missing,
    other_region,
)
from ansible_collections.muster.platform.plugins.module_utils._ranges import to_ranges
from ansible_collections.muster.platform.plugins.module_utils._survivors_stores import OBJECTS
from ansible_collections.muster.platform.plugins.module_utils._systemd import systemctl
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

EVERYTHING = 10_000_000  # entries of a directory


def primary_of(stores: Stores) -> Region:
    name = other_region(stores, "bringing a region back")
    found = stores.ask(name)
    if found.role != "primary" or not found.open:
        raise MusterError(f"refused: region {name} is not primary and open ({found.trouble or found.role})")
    return found


class Rejoin:
    def __init__(self, stores: Stores, params: dict[str, Any]) -> None:
        self.stores = stores
        self.params = params
        self.fence = object_fence(stores.given)
        self.primary = primary_of(stores)
        note = self.fence.marked()
        if note is None:
            raise MusterError(
                f"refused: {stores.host} is not fenced, so it may take writes while it is looked at"
            )
        stamp = re.sub(r"[^0-9TZ]", "", note.get("fenced_at", "unknown").split(".")[0])
        self.folders: list[str] = []  # that only this side has
        self.directory = Path(params["save_directory"]) / f"object_storage-{stamp or 'unknown'}"

    def serve_alone(self) -> None:
        """The storage server without what would open a gateway."""
        systemctl("unmask", SERVER)
        systemctl("start", SERVER)

        def answers() -> bool:
            self.stores.get(self.stores.host, STATE)
            return True

        wait_until(answers, "the storage server to answer", self.params["timeout"], 0.5)

    def only_here(self) -> list[str]:
        found = self.stores.compare(self.stores.host, self.primary.host, timeout=self.params["timeout"])
        folders = set(found["directories"])
        paths = set(found["missing"] + found["different"]) - folders
        # A directory is removed with all that is in it. So all of it is looked for here: the comparison does
        # not go into one that is a file on the other side, and goes on when it cannot list one.
        self.folders = [path for path in folders if path.rpartition("/")[0] not in folders]
        for folder in self.folders:
            paths |= set(self.stores.files(self.stores.host, folder, most=EVERYTHING))
        return sorted(path for path in paths if not path.startswith(OWN))

    def save(self, paths: list[str]) -> dict[str, Any]:
        """Keep the files, with a list."""
        listed = self.directory / "objects.jsonl"
        # What an earlier run has saved may have been removed from the store since.
        lines = listed.read_text(encoding="utf-8").splitlines() if listed.exists() else []
        saved = {line["path"]: line for line in map(json.loads, lines)}
        for path in paths:
            body = self.stores.get(self.stores.host, path)
            if body is None:
                continue
            # What was an application's secret stays one: nobody but root gets into this directory.
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            kept = self.directory / "objects" / path.removeprefix("/buckets/")
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(body)
            saved[path] = {"path": path, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        if not saved:
            return {"directory": None, "objects": 0, "bytes": 0, "list": None, "canary": ""}
        write_file(listed, "".join(json.dumps(line) + "\n" for line in saved.values()), 0o600)
        os.sync()
        size = sum(line["bytes"] for line in saved.values())
        found = {"directory": str(self.directory), "objects": len(saved), "bytes": size, "list": str(listed)}
        return {**found, "canary": to_ranges(sorted(self.canary(saved)))}

    def canary(self, paths: Iterable[str]) -> set[int]:
        """The canary's numbers among the objects."""
        folder = f"/buckets/{self.params['canary_bucket']}/{OBJECTS}"
        names = (path.removeprefix(folder) for path in paths if path.startswith(folder))
        return {int(name) for name in names if name.isdecimal()}

    def forget(self, paths: list[str]) -> None:
        """Remove it here. All versions of an object go, so that the copy brings one story, not two mixed."""
        roots = {re.sub(r"(\.versions)/.*$", r"\1", path) for path in [*paths, *self.folders]}
        for root in sorted(roots):
            self.stores.remove(self.stores.host, root)

    def follow(self) -> None:
        state = {
            "role": "standby",
            "primary": self.primary.name,
            "epoch": self.primary.epoch,
            "move": None,
            "by": "reprotect",
            "region": self.stores.region,
        }
        self.stores.put(self.stores.host, STATE, json.dumps(state).encode())
        self.fence.take_down()
        systemctl("start", KEEPER)

        def copies() -> bool:
            found = self.stores.ask(self.stores.region)
            if not found.known:
                raise MusterError(found.trouble)
            return bool(found.told["copying"])

        wait_until(copies, "the copying to start", self.params["timeout"], 0.3)

    def complete(self) -> int:
        """Have all that is missing sent, until nothing is."""
        limit = self.params["timeout"]
        found = self.stores.compare(self.primary.host, self.stores.host, action="repair", timeout=limit)
        if missing(found):
            left = f"{missing(found)} entries of {self.primary.name}"
            raise MusterError(f"{left} have not arrived in {limit:g} s; run it again")
        return int(found["files"])

    def run(self) -> dict[str, Any]:
        self.serve_alone()
        paths = self.only_here()
        saved = self.save(paths)
        self.forget(paths)
        self.follow()
        return {"changed": True, "saved": saved, "compared": self.complete()}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "save_directory": {"type": "path", "default": "/var/lib/muster/diverged"},
            "canary_bucket": {"type": "str", "default": "muster-canary"},
            "timeout": {"type": "float", "default": 3600},
        },
        supports_check_mode=True,
    )
    try:
        work = Rejoin(Stores.load(module.params["configuration"]), module.params)
        result = {"changed": True} if module.check_mode else work.run()
    except MusterError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
