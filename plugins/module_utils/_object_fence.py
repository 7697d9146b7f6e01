# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Fencing the object store on the host it runs on: stopped, masked over reboots, and proven to be."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._fence import listening
from ansible_collections.muster.platform.plugins.module_utils._files import write_file
from ansible_collections.muster.platform.plugins.module_utils._systemd import systemctl
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

KEEPER = "muster-object-storage.service"
SERVER = "seaweedfs.service"


def programs(weed: str, keeper: str, proc: Path = Path("/proc")) -> list[int]:
    """The processes of SeaweedFS, of whatever version, and of what keeps the region in its role."""
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if os.path.basename(words[0]) == os.path.basename(weed) or (keeper in words and "serve" in words):
                found.append(int(entry.name))
    return sorted(found)


@dataclass
class ObjectFence:
    """The fence of one host's object store."""

    given: dict[str, Any]
    grace: float = 5.0
    units: tuple[str, ...] = field(default=(KEEPER, SERVER))

    @property
    def marker(self) -> str:
        return str(self.given["marker"])

    @property
    def ports(self) -> list[int]:
        names = ("s3_port", "port", "filer_port", "master_port", "volume_port")
        plain = [int(self.given[name]) for name in names]
        return plain + [port + 10000 for port in plain if port != self.given["port"]]

    def marked(self) -> dict[str, Any] | None:
        """What the fence noted when it was put up; None when there is none, empty when it cannot be read."""
        try:
            with open(self.marker, encoding="utf-8") as stream:
                found = json.load(stream)
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) and "fenced_at" in found else {}

    def processes(self) -> list[int]:
        return programs(self.given["weed"], self.given["program"])

    def masked(self) -> list[str]:
        return [unit for unit in self.units if systemctl("is-enabled", unit, check=False) == "masked"]

    def doubts(self) -> list[str]:
        """Why this host could take writes now or after a reboot; empty when it cannot."""
        found = []
        if not self.marked():
            found.append(f"{self.marker} is missing or says nothing")
        found += [f"{unit} is not masked" for unit in self.units if unit not in self.masked()]
        if self.processes():
            found.append("SeaweedFS or what keeps it in its role still runs")
        found += [f"something listens on port {port}" for port in listening(self.ports)]
        return found

    def put_up(self, note: dict[str, Any]) -> bool:
        """Mark, stop, mask, prove; True when anything had to be done."""
        if not self.doubts():
            return False
        if not self.marked():
            # On the disk before anything is stopped: the units look at it, whatever happens next.
            note = {"fenced_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), **note}
            write_file(self.marker, json.dumps(note), 0o644)
        # The gateway first: from then on nothing is acknowledged.
        systemctl("stop", self.units[0])
        systemctl("stop", "--no-block", *self.units[1:])
        self._end()
        for unit in self.units:
            if unit not in self.masked():
                systemctl("mask", unit)
        doubts = self.doubts()
        if doubts:
            raise MusterError("the fence is not proven: " + "; ".join(doubts))
        return True

    def _end(self) -> None:
        with contextlib.suppress(MusterError):
            wait_until(lambda: not self.processes(), "SeaweedFS to stop", self.grace, 0.1)

        def killed() -> bool:
            for process in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            return not self.processes()

        wait_until(killed, "SeaweedFS to end", 10, 0.1)

    def stands(self) -> bool:
        return os.path.lexists(self.marker) or bool(self.masked())

    def take_down(self) -> bool:
        """Let the units start again; they are not started."""
        masked = self.masked()
        if masked:
            systemctl("unmask", *masked)
        if os.path.lexists(self.marker):
            os.unlink(self.marker)
            return True
        return bool(masked)
