# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""dr_lock: real processes hold it, race for it and are killed."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from action_fake import Connection, Task
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.muster.platform.plugins.action import dr_lock as action
from ansible_collections.muster.platform.plugins.module_utils import _dr_lock
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.modules import dr_lock
from descendants import none_left

Answer = dict[str, Any]
HERE = Path(__file__).parent


class Run:
    """A process that stands for an ansible-playbook, and asks for the lock through the real action and module."""

    def __init__(
        self, directory: Path, module: Callable[..., Answer], patch: pytest.MonkeyPatch, pid: int
    ) -> None:
        self.directory, self.module, self.patch, self.pid = directory, module, patch, pid
        self.me: Answer = {}
        self.calls: list[Answer] = []
        self.before_verdict: Callable[[], object] | None = None

    def __call__(self, operation: str = "failover", target: str = "south", **more: Any) -> Answer:
        check = more.pop("check", False)
        arguments = {"operation": operation, "target": target, "directory": str(self.directory), **more}
        task, loader = Task(arguments), DataLoader()
        plugin = action.ActionModule(
            task=task,
            connection=Connection(),
            play_context=None,
            loader=loader,
            templar=Templar(loader=loader, variables={}),
            shared_loader_obj=None,
        )

        def execute(module_name: str, module_args: Answer, task_vars: Any) -> Answer:
            assert module_name == "muster.platform.dr_lock"
            self.calls.append(module_args)
            if module_args.get("verdict") and self.before_verdict:
                self.before_verdict()
            given = {**module_args, "me": {**module_args["me"], **self.me}}
            return self.module(dr_lock, given, check=check)

        self.patch.setattr(plugin, "_execute_module", execute)
        self.patch.setattr(action, "own_process", lambda: self.pid)
        answer: Answer = plugin.run(task_vars={})
        return answer


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "dr"


@pytest.fixture
def sleepers() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait(10)


@pytest.fixture
def start(
    lock: Path,
    run_module: Callable[..., Answer],
    monkeypatch: pytest.MonkeyPatch,
    sleepers: list[subprocess.Popen[bytes]],
) -> Callable[[], Run]:
    def begin() -> Run:
        sleepers.append(subprocess.Popen(["sleep", "600"]))
        return Run(lock, run_module, monkeypatch, sleepers[-1].pid)

    return begin


def end(run: Run, sleepers: list[subprocess.Popen[bytes]]) -> None:
    process = next(process for process in sleepers if process.pid == run.pid)
    process.kill()
    process.wait(10)


def events(lock: Path) -> list[Answer]:
    return [json.loads(line) for line in (lock / "operations.log").read_text().splitlines()]


def rewrite(lock: Path, **holder: Any) -> None:
    """Another holder than this machine could have."""
    path = lock / "operation.json"
    found = json.loads(path.read_text())
    found["holder"] |= {"token": "another", **holder}
    path.write_text(json.dumps(found))


# --- taking and releasing --------------------------------------------------------------------


def test_taken_and_released(lock: Path, start: Callable[[], Run]) -> None:
    run = start()
    taken = run()
    assert (taken["changed"], taken["nested"], taken["undecided"], taken["took_over"]) == (
        True,
        False,
        False,
        None,
    )
    written = json.loads((lock / "operation.json").read_text())
    assert written == taken["lock"]
    assert (written["operation"], written["target"], written["schema_version"]) == ("failover", "south", 1)
    assert written["since"].endswith("Z")
    assert set(written["holder"]) == set(_dr_lock.IDENTITY)
    assert written["holder"]["pid"] == run.pid
    assert stat.S_IMODE(lock.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in lock.iterdir()} == {0o600}
    released = run(state="released")
    assert (released["changed"], released["lock"]) == (True, None)
    assert sorted(path.name for path in lock.iterdir()) == ["lock", "operations.log"]
    assert [entry["event"] for entry in events(lock)] == ["taken", "released"]
    assert start()()["changed"] is True


def test_a_free_lock_is_released_already(start: Callable[[], Run]) -> None:
    assert start()(state="released")["changed"] is False


def test_the_same_run_has_it_already(lock: Path, start: Callable[[], Run]) -> None:
    run = start()
    first = run()
    again = run()
    assert (again["changed"], again["nested"], again["lock"]) == (False, False, first["lock"])
    assert len(events(lock)) == 1


def test_an_operation_inside_another_one_does_not_free_it(lock: Path, start: Callable[[], Run]) -> None:
    run = start()
    run("drill")
    inner = run("switchover")
    assert (inner["changed"], inner["nested"], inner["lock"]["operation"]) == (False, True, "drill")
    left = run("switchover", state="released")
    assert (left["changed"], left["nested"], left["lock"]["operation"]) == (False, True, "drill")
    assert (lock / "operation.json").exists()
    # The way back inside the same drill, to another region.
    run("switchover", "north")
    run("switchover", "north", state="released")
    assert "still runs" in start()("failover")["msg"]
    assert run("drill", state="released")["changed"] is True
    assert not (lock / "operation.json").exists()
    assert [entry["event"] for entry in events(lock)] == ["taken", "released"]


def test_the_other_direction_of_an_operation_does_not_free_it(start: Callable[[], Run]) -> None:
    run = start()
    run("switchover", "south")
    assert run("switchover", "north", state="released")["nested"] is True


# --- somebody else has it --------------------------------------------------------------------


def test_a_second_operation_is_refused_while_the_first_runs(lock: Path, start: Callable[[], Run]) -> None:
    first, second = start(), start()
    since = first()["lock"]["since"]
    for more in ({}, {"takeover": "I am in a hurry"}):
        for operation in ("failover", "reprotect"):
            answer = second(operation, **more)
            assert answer["failed"] is True
            user, host = _dr_lock.user_name(), os.uname().nodename
            assert answer["msg"] == (
                f"failover to south, begun by {user} on {host} (process {first.pid}), "
                f"holds the lock since {since}, and still runs: wait until it has ended"
            )
            assert answer["lock"]["holder"]["pid"] == first.pid
    assert first()["changed"] is False
    assert len(events(lock)) == 1


def test_only_the_holder_releases(lock: Path, start: Callable[[], Run]) -> None:
    first, second = start(), start()
    first()
    answer = second(state="released")
    assert answer["failed"] is True
    assert answer["msg"].startswith("the lock is not this run's to release: failover to south, begun by ")
    assert (lock / "operation.json").exists()


def test_a_killed_run_is_followed_by_the_same_operation(
    lock: Path, start: Callable[[], Run], sleepers: list[subprocess.Popen[bytes]]
) -> None:
    first, second = start(), start()
    before = first()["lock"]
    end(first, sleepers)
    answer = second()
    assert answer["changed"] is True
    assert answer["lock"]["holder"]["pid"] == second.pid
    assert answer["took_over"] == {
        "previous": before,
        "reason": "the same operation is run again after its process ended",
        "automatic": True,
        "verdict": "gone",
    }
    assert events(lock)[-1]["event"] == "taken over"
    assert events(lock)[-1]["took_over"]["previous"] == before
    assert second(state="released")["changed"] is True


@pytest.mark.parametrize(("operation", "target"), [("reprotect", "south"), ("failover", "north")])
def test_another_operation_needs_a_reason_to_follow_a_killed_one(
    lock: Path,
    start: Callable[[], Run],
    sleepers: list[subprocess.Popen[bytes]],
    operation: str,
    target: str,
) -> None:
    first, second = start(), start()
    before = first()["lock"]
    end(first, sleepers)
    for more in ({}, {"takeover": "  "}):
        answer = second(operation, target, **more)
        assert answer["failed"] is True
        assert "and its process has ended: run the failover to south again to finish it" in answer["msg"]
        assert "or set dr_lock_takeover='reason' to take its lock over" in answer["msg"]
        assert answer["lock"] == before
    answer = second(operation, target, takeover="the failover is not wanted any more")
    assert answer["changed"] is True
    assert answer["took_over"] == {
        "previous": before,
        "reason": "the failover is not wanted any more",
        "automatic": False,
        "verdict": "gone",
    }
    assert (answer["lock"]["operation"], answer["lock"]["target"]) == (operation, target)
    assert [entry["event"] for entry in events(lock)] == ["taken", "taken over"]


def test_a_run_on_another_controller_may_still_run(lock: Path, start: Callable[[], Run]) -> None:
    first, second = start(), start()
    first()
    rewrite(lock, host="ctl-2", user="alice", pid=77)
    answer = second()
    assert answer["failed"] is True
    assert "begun by alice on ctl-2 (process 77), holds the lock since " in answer["msg"]
    assert "whether that process still runs can be seen on ctl-2 only" in answer["msg"]
    assert "dr_lock_takeover='reason'" in answer["msg"]
    answer = second(takeover="ctl-2 has burnt down")
    assert (answer["took_over"]["automatic"], answer["took_over"]["verdict"]) == (False, "unknown")
    assert answer["took_over"]["previous"]["holder"]["host"] == "ctl-2"
    assert events(lock)[-1]["took_over"]["reason"] == "ctl-2 has burnt down"
    # The one that was overtaken learns it when it wants to go on.
    assert "still runs" in first()["msg"]
    assert first(state="released")["failed"] is True


def test_a_process_number_that_was_given_again_is_another_process(
    lock: Path, start: Callable[[], Run]
) -> None:
    first, second = start(), start()
    first()
    rewrite(lock, process_started="1")
    assert second()["took_over"]["automatic"] is True


# --- whether a process still runs ------------------------------------------------------------


def test_verdicts(start: Callable[[], Run], sleepers: list[subprocess.Popen[bytes]]) -> None:
    run = start()
    me, holder = _dr_lock.identify(os.getpid()), _dr_lock.identify(run.pid)
    assert me["token"] != holder["token"]
    assert _dr_lock.identify(run.pid) == holder
    assert _dr_lock.judge(holder, me) == "alive"
    assert _dr_lock.judge({**holder, "host": "ctl-2"}, me) == "unknown"
    # Another container on this machine, with processes of its own.
    assert _dr_lock.judge({**holder, "pid_namespace": "pid:[1]"}, me) == "unknown"
    known = {**me, "machine_id": "m"}
    rebooted = {**holder, "boot_id": "before", "machine_id": "m"}
    assert _dr_lock.judge(rebooted, known) == "gone"
    assert _dr_lock.judge({**rebooted, "machine_id": "n"}, known) == "unknown"
    assert _dr_lock.judge({**rebooted, "machine_id": ""}, {**me, "machine_id": ""}) == "unknown"
    end(run, sleepers)
    assert _dr_lock.judge(holder, me) == "gone"
    with pytest.raises(MusterError, match="is not in /proc"):
        _dr_lock.identify(run.pid)


def test_a_process_that_has_ended_and_was_not_collected_is_gone(
    start: Callable[[], Run], sleepers: list[subprocess.Popen[bytes]]
) -> None:
    run = start()
    me, holder = _dr_lock.identify(os.getpid()), _dr_lock.identify(run.pid)
    os.kill(run.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while _dr_lock.judge(holder, me) != "gone":
        assert time.monotonic() < deadline, "waited 10 s for a zombie to be taken for dead"
        time.sleep(0.01)


# --- races -----------------------------------------------------------------------------------

RACER = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, {here!r})
import conftest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.muster.platform.plugins.modules import dr_lock
arguments = json.loads(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
with patch_module_args(arguments):
    dr_lock.main()
"""


def race(requests: list[Answer]) -> list[Answer]:
    """Let real processes run the module at one moment."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER.format(here=str(HERE)), json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for request in requests
    ]
    for racer in racers:
        assert racer.stdout
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    return [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]


def request(lock: Path, number: int, **more: Any) -> Answer:
    me = {**_dr_lock.identify(os.getpid()), "token": f"racer{number}"}
    return {"operation": "failover", "target": "south", "directory": str(lock), "me": me, **more}


def test_of_two_that_race_one_wins(lock: Path) -> None:
    answers = race([request(lock, number) for number in range(3)])
    assert sorted(answer["changed"] for answer in answers) == [False, False, True]
    winner = next(answer["lock"] for answer in answers if answer["changed"])
    for answer in answers:
        assert answer["lock"] == winner
        assert answer["undecided"] is not answer["changed"]
    assert len(events(lock)) == 1


def test_of_two_that_take_over_one_wins(
    lock: Path, start: Callable[[], Run], sleepers: list[subprocess.Popen[bytes]]
) -> None:
    """Both have the proof that the same holder is dead: it serves one of them only."""
    first = start()
    seen = first()["lock"]["holder"]["token"]
    end(first, sleepers)
    answers = race([request(lock, number, seen=seen, verdict="gone", takeover="x") for number in range(3)])
    assert sorted(answer["changed"] for answer in answers) == [False, False, True]
    assert sum(answer["undecided"] for answer in answers) == 2
    assert [entry["event"] for entry in events(lock)] == ["taken", "taken over"]


def test_a_verdict_on_one_holder_is_none_on_the_next(
    lock: Path, start: Callable[[], Run], sleepers: list[subprocess.Popen[bytes]]
) -> None:
    first, second, third = start(), start(), start()
    first()
    end(first, sleepers)
    taken: list[Answer] = []

    def overtake() -> None:
        third.before_verdict = None
        taken.append(second())
        # What the second one has patched.
        third.patch.setattr(action, "own_process", lambda: third.pid)

    third.before_verdict = overtake
    answer = third()
    assert taken[0]["took_over"]["automatic"] is True
    assert answer["failed"] is True
    assert f"(process {second.pid})" in answer["msg"]
    assert "still runs" in answer["msg"]
    assert [call.get("verdict") for call in third.calls] == [None, "gone", "alive"]


def test_a_lock_that_never_stays_is_given_up(
    start: Callable[[], Run], monkeypatch: pytest.MonkeyPatch, lock: Path
) -> None:
    first, second = start(), start()
    first()
    numbers = iter(range(100))
    second.before_verdict = lambda: rewrite(lock, token=f"t{next(numbers)}")
    answer = second()
    assert answer["msg"] == "the lock changed hands 5 times while it was asked for: try again"


# --- check mode and bad input ----------------------------------------------------------------


def test_check_mode_changes_nothing(
    lock: Path, start: Callable[[], Run], sleepers: list[subprocess.Popen[bytes]]
) -> None:
    first, second = start(), start()
    assert first(check=True)["changed"] is True
    assert not lock.exists()
    assert first(check=True, state="released")["changed"] is False
    first()
    before = {path.name: path.read_bytes() for path in lock.iterdir()}
    assert "still runs" in second(check=True)["msg"]
    assert first(check=True, state="released")["changed"] is True
    end(first, sleepers)
    assert second(check=True)["took_over"]["automatic"] is True
    assert {path.name: path.read_bytes() for path in lock.iterdir()} == before


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"operation": "x"}', "\x00\x01"])
def test_a_lock_that_cannot_be_read_is_nobodys_and_not_free(
    lock: Path, start: Callable[[], Run], text: str
) -> None:
    lock.mkdir()
    (lock / "operation.json").write_text(text)
    for state in ("held", "released"):
        answer = start()(state=state, takeover="x")
        assert answer["failed"] is True
        assert "operation.json is no lock that can be read" in answer["msg"]
    assert (lock / "operation.json").read_text() == text


def test_a_directory_that_cannot_be(tmp_path: Path, start: Callable[[], Run]) -> None:
    (tmp_path / "dr").write_text("a file")
    answer = start()()
    assert answer["msg"].startswith(f"cannot use {tmp_path}/dr for the lock: ")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"operation": " "}, "operation is empty"),
        ({"target": ""}, "target is empty"),
        ({"state": "taken"}, "state"),
        ({"verdict": "gone"}, "dr_lock does not take verdict from a task"),
        ({"me": {}, "seen": "x"}, "dr_lock does not take me, seen from a task"),
    ],
)
def test_bad_input_is_told(lock: Path, start: Callable[[], Run], more: Answer, message: str) -> None:
    assert message in start()(**more)["msg"]
    assert not (lock / "operation.json").exists()


def test_the_module_does_not_run_without_its_action(lock: Path, run_module: Callable[..., Answer]) -> None:
    answer = run_module(dr_lock, {"operation": "x", "target": "y", "directory": str(lock)})
    assert "dr_lock runs through its action only" in answer["msg"]
    assert not lock.exists()


# --- a real ansible-playbook -----------------------------------------------------------------

PLAYBOOK = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars:
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
  tasks:
    - muster.platform.dr_lock: {operation: "{{ operation }}", target: south, directory: "{{ directory }}"}
    - ansible.builtin.pause: {seconds: "{{ seconds }}"}
    - muster.platform.dr_lock:
        {operation: "{{ operation }}", target: south, directory: "{{ directory }}", state: released}
"""


Play = Callable[[str, int], "subprocess.Popen[str]"]


@pytest.fixture
def play(tmp_path: Path, lock: Path) -> Iterator[Play]:
    """Start a playbook that holds the lock; whatever is left of it ends with the test."""
    book = tmp_path / "book.yml"
    book.write_text(PLAYBOOK)

    def start(operation: str, seconds: int) -> subprocess.Popen[str]:
        program = Path(sys.executable).with_name("ansible-playbook")
        values = json.dumps({"operation": operation, "directory": str(lock), "seconds": seconds})
        return subprocess.Popen(
            [str(program), "-i", "localhost,", "-e", values, str(book)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    with none_left():
        yield start


def test_a_playbook_that_is_killed_and_run_again(play: Play, lock: Path) -> None:
    killed = play("failover", 600)
    deadline = time.monotonic() + 60
    while not (lock / "operation.json").exists():
        assert killed.poll() is None, killed.stdout and killed.stdout.read()
        assert time.monotonic() < deadline, "waited 60 s for a playbook to take the lock"
        time.sleep(0.05)
    # The lock is the playbook's own, not that of the process of one task.
    assert json.loads((lock / "operation.json").read_text())["holder"]["pid"] == killed.pid
    killed.kill()
    killed.wait(10)
    other = play("reprotect", 0)
    said, _nothing = other.communicate(timeout=60)
    assert other.returncode != 0
    assert "and its process has ended" in " ".join(said.split())
    again = play("failover", 0)
    assert again.communicate(timeout=60)[0]
    assert again.returncode == 0
    assert [entry["event"] for entry in events(lock)] == ["taken", "taken over", "released"]
