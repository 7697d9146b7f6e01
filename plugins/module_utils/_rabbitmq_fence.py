# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Fencing RabbitMQ on the host it runs on: stopped, masked over reboots, and proven to be."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._fence import Fence, listening
from ansible_collections.muster.platform.plugins.module_utils._systemd import systemctl
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until


def nodes(proc: Path = Path("/proc")) -> list[int]:
    """The processes of RabbitMQ nodes; its command-line tools run in the same virtual machine."""
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            program = os.path.basename(os.readlink(entry / "exe").removesuffix(" (deleted)"))
            if program == "beam.smp" and b"\0rabbit\0boot\0" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return sorted(found)


@dataclass
class NodeFence(Fence):
    """The fence of one host's RabbitMQ."""

    data_directory: str = ""
    marker: str = "/etc/muster/rabbitmq/fenced.json"
    unit: str = "rabbitmq-server.service"

    def stopped(self) -> bool:
        state = systemctl("show", "--property=ActiveState", "--value", self.unit)
        return state in ("inactive", "failed") and not nodes()

    def doubts(self) -> list[str]:
        found = []
        if not self.marked():
            found.append(f"{self.marker} is missing or says nothing")
        if not self.masked():
            found.append(f"{self.unit} is not masked")
        if not self.stopped():
            found.append("RabbitMQ still runs")
        return found + [f"something listens on port {port}" for port in listening(self.ports)]

    def _stop(self) -> None:
        systemctl("stop", "--no-block", self.unit)
        try:
            wait_until(self.stopped, f"{self.unit} to stop", self.grace, 0.1)
            return
        except MusterError:
            systemctl("kill", "--kill-who=all", "--signal=SIGKILL", self.unit, check=False)

        def killed() -> bool:
            for process in nodes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            # Its tool to stop it may wait for a node that is dead.
            systemctl("kill", "--kill-who=all", "--signal=SIGKILL", self.unit, check=False)
            return self.stopped()

        wait_until(killed, "RabbitMQ to end", 15, 0.1)
