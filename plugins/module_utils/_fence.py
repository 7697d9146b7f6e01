# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Fencing PostgreSQL on the host it runs on: stopped, masked over reboots, and proven to be."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._files import write_file
from ansible_collections.muster.platform.plugins.module_utils._systemd import systemctl
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

LISTEN = "0A"  # the state of a listening socket in /proc/net/tcp
GRACE = 5.0  # seconds that PostgreSQL has to stop by itself before it is killed


def listening(ports: Collection[int], proc: Path = Path("/proc")) -> list[int]:
    """Which of the ports something on this host listens on."""
    found = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / name).read_text(encoding="ascii").splitlines()[1:]
        except FileNotFoundError:
            continue  # a host without IPv6
        for line in lines:
            cells = line.split()
            if cells[3] == LISTEN:
                found.add(int(cells[1].rsplit(":", 1)[1], 16))
    return sorted(found & set(ports))


def servers(data_directory: str, proc: Path = Path("/proc")) -> list[int]:
    """The processes of the PostgreSQL server whose data these are: each works in its data directory."""
    wanted = os.path.realpath(data_directory)
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            program = os.readlink(entry / "exe")
            if os.path.basename(program.removesuffix(" (deleted)")) == "postgres" and (
                os.readlink(entry / "cwd").removesuffix(" (deleted)") == wanted
            ):
                found.append(int(entry.name))
    return sorted(found)


@dataclass
class Fence:
    """The fence of one host's PostgreSQL."""

    data_directory: str
    marker: str
    unit: str = "patroni.service"
    ports: Collection[int] = field(default=(5432, 8008))
    grace: float = GRACE

    # --- looking ---

    def marked(self) -> dict[str, Any] | None:
        """What the fence noted when it was put up; None when there is none, empty when it cannot be read.

        The guard looks at the file alone: one that a person made by hand is a fence too.
        """
        try:
            with open(self.marker, encoding="utf-8") as stream:
                found = json.load(stream)
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        except OSError as error:
            raise MusterError(f"{self.marker} cannot be read: {error}") from error
        return found if isinstance(found, dict) and "fenced_at" in found else {}

    def masked(self) -> bool:
        """Whether the unit is masked for good; a runtime mask ends with the next boot."""
        return self._enabled() == "masked"

    def _enabled(self) -> str:
        return systemctl("is-enabled", self.unit, check=False)

    def stopped(self) -> bool:
        state = systemctl("show", "--property=ActiveState", "--value", self.unit)
        return state in ("inactive", "failed") and not servers(self.data_directory)

    def doubts(self) -> list[str]:
        """Why this host could take writes now or after a reboot; empty when it cannot."""
        found = []
        if not self.marked():
            found.append(f"{self.marker} is missing or says nothing")
        if not self.masked():
            found.append(f"{self.unit} is not masked")
        if not self.stopped():
            found.append("PostgreSQL or Patroni still runs")
        found += [f"something listens on port {port}" for port in listening(self.ports)]
        return found

    # --- changing ---

    def put_up(self, note: dict[str, Any]) -> bool:
        """Stop, mask, prove; True when anything had to be done."""
        if not self.doubts():
            return False
        if not self.marked():
            self._mark(note)
        # Not masked before it is stopped: a masked unit has lost what it says of how to stop. Until then the
        # guard, which sees the marker, keeps it from starting.
        self._stop()
        if not self.masked():
            systemctl("mask", self.unit)
        doubts = self.doubts()
        if doubts:
            raise MusterError("the fence is not proven: " + "; ".join(doubts))
        return True

    def stands(self) -> bool:
        """Whether any of it keeps Patroni from starting."""
        return os.path.lexists(self.marker) or self._enabled().startswith("masked")

    def take_down(self) -> bool:
        """Let Patroni start again; it is not started."""
        changed = False
        if self._enabled() == "masked":
            systemctl("unmask", self.unit)
            changed = True
        if self._enabled() == "masked-runtime":
            systemctl("unmask", "--runtime", self.unit)
            changed = True
        if os.path.lexists(self.marker):
            os.unlink(self.marker)
            changed = True
        return changed

    def _mark(self, note: dict[str, Any]) -> None:
        """On the disk before anything is stopped: whatever happens next, the host stays down."""
        note = {"fenced_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), **note}
        os.makedirs(os.path.dirname(self.marker), exist_ok=True)
        write_file(self.marker, json.dumps(note), 0o644)

    def _stop(self) -> None:
        """In a few seconds by itself, which still sends the standbys the last WAL; else by force."""
        systemctl("stop", "--no-block", self.unit)
        try:
            wait_until(self.stopped, f"{self.unit} to stop", self.grace, 0.1)
            return
        except MusterError:
            systemctl("kill", "--kill-who=all", "--signal=SIGKILL", self.unit, check=False)

        def killed() -> bool:
            for process in servers(self.data_directory):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            return self.stopped()

        wait_until(killed, f"PostgreSQL in {self.data_directory} to end", 10, 0.1)
