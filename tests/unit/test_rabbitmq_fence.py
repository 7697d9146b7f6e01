# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Fencing a RabbitMQ node, and the application's round trip, with a systemd and a broker of our own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils import _fence, _rabbitmq_fence
from ansible_collections.muster.platform.plugins.modules import rabbitmq_fence, rabbitmq_verify

Run = Callable[..., dict[str, Any]]


class Systemd:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.active, self.enabled = "active", "enabled"
        self.stubborn = False
        self.ports = [5671]
        self.log: list[str] = []
        monkeypatch.setattr(_fence, "systemctl", self)
        monkeypatch.setattr(_rabbitmq_fence, "nodes", lambda: [7] if self.active == "active" else [])
        monkeypatch.setattr(_fence, "listening", lambda ports: [p for p in self.ports if p in ports])
        monkeypatch.setattr(_fence.os, "kill", self.kill)

    def kill(self, _process: int, _signal: int) -> None:
        self.active, self.ports = "failed", []

    def __call__(self, verb: str, *words: str, check: bool = True, timeout: float = 60) -> str:
        if verb == "is-enabled":
            return self.enabled
        if verb == "show":
            return self.active
        self.log.append(verb)
        if verb == "stop" and not self.stubborn:
            self.active, self.ports = "inactive", []
        elif verb == "mask":
            self.enabled = "masked"
        elif verb == "unmask":
            self.enabled = "enabled"
        return ""


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> Systemd:
    return Systemd(monkeypatch)


@pytest.fixture
def arguments(tmp_path: Path) -> dict[str, Any]:
    return {"marker": str(tmp_path / "fenced.json"), "grace": 0.05, "operation": "drill"}


def test_a_node_is_stopped_masked_and_proven(
    systemd: Systemd, arguments: dict[str, Any], run_module: Run
) -> None:
    answer = run_module(rabbitmq_fence, arguments)
    assert (answer["changed"], answer["fenced"], systemd.log) == (True, True, ["stop", "mask"])
    assert answer["proof"] == {**answer["proof"], "masked": True, "processes": 0, "listening": []}
    assert json.loads(Path(arguments["marker"]).read_text())["operation"] == "drill"
    assert run_module(rabbitmq_fence, arguments)["changed"] is False
    released = run_module(rabbitmq_fence, {**arguments, "state": "released"})
    assert (released["changed"], released["note"], systemd.enabled) == (True, None, "enabled")


def test_one_that_does_not_stop_is_killed(
    systemd: Systemd, arguments: dict[str, Any], run_module: Run
) -> None:
    systemd.stubborn = True
    assert run_module(rabbitmq_fence, arguments)["fenced"] is True
    assert systemd.log[:2] == ["stop", "kill"]


def test_a_fence_that_is_not_proven_is_an_error(
    systemd: Systemd, arguments: dict[str, Any], run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fence, "listening", lambda _ports: [15671])
    answer = run_module(rabbitmq_fence, arguments)
    assert answer["msg"] == "the fence is not proven: something listens on port 15671"


def test_check_mode_stops_nothing(systemd: Systemd, arguments: dict[str, Any], run_module: Run) -> None:
    assert run_module(rabbitmq_fence, arguments, check=True)["changed"] is True
    assert systemd.log == []


def test_a_tool_of_rabbitmq_is_no_node(tmp_path: Path) -> None:
    for number, command in (
        ("10", b"beam\0-s\0rabbit\0boot\0-x"),
        ("11", b"beam\0-escript\0main\0rabbitmqctl\0"),
    ):
        (tmp_path / number).mkdir()
        (tmp_path / number / "exe").symlink_to("/usr/lib/erlang/erts/bin/beam.smp")
        (tmp_path / number / "cmdline").write_bytes(command)
    assert _rabbitmq_fence.nodes(tmp_path) == [10]


# --- verify -------------------------------------------------------------------------------

VERIFY = {
    "endpoints": [{"host": "edge", "port": 5671}],
    "vhost": "muster",
    "exchange": "e",
    "routing_key": "k",
    "queue": "q",
    "user": "u",
    "password": "geheim",
    "ca_certificate": "/ca.crt",
    "cluster": "muster-south",
    "timeout": 0.05,
}


class Broker:
    """A connection, and its only channel."""

    is_open = True

    def __init__(self, cluster: str = "muster-south", swallow: bool = False) -> None:
        self._impl = type("I", (), {"server_properties": {"cluster_name": cluster.encode()}})
        self.swallow = swallow
        self.queue: list[Any] = [type("P", (), {"message_id": "other"})]

    def channel(self) -> Broker:
        return self

    def confirm_delivery(self) -> None:
        pass

    def basic_publish(
        self, _exchange: str, _key: str, _body: bytes, properties: Any, mandatory: bool
    ) -> None:
        assert mandatory
        assert properties.delivery_mode == 2
        if not self.swallow:
            self.queue.append(properties)

    def basic_get(self, _queue: str) -> tuple[Any, Any, Any]:
        if not self.queue:
            return None, None, None
        return type("M", (), {"delivery_tag": 1}), self.queue.pop(0), b""

    def basic_ack(self, _tag: int) -> None:
        pass

    def sleep(self, _seconds: float) -> None:
        pass

    def close(self) -> None:
        self.is_open = False


def test_a_message_goes_out_and_comes_in(run_module: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    brokers: list[Broker] = []

    def connect(*_rest: Any) -> Broker:
        brokers.append(Broker())
        return brokers[-1]

    monkeypatch.setattr(rabbitmq_verify, "connect", connect)
    answer = run_module(rabbitmq_verify, VERIFY)
    assert answer["endpoints"][0]["cluster"] == "muster-south"
    anywhere = {name: value for name, value in VERIFY.items() if name != "cluster"}
    assert run_module(rabbitmq_verify, anywhere)["endpoints"][0]["cluster"] == "muster-south"
    assert [broker.is_open for broker in brokers] == [False, False]
    assert run_module(rabbitmq_verify, VERIFY, check=True)["skipped"] is True


@pytest.mark.parametrize(
    ("broker", "sentence"),
    [
        (Broker("muster-north"), "edge:5671 leads to muster-north, not to muster-south"),
        (Broker(swallow=True), "the confirmed message did not arrive in the queue q"),
    ],
)
def test_an_endpoint_that_does_not_serve_is_told(
    run_module: Run, monkeypatch: pytest.MonkeyPatch, broker: Broker, sentence: str
) -> None:
    monkeypatch.setattr(rabbitmq_verify, "ATTEMPT", 0.05)
    monkeypatch.setattr(rabbitmq_verify, "connect", lambda *_rest: broker)
    answer = run_module(rabbitmq_verify, VERIFY)
    assert answer["msg"].startswith("waited 0.05 s for edge:5671 to take and give a message as u")
    assert sentence in answer["msg"]


def test_no_endpoint_is_an_error(run_module: Run) -> None:
    answer = run_module(rabbitmq_verify, {**VERIFY, "endpoints": []})
    assert answer["msg"] == "there are no endpoints to verify: set rabbitmq_verify_endpoints"
