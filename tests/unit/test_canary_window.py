# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reading the canary's ledger on its host: canary_window and canary_info, with a PostgreSQL that plays along."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.muster.platform.plugins.module_utils import _ledger, _survivors
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._ranges import to_ranges
from ansible_collections.muster.platform.plugins.modules import canary_info, canary_window

NOW = datetime.now(UTC).replace(microsecond=0)
Module = Callable[..., dict[str, Any]]


def at(seconds: float) -> str:
    """A time that many seconds before now."""
    return (NOW - timedelta(seconds=seconds)).strftime(_ledger.FORMAT)


def row(sequence: int, ago: float, endpoint: str = "north", acknowledged: bool = True) -> str:
    if not acknowledged:
        return f"postgresql,{sequence},{at(ago)},,{endpoint},none error=refused after=0.001000"
    answer = "ok host=north-1 region=north timeline=3"
    return f"postgresql,{sequence},{at(ago)},{at(ago)},{endpoint},{answer}"


def write(path: Path, *rows: str) -> None:
    text = "".join(f"{line}\n" for line in [_ledger.COLUMNS, *rows])
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A canary's directory with its configuration beside it, and a ledger of 40 s."""
    store = {
        "name": "postgresql",
        "type": "postgresql",
        "database": "muster",
        "user": "muster_canary",
        "password": "very-secret",
        "ca": "/etc/muster/ca.crt",
        "endpoints": [
            {"name": "north", "host": "north-3", "port": 5432},
            {"name": "south", "host": "south-3", "port": 5432},
        ],
    }
    config = {
        "interval_ms": 250,
        "directory": str(tmp_path),
        "hosts": {"10.0.0.1": "north-1", "10.0.0.2": "south-1"},
        "regions": {"north": ["north-1"], "south": ["south-1"]},
        "stores": [store],
    }
    (tmp_path / "canary.json").write_text(json.dumps(config))
    write(
        tmp_path / "ledger.csv",
        *(row(100 + n, 40 - n, "north" if n % 2 else "south") for n in range(41)),
    )
    return tmp_path


class Server:
    """Plays the endpoints: what each leads to."""

    def __init__(self) -> None:
        self.addresses: dict[str, str | None] = {"north-3": "10.0.0.1", "south-3": "10.0.0.1"}
        self.standby = False
        self.held: list[int] = [*range(90, 120), 122, 125, 126]
        self.asked: list[str] = []

    def connect(self, **options: Any) -> Connection:
        self.asked.append(options["host"])
        assert options["sslmode"] == "verify-full"
        address = self.addresses[options["host"]]
        if address is None:
            raise psycopg2.OperationalError(f"refused, and says {options['password']}\nmore")
        return Connection(self, address)


class Connection:
    def __init__(self, server: Server, address: str) -> None:
        self.server, self.address = server, address
        self.autocommit = False
        self.rows: list[tuple[Any, ...]] = []

    def cursor(self) -> Connection:
        return self

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def execute(self, sql: str, values: tuple[int, int] | None = None) -> None:
        if "is_in_recovery" in sql:
            self.rows = [(self.server.standby, self.address)]
        elif "walfile" in sql:
            self.rows = [("00000003", "0/5000148")]
        else:
            assert values
            self.rows = [(number,) for number in self.server.held if values[0] <= number <= values[1]]

    def fetchone(self) -> tuple[Any, ...]:
        return self.rows[0]

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.rows)

    def close(self) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    played = Server()
    monkeypatch.setattr(_survivors.psycopg2, "connect", played.connect)
    return played


def run_main(main: Callable[[], None], parameters: dict[str, Any], capsys: Any) -> dict[str, Any]:
    with patch_module_args(parameters), pytest.raises(SystemExit):
        main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert "very-secret" not in json.dumps(result)
    return result


@pytest.fixture
def window(directory: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> Module:
    def run(**parameters: Any) -> dict[str, Any]:
        given = {"config": str(directory / "canary.json"), "timeout": 0, **parameters}
        return run_main(canary_window.main, given, capsys)

    return run


def rows_of(result: dict[str, Any]) -> list[str]:
    lines = gzip.decompress(base64.b64decode(result["ledger"])).decode().splitlines()
    assert lines[0] == _ledger.COLUMNS
    return lines[1:]


# --- canary_window ---------------------------------------------------------------------------


def test_the_rows_of_the_time_and_what_survived(window: Module) -> None:
    result = window(**{"from": at(30), "to": at(10)})
    assert [line.split(",")[1] for line in rows_of(result)] == [str(n) for n in range(110, 131)]
    assert (result["rows"], result["complete"], result["interval_ms"]) == (21, True, 250)
    store = result["stores"]["postgresql"]
    assert store["endpoints"] == ["north", "south"]
    assert store["missing"] == ""
    surviving = store["surviving"]
    assert surviving.pop("read_at").endswith("Z")
    assert surviving == {
        "sequences": "110-119,122,125-126",
        "duplicates": 0,
        "endpoint": "north",
        "host": "north-1",
        "region": "north",
        "timeline": 3,
        "position": "0/5000148",
        "error": None,
    }


def test_rows_are_found_across_files_and_each_once(directory: Path, window: Module) -> None:
    hour = (NOW - timedelta(seconds=40)).strftime("%Y%m%dT%H")
    long_ago = (NOW - timedelta(hours=5)).strftime("%Y%m%dT%H")
    # Set aside and packed while we look: both files hold the same rows.
    write(directory / f"ledger-{hour}.csv.gz", *(row(n, 40 - (n - 100)) for n in range(60, 101)))
    write(directory / f"ledger-{hour}.csv", *(row(n, 40 - (n - 100)) for n in range(60, 101)))
    write(directory / f"ledger-{long_ago}.csv.gz", row(1, 5 * 3600))
    result = window(**{"from": at(60), "to": at(10)})
    assert [int(line.split(",")[1]) for line in rows_of(result)] == [
        *range(80, 101),
        *range(100, 131),
    ]


def test_a_number_that_is_missing_is_told(directory: Path, window: Module) -> None:
    write(
        directory / "ledger.csv",
        *(
            row(n, 40 - (n - 100), "north" if n % 2 else "south")
            for n in range(100, 141)
            if n not in (115, 120, 121)
        ),
    )
    result = window(**{"from": at(30), "to": at(10)})
    assert result["stores"]["postgresql"]["missing"] == "115,120-121"


def test_a_neighbour_sent_just_outside_is_not_missing(directory: Path, window: Module) -> None:
    rows = [row(n, 40 - (n - 100), "north" if n % 2 else "south") for n in range(100, 141)]
    # Number 111 was taken before 112, but connecting took it out of the window.
    rows[11] = row(111, 30.5)
    write(directory / "ledger.csv", *rows)
    result = window(**{"from": at(30), "to": at(10)})
    assert "111" not in [line.split(",")[1] for line in rows_of(result)]
    assert result["stores"]["postgresql"]["missing"] == ""


def test_open_attempts_are_waited_for(directory: Path, window: Module) -> None:
    write(directory / "ledger.csv", row(1, 5, "north"), row(2, 5, "south"), row(3, 1, "north"))
    assert window(**{"from": at(10), "to": at(2)})["complete"] is False
    write(
        directory / "ledger.csv",
        row(1, 5, "north"),
        row(2, 5, "south"),
        row(3, 1, "north"),
        row(4, 1, "south"),
    )
    assert window(**{"from": at(10), "to": at(2)})["complete"] is True


def test_a_row_that_is_being_written_is_left_out(directory: Path, window: Module) -> None:
    with (directory / "ledger.csv").open("a") as stream:
        stream.write(row(999, 15)[:-10])
    assert "999" not in [line.split(",")[1] for line in rows_of(window(**{"from": at(30), "to": at(10)}))]


def test_one_dead_endpoint_is_enough_to_ask_through(server: Server, window: Module) -> None:
    server.addresses["north-3"] = None
    surviving = window(**{"from": at(30), "to": at(10)})["stores"]["postgresql"]["surviving"]
    assert surviving["endpoint"] == "south"
    assert surviving["sequences"] == "110-119,122,125-126"


def test_no_endpoint_leaves_what_survived_unknown(server: Server, window: Module) -> None:
    server.addresses = {"north-3": None, "south-3": None}
    surviving = window(**{"from": at(30), "to": at(10)})["stores"]["postgresql"]["surviving"]
    assert surviving["sequences"] is None
    assert (
        "no endpoint leads to a server that takes writes: north: refused, and says ***" in surviving["error"]
    )


def test_a_standby_is_no_surviving_primary(server: Server, window: Module) -> None:
    server.standby = True
    surviving = window(**{"from": at(30), "to": at(10)})["stores"]["postgresql"]["surviving"]
    assert surviving["sequences"] is None
    assert "north-1 is a standby" in surviving["error"]


def test_two_primaries_leave_what_survived_unknown(server: Server, window: Module) -> None:
    server.addresses["south-3"] = "10.0.0.2"
    surviving = window(**{"from": at(30), "to": at(10)})["stores"]["postgresql"]["surviving"]
    assert surviving == {"sequences": None, "error": "more than one host takes writes: north-1, south-1"}


def test_an_empty_time_asks_nobody(server: Server, window: Module) -> None:
    result = window(**{"from": at(3000), "to": at(2000)})
    assert result["rows"] == 0
    assert "holds no row of postgresql" in result["stores"]["postgresql"]["surviving"]["error"]
    assert server.asked == []


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"from": "yesterday"}, "from is not a time in ISO 8601: yesterday"),
        ({"from": "2026-11-21T10:00:00"}, "from must name its time zone"),
        ({"from": at(-500)}, "from must be before to, and to not in the future"),
        ({"from": at(30), "to": at(40)}, "from must be before to"),
        ({"from": at(30), "max_rows": 3}, "rows are more than max_rows (3) allows"),
        ({"from": at(30), "config": "/nonexistent"}, "has the role canary run on this host?"),
    ],
)
def test_bad_input_is_told(parameters: dict[str, Any], message: str, window: Module) -> None:
    assert message in window(**parameters)["msg"]


def test_no_ledger_is_told(directory: Path, window: Module) -> None:
    (directory / "ledger.csv").unlink()
    assert f"there is no ledger in {directory}" in window(**{"from": at(30)})["msg"]


def test_ranges() -> None:
    assert to_ranges([1, 2, 3, 5, 8, 9]) == "1-3,5,8-9"
    assert to_ranges([]) == ""


def test_a_broken_configuration_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("very-secret")
    with pytest.raises(MusterError, match="is not valid JSON") as error:
        _ledger.read_canary_config(str(tmp_path / "x"))
    assert "very-secret" not in str(error.value)


# --- canary_info -----------------------------------------------------------------------------


@pytest.fixture
def info(directory: Path, capsys: pytest.CaptureFixture[str]) -> Module:
    def run(*rows: str) -> dict[str, Any]:
        write(directory / "ledger.csv", *rows)
        result = run_main(canary_info.main, {"config": str(directory / "canary.json")}, capsys)
        status: dict[str, Any] = result["canary_status"]
        return status

    return run


def recent(ago: float) -> float:
    """Seconds before the real now, for tests that cannot hold the clock."""
    return (NOW - datetime.now(UTC)).total_seconds() + ago


def test_a_canary_that_is_answered_is_healthy(info: Module) -> None:
    status = info(row(1, recent(0.6), "north"), row(2, recent(0.5), "south", acknowledged=False))
    assert status["healthy"]
    store = status["stores"]["postgresql"]
    assert store["acknowledging"]
    assert store["endpoints"]["north"]["answer"] == "ok host=north-1 region=north timeline=3"
    assert store["endpoints"]["south"]["last_acknowledged_at"] is None


def test_a_store_that_acknowledges_nothing_is_told(info: Module) -> None:
    status = info(
        row(1, recent(9), "north"),
        row(2, recent(0.5), "north", acknowledged=False),
        row(3, recent(0.4), "south", acknowledged=False),
    )
    assert status["reasons"] == ["postgresql acknowledges no write (none error=refused)"]
    assert not status["stores"]["postgresql"]["acknowledging"]


def test_a_canary_that_does_not_run_is_told(info: Module) -> None:
    status = info(row(1, recent(90), "north"), row(2, recent(90), "south"))
    assert status["reasons"] == ["the canary does not write to postgresql through north, south"]
    assert info()["reasons"] == ["the canary does not write to postgresql through north, south"]
