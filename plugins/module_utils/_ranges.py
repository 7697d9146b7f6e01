# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Many numbers as few ranges."""

from __future__ import annotations

from collections.abc import Iterable

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError


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


def read_ranges(text: str) -> set[int]:
    """The numbers of C(1-5,7)."""
    numbers: set[int] = set()
    for part in filter(None, text.split(",")):
        low, _dash, high = part.partition("-")
        try:
            numbers.update(range(int(low), int(high or low) + 1))
        except ValueError as error:
            raise MusterError(f"not a range of numbers: {part}") from error
    return numbers
