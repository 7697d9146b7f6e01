# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The gate of a RabbitMQ node: what opens it, what keeps it closed, and what it answers."""

from __future__ import annotations

import http.client
import importlib.util
import json
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = ROOT / "roles" / "rabbitmq" / "files" / "rabbitmq_gate.py"
    spec = importlib.util.spec_from_file_location("rabbitmq_gate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclass looks itself up.
    monkeypatch.setitem(sys.modules, "rabbitmq_gate", module)
    spec.loader.exec_module(module)
    return module


class Host:
    """A node and its surroundings: what each role is, and whether the port is open."""

    def __init__(self, program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self.program = program
        self.is_open = False
        self.peer_open = False
        self.roles: dict[str, Any] = {}
        self.done: list[str] = []
        given = {
            "host": "north-1",
            "region": "north",
            "regions": {"north": ["north-1", "north-2"], "south": ["south-1", "south-2"]},
            "port": 5671,
            "api_port": 15671,
            "health_port": 15673,
            "user": "u",
            "password": "p",
        }
        monkeypatch.setattr(program.Node, "role", lambda node: self.role(node.host))
        monkeypatch.setattr(program, "listens", lambda _port: self.is_open)
        monkeypatch.setattr(program, "control", self.control)
        monkeypatch.setattr(program.Gate, "peer_is_open", lambda _gate: self.peer_open)
        self.gate = program.Gate(given, None)

    def role(self, host: str) -> Any:
        found = self.roles.get(host, "silent")
        if found == "silent":
            raise self.program.Unknown(f"{host}: Connection refused")
        return found

    def control(self, expression: str) -> None:
        self.is_open = "start_ssl_listener" in expression
        self.done.append("open" if self.is_open else "close")


@pytest.fixture
def host(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(program, monkeypatch)


def role(name: str, epoch: int) -> dict[str, Any]:
    return {"role": name, "epoch": epoch}


@pytest.mark.parametrize(
    ("own", "south", "opens", "reason"),
    [
        (role("standby", 1), "silent", True, ""),
        (role("primary", 1), role("standby", 1), True, ""),
        (role("primary", 3), role("primary", 2), True, ""),
        (role("primary", 1), None, True, ""),
        (None, role("primary", 1), False, "the region has no role yet"),
        (role("primary", 1), role("primary", 2), False, "region south is primary since epoch 2"),
        (role("primary", 1), role("standby", 2), False, "region south is standby since epoch 2"),
        (role("primary", 2), role("primary", 2), False, "region south is primary since epoch 2"),
        (role("primary", 1), "silent", False, "no RabbitMQ of region south answers"),
        ("silent", role("standby", 1), False, "north-1: Connection refused"),
    ],
)
def test_what_opens_the_gate(host: Host, own: Any, south: Any, opens: bool, reason: str) -> None:
    host.roles = {"north-1": own, "south-2": south}
    assert host.gate.step() == host.program.CLOSED_EVERY
    assert host.is_open is opens
    assert host.gate.reason.startswith(reason)


def test_a_node_joins_its_open_region_without_the_other(host: Host) -> None:
    host.roles = {"north-1": role("primary", 1)}
    host.peer_open = True
    host.gate.step()
    assert host.done == ["open"]


def test_an_open_region_that_is_overtaken_closes(host: Host) -> None:
    host.roles = {"north-1": role("primary", 1), "south-1": role("primary", 2)}
    host.is_open = True
    host.gate.step()
    assert host.done == ["close"]


def test_an_open_region_stays_open_when_the_other_is_silent(host: Host) -> None:
    host.roles = {"north-1": role("primary", 1)}
    host.is_open = True
    assert host.gate.step() == host.program.OPEN_EVERY
    assert host.done == []


def test_a_closed_region_is_looked_at_more_often_than_one_that_is_open(host: Host) -> None:
    host.roles = {"north-1": role("standby", 1)}
    host.is_open = True
    assert host.gate.step() == host.program.OPEN_EVERY
    assert (host.gate.reason, host.done) == ("", [])


class Http:
    """A connection to a management API or a gate that gives one answer, or none."""

    answers: list[Any] = []
    asked: list[str] = []

    def __init__(self, host: str, port: int, timeout: float, context: Any) -> None:
        self.place = f"{host}:{port}"

    def request(self, _method: str, path: str, headers: Any = None) -> None:
        self.asked.append(f"{self.place}{path}")
        if isinstance(self.answers[0], Exception):
            raise self.answers.pop(0)

    def getresponse(self) -> Any:
        status, text = self.answers.pop(0)
        return SimpleNamespace(status=status, read=lambda: text)

    def close(self) -> None:
        pass


@pytest.fixture
def http_answers(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    Http.answers, Http.asked = [], []
    monkeypatch.setattr(program.http.client, "HTTPSConnection", Http)
    return Http.answers


def gate_of(program: ModuleType) -> Any:
    given = {
        "host": "north-1",
        "region": "north",
        "regions": {"north": ["north-1", "north-2"], "south": ["south-1"]},
        "api_port": 15671,
        "health_port": 15673,
        "user": "u",
        "password": "p",
    }
    return program.Gate(given, None)


GOOD = (200, b'{"value": {"role": "primary", "epoch": 3, "since": "then"}}')


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ([GOOD], {"role": "primary", "epoch": 3}),
        ([OSError("closed meanwhile")], "north-1: closed meanwhile"),
        ([(404, b'{"error":"Object Not Found"}')], None),
        # A node that is about to stop says so too, and of one that refuses nothing is known.
        ([(404, b"")], "north-1: HTTP status 404"),
        ([(401, b"{}")], "north-1: HTTP status 401"),
        ([(200, b"<html>")], "north-1: Expecting value"),
        ([(200, b'{"value": {"role": "primary"}}')], "north-1: 'epoch'"),
    ],
)
def test_what_a_node_says_of_its_region(
    program: ModuleType, http_answers: list[Any], answers: list[Any], found: Any
) -> None:
    http_answers += answers
    node = gate_of(program).own
    if not isinstance(found, str):
        assert node.role() == found
        return
    with pytest.raises(program.Unknown) as error:
        node.role()
    assert str(error.value).startswith(found)


def test_a_kept_connection_that_was_closed_is_made_anew(program: ModuleType, http_answers: list[Any]) -> None:
    http_answers += [GOOD, OSError("closed meanwhile"), GOOD]
    node = gate_of(program).own
    assert node.role() == node.role()
    assert http_answers == []


@pytest.mark.parametrize(
    ("answer", "is_open"), [((200, b""), True), ((503, b""), False), (OSError("no"), False)]
)
def test_a_peer_is_asked_whether_it_is_open_for_a_primary(
    program: ModuleType, http_answers: list[Any], answer: Any, is_open: bool
) -> None:
    http_answers += [answer]
    assert gate_of(program).peer_is_open() is is_open
    assert Http.asked == ["north-2:15673/primary"], "itself it does not ask"


@pytest.fixture
def served(host: Host, pki: Path) -> Iterator[tuple[Host, http.client.HTTPSConnection]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "member.crt", pki / "member.key")
    server = host.program.Server(0, host.gate.handler(), context)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    client = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    connection = http.client.HTTPSConnection("localhost", server.server_address[1], timeout=5, context=client)
    yield host, connection
    connection.close()
    server.shutdown()
    server.server_close()


def test_health_checks_are_answered_as_things_are(served: tuple[Host, http.client.HTTPSConnection]) -> None:
    host, connection = served
    host.program.FRESH = 0.0

    def ask(path: str, method: str = "GET") -> tuple[int, dict[str, Any]]:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    host.roles["north-1"] = role("primary", 4)
    assert ask("/primary")[0] == 503
    host.is_open = True
    assert ask("/primary", "OPTIONS") == (
        200,
        {"role": "primary", "epoch": 4, "open": True, "region": "north", "reason": "not looked yet"},
    )
    assert [ask(path)[0] for path in ("/open", "/standby", "/")] == [200, 503, 503]
    host.roles["north-1"] = role("standby", 4)
    assert [ask(path)[0] for path in ("/primary", "/standby")] == [503, 200]
    del host.roles["north-1"]
    status, found = ask("/open")
    assert (status, found["role"], found["error"]) == (503, "unknown", "north-1: Connection refused")
