# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One row of the table, and the table."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SIGNS = {"<=": operator.le, ">=": operator.ge}


@dataclass
class Row:
    """What was measured, what it is compared with, and the limit on the one or the ratio of both."""

    name: str
    ours: float
    unit: str
    peer: float | None = None
    sign: str = "<="
    limit: float | None = None
    # The limit is on the ratio where there is a peer, else on our figure.
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.peer else None

    @property
    def good(self) -> bool | None:
        """None where no limit is set."""
        if self.limit is None:
            return None
        return bool(SIGNS[self.sign](self.ours if self.ratio is None else self.ratio, self.limit))

    def record(self) -> dict[str, Any]:
        ratio = None if self.ratio is None else round(self.ratio, 4)
        return {**asdict(self), "ratio": ratio, "ok": self.good}


COLUMNS = ["bench", "ours", "peer", "ratio", "limit", "ok"]


def figure(value: float | None, unit: str = "") -> str:
    if value is None:
        return "-"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1
    return f"{value:.{digits}f} {unit}".strip()


def cells(row: Mapping[str, Any]) -> list[str]:
    unit = row["unit"]
    limit = "-"
    if row["limit"] is not None:
        limit = f"{row['sign']} {figure(row['limit'], unit if row['ratio'] is None else '')}"
    good = {None: "-", True: "yes", False: "NO"}[row["ok"]]
    return [
        row["name"],
        figure(row["ours"], unit),
        figure(row["peer"], unit),
        figure(row["ratio"]),
        limit,
        good,
    ]


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    lines = [COLUMNS, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    shown = []
    for name, *figures in lines:
        fitted = [text.rjust(width) for text, width in zip(figures, widths[1:], strict=True)]
        shown.append("  ".join([name.ljust(widths[0]), *fitted]))
    return "\n".join(shown)
