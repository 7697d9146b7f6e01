"""The timeline callback: in real runs of ansible-playbook, and its parts alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.callback import timeline
from descendants import none_left

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = """---
- name: First phase
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Fail and be rescued
      block:
        - ansible.builtin.fail: {msg: no matter}
      rescue:
        - ansible.builtin.debug: {var: muster_phases}
      vars:
        muster_phases:
          - {name: "fence: south", started_at: "2001-01-01T00:00:00.000000Z", seconds: 1.5}
          - {name: no seconds, started_at: "2001-01-01T00:00:00.000000Z"}
- name: Nobody
  hosts: nobody
- name: Second phase
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Say how it went
      ansible.builtin.debug: {var: muster_exit_code}
    - name: Take a while
      ansible.builtin.pause: {seconds: "{{ seconds }}"}
      when: seconds > 0
    - name: Fail
      ansible.builtin.fail: {msg: no}
      when: fails
"""


def command(directory: Path, **variables: Any) -> list[str]:
    (directory / "run.yml").write_text(PLAYBOOK)
    settings = {"muster_exit_code": 0, "seconds": 0, "fails": False, **variables}
    connection = ["--inventory=localhost,", "--connection=local", f"--extra-vars={json.dumps(settings)}"]
    return [sys.executable, "-m", "ansible", "playbook", *connection, str(directory / "run.yml")]


def environment(**more: str) -> dict[str, str]:
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "MUSTER_"))},
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".ansible" / "collections"),
        "ANSIBLE_CALLBACKS_ENABLED": "muster.platform.timeline",
        **more,
    }


def run(directory: Path, settings: dict[str, str], **variables: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(directory, **variables),
        env=environment(HOME=str(directory), **settings),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_run_is_timed_and_ends_with_the_code_it_was_given(tmp_path: Path) -> None:
    file = tmp_path / "made" / "timeline.json"
    done = run(tmp_path, {"MUSTER_TIMELINE": str(file)}, muster_exit_code=1)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "[00:00] First phase\n" in done.stdout
    last = re.search(r"Second phase: \d+\.\d s\n", done.stdout)
    assert last
    assert done.stdout.index("PLAY RECAP") < last.start()
    assert "Traceback" not in done.stdout + done.stderr
    told = json.loads(file.read_text())
    assert told["playbook"] == "run.yml"
    assert [phase["name"] for phase in told["phases"]] == ["fence: south", "First phase", "Second phase"]
    assert told["phases"][0]["seconds"] == 1.5
    assert told["stats"]["localhost"]["rescued"] == 1
    times = [told["started_at"], *[phase["started_at"] for phase in told["phases"][1:]], told["finished_at"]]
    assert times == sorted(times)
    assert datetime.strptime(times[0], "%Y-%m-%dT%H:%M:%S.%fZ")
    assert list(file.parent.iterdir()) == [file]


def test_a_failure_wins_over_the_code_and_zero_prints_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, {"MUSTER_TIMELINE": "0"}, muster_exit_code=1, fails=True)
    assert done.returncode == 2
    assert "[00:00]" not in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == ["run.yml"]


NAMES_A_FILE = """
- name: Open
  hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.set_fact: {muster_timeline_file: "{{ place }}/own.json"}
- name: Go on
  hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.meta: noop
"""


def test_a_file_that_the_playbook_names_is_written_beside_the_other(tmp_path: Path) -> None:
    """A drill reads its own phases: they are there although somebody else asked for them too."""
    (tmp_path / "names.yml").write_text(NAMES_A_FILE)
    asked = tmp_path / "asked.json"
    words = [sys.executable, "-m", "ansible", "playbook", "--inventory=localhost,", "--connection=local"]
    done = subprocess.run(
        [*words, f"--extra-vars=place={tmp_path}", str(tmp_path / "names.yml")],
        env=environment(HOME=str(tmp_path), MUSTER_TIMELINE=str(asked)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for file in (asked, tmp_path / "own.json"):
        assert [phase["name"] for phase in json.loads(file.read_text())["phases"]] == ["Open", "Go on"]


def test_a_killed_run_leaves_what_it_knew(tmp_path: Path) -> None:
    file = tmp_path / "timeline.json"
    settings = environment(HOME=str(tmp_path), MUSTER_TIMELINE=str(file), MUSTER_TIMELINE_QUIET="1")
    with none_left():
        process = subprocess.Popen(
            command(tmp_path, seconds=60), env=settings, cwd=tmp_path, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not (file.exists() and "Second phase" in file.read_text()):
            assert process.poll() is None, "the run ended by itself"
            assert time.monotonic() < deadline, "the second play never started"
            time.sleep(0.1)
        process.kill()
        process.wait(10)
    told = json.loads(file.read_text())
    assert told["finished_at"] is told["stats"] is None
    first, second = told["phases"][1:]
    assert (first["name"], second["name"]) == ("First phase", "Second phase")
    assert first["seconds"] >= 0
    assert second["seconds"] is None


def test_a_long_task_is_shown_every_ten_seconds_with_its_hosts() -> None:
    progress = timeline.Progress()
    for number in range(7):
        progress.start(f"host-{number}", "u1", "Wait for etcd", 100.0)
    progress.start("host-9", "u2", "Quick", 108.0)
    assert progress.due(109.9) == []
    progress.end("host-0", "u1")
    waiting = "host-1, host-2, host-3, host-4, host-5 and 1 more"
    assert progress.due(110.0) == [f"  … 10 s  Wait for etcd (waiting for {waiting})"]
    assert progress.due(111.0) == []
    progress.end("host-9", "u2")
    assert progress.due(120.0) == [f"  … 20 s  Wait for etcd (waiting for {waiting})"]
    progress.clear()
    assert progress.due(200.0) == []


def test_a_file_that_cannot_be_written_warns_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    warnings: list[str] = []
    callback = timeline.CallbackModule()
    monkeypatch.setattr(callback._display, "warning", warnings.append)
    callback.files = [str(tmp_path / "file" / "timeline.json")]
    callback._write(None)
    callback._write(None)
    assert warnings == [f"the timeline cannot be written to {tmp_path}/file/timeline.json: File exists"]


def test_the_clock_has_minutes() -> None:
    assert [timeline.clock(seconds) for seconds in (0, 59.9, 61, 6001)] == [
        "00:00",
        "00:59",
        "01:01",
        "100:01",
    ]
