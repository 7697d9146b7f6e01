# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The brief callback, in real runs of ansible-playbook."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = """---
- name: A play
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Well done
      ansible.builtin.debug: {msg: well done}
    - name: Many
      ansible.builtin.debug: {msg: "many {{ item }}"}
      loop: [1, 2]
    - name: Skipped
      ansible.builtin.debug: {msg: skipped}
      when: false
    - name: Included
      ansible.builtin.include_tasks: more.yml
    - name: Show the result
      muster.platform.show: {lines: [the result]}
    - name: Broken
      ansible.builtin.fail: {msg: this is broken}
      when: broken
- name: Nobody there
  hosts: nobody
"""


@pytest.fixture
def play(tmp_path: Path) -> Path:
    (tmp_path / "run.yml").write_text(PLAYBOOK)
    (tmp_path / "more.yml").write_text(
        "---\n- name: More\n  ansible.builtin.set_fact: {x: 1}\n  changed_when: true\n"
    )
    return tmp_path


def output(play: Path, broken: bool, *more: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "ansible", "playbook", "--inventory=localhost,", "--connection=local"]
    command += [f"--extra-vars={{broken: {str(broken).lower()}}}", *more, str(play / "run.yml")]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "MUSTER_"))}
    environment = {
        **kept,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".ansible" / "collections"),
        "ANSIBLE_HOME": str(play / "home"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_STDOUT_CALLBACK": "muster.platform.brief",
    }
    done = subprocess.run(
        command, env=environment, cwd=play, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout


def test_what_went_well_is_not_printed(play: Path) -> None:
    code, text = output(play, False)
    assert code == 0
    assert text.strip("\n") == "the result"


def test_what_failed_is_printed_with_its_task(play: Path) -> None:
    code, text = output(play, True)
    assert code == 2
    assert "this is broken" in text
    assert "Broken" in text
    for quiet in ("Well done", "many", "skipped", "RECAP", "A play"):
        assert quiet not in text, quiet


def test_everything_is_printed_when_asked_for(play: Path) -> None:
    code, text = output(play, False, "-v")
    assert code == 0
    for said in ("PLAY [A play]", "TASK [Well done]", "well done", "many 2", "included: ", "RECAP"):
        assert said in text, said
