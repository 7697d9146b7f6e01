# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the bench reads out of a drill's phases."""

from __future__ import annotations

from typing import Any

import pytest

from bench.lab import BenchError
from bench.loss import span, whole_run


def phases(*given: tuple[str, float, float]) -> list[dict[str, Any]]:
    return [
        {"name": name, "started_at": f"2026-03-01T10:00:{second:06.3f}Z", "seconds": seconds}
        for name, second, seconds in given
    ]


RUN = phases(
    ("Check the inventory", 0, 1),
    ("Drill | Scenario", 1, 50),
    ("Check the inventory", 20, 0.5),
    ("Lock | One operation at a time", 21, 1),
    ("Re-protect | Assess", 22, 4),
    ("re-protect: rewind north-1", 23, 1),
    ("Re-protect | Verify", 26, 2),
    ("Lock | Let others operate again", 28.5, 1.5),
    ("Check the inventory", 31, 1),
    ("Lock | Let others operate again", 45, 1),
)


def test_a_playbook_is_measured_with_what_comes_before_and_after_its_own_phases() -> None:
    assert whole_run(reversed(RUN), "Re-protect |") == 10.0
    assert span(RUN, "Re-protect |") == 6.0


@pytest.mark.parametrize("left_out", ["Check the inventory", "Lock | Let others operate again", "Re-protect"])
def test_no_figure_without_the_phases_that_it_needs(left_out: str) -> None:
    with pytest.raises(BenchError, match="Re-protect"):
        whole_run([each for each in RUN if not each["name"].startswith(left_out)], "Re-protect |")
