# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Fencing a store on the host it runs on: stopped, masked over reboots, and proven to be."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._files import write_file
from ansible_collections.muster.platform.plugins.module_utils._systemd import systemctl
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

PROC = Path("/proc")
LISTEN = "0A"  # the state of a listening socket in /proc/net/tcp
GRACE = 5.0  # seconds that a store has to stop by itself before it is killed
KILLED = 10.0  # seconds in which what was killed must be gone
# What the modules take beside the store's own options: see the doc fragment fence.
ARGUMENTS: dict[str, Any] = {
    "state": {"type": "str", "choices": ["fenced", "released"], "default": "fenced"},
    "operation": {"type": "str", "default": ""},
    "reason": {"type": "str", "default": ""},
    "grace": {"type": "float", "default": GRACE},
}


def listening(ports: Collection[int], proc: Path = PROC) -> list[int]:
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


def processes(fits: Callable[[Path], bool], proc: Path = PROC) -> list[int]:
    """The processes whose folder in /proc fits; one that ends meanwhile is none."""
    found = []
    for entry in proc.iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if fits(entry):
                    found.append(int(entry.name))
    return sorted(found)


def program(entry: Path) -> str:
    """The name of the program that a process runs, also when an upgrade has replaced its file."""
    return os.path.basename(os.readlink(entry / "exe").removesuffix(" (deleted)"))


def directory(entry: Path) -> str:
    """Where a process works."""
    return os.readlink(entry / "cwd").removesuffix(" (deleted)")


@dataclass
class Fence:
    """The fence of one store on one host."""

    what: str  # its processes, for a person
    marker: str
    units: Sequence[str]  # in the order in which they are stopped
    find: Callable[[], list[int]]  # its processes that are left
    ports: Collection[int]
    grace: float = GRACE

    # --- looking ---

    def marked(self) -> dict[str, Any] | None:
        """What the fence noted when it was put up; None when there is none, empty when it cannot be read.

        The guards look at the file alone: one that a person made by hand is a fence too.
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

    def unmasked(self) -> list[str]:
        """The units that are not masked for good; a runtime mask ends with the next boot."""
        return [unit for unit in self.units if enabled(unit) != "masked"]

    def running(self) -> list[str]:
        """The units that have not ended."""
        return [
            unit
            for unit in self.units
            if systemctl("show", "--property=ActiveState", "--value", unit) not in ("inactive", "failed")
        ]

    def stopped(self) -> bool:
        return not self.running() and not self.find()

    def doubts(self) -> list[str]:
        """Why this host could take writes now or after a reboot; empty when it cannot."""
        found = []
        if not self.marked():
            found.append(f"{self.marker} is missing or says nothing")
        found += [f"{unit} is not masked" for unit in self.unmasked()]
        if not self.stopped():
            found.append(f"{self.what} still runs")
        return found + [f"something listens on port {port}" for port in listening(self.ports)]

    def proof(self) -> dict[str, Any]:
        """What is seen of it now."""
        return {
            "masked": not self.unmasked(),
            "processes": len(self.find()),
            "listening": listening(self.ports),
            "proven_at": now_text(),
        }

    # --- changing ---

    def put_up(self, note: Mapping[str, Any]) -> bool:
        """Stop, mask, prove; True when anything had to be done."""
        if not self.doubts():
            return False
        if not self.marked():
            self._mark(note)
        # Not masked before it is stopped: a masked unit has lost what it says of how to stop. Until then the
        # guard, which sees the marker, keeps it from starting.
        self._stop()
        for unit in self.unmasked():
            systemctl("mask", unit)
        doubts = self.doubts()
        if doubts:
            raise MusterError("the fence is not proven: " + "; ".join(doubts))
        return True

    def stands(self) -> bool:
        """Whether any of it keeps the store from starting."""
        return os.path.lexists(self.marker) or any(enabled(unit).startswith("masked") for unit in self.units)

    def take_down(self) -> bool:
        """Let the store start again; it is not started."""
        changed = False
        for unit in self.units:
            if enabled(unit) == "masked":
                systemctl("unmask", unit)
                changed = True
            if enabled(unit) == "masked-runtime":
                systemctl("unmask", "--runtime", unit)
                changed = True
        if os.path.lexists(self.marker):
            os.unlink(self.marker)
            changed = True
        return changed

    def _mark(self, note: Mapping[str, Any]) -> None:
        """On the disk before anything is stopped: whatever happens next, the host stays down."""
        os.makedirs(os.path.dirname(self.marker), exist_ok=True)
        write_file(self.marker, json.dumps({"fenced_at": now_text(), **note}), 0o644)

    def _stop(self) -> None:
        """In a few seconds by itself, which still sends the standbys what they lack; else by force."""
        for unit in self.units:
            systemctl("stop", "--no-block", unit)
        with contextlib.suppress(MusterError):
            wait_until(self.stopped, f"{self.what} to stop", self.grace, 0.1)
            return

        def killed() -> bool:
            # Again while it has not ended: what a unit runs to stop a store may wait for one that is dead.
            for unit in self.running():
                systemctl("kill", "--kill-who=all", "--signal=SIGKILL", unit, check=False)
            for process in self.find():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            return self.stopped()

        wait_until(killed, f"{self.what} to end", KILLED, 0.1)


def enabled(unit: str) -> str:
    return systemctl("is-enabled", unit, check=False)


def now_text() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def run(fence: Fence, params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """What the module of a store's fence does and returns."""
    if params["state"] == "released":
        changed = fence.stands() if check_mode else fence.take_down()
        return {"changed": changed, "fenced": False, "note": fence.marked()}
    if check_mode:
        return {"changed": bool(fence.doubts()), "note": fence.marked()}
    changed = fence.put_up({"operation": params["operation"], "reason": params["reason"]})
    return {"changed": changed, "fenced": True, "note": fence.marked(), "proof": fence.proof()}


# --- PostgreSQL -----------------------------------------------------------------------------


def servers(data_directory: str, proc: Path = PROC) -> list[int]:
    """The processes of the PostgreSQL server whose data these are: each works in its data directory."""
    wanted = os.path.realpath(data_directory)
    return processes(lambda entry: program(entry) == "postgres" and directory(entry) == wanted, proc)


def postgresql_fence(
    data_directory: str, marker: str, unit: str, ports: Collection[int], grace: float = GRACE
) -> Fence:
    what = f"PostgreSQL in {data_directory}, or Patroni,"
    return Fence(what, marker, (unit,), lambda: servers(data_directory), ports, grace)
