# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What asks the object stores' hosts, against a real TLS server in place of one of them."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._object_storage import Stores


class Host:
    """Answers what it is told to; C(asked) is what was asked, and whether it came with a certificate."""

    def __init__(self, pki: Path) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.asked: list[tuple[str, bool]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki / "member.crt", pki / "member.key")
        context.load_verify_locations(pki / "ca.crt")
        context.verify_mode = ssl.CERT_OPTIONAL
        self.server.socket = context.wrap_socket(
            self.server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def handler(host: Host) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert isinstance(self.connection, ssl.SSLSocket)
            host.asked.append((self.path, bool(self.connection.getpeercert())))
            status, body = host.answers.get(self.path, (404, b""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_words: Any) -> None:
            pass

    return Handler


@pytest.fixture
def host(pki: Path) -> Iterator[Host]:
    made = Host(pki)
    yield made
    made.stop()


def stores(pki: Path, port: int, **more: Any) -> Stores:
    return Stores(
        {
            "region": "south", "host": "localhost", "regions": {"south": ["localhost"]},
            "port": port, "s3_port": port, "read_key": "r", "write_key": "w",
            "certificate": str(pki / "member.crt"), "private_key": str(pki / "member.key"),
            "ca_certificate": str(pki / "ca.crt"), **more,
        }
    )  # fmt: skip


def test_a_host_is_asked_with_a_certificate(host: Host, pki: Path) -> None:
    host.answers["/state"] = 200, b'{"open": true}'
    assert stores(pki, host.port).ask("south").open
    assert host.asked == [("/state", True)]


@pytest.mark.parametrize("name", ["certificate", "private_key", "ca_certificate"])
def test_a_certificate_that_is_not_there_is_told(host: Host, pki: Path, name: str) -> None:
    with pytest.raises(MusterError, match=r"^the TLS files in .* cannot be used: .*No such file"):
        stores(pki, host.port, **{name: "/nowhere"}).request("GET", "localhost", host.port, "/state")
    assert host.asked == []


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_a_gateway_is_healthy_when_it_says_so(host: Host, pki: Path, status: int, healthy: bool) -> None:
    host.answers["/healthz"] = status, b""
    assert stores(pki, host.port).s3_healthy("localhost") is healthy
    assert host.asked == [("/healthz", False)]


def test_a_gateway_that_is_down_is_not_healthy(host: Host, pki: Path) -> None:
    host.stop()
    asking = stores(pki, host.port)
    assert not asking.s3_listens("localhost")
    assert not asking.s3_healthy("localhost")


def test_a_gateway_whose_authority_is_not_there_is_not_healthy(host: Host, pki: Path) -> None:
    host.answers["/healthz"] = 200, b""
    assert not stores(pki, host.port, ca_certificate="/nowhere").s3_healthy("localhost")
