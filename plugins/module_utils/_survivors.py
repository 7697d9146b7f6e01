# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asking the surviving copy of a store which of the canary's numbers it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

PSYCOPG2_ERROR: ImportError | None = None
try:
    import psycopg2
except ImportError as import_error:
    PSYCOPG2_ERROR = import_error

from ansible_collections.muster.platform.plugins.module_utils import _survivors_stores
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._ranges import to_ranges

WHO = "select pg_is_in_recovery(), host(inet_server_addr())"
WHERE = "select left(pg_walfile_name(pg_current_wal_lsn()), 8), pg_current_wal_lsn()::text"
HELD = "select sequence from muster_canary where sequence between %s and %s order by sequence"


def connect(store: Mapping[str, Any], server: Mapping[str, Any], name: str, **options: Any) -> Any:
    """A connection to one server as the canary's user, over TLS with a verified name."""
    connection = psycopg2.connect(
        host=server["host"],
        port=server["port"],
        dbname=store["database"],
        user=store["user"],
        password=store["password"],
        sslmode="verify-full",
        sslrootcert=store["ca"],
        gssencmode="disable",
        application_name=name,
        **options,
    )
    connection.autocommit = True
    return connection


def first_line(error: Exception, store: Mapping[str, Any]) -> str:
    """What PostgreSQL or libpq said, without the password."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].replace(str(store["password"]), "***")


def read_survivors(store: dict[str, Any], config: dict[str, Any], low: int, high: int) -> dict[str, Any]:
    """What the surviving copy holds of the numbers from C(low) to C(high), and who answered.

    C(sequences) is null, with the reason in C(error), when it cannot be known. C(duplicates) counts the
    numbers that are there once more.
    """
    reader = READERS.get(store.get("type", ""))
    if reader is None:
        return {"sequences": None, "error": f"store {store['name']} is of an unknown type"}
    answers: list[dict[str, Any]] = []
    errors: list[str] = []
    for endpoint in store["endpoints"]:
        try:
            # One answer is enough for the numbers; the other endpoints must only lead to the same host.
            found = reader(store, endpoint, config, None if answers else (low, high))
            answers.append({**found, "endpoint": endpoint["name"], "read_at": now_text()})
        except MusterError as error:
            errors.append(f"{endpoint['name']}: {error}")
    if not answers:
        return {
            "sequences": None,
            "error": "no endpoint leads to a server that takes writes: " + "; ".join(errors),
        }
    hosts = sorted({answer["host"] for answer in answers})
    if len(hosts) > 1:
        return {"sequences": None, "error": f"more than one host takes writes: {', '.join(hosts)}"}
    return {**answers[0], "error": None}


def read_postgresql(
    store: dict[str, Any], endpoint: dict[str, Any], config: dict[str, Any], span: tuple[int, int] | None
) -> dict[str, Any]:
    """One endpoint's answer; a MusterError when it leads to no server that takes writes."""
    if PSYCOPG2_ERROR is not None:
        raise MusterError("psycopg2 is not installed")
    connection = None
    try:
        connection = connect(store, endpoint, "muster-drill", connect_timeout=3, tcp_user_timeout=5000)
        with connection.cursor() as cursor:
            return ask_postgresql(cursor, config, span)
    except psycopg2.Error as error:
        raise MusterError(first_line(error, store)) from error
    finally:
        if connection is not None:
            connection.close()


def ask_postgresql(cursor: Any, config: dict[str, Any], span: tuple[int, int] | None) -> dict[str, Any]:
    cursor.execute(WHO)
    standby, address = cursor.fetchone()
    host = config.get("hosts", {}).get(address, address or "unknown")
    if standby:
        raise MusterError(f"{host} is a standby")
    cursor.execute(WHERE)
    timeline, position = cursor.fetchone()
    sequences = None
    if span is not None:
        cursor.execute(HELD, span)
        sequences = to_ranges(row[0] for row in cursor)
    return {
        "sequences": sequences,
        # A number is the table's key.
        "duplicates": 0,
        "host": host,
        "region": _survivors_stores.region_of(config, host),
        "timeline": int(timeline, 16),
        "position": position,
    }


def now_text() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


READERS: dict[str, Callable[..., dict[str, Any]]] = {
    "postgresql": read_postgresql,
    "valkey": _survivors_stores.read_valkey,
    "rabbitmq": _survivors_stores.read_rabbitmq,
    "object_storage": _survivors_stores.read_object_storage,
}
