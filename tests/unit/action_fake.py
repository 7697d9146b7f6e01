# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What an action plugin that stays on the controller needs of Ansible."""

from __future__ import annotations

from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar


class Task:
    def __init__(self, arguments: dict[str, Any], check: bool = False) -> None:
        self.args = arguments
        self.async_val = 0
        self.check_mode, self.diff = check, False
        self.environment = self.delegate_to = None
        self.action = "test"


class Shell:
    tmpdir = None


class Connection:
    _shell = Shell()


def run_action(
    plugin: Any, arguments: dict[str, Any], variables: dict[str, Any], check: bool = False
) -> dict[str, Any]:
    """Run an action plugin's real run()."""
    loader = DataLoader()
    action = plugin.ActionModule(
        task=Task(arguments, check),
        connection=Connection(),
        play_context=None,
        loader=loader,
        templar=Templar(loader=loader, variables={}),
        shared_loader_obj=None,
    )
    result: dict[str, Any] = action.run(task_vars=variables)
    return result
