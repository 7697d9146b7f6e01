# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Look at PostgreSQL from outside, over TCP; prints what it saw as JSON.

usage: look.py JSON     an object with superuser_password and application_password
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import psycopg2

GIVEN = json.loads(sys.argv[1])
CA = "/etc/muster/postgresql/ca.crt"
DIRECT, POOLER = 5432, 6432


def connect(host: str, port: int = DIRECT, **other: Any) -> Any:
    arguments = {
        "host": host,
        "port": port,
        "user": "application",
        "password": GIVEN["application_password"],
        "dbname": "application",
        "sslmode": "verify-full",
        "sslrootcert": CA,
        "connect_timeout": 5,
    }
    connection = psycopg2.connect(**(arguments | other))
    connection.autocommit = True
    return connection


def superuser(host: str) -> Any:
    return connect(host, user="postgres", password=GIVEN["superuser_password"])


def ask(connection: Any, query: str) -> Any:
    """The only row; its only column when it has one."""
    with connection.cursor() as cursor:
        cursor.execute(query)
        row = cursor.fetchone()
    return row[0] if row and len(row) == 1 else row


def refusal(host: str, port: int = DIRECT, **other: Any) -> str:
    """Why a connection is refused; empty when it is not."""
    try:
        connect(host, port, **other).close()
    except psycopg2.OperationalError as error:
        return str(error).strip()
    return ""


def logins() -> dict[str, Any]:
    how = "SELECT current_user, ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    return {
        "direct": ask(connect("north-1"), how),
        "pooler": ask(connect("north-1", POOLER), "SELECT current_user"),
        "pooler_tls": connect("north-1", POOLER).info.ssl_in_use,
        "secret": ask(
            superuser("north-1"), "SELECT rolpassword FROM pg_authid WHERE rolname = 'application'"
        )[:14],
        "plain": refusal("north-1", sslmode="disable"),
        "plain_pooler": refusal("north-1", POOLER, sslmode="disable"),
        "wrong_password": refusal("north-1", password="wrong"),
        "wrong_password_pooler": refusal("north-1", POOLER, password="wrong"),
        "superuser_pooler": refusal("north-1", POOLER, user="postgres", password=GIVEN["superuser_password"]),
    }


def settings(host: str) -> dict[str, Any]:
    connection = superuser(host)
    names = ("data_checksums", "password_encryption", "shared_buffers", "work_mem", "max_connections")
    found = {name: ask(connection, f"SHOW {name}") for name in names}
    found["recovery"] = ask(connection, "SELECT pg_is_in_recovery()")
    found["started_at"] = ask(connection, "SELECT extract(epoch FROM pg_postmaster_start_time())::float8")
    found["timeline"] = ask(connection, "SELECT timeline_id FROM pg_control_checkpoint()")
    return found


def objects() -> dict[str, Any]:
    connection = superuser("north-1")
    return {
        "owner": ask(
            connection, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'application'"
        ),
        "bypasses": ask(connection, "SELECT rolbypassrls FROM pg_roles WHERE rolname = 'application'"),
        "extensions": ask(connection, "SELECT array_agg(extname::text ORDER BY extname) FROM pg_extension"),
    }


def streaming() -> dict[str, Any]:
    """Who follows whom; a replica that was killed a moment ago has time to come back."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            found = followers()
            if all(found.values()):
                return found
        except psycopg2.OperationalError:
            pass
        time.sleep(0.1)
    return followers()


def followers() -> dict[str, Any]:
    return {
        "north-2": ask(superuser("north-2"), "SELECT status, sender_host FROM pg_stat_wal_receiver"),
        "south-1": ask(superuser("south-1"), "SELECT status, sender_host FROM pg_stat_wal_receiver"),
        "synchronous": ask(
            superuser("north-1"),
            "SELECT array_agg(application_name) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')",
        ),
    }


def arrives(value: float) -> dict[str, float | None]:
    """Write through the pooler; the seconds until each standby shows it."""
    writer = connect("north-1", POOLER).cursor()
    writer.execute("CREATE TABLE IF NOT EXISTS look (value float8)")
    writer.execute("INSERT INTO look VALUES (%s)", (value,))
    started, seen = time.monotonic(), {}
    for host in ("north-2", "south-1"):
        reader = connect(host)
        while not (found := ask(reader, f"SELECT true FROM look WHERE value = {value}")):
            if time.monotonic() - started > 10:
                break
            time.sleep(0.02)
        seen[host] = round(time.monotonic() - started, 3) if found else None
    return seen


print(
    json.dumps(
        {
            "streaming": streaming(),
            "logins": logins(),
            "settings": {host: settings(host) for host in ("north-1", "north-2", "south-1")},
            "objects": objects(),
            "arrives": arrives(time.time()),
        }
    )
)
