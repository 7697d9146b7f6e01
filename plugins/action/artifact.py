# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Action of muster.platform.artifact: let the host try its sources, and send the file when none has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.muster.platform.plugins.plugin_utils._send import send_file

MODULE = "muster.platform.artifact"


class ActionModule(ActionBase):
    """The controller's half."""

    TRANSFERS_FILES = True
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        if "archive" in self._task.args:
            raise AnsibleActionFail("artifact does not take archive from a task")
        found = self._execute_module(module_name=MODULE, task_vars=task_vars)
        if found.get("wanted"):
            found = self._from_here(found["passed_over"], task_vars)
        found.pop("wanted", None)
        return result | found

    def _from_here(self, reasons: list[str], task_vars: Any) -> dict[str, Any]:
        """Send the controller's file, if there is one."""
        arguments = self._task.args
        folder = arguments.get("controller")
        source = Path(str(folder)).expanduser() / str(arguments["file"]) if folder else None
        if source is None or not source.is_file():
            missing = (
                f"the controller: there is no {source}" if source else "the controller: no directory is named"
            )
            said = "; ".join([*reasons, missing])
            raise AnsibleActionFail(f"no source has {arguments['name']} {arguments['version']}: {said}")
        remote = send_file(self, source, source.name)
        found: dict[str, Any] = self._execute_module(
            module_name=MODULE, module_args={**arguments, "archive": remote}, task_vars=task_vars
        )
        if "passed_over" in found:
            found["passed_over"] = reasons
        return found
