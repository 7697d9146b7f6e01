# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bring systemd units into their wanted state, reading all of them with one call."""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._config import (
    diff_entry,
    hide,
    run_program,
)
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

UNIT_DIRECTORIES = (
    "/etc/systemd/system/",
    "/run/systemd/system/",
    "/usr/lib/systemd/",
    "/lib/systemd/",
)
BOOTED = "/run/systemd/system"
START_SECONDS = 300
JOURNAL_LINES = 15
PROPERTIES = (
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "NeedDaemonReload",
    "ConditionResult",
    "ConditionTimestampMonotonic",
)
NO_INSTALL_SECTION = ("static", "transient")
NOT_ENABLED = ("disabled", "linked", "linked-runtime", "enabled-runtime", "masked", "bad", "")


@dataclass
class Unit:
    """A wanted unit, what systemd says of it, and the steps that lead there."""

    name: str
    enabled: bool | None = None
    state: str | None = None
    masked: bool | None = None
    leave_masked: bool = False
    shown: dict[str, str] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)

    def get(self, key: str) -> str:
        return self.shown.get(key, "")

    @property
    def exists(self) -> bool:
        return self.get("LoadState") not in ("", "not-found")

    @property
    def is_masked(self) -> bool:
        return self.get("LoadState") == "masked" or self.get("UnitFileState").startswith("masked")

    @property
    def is_enabled(self) -> bool:
        return self.exists and self.get("UnitFileState") not in (*NOT_ENABLED, *NO_INSTALL_SECTION)

    @property
    def has_no_install_section(self) -> bool:
        return self.get("UnitFileState") in NO_INSTALL_SECTION

    @property
    def is_active(self) -> bool:
        """Active, or on the way: but not in a loop of failing restarts."""
        if self.get("ActiveState") == "activating":
            return self.get("SubState") != "auto-restart"
        return self.get("ActiveState") in ("active", "reloading", "refreshing")

    @property
    def is_stopped(self) -> bool:
        return self.get("ActiveState") in ("inactive", "failed", "")

    @property
    def condition_failed(self) -> bool:
        """systemd did not start it because a Condition of the unit says no."""
        return (
            self.get("ConditionResult") == "no"
            and self.get("ConditionTimestampMonotonic") not in ("", "0")
            and self.is_stopped
        )

    @property
    def is_left_alone(self) -> bool:
        return self.leave_masked and self.is_masked

    def plan(self) -> list[str]:
        if self.is_left_alone:
            return []
        steps = []
        if self.masked is False and self.is_masked:
            steps.append("unmask")
        if self.enabled is True and not self.is_enabled and not self.has_no_install_section:
            steps.append("enable")
        if self.enabled is False and self.get("UnitFileState") in ("enabled", "enabled-runtime"):
            steps.append("disable")
        if self.state == "started" and not self.is_active:
            steps.append("start")
        if self.state == "stopped" and not self.is_stopped:
            steps.append("stop")
        if self.masked is True and not self.is_masked:
            steps.append("mask")
        return steps

    def refuse_impossible(self, provided: set[str]) -> None:
        """Raise when what is asked cannot be, before anything was changed."""
        if self.is_left_alone:
            return
        if not self.exists:
            if (self.enabled or self.state == "started") and not self.is_provided(provided):
                raise MusterError(f"the unit {self.name} does not exist on this host")
            return
        if self.is_provided(provided):
            return
        if self.is_masked and self.masked is not False and (self.enabled or self.state == "started"):
            wanted = "started" if self.state == "started" else "enabled"
            raise MusterError(
                f"the unit {self.name} is masked, so it cannot be {wanted}; set `masked: false`"
            )
        if self.enabled and self.has_no_install_section:
            raise MusterError(f"the unit {self.name} has no [Install] section, so it cannot be enabled")

    def is_provided(self, provided: set[str]) -> bool:
        return self.name in provided or re.sub(r"@.*(\.\w+)$", r"@\1", self.name) in provided

    def report(self) -> dict[str, Any]:
        return {
            "active": self.get("ActiveState"),
            "sub": self.get("SubState"),
            "load": self.get("LoadState"),
            "enabled": self.get("UnitFileState"),
            "condition_failed": self.condition_failed,
            "steps": self.steps,
        }

    def diff(self) -> dict[str, str]:
        before, after = [], []
        words = {
            "unmask": ("masked: true", "masked: false"),
            "mask": ("masked: false", "masked: true"),
            "enable": ("enabled: false", "enabled: true"),
            "disable": ("enabled: true", "enabled: false"),
            "start": (f"state: {self.get('ActiveState') or 'unknown'}", "state: started"),
            "stop": (f"state: {self.get('ActiveState') or 'unknown'}", "state: stopped"),
        }
        for step in self.steps:
            before.append(words[step][0] + "\n")
            after.append(words[step][1] + "\n")
        return diff_entry(self.name, "".join(before), "".join(after))


def below_unit_directory(path: str) -> bool:
    return path.startswith(UNIT_DIRECTORIES)


def systemctl(*arguments: str) -> tuple[int, str, str]:
    try:
        return run_program(["systemctl", *arguments], START_SECONDS)
    except FileNotFoundError as error:
        raise MusterError("systemctl is not installed on this host") from error
    except subprocess.TimeoutExpired as error:
        raise MusterError(f"`systemctl {' '.join(arguments)}` did not end in {START_SECONDS} s") from error


class Units:
    """The wanted units of one call."""

    def __init__(self, entries: list[dict[str, Any]], secrets: list[bytes], check_mode: bool) -> None:
        self.units = [
            Unit(
                entry["name"],
                entry.get("enabled"),
                entry.get("state"),
                entry.get("masked"),
                bool(entry.get("leave_masked")),
            )
            for entry in entries
        ]
        self.secrets = secrets
        self.check_mode = check_mode
        self.reloaded = False

    def read(self) -> None:
        """Ask systemd for the state of every unit, in one call."""
        if not self.units:
            return
        if not os.path.isdir(BOOTED):
            if self.check_mode:
                return
            raise MusterError(f"systemd does not run on this host, so {self.units[0].name} cannot be managed")
        names = [unit.name for unit in self.units]
        code, output, errors = systemctl("show", f"--property={','.join(PROPERTIES)}", "--", *names)
        blocks = output.strip("\n").split("\n\n")
        if code != 0 or len(blocks) != len(names):
            raise MusterError(f"systemctl could not show {', '.join(names)}: {errors.strip()}")
        for unit, block in zip(self.units, blocks, strict=True):
            unit.shown = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)

    def refuse_impossible(self, provided: set[str]) -> None:
        for unit in self.units:
            unit.refuse_impossible(provided)

    def plan(self) -> None:
        for unit in self.units:
            unit.steps = unit.plan()
            if self.check_mode and unit.condition_failed and "start" in unit.steps:
                unit.steps.remove("start")

    @property
    def need_reload(self) -> bool:
        return any(unit.get("NeedDaemonReload") == "yes" for unit in self.units)

    @property
    def changed(self) -> bool:
        return self.reloaded or any(unit.steps for unit in self.units)

    def reload(self) -> None:
        if not os.path.isdir(BOOTED):
            return
        code, _output, errors = systemctl("daemon-reload")
        if code != 0:
            raise MusterError(f"systemd did not reload its units: {errors.strip()}")
        self.reloaded = True

    def apply(self) -> None:
        """Enable and mask together, start and stop one by one, in the order given."""
        self._unmask()
        # Once more, now that the files are in place: this call may have brought the unit.
        self.refuse_impossible(set())
        for step in ("enable", "disable"):
            names = [unit.name for unit in self.units if step in unit.steps]
            if names:
                self._run(step, names)
        for unit in self.units:
            if "stop" in unit.steps:
                self._run("stop", [unit.name])
            if "start" in unit.steps:
                self._start(unit)
        names = [unit.name for unit in self.units if "mask" in unit.steps]
        if names:
            self._run("mask", names)
        if any(unit.steps for unit in self.units):
            self.read()
            self._check_started()

    def _unmask(self) -> None:
        """Unmask first: only then systemd tells whether the unit is enabled."""
        masked = [unit for unit in self.units if "unmask" in unit.steps]
        if not masked:
            return
        self._run("unmask", [unit.name for unit in masked])
        self.read()
        self.plan()
        for unit in masked:
            unit.steps.insert(0, "unmask")

    def _run(self, verb: str, names: list[str]) -> None:
        code, _output, errors = systemctl("--quiet", verb, "--", *names)
        if code != 0:
            raise MusterError(
                f"`systemctl {verb} {' '.join(names)}` failed: {hide(errors.strip(), self.secrets)}"
            )

    def _start(self, unit: Unit) -> None:
        began = time.time()
        code, _output, errors = systemctl("--quiet", "start", "--", unit.name)
        if code != 0:
            said = hide(errors.strip(), self.secrets)
            raise MusterError(
                f"the unit {unit.name} does not start{': ' + said if said else ''}"
                f"\n{self._journal(unit.name, began)}"
            )

    def _check_started(self) -> None:
        """A simple service may be dead a moment after systemctl called it started."""
        for unit in self.units:
            if "start" not in unit.steps:
                continue
            if unit.condition_failed:
                unit.steps.remove("start")
            elif unit.get("ActiveState") == "failed" or unit.get("SubState") == "auto-restart":
                raise MusterError(
                    f"the unit {unit.name} started and ended at once"
                    f"\n{self._journal(unit.name, time.time() - 10)}"
                )

    def _journal(self, name: str, since: float) -> str:
        command = [
            "journalctl",
            "--no-pager",
            "--output=cat",
            f"--lines={JOURNAL_LINES}",
            f"--since=@{int(since)}",
            f"--unit={name}",
        ]
        try:
            lines = run_program(command, 20)[1].strip()
        except (OSError, subprocess.TimeoutExpired):
            return "its journal cannot be read"
        return (
            f"the end of its journal:\n{hide(lines, self.secrets)}"
            if lines
            else "its journal holds no line about it"
        )
