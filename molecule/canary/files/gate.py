# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the gate of a RabbitMQ node tells of its region."""

import http.server
import ssl

BODY = b'{"role": "primary", "epoch": 3, "region": "north", "open": true}'


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)


server = http.server.ThreadingHTTPServer(("", 15673), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/etc/muster/stores.crt", "/etc/muster/stores.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
