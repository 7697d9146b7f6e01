# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Measuring the phases of a step, for a result's muster_phases."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any


class Phases:
    """What took how long, also when it failed."""

    def __init__(self) -> None:
        self.done: list[dict[str, Any]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        # The wall clock says when, the other one how long: it never jumps.
        started, clock = datetime.now(UTC), time.monotonic()
        try:
            yield
        finally:
            self.done.append(
                {
                    "name": name,
                    "started_at": started.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                    "seconds": round(time.monotonic() - clock, 3),
                }
            )
