#!/usr/bin/python3
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""May clients connect to RabbitMQ here? Opens and closes its AMQP listener, and answers health checks.

A region that was lost comes back with its old data, in which it is still primary and its
applications may still write: left alone, it would take writes beside the other region. So
RabbitMQ starts without a listener for clients, and this opens it:

- in a standby at once: no application has permissions there;
- in a primary when another node of its region has it open already, or when the other region
  answers and has no newer epoch. No answer is no yes: it waits.

It goes on looking while the listener is open: a region that another one has overtaken closes.

GET or OPTIONS /primary answers 200 where applications may write, else 503 with the reason;
/standby and /open do so for what their names say. The answer is read from RabbitMQ anew.

Only the standard library. usage: rabbitmq_gate.py CONFIGURATION
"""

from __future__ import annotations

import base64
import http.client
import http.server
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

PARAMETER = "/api/global-parameters/muster_region_role"
TIMEOUT = 2.0
CLOSED_EVERY = 0.5
OPEN_EVERY = 5.0
FRESH = 0.2  # seconds that an answer is given again
OPEN = "rabbit_networking:start_ssl_listener({port}, rabbit_networking:ensure_ssl(), 10)."
CLOSE = (
    "rabbit_networking:stop_ranch_listener_of_protocol('amqp/ssl'), "
    'rabbit_networking:close_connections(rabbit_networking:local_connections(), "the region is closed").'
)


class Unknown(Exception):
    """What a node holds could not be read."""


class Refused(Exception):
    """The listener stays closed; the text says why."""


class Node:
    """The management API of one node, over a connection that stays open."""

    def __init__(self, host: str, given: dict[str, Any], context: ssl.SSLContext) -> None:
        self.host = host
        self.port = given["api_port"]
        self.context = context
        secret = base64.b64encode(f"{given['user']}:{given['password']}".encode()).decode()
        self.headers = {"Authorization": f"Basic {secret}"}
        self.connection: http.client.HTTPSConnection | None = None
        self.lock = threading.Lock()

    def role(self) -> dict[str, Any] | None:
        """The role of its region as its cluster has it; None when none was ever given."""
        with self.lock:
            try:
                return self._ask()
            except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
                self.connection = None
                raise Unknown(f"{self.host}: {error or type(error).__name__}") from error

    def _ask(self) -> dict[str, Any] | None:
        for fresh in (False, True):
            if self.connection is None:
                fresh = True
                self.connection = http.client.HTTPSConnection(
                    self.host, self.port, timeout=TIMEOUT, context=self.context
                )
            try:
                self.connection.request("GET", PARAMETER, headers=self.headers)
                response = self.connection.getresponse()
                text = response.read()
                break
            except (OSError, http.client.HTTPException):
                # One that was kept may have been closed meanwhile.
                self.connection.close()
                self.connection = None
                if fresh:
                    raise
        if response.status == 404 and b"Object Not Found" in text:
            return None
        if response.status != 200:
            raise OSError(f"HTTP status {response.status}")
        value = json.loads(text)["value"]
        return {"role": str(value["role"]), "epoch": int(value["epoch"])}


def listens(port: int) -> bool:
    try:
        socket.create_connection(("localhost", port), 1.0).close()
    except OSError:
        return False
    return True


def control(expression: str) -> None:
    """Have the node do something; what it says of it goes to the journal."""
    subprocess.run(["/usr/sbin/rabbitmqctl", "--quiet", "eval", expression], check=False, timeout=60)


@dataclass
class Gate:
    """The gate of one node."""

    given: dict[str, Any]
    context: ssl.SSLContext
    own: Node = field(init=False)
    others: dict[str, list[Node]] = field(init=False)
    reason: str = "not looked yet"
    answered: tuple[float, dict[str, Any]] = (0.0, {})
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.own = Node(self.given["host"], self.given, self.context)
        self.others = {
            region: [Node(host, self.given, self.context) for host in hosts]
            for region, hosts in self.given["regions"].items()
            if region != self.given["region"]
        }

    def open(self) -> bool:
        return listens(self.given["port"])

    # --- deciding ---

    def other_role(self, region: str) -> dict[str, Any] | None:
        """What the first node of another region that answers says."""
        failures = []
        for node in self.others[region]:
            try:
                return node.role()
            except Unknown as error:
                failures.append(str(error))
        raise Unknown(f"no RabbitMQ of region {region} answers ({'; '.join(failures)})")

    def peer_is_open(self) -> bool:
        """Whether another node of the own region takes its clients."""
        for host in self.given["regions"][self.given["region"]]:
            if host == self.given["host"]:
                continue
            try:
                connection = http.client.HTTPSConnection(
                    host, self.given["health_port"], timeout=TIMEOUT, context=self.context
                )
                connection.request("GET", "/primary")
                if connection.getresponse().status == 200:
                    return True
            except (OSError, http.client.HTTPException):
                continue
            finally:
                connection.close()
        return False

    def overtaken(self, own: dict[str, Any]) -> None:
        """Refused when another region has a newer epoch; Unknown when one does not answer."""
        for region in self.others:
            theirs = self.other_role(region)
            if not theirs or theirs["epoch"] < own["epoch"]:
                continue
            if theirs["epoch"] > own["epoch"] or theirs["role"] == "primary":
                raise Refused(
                    f"region {region} is {theirs['role']} since epoch {theirs['epoch']}, this one has epoch "
                    f"{own['epoch']}: it takes no clients until dr_reprotect has brought it back"
                )

    def decide(self, own: dict[str, Any] | None) -> None:
        """Return when the listener may open."""
        if own is None:
            raise Refused("the region has no role yet")
        if own["role"] != "primary" or self.peer_is_open():
            return
        self.overtaken(own)

    # --- doing ---

    def step(self) -> float:
        """Look once, act where needed; the seconds until the next look."""
        is_open = self.open()
        try:
            own = self.own.role()
            if not is_open:
                self.decide(own)
                control(OPEN.format(port=int(self.given["port"])))
            elif own and own["role"] == "primary":
                self.look_around(own)
            self.tell("")
        except Refused as error:
            self.tell(str(error))
            if is_open:
                control(CLOSE)
        except Unknown as error:
            self.tell(str(error))
        return OPEN_EVERY if is_open else CLOSED_EVERY

    def look_around(self, own: dict[str, Any]) -> None:
        """A region that does not answer is no reason to close what is open."""
        try:
            self.overtaken(own)
        except Unknown:
            return

    def tell(self, reason: str) -> None:
        if reason != self.reason:
            print(f"closed: {reason}" if reason else "open", file=sys.stderr, flush=True)
        self.reason = reason

    # --- answering ---

    def answer(self) -> dict[str, Any]:
        """What the node is now."""
        with self.lock:
            if time.monotonic() - self.answered[0] < FRESH:
                return self.answered[1]
            is_open = self.open()
            try:
                found = self.own.role() or {"role": "none", "epoch": 0}
            except Unknown as error:
                found, is_open = {"role": "unknown", "epoch": None, "error": str(error)}, False
            found |= {"open": is_open, "region": self.given["region"], "reason": self.reason}
            self.answered = (time.monotonic(), found)
            return found

    def handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        gate = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10

            def do_GET(self) -> None:
                found = gate.answer()
                good = found["open"] and self.path in ("/open", f"/{found['role']}")
                body = (json.dumps(found) + "\n").encode()
                self.send_response(200 if good else 503)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_OPTIONS = do_HEAD = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


class Server(http.server.ThreadingHTTPServer):
    """TLS is spoken in the request's own thread: a client that says nothing holds up nobody."""

    address_family = socket.AF_INET6
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, handler: Any, context: ssl.SSLContext) -> None:
        self.context = context
        super().__init__(("::", port), handler)

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(10)
        with self.context.wrap_socket(request, server_side=True) as wrapped:
            self.RequestHandlerClass(wrapped, client_address, self)  # type: ignore[arg-type]

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away, or that does not trust us


def main(path: str) -> int:
    with open(path, encoding="utf-8") as stream:
        given = json.load(stream)
    client = ssl.create_default_context(cafile=given["ca_certificate"])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(given["certificate"], given["private_key"])
    gate = Gate(given, client)
    listener = Server(given["health_port"], gate.handler(), server)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    while True:
        time.sleep(gate.step())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
