# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Action of muster.platform.dr_lock: says who asks, and whether a holder of this controller still runs."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.muster.platform.plugins.module_utils import _dr_lock
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

MODULE = "muster.platform.dr_lock"
ASKED_BY_PERSONS = ("state", "operation", "target", "directory", "takeover")
# Between a look and the answer another one may take the lock; then its holder is judged.
LOOKS = 5


# A drill runs its steps as playbooks of their own, and says here who the drill is.
OUTER = "MUSTER_OPERATION_PID"


def own_process() -> int:
    """The process of ansible-playbook: a task runs in a child of it that ends with the task.

    In a step of a drill it is the drill's, as long as that lives: the lock is the drill's.
    """
    outer = os.environ.get(OUTER, "")
    if outer.isdecimal() and os.path.exists(f"/proc/{outer}"):
        return int(outer)
    # Not os.getppid(): that is another one's when ansible-playbook was killed a moment ago.
    parent = multiprocessing.parent_process()
    process = parent.pid if parent is not None and parent.pid is not None else os.getppid()
    if not os.path.exists(f"/proc/{process}"):
        raise MusterError(f"ansible-playbook (process {process}) has ended: nobody would hold the lock")
    return process


class ActionModule(ActionBase):
    """The file is on the witness, the processes are on the controller."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        wrong = sorted(set(self._task.args) - set(ASKED_BY_PERSONS))
        if wrong:
            return result | {"failed": True, "msg": f"dr_lock does not take {', '.join(wrong)} from a task"}
        try:
            return result | self._settle(_dr_lock.identify(own_process()), task_vars)
        except MusterError as error:
            return result | {"failed": True, "msg": str(error)}

    def _settle(self, me: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        judged: dict[str, Any] = {}
        for _look in range(LOOKS):
            arguments = {**self._task.args, "me": me, **judged}
            found: dict[str, Any] = self._execute_module(
                module_name=MODULE, module_args=arguments, task_vars=task_vars
            )
            if not found.get("undecided"):
                return found
            holder = found["lock"]["holder"]
            judged = {"seen": holder["token"], "verdict": _dr_lock.judge(holder, me)}
        raise MusterError(f"the lock changed hands {LOOKS} times while it was asked for: try again")
