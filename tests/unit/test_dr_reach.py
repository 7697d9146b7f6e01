# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""dr_reach: the action's real run() and real sockets."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from action_fake import run_action
from ansible.errors import AnsibleActionFail
from ansible_collections.muster.platform.plugins.action import dr_reach


@pytest.fixture
def open_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Nobody accepts and the queue is full: the kernel drops each further attempt, as a dead host does."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        for _number in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        time.sleep(0.05)
        yield address[1]


def at(port: int, address: str = "127.0.0.1") -> dict[str, Any]:
    return {"ansible_host": address, "ansible_port": port}


def reach(hosts: dict[str, dict[str, Any]], asked: list[str] | None = None, **more: Any) -> dict[str, Any]:
    given = {"hosts": asked if asked is not None else list(hosts), **more}
    return run_action(dr_reach, given, {"hostvars": hosts})


def test_who_answers_and_who_does_not(open_port: int, closed_port: int) -> None:
    found = reach({"south-1": at(open_port), "north-1": at(closed_port), "south-2": at(open_port)})
    assert found["changed"] is False
    assert found["reachable"] == ["south-1", "south-2"]
    assert found["silent"] == {"north-1": f"127.0.0.1 port {closed_port}: Connection refused"}


def test_dead_hosts_cost_one_timeout_together(open_port: int, silent_port: int) -> None:
    dead = {f"north-{number}": at(silent_port) for number in range(1, 21)}
    began = time.monotonic()
    found = reach({**dead, "south-1": at(open_port)}, timeout=0.5)
    assert 0.4 < time.monotonic() - began < 3
    assert found["reachable"] == ["south-1"]
    assert set(found["silent"]) == set(dead)
    assert found["silent"]["north-1"] == f"127.0.0.1 port {silent_port}: timed out"


def test_more_hosts_than_are_asked_at_once(open_port: int) -> None:
    hosts = {f"h-{number}": at(open_port) for number in range(dr_reach.MOST_AT_ONCE + 10)}
    assert reach(hosts)["reachable"] == list(hosts)


@pytest.mark.parametrize("name", ["no-such-host.invalid", "two..dots"])
def test_a_name_that_does_not_resolve_is_unreachable(open_port: int, name: str) -> None:
    found = reach({"north-1": {"ansible_port": open_port, "ansible_host": name}})
    assert found["silent"]["north-1"].startswith(f"{name} port {open_port}: ")


def test_the_inventory_name_and_the_usual_port(monkeypatch: pytest.MonkeyPatch) -> None:
    knocked: list[tuple[str, int]] = []

    def knock(address: str, port: int, _timeout: float) -> str:
        knocked.append((address, port))
        return ""

    monkeypatch.setattr(dr_reach, "knock", knock)
    assert reach({"north-1": {}, "north-2": {"ansible_port": "2222"}})["silent"] == {}
    assert sorted(knocked) == [("north-1", 22), ("north-2", 2222)]


def test_no_hosts_at_all() -> None:
    found = reach({})
    assert (found["reachable"], found["silent"]) == ([], {})


def test_a_host_that_is_not_in_the_inventory_is_refused(open_port: int) -> None:
    with pytest.raises(AnsibleActionFail, match="hosts: not in the inventory: west-1, west-2"):
        reach({"north-1": at(open_port)}, ["west-1", "north-1", "west-2"])


def test_a_port_that_is_no_number_is_refused() -> None:
    with pytest.raises(AnsibleActionFail, match="north-1: ansible_port is 'ssh'"):
        reach({"north-1": {"ansible_port": "ssh"}})
