"""scripts/check_tree: each broken promise of the repository is named, with its place."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def load(name: str) -> ModuleType:
    sys.path.insert(0, str(SCRIPTS))
    try:
        loader = SourceFileLoader(f"muster_{name}", str(SCRIPTS / name))
        spec = importlib.util.spec_from_loader(loader.name, loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[loader.name] = module
        loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(SCRIPTS))


check_tree = load("check_tree")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(check_tree, "ROOT", tmp_path)
    monkeypatch.setattr(check_tree, "own_mirrors", lambda: {"mirror.corp.example"})
    return tmp_path


def neutral(root: Path, text: str, name: str = "file.yml") -> list[str]:
    (root / name).write_text(text)
    return list(check_tree.check_neutral([name]))


def test_collections_that_disagree(root: Path) -> None:
    (root / "collections").mkdir()
    (root / "galaxy.yml").write_text('dependencies: {a.b: ">=1", a.c: ">=2"}\n')
    (root / "collections/requirements.yml").write_text(
        'collections: [{name: a.b, version: ">=2"}, {name: a.d}]\n'
    )
    assert list(check_tree.check_collections()) == [
        "galaxy.yml asks for a.b >=1, collections/requirements.yml for >=2",
        "galaxy.yml asks for a.c >=2, collections/requirements.yml for (not at all)",
        "galaxy.yml asks for a.d (not at all), collections/requirements.yml for *",
    ]


def test_a_collection_that_nobody_declared(root: Path) -> None:
    (root / "galaxy.yml").write_text('dependencies: {community.crypto: ">=1"}\n')
    (root / "roles/store/tasks").mkdir(parents=True)
    (root / "roles/store/defaults").mkdir()
    (root / "roles/store/defaults/main.yml").write_text("store_sysctls:\n  net.core.somaxconn: 1024\n")
    tasks = "- community.crypto.x509_certificate:\n- name: Patch\n  ansible.posix.patch:\n    src: a.b.c: d\n"
    (root / "roles/store/tasks/main.yml").write_text(tasks)
    files = ["roles/store/tasks/main.yml", "roles/store/defaults/main.yml"]
    assert list(check_tree.check_dependencies(files)) == [
        "roles or playbooks use ansible.posix, which galaxy.yml does not ask for"
    ]


@pytest.mark.parametrize("host", ["pypi" + ".org", "deb.debian" + ".org", "mirror.corp" + ".example"])
def test_a_registry_is_named_by_line(root: Path, host: str) -> None:
    assert neutral(root, f"one\nurl: https://{host}/simple\n") == ["file.yml:2 names a package registry"]


@pytest.mark.parametrize("path", ["/wo" + "rk/main/x", "see (/ho" + "me/anna)", "/Us" + "ers/anna"])
def test_a_path_of_somebodys_machine(root: Path, path: str) -> None:
    assert neutral(root, path) == ["file.yml:1 has a path that exists only on somebody's machine"]


def test_the_checkouts_own_path(root: Path) -> None:
    assert neutral(root, f"cd {root}") == ["file.yml:1 has a path that exists only on somebody's machine"]


def test_what_is_not_one_of_them(root: Path) -> None:
    text = "/network/x ~/home/x {{ dir }}/work/x $HOME/work/x debian.org /homepage x/home/y\n"
    assert neutral(root, text) == []
    assert neutral(root, "https://" + "pypi" + ".org\n", "LICENSE") == []


def test_a_shell_script_that_does_not_parse(root: Path) -> None:
    (root / "good").write_text("#!/bin/bash\necho\n")
    (root / "bad").write_text("#!/bin/bash\nif true; then\n")
    (root / "python").write_text("#!/usr/bin/env python3\nif true; then\n")
    problems = list(check_tree.check_shell(["good", "bad", "python"]))
    assert len(problems) == 1
    assert "bad" in problems[0]


def test_docs_that_name_what_is_not_there(root: Path) -> None:
    for folder in ("docs", "playbooks"):
        (root / folder).mkdir()
    (root / "Makefile").write_text("lab: setup ## the lab\nlab-up:\n")
    (root / "playbooks/site.yml").write_text('x: "{{ dr_objectives }}"\n')
    (root / "docs/variables.rst").write_text("   * - ``dr_objectives``\n   * - ``dr_gone``\n")
    (root / "README.md").write_text(
        "    make lab\n`make lab-up` `make gone` to make sure\n`playbooks/site.yml` `playbooks/gone.yml`\n"
    )
    names = ["README.md", "docs/variables.rst", "playbooks/site.yml"]
    assert list(check_tree.check_docs(names)) == [
        "README.md names playbooks/gone.yml, which does not exist",
        "README.md names `make gone`, which the Makefile does not have",
        "docs/variables.rst documents dr_gone, which nothing reads",
    ]
