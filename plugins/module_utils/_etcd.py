# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A client of etcd's v3 JSON gateway over mutual TLS, for etcd 3.4 and later.

Only the standard library: it runs on hosts that have Python and nothing else.
"""

from __future__ import annotations

import base64
import http.client
import json
import secrets
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TypeVar

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

T = TypeVar("T")

LOCK_PREFIX = "/muster/locks/"
# gRPC status codes with which another endpoint may do better: deadline exceeded, unavailable.
_TRY_ANOTHER = frozenset({4, 14})
_UNKNOWN = 2
# A lease that no longer exists.
_NOT_FOUND = 5


class EtcdError(MusterError):
    """A failed request; C(code) is the gRPC status code, or None when no answer came."""

    def __init__(self, message: str, code: int | None = None, sent: bool = False) -> None:
        super().__init__(message)
        self.code = code
        # The request may have been carried out although its answer never came.
        self.sent = sent


@dataclass(frozen=True)
class KeyValue:
    """One key of the store."""

    key: str
    value: str
    mod_revision: int
    lease: int | None


@dataclass(frozen=True)
class Member:
    """One member of the cluster's list; C(name) is empty until it has started once."""

    id: str
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool


@dataclass(frozen=True)
class Status:
    """What one endpoint says about itself; only C(endpoint) and C(error) when it did not answer."""

    endpoint: str
    error: str | None = None
    version: str | None = None
    cluster_id: str | None = None
    member_id: str | None = None
    leader: str | None = None
    is_learner: bool = False
    raft_index: int | None = None
    raft_applied_index: int | None = None
    revision: int | None = None
    db_size: int | None = None
    errors: tuple[str, ...] = field(default=())

    @property
    def is_leader(self) -> bool:
        return self.member_id is not None and self.member_id == self.leader


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode(errors="replace")


def _prefix_end(prefix: str) -> str:
    """The key after the last one that starts with C(prefix), encoded."""
    raw = bytearray(prefix.encode())
    while raw and raw[-1] == 0xFF:
        raw.pop()
    if raw:
        raw[-1] += 1
    return base64.b64encode(bytes(raw) or b"\0").decode()


def each(ask: Callable[[str], T], endpoints: Sequence[str]) -> list[T]:
    """Call C(ask) with every endpoint at the same time; the answers in the endpoints' order."""
    if not endpoints:
        return []
    with ThreadPoolExecutor(max_workers=min(8, len(endpoints))) as pool:
        return list(pool.map(ask, endpoints))


def _hex(number: Any) -> str | None:
    """An identifier the way etcdctl prints it; None for 0 (no leader)."""
    return f"{int(number):x}" if number and int(number) else None


def _key_value(raw: dict[str, Any]) -> KeyValue:
    return KeyValue(
        key=_text(raw["key"]),
        value=_text(raw.get("value", "")),
        mod_revision=int(raw["mod_revision"]),
        lease=int(raw["lease"]) if raw.get("lease") else None,
    )


def _member(raw: dict[str, Any]) -> Member:
    return Member(
        id=f"{int(raw['ID']):x}",
        name=raw.get("name", ""),
        peer_urls=tuple(raw.get("peerURLs", [])),
        client_urls=tuple(raw.get("clientURLs", [])),
        is_learner=bool(raw.get("isLearner", False)),
    )


def has_revision(key: str, mod_revision: int) -> dict[str, Any]:
    """For a transaction: true while the key is as it was (0: while it does not exist)."""
    return {"key": _b64(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(mod_revision)}


def has_value(key: str, value: str) -> dict[str, Any]:
    """For a transaction: true while the key holds this value."""
    return {"key": _b64(key), "target": "VALUE", "result": "EQUAL", "value": _b64(value)}


def reading(key: str) -> dict[str, Any]:
    return {"request_range": {"key": _b64(key)}}


def writing(key: str, value: str) -> dict[str, Any]:
    return {"request_put": {"key": _b64(key), "value": _b64(value)}}


def removing(key: str) -> dict[str, Any]:
    return {"request_delete_range": {"key": _b64(key)}}


class _Connection(http.client.HTTPSConnection):
    """A TLS connection that can expect another name than the one it connects to."""

    def __init__(
        self, host: str, port: int, timeout: float, context: ssl.SSLContext, server_name: str | None
    ) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._tls_context = context
        self._server_name = server_name or host

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls_context.wrap_socket(self.sock, server_hostname=self._server_name)


class EtcdClient:
    """Requests go to one endpoint over a kept connection, and on to the next when it fails.

    Not for use by several threads at once: C(clone()) gives each its own connections.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        ca: str,
        certificate: str,
        key: str,
        timeout: float = 3.0,
        server_name: str | None = None,
    ) -> None:
        """C(server_name) is the name that the certificates must carry, when it is not the endpoints'."""
        if not endpoints:
            raise MusterError("no etcd endpoint was given")
        for endpoint in endpoints:
            if urllib.parse.urlsplit(endpoint).scheme != "https":
                raise MusterError(f"the etcd endpoint {endpoint} is not an https:// address")
        self.endpoints = [endpoint.rstrip("/") for endpoint in endpoints]
        self.timeout = timeout
        self.server_name = server_name
        self._files = (ca, certificate, key)
        self._context = self._tls()
        self._connections: dict[str, http.client.HTTPSConnection] = {}
        self._preferred = self.endpoints[0]
        # Whether a request went out twice over a connection that had broken.
        self._repeated = False

    def _tls(self) -> ssl.SSLContext:
        ca, certificate, key = self._files
        try:
            context = ssl.create_default_context(cafile=ca)
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise MusterError(
                f"cannot use the TLS files {ca}, {certificate} and {key} for etcd: {error}"
            ) from error
        return context

    def clone(self) -> EtcdClient:
        """A client of the same cluster with connections of its own."""
        return EtcdClient(self.endpoints, *self._files, timeout=self.timeout, server_name=self.server_name)

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    # --- requests -----------------------------------------------------------

    def _exchange(self, endpoint: str, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """One request to one endpoint, over its kept connection if that still works."""
        kept = self._connections.pop(endpoint, None)
        connection = kept
        if connection is None:
            url = urllib.parse.urlsplit(endpoint)
            connection = _Connection(
                url.hostname or "", url.port or 2379, self.timeout, self._context, self.server_name
            )
        sent = False
        try:
            if connection.sock is None:
                connection.connect()
            sent = True
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            answer = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if kept is not None and isinstance(
                error, http.client.RemoteDisconnected | BrokenPipeError | ConnectionResetError
            ):
                # A server that was restarted since closes idle connections: ask it afresh.
                self._repeated = True
                try:
                    return self._exchange(endpoint, method, path, body)
                except EtcdError as again:
                    again.sent = True
                    raise
            reason = str(error) or type(error).__name__
            raise EtcdError(f"etcd at {endpoint}: {reason}", sent=sent) from error
        self._connections[endpoint] = connection
        return answer

    def _ask(self, endpoint: str, path: str, payload: dict[str, Any]) -> dict[str, Any]:
        """POST to one endpoint; the answer, or EtcdError."""
        code, raw = self._exchange(endpoint, "POST", path, json.dumps(payload).encode())
        try:
            answer = json.loads(raw.decode() or "{}")
        except ValueError:
            answer = {"error": f"an answer that is not JSON to {path}", "code": None}
        if not isinstance(answer, dict):
            answer = {"error": f"an unexpected answer to {path}", "code": None}
        error = answer.get("error")
        if code == 200 and not error:
            return answer
        # Streams (lease keep-alive) wrap the error in an object.
        detail = error if isinstance(error, dict) else answer
        text = detail.get("message") or detail.get("error") or f"HTTP status {code}"
        grpc = detail.get("grpc_code", detail.get("code"))
        if code >= 500 and (grpc is None or (grpc == _UNKNOWN and "transport: " in str(text))):
            # The second is etcd 3.4's gateway before the server behind it has begun to serve.
            grpc = 14
        raise EtcdError(f"etcd at {endpoint}: {text}", code=grpc, sent=grpc in _TRY_ANOTHER)

    def request(self, path: str, payload: dict[str, Any]) -> dict[str, Any]:
        """POST to the first endpoint that can serve it."""
        return self._request(path, payload)[0]

    def _request(self, path: str, payload: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """The answer, and whether an earlier attempt may have been carried out as well."""
        first = self.endpoints.index(self._preferred)
        failures: list[str] = []
        sent = self._repeated = False
        for endpoint in self.endpoints[first:] + self.endpoints[:first]:
            try:
                answer = self._ask(endpoint, path, payload)
            except EtcdError as error:
                if error.code is not None and error.code not in _TRY_ANOTHER:
                    raise
                failures.append(str(error))
                sent = sent or error.sent
                continue
            self._preferred = endpoint
            return answer, sent or self._repeated
        raise EtcdError("; ".join(failures), sent=sent)

    # --- keys ---------------------------------------------------------------

    def get(self, key: str) -> KeyValue | None:
        """The key, read linearizably; None when it does not exist."""
        found = self.request("/v3/kv/range", {"key": _b64(key)}).get("kvs", [])
        return _key_value(found[0]) if found else None

    def count(self, prefix: str = "") -> int:
        """How many keys start with C(prefix)."""
        payload = {
            "key": _b64(prefix) or "AA==",
            "range_end": _prefix_end(prefix),
            "count_only": True,
        }
        return int(self.request("/v3/kv/range", payload).get("count", 0))

    @staticmethod
    def _put(key: str, value: str, lease: int | None) -> dict[str, Any]:
        return {"key": _b64(key), "value": _b64(value), **({"lease": str(lease)} if lease else {})}

    def put_if(self, key: str, value: str, mod_revision: int, lease: int | None = None) -> bool:
        """Write the key if its mod_revision is the given one (0: if it does not exist).

        When the answer to a first attempt was lost, the key holding exactly this
        value and lease counts as written.
        """
        answer, sent = self._request(
            "/v3/kv/txn",
            {
                "compare": [
                    {"key": _b64(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(mod_revision)}
                ],
                "success": [{"request_put": self._put(key, value, lease)}],
                "failure": [{"request_range": {"key": _b64(key)}}],
            },
        )
        if answer.get("succeeded"):
            return True
        if not sent:
            return False
        found = answer["responses"][0].get("response_range", {}).get("kvs", [])
        if not found:
            return False
        pair = _key_value(found[0])
        return pair.value == value and pair.lease == lease

    def transaction(
        self,
        compare: Sequence[dict[str, Any]],
        success: Sequence[dict[str, Any]],
        failure: Sequence[dict[str, Any]] = (),
    ) -> tuple[bool, list[list[KeyValue]]]:
        """Do C(success) if all of C(compare) holds, else C(failure); whether it held, and what each read.

        Made of C(has_revision), C(has_value), C(Lock.guard()) and C(reading), C(writing), C(removing). When
        an answer is lost it is asked again: let C(compare) be false once C(success) has been done.
        """
        payload = {"compare": [*compare], "success": [*success], "failure": [*failure]}
        answer = self.request("/v3/kv/txn", payload)
        found = [
            [_key_value(raw) for raw in response.get("response_range", {}).get("kvs", [])]
            for response in answer.get("responses", [])
        ]
        return bool(answer.get("succeeded")), found

    def delete(self, key: str) -> bool:
        """Remove the key; whether there was one."""
        return int(self.request("/v3/kv/deleterange", {"key": _b64(key)}).get("deleted", 0)) > 0

    # --- leases -------------------------------------------------------------

    def lease_grant(self, ttl: int) -> int:
        """A new lease of C(ttl) seconds; its id."""
        return int(self.request("/v3/lease/grant", {"TTL": str(ttl), "ID": "0"})["ID"])

    def lease_keepalive(self, lease: int) -> int:
        """Renew the lease; its time to live in seconds. EtcdError when it has expired."""
        answer = self.request("/v3/lease/keepalive", {"ID": str(lease)})
        ttl = int(answer.get("result", answer).get("TTL", 0))
        if ttl <= 0:
            raise EtcdError(f"etcd at {self._preferred}: the lease {lease:x} has expired", code=_NOT_FOUND)
        return ttl

    def lease_revoke(self, lease: int) -> None:
        """End the lease and its keys; one that has ended already is fine."""
        try:
            self.request("/v3/lease/revoke", {"ID": str(lease)})
        except EtcdError as error:
            if error.code != _NOT_FOUND:
                raise

    # --- the cluster ----------------------------------------------------------

    def members(self, linearizable: bool = True) -> list[Member]:
        """The cluster's member list, sorted by name.

        Without a quorum only a list that is not linearizable can be had: what one
        member remembers. etcd 3.4 always answers so.
        """
        answer = self.request("/v3/cluster/member/list", {"linearizable": linearizable})
        return sorted(map(_member, answer.get("members", [])), key=lambda member: (member.name, member.id))

    def member_add(self, peer_url: str, learner: bool = False) -> Member:
        """Add a member (as a learner: without a vote); it must then start with this peer URL."""
        payload = {"peerURLs": [peer_url], "isLearner": learner}
        return _member(self.request("/v3/cluster/member/add", payload)["member"])

    def member_remove(self, member_id: str) -> None:
        self.request("/v3/cluster/member/remove", {"ID": str(int(member_id, 16))})

    def member_promote(self, member_id: str) -> None:
        """Give a learner its vote; EtcdError while it is not in sync."""
        self.request("/v3/cluster/member/promote", {"ID": str(int(member_id, 16))})

    def alarms(self) -> list[str]:
        """The alarms raised, such as C(NOSPACE)."""
        answer = self.request("/v3/maintenance/alarm", {"action": "GET"})
        return sorted({alarm.get("alarm", "NONE") for alarm in answer.get("alarms", [])})

    def endpoint_status(self, endpoint: str) -> Status:
        """What one endpoint says about itself; never raises for an endpoint that does not answer."""
        try:
            raw = self._ask(endpoint, "/v3/maintenance/status", {})
        except EtcdError as error:
            return Status(endpoint, error=str(error))
        header = raw.get("header", {})
        return Status(
            endpoint,
            version=raw.get("version"),
            cluster_id=_hex(header.get("cluster_id")),
            member_id=_hex(header.get("member_id")),
            leader=_hex(raw.get("leader")),
            is_learner=bool(raw.get("isLearner", False)),
            raft_index=int(raw.get("raftIndex", 0)),
            raft_applied_index=int(raw.get("raftAppliedIndex", 0)),
            revision=int(header.get("revision", 0)),
            db_size=int(raw.get("dbSize", 0)),
            errors=tuple(raw.get("errors", [])),
        )

    def status(self) -> list[Status]:
        """The status of every endpoint, asked at the same time."""
        return each(self.endpoint_status, self.endpoints)

    def prefer(self, endpoint: str) -> None:
        """Ask this endpoint first from now on."""
        if endpoint in self.endpoints:
            self._preferred = endpoint

    def health(self, endpoint: str) -> str | None:
        """None when the endpoint serves linearizable reads, else why not."""
        try:
            code, raw = self._exchange(endpoint.rstrip("/"), "GET", "/health", None)
            answer = json.loads(raw.decode())
        except (EtcdError, ValueError) as error:
            return str(error)
        if code == 200 and str(answer.get("health")).lower() == "true":
            return None
        return f"etcd at {endpoint}: {answer.get('reason') or 'unhealthy'}"

    def lock(self, name: str, holder: str, ttl: int = 10, wait: float = 15.0) -> Lock:
        """A lock to be used in C(with); see Lock."""
        return Lock(self, name, holder, ttl, wait)


class Lock:
    """A lock in etcd that frees itself when its holder dies.

    The default wait is longer than the default time to live: a run that was
    killed does not stop the next one, which goes on when the lease has ended.
    """

    def __init__(self, client: EtcdClient, name: str, holder: str, ttl: int = 10, wait: float = 15.0) -> None:
        self.key = LOCK_PREFIX + name
        self.name = name
        self.holder = holder
        self.ttl = ttl
        self.wait = wait
        self._client = client
        self._keeper_client: EtcdClient | None = None
        self._lease: int | None = None
        self._valid_until = 0.0
        self._lost: str | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Lock:
        deadline = time.monotonic() + self.wait
        while True:
            if self._try():
                self._keep()
                return self
            if time.monotonic() >= deadline:
                raise MusterError(self._held_by())
            time.sleep(0.25)

    def _try(self) -> bool:
        """Ask for the lock once."""
        if self._client.get(self.key):
            return False
        asked = time.monotonic()
        lease = self._client.lease_grant(self.ttl)
        since = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        value = json.dumps({"holder": self.holder, "since": since, "token": secrets.token_hex(8)})
        try:
            taken = self._client.put_if(self.key, value, 0, lease=lease)
        except MusterError:
            self._revoke(lease)
            raise
        if not taken:
            self._revoke(lease)
            return False
        self._lease, self._valid_until, self._lost = lease, asked + self.ttl, None
        return True

    def _held_by(self) -> str:
        found = self._client.get(self.key)
        try:
            value = json.loads(found.value) if found else {}
            holder, since = value["holder"], value["since"]
        except (ValueError, KeyError, TypeError):
            holder, since = "an unknown holder", "an unknown time"
        return f"the lock {self.name} is held by {holder} since {since}; waited {self.wait:g} s for it"

    def _keep(self) -> None:
        self._stop.clear()
        self._keeper_client = self._client.clone()
        self._keeper_client.timeout = min(self._client.timeout, self.ttl / 3)
        self._thread = threading.Thread(target=self._keep_alive, name=f"lock-{self.name}", daemon=True)
        self._thread.start()

    def _keep_alive(self) -> None:
        client, lease = self._keeper_client, self._lease
        if client is None or lease is None:
            return
        while not self._stop.wait(self.ttl / 4):
            asked = time.monotonic()
            try:
                client.lease_keepalive(lease)
                self._valid_until = asked + self.ttl
            except MusterError as error:
                if getattr(error, "code", None) == _NOT_FOUND:
                    self._lost = str(error)
                    return

    def still_held(self) -> bool:
        """Whether the lock is surely still ours, by our own clock: no request is made."""
        return self._lease is not None and self._lost is None and time.monotonic() < self._valid_until

    def assert_held(self) -> None:
        """Raise MusterError when the lock may be someone else's: call it before a step of no return."""
        if not self.still_held():
            reason = self._lost or f"etcd has not renewed it for {self.ttl} s"
            raise MusterError(f"the lock {self.name} of {self.holder} was lost: {reason}")

    def guard(self) -> dict[str, Any]:
        """For a transaction of this lock's etcd: true only while it is ours, whatever our clock says."""
        return {"key": _b64(self.key), "target": "LEASE", "result": "EQUAL", "lease": str(self._lease or -1)}

    def is_mine(self, found: Sequence[KeyValue]) -> bool:
        """Whether what was read of the lock's key says that the lock is ours."""
        return self._lease is not None and bool(found) and found[0].lease == self._lease

    def _revoke(self, lease: int) -> None:
        """Best effort: a lease that cannot be revoked ends by itself."""
        try:
            self._client.lease_revoke(lease)
        except MusterError:
            return

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=self.ttl)
        if self._keeper_client is not None:
            self._keeper_client.close()
        if self._lease is not None:
            self._revoke(self._lease)
        self._lease = None
