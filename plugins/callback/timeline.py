# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: timeline
type: aggregate
short_description: Show how long each phase of a playbook takes, and record it
version_added: 0.1.0
author:
  - The Muster authors (@muster-platform)
description:
  - A phase is a play. A line is printed when a phase starts and when it ends, and every ten
    seconds while a task runs long, with the hosts that it waits for.
  - With O(timeline_file) the phases are written as JSON, at the start and the end of every
    play, so that a run that is killed leaves what it knew.
  - A playbook may name a file of its own, by setting the fact C(muster_timeline_file). Both are written then.
  - A task result that contains C(muster_phases), a list of C(name), C(started_at) and C(seconds),
    adds phases of its own.
  - A successful task result that contains a non-zero integer C(muster_exit_code) makes
    C(ansible-playbook) end with that code when nothing else failed.
requirements:
  - Listed in C(callbacks_enabled).
options:
  timeline_file:
    description:
      - File to write the phases to. Its directory is made when it is missing.
      - V(0) turns all output off, on the screen too.
    type: str
    env:
      - name: MUSTER_TIMELINE
    ini:
      - section: muster
        key: timeline_file
  quiet:
    description: Print nothing. The file and the exit code are not affected.
    type: bool
    default: false
    env:
      - name: MUSTER_TIMELINE_QUIET
    ini:
      - section: muster
        key: timeline_quiet
"""

import json
import os
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import filter_loader, test_loader
from ansible_collections.muster.platform.plugins.module_utils._files import write_file

PROGRESS_SECONDS = 10.0
SHOWN_HOSTS = 5


def now_text() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes:02d}:{rest:02d}"


def host_list(hosts: list[str]) -> str:
    shown = sorted(hosts)[:SHOWN_HOSTS]
    more = len(hosts) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def load_filters() -> None:
    """Load filters and tests in this process: each task's is forked from it, and would load them again."""
    filter_loader.get("muster.platform.regions")
    test_loader.get("ansible.builtin.match")


def own_phases(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The phases that a task measured itself; what has not their form is left out."""
    given = result.get("muster_phases")
    found = []
    for phase in given if isinstance(given, list) else []:
        if not isinstance(phase, Mapping):
            continue
        name, started_at, seconds = (phase.get(key) for key in ("name", "started_at", "seconds"))
        if isinstance(name, str) and isinstance(started_at, str) and isinstance(seconds, (int, float)):
            found.append({"name": str(name), "started_at": str(started_at), "seconds": seconds})
    return found


class Progress:
    """Which task runs on which host, and which of them is worth a line now.

    The thread that asks sees the dictionaries while the main thread changes them,
    so both hold the lock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[tuple[str, str], tuple[str, float]] = {}
        self._printed: dict[str, float] = {}

    def start(self, host: str, uuid: str, name: str, now: float) -> None:
        with self._lock:
            self._running.setdefault((host, uuid), (name, now))

    def end(self, host: str, uuid: str) -> None:
        with self._lock:
            self._running.pop((host, uuid), None)
            if not any(task == uuid for _host, task in self._running):
                self._printed.pop(uuid, None)

    def clear(self) -> None:
        with self._lock:
            self._running.clear()
            self._printed.clear()

    def due(self, now: float) -> list[str]:
        """The lines to print now: one for each task that has run long and was not shown lately."""
        lines = []
        with self._lock:
            tasks: dict[str, tuple[str, float, list[str]]] = {}
            for (host, uuid), (name, began) in self._running.items():
                first = tasks.setdefault(uuid, (name, began, []))
                tasks[uuid] = (name, min(first[1], began), [*first[2], host])
            for uuid, (name, began, hosts) in tasks.items():
                if now - max(began, self._printed.get(uuid, 0.0)) >= PROGRESS_SECONDS:
                    self._printed[uuid] = now
                    lines.append(f"  … {now - began:.0f} s  {name} (waiting for {host_list(hosts)})")
        return lines


class CallbackModule(CallbackBase):
    """Times the plays of a run."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "muster.platform.timeline"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.files: list[str] = []
        self.quiet = False
        self.exit_code = 0
        self.playbook = ""
        self.started_at = ""
        self.began = 0.0
        self.phases: list[dict[str, Any]] = []
        self.current: dict[str, Any] | None = None
        self.current_uuid = ""
        self.current_began = 0.0
        self.progress = Progress()
        self.stop = threading.Event()
        self.thread: threading.Thread | None = None

    def set_options(
        self,
        task_keys: dict[str, Any] | None = None,
        var_options: dict[str, Any] | None = None,
        direct: dict[str, Any] | None = None,
    ) -> None:
        super().set_options(task_keys=task_keys, var_options=var_options, direct=direct)
        file = self.get_option("timeline_file") or None
        self.quiet = bool(self.get_option("quiet")) or file == "0"
        self.files = [file] if file not in (None, "0") else []

    # --- plays -----------------------------------------------------------------

    def v2_playbook_on_start(self, playbook: Any) -> None:
        if self.started_at:
            return  # the second playbook of one command goes on with the first one's timeline
        self.playbook = os.path.basename(getattr(playbook, "_file_name", None) or "")
        self.started_at, self.began = now_text(), time.monotonic()
        load_filters()

    def v2_playbook_on_play_start(self, play: Any) -> None:
        uuid = str(play._uuid)
        if self.current is not None and uuid == self.current_uuid:
            return  # the next batch of a play with `serial`
        self._end_phase()
        name = play.get_name().strip()
        self.current = {"name": name, "started_at": now_text(), "seconds": None}
        self.current_uuid, self.current_began = uuid, time.monotonic()
        self.phases.append(self.current)
        self._print(f"[{clock(self.current_began - self.began)}] {name}")
        self._write(None)
        self._start_thread()

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """A play for no host took place nowhere: it is no phase."""
        if self.current is not None:
            self.phases.remove(self.current)
            self.current = None

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._stop_thread()
        self._end_phase()
        self._write({host: stats.summarize(host) for host in sorted(stats.processed)})
        if self.exit_code and not stats.failures and not stats.dark:
            # Not an Exception: the dispatcher of callbacks lets it through, and
            # ansible-playbook ends with this code after its own cleaning up.
            raise SystemExit(self.exit_code)

    def _end_phase(self) -> None:
        self.progress.clear()
        if self.current is None:
            return
        seconds = time.monotonic() - self.current_began
        self.current["seconds"] = round(seconds, 3)
        self._print(f"[{clock(time.monotonic() - self.began)}] {self.current['name']}: {seconds:.1f} s")
        self.current = None

    # --- tasks -----------------------------------------------------------------

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        self.progress.start(host.get_name(), str(task._uuid), task.get_name().strip(), time.monotonic())

    def v2_runner_on_ok(self, result: Any) -> None:
        self._task_ended(result)
        content = result.result
        self.phases.extend(own_phases(content))
        named = (content.get("ansible_facts") or {}).get("muster_timeline_file")
        if isinstance(named, str) and named not in self.files:
            # A playbook that needs its own phases later, such as a drill, says where.
            self.files.append(str(named))
        code = content.get("muster_exit_code")
        if isinstance(code, int) and not isinstance(code, bool):
            self.exit_code = max(self.exit_code, code)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._task_ended(result)
        self.phases.extend(own_phases(result.result))

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._task_ended(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._task_ended(result)

    def _task_ended(self, result: Any) -> None:
        self.progress.end(result.host.get_name(), str(result.task._uuid))

    # --- output ----------------------------------------------------------------

    def _print(self, line: str) -> None:
        if not self.quiet:
            self._display.display(line)

    def _start_thread(self) -> None:
        if self.quiet or self.thread is not None:
            return
        self.thread = threading.Thread(target=self._show_progress, name="muster-timeline", daemon=True)
        self.thread.start()

    def _stop_thread(self) -> None:
        self.stop.set()
        if self.thread is not None:
            self.thread.join(timeout=2)
        self.thread = None
        self.stop.clear()

    def _show_progress(self) -> None:
        while not self.stop.wait(1.0):
            for line in self.progress.due(time.monotonic()):
                self._print(line)

    def _write(self, stats: dict[str, Any] | None) -> None:
        """Write what is known now; a file that cannot be written warns once and stops no run."""
        if not self.files or context.CLIARGS.get("syntax"):
            return
        document = {
            "playbook": self.playbook,
            "started_at": self.started_at,
            "finished_at": None if stats is None else now_text(),
            "phases": sorted(self.phases, key=lambda phase: str(phase["started_at"])),
            "stats": stats,
        }
        for file in list(self.files):
            try:
                path = os.path.abspath(os.path.expanduser(file))
                os.makedirs(os.path.dirname(path), exist_ok=True)
                write_file(path, json.dumps(document, indent=2) + "\n", 0o644)
            except OSError as error:
                self._display.warning(f"the timeline cannot be written to {file}: {error.strerror}")
                self.files.remove(file)
