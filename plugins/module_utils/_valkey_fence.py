# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Fencing Valkey and its Sentinel on the host they run on: stopped, masked over reboots, and proven to be."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._fence import Fence, listening
from ansible_collections.muster.platform.plugins.module_utils._systemd import systemctl
from ansible_collections.muster.platform.plugins.module_utils._valkey_state import SENTINEL_UNIT, SERVER_UNIT
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until


def processes(data_directory: str, proc: Path = Path("/proc")) -> list[int]:
    """The servers and Sentinels whose data these are: each works in its data directory."""
    wanted = os.path.realpath(data_directory)
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            program = os.path.basename(os.readlink(entry / "exe").removesuffix(" (deleted)"))
            place = os.readlink(entry / "cwd").removesuffix(" (deleted)")
            if program.startswith("valkey-") and place == wanted:
                found.append(int(entry.name))
    return sorted(found)


@dataclass
class ValkeyFence(Fence):
    """As PostgreSQL's, for two units: a Sentinel alone could make another host primary."""

    # The Sentinel first: it must not see the server go and choose another.
    units: Sequence[str] = (SENTINEL_UNIT, SERVER_UNIT)

    def masked(self) -> bool:
        return all(systemctl("is-enabled", unit, check=False) == "masked" for unit in self.units)

    def stopped(self) -> bool:
        states = [systemctl("show", "--property=ActiveState", "--value", unit) for unit in self.units]
        return all(state in ("inactive", "failed") for state in states) and not processes(self.data_directory)

    def doubts(self) -> list[str]:
        """Why this host could take writes now or after a reboot; empty when it cannot."""
        found = []
        if not self.marked():
            found.append(f"{self.marker} is missing or says nothing")
        if not self.masked():
            found.append(f"{' or '.join(self.units)} is not masked")
        if not self.stopped():
            found.append("Valkey or Sentinel still runs")
        return found + [f"something listens on port {port}" for port in listening(self.ports)]

    def put_up(self, note: dict[str, Any]) -> bool:
        """Stop, mask, prove; True when anything had to be done."""
        if not self.doubts():
            return False
        if not self.marked():
            self._mark(note)
        # The guard, which sees the marker, keeps them from starting meanwhile.
        self._stop()
        for unit in self.units:
            systemctl("mask", unit)
        doubts = self.doubts()
        if doubts:
            raise MusterError("the fence is not proven: " + "; ".join(doubts))
        return True

    def stands(self) -> bool:
        """Whether any of it keeps Valkey from starting."""
        masks = [systemctl("is-enabled", unit, check=False) for unit in self.units]
        return os.path.lexists(self.marker) or any(mask.startswith("masked") for mask in masks)

    def take_down(self) -> bool:
        """Let both start again; they are not started."""
        changed = self.stands()
        for unit in self.units:
            mask = systemctl("is-enabled", unit, check=False)
            if mask == "masked":
                systemctl("unmask", unit)
            elif mask == "masked-runtime":
                systemctl("unmask", "--runtime", unit)
        if os.path.lexists(self.marker):
            os.unlink(self.marker)
        return changed

    def _stop(self) -> None:
        """In a few seconds by itself, which still sends the replicas the last bytes; else by force."""
        for unit in self.units:
            systemctl("stop", "--no-block", unit)
        try:
            wait_until(self.stopped, "Valkey to stop", self.grace, 0.1)
            return
        except MusterError:
            pass
        for unit in self.units:
            systemctl("kill", "--signal=SIGKILL", unit, check=False)

        def killed() -> bool:
            for process in processes(self.data_directory):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            return self.stopped()

        wait_until(killed, "Valkey to end after it was killed", 10, 0.1)
