# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""scripts/test: what it counts, and what it tells at its end of what failed."""

from __future__ import annotations

import pytest
from test_check_tree import load

script = load("test")


@pytest.mark.parametrize(
    ("log", "found"),
    [
        ("===== 1 failed, 70 passed, 2 skipped in 9.0s =====", (70, 1, 2)),
        ("===== 3 passed, 1 error in 9.0s =====\n12 passed in 3s", (15, 1, 0)),
        ("--- sanity: ansible-core 2.19, Python 3.11: 24 tests passed", (24, 0, 0)),
        ("lint: 8 checks passed, 1 failed (ruff)", (8, 1, 0)),
        ("waited 30 s, 2 of 3 hosts passed by", (0, 0, 0)),
        ("", (0, 0, 0)),
    ],
)
def test_the_closing_lines_of_all_runners_are_added_up(log: str, found: tuple[int, int, int]) -> None:
    assert script.counts(log) == dict(zip(("passed", "failed", "skipped"), found, strict=True))


def test_what_failed_is_named() -> None:
    lines = [
        "tests/x.py . FAILED [ 3%]",
        "FAILED tests/x.py::test_y - Error",
        "    fatal: [n1]: FAILED! => no",
        "",
        "end",
    ]
    assert script.broken(lines) == [lines[1], lines[2].strip()]
    many = [f"FAILED {number} {'x' * 700}" for number in range(20)]
    assert [line[:9].strip() for line in script.broken(many)] == [
        f"FAILED {number}" for number in range(8, 20)
    ]
    assert all(len(line) == 600 for line in script.broken(many))


def test_without_a_name_the_last_lines_are_told() -> None:
    lines = [str(number) for number in range(9)]
    assert script.broken([*lines, "", " "]) == lines[-5:]
    assert script.broken([]) == []
