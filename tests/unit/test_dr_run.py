# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""dr_run: the action's real run(), and real playbooks by the ansible-playbook beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from action_fake import run_action
from ansible.errors import AnsibleActionFail
from ansible_collections.muster.platform.plugins.action import dr_run

COLLECTIONS = Path(dr_run.__file__).parents[5]
WORKS = """
- name: First things first
  hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: Note what came
      ansible.builtin.copy:
        dest: "{{ place }}/came"
        content: "{{ [word, ansible_check_mode, groups['known'] | default([])] | to_json }}"
        mode: "0600"
- name: Then the rest
  hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: Nothing
      ansible.builtin.meta: noop
"""
FAILS = """
- name: Go wrong
  hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: Refuse
      ansible.builtin.fail:
        msg: "the gate {{ gate }} refuses"
"""
# Its process lives on its own, as a module's on a host does; its number says whether it was ended.
HANGS = """
- name: Hang
  hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: Wait for ever
      ansible.builtin.command: "sh -c 'echo $$ > {{ place }}/pid; exec sleep 300'"
"""
LOOKS = """
- name: Look at the file with the variables
  hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: Who may read it
      ansible.builtin.shell: >-
        for file in $(tr '\\0' '\\n' </proc/{{ lookup('ansible.builtin.pipe', 'echo $PPID') }}/cmdline
        | sed -n 's/^@//p'); do echo "$file"; stat -c %a "$file" "$(dirname "$file")"; done >{{ place }}/looked
      changed_when: false
"""


@pytest.fixture(autouse=True)
def _outside_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the collection is installed and nobody has made an ansible.cfg."""
    for name in [name for name in os.environ if name.startswith(("ANSIBLE_", "MUSTER_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ANSIBLE_COLLECTIONS_PATH", str(COLLECTIONS))
    monkeypatch.setenv("ANSIBLE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def run(place: Path, text: str, check: bool = False, **more: Any) -> dict[str, Any]:
    playbook = place / "play.yml"
    playbook.write_text(text)
    inventory = place / "inventory.yml"
    inventory.write_text("known: {hosts: {n1: {}, n2: {}}}\n")
    variables = {"place": str(place), **more.pop("extra_vars", {})}
    given = {"playbook": str(playbook), "extra_vars": variables, **more}
    return run_action(dr_run, given, {"ansible_inventory_sources": [str(inventory)]}, check)


def test_a_playbook_that_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = run(tmp_path, WORKS, extra_vars={"word": 'it\'s {"ok"}'})
    assert (answer["rc"], answer["changed"], answer.get("failed", False)) == (0, True, False), answer
    assert json.loads((tmp_path / "came").read_text()) == ['it\'s {"ok"}', False, ["n1", "n2"]]
    phases = answer["muster_phases"]
    assert [phase["name"] for phase in phases] == ["First things first", "Then the rest"]
    assert all(phase["seconds"] >= 0 and phase["started_at"].endswith("Z") for phase in phases)
    assert answer["seconds"] >= sum(phase["seconds"] for phase in phases)
    assert answer["started_at"] <= phases[0]["started_at"]
    shown = capsys.readouterr().out
    assert answer["lines"]
    assert all(line.strip() in shown for line in answer["lines"])


def test_check_mode_is_passed_on(tmp_path: Path) -> None:
    answer = run(tmp_path, WORKS, check=True, extra_vars={"word": "x"})
    assert answer["rc"] == 0, answer
    assert not (tmp_path / "came").exists()


def test_a_failure_says_why(tmp_path: Path) -> None:
    answer = run(tmp_path, FAILS, extra_vars={"gate": "fence"})
    assert (answer["failed"], answer["rc"]) == (True, 2)
    assert answer["msg"].startswith("play.yml ended with 2: ")
    assert "the gate fence refuses" in answer["msg"]
    assert any("the gate fence refuses" in line for line in answer["lines"])
    assert [phase["name"] for phase in answer["muster_phases"]] == ["Go wrong"]


def test_a_failure_that_is_expected_is_none(tmp_path: Path) -> None:
    answer = run(tmp_path, FAILS, fail=False, extra_vars={"gate": "fence"})
    assert (answer["rc"], answer.get("failed", False)) == (2, False)
    assert "msg" not in answer


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture
def time_out_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """The time is over as soon as a file is written, however long a busy machine takes to come to it."""
    wait = dr_run.Run.wait

    def prepare(file: Path) -> None:
        def wait_for_it(process: dr_run.Run, _timeout: float) -> int:
            deadline = time.monotonic() + 90
            while not (file.exists() and file.read_text()) and time.monotonic() < deadline:
                time.sleep(0.05)
            return wait(process, 0.1)

        monkeypatch.setattr(dr_run.Run, "wait", wait_for_it)

    return prepare


def test_a_timeout_ends_it_and_what_it_had_begun(tmp_path: Path, time_out_at: Callable[[Path], None]) -> None:
    time_out_at(tmp_path / "pid")
    answer = run(tmp_path, HANGS, timeout=8)
    assert (answer["failed"], answer["rc"]) == (True, 124)
    assert answer["msg"].startswith("play.yml did not end in 8 s: ")
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 30
    while not ended(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ended(pid)
    assert answer["muster_phases"] == [], "it had not come to the end of one"


def test_one_that_does_not_listen_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, time_out_at: Callable[[Path], None]
) -> None:
    """Neither it nor what it left behind with its output may hold the drill up."""
    deaf = (
        "import pathlib, signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "child = subprocess.Popen(['sleep', '300'], start_new_session=True); "
        "print('child', child.pid, flush=True); pathlib.Path('pid').write_text(str(child.pid)); child.wait()"
    )
    monkeypatch.setattr(dr_run, "command", lambda *_given: [dr_run.sys.executable, "-c", deaf])
    monkeypatch.setattr(dr_run, "GRACE", 0.5)
    time_out_at(tmp_path / "pid")
    answer = run(tmp_path, WORKS, timeout=1)
    assert answer["rc"] == 124
    assert answer["msg"].startswith("play.yml did not end in 1 s: child ")
    assert ended(int(answer["lines"][0].split()[1]))


def test_the_variables_are_for_nobody_else_and_are_gone_afterwards(tmp_path: Path) -> None:
    answer = run(tmp_path, LOOKS, extra_vars={"secret": "very-secret"})
    assert answer["rc"] == 0, answer
    name, mode, place = (tmp_path / "looked").read_text().split()
    assert (mode, place) == ("600", "700")
    assert not Path(name).exists()
    assert not Path(name).parent.exists()
    assert "very-secret" not in str(answer)


def test_a_playbook_that_is_not_there_is_refused() -> None:
    with pytest.raises(AnsibleActionFail, match=r"playbook: there is no file /nowhere/x\.yml"):
        run_action(dr_run, {"playbook": "/nowhere/x.yml"}, {})


@pytest.mark.parametrize(
    ("on", "then"),
    [
        ("profile_tasks", "profile_tasks,muster.platform.timeline"),
        ("muster.platform.timeline", "muster.platform.timeline"),
    ],
)
def test_callbacks_that_are_on_stay_on(monkeypatch: pytest.MonkeyPatch, on: str, then: str) -> None:
    monkeypatch.setenv("ANSIBLE_CALLBACKS_ENABLED", on)
    assert dr_run.environment("x")["ANSIBLE_CALLBACKS_ENABLED"] == then


OUTER = """
- name: Outer
  hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: Go
      muster.platform.dr_run:
        playbook: "{{ place }}/inner.yml"
        extra_vars: {own: step}
"""
INNER = """
- name: Inner
  hosts: localhost
  connection: local
  gather_facts: false
  vars_files: [vault.yml]
  tasks:
    - name: Note what came
      ansible.builtin.copy:
        dest: "{{ place }}/came"
        content: "{{ [dr_approver, from_file, own, secret, told] | to_json }}"
        mode: "0600"
      vars:
        told: "{{ lookup('ansible.builtin.pipe', 'ps -o args= -p $PPID') is search('word-of-the-vault') }}"
"""


def test_what_the_outer_command_line_said_holds_inside(tmp_path: Path) -> None:
    """Extra variables, a file of them, the vault's password, and the step's own variables above all."""
    programs = Path(sys.executable).parent
    (tmp_path / "word").write_text("word-of-the-vault\n")
    (tmp_path / "vault.yml").write_text("secret: opened\n")
    sealed = [
        programs / "ansible-vault",
        "encrypt",
        "--vault-id",
        f"prod@{tmp_path}/word",
        tmp_path / "vault.yml",
    ]
    subprocess.run(sealed, check=True, capture_output=True)
    (tmp_path / "outer.yml").write_text(OUTER)
    (tmp_path / "inner.yml").write_text(INNER)
    (tmp_path / "more.yml").write_text("from_file: read\nown: outer\n")
    words = [programs / "ansible-playbook", "-e", f"place={tmp_path}", "-e", "@more.yml"]
    words += ["-e", '{"dr_approver": "Ann Lee, INC-42"}', "--vault-id", f"prod@{tmp_path}/word"]
    done = subprocess.run([*words, "outer.yml"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "came").read_text()) == ["Ann Lee, INC-42", "read", "step", "opened", False]


def test_passwords_that_were_typed_in_are_passed_in_private_files(tmp_path: Path) -> None:
    class Context:
        password, become_pass = "knock", "sudo-word"

    words = dr_run.secret_options(str(tmp_path), None, Context())
    assert words == [
        f"--connection-password-file={tmp_path}/password",
        f"--become-password-file={tmp_path}/become_pass",
    ]
    assert (tmp_path / "password").read_text() == "knock"
    assert (tmp_path / "become_pass").read_text() == "sudo-word"
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
