# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""As much of etcd as Muster uses, behind mutual TLS: the gateway that unit tests talk to."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils._etcd import EtcdClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NAMES = ("north-1", "north-2", "north-3")
HOSTS = ("north-1", "north-2", "south-1", "south-2")


# --- certificates -------------------------------------------------------------------


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA and one certificate for localhost and HOSTS, good at both ends of a connection."""
    directory = tmp_path_factory.mktemp("pki")
    now = datetime.now(UTC)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])

    def certificate(subject: x509.Name, public_key: Any, *extensions: Any) -> bytes:
        builder = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(ca_name).public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False)
        )  # fmt: skip
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    usage = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "crl_sign", "encipher_only", "decipher_only"), False)  # fmt: skip
    (directory / "ca.crt").write_bytes(
        certificate(
            ca_name,
            ca_key.public_key(),
            (x509.BasicConstraints(True, None), True),
            (x509.KeyUsage(key_cert_sign=True, **usage), True),
            (x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), False),
        )
    )
    (directory / "member.crt").write_bytes(
        certificate(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "member")]),
            key.public_key(),
            (x509.SubjectAlternativeName([x509.DNSName(name) for name in ("localhost", *HOSTS)]), False),
            (
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                False,
            ),
        )
    )
    _write_key(directory / "member.key", key)
    return directory


# --- a cluster ----------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    def handle_error(self, *_arguments: Any) -> None:
        """Refused certificates are what some tests want."""


class Endpoint:
    """One member's listener, which can be told to fail in several ways."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.up = True
        self.healthy = True
        self.cluster_id = 77
        self.server = Server(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cluster.pki / "member.crt", cluster.pki / "member.key")
        context.load_verify_locations(cluster.pki / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        self.server.socket = context.wrap_socket(
            self.server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.server.server_address[1]}"


def _handler(endpoint: Endpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_arguments: Any) -> None:
            pass

        def answer(self, code: int, payload: dict[str, Any]) -> None:
            raw = json.dumps(payload).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def hang_up(self) -> bool:
            if endpoint.up:
                return False
            self.close_connection = True
            return True

        def do_GET(self) -> None:
            if self.hang_up():
                return
            good = endpoint.healthy and endpoint.cluster.leader() is not None
            self.answer(
                200 if good else 503, {"health": str(good).lower(), "reason": "" if good else "NO LEADER"}
            )

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.hang_up():
                return
            code, payload = endpoint.cluster.serve(endpoint, self.path, body)
            if payload is None:
                self.close_connection = True
                return
            self.answer(code, payload)

    return Handler


def _problem(code: int, grpc: int, message: str) -> tuple[int, dict[str, Any]]:
    return code, {"error": message, "code": grpc, "message": message}


class Cluster:
    """A store, leases and a member list behind three endpoints; as much of etcd as the client uses."""

    def __init__(self, pki: Path) -> None:
        self.pki = pki
        self.revision = 1
        self.keys: dict[str, dict[str, Any]] = {}
        self.leases: dict[int, float] = {}
        self.ttl: dict[int, int] = {}
        self.mutex = threading.RLock()
        self.requests: list[str] = []
        # Requests whose work is done and whose answer is lost.
        self.swallow: list[str] = []
        self.refuse_members = 0
        self.endpoints = {name: Endpoint(self, name) for name in NAMES}
        self.members: dict[int, dict[str, Any]] = {}
        for number, name in enumerate(NAMES, start=1):
            self.members[number] = {
                "ID": str(number),
                "name": name,
                "peerURLs": [f"https://{name}:2380"],
                "clientURLs": [self.endpoints[name].url],
            }

    def member_id(self, name: str) -> int:
        return next((number for number, member in self.members.items() if member["name"] == name), 0)

    def leader(self) -> int | None:
        up = [n for n, m in self.members.items() if m["name"] in self.endpoints and self.alive(m["name"])]
        voters = [n for n, m in self.members.items() if not m.get("isLearner")]
        return min(up) if len(set(up) & set(voters)) > len(voters) // 2 else None

    def alive(self, name: str) -> bool:
        endpoint = self.endpoints.get(name)
        return endpoint is not None and endpoint.up

    def urls(self) -> list[str]:
        return [endpoint.url for endpoint in self.endpoints.values()]

    def declared(self) -> dict[str, dict[str, str]]:
        return {
            name: {"client_url": endpoint.url, "peer_url": f"https://{name}:2380"}
            for name, endpoint in self.endpoints.items()
        }

    def client(self, **more: Any) -> EtcdClient:
        files = (str(self.pki / name) for name in ("ca.crt", "member.crt", "member.key"))
        ca, certificate, key = files
        return EtcdClient(self.urls(), ca, certificate, key, **{"timeout": 2.0, **more})

    def close(self) -> None:
        for endpoint in self.endpoints.values():
            endpoint.server.shutdown()
            endpoint.server.server_close()

    # --- requests

    def serve(self, endpoint: Endpoint, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any] | None]:
        with self.mutex:
            self.requests.append(f"{endpoint.name} {path}")
            if path == "/v3/maintenance/status":
                return 200, self.status(endpoint)
            if self.leader() is None and body.get("linearizable") is not False:
                return _problem(503, 14, "etcdserver: no leader")
            self.expire()
            code, payload = getattr(self, path.removeprefix("/v3/").replace("/", "_"))(body)
            if path in self.swallow:
                self.swallow.remove(path)
                return 0, None
            payload.setdefault("header", {"revision": str(self.revision)})
            return code, payload

    def status(self, endpoint: Endpoint) -> dict[str, Any]:
        number = self.member_id(endpoint.name)
        return {
            "header": {
                "cluster_id": str(endpoint.cluster_id),
                "member_id": str(number or 99),
                "revision": str(self.revision),
            },
            "version": "3.5.16",
            "dbSize": "900",
            "leader": str(self.leader() or 0),
            "raftIndex": "40",
            "raftAppliedIndex": "40",
            **({"isLearner": True} if self.members.get(number, {}).get("isLearner") else {}),
        }

    def expire(self) -> None:
        for lease in [lease for lease, until in self.leases.items() if until < time.monotonic()]:
            self.drop(lease)

    def drop(self, lease: int) -> None:
        del self.leases[lease]
        for key in [key for key, pair in self.keys.items() if pair.get("lease") == str(lease)]:
            del self.keys[key]

    def selected(self, body: dict[str, Any]) -> list[str]:
        start = base64.b64decode(body["key"])
        if "range_end" not in body:
            return [key for key in self.keys if key.encode() == start]
        end = base64.b64decode(body["range_end"])
        return sorted(k for k in self.keys if start <= k.encode() and (end == b"\0" or k.encode() < end))

    def kv_range(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        found = [self.keys[key] for key in self.selected(body)]
        return 200, {"count": str(len(found)), **({} if body.get("count_only") else {"kvs": found})}

    def put(self, key: str, value: str) -> None:
        """Write a key, whatever it holds."""
        with self.mutex:
            self.kv_put(
                {
                    name: base64.b64encode(text.encode()).decode()
                    for name, text in (("key", key), ("value", value))
                }
            )

    def kv_put(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if "lease" in body and int(body["lease"]) not in self.leases:
            return _problem(404, 5, "etcdserver: requested lease not found")
        self.revision += 1
        key = base64.b64decode(body["key"]).decode()
        created = self.keys.get(key, {}).get("create_revision", str(self.revision))
        self.keys[key] = {**body, "mod_revision": str(self.revision), "create_revision": created}
        return 200, {}

    def holds(self, compare: dict[str, Any]) -> bool:
        pair = self.keys.get(base64.b64decode(compare["key"]).decode(), {})
        name = {"MOD": "mod_revision", "VALUE": "value", "LEASE": "lease"}[compare["target"]]
        return pair.get(name, None if name == "value" else "0") == compare[name]

    def operate(self, operation: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        (kind, body), *_none = operation.items()
        serve = {"put": self.kv_put, "range": self.kv_range, "delete_range": self.kv_deleterange}
        name = kind.removeprefix("request_")
        code, payload = serve[name](body)
        return code, payload if code != 200 else {f"response_{name}": payload}

    def kv_txn(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        succeeded = all(self.holds(compare) for compare in body.get("compare", []))
        responses = []
        for operation in body.get("success" if succeeded else "failure", []):
            code, payload = self.operate(operation)
            if code != 200:
                return code, payload
            responses.append(payload)
        return 200, {**({"succeeded": True} if succeeded else {}), "responses": responses}

    def kv_deleterange(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        found = self.selected(body)
        for key in found:
            del self.keys[key]
        return 200, {"deleted": str(len(found))}

    def lease_grant(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        lease = 4711 + len(self.ttl)
        self.ttl[lease] = int(body["TTL"])
        self.leases[lease] = time.monotonic() + self.ttl[lease]
        return 200, {"ID": str(lease), "TTL": body["TTL"]}

    def lease_keepalive(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        lease = int(body["ID"])
        if lease not in self.leases:
            return 200, {"result": {"ID": body["ID"]}}
        self.leases[lease] = time.monotonic() + self.ttl[lease]
        return 200, {"result": {"ID": body["ID"], "TTL": str(self.ttl[lease])}}

    def lease_revoke(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if int(body["ID"]) not in self.leases:
            return _problem(404, 5, "etcdserver: requested lease not found")
        self.drop(int(body["ID"]))
        return 200, {}

    def cluster_member_list(self, _body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return 200, {"members": list(self.members.values())}

    def cluster_member_add(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.refuse_members:
            self.refuse_members -= 1
            return _problem(503, 14, "etcdserver: unhealthy cluster")
        number = max(self.members) + 100
        self.members[number] = {
            "ID": str(number),
            "name": "",
            "peerURLs": body["peerURLs"],
            "isLearner": True,
        }
        return 200, {"member": self.members[number]}

    def cluster_member_remove(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if int(body["ID"]) not in self.members:
            return _problem(404, 5, "etcdserver: member not found")
        del self.members[int(body["ID"])]
        return 200, {}

    def cluster_member_promote(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if not self.members[int(body["ID"])]["name"]:
            return _problem(
                400, 9, "etcdserver: can only promote a learner member which is in sync with leader"
            )
        self.members[int(body["ID"])].pop("isLearner", None)
        return 200, {}

    def maintenance_alarm(self, _body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return 200, {}


@pytest.fixture
def cluster(pki: Path) -> Iterator[Cluster]:
    made = Cluster(pki)
    yield made
    made.close()
