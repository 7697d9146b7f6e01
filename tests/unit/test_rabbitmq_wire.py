# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How RabbitMQ is talked to: which answers count as silence, and what a lock does while it is held."""

from __future__ import annotations

import socket
import time
from types import SimpleNamespace
from typing import Any

import pika
import pytest
from ansible_collections.muster.platform.plugins.module_utils import _rabbitmq
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq import (
    Login,
    Refusal,
    Region,
    Role,
    Silent,
    dial,
    listens,
    primary_region,
)
from pika.adapters.utils.connection_workflow import AMQPConnectorStackTimeout

LOGIN = Login("operator", "geheim", 5671, 15671, None)  # type: ignore[arg-type]


@pytest.fixture
def region() -> Region:
    return Region("north", ["north-1", "north-2"], LOGIN)


# --- the management API -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "text", "error", "sentence"),
    [
        (401, '{"reason": "Login failed"}', Refusal, "rabbitmq_operator_password is not the one that the"),
        (503, '{"reason": "q would lose its quorum"}', Refusal, "503 q would lose its quorum"),
        (400, "plain", Refusal, "400 plain"),
        (500, '{"error": "oops"}', Silent, "HTTP status 500 oops"),
        (503, "", Silent, "HTTP status 503"),
        (404, "", Silent, "HTTP status 404"),
        (200, "<html>", Silent, "its answer is no JSON"),
    ],
)
def test_what_an_answer_means(
    region: Region,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    text: str,
    error: type[Exception],
    sentence: str,
) -> None:
    asked: list[str] = []

    def send(_region: Region, host: str, *_rest: Any) -> tuple[int, str]:
        asked.append(host)
        return status, text

    monkeypatch.setattr(Region, "_send", send)
    with pytest.raises(error, match=sentence):
        region.request("GET", "/api/x")
    # One that refuses speaks for its cluster, one that is silent does not.
    assert asked == (["north-1", "north-2"] if error is Silent else ["north-1"])


def test_what_is_not_there_is_none_and_need_not_be_deleted(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Region, "_send", lambda *_rest: (404, '{"error": "Object Not Found"}'))
    assert region.get("queues", "/", "a b") is None
    region.delete("queues", "/", "a b")
    monkeypatch.setattr(Region, "_send", lambda *_rest: (403, '{"error": "no"}'))
    with pytest.raises(Refusal):
        region.get("queues")
    with pytest.raises(Refusal):
        region.delete("queues")


class Http:
    """A connection of the management API; broken ones are told by their number."""

    broken: set[int] = set()
    made = 0

    def __init__(self, _host: str, _port: int, timeout: float, context: Any) -> None:
        type(self).made += 1
        self.number = self.made

    def request(self, _method: str, path: str, _data: Any, headers: dict[str, str]) -> None:
        assert headers["Authorization"].startswith("Basic ")
        if self.number in self.broken:
            raise OSError("broken")

    def getresponse(self) -> Any:
        return SimpleNamespace(status=200, read=lambda: b'{"a": 1}')

    def close(self) -> None:
        pass


def test_a_kept_connection_that_broke_is_made_anew(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rabbitmq.http.client, "HTTPSConnection", Http)
    Http.broken, Http.made = set(), 0
    assert region.request("GET", "/api/x") == {"a": 1}
    Http.broken = {1}
    assert region.request("GET", "/api/x") == {"a": 1}
    Http.broken = set(range(99))
    with pytest.raises(Silent, match="no RabbitMQ of region north answers: RabbitMQ on north-1: broken; "):
        region.request("GET", "/api/x")


def test_a_record_that_is_no_role_is_told(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Region, "_send", lambda *_rest: (200, '{"value": {"role": "primary"}}'))
    with pytest.raises(MusterError, match="which is no role"):
        region.role()


def test_two_primaries_of_one_epoch_are_none() -> None:
    two = {"north": Role("primary", 2), "south": Role("primary", 2)}
    assert primary_region(two) is None
    assert primary_region({**two, "south": Role("primary", 3)}) == "south"
    assert primary_region({"north": Role("primary", 2), "south": Role("standby", 3)}) is None


# --- AMQP ---------------------------------------------------------------------------------


class Connection:
    """One of pika's, with its only channel."""

    def __init__(self) -> None:
        self.is_open = True
        self.refusals = 0
        self.served = 0
        self.busy = self.shared = False

    def channel(self) -> Connection:
        return self

    def queue_declare(self, name: str, passive: bool = False, exclusive: bool = False) -> Any:
        if passive and name == "none":
            raise pika.exceptions.ChannelClosedByBroker(404, "no queue")
        if exclusive and self.refusals:
            self.refusals -= 1
            raise pika.exceptions.ChannelClosedByBroker(405, "locked")
        return SimpleNamespace(method=SimpleNamespace(message_count=3, consumer_count=1))

    def process_data_events(self, time_limit: float) -> None:
        self.served += 1
        if not self.is_open:
            raise pika.exceptions.ConnectionWrongStateError
        self.busy = True
        time.sleep(0.05)
        self.busy = False

    def sleep(self, _seconds: float) -> None:
        pass

    def close(self) -> None:
        self.is_open = False
        self.shared = self.busy
        raise pika.exceptions.StreamLostError("it broke at its end")


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Connection:
    made = Connection()
    monkeypatch.setattr(_rabbitmq, "dial", lambda *_rest: made)
    return made


@pytest.mark.parametrize(
    "error",
    [
        # A broker that stands still takes a connection, and says nothing in it.
        AMQPConnectorStackTimeout("Timeout during AMQP handshake"),
        pika.exceptions.AMQPConnectionError("no"),
        OSError("refused"),
    ],
)
def test_a_node_without_amqp_is_silent(
    region: Region, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_parameters: Any) -> None:
        raise error

    monkeypatch.setattr(pika, "BlockingConnection", fail)
    monkeypatch.setattr(pika, "SSLOptions", lambda *_rest: None)
    with pytest.raises(Silent, match=r"^north-1: "):
        dial("north-1", "v", LOGIN, 1.0)
    with pytest.raises(Silent, match=r"no AMQP in region north: north-1: .*; north-2: "):
        region.lets_in()


def test_the_node_that_answered_is_dialed_first(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    dialed: list[str] = []

    def note(host: str, *_rest: Any) -> Connection:
        dialed.append(host)
        return Connection()

    monkeypatch.setattr(_rabbitmq, "dial", note)
    region.connected_to = "north-2"
    assert region.lets_in()
    assert dialed == ["north-2"]


def test_what_breaks_in_a_connection_is_told_in_a_sentence(region: Region, connection: Connection) -> None:
    with (
        pytest.raises(MusterError, match="AMQP in region north: gone"),
        region.amqp("v"),
    ):
        raise pika.exceptions.StreamLostError("gone")
    assert not connection.is_open


def test_a_queue_is_counted_and_one_that_is_not_there_told(region: Region, connection: Connection) -> None:
    assert region.depths([("v", "q")]) == {("v", "q"): (3, 1)}
    with pytest.raises(MusterError, match="the queue none of vhost v in region north could not be read"):
        region.depths([("v", "none")])


def test_a_lock_answers_heartbeats_and_is_known_while_it_is_held(
    region: Region, connection: Connection
) -> None:
    connection.refusals = 1
    with region.lock("ann", 5.0):
        assert region.held is connection
        deadline = time.monotonic() + 5.0
        while not connection.served and time.monotonic() < deadline:
            time.sleep(0.001)
    assert connection.served
    assert region.held is None
    assert not connection.is_open
    assert not connection.shared, "one thread closed it while another one read from it"


def test_a_lock_asks_for_heartbeats(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without them the broker would keep the lock of a host that lost its power.
    heartbeats: list[int] = []

    def note(_host: str, _vhost: str, _login: Login, _timeout: float, heartbeat: int) -> Connection:
        heartbeats.append(heartbeat)
        return Connection()

    monkeypatch.setattr(_rabbitmq, "dial", note)
    with region.lock("ann", 1.0):
        pass
    assert heartbeats == [_rabbitmq.HEARTBEAT]


def test_a_lock_that_another_holds_is_waited_for_and_then_refused(
    region: Region, connection: Connection
) -> None:
    connection.refusals = 99
    with (
        pytest.raises(MusterError, match="holds the lock of region north; ann waited 0 s"),
        region.lock("ann", 0.0),
    ):
        pytest.fail("it has the lock")
    assert region.held is None


def test_a_port_listens_or_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listens("127.0.0.1", port)
    assert not listens("127.0.0.1", port)
