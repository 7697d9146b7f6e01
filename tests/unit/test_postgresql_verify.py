# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgresql_verify: the real main(), and servers behind psycopg2.connect that are made up."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest
from ansible_collections.muster.platform.plugins.modules import postgresql_verify

Run = Callable[..., dict[str, Any]]
SECRET = "a very secret password"


class Server:
    """What one endpoint leads to."""

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        self.refusals = 0  # logins that fail before one succeeds
        self.read_only = False
        self.forgets = False
        self.written: str | None = None
        self.logins: list[dict[str, Any]] = []
        self.open = 0


class Connection:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.answer: tuple[Any, ...] | None = None
        server.open += 1

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_arguments: Any) -> None:
        pass

    def cursor(self) -> Connection:
        return self

    def close(self) -> None:
        self.server.open -= 1

    def execute(self, statement: str) -> None:
        if statement.startswith(("CREATE", "INSERT")) and self.server.read_only:
            raise psycopg2.errors.ReadOnlySqlTransaction(
                "cannot execute INSERT in a read-only transaction\nLINE 1: more\n"
            )
        if statement.startswith("INSERT"):
            self.server.written = f"write {id(self)}"
            self.answer = (self.server.written,)
        elif statement.startswith("SELECT"):
            kept = None if self.server.forgets else self.server.written
            self.answer = (kept, "192.0.2.14", self.server.cluster)

    def fetchone(self) -> tuple[Any, ...] | None:
        return self.answer


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Server]:
    found = {"north-3": Server("muster-south"), "south-3": Server("muster-south")}

    def connect(**given: Any) -> Connection:
        server = found[given["host"]]
        server.logins.append(given)
        if server.refusals:
            server.refusals -= 1
            raise psycopg2.OperationalError("connection refused\n\tIs the server running?")
        return Connection(server)

    monkeypatch.setattr(psycopg2, "connect", connect)
    return found


def arguments(**more: Any) -> dict[str, Any]:
    return {
        "endpoints": [{"host": "north-3", "port": 5432}, {"host": "south-3", "port": 5433}],
        "database": "muster",
        "user": "muster_canary",
        "password": SECRET,
        "ca_certificate": "/etc/ca.crt",
        "cluster": "muster-south",
        "timeout": 0,
        **more,
    }


def test_a_write_is_read_back_through_every_endpoint(servers: dict[str, Server], run_module: Run) -> None:
    answer = run_module(postgresql_verify, arguments())
    assert answer["changed"] is False
    assert [found["endpoint"] for found in answer["endpoints"]] == ["north-3:5432", "south-3:5433"]
    for found in answer["endpoints"]:
        assert (found["server"], found["cluster"]) == ("192.0.2.14", "muster-south")
        assert found["milliseconds"] >= 0
    for server in servers.values():
        (login,) = server.logins
        assert (login["sslmode"], login["sslrootcert"]) == ("verify-full", "/etc/ca.crt")
        assert (login["user"], login["dbname"]) == ("muster_canary", "muster")
        assert server.open == 0
    assert SECRET not in str(answer)


def test_an_endpoint_may_need_a_moment(servers: dict[str, Server], run_module: Run) -> None:
    servers["south-3"].refusals = 2
    assert len(run_module(postgresql_verify, arguments(timeout=10))["endpoints"]) == 2
    assert len(servers["south-3"].logins) == 3


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"refusals": 9}, "connection refused"),
        ({"read_only": True}, "cannot execute INSERT in a read-only transaction"),
        ({"forgets": True}, "what was written was not read back"),
        ({"cluster": "muster-north"}, "it leads to muster-north, not to muster-south"),
    ],
)
def test_an_endpoint_that_does_not_lead_to_the_primary_is_told(
    servers: dict[str, Server], run_module: Run, wrong: dict[str, Any], reason: str
) -> None:
    for name, value in wrong.items():
        setattr(servers["south-3"], name, value)
    answer = run_module(postgresql_verify, arguments())
    assert answer["failed"] is True
    assert answer["msg"] == f"waited 0 s for a write through south-3:5433: {reason}"
    assert servers["south-3"].open == 0


def test_any_region_will_do_when_none_is_named(servers: dict[str, Server], run_module: Run) -> None:
    servers["south-3"].cluster = "muster-north"
    answer = run_module(postgresql_verify, arguments(cluster=None))
    assert [found["cluster"] for found in answer["endpoints"]] == ["muster-south", "muster-north"]


def test_a_missing_client_library_is_told(run_module: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    answer = run_module(postgresql_verify, arguments())
    assert answer["msg"].endswith("python3-psycopg2 is not installed")


def test_check_mode_writes_nothing(servers: dict[str, Server], run_module: Run) -> None:
    answer = run_module(postgresql_verify, arguments(), check=True)
    assert answer["skipped"] is True
    assert [server.logins for server in servers.values()] == [[], []]
