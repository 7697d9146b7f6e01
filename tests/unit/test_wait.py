"""Waiting: returns what was found, and says what it waited for when time runs out."""

from __future__ import annotations

import pytest
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.naps: list[float] = []

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_what_the_check_finds_is_returned_without_a_nap(clock: Clock) -> None:
    assert wait_until(lambda: "leader", "a leader", 5, clock=clock.read, sleep=clock.sleep) == "leader"
    assert clock.naps == []


def test_it_asks_again_until_the_answer_is_true(clock: Clock) -> None:
    answers = iter([None, 0, "", "north-1"])
    assert wait_until(lambda: next(answers), "a leader", 5, 0.5, clock.read, clock.sleep) == "north-1"
    assert clock.naps == [0.5, 0.5, 0.5]


def test_the_deadline_names_what_was_waited_for(clock: Clock) -> None:
    with pytest.raises(MusterError, match=r"^waited 2 s for a leader$"):
        wait_until(lambda: None, "a leader", 2, 0.5, clock.read, clock.sleep)
    assert sum(clock.naps) == 2


def test_the_deadline_gives_the_last_reason(clock: Clock) -> None:
    def check() -> None:
        raise MusterError(f"north-1 refuses at {clock.now:g}")

    with pytest.raises(MusterError, match=r"^waited 1 s for a leader: north-1 refuses at 101$"):
        wait_until(check, "a leader", 1, 0.5, clock.read, clock.sleep)


def test_a_reason_that_is_over_is_not_told(clock: Clock) -> None:
    answers = iter([MusterError("north-1 refuses"), None, None])

    def check() -> None:
        answer = next(answers)
        if answer:
            raise answer

    with pytest.raises(MusterError, match=r"^waited 1 s for a leader$"):
        wait_until(check, "a leader", 1, 0.5, clock.read, clock.sleep)


def test_it_checks_once_more_at_the_deadline(clock: Clock) -> None:
    assert wait_until(lambda: clock.now >= 101, "the end", 1, 0.5, clock.read, clock.sleep) is True


def test_no_time_means_one_look(clock: Clock) -> None:
    with pytest.raises(MusterError, match=r"^waited 0 s for a leader$"):
        wait_until(lambda: None, "a leader", 0, 0.5, clock.read, clock.sleep)
    assert clock.naps == []


def test_other_errors_are_not_waited_out(clock: Clock) -> None:
    def check() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        wait_until(check, "a leader", 5, 0.5, clock.read, clock.sleep)
    assert clock.naps == []
