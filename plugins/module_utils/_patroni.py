# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A client of Patroni's REST API, and what its answers mean for two regions."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

PORT = 8008
NAMESPACE = "/service"  # of Patroni's keys in etcd
ROLES = {
    "primary": "primary",
    "master": "primary",  # Patroni 3, Debian 12
    "standby_leader": "standby",
    "replica": "standby",
}

TLS_OPTIONS: dict[str, dict[str, Any]] = {
    "ca_certificate": {"type": "path", "required": True},
    "certificate": {"type": "path", "required": True},
    "private_key": {"type": "path", "required": True},
}


@dataclass(frozen=True)
class Tls:
    """Paths, on the host the module runs on, of what mutual TLS needs."""

    ca_certificate: str
    certificate: str
    private_key: str

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Tls:
        return cls(params["ca_certificate"], params["certificate"], params["private_key"])

    def context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca_certificate)
            context.load_cert_chain(self.certificate, self.private_key)
        except OSError as error:
            raise MusterError(f"the TLS files cannot be used: {error}") from error
        return context


class Patroni:
    """One Patroni instance; every failure is a MusterError that names the host."""

    def __init__(self, host: str, tls: Tls, port: int = PORT, timeout: float = 2.0) -> None:
        self.host = host
        self.port = port
        self.timeout = timeout
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self._connection: http.client.HTTPSConnection | None = None

    def request(
        self, method: str, path: str, body: Any = None, timeout: float | None = None
    ) -> tuple[int, str]:
        """Send one request and return status and text; a dropped keep-alive connection is reopened once."""
        data = None if body is None else json.dumps(body)
        for fresh in (self._connection is None, True):
            try:
                return self._send(method, path, data, timeout or self.timeout)
            except (
                http.client.RemoteDisconnected,
                http.client.CannotSendRequest,
                ConnectionResetError,
            ) as error:
                self.close()
                if fresh or method != "GET":
                    raise self._error(method, path, error) from error
            except (OSError, http.client.HTTPException) as error:
                self.close()
                raise self._error(method, path, error) from error
        raise MusterError(f"Patroni on {self.host} dropped the connection twice")

    def _error(self, method: str, path: str, error: Exception) -> MusterError:
        return MusterError(f"Patroni on {self.host} did not answer {method} {path}: {error}")

    def _send(self, method: str, path: str, data: str | None, timeout: float) -> tuple[int, str]:
        if self._context is None:
            # Not before it is needed: a host without certificates yet has an unknown state, not an error.
            self._context = self._tls.context()
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(
                self.host, self.port, timeout=timeout, context=self._context
            )
        self._connection.timeout = timeout
        if self._connection.sock is not None:
            self._connection.sock.settimeout(timeout)
        headers = {"Content-Type": "application/json"} if data else {}
        self._connection.request(method, path, body=data, headers=headers)
        # Patroni sends head and body apart, and the body waits 40 ms for a delayed ACK of the head.
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        response = self._connection.getresponse()
        text = response.read().decode(errors="replace")
        if response.will_close:
            self.close()
        return response.status, text

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def get(self, path: str) -> dict[str, Any]:
        """GET a JSON document; Patroni answers 503 with a valid body when it is not running."""
        status, text = self.request("GET", path)
        if status not in (200, 503):
            raise MusterError(f"Patroni on {self.host} answered {status} to GET {path}: {text[:200]}")
        try:
            document = json.loads(text)
        except ValueError as error:
            raise MusterError(f"Patroni on {self.host} answered no JSON to GET {path}") from error
        if not isinstance(document, dict):
            raise MusterError(f"Patroni on {self.host} answered no JSON object to GET {path}")
        return document

    def post(self, path: str, body: Any, timeout: float) -> str:
        status, text = self.request("POST", path, body, timeout)
        if status not in (200, 202):
            raise MusterError(f"Patroni on {self.host} answered {status} to POST {path}: {text[:200]}")
        return text


@dataclass
class Member:
    """What one PostgreSQL host said of itself; None is "not known"."""

    host: str
    region: str
    role: str = "unknown"  # primary | standby_leader | replica | stopped | unknown
    state: str | None = None
    timeline: int | None = None
    lsn: int | None = None  # the end of WAL: written on a primary, replayed on a standby
    received: int | None = None
    replication_state: str | None = None
    pending_restart: bool = False
    pending_reasons: Mapping[str, Any] | None = None  # old and new by setting; None: not told (Patroni 3)
    system_identifier: str | None = None
    server_version: int | None = None
    patroni_version: str | None = None
    scope: str | None = None
    replayed_at: str | None = None
    sync_standby: bool = False
    unled: bool = False  # whether nobody leads its region, by its Patroni's account
    loop_at: float | None = None  # when Patroni last went round its loop, by its host's clock
    error: str | None = None

    @property
    def writable(self) -> bool:
        return self.role == "primary" and self.state == "running"


def _guessed_state(status: Mapping[str, Any], role: str) -> str | None:
    """What Patroni before 3.1 (Debian 12 has 3.0) does not say: a standby that receives WAL streams.

    The received position is of the last WAL receiver, which may have ended: the gates of a switch look at
    positions and timelines too.
    """
    version = (status.get("patroni") or {}).get("version") or ""
    if role == "primary" or not version.startswith(("2.", "3.0.")) or status.get("state") != "running":
        return None
    return "streaming" if (status.get("xlog") or {}).get("received_location") else None


def member_from(host: str, region: str, status: Mapping[str, Any]) -> Member:
    """Read the answer of GET /patroni."""
    xlog = status.get("xlog") or {}
    role = str(status.get("role") or "unknown")
    state = status.get("state")
    if role == "master":
        role = "primary"
    if state in ("stopped", "stopping", "crashed", "start failed"):
        role = "stopped"
    received = xlog.get("received_location")
    return Member(
        host=host,
        region=region,
        role=role,
        state=state,
        timeline=status.get("timeline"),
        lsn=xlog.get("location") if "location" in xlog else xlog.get("replayed_location"),
        received=received,
        replication_state=status.get("replication_state") or _guessed_state(status, role),
        pending_restart=bool(status.get("pending_restart")),
        pending_reasons=status.get("pending_restart_reason"),
        system_identifier=status.get("database_system_identifier"),
        server_version=status.get("server_version"),
        patroni_version=(status.get("patroni") or {}).get("version"),
        scope=(status.get("patroni") or {}).get("scope"),
        replayed_at=xlog.get("replayed_timestamp"),
        sync_standby=bool(status.get("sync_standby")),
        unled=bool(status.get("cluster_unlocked")),
        loop_at=status.get("dcs_last_seen"),
    )


def is_standby(config: Mapping[str, Any]) -> bool:
    """Whether Patroni takes this configuration for a standby's: by its own rule, not by the key alone."""
    section = config.get("standby_cluster")
    return isinstance(section, Mapping) and any(
        section.get(key) for key in ("host", "port", "restore_command")
    )


@dataclass
class Region:
    """One region's PostgreSQL hosts and its dynamic configuration, as read just now."""

    name: str
    members: dict[str, Member]
    config: dict[str, Any] | None = None  # None: nobody could tell

    @property
    def declared_standby(self) -> bool | None:
        """Whether Patroni's configuration makes this region a standby; None when not known."""
        return None if self.config is None else is_standby(self.config)

    @property
    def primary(self) -> Member | None:
        return next((m for m in self.members.values() if m.writable), None)

    @property
    def standby_leader(self) -> Member | None:
        return next((m for m in self.members.values() if m.role == "standby_leader"), None)

    @property
    def leader(self) -> Member | None:
        return self.primary or self.standby_leader


class Survey:
    """Asks every PostgreSQL host at once; keeps the connections for the next question."""

    def __init__(
        self, regions: Mapping[str, Sequence[str]], tls: Tls, port: int = PORT, timeout: float = 2.0
    ) -> None:
        self.regions = {name: list(hosts) for name, hosts in regions.items()}
        self.clients = {
            host: Patroni(host, tls, port, timeout) for hosts in self.regions.values() for host in hosts
        }

    def member(self, region: str, host: str) -> Member:
        try:
            return member_from(host, region, self.clients[host].get("/patroni"))
        except MusterError as error:
            return Member(host=host, region=region, error=str(error))

    def region(self, name: str) -> Region:
        """Read one region's members and configuration."""
        hosts = self.regions[name]
        with ThreadPoolExecutor(max_workers=max(1, len(hosts))) as pool:
            members = dict(zip(hosts, pool.map(lambda host: self.member(name, host), hosts), strict=True))
        result = Region(name, members)
        for host in hosts:
            if members[host].error is not None:
                continue
            try:
                result.config = self.clients[host].get("/config")
                break
            except MusterError:
                continue
        return result

    def members(self, without: Collection[str] = ()) -> list[Member]:
        """Every PostgreSQL host of every region but some, and no configurations."""
        places = [
            (name, host) for name, hosts in self.regions.items() for host in hosts if host not in without
        ]
        with ThreadPoolExecutor(max_workers=max(1, len(places))) as pool:
            return list(pool.map(lambda place: self.member(*place), places))

    def all(self) -> dict[str, Region]:
        with ThreadPoolExecutor(max_workers=max(1, len(self.regions))) as pool:
            return dict(zip(self.regions, pool.map(self.region, self.regions), strict=True))


def format_lsn(lsn: int | None) -> str | None:
    """PostgreSQL's own notation: 16/B374D848."""
    return None if lsn is None else f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)
