# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""dr_plan: the real main() over a real git checkout and inventory files."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.modules import dr_plan

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    repository = tmp_path / "checkout"
    (repository / "inventory" / "group_vars").mkdir(parents=True)
    (repository / "inventory" / "hosts.yml").write_text("all: {}\n")
    (repository / "inventory" / "group_vars" / "all.yml").write_text("a: 1\n")
    for command in (
        ["init", "--quiet"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message=x"],
    ):
        subprocess.run(["git", "-C", str(repository), *command], check=True)
    return repository


@pytest.fixture
def plan(run_module: Run, checkout: Path) -> Run:
    def call(inventory: str = "inventory", repository: Path = checkout) -> dict[str, Any]:
        return run_module(dr_plan, {"repository": str(repository), "inventory": [str(checkout / inventory)]})

    return call


def test_the_commit_and_whether_it_is_all(plan: Run, checkout: Path) -> None:
    answer = plan()
    assert answer["changed"] is False
    assert re.fullmatch(r"[0-9a-f]{40}", answer["git_sha"])
    (checkout / "new").touch()
    assert plan()["git_sha"] == answer["git_sha"], "a file that is not tracked is no part of the plan"
    (checkout / "inventory" / "hosts.yml").write_text("all: {hosts: {}}\n")
    assert plan()["git_sha"] == f"{answer['git_sha']}-dirty"


def test_outside_git_there_is_no_commit(plan: Run, tmp_path: Path) -> None:
    assert plan(repository=tmp_path / "nowhere")["git_sha"] is None


def test_any_change_of_the_inventory_changes_its_hash(plan: Run, checkout: Path) -> None:
    seen = [plan()["inventory_sha256"]]
    assert plan()["inventory_sha256"] == seen[0]
    variables = checkout / "inventory" / "group_vars"
    for change in (
        lambda: (variables / "all.yml").write_text("a: 2\n"),
        lambda: (variables / "all.yml").rename(variables / "north.yml"),
        lambda: (variables / "empty.yml").touch(),
        lambda: (variables / "empty.yml").unlink(),
    ):
        change()
        seen.append(plan()["inventory_sha256"])
    assert len(set(seen)) == 4
    assert seen[2] == seen[4]
    (variables / "__pycache__").mkdir()
    (variables / "__pycache__" / "x.pyc").touch()
    assert plan()["inventory_sha256"] == seen[4]


def test_the_variables_beside_an_inventory_file_belong_to_it(plan: Run, checkout: Path) -> None:
    before = plan("inventory/hosts.yml")["inventory_sha256"]
    (checkout / "inventory" / "other.yml").touch()
    assert plan("inventory/hosts.yml")["inventory_sha256"] == before
    (checkout / "inventory" / "group_vars" / "all.yml").write_text("a: 2\n")
    changed = plan("inventory/hosts.yml")["inventory_sha256"]
    assert changed != before
    (checkout / "inventory" / "host_vars").mkdir()
    (checkout / "inventory" / "host_vars" / "n1.yml").write_text("b: 1\n")
    assert plan("inventory/hosts.yml")["inventory_sha256"] not in (before, changed)


def test_a_missing_inventory_is_told(plan: Run, checkout: Path) -> None:
    answer = plan("none.yml")
    assert (
        answer["msg"] == f"the inventory's file {checkout}/none.yml cannot be read: No such file or directory"
    )


def test_the_time_twice(plan: Run) -> None:
    answer = plan()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", answer["now"])
    assert answer["now_compact"] == re.sub(r"\.\d+|[-:]", "", answer["now"])
