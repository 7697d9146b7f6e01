# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Answers as Patroni's API and as a database would, as far as HAProxy looks at them.

usage: database.py NAME ROLE

8008: health checks with mutual TLS. 6379: checks of a store that speaks no HTTP. 5432 and 6432: says its name, then repeats what it is told;
"role ROLE" changes its role, "certificate FILE" the certificate that the API shows.
"""

from __future__ import annotations

import http.server
import socketserver
import ssl
import sys
import threading

SELF = {"name": sys.argv[1], "role": sys.argv[2], "certificate": "server.pem"}


class Patroni(http.server.BaseHTTPRequestHandler):
    def status(self) -> int:
        good = {
            "/primary": SELF["role"] == "primary",
            "/read-only": SELF["role"] in ("primary", "standby_leader", "replica"),
            # As a server that serves several names.
            "/named": SELF["role"] == "primary" and self.headers["Host"] == "objects",
        }
        return 200 if good.get(self.path) else 503

    def do_OPTIONS(self) -> None:
        self.wfile.write(f"HTTP/1.0 {self.status()} -\r\n\r\n".encode())

    def do_GET(self) -> None:
        self.send_response(self.status())
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(f'{{"state": "running", "role": "{SELF["role"]}", "timeline": 1}}'.encode())

    def log_message(self, *_arguments: object) -> None:
        pass


class Api(http.server.ThreadingHTTPServer):
    def finish_request(self, request, client_address) -> None:  # type: ignore[no-untyped-def]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(SELF["certificate"])
        context.load_verify_locations("ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            with context.wrap_socket(request, server_side=True) as connection:
                self.RequestHandlerClass(connection, client_address, self)
        except OSError as error:
            print(f"{client_address}: {error}", flush=True)


class Cache(socketserver.StreamRequestHandler):
    """Asked for its role by a password; says nothing to others."""

    def handle(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(SELF["certificate"])
        try:
            with context.wrap_socket(self.request, server_side=True) as connection:
                if connection.recv(100) == b"secret-word role\n":
                    connection.sendall(f"role:{SELF['role']}\n".encode())
        except OSError as error:
            print(f"{self.client_address}: {error}", flush=True)


class Database(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(f"{SELF['name']}\n".encode())
        for line in self.rfile:
            words = line.decode().split()
            if len(words) == 2 and words[0] in SELF:
                SELF[words[0]] = words[1]
            self.wfile.write(line)


class Databases(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


for port, handler in ((5432, Database), (6432, Database), (6379, Cache)):
    threading.Thread(target=Databases(("", port), handler).serve_forever, daemon=True).start()
Api(("", 8008), Patroni).serve_forever()
