# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sending a file of the controller to a host, for the time of a task."""

from __future__ import annotations

from pathlib import Path

from ansible.plugins.action import ActionBase


def send_file(action: ActionBase, source: Path, name: str) -> str:
    """Put a file into the task's temporary directory on the host, readable for the module; its path there."""
    shell = action._connection._shell
    if not shell.tmpdir:
        action._make_tmp_path()
    remote: str = shell.join_path(shell.tmpdir, name)
    action._transfer_file(str(source), remote)
    action._fixup_perms2((shell.tmpdir, remote))
    return remote
