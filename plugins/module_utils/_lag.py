# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How far a copy is behind what was acknowledged, counted from the canary's ledger."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _ledger
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

# An attempt is in the ledger when it ends, up to two seconds after it began.
LEAST_GAP = timedelta(seconds=5)
# How far back to look for the last acknowledged write, at most.
FURTHEST = timedelta(days=1)


@dataclass(frozen=True)
class Acknowledged:
    """One write that was acknowledged, and by whom."""

    sequence: int
    at: datetime
    host: str | None
    region: str | None
    timeline: int | None


@dataclass
class Attempts:
    """What the ledger says of one store."""

    acknowledged: list[Acknowledged] = field(default_factory=list)  # in the order of acknowledgement
    spans: dict[str, list[tuple[datetime, datetime]]] = field(default_factory=dict)  # by endpoint
    unreadable: list[str] = field(default_factory=list)

    @property
    def last(self) -> Acknowledged | None:
        return self.acknowledged[-1] if self.acknowledged else None


def answer_facts(answer: str) -> dict[str, str]:
    """`ok host=south-1 region=south timeline=2` as a dictionary."""
    words = (word.partition("=") for word in answer.split())
    return {key: value for key, equals, value in words if equals and value}


def read_attempts(lines: Iterable[str], store: str) -> Attempts:
    found = Attempts()
    for line in lines:
        parts = line.split(",")
        if parts[0] != store and len(parts) == 6:
            continue
        try:
            _store, sequence, sent_at, acknowledged_at, endpoint, answer = parts
            number, sent = int(sequence), _ledger.read_time(sent_at, "sent_at")
            at = _ledger.read_time(acknowledged_at, "acknowledged_at") if acknowledged_at else None
            facts = answer_facts(answer)
            ended = at or sent + timedelta(seconds=float(facts.get("after", 0)))
        except (ValueError, OverflowError, MusterError):
            found.unreadable.append(line[:80])
            continue
        found.spans.setdefault(endpoint, []).append((sent, ended))
        if at is not None:
            timeline = facts.get("timeline", "")
            found.acknowledged.append(
                Acknowledged(
                    number,
                    at,
                    facts.get("host"),
                    facts.get("region"),
                    int(timeline) if timeline.isdecimal() else None,
                )
            )
    found.acknowledged.sort(key=lambda entry: (entry.at, entry.sequence))
    return found


def look_back(directory: str, store: str, window: timedelta, now: datetime) -> Attempts:
    """The attempts from C(window) before the last acknowledged one until now.

    A region that was lost two hours ago acknowledged nothing since, but its last write counts.
    """
    span = window
    while True:
        found = read_attempts(_ledger.read_window(directory, now - span, now), store)
        if found.last is not None or span >= FURTHEST:
            break
        span = min(4 * span, FURTHEST)
    if found.last is not None and now - span > found.last.at - window / 2:
        found = read_attempts(_ledger.read_window(directory, found.last.at - window, now), store)
    return found


def find_pause(
    spans: Mapping[str, Sequence[tuple[datetime, datetime]]],
    endpoints: Iterable[str],
    start: datetime,
    end: datetime,
    interval: timedelta,
) -> str | None:
    """The first stretch in which nothing was tried through an endpoint; None when there is none.

    What was acknowledged to others in such a stretch is not known.
    """
    limit = max(LEAST_GAP, 3 * interval)
    for endpoint in endpoints:
        busy_until = start
        for began, ended in [*sorted(spans.get(endpoint, [])), (end, end)]:
            if began - busy_until > limit:
                return (
                    f"the canary's ledger has no attempt through {endpoint} from "
                    f"{busy_until.strftime(_ledger.FORMAT)} to {began.strftime(_ledger.FORMAT)}"
                )
            busy_until = max(busy_until, ended)
    return None


def compare(acknowledged: Sequence[Acknowledged], held_numbers: Collection[int]) -> dict[str, Any]:
    """What a copy lacks of what was acknowledged.

    A copy that holds a write of a timeline has replayed the end of the one before. What it
    lacks of older timelines was lost when they ended: it is on no copy that is followed now.
    """
    held = [entry for entry in acknowledged if entry.sequence in held_numbers]
    if not held:
        return {"reason": "the copy holds none of what was acknowledged in that time"}
    newest = max(held, key=lambda entry: entry.sequence)
    reached = max((entry.timeline for entry in held if entry.timeline is not None), default=0)
    gone = [entry for entry in acknowledged if entry.sequence not in held_numbers]
    lacking = [entry for entry in gone if entry.timeline is None or entry.timeline >= reached]
    last = acknowledged[-1].at
    found: dict[str, Any] = {
        "held_sequence": newest.sequence,
        "held_at": newest.at.strftime(_ledger.FORMAT),
        "held_timeline": newest.timeline,
        "lost_before": len(gone) - len(lacking),
        "lag_writes": len(lacking),
        "lag_seconds": 0.0,
        # Commits of one moment may be acknowledged in another order.
        "silence_seconds": (last - newest.at).total_seconds() if lacking else 0.0,
        "reason": None,
    }
    if lacking:
        whole = [entry.at for entry in held if entry.at <= lacking[0].at]
        found["lag_seconds"] = (last - whole[-1]).total_seconds() if whole else None
        if not whole:
            found["reason"] = "the copy holds nothing that was acknowledged before the first write it lacks"
    return found
