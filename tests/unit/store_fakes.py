# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Stores for the canary, as far as it speaks with them: over real TLS, on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import re
import socket
import ssl
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from pika import frame, spec

FILES = Path(__file__).resolve().parents[2] / "roles/canary/files"


@pytest.fixture(scope="session")
def canary() -> Any:
    """The daemon's module; the one that another test has loaded already, when there is one."""
    if "muster_canary" not in sys.modules:
        found = importlib.util.spec_from_file_location("muster_canary", FILES / "muster_canary.py")
        assert found
        assert found.loader
        sys.modules["muster_canary"] = importlib.util.module_from_spec(found)
        found.loader.exec_module(sys.modules["muster_canary"])
    return sys.modules["muster_canary"]


class Peer:
    """One accepted connection, read by pieces."""

    def __init__(self, channel: ssl.SSLSocket) -> None:
        self.channel = channel
        self.stream = channel.makefile("rb")
        self.tag = 0
        self.reads = False
        self.most = 0  # messages that it takes without acknowledging one

    def line(self) -> bytes:
        found = self.stream.readline()
        if not found:
            raise ConnectionError
        return found[:-2]

    def exactly(self, count: int) -> bytes:
        found = self.stream.read(count)
        if len(found) < count:
            raise ConnectionError
        return found


class Server(ABC):
    """A TLS server; each connection is served by a thread of its own until it ends."""

    def __init__(self, pki: Path) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(pki / "member.crt", pki / "member.key")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open: list[socket.socket] = []
        self.silent = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                channel, _address = self.listener.accept()
            except OSError:
                return
            self.open.append(channel)
            threading.Thread(target=self._serve, args=(channel,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        try:
            with self.context.wrap_socket(plain, server_side=True) as channel:
                self.open.append(channel)
                self.talk(Peer(channel))
        except (OSError, ValueError):
            return

    @abstractmethod
    def talk(self, peer: Peer) -> None:
        """Serve one connection, until it ends."""

    def hang_up(self) -> None:
        for channel in self.open:
            try:
                socket.socket.shutdown(channel, socket.SHUT_RDWR)
            except OSError:
                continue
        self.open = []

    def stop(self) -> None:
        # Closing alone leaves it open to whoever waits in it.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.hang_up()


class Valkey(Server):
    """A server that knows the canary's script, and what it does."""

    def __init__(self, pki: Path) -> None:
        super().__init__(pki)
        self.line = "a" * 40
        self.state: dict[str, str] = {}
        self.bits: dict[str, set[int]] = {}
        self.expire: dict[str, int] = {}
        self.scripts: set[str] = set()
        self.error = ""
        self.password = "very-secret"
        self.role = "master"

    def talk(self, peer: Peer) -> None:
        while True:
            count = int(peer.line()[1:])
            words = []
            for _word in range(count):
                length = int(peer.line()[1:])
                words.append(peer.exactly(length + 2)[:-2].decode())
            if self.silent:
                continue
            peer.channel.sendall(self.answer(words))

    def answer(self, words: list[str]) -> bytes:
        if words[0] == "AUTH":
            good = words[2] == self.password
            return b"+OK\r\n" if good else b"-WRONGPASS invalid username-password pair\r\n"
        if self.error:
            return f"-{self.error}\r\n".encode()
        if not words[0].startswith("EVAL"):
            return self.read(words)
        name, script, keys, state, block, bit, seconds = words
        assert (keys, state) == ("2", "{muster:canary}:state")
        if name == "EVAL":
            self.scripts.add(hashlib.sha1(script.encode()).hexdigest())
        elif script not in self.scripts:
            return b"-NOSCRIPT No matching script.\r\n"
        self.bits.setdefault(block, set()).add(int(bit))
        self.expire[block] = int(seconds)
        if self.state.get("line") != self.line:
            self.state = {"line": self.line, "timeline": str(int(self.state.get("timeline", 0)) + 1)}
        timeline = self.state["timeline"]
        return f"${len(timeline)}\r\n{timeline}\r\n".encode()

    def read(self, words: list[str]) -> bytes:
        if words[0] == "INFO":
            offset = "master_repl_offset" if self.role == "master" else "slave_repl_offset"
            text = f"# Replication\r\nrole:{self.role}\r\nmaster_replid:{self.line}\r\n{offset}:4711\r\n"
            return bulk(text.encode())
        if words[0] == "HGET":
            found = self.state.get(words[2])
            return bulk(found.encode()) if found else b"$-1\r\n"
        if words[0] == "MGET":
            return b"*%d\r\n" % len(words[1:]) + b"".join(self.block(key) for key in words[1:])
        return b"+OK\r\n"

    def block(self, key: str) -> bytes:
        if key not in self.bits:
            return b"$-1\r\n"
        made = bytearray(max(self.bits[key]) // 8 + 1)
        for bit in self.bits[key]:
            made[bit // 8] |= 0x80 >> bit % 8
        return bulk(bytes(made))


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)


class Garbling(Server):
    """Answers whatever it is asked with the same bytes."""

    def __init__(self, pki: Path, said: bytes) -> None:
        super().__init__(pki)
        self.said = said

    def talk(self, peer: Peer) -> None:
        while peer.channel.recv(65536):
            peer.channel.sendall(self.said)


class Gate(Server):
    """What tells a RabbitMQ region's role."""

    def __init__(self, pki: Path) -> None:
        super().__init__(pki)
        self.found: Any = {"role": "primary", "epoch": 4, "region": "north", "open": True}

    def talk(self, peer: Peer) -> None:
        while peer.line():
            continue
        body = json.dumps(self.found).encode()
        peer.channel.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


class Rabbitmq(Server):
    """A broker with one queue; C(answer) says what becomes of a published message."""

    def __init__(self, pki: Path) -> None:
        super().__init__(pki)
        self.messages: list[tuple[str, int]] = []
        self.answer: Callable[[int], list[Any]] = lambda tag: [spec.Basic.Ack(tag)]
        self.refuse: Any = None
        self.consumers = 0
        self.lingers = 0  # times that a consumer is still counted after it has gone
        self.withheld = 0  # messages that are ready, and are not delivered
        self.stalls = 0  # readers to whom the last message is under way for longer than they wait
        self.expires = 0  # messages that are gone when a consumer comes
        self.missing = False
        self.was_read = False
        self.login = b"\0muster_canary\0very-secret"

    def talk(self, peer: Peer) -> None:
        assert peer.exactly(8) == b"AMQP\0\0\x09\x01"
        properties = {"cluster_name": "muster-north"}
        start = spec.Connection.Start(mechanisms="PLAIN", locales="en_US", server_properties=properties)
        self.send(peer, 0, start)
        assert self.frame(peer).method.response == self.login
        self.send(peer, 0, spec.Connection.Tune(100, 131072, 60))
        self.frame(peer)
        assert self.frame(peer).method.virtual_host == "muster"
        if self.refuse:
            self.send(peer, 0, self.refuse)
            return
        self.send(peer, 0, spec.Connection.OpenOk())
        before = self.consumers
        try:
            while self.step(peer, self.frame(peer)):
                continue
        finally:
            if peer.reads:
                self.consumers = before

    def step(self, peer: Peer, found: Any) -> bool:
        method, channel = getattr(found, "method", None), found.channel_number
        if isinstance(method, spec.Basic.Publish):
            self.publish(peer, method)
        elif isinstance(method, spec.Queue.Declare) and self.missing:
            self.send(
                peer, channel, spec.Channel.Close(404, f"NOT_FOUND - no queue '{method.queue}'", 50, 10)
            )
        elif isinstance(method, spec.Queue.Declare):
            # Else a queue that is missing would be made by being asked for.
            assert method.passive
            ready = self.withheld if self.consumers else len(self.messages)
            consumers = self.consumers
            if self.was_read and not consumers and self.lingers:
                self.lingers, ready, consumers = self.lingers - 1, 0, 1
            self.send(peer, channel, spec.Queue.DeclareOk(method.queue, ready, consumers))
        elif isinstance(method, spec.Basic.Qos):
            peer.most = method.prefetch_count
            self.send(peer, channel, spec.Basic.QosOk())
        elif isinstance(method, spec.Basic.Consume):
            self.deliver(peer, channel, method)
        elif isinstance(method, spec.Basic.Cancel):
            self.send(peer, channel, spec.Basic.CancelOk(method.consumer_tag))
        elif isinstance(method, spec.Connection.Close):
            self.send(peer, 0, spec.Connection.CloseOk())
            return False
        elif method is not None and method.synchronous:
            (answer,) = [one for one in ANSWERS if isinstance(method, ANSWERS[one])]
            self.send(peer, channel, answer())
        return True

    def publish(self, peer: Peer, publish: Any) -> None:
        peer.tag += 1
        assert (publish.exchange, publish.routing_key, publish.mandatory) == ("muster.canary", "canary", True)
        properties = self.frame(peer).properties
        body = self.frame(peer).fragment
        assert body.decode() == properties.message_id
        self.messages.append((properties.message_id, properties.delivery_mode))
        if not self.silent:
            for method in self.answer(peer.tag):
                self.send(peer, 1 if not isinstance(method, spec.Connection.Close) else 0, method)

    def deliver(self, peer: Peer, channel: int, consume: Any) -> None:
        assert not consume.no_ack
        self.consumers += 1
        peer.reads = self.was_read = True
        # Without a limit a broker sends all that it has, and more than a client wants to hold.
        assert peer.most
        self.send(peer, channel, spec.Basic.ConsumeOk(consume.consumer_tag))
        del self.messages[: self.expires]
        sent = len(self.messages) - self.withheld - bool(self.stalls)
        self.stalls = max(0, self.stalls - 1)
        for tag, (number, _mode) in enumerate(self.messages[:sent], 1):
            frames = (
                frame.Method(channel, spec.Basic.Deliver(consume.consumer_tag, tag, False, "e", "r")),
                frame.Header(channel, 1, spec.BasicProperties(message_id=number)),
                frame.Body(channel, b"x"),
            )
            peer.channel.sendall(b"".join(part.marshal() for part in frames))

    def frame(self, peer: Peer) -> Any:
        head = peer.exactly(7)
        return frame.decode_frame(head + peer.exactly(int.from_bytes(head[3:7], "big") + 1))[1]

    def send(self, peer: Peer, channel: int, method: Any) -> None:
        peer.channel.sendall(frame.Method(channel, method).marshal())


ANSWERS = {
    spec.Channel.OpenOk: spec.Channel.Open,
    spec.Channel.CloseOk: spec.Channel.Close,
    spec.Confirm.SelectOk: spec.Confirm.Select,
    spec.Basic.QosOk: spec.Basic.Qos,
}


def when(changed: str) -> str:
    return f"<LastModified>{changed}</LastModified>"


class Objects(Server):
    """An S3 that keeps objects with the time of their writing."""

    def __init__(self, pki: Path) -> None:
        super().__init__(pki)
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.error: tuple[int, bytes] | None = None
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.now = "2026-11-21T10:00:00.000Z"
        self.deleted = b"<DeleteResult/>"

    def talk(self, peer: Peer) -> None:
        while True:
            method, path, _version = peer.line().decode().split(" ")
            headers = {}
            while line := peer.line():
                name, _colon, value = line.decode().partition(": ")
                headers[name.lower()] = value
            body = peer.exactly(int(headers.get("content-length", "0")))
            self.requests.append((method, path, headers, body))
            if self.silent:
                continue
            status, answer = self.error or self.answer(method, path, body)
            peer.channel.sendall(
                b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(answer), answer)
            )

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        found = re.fullmatch(r"/muster-canary(?:/([^?]+))?(?:\?(.*))?", path)
        assert found
        key, query = found[1], found[2]
        if method == "PUT":
            self.objects[key] = (body, self.now)
            return 200, b""
        if method == "POST" and query == "delete=":
            for name in re.findall(rb"<Key>([^<]+)</Key>", body):
                self.objects.pop(name.decode(), None)
            return 200, self.deleted
        if query:
            return 200, self.listing(parse_qs(query))
        return (200, self.objects[key][0]) if key in self.objects else (404, b"<Code>NoSuchKey</Code>")

    def listing(self, query: dict[str, list[str]]) -> bytes:
        assert query["prefix"] == ["canary/"]
        after = query.get("start-after", [""])[0]
        found = sorted(name for name in self.objects if name.startswith("canary/") and name > after)
        names = found[:1000]
        more = "true" if len(found) > len(names) else "false"
        entries = "".join(
            f"<Contents><Key>{name}</Key><Size>8</Size>{when(self.objects[name][1])}</Contents>"
            for name in names
        )
        return f"<ListBucketResult><IsTruncated>{more}</IsTruncated>{entries}</ListBucketResult>".encode()
