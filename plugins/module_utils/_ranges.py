# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Many numbers as few ranges."""

from __future__ import annotations

from collections.abc import Iterable


def to_pairs(numbers: Iterable[int]) -> list[list[int]]:
    """Sorted numbers as C([[1, 5], [7, 7]])."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return parts


def to_ranges(numbers: Iterable[int]) -> str:
    """Sorted numbers as C(1-5,7): most drills need a handful of ranges."""
    return ",".join(f"{low}-{high}" if high > low else str(low) for low, high in to_pairs(numbers))
