#!/usr/bin/python3
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run the scheduled drill, and write down how it went: for dr_status, and for node_exporter.

What it is about to do is written down first, so that a run which ended with the host leaves a trace.

Only the standard library.

usage: muster_drill_timer.py CONFIGURATION
"""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

KEPT = 20  # lines of output, of which the last ones tell what went wrong
TIMED_OUT = 124
METRICS = {
    "muster_scheduled_drill_last_start_timestamp_seconds": "When the scheduled drill last began.",
    "muster_scheduled_drill_last_pass_timestamp_seconds": "When the scheduled drill last passed; 0 is never.",
    "muster_scheduled_drill_passed": "Whether the last scheduled drill passed.",
    "muster_scheduled_drill_max_age_seconds": "How old the last pass may be.",
}


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write(path: Path, text: str, mode: int) -> None:
    """Replace a file at once: a reader never finds half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.chmod(mode)
    temporary.replace(path)


def read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def seconds_of(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0


def metrics(state: dict[str, Any], max_age_days: float) -> str:
    values = (
        seconds_of(state["started_at"]),
        seconds_of(state["last_passed_at"]),
        1 if state["passed"] else 0,
        max_age_days * 86400,
    )
    lines = []
    for (name, about), value in zip(METRICS.items(), values, strict=True):
        lines += [f"# HELP {name} {about}", f"# TYPE {name} gauge", f"{name} {value:.0f}"]
    return "\n".join(lines) + "\n"


def keep(config: dict[str, Any], state: dict[str, Any]) -> None:
    write(Path(config["state"]), json.dumps(state, indent=2, sort_keys=True) + "\n", 0o644)
    write(Path(config["metrics"]), metrics(state, config["max_age_days"]), 0o644)


def run(config: dict[str, Any]) -> tuple[int, str]:
    """The command's exit code and last words; its output goes to the journal."""
    process = subprocess.Popen(
        config["command"], env=os.environ | config["environment"], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    last: collections.deque[str] = collections.deque(maxlen=KEPT)

    def follow() -> None:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            if line.strip():
                last.append(line.strip())

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    try:
        code = process.wait(config["timeout"])
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return TIMED_OUT, f"it did not end within {config['timeout']:g} s"
    reader.join(5)
    # Ansible's own account of a failure, where there is one; the recap says nothing.
    told = [line for line in last if "did not pass" in line or "msg:" in line.lower()]
    return code, (told or list(last) or ["it said nothing"])[-1][:300]


def main(path: str) -> int:
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    state = {
        "schema_version": 1,
        "started_at": stamp(time.time()),
        "ended_at": None,
        "passed": None,
        "exit_code": None,
        "detail": "",
        "last_passed_at": read(Path(config["state"])).get("last_passed_at"),
    }
    keep(config, state)
    try:
        code, detail = run(config)
    except OSError as error:
        code, detail = 127, f"{config['command'][0]} cannot be run: {error.strerror}"
    ended = stamp(time.time())
    state |= {
        "ended_at": ended,
        "passed": code == 0,
        "exit_code": code,
        "detail": "" if code == 0 else detail,
    }
    if code == 0:
        state["last_passed_at"] = ended
    keep(config, state)
    return 1 if code else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(sys.argv[1]))
