# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Roles as their files tell: what scripts/check_specs and scripts/readmes read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

try:
    import yaml
except ModuleNotFoundError:  # started by hand with the system's Python
    os.execv(ROOT / ".venv/bin/python", [str(ROOT / ".venv/bin/python"), *sys.argv])  # noqa: S606

Option = dict[str, Any]


@dataclass
class Role:
    """One role's argument specs, defaults and internal variables."""

    path: Path
    specs: dict[str, dict[str, Any]] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    internal: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.name

    def options(self) -> Iterator[tuple[str, str, Option]]:
        """Every (entry point, option name, option), in the file's order."""
        for entry_point, spec in self.specs.items():
            for name, option in (spec.get("options") or {}).items():
                yield entry_point, name, option or {}

    def task_files(self) -> set[str]:
        return {file.stem for file in (self.path / "tasks").glob("*.yml")}


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping; {} when there is no file or nothing in it."""
    if not path.exists():
        return {}
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content or {}


def load_role(path: Path) -> Role:
    specs = read_yaml(path / "meta/argument_specs.yml").get("argument_specs") or {}
    return Role(path, specs, read_yaml(path / "defaults/main.yml"), read_yaml(path / "vars/main.yml"))


def load_roles(directory: Path) -> list[Role]:
    """All roles below a directory, by name."""
    return [load_role(path) for path in sorted(directory.iterdir()) if (path / "tasks").is_dir()]
