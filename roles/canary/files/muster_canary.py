#!/usr/bin/python3
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write a sequence number to every store, all the time, and remember what was acknowledged.

One thread per endpoint writes the store's next number on a fixed schedule. Each
attempt becomes one row of the ledger, on this host's own disk, whether an answer
came or not. What a switch of regions lost, and how long nothing could be
written, is counted from these rows afterwards; the daemon itself judges nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import importlib
import ipaddress
import itertools
import json
import math
import os
import re
import select
import shutil
import signal
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

try:
    import psycopg2
    import psycopg2.extensions
except ImportError:
    psycopg2 = None  # type: ignore[assignment]  # a store of type postgresql needs it, and no other

# What speaks to the other types of stores lies beside this file, and imports it by its name.
sys.modules.setdefault("muster_canary", sys.modules[__name__])
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

COLUMNS = "store,sequence,sent_at,acknowledged_at,endpoint,answer"
CURRENT = "ledger.csv"
CONNECT_SECONDS = 1.0
ATTEMPT_SECONDS = 1.9
# A crash may lose the last rows of the ledger, and an attempt in flight has none yet.
# Numbers cost nothing, so a restart leaves more room than either can need.
RESTART_GAP = 10_000
PRUNE_EVERY = 3600.0
PRUNE_BATCH = 2000
PRUNE_BATCHES = 100
RESOLVE_EVERY = 10.0
NUMBERS_BEGIN = 1_767_225_600.0  # 2026-01-01
NAME = re.compile(r"^[A-Za-z0-9_.:-]{1,63}$")


def say(text: str) -> None:
    """One line for the journal."""
    print(text, file=sys.stderr, flush=True)


def stamp(seconds: float) -> str:
    """UTC ISO 8601 with microseconds and Z."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def notify(text: str) -> None:
    """Tell systemd; silent where there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect("\0" + address[1:] if address.startswith("@") else address)
        client.sendall(text.encode())


class ConfigError(Exception):
    """The configuration cannot be used; told in one sentence."""


class NoAnswer(Exception):
    """A write was not acknowledged. The text is a short class, never a message from outside."""


class Stopping(Exception):
    """The daemon is asked to end."""


# --- configuration -----------------------------------------------------------


@dataclass(frozen=True)
class Endpoint:
    """One way to a store, as the applications use it."""

    name: str
    host: str
    port: int
    region: str = ""


@dataclass(frozen=True)
class StoreConfig:
    """What the configuration says about one store."""

    name: str
    type: str
    endpoints: list[Endpoint]
    database: str
    user: str
    password: str = field(repr=False)
    ca: str = ""
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """The whole configuration."""

    interval: float
    ledger_days: int
    directory: Path
    hosts: dict[str, str]
    regions: dict[str, str]
    stores: list[StoreConfig]


def read_config(path: str) -> Config:
    """Read and check the configuration; a ConfigError says what is wrong with it."""
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
        stores = [read_store(entry) for entry in raw["stores"]]
        config = Config(
            interval=float(raw["interval_ms"]) / 1000,
            ledger_days=int(raw["ledger_days"]),
            directory=Path(raw["directory"]),
            hosts={address_key(key): str(value) for key, value in raw.get("hosts", {}).items()},
            regions={
                str(host): str(name) for name, found in raw.get("regions", {}).items() for host in found
            },
            stores=stores,
        )
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except KeyError as error:
        raise ConfigError(f"{path}: {error.args[0]} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        # The text of a JSON error may quote the file, which holds passwords.
        raise ConfigError(f"{path} is not a valid configuration ({type(error).__name__})") from error
    check_config(config)
    return config


def read_store(entry: dict[str, Any]) -> StoreConfig:
    kind = str(entry["type"])
    return StoreConfig(
        name=str(entry["name"]),
        type=kind,
        endpoints=[
            Endpoint(str(e["name"]), str(e["host"]), int(e["port"]), str(e.get("region") or ""))
            for e in entry["endpoints"]
        ],
        database=str(entry["database"]) if kind == "postgresql" else "",
        user=str(entry["user"]),
        password=str(entry["password"]),
        ca=str(entry.get("ca", "")),
        options={name: str(entry[name]) for name in OPTIONS.get(kind, ())},
    )


def check_config(config: Config) -> None:
    """Raise a ConfigError for what would not work, or would spoil the ledger."""
    if not 0.005 <= config.interval <= 60:
        raise ConfigError("interval_ms must be between 5 and 60000")
    if config.ledger_days < 1:
        raise ConfigError("ledger_days must be at least 1")
    names = [store.name for store in config.stores]
    if len(set(names)) != len(names):
        raise ConfigError("two stores have the same name")
    for store in config.stores:
        if store.type not in OPTIONS:
            raise ConfigError(f"store {store.name}: unknown type {store.type}")
        try:
            store_class(store.type)
        except ImportError as error:
            raise ConfigError(f"store {store.name}: the Python module {error.name} is missing") from error
        paths = [endpoint.name for endpoint in store.endpoints]
        if not paths or len(set(paths)) != len(paths):
            raise ConfigError(f"store {store.name}: each endpoint needs a name of its own")
        names += [*paths, *(endpoint.region for endpoint in store.endpoints if endpoint.region)]
    for name in [*names, *config.hosts.values(), *config.regions, *config.regions.values()]:
        if not NAME.match(name):
            raise ConfigError(f"{name!r} cannot be a name in the ledger")


def address_key(text: str) -> str:
    """One spelling per address."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return text


# --- the ledger ----------------------------------------------------------------


class Ledger:
    """The rows of all attempts: `ledger.csv`, and a file per finished hour beside it."""

    def __init__(self, directory: Path, keep_days: int) -> None:
        self.directory = directory
        self.keep = timedelta(days=keep_days)
        self.path = directory / CURRENT
        self.lock = threading.Lock()
        self.failing = False
        self.descriptor = -1
        self.hour = ""
        self._open()

    def _open(self) -> None:
        """Open the current file for appending; repair a line that a crash cut short."""
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        size = os.fstat(self.descriptor).st_size
        keep = size
        while keep and os.pread(self.descriptor, 1, keep - 1) != b"\n":
            start = max(0, keep - 4096)
            chunk = os.pread(self.descriptor, keep - start, start)
            keep = start + chunk.rfind(b"\n") + 1
        if keep < size:
            os.ftruncate(self.descriptor, keep)
            say(f"ledger: dropped the {size - keep} bytes of a torn last line")
        if keep == 0:
            os.write(self.descriptor, f"{COLUMNS}\n".encode())
        self.hour = ""
        for row in rows_of(self.path):
            self.hour = hour_of(row[2])
            break
        sync_directory(self.directory)

    def append(self, row: str, sent_at: str) -> None:
        """One row, one write: after it returns, only the loss of the whole machine loses the row."""
        line = f"{row}\n".encode()
        with self.lock:
            try:
                self._write(line)
            except OSError as error:
                # Going on matters more: the missing row shows as a gap in the canary's running.
                if not self.failing:
                    say(f"ledger: cannot write {self.path}: {error.strerror}")
                self.failing = True
                return
            if self.failing:
                say("ledger: writing again")
            self.failing = False
            self.hour = self.hour or hour_of(sent_at)

    def _write(self, line: bytes) -> None:
        written = os.write(self.descriptor, line)
        if written != len(line):
            # A full disk took a part of the line: take it back, so that the file stays readable.
            os.ftruncate(self.descriptor, os.fstat(self.descriptor).st_size - written)
            raise OSError(28, "no space left on device")

    def sync(self) -> None:
        os.fdatasync(self.descriptor)

    def rotate(self, now: float) -> None:
        """Set the current file aside once its hour is over."""
        if not self.hour or hour_of(stamp(now)) <= self.hour:
            return
        with self.lock:
            target = self.directory / f"ledger-{self.hour}.csv"
            number = 1
            while target.exists() or target.with_name(target.name + ".gz").exists():
                # The clock was set back: never write over rows.
                number += 1
                target = self.directory / f"ledger-{self.hour}-{number}.csv"
            os.fdatasync(self.descriptor)
            os.rename(self.path, target)
            os.close(self.descriptor)
            self._open()

    def finished(self) -> list[Path]:
        """The files of finished hours, oldest first."""
        return sorted(path for path in self.directory.glob("ledger-*.csv*") if not path.name.endswith(".tmp"))

    def compress(self) -> None:
        for path in self.finished():
            if path.suffix != ".csv":
                continue
            packed = path.with_name(path.name + ".gz")
            temporary = packed.with_name(packed.name + ".tmp")
            with path.open("rb") as source, temporary.open("wb") as target:
                with gzip.GzipFile(fileobj=target, mode="wb", compresslevel=6, mtime=0) as stream:
                    shutil.copyfileobj(source, stream, 1 << 18)
                target.flush()
                os.fsync(target.fileno())
            os.replace(temporary, packed)
            path.unlink()
            sync_directory(self.directory)

    def expire(self, now: float) -> None:
        """Remove the files whose every row is older than the ledger is kept."""
        limit = datetime.fromtimestamp(now, UTC) - self.keep - timedelta(hours=2)
        oldest = f"ledger-{limit.strftime('%Y%m%dT%H')}"
        for path in self.finished():
            if path.name < oldest:
                path.unlink()

    def last_sequences(self) -> dict[str, int]:
        """The highest number per store at the end of the newest two files that have rows.

        The newest may have been begun a moment before the daemon ended, and not know every store yet.
        """
        found: dict[str, int] = {}
        files = 0
        for path in [self.path, *reversed(self.finished())]:
            rows = list(rows_of(path, tail=1 << 18))
            for row in rows:
                found[row[0]] = max(found.get(row[0], 0), int(row[1]))
            files += bool(rows)
            if files == 2:
                break
        return found

    def first_sequence(self, store: str) -> int | None:
        """The lowest number of a store that the ledger still covers, as far as it can be told cheaply."""
        for path in [*self.finished(), self.path]:
            mine = (int(row[1]) for row in rows_of(path) if row[0] == store)
            if head := list(itertools.islice(mine, 100)):
                return min(head)
        return None

    def close(self) -> None:
        with self.lock:
            self.sync()
            os.close(self.descriptor)


def hour_of(text: str) -> str:
    """`2026-11-21T09:...` -> `20261121T09`."""
    return text[0:4] + text[5:7] + text[8:13]


def rows_of(path: Path, tail: int = 0) -> Iterator[list[str]]:
    """The well-formed rows of one ledger file; only the last C(tail) bytes where it is given."""
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
            yield from well_formed(csv.reader(stream))
        return
    with path.open("rb") as binary:
        if tail:
            binary.seek(max(0, os.fstat(binary.fileno()).st_size - tail))
            if binary.tell():
                binary.readline()
        yield from well_formed(csv.reader(line.decode("utf-8", "replace") for line in binary))


def well_formed(rows: Iterator[list[str]]) -> Iterator[list[str]]:
    return (row for row in rows if len(row) == 6 and row[1].isdecimal())


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Counter:
    """A store's next number, shared by the writers of all its endpoints."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.lock = threading.Lock()

    def take(self) -> int:
        with self.lock:
            self.last += 1
            return self.last

    def raise_to(self, least: int) -> None:
        with self.lock:
            self.last = max(self.last, least)


# --- ending --------------------------------------------------------------------


class Stop:
    """Ends every wait at once: a flag, and a pipe for those who wait on a socket."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.reader, self.writer = os.pipe()

    def set(self) -> None:
        if not self.event.is_set():
            self.event.set()
            os.close(self.writer)

    def wait(self, seconds: float) -> bool:
        return self.event.wait(max(0.0, seconds))


# --- stores ----------------------------------------------------------------------


class Session(Protocol):
    """An open way to a store; one thread uses it."""

    def write(self, sequence: int, deadline: float, sending: Callable[[], None]) -> str:
        """Write a number and return `host=... region=... timeline=...`; NoAnswer otherwise."""

    def close(self) -> None:
        """Drop the connection."""


class Store(ABC):
    """One store behind its endpoints."""

    prune_every = PRUNE_EVERY
    # Whether what is old is told by the ledger's first number, which may take long to find.
    prune_by_number = True

    def __init__(self, config: StoreConfig, whole: Config, counter: Counter, stop: Stop) -> None:
        self.config = config
        self.hosts = whole.hosts
        self.regions = whole.regions
        self.keep_seconds = whole.ledger_days * 86400
        self.counter = counter
        self.stop = stop
        self.routes = [Route(endpoint) for endpoint in config.endpoints]
        self.remarks: dict[str, str] = {}
        self.next_prune = time.monotonic() + 60

    @abstractmethod
    def session(self, route: Route) -> Session:
        """A way through one endpoint, which is opened at the first write."""

    @abstractmethod
    def prune(self, below: int) -> int:
        """Remove the numbers that the ledger no longer covers; how many."""

    def remark(self, endpoint: str, error: object) -> None:
        """Keep the first line of what the server or library said, for the journal."""
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        self.remarks[endpoint] = text.replace(self.config.password, "***") if self.config.password else text


class PostgresqlSession:
    """Writes through one endpoint of a PostgreSQL."""

    CREATE = (
        "create table if not exists muster_canary ("
        "sequence bigint primary key, endpoint text not null, sent_at timestamptz not null default now())"
    )
    # An abandoned write must not hold a server process for longer than its client lives.
    # No statement_timeout: cancelling a commit that waits for a synchronous standby would
    # make the server acknowledge a write that the standby does not hold.
    SETUP = "set client_connection_check_interval = '2s'; "
    WRITE = (
        "insert into muster_canary (sequence, endpoint) values (%s, %s) "
        "returning host(inet_server_addr()), left(pg_walfile_name(pg_current_wal_lsn()), 8)"
    )
    NEWEST = "select coalesce(max(sequence), 0) from muster_canary"
    PRUNE = (
        "delete from muster_canary where sequence in "
        "(select sequence from muster_canary where sequence < %s order by sequence limit %s)"
    )

    def __init__(self, store: PostgresqlStore, route: Route) -> None:
        self.store = store
        self.route = route
        self.connection: Any = None
        self.fresh = True

    def connect(self, deadline: float) -> None:
        if self.connection is not None and not self._hung_up():
            return
        self.close()
        config = self.store.config
        address = self.route.address()
        try:
            # Asynchronous, because libpq's own connect_timeout has no unit below two seconds.
            self.connection = psycopg2.connect(
                host=self.route.endpoint.host,
                hostaddr=address,
                port=self.route.endpoint.port,
                dbname=config.database,
                user=config.user,
                password=config.password,
                sslmode="verify-full",
                sslrootcert=config.ca,
                gssencmode="disable",
                application_name="muster-canary",
                client_encoding="UTF8",
                tcp_user_timeout=1500,
                async_=1,
            )
            self._finish(min(deadline, time.monotonic() + CONNECT_SECONDS))
        except (NoAnswer, psycopg2.Error):
            self.route.failed()
            raise
        self.fresh = True

    def _hung_up(self) -> bool:
        """Whether the server has ended the idle connection: then nothing is sent into the void."""
        poller = select.poll()
        poller.register(self.connection.fileno(), select.POLLIN)
        return self.connection.closed != 0 or bool(poller.poll(0))

    def _finish(self, deadline: float) -> None:
        """Drive the connection until what it does is done."""
        while True:
            state = self.connection.poll()
            if state == psycopg2.extensions.POLL_OK:
                return
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise NoAnswer("timeout")
            poller = select.poll()
            wanted = select.POLLOUT if state == psycopg2.extensions.POLL_WRITE else select.POLLIN
            poller.register(self.connection.fileno(), wanted)
            poller.register(self.store.stop.reader, select.POLLIN)
            ready = poller.poll(math.ceil(remaining * 1000))
            if any(descriptor == self.store.stop.reader for descriptor, _events in ready):
                raise Stopping

    def execute(self, sql: str, values: tuple[Any, ...], deadline: float) -> Any:
        cursor = self.connection.cursor()
        cursor.execute(sql, values)
        self._finish(deadline)
        return cursor

    def write(self, sequence: int, deadline: float, sending: Callable[[], None]) -> str:
        try:
            self.connect(deadline)
            sending()
            sql = self.SETUP + self.WRITE if self.fresh else self.WRITE
            row = self.execute(sql, (sequence, self.route.endpoint.name), deadline).fetchone()
            self.fresh = False
            return self.store.describe(row[0], row[1])
        except psycopg2.Error as error:
            self._after(error, deadline)
            raise NoAnswer(classify(error)) from error
        except (NoAnswer, Stopping):
            self.close()
            raise

    def _after(self, error: psycopg2.Error, deadline: float) -> None:
        """Repair what can be repaired at once; drop the connection otherwise."""
        self.store.remark(self.route.endpoint.name, error)
        try:
            if error.pgcode == "42P01":
                self.execute(self.CREATE, (), deadline)
                say(f"{self.store.config.name}: created the table muster_canary")
            elif error.pgcode == "23505":
                # The ledger was lost, the table was not: go on above what it holds.
                newest = self.execute(self.NEWEST, (), deadline).fetchone()[0]
                self.store.counter.raise_to(newest + RESTART_GAP)
            else:
                self.close()
        except (psycopg2.Error, NoAnswer):
            self.close()

    def prune(self, below: int, pause: Callable[[float], bool]) -> int:
        """Delete rows that the ledger no longer covers, a batch at a time."""
        removed = 0
        try:
            self.connect(time.monotonic() + ATTEMPT_SECONDS)
            for _batch in range(PRUNE_BATCHES):
                deadline = time.monotonic() + 10
                count = self.execute(self.PRUNE, (below, PRUNE_BATCH), deadline).rowcount
                removed += count
                if count < PRUNE_BATCH or pause(0.2):
                    break
        except psycopg2.Error as error:
            raise NoAnswer(classify(error)) from error
        finally:
            self.close()
        return removed

    def close(self) -> None:
        if self.connection is not None:
            with contextlib.suppress(psycopg2.Error):
                self.connection.close()
        self.connection = None


class PostgresqlStore(Store):
    """A PostgreSQL behind one endpoint per region."""

    def session(self, route: Route) -> PostgresqlSession:
        return PostgresqlSession(self, route)

    def describe(self, address: str | None, timeline: str) -> str:
        host = self.hosts.get(address or "", address or "unknown")
        region = self.regions.get(host, "unknown")
        return f"host={host} region={region} timeline={int(timeline, 16)}"

    def prune(self, below: int) -> int:
        for route in self.routes:
            with contextlib.suppress(NoAnswer):
                return self.session(route).prune(below, self.stop.wait)
        return 0


# The types of stores, and what else the configuration says of each.
OPTIONS = {
    "postgresql": (),
    "valkey": (),
    "rabbitmq": ("vhost", "exchange", "routing_key", "state_port"),
    "object_storage": ("bucket", "signing_region", "keep_seconds"),
}


def store_class(kind: str) -> type[Store]:
    """What writes to a type of store; nothing is loaded for those that are not configured."""
    if kind == "postgresql":
        if psycopg2 is None:
            raise ModuleNotFoundError("psycopg2 is missing", name="psycopg2")
        return PostgresqlStore
    found: type[Store] = importlib.import_module(f"muster_canary_{kind}").STORE
    return found


# Errors of a connection that is being opened carry no SQLSTATE: known by their words, in this order.
REASONS = (
    ("password authentication", "authentication"),
    ("pg_hba", "authentication"),
    ("terminating connection", "unavailable"),
    ("shutting down", "unavailable"),
    ("starting up", "unavailable"),
    ("not accepting connections", "unavailable"),
    ("too many", "full"),
    ("remaining connection slots", "full"),
    ("fatal:", "rejected"),
    ("refused", "refused"),
    ("timeout", "timeout"),
    ("timed out", "timeout"),
    ("certificate", "certificate"),
    ("ssl", "tls"),
    ("no route", "unreachable"),
    ("unreachable", "unreachable"),
    ("invalid argument", "unreachable"),
    ("closed the connection", "closed"),
    ("connection reset", "closed"),
    ("eof", "closed"),
    ("broken pipe", "closed"),
)
STATES = {
    "08": "closed",
    "25": "read-only",
    "28": "authentication",
    "42": "rejected",
    "53": "full",
    "57": "unavailable",
}


def classify(error: psycopg2.Error) -> str:
    """A short class for the ledger: it names no user, no host and no value."""
    if error.pgcode:
        return f"{STATES.get(error.pgcode[:2], 'error')} sqlstate={error.pgcode}"
    text = str(error).lower()
    return next((name for part, name in REASONS if part in text), "error")


class Route:
    """An endpoint and the addresses that its name led to.

    Names are resolved beside the writers: a name server that hangs, as in an outage of
    a region, must not hold up an attempt.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.addresses: list[str] = []
        self.turn = 0

    def resolve(self) -> None:
        with contextlib.suppress(OSError):
            found = socket.getaddrinfo(self.endpoint.host, self.endpoint.port, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
            if addresses != self.addresses:
                self.addresses = addresses

    def address(self) -> str:
        if not self.addresses:
            raise NoAnswer("unresolved")
        return self.addresses[self.turn % len(self.addresses)]

    def failed(self) -> None:
        self.turn += 1


# --- the writers -------------------------------------------------------------------


class Writer(threading.Thread):
    """Writes through one endpoint, on schedule, through any outage."""

    def __init__(self, store: Store, route: Route, ledger: Ledger, interval: float, first: float) -> None:
        super().__init__(name=f"{store.config.name} {route.endpoint.name}", daemon=True)
        self.store = store
        self.route = route
        self.ledger = ledger
        self.interval = interval
        self.tick = first
        self.session: Session = store.session(route)
        self.beat = time.monotonic()
        self.acknowledged_at = 0.0
        self.state = ""
        self.since = time.monotonic()

    def run(self) -> None:
        stop = self.store.stop
        while not stop.wait(self.tick - time.monotonic()):
            self.attempt()
            self.beat = time.monotonic()
            self.tick += self.interval
            if self.tick < self.beat:
                # Missed ticks are skipped, and the schedule keeps its phase.
                self.tick += math.ceil((self.beat - self.tick) / self.interval) * self.interval
        self.session.close()

    def attempt(self) -> None:
        """One number, one row."""
        sequence = self.store.counter.take()
        started = sent = time.monotonic()
        wall = time.time()

        def sending() -> None:
            nonlocal sent
            sent = time.monotonic()

        acknowledged = ""
        try:
            answer = "ok " + self.session.write(sequence, started + ATTEMPT_SECONDS, sending)
            finished = time.monotonic()
            # Both times come from one reading of the clock, so their distance is measured,
            # whatever happens to the clock in between.
            acknowledged = stamp(wall + finished - started)
            self.acknowledged_at = finished
            self.changed("ok", answer)
        except NoAnswer as error:
            finished = time.monotonic()
            answer = f"none error={error} after={finished - sent:.6f}"
            self.changed(str(error), self.store.remarks.pop(self.route.endpoint.name, ""))
        except Stopping:
            answer = f"none error=stopped after={time.monotonic() - sent:.6f}"
        if sent - started >= 0.0005:
            answer += f" connect={sent - started:.6f}"
        sent_at = stamp(wall + sent - started)
        row = [self.store.config.name, str(sequence), sent_at, acknowledged, self.route.endpoint.name, answer]
        self.ledger.append(",".join(row), sent_at)

    def changed(self, state: str, remark: str) -> None:
        """Tell the journal when the endpoint begins or ceases to answer, and nothing in between."""
        now = time.monotonic()
        ok = state == "ok"
        if ok != (self.state == "ok") or not self.state:
            lasted = f" after {now - self.since:.1f} s" if self.state else ""
            text = f"acknowledges{lasted} ({remark})" if ok else f"does not acknowledge: {state}"
            say(f"{self.name}: {text}" + (f" ({remark})" if remark and not ok else ""))
            self.since = now
        self.state = state


class Housekeeper(threading.Thread):
    """What may be slow and must not hold up a writer: names, old files, old numbers in the stores."""

    def __init__(self, stores: list[Store], ledger: Ledger, stop: Stop) -> None:
        super().__init__(name="housekeeper", daemon=True)
        self.stores = stores
        self.ledger = ledger
        self.stop = stop

    def run(self) -> None:
        while not self.stop.wait(RESOLVE_EVERY):
            for store in self.stores:
                for route in store.routes:
                    route.resolve()
            try:
                self.ledger.compress()
                self.ledger.expire(time.time())
                self.prune()
            except OSError as error:
                say(f"ledger: cannot tidy {self.ledger.directory}: {error.strerror}")
            except Stopping:
                return

    def prune(self) -> None:
        for store in self.stores:
            if time.monotonic() < store.next_prune:
                continue
            store.next_prune = time.monotonic() + store.prune_every
            first = self.ledger.first_sequence(store.config.name) if store.prune_by_number else 0
            if first is not None and (removed := store.prune(first)):
                say(f"{store.config.name}: removed {removed} old numbers")


class Flusher(threading.Thread):
    """Brings the ledger to the disk about once a second, and turns it over each hour."""

    def __init__(self, ledger: Ledger, stop: Stop) -> None:
        super().__init__(name="flusher", daemon=True)
        self.ledger = ledger
        self.stop = stop

    def run(self) -> None:
        while not self.stop.wait(1.0):
            try:
                self.ledger.rotate(time.time())
                self.ledger.sync()
            except OSError as error:
                say(f"ledger: cannot flush {self.ledger.path}: {error.strerror}")


# --- the daemon -----------------------------------------------------------------------


def status_line(writers: list[Writer]) -> str:
    now = time.monotonic()
    parts = []
    for writer in writers:
        if writer.state == "ok":
            parts.append(f"{writer.name} ok")
        else:
            parts.append(f"{writer.name} {writer.state or 'starting'} for {now - writer.since:.0f} s")
    return ", ".join(parts)


def watch(writers: list[Writer], others: list[threading.Thread], stop: Stop) -> None:
    """Feed systemd's watchdog as long as every thread lives and moves."""
    previous = ""
    while not stop.wait(5.0):
        now = time.monotonic()
        alive = all(thread.is_alive() for thread in [*writers, *others])
        if alive and all(now - writer.beat < 15 for writer in writers):
            line = status_line(writers)
            notify("WATCHDOG=1" + (f"\nSTATUS={line}" if line != previous else ""))
            previous = line
        elif not alive:
            raise RuntimeError("a thread of the canary has ended")


def first_number(kind: str) -> int:
    """Where a store's numbers begin when the ledger has none.

    PostgreSQL refuses a number that it has already. The others would take it again, and a lost write
    with a number of before would seem to be there: so they begin above all that an earlier ledger had.
    """
    return 0 if kind == "postgresql" else max(0, int((time.time() - NUMBERS_BEGIN) * 1000))


def run(config: Config) -> None:
    stop = Stop()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda _number, _frame: stop.set())
    ledger = Ledger(config.directory, config.ledger_days)
    last = ledger.last_sequences()
    stores: list[Store] = []
    writers = []
    for entry in config.stores:
        counter = Counter(last[entry.name] + RESTART_GAP if entry.name in last else first_number(entry.type))
        store = store_class(entry.type)(entry, config, counter, stop)
        stores.append(store)
        for number, route in enumerate(store.routes):
            route.resolve()
            # The endpoints take turns, so that together they look more often.
            first = time.monotonic() + config.interval * number / len(store.routes)
            writers.append(Writer(store, route, ledger, config.interval, first))
    others: list[threading.Thread] = [Flusher(ledger, stop), Housekeeper(stores, ledger, stop)]
    for thread in [*writers, *others]:
        thread.start()
    notify("READY=1\nSTATUS=started")
    say(f"writing every {config.interval * 1000:g} ms through {', '.join(writer.name for writer in writers)}")
    try:
        watch(writers, others, stop)
    finally:
        notify("STOPPING=1")
        stop.set()
        for writer in writers:
            writer.join(timeout=1.0)
        ledger.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="/etc/muster/canary.json", help="path of the configuration")
    parser.add_argument("--check", action="store_true", help="only check the configuration")
    arguments = parser.parse_args()
    try:
        config = read_config(arguments.config)
        if not arguments.check:
            run(config)
    except (ConfigError, RuntimeError) as error:
        say(f"muster-canary: {error}")
        return 1
    except OSError as error:
        say(f"muster-canary: {error.filename or config.directory}: {error.strerror}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
