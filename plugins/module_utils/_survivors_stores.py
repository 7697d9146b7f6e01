# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asking Valkey, RabbitMQ and an object store which of the canary's numbers they hold.

How the numbers are kept is the canary's: see roles/canary/files/muster_canary_*.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _canary_queue, _s3
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._files import wait_for_lock
from ansible_collections.muster.platform.plugins.module_utils._ranges import to_ranges

TIMEOUT = 5.0
Span = tuple[int, int]
Answer = dict[str, Any]


def region_of(config: Mapping[str, Any], host: str) -> str | None:
    regions = config.get("regions", {})
    return next((name for name, hosts in sorted(regions.items()) if host in hosts), None)


def said(error: BaseException, store: Mapping[str, Any]) -> str:
    """The first line of an error, without the password."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].replace(str(store["password"]), "***")


# --- Valkey ------------------------------------------------------------------------------

BLOCK = 65536
STATE = "{muster:canary}:state"
PREFIX = "{muster:canary}:"
BLOCKS_AT_ONCE = 64


class Valkey:
    """One connection to a Valkey, or to another server that speaks as Redis does."""

    def __init__(self, store: Mapping[str, Any], server: Mapping[str, Any], timeout: float = TIMEOUT) -> None:
        try:
            import redis
        except ImportError as error:
            raise MusterError("python3-redis is not installed") from error

        class Connection(redis.Connection):
            """Its own TLS dials the name that it verifies, and dr_lag may know an address."""

            def _connect(self) -> ssl.SSLSocket:
                place = (server.get("address") or server["host"], server["port"])
                plain = socket.create_connection(place, min(3.0, timeout))
                try:
                    plain.settimeout(timeout)
                    context = ssl.create_default_context(cafile=store["ca"])
                    return context.wrap_socket(plain, server_hostname=server["host"])
                except BaseException:
                    plain.close()
                    raise

        self.store = store
        self.errors: tuple[type[Exception], ...] = (redis.RedisError, OSError)
        self.connection = Connection(
            host=server["host"],
            port=server["port"],
            username=store["user"],
            password=store["password"],
            socket_timeout=timeout,
        )

    def ask(self, *words: str) -> Any:
        try:
            self.connection.send_command(*words)
            return self.connection.read_response()
        except self.errors as error:
            raise MusterError(said(error, self.store)) from error

    def peer(self) -> str:
        """The common name of the server's certificate."""
        with contextlib.suppress(AttributeError):
            for part in self.connection._sock.getpeercert().get("subject", ()):
                for key, value in part:
                    if key == "commonName":
                        return str(value)
        return ""

    def replication(self) -> dict[str, str]:
        text = self.ask("INFO", "replication").decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def timeline(self, line: str | None) -> int | None:
        """The canary's count of the history; not known when it has not written to this one yet."""
        counted, known = (self.ask("HGET", STATE, name) for name in ("timeline", "line"))
        return int(counted) if counted and known and known.decode() == line else None

    def held(self, span: Span) -> Iterator[int]:
        blocks = range(span[0] // BLOCK, span[1] // BLOCK + 1)
        for start in range(blocks.start, blocks.stop, BLOCKS_AT_ONCE):
            part = blocks[start - blocks.start : start - blocks.start + BLOCKS_AT_ONCE]
            for block, bits in zip(part, self.ask("MGET", *(f"{PREFIX}{n}" for n in part)), strict=True):
                for number in numbers_in(bits or b"", block * BLOCK):
                    if span[0] <= number <= span[1]:
                        yield number

    def close(self) -> None:
        self.connection.disconnect()


def numbers_in(bits: bytes, first: int) -> Iterator[int]:
    """The numbers whose bits are set; the first bit of a byte is its highest."""
    for place, byte in enumerate(bits):
        for bit in range(8) if byte else ():
            if byte & (0x80 >> bit):
                yield first + 8 * place + bit


def read_valkey(
    store: Mapping[str, Any], endpoint: Mapping[str, Any], config: Mapping[str, Any], span: Span | None
) -> Answer:
    server = Valkey(store, endpoint)
    try:
        told = server.replication()
        host = server.peer()
        region = region_of(config, host) or endpoint.get("region")
        host = host if region_of(config, host) else region or "unknown"
        if told.get("role") != "master":
            raise MusterError(f"{host} is a replica")
        return {
            "sequences": None if span is None else to_ranges(server.held(span)),
            # A bit is set, or it is not.
            "duplicates": 0,
            "host": host,
            "region": region,
            "timeline": server.timeline(told.get("master_replid")),
            "position": told.get("master_repl_offset"),
        }
    finally:
        server.close()


# --- RabbitMQ ----------------------------------------------------------------------------

LOCK_SECONDS = 60.0


def read_rabbitmq(
    store: Mapping[str, Any], endpoint: Mapping[str, Any], config: Mapping[str, Any], span: Span | None
) -> Answer:
    """What lies in the canary's queue. It is read, and left there: nothing is acknowledged."""
    try:
        import pika  # pylint: disable=import-error
    except ImportError as error:
        raise MusterError("python3-pika is not installed") from error
    try:
        with only_reader(config), amqp(store, endpoint) as watch:
            region = cluster_region(watch, config)
            queue = store["queue"]
            count = _canary_queue.count_messages(watch, queue)

            def connect() -> contextlib.AbstractContextManager[Any]:
                return amqp(store, endpoint)

            ids = _canary_queue.read_queue(connect, watch, queue, count) if span is not None else []
    except (pika.exceptions.AMQPError, OSError) as error:
        raise MusterError(said(error, store)) from error
    return {
        **counted_numbers(ids, span),
        # A cluster is one writer, whichever node takes a message.
        "host": region or "unknown",
        "region": region,
        "timeline": epoch_of(store, config, region),
        "position": f"{count} messages",
    }


@contextlib.contextmanager
def only_reader(config: Mapping[str, Any]) -> Iterator[None]:
    """Two that read a queue at a time hold messages back from each other: RabbitMQ keeps nobody out."""
    with open(config["path"], encoding="utf-8") as stream:
        wait_for_lock(stream, fcntl.LOCK_EX, "another reader of the canary's queue to end", LOCK_SECONDS, 0.2)
        yield


@contextlib.contextmanager
def amqp(store: Mapping[str, Any], endpoint: Mapping[str, Any]) -> Iterator[Any]:
    import pika  # pylint: disable=import-error

    context = ssl.create_default_context(cafile=store["ca"])
    connection = pika.BlockingConnection(
        pika.ConnectionParameters(
            endpoint["host"],
            endpoint["port"],
            store["vhost"],
            pika.PlainCredentials(store["user"], store["password"]),
            ssl_options=pika.SSLOptions(context, endpoint["host"]),
            heartbeat=30,
            socket_timeout=3,
            stack_timeout=TIMEOUT,
            blocked_connection_timeout=TIMEOUT,
        )
    )
    try:
        yield connection
    finally:
        if connection.is_open:
            with contextlib.suppress(pika.exceptions.AMQPError):
                connection.close()


def cluster_region(connection: Any, config: Mapping[str, Any]) -> str | None:
    """The region by the name of the cluster, which ends in it."""
    properties = getattr(getattr(connection, "_impl", None), "server_properties", None) or {}
    found = properties.get("cluster_name", "")
    name = found.decode() if isinstance(found, bytes) else str(found)
    fitting = [
        region for region in config.get("regions", {}) if name == region or name.endswith(f"-{region}")
    ]
    return max(fitting, key=len, default=None)


def counted_numbers(ids: Iterable[str], span: Span | None) -> Answer:
    """Which numbers are there, and how many messages are there once more."""
    if span is None:
        return {"sequences": None, "duplicates": None}
    numbers = _canary_queue.numbers_of(ids)
    within = {number: times for number, times in numbers.items() if span[0] <= number <= span[1]}
    return {
        "sequences": to_ranges(sorted(within)),
        "duplicates": sum(times - 1 for times in within.values()),
    }


def epoch_of(store: Mapping[str, Any], config: Mapping[str, Any], region: str | None) -> int | None:
    """The region's epoch, from the gate of the first of its nodes that tells it."""
    context = ssl.create_default_context(cafile=store["ca"])
    for host in config.get("regions", {}).get(region or "", []):
        gate = http.client.HTTPSConnection(host, int(store["state_port"]), timeout=2, context=context)
        try:
            gate.request("GET", "/primary")
            told = json.loads(gate.getresponse().read())
            # A standby's is that of the region which was opened instead of it.
            if told["role"] == "primary" and told["region"] == region:
                return int(told["epoch"])
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            continue
        finally:
            gate.close()
    return None


# --- object storage ----------------------------------------------------------------------

OBJECTS = "canary/"
REGION = "canary-region.json"
DIGITS = 16


def read_object_storage(
    store: Mapping[str, Any], endpoint: Mapping[str, Any], _config: Mapping[str, Any], span: Span | None
) -> Answer:
    bucket = store["bucket"]
    access = {
        "access_key": store["user"],
        "secret_key": store["password"],
        "region": store["signing_region"],
        "ca_certificate": store["ca"],
    }
    client = _s3.connect(access, f"https://{endpoint['host']}:{endpoint['port']}")

    def read() -> bytes:
        body: bytes = client.get_object(Bucket=bucket, Key=REGION)["Body"].read()
        return body

    try:
        region, timeline = whose_copy(_s3.call(f"the object {REGION}", read))
        sequences = None if span is None else to_ranges(listed(client, bucket, span))
    finally:
        client.close()
    return {
        "sequences": sequences,
        # A name is there once.
        "duplicates": 0,
        "host": region,
        "region": region,
        "timeline": timeline,
        "position": None,
    }


def whose_copy(text: str | bytes) -> tuple[str, int]:
    try:
        told = json.loads(text)
        return str(told["region"]), int(told["timeline"])
    except (ValueError, KeyError, TypeError) as error:
        raise MusterError(f"the object {REGION} does not tell whose copy this is") from error


def listed(client: Any, bucket: str, span: Span) -> Iterator[int]:
    """The numbers that there are objects of, by LIST: what is only promised is not in it."""
    after = f"{OBJECTS}{max(0, span[0] - 1):0{DIGITS}d}"
    while True:
        page = _s3.call(
            "the listing", client.list_objects_v2, Bucket=bucket, Prefix=OBJECTS, StartAfter=after
        )
        for entry in page.get("Contents", []):
            text = entry["Key"][len(OBJECTS) :]
            if text.isdecimal() and int(text) > span[1]:
                return
            if text.isdecimal() and int(text) >= span[0]:
                yield int(text)
            after = entry["Key"]
        if not page.get("IsTruncated"):
            return
