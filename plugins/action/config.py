# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Render every template of the task on the controller, and send all of it in one module call."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.template import generate_ansible_template_vars, trust_as_template

OWNERSHIP = {"owner", "group", "mode"}
KEYS = {
    "directories": {"path"} | OWNERSHIP,
    "files": {"dest", "template", "content", "vars", "validate", "notify", "secret"} | OWNERSHIP,
    "absent": {"path", "notify"},
    "units": {"name", "enabled", "state", "masked", "leave_masked"},
}
IDENTITY = {"directories": "path", "files": "dest", "absent": "path", "units": "name"}
OVERRIDES = {"trim_blocks": True, "lstrip_blocks": False, "newline_sequence": "\n"}
UNIT_NAME = re.compile(
    r"[A-Za-z0-9:_.\\@-]+\.(service|socket|target|timer|path|mount|automount|swap|slice|scope|device)"
)


class ActionModule(ActionBase):
    """The controller's half of muster.platform.config."""

    _supports_check_mode = True
    _supports_async = False
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        arguments = read_arguments(self._task.args)
        for entry in arguments["files"]:
            if "template" in entry:
                entry["content"] = self._render(entry, task_vars)
                for key in ("template", "vars"):
                    entry.pop(key, None)
        result: dict[str, Any] = self._execute_module(
            module_name="muster.platform.config", module_args={**arguments}, task_vars=task_vars
        )
        if "invocation" in result:
            # The contents must not reach a log through the record of the call.
            result["invocation"] = {"module_args": without_contents(arguments)}
        return result

    def _render(self, entry: dict[str, Any], task_vars: dict[str, Any]) -> str:
        name, dest = entry["template"], entry["dest"]
        try:
            source = self._find_needle("templates", name)
            text = trust_as_template(self._loader.get_text_file_contents(source))
        except AnsibleError as error:
            raise AnsibleActionFail(f"{dest}: the template {name} cannot be read: {error.message}") from error
        variables = {**task_vars, **(entry.get("vars") or {})}
        told = generate_ansible_template_vars(path=name, fullpath=source, dest_path=dest)
        if "ansible_managed" in variables:
            told.pop("ansible_managed", None)
        variables.update(told)
        templar = self._templar.copy_with_new_env(
            searchpath=search_path(task_vars, self._loader.get_basedir(), source),
            available_variables=variables,
        )
        try:
            rendered = templar.template(text, escape_backslashes=False, overrides=OVERRIDES)
        except AnsibleError as error:
            raise AnsibleActionFail(
                f"{dest}: the template {name} cannot be rendered: {error.message}"
            ) from error
        return "" if rendered is None else str(rendered)


def search_path(task_vars: dict[str, Any], basedir: str, source: str) -> list[str]:
    """Where a template may include others from: as ansible.builtin.template does it."""
    found = []
    for path in [*task_vars.get("ansible_search_path", []), basedir, os.path.dirname(source)]:
        found += [os.path.join(path, "templates"), path]
    return found


def read_arguments(given: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The task's arguments, each list a list of plain dictionaries; fails on anything that is wrong."""
    unknown = sorted(set(given) - set(KEYS))
    if unknown:
        raise AnsibleActionFail(f"unknown key {', '.join(unknown)}; known are {', '.join(KEYS)}")
    arguments = {name: read_list(name, given.get(name)) for name in KEYS}
    for entry in arguments["files"]:
        check_file(entry)
    for entry in arguments["units"]:
        check_unit(entry)
    for entry in [*arguments["directories"], *arguments["files"]]:
        check_ownership(entry)
    refuse_doubles(arguments)
    return arguments


def read_list(name: str, value: Any) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise AnsibleActionFail(f"{name} must be a list")
    identity, entries = IDENTITY[name], []
    for number, item in enumerate(value, 1):
        if name == "absent" and isinstance(item, str):
            item = {"path": item}
        if not isinstance(item, Mapping):
            raise AnsibleActionFail(f"{name}, entry {number}: must be a dictionary")
        # A key without a value is a key that was not given: roles pass defaults through.
        entry = {key: each for key, each in item.items() if each is not None}
        if not isinstance(entry.get(identity), str) or not entry[identity]:
            raise AnsibleActionFail(f"{name}, entry {number}: {identity} is missing or not a string")
        unknown = sorted(set(entry) - KEYS[name])
        if unknown:
            raise AnsibleActionFail(
                f"{name}, {entry[identity]}: unknown key {', '.join(unknown)};"
                f" known are {', '.join(sorted(KEYS[name]))}"
            )
        if identity != "name":
            check_path(name, entry, identity)
        if isinstance(entry.get("notify"), str):
            entry["notify"] = [entry["notify"]]
        entries.append(entry)
    return entries


def check_path(name: str, entry: dict[str, Any], identity: str) -> None:
    path = entry[identity]
    if not path.startswith("/") or os.path.normpath(path) == "/" or ".." in path.split("/"):
        raise AnsibleActionFail(f"{name}, {path}: {identity} must be an absolute path without `..`")
    entry[identity] = os.path.normpath(path)


def check_file(entry: dict[str, Any]) -> None:
    dest = entry["dest"]
    if ("template" in entry) == ("content" in entry):
        raise AnsibleActionFail(f"files, {dest}: give either template or content, exactly one of them")
    for key in ("template", "content", "validate"):
        if key in entry and not isinstance(entry[key], str):
            hint = "; turn data into text with to_json or to_nice_yaml" if key == "content" else ""
            raise AnsibleActionFail(f"files, {dest}: {key} must be a string{hint}")
    if "vars" in entry and not ("template" in entry and isinstance(entry["vars"], Mapping)):
        raise AnsibleActionFail(f"files, {dest}: vars must be a dictionary, and needs a template")
    if "validate" in entry and "%s" not in entry["validate"]:
        raise AnsibleActionFail(f"files, {dest}: validate must contain %s, the file to check")
    read_switches(f"files, {dest}", entry, "secret")


def read_switches(where: str, entry: dict[str, Any], *keys: str) -> None:
    """Make truth values of C(keys), which a command line's variables give as text."""
    for key in keys:
        if key in entry:
            try:
                entry[key] = boolean(entry[key])
            except TypeError as error:
                raise AnsibleActionFail(f"{where}: {key} must be true or false") from error


def check_ownership(entry: dict[str, Any]) -> None:
    where = entry.get("dest") or entry.get("path")
    for key in ("owner", "group"):
        if key in entry:
            if isinstance(entry[key], bool) or not isinstance(entry[key], (str, int)) or entry[key] == "":
                raise AnsibleActionFail(f"{where}: {key} must be a name or a number")
            entry[key] = str(entry[key])
    mode = entry.get("mode")
    if mode is None:
        return
    if not isinstance(mode, str) or not re.fullmatch(r"[0-7]{3,4}", mode):
        raise AnsibleActionFail(f'{where}: mode must be octal digits in quotes, such as "0644", not {mode!r}')
    if entry.get("secret") and int(mode, 8) & 0o7:
        raise AnsibleActionFail(f"{where}: the file is secret, so mode {mode} may not give others any right")


def check_unit(entry: dict[str, Any]) -> None:
    name = entry["name"]
    if not UNIT_NAME.fullmatch(name):
        raise AnsibleActionFail(f"units, {name}: name must be a full unit name, such as etcd.service")
    if entry.get("state") not in (None, "started", "stopped"):
        raise AnsibleActionFail(f"units, {name}: state must be started or stopped, not {entry['state']!r}")
    read_switches(f"units, {name}", entry, "enabled", "masked", "leave_masked")
    if entry.get("masked") and (entry.get("enabled") or entry.get("state") == "started"):
        raise AnsibleActionFail(f"units, {name}: a masked unit can neither be enabled nor started")


def refuse_doubles(arguments: dict[str, list[dict[str, Any]]]) -> None:
    seen: dict[str, str] = {}
    for name, entries in arguments.items():
        for entry in entries:
            key = entry[IDENTITY[name]]
            if key in seen:
                raise AnsibleActionFail(f"{key} is given twice: in {seen[key]} and in {name}")
            seen[key] = name


def without_contents(arguments: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    return {
        **arguments,
        "files": [
            {key: value for key, value in entry.items() if key != "content"} for entry in arguments["files"]
        ],
    }
