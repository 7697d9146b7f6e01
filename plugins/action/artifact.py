# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Action of muster.platform.artifact: let the host try its sources, and send the file when none has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

MODULE = "muster.platform.artifact"


class ActionModule(ActionBase):
    """The controller's half."""

    TRANSFERS_FILES = True
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        if "archive" in self._task.args:
            return result | {"failed": True, "msg": "artifact does not take archive from a task"}
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
            return {
                "failed": True,
                "msg": f"no source has {arguments['name']} {arguments['version']}: "
                + "; ".join([*reasons, missing]),
            }
        if not self._connection._shell.tmpdir:
            self._make_tmp_path()
        remote = self._connection._shell.join_path(self._connection._shell.tmpdir, source.name)
        self._transfer_file(str(source), remote)
        self._fixup_perms2((self._connection._shell.tmpdir, remote))
        # The others have been asked.
        given = {key: value for key, value in arguments.items() if key not in ("mirror", "url")}
        found: dict[str, Any] = self._execute_module(
            module_name=MODULE, module_args={**given, "archive": remote}, task_vars=task_vars
        )
        if "passed_over" in found:
            found["passed_over"] = reasons
        return found
