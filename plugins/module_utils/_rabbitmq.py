# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""RabbitMQ's management API and AMQP in each region, and the role that a region has."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

PARAMETER = "muster_region_role"
LOCK_QUEUE = "muster.lock"
LOCK_VHOST = "muster.operations"
HEARTBEAT = 10  # seconds: a lock whose holder lost its power is free after some three of them

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


class Overtaken(MusterError):
    """Another operation came between; nothing may be put back over what it did."""


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def path_of(*parts: str) -> str:
    """A path of the API; each part may hold anything."""
    return "/api/" + "/".join(quote(part, safe="") for part in parts)


@dataclass(frozen=True)
class Login:
    """How a user reaches a node."""

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
        found = {"role": self.role, "epoch": self.epoch, "since": self.since}
        return found | ({"moving_to": self.moving_to} if self.moving_to else {})

    @property
    def meaning(self) -> str:
        """What the region shall have: closed while it is on its way to be a standby."""
        return "closed" if self.moving_to else self.role


@dataclass
class Region:
    """One region's cluster. The first node that answers is asked from then on."""

    name: str
    hosts: list[str]
    login: Login
    timeout: float = 5.0
    connection: http.client.HTTPSConnection | None = None
    connected_to: str = ""
    # What the role was when this operation looked last, or wrote; more than one while it is not known.
    expected: set[Role | None] = field(default_factory=set)
    held: Any = None  # the connection of the lock

    def order(self) -> list[str]:
        """The hosts, with the one that answered last before the others."""
        return sorted(self.hosts, key=lambda host: host != self.connected_to)

    # --- the management API ---

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """The answer as data; None where there is no content."""
        failures = []
        for host in self.order():
            try:
                return self.ask(host, method, path, body)
            except Silent as error:
                failures.append(str(error))
        raise Silent(f"no RabbitMQ of region {self.name} answers: {'; '.join(failures) or 'it has no hosts'}")

    def ask(self, host: str, method: str, path: str, body: Any = None) -> Any:
        status, text = self._send(host, method, path, body)
        if status in (200, 201, 202, 204):
            return _data(host, text)
        said = _reason(text)
        if status == 401:
            raise Refusal(
                f"{host} refuses the login of {self.login.user}: rabbitmq_operator_password is not the one "
                "that the cluster has",
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

    def _read_role(self) -> Role | None:
        found = self.get("global-parameters", PARAMETER)
        return None if found is None else Role.parse(found["value"])

    def role(self) -> Role | None:
        found = self._read_role()
        self.expected = {found}
        return found

    def unchanged(self) -> None:
        """Refuse when the role is another one than this operation knows, or its lock is gone.

        RabbitMQ cannot compare and set. What is left is the moment between this and a write; who writes in
        it has the lock, or had it a moment ago.
        """
        if self.held is not None and not self.held.is_open:
            raise Overtaken(f"the lock of region {self.name} was lost")
        found = self._read_role()
        if found not in self.expected:
            raise Overtaken(
                f"another operation has changed the role of region {self.name} meanwhile: "
                f"{found.value() if found else None}"
            )

    def set_role(self, role: Role) -> None:
        """Write the role over the one that this operation knows, and over no other."""
        self.unchanged()
        role = replace(role, since=role.since or now())
        # Until the answer either may be there.
        self.expected = {*self.expected, role}
        self.put({"name": PARAMETER, "value": role.value()}, "global-parameters", PARAMETER)
        self.expected = {role}

    # --- AMQP ---

    @contextmanager
    def amqp(self, vhost: str, heartbeat: int = 0) -> Iterator[Any]:
        """A connection as the operator, to the first node that takes one."""
        connection = self._connect_amqp(vhost, heartbeat)
        try:
            yield connection
        except pika_errors() as error:
            raise MusterError(f"AMQP in region {self.name}: {describe(error)}") from error
        finally:
            hang_up(connection)

    def _connect_amqp(self, vhost: str, heartbeat: int) -> Any:
        failures = []
        for host in self.order():
            try:
                return dial(host, vhost, self.login, self.timeout, heartbeat)
            except Silent as error:
                failures.append(str(error))
        raise Silent(f"no AMQP in region {self.name}: {'; '.join(failures)}")

    def lets_in(self) -> bool:
        """Whether the operator gets in; the gate opens moments after a region has its role."""
        with self.amqp(LOCK_VHOST):
            return True

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
        with self.amqp(LOCK_VHOST, HEARTBEAT) as connection:
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
            with _served(connection):
                self.held = connection
                try:
                    yield
                finally:
                    self.held = None


@contextmanager
def _served(connection: Any) -> Iterator[None]:
    """Have a connection that lies idle answer heartbeats, by a thread that has it to itself meanwhile."""
    done = threading.Event()

    def serve() -> None:
        # Where it breaks, its is_open tells.
        with contextlib.suppress(*pika_errors()):
            while not done.is_set():
                connection.process_data_events(time_limit=0.1)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def pika_errors() -> tuple[type[Exception], ...]:
    """All that pika raises by itself: a deadline while a connection opens is no AMQPError."""
    from pika.adapters.utils.connection_workflow import AMQPConnectorException  # pylint: disable=import-error
    from pika.exceptions import AMQPError  # pylint: disable=import-error

    return AMQPError, AMQPConnectorException


def dial(host: str, vhost: str, login: Login, timeout: float, heartbeat: int = 0) -> Any:
    """A connection over TLS with the host's name checked; Silent when there is none."""
    import pika  # pylint: disable=import-error

    try:
        return pika.BlockingConnection(
            pika.ConnectionParameters(
                host,
                login.port,
                vhost,
                pika.PlainCredentials(login.user, login.password),
                ssl_options=pika.SSLOptions(login.context, host),
                heartbeat=heartbeat,
                socket_timeout=timeout,
                stack_timeout=timeout,
                blocked_connection_timeout=timeout,
            )
        )
    except OSError as error:
        raise Silent(f"{host}: {describe(error)}") from error
    except pika_errors() as error:
        raise Silent(f"{host}: {describe(error)}") from error


def hang_up(connection: Any) -> None:
    """A connection that breaks at its end takes nothing back that was done with it."""
    with contextlib.suppress(*pika_errors()):
        if connection.is_open:
            connection.close()


def _passive(connection: Any, region: str, vhost: str, name: str) -> tuple[int, int]:
    try:
        method = connection.channel().queue_declare(name, passive=True).method
    except pika_errors() as error:
        raise MusterError(
            f"the queue {name} of vhost {vhost} in region {region} could not be read: {describe(error)}"
        ) from error
    return method.message_count, method.consumer_count


def describe(error: BaseException) -> str:
    """What an AMQP error says; many say nothing but their name."""
    inner = getattr(error, "args", ())
    text = "; ".join(str(part) for part in inner if str(part))
    return text or type(error).__name__


def _data(host: str, text: str) -> Any:
    try:
        return json.loads(text) if text.strip() else None
    except ValueError as error:
        raise Silent(f"{host}: its answer is no JSON") from error


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


def own_region(params: Mapping[str, Any]) -> Region:
    """The region that a module is for."""
    found = regions_from(params).get(params["region"])
    if found is None:
        raise MusterError(f"{params['region']} is no region with RabbitMQ hosts")
    return found


def listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1.0).close()
    except OSError:
        return False
    return True


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
