"""scripts/check_specs: a role whose specs and defaults agree passes, each kind of mismatch is named."""

from __future__ import annotations

import copy
import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def load(name: str) -> ModuleType:
    """A program without a suffix as a module."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        loader = SourceFileLoader(f"muster_{name}", str(SCRIPTS / name))
        spec = importlib.util.spec_from_loader(loader.name, loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(SCRIPTS))


check_specs = load("check_specs")
readmes = load("readmes")

SPECS: dict[str, Any] = {
    "main": {
        "short_description": "Provision the store",
        "description": ["It holds C(things) and reads O(store_port)."],
        "options": {
            "store_port": {"type": "int", "default": 7000, "description": "Port that it listens on."},
            "store_hosts": {
                "type": "list",
                "elements": "str",
                "default": ["a", "b"],
                "description": "Hosts | members.",
            },
            "store_mode": {
                "default": "fast",
                "choices": ["fast", "safe"],
                "description": "How it syncs.",
            },
            "store_address": {"default": "{{ inventory_hostname }}", "description": "Name to bind to."},
            "store_password": {"required": True, "description": "Password."},
        },
    },
    "backup": {
        "short_description": "Take a backup",
        "description": ["It is listed afterwards."],
        "options": {"store_port": {"type": "int", "default": 7000, "description": "Port."}},
    },
}
DEFAULTS: dict[str, Any] = {
    "store_port": 7000,
    "store_hosts": ["a", "b"],
    "store_mode": "fast",
    "store_address": "{{ inventory_hostname }}",
}
TASK = "{{ store_port }} {{ store_hosts }} {{ store_mode }} {{ store_address }} {{ store_password }}\n"


class Tree:
    """A roles directory with one role, `store`, to be spoilt."""

    def __init__(self, path: Path) -> None:
        self.roles = path / "roles"
        self.role = self.roles / "store"
        self.specs = copy.deepcopy(SPECS)
        self.defaults = copy.deepcopy(DEFAULTS)
        self.internal: dict[str, Any] = {"__store_unit": "store.service"}
        self.tasks = {"main": TASK, "backup": "---\n"}

    @property
    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = self.specs["main"]["options"]
        return options

    def write(self) -> None:
        for folder in ("meta", "defaults", "tasks", "vars"):
            (self.role / folder).mkdir(parents=True, exist_ok=True)
        specs = yaml.safe_dump({"argument_specs": self.specs}, sort_keys=False)
        (self.role / "meta/argument_specs.yml").write_text(specs)
        (self.role / "defaults/main.yml").write_text(yaml.safe_dump(self.defaults))
        (self.role / "vars/main.yml").write_text(yaml.safe_dump(self.internal))
        for name, text in self.tasks.items():
            (self.role / f"tasks/{name}.yml").write_text(text)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def found(tree: Tree, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Run the program on the tree; its lines, having checked its exit status."""
    tree.write()
    status = check_specs.main([str(tree.roles)])
    lines = capsys.readouterr().out.splitlines()
    assert status == (0 if lines == ["1 roles: argument specs and defaults agree"] else 1)
    return lines


def test_a_role_that_agrees_passes(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    assert found(tree, capsys) == ["1 roles: argument specs and defaults agree"]


def spoil_value(tree: Tree) -> None:
    tree.defaults["store_port"] = 7001


def spoil_nested_value(tree: Tree) -> None:
    tree.defaults["store_hosts"] = ["a", "c"]


def spoil_type_of_default(tree: Tree) -> None:
    tree.defaults["store_port"] = "7000"


def spoil_true_for_one(tree: Tree) -> None:
    tree.options["store_port"]["default"] = 1
    tree.specs["backup"]["options"]["store_port"]["default"] = 1
    tree.defaults["store_port"] = True


def spoil_declared_type(tree: Tree) -> None:
    tree.options["store_mode"]["default"] = tree.defaults["store_mode"] = 3
    tree.options["store_mode"]["choices"] = [3]


def spoil_unknown_type(tree: Tree) -> None:
    tree.options["store_mode"]["type"] = "string"


def spoil_elements(tree: Tree) -> None:
    tree.options["store_hosts"]["default"] = tree.defaults["store_hosts"] = ["a", 2]


def spoil_choice(tree: Tree) -> None:
    tree.options["store_mode"]["default"] = tree.defaults["store_mode"] = "slow"


def spoil_missing_default(tree: Tree) -> None:
    del tree.defaults["store_port"]


def spoil_undeclared(tree: Tree) -> None:
    tree.defaults["store_extra"] = 1


def spoil_required_with_default(tree: Tree) -> None:
    tree.defaults["store_password"] = "changeme"


def spoil_required_with_spec_default(tree: Tree) -> None:
    tree.options["store_password"]["default"] = "changeme"


def spoil_neither(tree: Tree) -> None:
    del tree.options["store_password"]["required"]


def spoil_prefix(tree: Tree) -> None:
    tree.options["port"] = tree.options["store_port"]
    tree.defaults["port"] = 7000
    tree.tasks["main"] += "{{ port }}"


def spoil_internal_prefix(tree: Tree) -> None:
    tree.internal["store_unit"] = "store.service"


def spoil_description(tree: Tree) -> None:
    del tree.options["store_mode"]["description"]


def spoil_entry_point_description(tree: Tree) -> None:
    del tree.specs["backup"]["description"]


def spoil_other_type(tree: Tree) -> None:
    tree.specs["backup"]["options"]["store_port"]["type"] = "raw"


def spoil_entry_point(tree: Tree) -> None:
    tree.specs["restore"] = {"short_description": "Restore", "options": {}}


def spoil_verb(tree: Tree) -> None:
    tree.tasks["status"] = "---\n"


def spoil_use(tree: Tree) -> None:
    tree.tasks["main"] = TASK.replace("store_mode", "other")


MISMATCHES = [
    (spoil_value, "option store_port of entry point main has the default 7000, defaults/main.yml has 7001"),
    (spoil_value, "option store_port of entry point backup has the default 7000, defaults/main.yml has 7001"),
    (spoil_nested_value, "main has the default ['a', 'b'], defaults/main.yml has ['a', 'c']"),
    (spoil_type_of_default, "main has the default 7000, defaults/main.yml has '7000'"),
    (spoil_true_for_one, "main has the default 1, defaults/main.yml has True"),
    (spoil_declared_type, "option store_mode of entry point main is of type str, its default 3 is not"),
    (spoil_unknown_type, "option store_mode of entry point main has the unknown type string"),
    (spoil_elements, "option store_hosts of entry point main holds elements of type str, 2 is not"),
    (
        spoil_choice,
        "option store_mode of entry point main has the default 'slow', which is none of its choices",
    ),
    (spoil_missing_default, "option store_port of entry point main is missing in defaults/main.yml"),
    (spoil_undeclared, "defaults/main.yml sets store_extra, which no entry point declares"),
    (
        spoil_required_with_default,
        "store_password of entry point main is required, but defaults/main.yml sets it",
    ),
    (spoil_required_with_spec_default, "store_password of entry point main is required and has a default"),
    (spoil_neither, "store_password of entry point main is neither required nor has a default"),
    (spoil_prefix, "option port of entry point main does not start with store_"),
    (spoil_internal_prefix, "vars/main.yml sets store_unit, which does not start with __store_"),
    (spoil_description, "option store_mode of entry point main has no description"),
    (spoil_entry_point_description, "entry point backup has no description"),
    (spoil_other_type, "store_port of entry point backup has another type than in entry point main"),
    (spoil_entry_point, "entry point restore has no tasks/restore.yml"),
    (spoil_verb, "tasks/status.yml has no entry point in the argument specs"),
    (spoil_use, "store_mode is declared, but nothing in the role uses it"),
]


@pytest.mark.parametrize(("spoil", "sentence"), MISMATCHES)
def test_each_mismatch_is_named(
    spoil: Any, sentence: str, tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(tree)
    lines = found(tree, capsys)
    assert all(line.startswith("roles/store: ") for line in lines)
    assert any(line.endswith(sentence) for line in lines), lines


def test_a_role_without_specs_is_named(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.specs = {}
    assert "roles/store: has no meta/argument_specs.yml" in found(tree, capsys)


def test_an_empty_directory_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_specs.main([str(tmp_path)]) == 1
    assert "no roles in" in capsys.readouterr().err


def test_a_readme_tells_every_entry_point_and_variable_once(tree: Tree) -> None:
    tree.write()
    text = readmes.readme(readmes.load_roles(tree.roles)[0])
    assert "It holds `things` and reads `store_port`." in text
    assert "| `backup` | Take a backup |" in text
    assert text.count("| `store_port` |") == 1
    assert "| `store_port` | int | `7000` | Port that it listens on. |" in text
    assert '| `store_hosts` | list of str | `["a", "b"]` | Hosts \\| members. |' in text
    assert "| `store_password` | str | **required** | Password. |" in text
    assert "One of `fast`, `safe`." in text
