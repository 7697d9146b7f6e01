# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Action of muster.platform.bundle: pack on the controller, ask whether the host has it, send it if not."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.muster.platform.plugins.plugin_utils._send import send_file

MODULE = "muster.platform.bundle"
HERE = Path(__file__).resolve().parents[2]
TREE = "collections/ansible_collections/muster/platform"
# What a playbook needs of the collection; a checkout has more, and an installed one has its own lists.
PARTS = (
    "MANIFEST.json",
    "FILES.json",
    "galaxy.yml",
    "docs/evidence.schema.json",
    "meta",
    "playbooks",
    "plugins",
    "roles",
)
SKIPPED = {"__pycache__", ".git", ".venv", ".cache", ".ansible"}


def walk(source: Path, dest: str) -> Iterator[tuple[str, Path]]:
    """Every file of a path, by where it goes. Links are followed: the host has not what they lead to."""
    if source.is_file():
        yield dest, source
        return
    for folder, names, files in os.walk(source, followlinks=True):
        names[:] = sorted(set(names) - SKIPPED)
        below = os.path.relpath(folder, source)
        for name in sorted(files):
            if not name.endswith((".pyc", ".retry")):
                yield os.path.normpath(os.path.join(dest, below, name)), Path(folder) / name


def collect(entries: list[Mapping[str, Any]]) -> dict[str, Path]:
    """Where each file goes, and where it is."""
    found = {dest: path for part in PARTS for dest, path in walk(HERE / part, f"{TREE}/{part}")}
    for entry in entries:
        source, dest = Path(str(entry["src"])).expanduser(), str(entry["dest"])
        if os.path.isabs(dest) or ".." in dest.split("/") or not dest.strip("/."):
            raise AnsibleActionFail(f"files: dest '{dest}' must be a relative path without ..")
        if not source.exists():
            raise AnsibleActionFail(f"files: there is no {source} on the controller")
        for place, path in walk(source, dest):
            if found.setdefault(place, path) != path:
                raise AnsibleActionFail(f"files: {place} would be both {found[place]} and {path}")
    return found


def inventory_entries(sources: list[str]) -> list[dict[str, str]]:
    """Where inventories go: C(dest) below the copy, and C(src). A file goes with the variables beside it."""
    found = []
    for source in sources:
        path = Path(str(source)).expanduser().resolve()
        if not path.exists():
            raise AnsibleActionFail(f"inventories: there is no {source} on the controller")
        if path.is_dir():
            found.append({"src": str(path), "dest": f"inventories/{path.name}", "inventory": "yes"})
            continue
        place = f"inventories/{path.parent.name}"
        found.append({"src": str(path), "dest": f"{place}/{path.name}", "inventory": "yes"})
        for name in ("group_vars", "host_vars"):
            if (path.parent / name).is_dir():
                found.append({"src": str(path.parent / name), "dest": f"{place}/{name}"})
    return found


def pack(files: Mapping[str, Path]) -> bytes:
    """An archive that depends on nothing but names, contents and who may execute."""
    raw = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, compresslevel=6) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for dest in sorted(files):
            content = files[dest].read_bytes()
            member = tarfile.TarInfo(dest)
            member.size = len(content)
            member.mode = 0o700 if files[dest].stat().st_mode & 0o100 else 0o600
            tar.addfile(member, io.BytesIO(content))
    return raw.getvalue()


class ActionModule(ActionBase):
    """The controller's half."""

    TRANSFERS_FILES = True
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        wrong = sorted(set(self._task.args) - {"directory", "files", "inventories"})
        if wrong:
            raise AnsibleActionFail(f"bundle does not take {', '.join(wrong)} from a task")
        inventories = inventory_entries(self._task.args.get("inventories") or [])
        entries = [*inventories, *(self._task.args.get("files") or [])]
        try:
            archive = pack(collect(entries))
        except OSError as error:
            raise AnsibleActionFail(f"the files cannot be packed: {error}") from error
        arguments = {**self._task.args, "sha256": hashlib.sha256(archive).hexdigest()}
        found = self._execute_module(module_name=MODULE, module_args=arguments, task_vars=task_vars)
        if found.get("wanted"):
            found = self._send(archive, arguments, task_vars)
        found.pop("wanted", None)
        if "path" in found:
            found["inventories"] = [
                f"{found['path']}/{entry['dest']}" for entry in inventories if "inventory" in entry
            ]
        return result | found

    def _send(self, archive: bytes, arguments: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        with tempfile.NamedTemporaryFile() as local:
            local.write(archive)
            local.flush()
            remote = send_file(self, Path(local.name), "bundle.tar.gz")
        found: dict[str, Any] = self._execute_module(
            module_name=MODULE, module_args={**arguments, "archive": remote}, task_vars=task_vars
        )
        return found
