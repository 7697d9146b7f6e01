"""muster.platform.clock_info: the offset of a clock that is known to be wrong, and what it says when it cannot."""

from __future__ import annotations

import subprocess
import time
from datetime import datetime
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.muster.platform.plugins.action import clock_info
from ansible_collections.muster.platform.plugins.modules import clock_info as module


class Task:
    async_val = 0
    check_mode = True
    diff = False

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.args = arguments


class Connection:
    """A host whose clock is ahead by C(ahead) seconds, and whose answers take as long as told."""

    class _shell:
        tmpdir = None

    def __init__(self, ahead: float = 0.0, there: tuple[float, ...] = (0.0,), back: float = 0.0) -> None:
        self.ahead, self.there, self.back = ahead, there, back
        self.calls = 0
        self.greeting = ""
        self.answer: tuple[int, bytes, bytes] | None = None

    def exec_command(self, command: str, sudoable: bool) -> tuple[int, bytes, bytes]:
        assert (command, sudoable) == ("date +%s.%N", False)
        time.sleep(self.there[self.calls % len(self.there)])
        self.calls += 1
        now = time.time_ns() + int(self.ahead * 1e9)
        time.sleep(self.back)
        seconds, rest = divmod(now, 10**9)
        return self.answer or (0, f"{self.greeting}{seconds}.{rest:09d}\n".encode(), b"")


def measure(connection: Any, **arguments: Any) -> dict[str, Any]:
    make: Any = clock_info.ActionModule
    action = make(
        task=Task(arguments),
        connection=connection,
        play_context=None,
        loader=None,
        templar=None,
        shared_loader_obj=None,
    )
    result: dict[str, Any] = action.run(task_vars={"inventory_hostname": "north-1"})
    return result


@pytest.mark.parametrize("ahead", [0.0, 90.0, -0.25])
def test_the_true_offset_is_within_the_uncertainty(ahead: float) -> None:
    result = measure(Connection(ahead, there=(0.004,), back=0.001))
    assert abs(result["offset_ms"] - ahead * 1000) <= result["uncertainty_ms"]
    assert result["uncertainty_ms"] >= 2.5
    assert (result["host"], result["changed"]) == ("north-1", False)
    assert (result["samples"], result["source"]) == (8, "controller round trip")
    assert datetime.strptime(result["measured_at"], "%Y-%m-%dT%H:%M:%S.%fZ")


def test_the_shortest_round_trip_counts() -> None:
    connection = Connection(there=(0.1, 0.001, 0.1))
    result = measure(connection, samples=3)
    assert connection.calls == result["samples"] == 3
    assert result["uncertainty_ms"] < 25


def test_what_a_login_prints_first_does_no_harm() -> None:
    connection = Connection()
    connection.greeting = "Welcome to host 7.123456789\n"
    assert abs(measure(connection)["offset_ms"]) < 50


def test_a_real_date_is_understood() -> None:
    answer = subprocess.run(["sh", "-c", clock_info.COMMAND], capture_output=True, text=True, check=True)
    found = clock_info.read_time(0, answer.stdout, "")
    assert abs(found - time.time_ns()) < 10 * clock_info.NS


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((127, b"", b"sh: date: not found\n"), "ended with 127 and said: sh: date: not found"),
        ((0, b"1700000000.N\n", b""), "ended with 0 and said: 1700000000.N"),
        ((0, b"", b""), "ended with 0 and said: nothing"),
    ],
)
def test_an_answer_that_is_no_time(answer: tuple[int, bytes, bytes], said: str) -> None:
    connection = Connection()
    connection.answer = answer
    with pytest.raises(AnsibleActionFail) as caught:
        measure(connection)
    assert str(caught.value) == f"the host's clock cannot be read: `date +%s.%N` {said}"


@pytest.mark.parametrize("samples", [0, 101])
def test_a_wrong_number_of_samples(samples: int) -> None:
    with pytest.raises(AnsibleActionFail, match=f"samples must be from 1 to 100, not {samples}"):
        measure(Connection(), samples=samples)


def test_the_documentation_names_what_is_returned() -> None:
    documented = {line[:-1] for line in module.RETURN.splitlines() if line.endswith(":") and line[0] != " "}
    assert documented == set(measure(Connection())) - {"changed"}
