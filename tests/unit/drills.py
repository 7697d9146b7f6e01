# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Drills to order: a ledger, what survived of it, and the arguments of muster.platform.drill_evidence."""

from __future__ import annotations

import base64
import gzip
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _evidence

START = _evidence.read_time("2026-11-21T10:00:00.000000Z")
SECOND = 1_000_000
HEADER = ",".join(_evidence.COLUMNS)


@dataclass
class Attempt:
    sequence: int
    endpoint: str
    sent: float
    took: float | None
    host: str = "north-1"
    region: str = "north"
    timeline: int = 3
    answer: str = ""

    def line(self) -> str:
        sent = _evidence.show_time(START + round(self.sent * SECOND))
        if self.took is None:
            answer = self.answer or "none error=refused after=0.001000"
            return f"postgresql,{self.sequence},{sent},,{self.endpoint},{answer}"
        acknowledged = _evidence.show_time(START + round((self.sent + self.took) * SECOND))
        answer = self.answer or f"ok host={self.host} region={self.region} timeline={self.timeline}"
        return f"postgresql,{self.sequence},{sent},{acknowledged},{self.endpoint},{answer}"


@dataclass
class Drill:
    """A drill of 60 s, there and back, with two pauses, as the canary sees it every 250 ms."""

    attempts: list[Attempt] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)
    seconds: float = 60.0

    @classmethod
    def planned(cls) -> Drill:
        drill = cls()
        for number in range(480):
            sent = 0.1 + number * 0.125
            endpoint = "north" if number % 2 == 0 else "south"
            down = 20 <= sent < 20.6 or 42 <= sent < 42.7
            region, timeline = ("north", 3) if sent < 20 else ("south", 4) if sent < 42 else ("north", 5)
            took = None if down else 0.002 + (number % 7) / 4000
            drill.attempts.append(
                Attempt(1001 + number, endpoint, sent, took, f"{region}-1", region, timeline)
            )
        return drill

    @classmethod
    def region_loss(cls, loss: int = 23) -> Drill:
        """A drill of 100 s: the link cut at 28 s, the region killed at 34 s, back at 80 s."""
        drill = cls(seconds=100.0)
        for number in range(800):
            sent = 0.1 + number * 0.125
            endpoint = "north" if number % 2 == 0 else "south"
            region, timeline = ("north", 3) if sent < 34 else ("south", 4) if sent < 80 else ("north", 5)
            down = 34 <= sent < 41.3 or 80 <= sent < 80.7
            if endpoint == "south":
                down = down or 28 <= sent < 34
            took = None if down else 0.002 + (number % 7) / 4000
            drill.attempts.append(
                Attempt(1001 + number, endpoint, sent, took, f"{region}-1", region, timeline)
            )
        acked = [a.sequence for a in drill.attempts if a.sent < 34 and a.took is not None]
        drill.lost = set(acked[len(acked) - loss :])
        return drill

    def text(self) -> str:
        return "".join(f"{line}\n" for line in [HEADER, *(attempt.line() for attempt in self.attempts)])

    def at(self, sequence: int) -> Attempt:
        return next(attempt for attempt in self.attempts if attempt.sequence == sequence)

    def held(self) -> set[int]:
        return {a.sequence for a in self.attempts if a.took is not None} - self.lost

    def window(self) -> _evidence.Window:
        return _evidence.Window(START, START + round(self.seconds * SECOND))

    def canary(self) -> dict[str, Any]:
        window = self.window()
        return {
            "changed": False,
            "from": _evidence.show_time(window.start),
            "to": _evidence.show_time(window.end),
            "complete": True,
            "rows": len(self.attempts),
            "ledger": base64.b64encode(gzip.compress(self.text().encode())).decode(),
            "interval_ms": 250,
            "stores": {
                "postgresql": {
                    "endpoints": ["north", "south"],
                    "missing": "",
                    "surviving": {
                        "sequences": ranges(self.held()),
                        "endpoint": "north",
                        "host": "north-1",
                        "region": "north",
                        "timeline": 5,
                        "position": "0/9000148",
                        "read_at": _evidence.show_time(window.end + SECOND),
                        "error": None,
                    },
                }
            },
        }

    def figures(self, **changes: Any) -> dict[str, Any]:
        part = self.canary()["stores"]["postgresql"] | changes
        return _evidence.store_figures(
            "postgresql", _evidence.parse_ledger(self.text()), part, self.window(), 250_000
        )


def ranges(numbers: set[int]) -> str:
    parts: list[str] = []
    low = high = None
    for number in sorted(numbers):
        if high is not None and number == high + 1:
            high = number
            continue
        if low is not None:
            parts.append(f"{low}-{high}")
        low = high = number
    return ",".join([*parts, f"{low}-{high}"]) if low is not None else ""


def status(region: str, role: str, timeline: int, position: str) -> dict[str, Any]:
    return {
        "store": "postgresql",
        "region": region,
        "role": role,
        "timeline": timeline,
        "position": position,
        "versions": {"postgresql": "17.6" if region == "north" else "17.10", "patroni": None},
    }


def arguments(directory: Path, drill: Drill, **changes: Any) -> dict[str, Any]:
    return {
        "directory": str(directory),
        "drill_id": "20261121T100000-switchover",
        "scenario": "switchover",
        "canary": drill.canary(),
        "canary_host": "witness",
        "phases": [
            {"name": "Assess", "started_at": "2026-11-21T10:00:02.000000Z", "seconds": 1.5},
            {"name": "Switch to south", "started_at": "2026-11-21T10:00:18.500000Z", "seconds": 3.2},
            {"name": "Switch to north", "started_at": "2026-11-21T10:00:40.000000Z", "seconds": 3.4},
        ],
        "objectives": {"postgresql": {"rpo_seconds": 0, "rto_seconds": 10}},
        "clock": [
            {"host": "north-1", "offset_ms": 0.2, "uncertainty_ms": 1.1},
            {"host": "witness", "offset_ms": -0.4, "uncertainty_ms": 0.9},
        ],
        "recovery_before": [
            status("north", "primary", 3, "0/5000000"),
            status("south", "standby", 3, "0/5000000"),
        ],
        "recovery_after": [
            status("north", "primary", 5, "0/9000000"),
            status("south", "standby", 5, "0/9000000"),
        ],
        "versions": {"muster": "0.1.0"},
        "plan": {"git_sha": "0123456789abcdef0123456789abcdef01234567", "inventory_sha256": "ab" * 32},
    } | changes


def region_loss(directory: Path, **changes: Any) -> dict[str, Any]:
    """Arguments of a region_loss drill whose lost writes were all saved from the old side."""
    drill = changes.pop("drill", None) or Drill.region_loss()
    lost = ranges(drill.lost)
    xids = directory.parent / "lost-xids.txt"
    xids.parent.mkdir(parents=True, exist_ok=True)
    xids.write_text("".join(f"{7001 + place}\n" for place in range(len(drill.lost) + 12)))
    return (
        arguments(
            directory,
            drill,
            drill_id="20261121T100000-region_loss",
            scenario="region_loss",
            objectives={"postgresql": {"rpo_seconds": 30, "rto_seconds": 60, "switchover_seconds": 5}},
            phases=[
                {"name": "Assess", "started_at": "2026-11-21T10:00:02.000000Z", "seconds": 1.5},
                {"name": "Cut the link", "started_at": "2026-11-21T10:00:28.000000Z", "seconds": 6.0},
                {"name": "Fence north", "started_at": "2026-11-21T10:00:34.400000Z", "seconds": 4.2},
                {"name": "Promote south", "started_at": "2026-11-21T10:00:38.700000Z", "seconds": 1.9},
                {"name": "Move the traffic", "started_at": "2026-11-21T10:00:40.700000Z", "seconds": 0.6},
                {"name": "Verify", "started_at": "2026-11-21T10:00:41.400000Z", "seconds": 2.1},
                {"name": "Re-protect north", "started_at": "2026-11-21T10:00:48.000000Z", "seconds": 24.4},
                {"name": "Switch to north", "started_at": "2026-11-21T10:01:18.900000Z", "seconds": 3.4},
            ],
            gates=[
                {"name": "lag_known", "passed": True, "reason": "0 bytes behind 3 s before the cut"},
                {"name": "approver", "passed": True, "reason": "A. Person"},
            ],
            approver="A. Person",
            lost_commits={
                "count": len(drill.lost) + 12,
                "first_at": "2026-11-21 10:00:28.301245 UTC",
                "last_at": "2026-11-21T10:00:33.996012Z",
                "xids_file": "lost-xids.txt",
                "canary_sequences": {"postgresql": lost},
            },
            checks=[{"name": "old primary is fenced", "passed": True, "detail": "nothing listens on 5432"}],
            attachments=[{"name": "lost-xids.txt", "path": str(xids)}],
            recovery_after=[
                status("north", "primary", 5, "0/9000000"),
                status("south", "standby", 5, "0/9000000"),
            ],
        )
        | changes
    )


def restore(directory: Path, **changes: Any) -> dict[str, Any]:
    """Arguments of a restore drill, which no canary measures."""
    checks = [
        {"name": "pg_checksums", "passed": True, "detail": "118,530 blocks, 0 bad"},
        {"name": "amcheck", "passed": True, "detail": "214 indexes"},
        {"name": "ledger", "passed": True, "detail": "all 48,211 numbers acknowledged before the point"},
    ]
    return {
        "directory": str(directory),
        "drill_id": "20261121T110000-restore",
        "scenario": "restore",
        "started_at": "2026-11-21T11:00:00.000000Z",
        "finished_at": "2026-11-21T11:00:41.000000Z",
        "plan": {"git_sha": "0123456789abcdef0123456789abcdef01234567", "inventory_sha256": "ab" * 32},
        "phases": [{"name": "Restore", "started_at": "2026-11-21T11:00:03.000000Z", "seconds": 31.5}],
        "restore_proof": {
            "store": "postgresql",
            "host": "south-2",
            "repository": "north-backup",
            "backup": "20261121-020004F",
            "point_reached": "2026-11-21T10:58:12.104411Z",
            "seconds": 31.5,
            "checks": checks,
        },
    } | changes
