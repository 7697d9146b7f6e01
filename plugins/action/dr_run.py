# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Action of muster.platform.dr_run: another playbook, as a process of its own, over the same inventory."""

from __future__ import annotations

import collections
import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible import context
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

display = Display()
KEPT = 60  # lines of output
GRACE = 10.0  # seconds to end in, before it is killed
TIMELINE = "muster.platform.timeline"
TIMED_OUT = 124


# Options of the command line that say how to reach the hosts, with their words.
PASSED_ON = {
    "private_key_file": "--private-key",
    "remote_user": "--user",
    "connection": "--connection",
    "ssh_common_args": "--ssh-common-args",
    "ssh_extra_args": "--ssh-extra-args",
    "become_method": "--become-method",
    "become_user": "--become-user",
    "timeout": "--timeout",
    "forks": "--forks",
}


def outer_options(given: Mapping[str, Any]) -> list[str]:
    """What the outer run was given on its command line, as words for the inner one.

    Its extra variables come before the step's own, which win.
    """
    words = [f"{word}={given[name]}" for name, word in PASSED_ON.items() if given.get(name) not in (None, "")]
    return words + [f"--extra-vars={variables}" for variables in given.get("extra_vars") or ()]


def private_file(path: str, content: bytes) -> str:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    return path


def secret_options(directory: str, loader: Any, play_context: Any) -> list[str]:
    """The vaults' and the connection's passwords, typed in or read: AWX answers prompts with them."""
    words = []
    for number, (name, secret) in enumerate(getattr(getattr(loader, "_vault", None), "secrets", None) or ()):
        path = private_file(f"{directory}/vault-{number}", secret.bytes)
        words.append(f"--vault-id={name}@{path}")
    for attribute, word in (
        ("password", "--connection-password-file"),
        ("become_pass", "--become-password-file"),
    ):
        if password := getattr(play_context, attribute, None):
            words.append(f"{word}={private_file(f'{directory}/{attribute}', str(password).encode())}")
    return words


def command(playbook: str, inventory: Iterable[str], options: Iterable[str], check_mode: bool) -> list[str]:
    """The ansible-playbook of this very installation."""
    words = [sys.executable, "-m", "ansible", "playbook"]
    for source in inventory:
        words += ["-i", source]
    return [*words, *(["--check"] if check_mode else []), *options, playbook]


def environment(timeline: str) -> dict[str, str]:
    """Short output, a timeline of its own in any case, and whose operation it is a step of (see dr_lock)."""
    parent = multiprocessing.parent_process()
    outer = parent.pid if parent is not None else os.getpid()
    enabled = C.config.get_config_value("CALLBACKS_ENABLED") or []
    return os.environ | {
        "MUSTER_OPERATION_PID": os.environ.get("MUSTER_OPERATION_PID", str(outer)),
        "ANSIBLE_CALLBACKS_ENABLED": ",".join(dict.fromkeys([*enabled, TIMELINE])),
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


def family(pid: int) -> list[int]:
    """A process and all that it has begun, as far as they still hang together."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


class Run:
    """The process, its last lines, and its end at the timeout."""

    def __init__(self, words: list[str], timeline: str) -> None:
        self.last: collections.deque[str] = collections.deque(maxlen=KEPT)
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment(timeline),
        )
        # What it leaves behind may hold its output open: reading must not hold this process up.
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.last.append(line.rstrip())
            display.display(f"  {line.rstrip()}")

    def wait(self, timeout: float) -> int:
        """Its exit code, or TIMED_OUT."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.end()
            code = TIMED_OUT
        except BaseException:
            self.end()
            raise
        self.reader.join(GRACE)
        return code

    def end(self) -> None:
        """ansible-playbook ends its workers, and these what they have begun. What is left is killed."""
        members = family(self.process.pid)
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
            return
        for member in {*members, *family(self.process.pid)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        self.process.wait()


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
            timeline = f"{directory}/timeline.json"
            variables = private_file(f"{directory}/vars.json", json.dumps(arguments["extra_vars"]).encode())
            options = outer_options(context.CLIARGS)
            options += secret_options(directory, self._loader, self._play_context)
            inventory = (task_vars or {}).get("ansible_inventory_sources") or []
            words = command(playbook, inventory, [*options, "-e", f"@{variables}"], self._task.check_mode)
            process = Run(words, timeline)
            code = process.wait(arguments["timeout"])
            lines, found = list(process.last), phases(timeline)
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
