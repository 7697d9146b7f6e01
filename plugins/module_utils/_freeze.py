# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Freeze windows: times in which no region is moved, once or every week."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
KEYS = {"name", "from", "to", "days", "reason"}
CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True)
class Window:
    """A window whose shape is known to be right; C(days) is None for one that comes once."""

    name: str
    reason: str
    days: frozenset[int] | None
    start: datetime | timedelta
    end: datetime | timedelta

    def open_until(self, now: datetime) -> datetime | None:
        """When the window that is open now ends; None when it is not open. Its end is outside."""
        for start, end in self._spans(now):
            if start <= now < end:
                return end
        return None

    def _spans(self, now: datetime) -> Iterator[tuple[datetime, datetime]]:
        if isinstance(self.start, datetime) and isinstance(self.end, datetime):
            yield self.start, self.end
        elif isinstance(self.start, timedelta) and isinstance(self.end, timedelta) and self.days is not None:
            today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
            # One that wraps midnight belongs to the day on which it begins.
            for day in (today - timedelta(days=1), today):
                if day.weekday() in self.days:
                    yield day + self.start, day + self.end


def read_time(value: Any, what: str) -> datetime:
    """A time with its zone: text in ISO 8601, or what YAML has made of it."""
    found = value
    if isinstance(value, str):
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            found = None
    if not isinstance(found, datetime):
        shown = value.isoformat() if isinstance(value, date) else repr(value)
        raise MusterError(f"{what} is {shown}: it must be a UTC time such as 2026-12-20T00:00:00Z")
    if found.tzinfo is None:
        raise MusterError(f"{what} must name its time zone, such as a Z at the end: {found.isoformat()}")
    return found.astimezone(UTC)


def _read_clock(value: Any, what: str, midnight: bool) -> timedelta:
    if midnight and value == "24:00":
        return timedelta(days=1)
    found = CLOCK.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        hint = " in quotes (YAML reads 18:00 as a number)" if isinstance(value, int) else ""
        raise MusterError(f"{what} is {value!r}: it must be a time of day, UTC, such as '18:00'{hint}")
    return timedelta(hours=int(found[1]), minutes=int(found[2]))


def _read_days(value: Any, what: str) -> frozenset[int]:
    if not isinstance(value, list | tuple) or not value:
        raise MusterError(f"{what} is {value!r}: it must be a list of days ({', '.join(DAYS)})")
    for day in value:
        if day not in DAYS:
            raise MusterError(f"{what} holds {day!r}: the days are {', '.join(DAYS)}")
    return frozenset(DAYS.index(day) for day in value)


def read_window(entry: Any, what: str) -> Window:
    """One window; a MusterError says in one sentence what is wrong with it."""
    if not isinstance(entry, Mapping):
        raise MusterError(f"{what} is {entry!r}: it must be a dictionary of name, from and to")
    name, reason = entry.get("name"), entry.get("reason")
    if not isinstance(name, str) or not name.strip():
        raise MusterError(f"{what}.name is missing: a window is refused by its name")
    what = f"{what} ({name})"
    unknown = sorted(str(key) for key in set(entry) - KEYS)
    if unknown:
        raise MusterError(f"{what} has {', '.join(unknown)}: a window has {', '.join(sorted(KEYS))}")
    for key in ("from", "to"):
        if entry.get(key) is None:
            raise MusterError(f"{what}.{key} is missing")
    if reason is not None and not isinstance(reason, str):
        raise MusterError(f"{what}.reason is {reason!r}: it must be text")
    days: frozenset[int] | None = None
    start: Any
    end: Any
    if entry.get("days") is not None:
        days = _read_days(entry["days"], f"{what}.days")
        start = _read_clock(entry["from"], f"{what}.from", midnight=False)
        end = _read_clock(entry["to"], f"{what}.to", midnight=True)
        end += timedelta(days=1) if end < start else timedelta()
    else:
        start, end = read_time(entry["from"], f"{what}.from"), read_time(entry["to"], f"{what}.to")
    if not start < end:
        raise MusterError(f"{what}.from must be before its to")
    return Window(name.strip(), (reason or "").strip(), days, start, end)


def read_windows(entries: Any, variable: str = "dr_freeze_windows") -> list[Window]:
    """All windows; the first that is wrong is told."""
    if entries is None:
        return []
    if not isinstance(entries, list | tuple):
        raise MusterError(f"{variable} is {entries!r}: it must be a list of windows")
    return [read_window(entry, f"{variable}[{number}]") for number, entry in enumerate(entries)]
