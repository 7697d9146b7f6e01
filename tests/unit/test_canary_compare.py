# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""canary_compare: the real main() over a real ledger on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils import _ledger
from ansible_collections.muster.platform.plugins.modules import canary_compare

Compare = Callable[..., dict[str, Any]]
BEGAN = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)


def at(seconds: float) -> str:
    return (BEGAN + timedelta(seconds=seconds)).strftime(_ledger.FORMAT)


def row(sequence: int, timeline: int = 3, store: str = "postgresql", answered: bool = True) -> str:
    """The write of that second; it is acknowledged 0.1 s later, or never."""
    sent, host = at(sequence), "n1" if timeline == 3 else "s1"
    if not answered:
        return f"{store},{sequence},{sent},,north,none error=refused after=0.001000"
    facts = f"ok host={host} region={'north' if timeline == 3 else 'south'} timeline={timeline}"
    return f"{store},{sequence},{sent},{at(sequence + 0.1)},north,{facts}"


def write(directory: Path, *rows: str) -> None:
    (directory / "ledger.csv").write_text("".join(f"{line}\n" for line in [_ledger.COLUMNS, *rows]))


@pytest.fixture
def compare(tmp_path: Path, run_module: Callable[..., dict[str, Any]]) -> Compare:
    """The numbers 1 to 20 were acknowledged, one a second; the copy was restored to what was written by 10."""
    store = {
        "name": "postgresql",
        "type": "postgresql",
        "endpoints": [{"name": "north", "host": "n3", "port": 5432}],
    }
    config = {"interval_ms": 1000, "directory": str(tmp_path), "stores": [store]}
    (tmp_path / "canary.json").write_text(json.dumps(config))
    write(tmp_path, *(row(number) for number in range(1, 21)))

    def run(**parameters: Any) -> dict[str, Any]:
        given = {
            "store": "postgresql",
            "held": "1-10",
            "committed_until": at(11),
            "slack_seconds": 0.5,
            "config": str(tmp_path / "canary.json"),
            **parameters,
        }
        return run_module(canary_compare, given, check=True)

    return run


def verdict(answer: dict[str, Any]) -> tuple[int, str, bool]:
    assert answer["changed"] is False
    assert answer["check"]["name"] == "canary"
    return answer["compared"], answer["missing"], answer["check"]["passed"]


def test_all_is_held(compare: Compare) -> None:
    answer = compare()
    assert verdict(answer) == (10, "", True)
    assert answer["check"]["detail"] == "all 10 acknowledged writes of that time are in the copy"


@pytest.mark.parametrize(
    ("held", "missing", "count"), [("1-6,8-10", "7", 1), ("1-9", "10", 1), ("1-2,5-8,10", "3-4,9", 3)]
)
def test_what_is_missing_is_named(compare: Compare, held: str, missing: str, count: int) -> None:
    answer = compare(held=held)
    assert verdict(answer) == (10, missing, False)
    assert answer["check"]["detail"] == f"{count} acknowledged writes are not in the copy: {missing}"


def test_what_was_never_acknowledged_is_not_missing(compare: Compare, tmp_path: Path) -> None:
    write(tmp_path, *(row(number, answered=number != 7) for number in range(1, 21)))
    assert verdict(compare(held="1-6,8-10")) == (9, "", True)


def test_numbers_from_before_the_first_that_is_held_are_not_compared(compare: Compare) -> None:
    assert verdict(compare(held="4-10")) == (7, "", True)


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({"committed_until": at(-60)}, id="before the ledger"),
        pytest.param({"committed_until": at(7200), "window_seconds": 60}, id="after the ledger"),
        pytest.param({"store": "valkey"}, id="of another store"),
    ],
)
def test_nothing_to_compare_with_proves_nothing(compare: Compare, parameters: dict[str, Any]) -> None:
    answer = compare(**parameters)
    assert verdict(answer) == (0, "", False)
    assert "no acknowledged write of that time to compare with" in answer["check"]["detail"]


def test_a_copy_that_holds_nothing_proves_nothing(compare: Compare) -> None:
    answer = compare(held="")
    assert verdict(answer) == (0, "", False)
    assert answer["check"]["detail"] == "the copy holds no write of the canary"


def test_the_window_reaches_back_from_the_last_commit(compare: Compare) -> None:
    assert verdict(compare(held="1-2,6-10", window_seconds=5)) == (5, "", True)


def test_what_an_earlier_failover_lost_is_left_out(compare: Compare, tmp_path: Path) -> None:
    """Numbers 5 to 7 of timeline 3 were lost when timeline 4 began with number 8."""
    write(tmp_path, *(row(number, 3 if number < 8 else 4) for number in range(1, 21)))
    assert verdict(compare(held="1-4,8-10")) == (3, "", True)
    assert verdict(compare(held="1-4,8-9")) == (3, "10", False)


def test_the_clocks_may_differ_by_the_slack(compare: Compare) -> None:
    """Number 10 was acknowledged at 10.1 s."""
    assert verdict(compare(held="1-9", committed_until=at(10.5), slack_seconds=0)) == (10, "10", False)
    assert verdict(compare(held="1-9", committed_until=at(10.5), slack_seconds=0.5)) == (9, "", True)
    assert verdict(compare(held="1-9", committed_until=at(10.05), slack_seconds=0)) == (9, "", True)


def test_a_row_that_cannot_be_read_is_refused(compare: Compare, tmp_path: Path) -> None:
    write(tmp_path, row(1), f"postgresql,2x,{at(2)},{at(2.1)},north,ok timeline=3", row(3))
    answer = compare()
    assert answer["failed"] is True
    assert answer["msg"].startswith(f"{tmp_path}: a row of the ledger cannot be read: postgresql,2x,")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"committed_until": "yesterday"}, "committed_until"),
        ({"held": "1-x"}, "not a range of numbers: 1-x"),
        ({"config": "/nonexistent"}, "has the role canary run on this host?"),
    ],
)
def test_bad_input_is_told(compare: Compare, parameters: dict[str, Any], message: str) -> None:
    assert message in compare(**parameters)["msg"]


def test_a_missing_ledger_is_told(compare: Compare, tmp_path: Path) -> None:
    (tmp_path / "ledger.csv").unlink()
    assert compare()["msg"] == f"there is no ledger in {tmp_path}"
