# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the canary's ledger proves about a drill: pure functions, no estimate anywhere.

All times are whole microseconds since 1970, so that differences are exact. A figure
that cannot be known is None, and None passes no objective.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._ranges import read_ranges, to_ranges

COLUMNS = ["store", "sequence", "sent_at", "acknowledged_at", "endpoint", "answer"]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# Shorter pauses of the canary are what a busy machine does to any process. They cannot
# hide anything: the outage is measured between acknowledgements, pause included.
LEAST_GAP = 1_000_000
MOST_OUTAGES = 50
FIGURES = (
    "rpo_lost_writes",
    "rpo_seconds",
    "outage_seconds",
    "outage_by_endpoint",
    "dual_writer_writes",
    "acked_writes",
    "surviving_writes",
    "unanswered_writes",
    "lost_sequences",
)


@dataclass(frozen=True)
class Row:
    """One attempt of the canary."""

    store: str
    sequence: int
    began: int
    sent: int
    acknowledged: int | None
    ended: int
    endpoint: str
    host: str = ""
    region: str = ""
    timeline: int = 0


@dataclass(frozen=True)
class Window:
    """The time that a drill looks at."""

    start: int
    end: int


@dataclass
class Ledger:
    """The rows of a window, and why some could not be read."""

    rows: list[Row] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


# --- reading -----------------------------------------------------------------


def read_time(text: str) -> int:
    """Microseconds since 1970 of a UTC time in ISO 8601; a ValueError when it is none."""
    found = datetime.fromisoformat(text)
    if found.utcoffset() != timedelta(0):
        raise ValueError(f"not UTC: {text}")
    return (found - EPOCH) // MICROSECOND


def show_time(microseconds: int) -> str:
    return (EPOCH + timedelta(microseconds=microseconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seconds(microseconds: int) -> float:
    return microseconds / 1_000_000


def read_row(cells: Sequence[str]) -> Row:
    """A row of the ledger; a ValueError says what is wrong with it."""
    if len(cells) != len(COLUMNS):
        raise ValueError(f"{len(cells)} columns instead of {len(COLUMNS)}")
    store, sequence, sent_at, acknowledged_at, endpoint, answer = cells
    kind, *words = answer.split(" ")
    facts = dict(word.split("=", 1) for word in words if "=" in word)
    sent = read_time(sent_at)
    began = sent - round(float(facts.get("connect", "0")) * 1e6)
    if kind == "none" and not acknowledged_at:
        ended = sent + round(float(facts["after"]) * 1e6)
        return Row(store, int(sequence), began, sent, None, ended, endpoint)
    if kind != "ok" or not acknowledged_at:
        raise ValueError("the answer and the acknowledgement contradict each other")
    acknowledged = read_time(acknowledged_at)
    if acknowledged < sent:
        raise ValueError("acknowledged before it was sent")
    host, region, timeline = facts["host"], facts["region"], int(facts["timeline"])
    if "unknown" in (host, region):
        raise ValueError(f"nobody knows who answered ({answer}); see canary_host_addresses")
    return Row(
        store, int(sequence), began, sent, acknowledged, acknowledged, endpoint, host, region, timeline
    )


def parse_ledger(text: str) -> Ledger:
    """All rows of a ledger as CSV with its header."""
    reader = csv.reader(io.StringIO(text))
    if next(reader, None) != COLUMNS:
        raise MusterError(f"the ledger does not begin with the header {','.join(COLUMNS)}")
    ledger = Ledger()
    seen: set[tuple[str, int]] = set()
    for number, cells in enumerate(reader, start=2):
        try:
            row = read_row(cells)
            if (row.store, row.sequence) in seen:
                raise ValueError(f"number {row.sequence} of {row.store} appears twice")
            seen.add((row.store, row.sequence))
            ledger.rows.append(row)
        except KeyError as error:
            ledger.unreadable.append(f"line {number}: the answer has no {error.args[0]}")
        except (ValueError, OverflowError) as error:
            ledger.unreadable.append(f"line {number}: {error}")
    return ledger


def some_ranges(text: str, most: int = 10) -> str:
    """The first of many ranges, for a sentence."""
    parts = text.split(",")
    return ",".join(parts[:most]) + (f" and {len(parts) - most} more ranges" if len(parts) > most else "")


def slice_rows(rows: Iterable[Row], window: Window) -> list[Row]:
    """The attempts that were sent in the window, in that order."""
    chosen = [row for row in rows if window.start <= row.sent <= window.end]
    return sorted(chosen, key=lambda row: (row.sent, row.sequence))


# --- figures -----------------------------------------------------------------


def acknowledged(rows: Iterable[Row]) -> list[tuple[int, Row]]:
    """The acknowledged writes with the time of their acknowledgement, in its order."""
    return sorted(
        ((row.acknowledged, row) for row in rows if row.acknowledged is not None),
        key=lambda pair: (pair[0], pair[1].sequence),
    )


def gaps(times: Iterable[int], window: Window) -> list[tuple[int, int]]:
    """The stretches of the window between two of the times, the edges of the window included."""
    points = [window.start, *sorted(t for t in times if window.start <= t <= window.end), window.end]
    return list(itertools.pairwise(points))


def longest(stretches: Iterable[tuple[int, int]]) -> int:
    return max(end - start for start, end in stretches)


def outages(rows: Iterable[Row], window: Window, interval: int) -> list[tuple[int, int]]:
    """The stretches without an acknowledgement that are longer than two intervals; always the longest."""
    stretches = gaps((time for time, _row in acknowledged(rows)), window)
    stretches.sort(key=lambda stretch: stretch[0] - stretch[1])
    found = [stretch for stretch in stretches if stretch[1] - stretch[0] > 2 * interval]
    return sorted(found[:MOST_OUTAGES] or stretches[:1])


def loss_seconds(rows: Iterable[Row], held: Collection[int]) -> float | None:
    """How far the surviving copy lags behind what was acknowledged.

    For each lost write: the time since the last held write that the same server had
    acknowledged on the same timeline. The longest of them; None when no such write
    is in the window, because the distance is then not known.
    """
    last_held: dict[tuple[int, str], int] = {}
    longest_loss = 0
    for time, row in acknowledged(rows):
        history = (row.timeline, row.host)
        if row.sequence in held:
            last_held[history] = time
        elif history not in last_held:
            return None
        else:
            longest_loss = max(longest_loss, time - last_held[history])
    return seconds(longest_loss)


def recovery_point(rows: Iterable[Row], held: Collection[int]) -> int | None:
    """Up to when the surviving copy holds what the first region wrote.

    The acknowledgement of the last surviving write before any other region acknowledged one; of all of
    the time when none did. None when no such write survived.
    """
    point = None
    pairs = acknowledged(rows)
    for time, row in pairs:
        if row.region != pairs[0][1].region:
            break
        if row.sequence in held:
            point = time
    return point


def moved(store: Mapping[str, Any]) -> bool:
    """Whether more than one region acknowledged a store's writes."""
    return len({writer["region"] for writer in store["writers"]}) > 1


def consistency_skew(stores: Sequence[Mapping[str, Any]]) -> tuple[float | None, str]:
    """How far the stores' recovery points are apart, and why that is not known.

    Both are nothing for a single store, which has nobody to be apart from.
    """
    if len(stores) < 2:
        return None, ""
    unknown = [store["name"] for store in stores if store["recovery_point"] is None]
    if unknown:
        return None, f"no recovery point is known of {', '.join(unknown)}"
    stayed = [store["name"] for store in stores if not moved(store)]
    if 0 < len(stayed) < len(stores):
        return None, f"not all stores changed their region: {', '.join(stayed)} did not"
    points = [read_time(store["recovery_point"]) for store in stores]
    return seconds(max(points) - min(points)), ""


def lost_stretches(rows: Iterable[Row], lost: Collection[int]) -> list[list[Row]]:
    """The lost writes in the order of their acknowledgement, divided where a held one lies between."""
    found: list[list[Row]] = []
    following = False
    for _time, row in acknowledged(rows):
        if row.sequence in lost:
            if following:
                found[-1].append(row)
            else:
                found.append([row])
        following = row.sequence in lost
    return found


def dual_writers(rows: Iterable[Row]) -> int:
    """Acknowledged writes that prove two writers at a time.

    A promotion begins a newer timeline. So a write is proof when it was sent after
    another server had acknowledged one on a newer timeline, or on the same one.
    """
    pairs = acknowledged(rows)
    first: dict[tuple[int, str], int] = {}
    for time, row in pairs:
        first.setdefault((row.timeline, row.host), time)
    return sum(
        any(
            since < row.sent and (timeline > row.timeline or (timeline == row.timeline and host != row.host))
            for (timeline, host), since in first.items()
        )
        for _time, row in pairs
    )


def writers(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Who acknowledged when: one entry per server and timeline, in the order of their first answers."""
    found: dict[tuple[int, str], list[tuple[int, Row]]] = {}
    for time, row in acknowledged(rows):
        found.setdefault((row.timeline, row.host), []).append((time, row))
    return [
        {
            "host": host,
            "region": pairs[0][1].region,
            "timeline": timeline,
            "first_acknowledged_at": show_time(pairs[0][0]),
            "last_acknowledged_at": show_time(pairs[-1][0]),
            "writes": len(pairs),
        }
        for (timeline, host), pairs in found.items()
    ]


# --- is it known? --------------------------------------------------------------


def gap_limit(interval: int) -> int:
    """How long an endpoint may go without an attempt before nobody was looking."""
    return max(3 * interval, LEAST_GAP)


def pauses(rows: Iterable[Row], endpoint: str, window: Window, interval: int) -> list[tuple[int, int]]:
    """The stretches of the window in which the canary neither began nor waited for anything."""
    mine = sorted((row for row in rows if row.endpoint == endpoint), key=lambda row: row.began)
    points = [
        (window.start, window.start),
        *((row.began, row.ended) for row in mine),
        (window.end, window.end),
    ]
    limit = gap_limit(interval)
    found = []
    busy_until = points[0][1]
    for began, ended in points[1:]:
        if began - busy_until > limit:
            found.append((busy_until, began))
        busy_until = max(busy_until, ended)
    return found


def doubts(
    ledger: Ledger, rows: list[Row], canary: Mapping[str, Any], window: Window, interval: int
) -> list[str]:
    """Why the ledger does not tell what happened in the window; an empty list when it does."""
    if not rows:
        return ["the ledger is empty"]
    reasons = []
    if ledger.unreadable:
        reasons.append(f"{len(ledger.unreadable)} rows of the ledger cannot be read; {ledger.unreadable[0]}")
    if canary.get("missing"):
        reasons.append(f"the canary did not run through: the ledger misses the numbers {canary['missing']}")
    for endpoint in canary["endpoints"]:
        for start, end in pauses(rows, endpoint, window, interval)[:3]:
            reasons.append(
                f"the canary did not write through {endpoint} for {seconds(end - start):.1f} s"
                f" from {show_time(start)}"
            )
    return reasons


def store_figures(
    name: str, ledger: Ledger, canary: Mapping[str, Any], window: Window, interval: int
) -> dict[str, Any]:
    """All figures of one store, and the reasons why some of them are not known.

    C(canary) is the store's part of what muster.platform.canary_window returns.
    """
    rows = slice_rows((row for row in ledger.rows if row.store == name), window)
    reasons = doubts(ledger, rows, canary, window, interval)
    figures: dict[str, Any] = dict.fromkeys(FIGURES)
    figures |= {"outages": [], "writers": [], "recovery_point": None}
    if not reasons:
        figures |= known_figures(rows, canary["endpoints"], window, interval)
    surviving = canary["surviving"]
    if surviving.get("sequences") is None:
        reasons.append(f"nobody could tell what survived: {surviving.get('error') or 'not asked'}")
    elif not reasons:
        held = read_ranges(surviving["sequences"])
        figures |= loss_figures(rows, held)
        point = recovery_point(rows, held)
        figures["recovery_point"] = None if point is None else show_time(point)
        if figures["rpo_seconds"] is None:
            reasons.append(
                "how far back the loss reaches is not known: nothing before it survived in that time"
            )
    return {
        **figures,
        "duplicate_writes": surviving.get("duplicates"),
        "attempts": len(rows),
        "reasons": reasons,
    }


def known_figures(rows: list[Row], endpoints: Sequence[str], window: Window, interval: int) -> dict[str, Any]:
    """What the ledger alone tells."""
    by_endpoint = {
        endpoint: seconds(
            longest(gaps((t for t, row in acknowledged(rows) if row.endpoint == endpoint), window))
        )
        for endpoint in endpoints
    }
    return {
        "acked_writes": len(acknowledged(rows)),
        "unanswered_writes": sum(row.acknowledged is None for row in rows),
        "outage_seconds": seconds(longest(gaps((t for t, _row in acknowledged(rows)), window))),
        "outage_by_endpoint": by_endpoint,
        "outages": [
            {"from": show_time(start), "to": show_time(end), "seconds": seconds(end - start)}
            for start, end in outages(rows, window, interval)
        ],
        "dual_writer_writes": dual_writers(rows),
        "writers": writers(rows),
    }


def loss_figures(rows: list[Row], held: Collection[int]) -> dict[str, Any]:
    """What the ledger and the surviving copy tell together."""
    acked = [row.sequence for _time, row in acknowledged(rows)]
    survived = sum(sequence in held for sequence in acked)
    return {
        "surviving_writes": survived,
        "rpo_lost_writes": len(acked) - survived,
        "rpo_seconds": loss_seconds(rows, held),
        "lost_sequences": to_ranges(sorted(sequence for sequence in acked if sequence not in held)),
    }
