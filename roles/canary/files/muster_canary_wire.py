# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""TLS connections of the canary, and what the stores that are reached over them have in common.

The stores' own client libraries resolve names while a write waits, know no deadline for a whole
attempt, and cannot be woken when the daemon ends. So their protocols are spoken here over one kind
of connection, that does what is asked of libpq for PostgreSQL. What needs no connection is left to the
libraries: pika makes the frames of AMQP, botocore signs requests. Of Redis' protocol it is ten lines.

The canary may take 3 % of one processor. Its time for one write, against servers on the same machine
(Python 3.11): an object 0.5 ms here and 2.0 ms by boto3, which would be 1.6 % for the two endpoints
alone; a number in Valkey 0.17 ms here and 0.16 ms by redis. All three stores, each with two endpoints
and 250 ms, take 1.3 to 1.7 %.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import os
import select
import socket
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from muster_canary import CONNECT_SECONDS, NAME, NoAnswer, Route, Stop, Stopping, Store

ERRORS = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "closed",
    errno.EPIPE: "closed",
    errno.ETIMEDOUT: "timeout",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EINVAL: "unreachable",
}


def classify(error: OSError) -> str:
    """A short class for the ledger."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "closed"
    if isinstance(error, ssl.SSLError):
        return "tls"
    return ERRORS.get(error.errno or 0, "error")


class Rejected(NoAnswer):
    """The store answered, and said no; C(said) is its own words, for the journal."""

    def __init__(self, name: str, said: str) -> None:
        super().__init__(name)
        self.said = said


class Authorities:
    """The CA file as it is now; read again when it has changed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.stamp: tuple[int, int] = (0, 0)
        self.context: ssl.SSLContext | None = None

    def get(self) -> ssl.SSLContext:
        found = os.stat(self.path)
        stamp = (found.st_mtime_ns, found.st_ino)
        if self.context is None or stamp != self.stamp:
            self.context = ssl.create_default_context(cafile=self.path)
            self.stamp = stamp
        return self.context


class Wire:
    """One TLS connection with a verified name. Every wait has a deadline, and ends when the daemon does."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop
        self.socket: ssl.SSLSocket | None = None
        self.buffer = b""

    # --- opening and closing ---

    def open(self, address: str, port: int, name: str, context: ssl.SSLContext, deadline: float) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        plain = socket.socket(family, socket.SOCK_STREAM)
        try:
            plain.setblocking(False)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1500)
            if plain.connect_ex((address, port)) not in (0, errno.EINPROGRESS):
                plain.connect((address, port))  # says what is wrong
            self._wait(plain, select.POLLOUT, deadline)
            if failed := plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(failed, os.strerror(failed))
            self.socket = context.wrap_socket(plain, server_hostname=name, do_handshake_on_connect=False)
            self._drive(self.socket.do_handshake, deadline)
        except BaseException:
            plain.close()
            self.close()
            raise

    def close(self) -> None:
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.close()
        self.socket = None
        self.buffer = b""

    def usable(self) -> bool:
        """Whether it is open, and the peer has said nothing since: then it is still there."""
        if self.socket is None or self.buffer:
            return False
        poller = select.poll()
        poller.register(self.socket, select.POLLIN)
        if not poller.poll(0):
            return True
        # TLS has things of its own to say, such as session tickets; they are no data.
        try:
            self.buffer = self.socket.recv(65536)
        except ssl.SSLWantReadError:
            return True
        except OSError:
            return False
        return False

    def peer(self) -> str:
        """The common name of the peer's certificate."""
        certificate: Any = self.socket.getpeercert() if self.socket else None
        for part in (certificate or {}).get("subject", ()):
            for key, value in part:
                if key == "commonName":
                    return str(value)
        return ""

    # --- sending and receiving ---

    def send(self, data: bytes, deadline: float) -> None:
        while data:
            # TLS takes all or nothing of so little; after a wait it wants to be given the same again.
            sent = self._drive(partial(self._open().send, data), deadline)
            data = data[sent:]

    def read(self, count: int, deadline: float) -> bytes:
        while len(self.buffer) < count:
            self.fill(deadline)
        found, self.buffer = self.buffer[:count], self.buffer[count:]
        return found

    def read_until(self, end: bytes, deadline: float) -> bytes:
        """All up to the end mark, which is taken and not returned."""
        while end not in self.buffer:
            self.fill(deadline)
        found, self.buffer = self.buffer.split(end, 1)
        return found

    def fill(self, deadline: float) -> None:
        more = self._drive(lambda: self._open().recv(65536), deadline)
        if not more:
            raise ConnectionResetError(errno.ECONNRESET, "the server closed the connection")
        self.buffer += more

    def _open(self) -> ssl.SSLSocket:
        if self.socket is None:
            raise ConnectionResetError(errno.ECONNRESET, "not connected")
        return self.socket

    def _drive(self, step: Callable[[], Any], deadline: float) -> Any:
        """Repeat a step of TLS until it needs to wait for nobody."""
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._wait(self._open(), select.POLLIN, deadline)
            except ssl.SSLWantWriteError:
                self._wait(self._open(), select.POLLOUT, deadline)

    def _wait(self, channel: socket.socket, event: int, deadline: float) -> None:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise NoAnswer("timeout")
        poller = select.poll()
        poller.register(channel, event)
        poller.register(self.stop.reader, select.POLLIN)
        ready = poller.poll(max(1, round(remaining * 1000)))
        if any(descriptor == self.stop.reader for descriptor, _events in ready):
            raise Stopping
        if not ready:
            raise NoAnswer("timeout")


class Incoming(io.RawIOBase):
    """What comes over a wire, as a file, for http.client."""

    def __init__(self, wire: Wire, deadline: float) -> None:
        self.wire = wire
        self.deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self.wire.buffer:
            self.wire.fill(self.deadline)
        part = self.wire.buffer[: len(buffer)]
        self.wire.buffer = self.wire.buffer[len(part) :]
        buffer[: len(part)] = part
        return len(part)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)


def answer_of(wire: Wire, method: str, deadline: float) -> tuple[int, bytes]:
    """Status and body of an answer in HTTP; the connection ends with it when the server says so."""
    response = http.client.HTTPResponse(Incoming(wire, deadline), method=method)  # type: ignore[arg-type]
    try:
        response.begin()
        body = response.read()
    except http.client.HTTPException as error:
        raise Rejected("protocol", f"no answer in HTTP: {type(error).__name__}") from error
    if response.will_close:
        wire.close()
    return response.status, body


class WireSession(ABC):
    """A session over one connection; a store's own class greets the server and speaks its protocol."""

    # What reading an answer raises that is none. It may not end the thread, and with it the daemon: that
    # one store talks nonsense is no reason to measure none.
    garbled: tuple[type[Exception], ...] = (ValueError, TypeError)

    def __init__(self, store: WireStore, route: Route) -> None:
        self.store = store
        self.route = route
        self.wire = Wire(store.stop)
        self.host = ""

    def connect(self, deadline: float) -> None:
        if self.wire.usable():
            return
        self.close()
        endpoint = self.route.endpoint
        address = self.route.address()
        until = min(deadline, time.monotonic() + CONNECT_SECONDS)
        try:
            context = self.store.authorities.get()
            self.wire.open(address, endpoint.port, endpoint.host, context, until)
            # Between here and the server nobody ends TLS: who has the certificate is who answers.
            self.host = self.named(self.wire.peer())
            self.greet(until)
        except (NoAnswer, OSError):
            self.route.failed()
            raise

    @staticmethod
    def named(text: str) -> str:
        """A name from a certificate, when it can stand in the ledger."""
        return text if NAME.match(text) else ""

    @abstractmethod
    def greet(self, deadline: float) -> None:
        """Log in, and learn what the server tells of itself."""

    @abstractmethod
    def put(self, sequence: int, deadline: float) -> str:
        """Write a number over the open connection; who acknowledged it."""

    def write(self, sequence: int, deadline: float, sending: Callable[[], None]) -> str:
        with self.guarded():
            self.connect(deadline)
            sending()
            return self.put(sequence, deadline)

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """After anything but a success the connection is dropped: what is still on its way is of no use."""
        endpoint, done = self.route.endpoint.name, False
        try:
            yield
            done = True
        except OSError as error:
            self.store.remark(endpoint, error)
            raise NoAnswer(classify(error)) from error
        except Rejected as error:
            self.store.remark(endpoint, error.said)
            raise
        except self.garbled as error:
            self.store.remark(endpoint, f"an answer that cannot be read ({type(error).__name__})")
            raise NoAnswer("protocol") from error
        finally:
            if not done:
                self.close()

    def prune(self, pause: Callable[[float], bool]) -> int:
        """Remove what is older than it is kept; the server does that by itself where it can."""
        return 0

    def close(self) -> None:
        self.wire.close()


class WireStore(Store):
    """A store behind one endpoint per region, reached over TLS."""

    session_class: type[WireSession]
    prune_by_number = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.authorities = Authorities(self.config.ca)

    def session(self, route: Route) -> WireSession:
        return self.session_class(self, route)

    def region_of(self, host: str, route: Route) -> str:
        """Where a server stands: by its name, else as the endpoint's configuration says."""
        return self.regions.get(host) or route.endpoint.region or "unknown"

    def prune(self, _below: int) -> int:
        for route in self.routes:
            session = self.session(route)
            try:
                return session.prune(self.stop.wait)
            except NoAnswer:
                continue
            finally:
                session.close()
        return 0
