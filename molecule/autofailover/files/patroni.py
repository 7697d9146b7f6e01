# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Answers as Patroni's API does, and has a process that looks like PostgreSQL.

usage: patroni.py ROLE
"""

from __future__ import annotations

import http.server
import json
import ssl
import subprocess
import sys

ROLE = sys.argv[1]
TLS = "/etc/muster/postgresql"
LOCATION = {"location": 5} if ROLE == "primary" else {"received_location": 5, "replayed_location": 5}
ANSWERS = {
    "/patroni": {"state": "running", "role": ROLE, "timeline": 1, "xlog": LOCATION},
    "/config": {} if ROLE == "primary" else {"standby_cluster": {"host": "north-1", "port": 5432}},
}


class Patroni(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        raw = json.dumps(ANSWERS.get(self.path, {})).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_arguments: object) -> None:
        pass


class Api(http.server.ThreadingHTTPServer):
    def finish_request(self, request, client_address) -> None:  # type: ignore[no-untyped-def]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{TLS}/server.crt", f"{TLS}/server.key")
        context.load_verify_locations(f"{TLS}/ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            with context.wrap_socket(request, server_side=True) as connection:
                self.RequestHandlerClass(connection, client_address, self)
        except OSError as error:
            print(f"{client_address}: {error}", flush=True)


# PostgreSQL is known by its program's name, and by where it works.
subprocess.Popen(["/opt/database/postgres", "infinity"], cwd="/opt/database/data")
Api(("", 8008), Patroni).serve_forever()
