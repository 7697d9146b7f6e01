# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Action of muster.platform.dr_run: another playbook, as a process of its own, over the same inventory."""

from __future__ import annotations

import collections
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

display = Display()
KEPT = 60  # lines of output
TIMED_OUT = 124


def command(playbook: str, inventory: Iterable[str], variables: str, check_mode: bool) -> list[str]:
    """The ansible-playbook of this very installation."""
    words = [sys.executable, "-m", "ansible", "playbook"]
    for source in inventory:
        words += ["-i", source]
    return [*words, *(["--check"] if check_mode else []), "-e", f"@{variables}", playbook]


def environment(timeline: str) -> dict[str, str]:
    """Short output, a timeline of its own, and whose operation it is a step of (see dr_lock)."""
    parent = multiprocessing.parent_process()
    outer = parent.pid if parent is not None else os.getpid()
    return os.environ | {
        "MUSTER_OPERATION_PID": os.environ.get("MUSTER_OPERATION_PID", str(outer)),
        "ANSIBLE_STDOUT_CALLBACK": "muster.platform.brief",
        "ANSIBLE_FORCE_COLOR": "0",
        "MUSTER_TIMELINE": timeline,
        # Groups of hosts that answer may be empty.
        "ANSIBLE_HOST_PATTERN_MISMATCH": "ignore",
        "PYTHONUNBUFFERED": "1",
    }


def phases(timeline: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(Path(timeline).read_text(encoding="utf-8"))["phases"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [phase for phase in found if phase.get("seconds") is not None]


def run(words: list[str], timeline: str, timeout: float) -> tuple[int, list[str]]:
    """Its exit code and last lines; each line is shown as it comes."""
    last: collections.deque[str] = collections.deque(maxlen=KEPT)
    ended = threading.Event()
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment(timeline),
    ) as process:

        def end() -> None:
            ended.set()
            process.terminate()

        timer = threading.Timer(timeout, end)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                last.append(line.rstrip())
                display.display(f"  {line.rstrip()}")
            code = process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:
                process.terminate()
    return (TIMED_OUT if ended.is_set() else code), list(last)


class ActionModule(ActionBase):
    """muster.platform.dr_run."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _valid, arguments = self.validate_argument_spec(
            argument_spec={
                "playbook": {"type": "path", "required": True},
                "extra_vars": {"type": "dict", "default": {}},
                "timeout": {"type": "float", "default": 3600},
                "fail": {"type": "bool", "default": True},
            }
        )
        playbook = arguments["playbook"]
        if not Path(playbook).is_file():
            raise AnsibleActionFail(f"playbook: there is no file {playbook}")
        began, started_at = time.monotonic(), datetime.now(UTC)
        with tempfile.TemporaryDirectory(prefix="muster-run-") as directory:
            variables, timeline = f"{directory}/vars.json", f"{directory}/timeline.json"
            # The directory is this user's alone.
            Path(variables).write_text(json.dumps(arguments["extra_vars"]), encoding="utf-8")
            inventory = (task_vars or {}).get("ansible_inventory_sources") or []
            words = command(playbook, inventory, variables, self._task.check_mode)
            code, lines = run(words, timeline, arguments["timeout"])
            found = phases(timeline)
        result |= {
            "changed": True,
            "rc": code,
            "failed": False,  # otherwise Ansible takes the exit code for the task's
            "seconds": round(time.monotonic() - began, 3),
            "started_at": started_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "lines": lines,
            "muster_phases": found,
        }
        if code and arguments["fail"]:
            said = [line.strip() for line in lines if line.strip()]
            why = f"did not end in {arguments['timeout']:g} s" if code == TIMED_OUT else f"ended with {code}"
            result |= {"failed": True, "msg": f"{Path(playbook).name} {why}: " + " ".join(said[-4:])}
        return result
