# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The collection and an inventory on another host: packed by the action, unpacked by the module."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.muster.platform.plugins.action import bundle as action
from ansible_collections.muster.platform.plugins.modules import bundle

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    source = tmp_path / "inventories/prod"
    (source / "group_vars/all").mkdir(parents=True)
    (source / "hosts.yml").write_text("all:\n")
    (source / "group_vars/all/secrets.yml").write_text("password: x\n")
    (source / "state.py").write_text("#!/bin/sh\n")
    (source / "state.py").chmod(0o755)
    (source / "__pycache__").mkdir()
    (source / "__pycache__/state.pyc").write_text("")
    return source


def send(run_module: Run, directory: Path, files: dict[str, Path], tmp_path: Path) -> dict[str, Any]:
    archive = action.pack(files)
    (tmp_path / "bundle.tar.gz").write_bytes(archive)
    arguments = {"directory": str(directory), "sha256": hashlib.sha256(archive).hexdigest()}
    first = run_module(bundle, arguments)
    if not first["wanted"]:
        return first
    return run_module(bundle, {**arguments, "archive": str(tmp_path / "bundle.tar.gz")})


def test_the_collection_and_the_inventory_arrive_for_root_only(
    inventory: Path, tmp_path: Path, run_module: Run
) -> None:
    files = action.collect([{"src": str(inventory), "dest": "inventories/prod"}])
    directory = tmp_path / "controller"
    assert send(run_module, directory, files, tmp_path)["changed"] is True
    current = directory / "current"
    collection = current / "collections/ansible_collections/muster/platform"
    for name in (
        "playbooks/dr_failover.yml",
        "plugins/modules/lease.py",
        "roles/postgresql/tasks/promote.yml",
    ):
        assert (collection / name).read_bytes() == (action.HERE / name).read_bytes()
    assert not (collection / "tests").exists()
    assert not (current / "inventories/prod/__pycache__").exists()
    secret = current / "inventories/prod/group_vars/all/secrets.yml"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert (current / "inventories/prod/state.py").stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in [directory, *current.resolve().rglob("*")])
    again = send(run_module, directory, files, tmp_path)
    assert (again["changed"], again["path"]) == (False, str(current))


def test_a_change_replaces_it_at_once_and_keeps_one_before(
    inventory: Path, tmp_path: Path, run_module: Run
) -> None:
    directory = tmp_path / "controller"
    seen = []
    for text in ("a: 1\n", "a: 2\n", "a: 3\n"):
        (inventory / "hosts.yml").write_text(text)
        files = dict(action.walk(inventory, "inventories/prod"))
        assert send(run_module, directory, files, tmp_path)["changed"] is True
        seen.append((directory / "current").resolve().name)
        assert (directory / "current/inventories/prod/hosts.yml").read_text() == text
    assert sorted(path.name for path in directory.iterdir()) == sorted(["current", *seen[1:]])


def test_check_mode_only_says_so(inventory: Path, tmp_path: Path, run_module: Run) -> None:
    directory = tmp_path / "controller"
    found = run_module(bundle, {"directory": str(directory), "sha256": "0" * 64}, check=True)
    assert (found["changed"], directory.exists()) == (True, False)


def test_the_archive_depends_on_nothing_but_the_files(inventory: Path) -> None:
    files = dict(action.walk(inventory, "x"))
    first = action.pack(files)
    (inventory / "hosts.yml").touch()
    assert action.pack(dict(reversed(files.items()))) == first
    (inventory / "hosts.yml").chmod(0o755)
    assert action.pack(files) != first


@pytest.mark.parametrize("dest", ["/etc", "../x", "a/../../b", "."])
def test_a_place_outside_is_refused(dest: str, inventory: Path) -> None:
    with pytest.raises(AnsibleActionFail, match="must be a relative path"):
        action.collect([{"src": str(inventory), "dest": dest}])


def test_what_is_missing_or_twice_is_refused(inventory: Path) -> None:
    with pytest.raises(AnsibleActionFail, match="there is no /nowhere on the controller"):
        action.collect([{"src": "/nowhere", "dest": "x"}])
    both = [{"src": str(inventory / name), "dest": "x"} for name in ("hosts.yml", "state.py")]
    with pytest.raises(AnsibleActionFail, match="would be both"):
        action.collect(both)


@pytest.mark.parametrize("name", ["../out", "/tmp/out"])
def test_an_archive_that_leaves_its_place_is_refused(name: str, tmp_path: Path, run_module: Run) -> None:
    with tarfile.open(tmp_path / "bad.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    arguments = {
        "directory": str(tmp_path / "c"),
        "sha256": "1" * 64,
        "archive": str(tmp_path / "bad.tar.gz"),
    }
    found = run_module(bundle, arguments)
    assert found["failed"]
    assert "which is no file of a bundle" in found["msg"]
    assert not (tmp_path / "c/current").exists()


def test_only_the_action_knows_what_to_send(tmp_path: Path, run_module: Run) -> None:
    assert "through its action only" in run_module(bundle, {"directory": str(tmp_path)})["msg"]


def test_inventories_keep_their_names_and_a_file_its_variables(inventory: Path) -> None:
    (whole,) = action.inventory_entries([str(inventory)])
    assert (whole["dest"], whole["src"]) == ("inventories/prod", str(inventory))
    places = [entry["dest"] for entry in action.inventory_entries([str(inventory / "hosts.yml")])]
    assert places == ["inventories/prod/hosts.yml", "inventories/prod/group_vars"]
    with pytest.raises(AnsibleActionFail, match="there is no n1, on the controller"):
        action.inventory_entries(["n1,"])
