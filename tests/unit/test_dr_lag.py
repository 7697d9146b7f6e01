# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""dr_lag: a real ledger on disk, and a PostgreSQL that plays the target's hosts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.muster.platform.plugins.module_utils import _ledger, _survivors
from ansible_collections.muster.platform.plugins.modules import dr_lag

Module = Callable[..., dict[str, Any]]


class Begun:
    """When the test began: the module looks at the clock, and the rows must be as old as they say."""

    at = datetime.now(UTC)


@pytest.fixture(autouse=True)
def _now() -> None:
    Begun.at = datetime.now(UTC)


def at(seconds: float) -> str:
    return (Begun.at - timedelta(seconds=seconds)).strftime(_ledger.FORMAT)


def row(sequence: int, ago: float, answer: str | None = "n1 north 3", endpoint: str = "north") -> str:
    """A row sent that long ago; without an answer it was not acknowledged."""
    if answer is None:
        return f"postgresql,{sequence},{at(ago)},,{endpoint},none error=refused after=0.001000"
    host, region, timeline = answer.split()
    acknowledged = f"ok host={host} region={region} timeline={timeline}"
    return f"postgresql,{sequence},{at(ago)},{at(ago)},{endpoint},{acknowledged}"


def attempts(first: int, begin: float, end: float, answer: str | None = "n1 north 3") -> list[str]:
    """One attempt a second, from that long ago until that long ago, by both endpoints in turn."""
    return [
        row(first + n, begin - n, answer, "south" if n % 2 else "north") for n in range(int(begin - end) + 1)
    ]


class World:
    """The ledger, and what each host of the target is."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.held: list[int] = []
        self.down: set[str] = set()
        self.standby = True
        self.asked: list[dict[str, Any]] = []
        self.replays = 1  # looks until everything is replayed
        self.half = 10**9  # replay goes no further
        self.forbidden = False

    def write(self, *rows: str, name: str = "ledger.csv") -> None:
        (self.directory / name).write_text("".join(f"{line}\n" for line in [_ledger.COLUMNS, *rows]))

    def connect(self, **options: Any) -> Connection:
        self.asked.append(options)
        assert options["sslmode"] == "verify-full"
        assert "default_transaction_read_only=on" in options["options"]
        if options["host"] in self.down:
            raise psycopg2.OperationalError(f"no route, and says {options['password']}\nmore")
        return Connection(self)


class Denied(psycopg2.Error):
    pgcode = "42501"


class Connection:
    def __init__(self, world: World) -> None:
        self.world = world
        self.autocommit = False
        self.rows: list[tuple[Any, ...]] = []

    def cursor(self) -> Connection:
        return self

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def execute(self, sql: str, values: tuple[Any, ...] | None = None) -> None:
        world = self.world
        if sql == dr_lag.IN_RECOVERY:
            self.rows = [(world.standby,)]
        elif sql == dr_lag.PRIMARY:
            self.rows = [(4,)]
        elif sql == dr_lag.POSITIONS:
            self.rows = [
                ("0/5000148", f"0/{min(world.replays, world.half):X}" if world.replays > 0 else "0/5000148")
            ]
        elif sql == dr_lag.REPLAYED:
            assert values == ("0/5000148",)
            world.replays -= 1
            self.rows = [(world.replays <= 0,)]
        elif sql == dr_lag.CONTROL:
            if world.forbidden:
                raise Denied("permission denied")
            self.rows = [(3,)]
        else:
            assert sql == _survivors.HELD
            assert values
            self.rows = [(number,) for number in world.held if values[0] <= number <= values[1]]

    def fetchone(self) -> tuple[Any, ...] | None:
        return self.rows[0] if self.rows else None

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.rows)

    def close(self) -> None:
        pass


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The old region acknowledged from 40 s ago to 10 s ago, and was lost then."""
    store = {
        "name": "postgresql",
        "type": "postgresql",
        "database": "muster",
        "user": "muster_canary",
        "password": "very-secret",
        "ca": "/etc/muster/ca.crt",
        "endpoints": [
            {"name": "north", "host": "n3", "port": 5432},
            {"name": "south", "host": "s3", "port": 5432},
        ],
    }
    config = {"interval_ms": 1000, "directory": str(tmp_path), "stores": [store]}
    (tmp_path / "canary.json").write_text(json.dumps(config))
    played = World(tmp_path)
    played.write(*attempts(100, 40, 10), *attempts(131, 9, 0, None))
    played.held = [*range(50, 127)]
    monkeypatch.setattr(_survivors.psycopg2, "connect", played.connect)
    return played


@pytest.fixture
def measure(world: World, run_module: Callable[..., dict[str, Any]]) -> Module:
    def run(**parameters: Any) -> dict[str, Any]:
        given = {
            "store": "postgresql",
            "target_hosts": [{"host": "s1", "address": "10.0.0.1", "port": 5433}, {"host": "s2"}],
            "config": str(world.directory / "canary.json"),
            **parameters,
        }
        result = run_module(dr_lag, given, check=True)
        assert "very-secret" not in json.dumps(result)
        return result

    return run


def unknown(result: dict[str, Any]) -> str:
    assert "msg" not in result
    assert (result["lag_writes"], result["lag_seconds"], result["silence_seconds"]) == (None, None, None)
    return str(result["reason"])


def test_what_the_standby_lacks(world: World, measure: Module) -> None:
    result = measure()
    assert result.pop("read_at") >= at(0)
    result.pop("invocation", None)
    assert result == {
        "changed": False,
        "store": "postgresql",
        "last_acknowledged_at": at(10),
        "last_acknowledged_sequence": 130,
        "last_timeline": 3,
        "last_region": "north",
        "last_host": "n1",
        "held_sequence": 126,
        "held_at": at(14),
        "held_timeline": 3,
        "lag_writes": 4,
        "lost_before": 0,
        "lag_seconds": 4.0,
        "silence_seconds": 4.0,
        "answered_by": {
            "host": "s1",
            "in_recovery": True,
            "timeline": 3,
            "received_lsn": "0/5000148",
            "replayed_lsn": "0/5000148",
        },
        "timeline_of": "server",
        "reason": None,
    }
    (asked,) = world.asked
    assert (asked["host"], asked["hostaddr"], asked["port"]) == ("s1", "10.0.0.1", 5433)


def test_all_is_held(world: World, measure: Module) -> None:
    world.held = [*range(50, 131)]
    result = measure()
    assert (result["lag_writes"], result["lag_seconds"], result["silence_seconds"]) == (0, 0.0, 0.0)
    assert (result["held_sequence"], result["held_at"], result["reason"]) == (130, at(10), None)


def test_a_live_primary_that_is_ahead_of_the_look(world: World, measure: Module) -> None:
    """The standby holds what was acknowledged after the ledger was read."""
    world.write(*attempts(100, 40, 0))
    world.held = [*range(50, 200)]
    assert measure()["lag_writes"] == 0


def test_a_silent_receiver_is_seen_by_what_did_not_come(world: World, measure: Module) -> None:
    """Trap 1: the receiver says that it streams, on the right timeline, for 23 minutes."""
    world.write(*attempts(1000, 1500, 0))
    world.held = [*range(1000, 1121)]
    result = measure()
    assert result["answered_by"]["timeline"] == result["last_timeline"] == 3
    assert (result["lag_writes"], result["silence_seconds"]) == (1380, 1380.0)


def test_writes_that_were_not_acknowledged_are_not_lacking(world: World, measure: Module) -> None:
    world.write(
        *attempts(100, 40, 10), row(131, 9.5, None), row(132, 9.5, None, "south"), *attempts(140, 9, 0)
    )
    world.held = [*range(100, 131), *range(140, 150)]
    assert measure()["lag_writes"] == 0


def test_a_hole_counts_from_the_last_write_before_it(world: World, measure: Module) -> None:
    world.held = [number for number in range(100, 131) if number != 120]
    result = measure()
    assert (result["held_sequence"], result["silence_seconds"]) == (130, 0.0)
    assert (result["lag_writes"], result["lag_seconds"]) == (1, 11.0)


def test_what_an_earlier_failover_lost_is_not_counted_again(world: World, measure: Module) -> None:
    """Numbers 120 to 130 of timeline 3 were lost when timeline 4 began: nobody follows them."""
    world.write(*attempts(100, 40, 10), *attempts(140, 9, 0, "s1 south 4"))
    world.held = [*range(100, 120), *range(140, 148)]
    result = measure()
    assert (result["lag_writes"], result["lost_before"], result["lag_seconds"]) == (2, 11, 2.0)
    assert (result["held_timeline"], result["last_timeline"], result["last_host"]) == (4, 4, "s1")
    # A standby that has not come to timeline 4 lacks all of it, and the end of its own.
    world.held = [*range(100, 120)]
    result = measure()
    assert (result["lag_writes"], result["lost_before"], result["held_timeline"]) == (21, 0, 3)
    assert result["last_timeline"] == 4


def test_a_region_that_was_lost_hours_ago(world: World, measure: Module) -> None:
    world.write(*attempts(1, 3 * 3600 + 30, 3 * 3600), *attempts(1000, 3 * 3600 - 1, 0, None))
    world.held = [*range(1, 30)]
    result = measure(window_seconds=60)
    assert (result["lag_writes"], result["lag_seconds"], result["reason"]) == (2, 2.0, None)


def test_the_window_reaches_back_from_the_last_write(world: World, measure: Module) -> None:
    """The last write is at the edge of the first look, and what is held lies before that."""
    world.write(*attempts(1, 100, 58), *attempts(1000, 57, 0, None))
    world.held = [*range(1, 30)]
    result = measure(window_seconds=60)
    assert (result["held_sequence"], result["lag_writes"], result["lag_seconds"]) == (29, 14, 14.0)


def test_a_primary_answers_as_well(world: World, measure: Module) -> None:
    world.standby = False
    result = measure()
    assert result["answered_by"] == {
        "host": "s1",
        "in_recovery": False,
        "timeline": 4,
        "received_lsn": None,
        "replayed_lsn": None,
    }
    assert result["lag_writes"] == 4


def test_what_was_received_is_replayed_first(world: World, measure: Module) -> None:
    world.replays = 3
    measure()
    assert world.replays == 0
    world.replays = 10**6
    assert measure(timeout=0.1)["lag_writes"] == 4


def test_half_a_record_is_not_waited_for(world: World, measure: Module) -> None:
    world.replays, world.half = 10**6, 5
    began = time.monotonic()
    assert measure(timeout=60)["lag_writes"] == 4
    assert time.monotonic() - began < 10


def test_what_may_not_be_read_is_null(world: World, measure: Module) -> None:
    world.forbidden = True
    result = measure()
    assert result["answered_by"]["timeline"] is None
    assert result["lag_writes"] == 4


def test_the_next_host_answers(world: World, measure: Module) -> None:
    world.down = {"s1"}
    assert measure()["answered_by"]["host"] == "s2"
    assert "hostaddr" not in world.asked[1]
    assert world.asked[1]["port"] == 5432


# --- what another has read ---------------------------------------------------------------------


def of_type(world: World, kind: str) -> None:
    config = json.loads((world.directory / "canary.json").read_text())
    config["stores"][0]["type"] = kind
    (world.directory / "canary.json").write_text(json.dumps(config))


def given(*ranges: Any, **more: Any) -> dict[str, Any]:
    return {"target_hosts": None, "held": {"host": "s2", "ranges": list(ranges)}, **more}


@pytest.mark.parametrize("kind", ["rabbitmq", "object_storage", "valkey"])
def test_what_was_read_elsewhere_is_counted_and_nobody_is_asked(
    world: World, measure: Module, kind: str
) -> None:
    of_type(world, kind)
    result = measure(**given([1, 110], [111, 120], [122, 126]))
    assert (result["lag_writes"], result["held_sequence"], result["held_timeline"]) == (5, 126, 3)
    assert (result["lag_seconds"], result["silence_seconds"]) == (10.0, 4.0)
    assert (result["timeline_of"], result["reason"]) == ("ledger", None)
    assert result["answered_by"] == {
        "host": "s2",
        "in_recovery": None,
        "timeline": None,
        "received_lsn": None,
        "replayed_lsn": None,
    }
    assert world.asked == []


def test_what_was_acknowledged_since_it_was_read_counts_as_lacking(world: World, measure: Module) -> None:
    world.write(*attempts(100, 40, 0))
    assert measure(**given([100, 135]))["lag_writes"] == 5


def test_a_postgresql_may_be_read_elsewhere_too(world: World, measure: Module) -> None:
    result = measure(**given([100, 130]))
    assert (result["lag_writes"], result["timeline_of"], world.asked) == (0, "server", [])


def test_a_copy_that_holds_nothing_is_not_known(world: World, measure: Module) -> None:
    of_type(world, "rabbitmq")
    assert "holds none of what was acknowledged" in unknown(measure(**given()))
    # Huge, and quick: only what was acknowledged is looked at.
    assert "holds none of what was acknowledged" in unknown(measure(**given([131, 10**15])))


# --- unknown ---------------------------------------------------------------------------------


def test_no_host_answers(world: World, measure: Module) -> None:
    world.down = {"s1", "s2"}
    result = measure()
    assert unknown(result) == (
        "no host of the target answers: s1: no route, and says ***; s2: no route, and says ***"
    )
    assert result["answered_by"] is None
    assert (result["last_acknowledged_sequence"], result["last_timeline"]) == (130, 3)


def test_nothing_of_that_time_is_held(world: World, measure: Module) -> None:
    world.held = [1, 2, 3]
    assert "holds none of what was acknowledged in that time" in unknown(measure())


def test_nothing_is_held_before_the_first_that_is_lacking(world: World, measure: Module) -> None:
    world.held = [120]
    assert "before the first write it lacks" in unknown(measure())


def test_nothing_was_acknowledged(world: World, measure: Module) -> None:
    world.write(*attempts(100, 40, 0, None))
    assert "no acknowledged write to postgresql of the last 86400 s" in unknown(measure())
    assert world.asked == []


def test_no_ledger(world: World, measure: Module) -> None:
    (world.directory / "ledger.csv").unlink()
    assert f"there is no ledger in {world.directory}" in unknown(measure())


def test_no_canary(world: World, measure: Module) -> None:
    assert "has the role canary run on this host?" in unknown(measure(config="/nonexistent"))


def test_a_canary_that_does_not_run_proves_nothing(world: World, measure: Module) -> None:
    """All that it wrote is held, but nobody looked since."""
    world.write(*attempts(100, 400, 300))
    world.held = [*range(100, 201)]
    reason = unknown(measure())
    assert reason.startswith("the canary's ledger has no attempt through ")
    assert at(300) in reason


def test_a_pause_since_the_newest_write_that_is_held(world: World, measure: Module) -> None:
    world.write(*attempts(100, 400, 300), *attempts(300, 100, 0, None))
    world.held = [*range(100, 201)]
    assert f"to {at(100)}" in unknown(measure())
    # One before it is none: what came later came over what came before.
    world.write(*attempts(100, 400, 300), *attempts(300, 100, 0))
    world.held = [*range(100, 201), *range(300, 399)]
    assert measure()["lag_writes"] == 2


def test_a_pause_of_one_endpoint(world: World, measure: Module) -> None:
    rows = [line for line in attempts(131, 9, 0, None) if ",south," not in line]
    world.write(*attempts(100, 40, 10), *rows)
    assert "no attempt through south" in unknown(measure())


def test_a_row_that_cannot_be_read(world: World, measure: Module) -> None:
    world.write(*attempts(100, 40, 10), "postgresql,1x", *attempts(131, 9, 0, None))
    assert "1 row of the ledger cannot be read: postgresql,1x" in unknown(measure())


def test_rows_of_other_stores_are_left_out(world: World, measure: Module) -> None:
    other = [line.replace("postgresql", "valkey") for line in attempts(900, 9, 0)]
    world.write(*attempts(100, 40, 10), *other, *attempts(131, 9, 0, None))
    assert measure()["last_acknowledged_sequence"] == 130


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"store": "valkey"}, "the canary has no store 'valkey'; it has: postgresql"),
        ({"target_hosts": []}, "target_hosts is empty"),
        ({"window_seconds": 0}, "window_seconds is 0: it must be a number of seconds above 0"),
        ({"timeout": -1}, "timeout is -1"),
        ({"target_hosts": [{"port": 1}]}, "host"),
        ({"target_hosts": None}, "neither target_hosts nor held is given"),
        ({"held": {"host": "s2", "ranges": []}}, "target_hosts and held are both given"),
        ({"target_hosts": None, "held": {"ranges": []}}, "host"),
        *(
            (given([1, 2], pair), f"held.ranges has {pair!r}: each range is a list of its first and")
            for pair in (
                [2, 1],
                [-1, 2],
                [1],
                [1, 2, 3],
                ["1", "2"],
                [1, None],
                [1.0, 2.0],
                [True, 2],
                7,
                "1-2",
            )
        ),
    ],
)
def test_bad_input_is_told(parameters: dict[str, Any], message: str, measure: Module) -> None:
    assert message in measure(**parameters)["msg"]
