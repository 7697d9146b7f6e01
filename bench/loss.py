# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The drill region_loss with 1 GB of data: what the canary and the drill's own phases say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from bench.data import drop, fill
from bench.lab import BenchError, Lab
from bench.result import Row

OUTAGE_LIMIT = 30.0
PROMOTE_LIMIT = 5.0
REPROTECT_LIMIT = 60.0
EVIDENCE_LIMIT = 10.0


def span(phases: Iterable[Mapping[str, Any]], prefix: str) -> float:
    """From the begin of the first phase of that name to the end of the last, in seconds."""
    found = [phase for phase in phases if phase["name"].startswith(prefix)]
    if not found:
        raise BenchError(f"the drill tells of no phase '{prefix}'")
    began = [datetime.fromisoformat(phase["started_at"]).timestamp() for phase in found]
    return max(at + phase["seconds"] for at, phase in zip(began, found, strict=True)) - min(began)


def whole_run(phases: Iterable[Mapping[str, Any]], prefix: str) -> float:
    """How long the playbook took whose phases have that prefix, from its look at the inventory to the release
    of its lock, in seconds."""
    listed = sorted(phases, key=lambda phase: str(phase["started_at"]))
    own = [number for number, phase in enumerate(listed) if phase["name"].startswith(prefix)]
    if not own:
        raise BenchError(f"the drill tells of no phase '{prefix}'")
    starts = [number for number in range(own[0]) if listed[number]["name"] == "Check the inventory"]
    ends = [
        number
        for number in range(own[-1], len(listed))
        if listed[number]["name"] == "Lock | Let others operate again"
    ]
    if not starts or not ends:
        raise BenchError(f"the drill tells of phases '{prefix}', but not where that playbook began and ended")
    first, last = listed[starts[-1]], listed[ends[0]]
    took = datetime.fromisoformat(last["started_at"]) - datetime.fromisoformat(first["started_at"])
    return float(took.total_seconds() + last["seconds"])


def measure(lab: Lab, rounds: int) -> list[Row]:
    """One drill, whatever the number of rounds: it takes minutes, and has no peer to be compared with."""
    primary = lab.patroni("settle")["primary"]
    try:
        fill(lab, primary)
        played = lab.play("playbooks/dr_drill.yml", "-e", "dr_scenario=region_loss")
    finally:
        drop(lab, lab.patroni("settle")["primary"])
    folder = lab.directory / "drills" / "latest"
    evidence = json.loads((folder / "evidence.json").read_text())
    returned = json.loads((folder / "reprotect.json").read_text())["stores"]["postgresql"]
    copied = [host["host"] for host in returned if host["method"] == "clone"]
    if copied:
        raise BenchError(f"{', '.join(copied)} was copied anew, so the figure is not that of a rewind")
    store = next(each for each in evidence["stores"] if each["name"] == "postgresql")
    details = {"drill": evidence["drill_id"], "store": store, "phases": evidence["phases"]}
    return [
        Row(
            "region loss with 1 GB: last acknowledged write to the next",
            store["outage_seconds"],
            "s",
            limit=OUTAGE_LIMIT,
            details=details,
        ),
        Row(
            "  decision to writable", span(evidence["phases"], "Failover | Promote"), "s", limit=PROMOTE_LIMIT
        ),
        Row(
            "  re-protect by rewind",
            whole_run(evidence["phases"], "Re-protect |"),
            "s",
            limit=REPROTECT_LIMIT,
        ),
        Row("  evidence after the drill", span(played.phases, "Drill | Record"), "s", limit=EVIDENCE_LIMIT),
    ]
