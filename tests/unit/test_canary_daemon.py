# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The canary's daemon: its ledger, its schedule, and what it says of errors."""

from __future__ import annotations

import gzip
import importlib.util
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2
import pytest

DAEMON = Path(__file__).resolve().parents[2] / "roles/canary/files/muster_canary.py"
spec = importlib.util.spec_from_file_location("muster_canary", DAEMON)
assert spec
assert spec.loader
canary: Any = importlib.util.module_from_spec(spec)
sys.modules["muster_canary"] = canary
spec.loader.exec_module(canary)

HOUR = 1_795_255_200.0  # 2026-11-21T10:00:00Z
HEADER = canary.COLUMNS


def row(sequence: int, when: float = HOUR, store: str = "postgresql") -> tuple[str, str]:
    sent = canary.stamp(when)
    return f"{store},{sequence},{sent},{sent},north,ok host=north-1 region=north timeline=3", sent


def write_config(path: Path, **changes: Any) -> Path:
    config = {
        "interval_ms": 20,
        "ledger_days": 30,
        "directory": str(path.parent),
        "hosts": {"10.0.0.1": "north-1"},
        "regions": {"north": ["north-1", "north-2"]},
        "stores": [
            {
                "name": "postgresql",
                "type": "postgresql",
                "database": "muster",
                "user": "muster_canary",
                "password": "very-secret",
                "ca": "/nonexistent/ca.crt",
                "endpoints": [
                    {"name": "north", "host": "127.0.0.1", "port": 1},
                    {"name": "south", "host": "127.0.0.1", "port": 1},
                ],
            }
        ],
    } | changes
    path.write_text(json.dumps(config))
    return path


# --- the ledger ------------------------------------------------------------------------


def test_a_new_ledger_begins_with_its_header(tmp_path: Path) -> None:
    ledger = canary.Ledger(tmp_path, 30)
    ledger.append(*row(1))
    assert (tmp_path / "ledger.csv").read_text().splitlines() == [HEADER, row(1)[0]]


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        (f"{HEADER}\n{row(1)[0]}\npostgresql,2,2026-", f"{HEADER}\n{row(1)[0]}\n"),
        (f"{HEADER}\n{row(1)[0]}\n" + "\0" * 5000, f"{HEADER}\n{row(1)[0]}\n"),
        (f"{HEADER}\n{row(1)[0]}\n", f"{HEADER}\n{row(1)[0]}\n"),
        ("store,sequ", f"{HEADER}\n"),
    ],
)
def test_a_torn_last_line_is_dropped(left: str, kept: str, tmp_path: Path) -> None:
    (tmp_path / "ledger.csv").write_text(left)
    canary.Ledger(tmp_path, 30)
    assert (tmp_path / "ledger.csv").read_text() == kept


def test_a_row_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = canary.Ledger(tmp_path, 30)
    written: list[bytes] = []

    def write(_descriptor: int, line: bytes) -> int:
        written.append(line)
        return len(line)

    monkeypatch.setattr(os, "write", write)
    ledger.append(*row(1))
    assert written == [f"{row(1)[0]}\n".encode()]


def test_a_full_disk_leaves_no_half_line_and_does_not_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = canary.Ledger(tmp_path, 30)
    whole = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: whole(descriptor, line[:7]))
    ledger.append(*row(1))
    ledger.append(*row(2))
    monkeypatch.setattr(os, "write", whole)
    ledger.append(*row(3))
    assert (tmp_path / "ledger.csv").read_text().splitlines() == [HEADER, row(3)[0]]
    said = capsys.readouterr().err
    assert said.count("no space left on device") == 1
    assert "writing again" in said


def test_a_finished_hour_is_set_aside_packed_and_expired(tmp_path: Path) -> None:
    ledger = canary.Ledger(tmp_path, 1)
    ledger.append(*row(1, HOUR + 10))
    ledger.rotate(HOUR + 3599)
    assert ledger.finished() == []
    ledger.rotate(HOUR + 3601)
    ledger.append(*row(2, HOUR + 3601))
    assert [path.name for path in ledger.finished()] == ["ledger-20261121T10.csv"]
    ledger.compress()
    packed = tmp_path / "ledger-20261121T10.csv.gz"
    assert gzip.decompress(packed.read_bytes()).decode().splitlines() == [HEADER, row(1, HOUR + 10)[0]]
    assert ledger.finished() == [packed]
    ledger.expire(HOUR + 24 * 3600)
    assert ledger.finished() == [packed]
    ledger.expire(HOUR + 27 * 3600)
    assert ledger.finished() == []


def test_a_clock_that_is_set_back_never_overwrites(tmp_path: Path) -> None:
    ledger = canary.Ledger(tmp_path, 30)
    for sequence in (1, 2):
        ledger.append(*row(sequence, HOUR))
        ledger.rotate(HOUR + 3600)
    assert [path.name for path in sorted(ledger.finished())] == [
        "ledger-20261121T10-2.csv",
        "ledger-20261121T10.csv",
    ]


def test_a_restart_in_the_same_hour_goes_on_in_the_same_file(tmp_path: Path) -> None:
    canary.Ledger(tmp_path, 30).append(*row(1))
    again = canary.Ledger(tmp_path, 30)
    again.rotate(HOUR + 60)
    again.append(*row(2))
    assert len((tmp_path / "ledger.csv").read_text().splitlines()) == 3


def test_the_last_and_first_numbers_are_found_per_store(tmp_path: Path) -> None:
    ledger = canary.Ledger(tmp_path, 30)
    for sequence, store in [(7, "postgresql"), (9, "postgresql"), (8, "postgresql"), (3, "valkey")]:
        ledger.append(*row(sequence, HOUR, store))
    assert ledger.last_sequences() == {"postgresql": 9, "valkey": 3}
    ledger.rotate(HOUR + 3600)
    ledger.compress()
    assert ledger.last_sequences() == {"postgresql": 9, "valkey": 3}
    ledger.append(*row(20, HOUR + 3600))
    # A file that was just begun does not know every store yet.
    assert ledger.last_sequences() == {"postgresql": 20, "valkey": 3}
    assert ledger.first_sequence("postgresql") == 7
    assert ledger.first_sequence("kafka") is None


# --- the configuration -----------------------------------------------------------------


def test_the_regions_are_known_by_host(tmp_path: Path) -> None:
    config = canary.read_config(str(write_config(tmp_path / "canary.json")))
    assert config.regions == {"north-1": "north", "north-2": "north"}
    assert "very-secret" not in repr(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interval_ms": 1}, "interval_ms must be between 5 and 60000"),
        ({"ledger_days": 0}, "ledger_days must be at least 1"),
        ({"interval_ms": "often"}, "is not a valid configuration (ValueError)"),
        ({"hosts": {"10.0.0.1": "a,b"}}, "'a,b' cannot be a name in the ledger"),
        ({"stores": [{"name": "x"}]}, "type is missing"),
    ],
)
def test_a_wrong_configuration_is_told_in_one_sentence(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write_config(tmp_path / "canary.json", **changes)
    with pytest.raises(canary.ConfigError, match=re.escape(message)):
        canary.read_config(str(path))


def test_stores_and_endpoints_need_names_of_their_own(tmp_path: Path) -> None:
    path = write_config(tmp_path / "canary.json")
    config = json.loads(path.read_text())
    twice = {**config, "stores": config["stores"] * 2}
    path.write_text(json.dumps(twice))
    with pytest.raises(canary.ConfigError, match="two stores have the same name"):
        canary.read_config(str(path))
    config["stores"][0]["endpoints"][1]["name"] = "north"
    path.write_text(json.dumps(config))
    with pytest.raises(canary.ConfigError, match="each endpoint needs a name of its own"):
        canary.read_config(str(path))


def test_a_broken_configuration_is_not_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "canary.json"
    path.write_text('{"password": "very-secret"')
    monkeypatch.setattr(sys, "argv", ["muster_canary.py", "--config", str(path)])
    assert canary.main() == 1
    said = capsys.readouterr().err
    assert "is not a valid configuration" in said
    assert "very-secret" not in said


# --- what an error is called -----------------------------------------------------------


class ServerError(psycopg2.Error):
    def __init__(self, text: str, code: str | None = None) -> None:
        super().__init__(text)
        self.code = code

    @property
    def pgcode(self) -> str | None:
        return self.code


@pytest.mark.parametrize(
    ("text", "code", "expected"),
    [
        ("connection to server at north-3, port 5432 failed: Connection refused", None, "refused"),
        ("timeout expired", None, "timeout"),
        ('FATAL:  password authentication failed for user "x"', None, "authentication"),
        ("FATAL:  the database system is starting up", None, "unavailable"),
        ("FATAL:  terminating connection due to administrator command", None, "unavailable"),
        ("FATAL:  sorry, too many clients already", None, "full"),
        ("FATAL:  database does not exist", None, "rejected"),
        ("server closed the connection unexpectedly", None, "closed"),
        ("SSL error: certificate verify failed", None, "certificate"),
        ("No route to host", None, "unreachable"),
        ("something very-secret", None, "error"),
        ("cannot execute INSERT in a read-only transaction", "25006", "read-only sqlstate=25006"),
        ("terminating", "57P01", "unavailable sqlstate=57P01"),
        ("odd", "XX000", "error sqlstate=XX000"),
    ],
)
def test_an_error_is_a_short_class(text: str, code: str | None, expected: str) -> None:
    assert canary.classify(ServerError(text, code)) == expected


def test_the_answer_names_host_region_and_timeline(tmp_path: Path) -> None:
    config = canary.read_config(str(write_config(tmp_path / "canary.json")))
    store = canary.PostgresqlStore(config.stores[0], config, canary.Counter(0), canary.Stop())
    assert store.describe("10.0.0.1", "0000001A") == "host=north-1 region=north timeline=26"
    assert store.describe("10.0.0.9", "00000001") == "host=10.0.0.9 region=unknown timeline=1"
    assert store.describe(None, "00000001") == "host=unknown region=unknown timeline=1"


def test_a_remark_for_the_journal_hides_the_password(tmp_path: Path) -> None:
    config = canary.read_config(str(write_config(tmp_path / "canary.json")))
    store = canary.PostgresqlStore(config.stores[0], config, canary.Counter(0), canary.Stop())
    store.remark("north", ServerError("bad very-secret\nsecond line"))
    assert store.remarks == {"north": "bad ***"}


# --- writing on schedule -----------------------------------------------------------------


class FakeSession:
    """Answers as it is told: seconds to take, or an exception to raise."""

    def __init__(self, behave: Callable[[int], float]) -> None:
        self.behave = behave
        self.closed = False

    def write(self, sequence: int, _deadline: float, sending: Callable[[], None]) -> str:
        sending()
        time.sleep(self.behave(sequence))
        return "host=north-1 region=north timeline=3"

    def close(self) -> None:
        self.closed = True


class FakeStore:
    def __init__(self, behave: Callable[[int], float]) -> None:
        self.config = canary.StoreConfig("postgresql", "postgresql", [], "d", "u", "p")
        self.counter = canary.Counter(0)
        self.stop = canary.Stop()
        self.remarks: dict[str, str] = {}
        self.behave = behave

    def session(self, _route: Any) -> FakeSession:
        return FakeSession(self.behave)


def run_writer(
    tmp_path: Path, behave: Callable[[int], float], seconds: float, interval: float = 0.05
) -> list[list[str]]:
    ledger = canary.Ledger(tmp_path, 30)
    store = FakeStore(behave)
    route = canary.Route(canary.Endpoint("north", "localhost", 1))
    writer = canary.Writer(store, route, ledger, interval, time.monotonic())
    writer.start()
    time.sleep(seconds)
    store.stop.set()
    writer.join(2)
    assert writer.session.closed
    return [line.split(",") for line in (tmp_path / "ledger.csv").read_text().splitlines()[1:]]


def test_missed_ticks_are_skipped_and_the_schedule_keeps_its_phase(tmp_path: Path) -> None:
    # Long enough that a tick which a busy machine wakes up for late is still nearer to its own time than to the next.
    interval = 0.2
    rows = run_writer(tmp_path, lambda sequence: 4.4 * interval if sequence == 3 else 0.0, 2.8, interval)
    times = [canary.datetime.fromisoformat(row[2]).timestamp() for row in rows]
    steps = [round((later - former) / interval) for former, later in itertools.pairwise(times)]
    assert steps[2] >= 5
    assert all(step >= 1 for step in steps)
    phases = [(when - times[0] + interval / 2) % interval - interval / 2 for when in times]
    assert sorted(map(abs, phases))[len(phases) // 2] < 0.01


def test_no_answer_leaves_the_time_of_acknowledgement_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def behave(sequence: int) -> float:
        if 3 <= sequence < 6:
            raise canary.NoAnswer("refused")
        return 0.0

    rows = run_writer(tmp_path, behave, 0.5)
    assert [row[3] == "" for row in rows[:7]] == [False, False, True, True, True, False, False]
    assert re.fullmatch(r"none error=refused after=0\.\d{6}", rows[2][5])
    assert rows[0][5] == "ok host=north-1 region=north timeline=3"
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3  # it answers, it does not, it answers again
    assert "does not acknowledge: refused" in said[1]


def test_numbers_are_unique_over_all_writers() -> None:
    counter = canary.Counter(10)
    taken: list[int] = []

    def take() -> None:
        taken.extend(counter.take() for _number in range(1000))

    threads = [threading.Thread(target=take) for _thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(11, 4011))
    counter.raise_to(9000)
    assert counter.take() == 9001
    counter.raise_to(5)
    assert counter.take() == 9002


# --- the whole process ---------------------------------------------------------------------


def start(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(DAEMON), "--config", str(path)], stderr=subprocess.PIPE, text=True
    )


def sequences(directory: Path) -> list[int]:
    return [int(line.split(",")[1]) for line in (directory / "ledger.csv").read_text().splitlines()[1:]]


def wait_for(check: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_survives_kill_9_goes_on_above_and_stops_at_once(tmp_path: Path) -> None:
    path = write_config(tmp_path / "canary.json")
    ledger = tmp_path / "ledger.csv"
    process = start(path)
    wait_for(lambda: ledger.exists() and len(sequences(tmp_path)) >= 6)
    process.kill()
    process.wait(10)
    before = sequences(tmp_path)
    process = start(path)
    wait_for(lambda: len(sequences(tmp_path)) >= len(before) + 6)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _out, said = process.communicate(timeout=5)
    assert process.returncode == 0
    assert time.monotonic() - asked < 2
    numbers = sequences(tmp_path)
    assert numbers[: len(before)] == before
    assert min(numbers[len(before) :]) > max(before)
    assert len(set(numbers)) == len(numbers)
    assert "does not acknowledge: refused" in said
    assert "very-secret" not in said
