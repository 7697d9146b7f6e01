# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""RabbitMQ's management API and AMQP in each region, and the role that a region has."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

PARAMETER = "muster_region_role"
LOCK_QUEUE = "muster.lock"
LOCK_VHOST = "muster.operations"

OPTIONS: dict[str, dict[str, Any]] = {
    "regions": {"type": "dict", "required": True},
    "operator_user": {"type": "str", "default": "muster_operator"},
    "operator_password": {"type": "str", "required": True, "no_log": True},
    "port": {"type": "int", "default": 5671},
    "api_port": {"type": "int", "default": 15671},
    "ca_certificate": {"type": "path", "required": True},
}
MOVE: dict[str, dict[str, Any]] = {
    "target": {"type": "str", "required": True},
    "holder": {"type": "str", "required": True},
}
DECLARED: dict[str, dict[str, Any]] = {
    "declared": {"type": "dict", "required": True},
    # Apart from the rest, because every text in an option that is not logged is hidden wherever it appears.
    "passwords": {"type": "dict", "required": True, "no_log": True},
}


class Silent(MusterError):
    """A node, or all of a region, does not answer."""


class Refusal(MusterError):
    """A node answered, and refused."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def path_of(*parts: str) -> str:
    """A path of the API; each part may hold anything."""
    return "/api/" + "/".join(quote(part, safe="") for part in parts)


@dataclass(frozen=True)
class Login:
    """How the operator reaches a node."""

    user: str
    password: str
    port: int
    api_port: int
    context: ssl.SSLContext

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Login:
        try:
            context = ssl.create_default_context(cafile=params["ca_certificate"])
        except OSError as error:
            raise MusterError(
                f"cannot use the TLS file {params['ca_certificate']}: {error.strerror or error}"
            ) from error
        return cls(
            params["operator_user"], params["operator_password"], params["port"], params["api_port"], context
        )


@dataclass(frozen=True)
class Role:
    """What a region is, as its own cluster holds it."""

    role: str  # primary or standby
    epoch: int  # grows with each region that is opened
    since: str = ""
    moving_to: str = ""  # the region that a handover under way moves to

    @classmethod
    def parse(cls, value: Any) -> Role:
        try:
            return cls(
                str(value["role"]),
                int(value["epoch"]),
                str(value.get("since", "")),
                str(value.get("moving_to", "")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MusterError(
                f"the global parameter {PARAMETER} holds {value!r}, which is no role"
            ) from error

    def value(self) -> dict[str, Any]:
        found = {"role": self.role, "epoch": self.epoch, "since": self.since or now()}
        return found | ({"moving_to": self.moving_to} if self.moving_to else {})


@dataclass
class Region:
    """One region's cluster. The first node that answers is asked from then on."""

    name: str
    hosts: list[str]
    login: Login
    timeout: float = 5.0
    failures: dict[str, str] = field(default_factory=dict)
    connection: http.client.HTTPSConnection | None = None
    connected_to: str = ""

    # --- the management API ---

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """The answer as data; None where there is no content."""
        order = sorted(self.hosts, key=lambda host: host != self.connected_to)
        self.failures = {}
        for host in order:
            try:
                return self.ask(host, method, path, body)
            except Silent as error:
                self.failures[host] = str(error)
        reasons = "; ".join(self.failures.values()) or "it has no hosts"
        raise Silent(f"no RabbitMQ of region {self.name} answers: {reasons}")

    def ask(self, host: str, method: str, path: str, body: Any = None) -> Any:
        status, text = self._send(host, method, path, body)
        if status in (200, 201, 202, 204):
            return json.loads(text) if text.strip() else None
        said = _reason(text)
        if status == 401:
            raise Refusal(
                f"{host} refuses the login of {self.login.user}: rabbitmq_operator_password is "
                "not the one that "
                "the cluster has",
                status,
            )
        # A node that stands still, or that is about to stop, answers so: the next one is asked.
        if (status >= 500 and status != 503) or not text.strip():
            raise Silent(f"{host}: HTTP status {status} {said[:200]}")
        raise Refusal(f"{host} answers {method} {path}: {status} {said}", status)

    def _send(self, host: str, method: str, path: str, body: Any) -> tuple[int, str]:
        secret = base64.b64encode(f"{self.login.user}:{self.login.password}".encode()).decode()
        headers = {"Authorization": f"Basic {secret}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body)
        kept = self.connection if self.connected_to == host else None
        for connection in filter(None, (kept, self._connect(host))):
            try:
                connection.request(method, path, data, headers)
                response = connection.getresponse()
                text = response.read().decode(errors="replace")
                self.connection, self.connected_to = connection, host
                return response.status, text
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self.connection, self.connected_to = None, ""
                reason = error
        raise Silent(f"RabbitMQ on {host}: {reason or type(reason).__name__}")

    def _connect(self, host: str) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            host, self.login.api_port, timeout=self.timeout, context=self.login.context
        )

    def get(self, *parts: str) -> Any:
        """What is there; None when nothing is."""
        try:
            return self.request("GET", path_of(*parts))
        except Refusal as error:
            if error.status == 404:
                return None
            raise

    def put(self, body: Any, *parts: str) -> None:
        self.request("PUT", path_of(*parts), body)

    def delete(self, *parts: str) -> None:
        try:
            self.request("DELETE", path_of(*parts))
        except Refusal as error:
            if error.status != 404:
                raise

    # --- the role ---

    def role(self) -> Role | None:
        found = self.get("global-parameters", PARAMETER)
        return None if found is None else Role.parse(found["value"])

    def set_role(self, role: Role) -> None:
        self.put({"name": PARAMETER, "value": role.value()}, "global-parameters", PARAMETER)

    # --- AMQP ---

    @contextmanager
    def amqp(self, vhost: str) -> Iterator[Any]:
        """A connection as the operator, to the first node that takes one."""
        connection = self._connect_amqp(vhost)
        try:
            yield connection
        finally:
            if connection.is_open:
                connection.close()

    def _connect_amqp(self, vhost: str) -> Any:
        import pika  # pylint: disable=import-error

        failures = []
        for host in self.hosts:
            try:
                return pika.BlockingConnection(
                    pika.ConnectionParameters(
                        host,
                        self.login.port,
                        vhost,
                        pika.PlainCredentials(self.login.user, self.login.password),
                        ssl_options=pika.SSLOptions(self.login.context, host),
                        heartbeat=0,
                        socket_timeout=self.timeout,
                        stack_timeout=self.timeout,
                        blocked_connection_timeout=self.timeout,
                    )
                )
            except (pika.exceptions.AMQPError, OSError) as error:
                failures.append(f"{host}: {describe(error)}")
        raise Silent(f"no AMQP in region {self.name}: {'; '.join(failures)}")

    def depths(self, queues: list[tuple[str, str]]) -> dict[tuple[str, str], tuple[int, int]]:
        """Messages ready and consumers of each queue, (vhost, name), as the queue itself counts them now.

        By a passive declaration: the figures of the management API, of rabbitmqctl list_queues and of the
        metrics are of the last tick, seconds ago.
        """
        found = {}
        for vhost in sorted({vhost for vhost, _name in queues}):
            with self.amqp(vhost) as connection:
                for name in [name for where, name in queues if where == vhost]:
                    found[vhost, name] = _passive(connection, self.name, vhost, name)
        return found

    @contextmanager
    def lock(self, holder: str, wait: float) -> Iterator[None]:
        """Keep other operations on this region out; it ends with the connection, whatever becomes of us."""
        import pika  # pylint: disable=import-error

        deadline = time.monotonic() + wait
        with self.amqp(LOCK_VHOST) as connection:
            while True:
                try:
                    connection.channel().queue_declare(LOCK_QUEUE, exclusive=True)
                    break
                except pika.exceptions.ChannelClosedByBroker as error:
                    if error.reply_code != 405 or time.monotonic() >= deadline:
                        raise MusterError(
                            f"another operation on RabbitMQ holds the lock of region {self.name}; "
                            f"{holder} waited {wait:g} s"
                        ) from error
                    connection.sleep(0.3)
            yield


def _passive(connection: Any, region: str, vhost: str, name: str) -> tuple[int, int]:
    import pika  # pylint: disable=import-error

    try:
        method = connection.channel().queue_declare(name, passive=True).method
    except pika.exceptions.AMQPError as error:
        raise MusterError(
            f"the queue {name} of vhost {vhost} in region {region} could not be read: {describe(error)}"
        ) from error
    return method.message_count, method.consumer_count


def describe(error: BaseException) -> str:
    """What an AMQP error says; many say nothing but their name."""
    inner = getattr(error, "args", ())
    text = "; ".join(str(part) for part in inner if str(part))
    return text or type(error).__name__


def _reason(text: str) -> str:
    try:
        found = json.loads(text)
        return str(found.get("reason") or found.get("error") or text)
    except (ValueError, AttributeError):
        return " ".join(text.split())


def with_passwords(params: Mapping[str, Any]) -> dict[str, Any]:
    """What is declared, with the passwords in their places."""
    declared, passwords = params["declared"], params["passwords"]
    try:
        return {
            **declared,
            "operator_password": passwords[declared["operator_user"]],
            "upstream_password": passwords[declared["upstream_user"]],
            "users": [{**user, "password": passwords[user["name"]]} for user in declared["users"]],
        }
    except KeyError as error:
        raise MusterError(f"declared or passwords lacks {error}") from error


def regions_from(params: Mapping[str, Any], timeout: float = 5.0) -> dict[str, Region]:
    login = Login.from_params(params)
    return {name: Region(name, list(hosts), login, timeout) for name, hosts in params["regions"].items()}


def read_roles(regions: Mapping[str, Region]) -> dict[str, Role | MusterError | None]:
    """The role of each region, or why it is not known; all are asked at once."""

    def read(region: Region) -> Role | MusterError | None:
        try:
            return region.role()
        except MusterError as error:
            return error

    with ThreadPoolExecutor(max_workers=max(1, len(regions))) as pool:
        return dict(zip(regions, pool.map(read, regions.values()), strict=True))


def primary_region(roles: Mapping[str, Role | MusterError | None]) -> str | None:
    """The region that is primary by the newest epoch; None when there is none, or more than one."""
    known = {name: role for name, role in roles.items() if isinstance(role, Role)}
    newest = max((role.epoch for role in known.values()), default=0)
    found = [name for name, role in known.items() if role.role == "primary" and role.epoch == newest]
    return found[0] if len(found) == 1 else None


def other_region(params: Mapping[str, Any], operation: str) -> str:
    """The region that is moved away from; there are exactly two."""
    names = sorted(params["regions"])
    if params["target"] not in names:
        raise MusterError(
            f"{params['target']} is no region with RabbitMQ hosts; there are: {', '.join(names)}"
        )
    if len(names) != 2:
        raise MusterError(f"{operation} needs two regions with RabbitMQ hosts, found: {', '.join(names)}")
    return next(name for name in names if name != params["target"])
