# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Putting a drill's evidence together, and telling it on a terminal."""

from __future__ import annotations

import base64
import binascii
import gzip
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ansible.module_utils import ansible_release
from ansible_collections.muster.platform.plugins.module_utils import (
    _evidence,
    _judge,
)
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._ranges import read_ranges, to_ranges

SCHEMA_VERSION = 2
SURVIVING = ("sequences", "endpoint", "host", "region", "timeline", "position", "read_at")


def unpack_ledger(text: str) -> str:
    """The ledger that muster.platform.canary_window packed."""
    try:
        return gzip.decompress(base64.b64decode(text, validate=True)).decode()
    except (binascii.Error, OSError, EOFError, ValueError) as error:
        raise MusterError(f"canary.ledger cannot be unpacked: {error}") from error


def primary_of(statuses: Iterable[Mapping[str, Any]], store: str) -> dict[str, Any]:
    """Region, timeline and position of a store's one primary; nulls when there is not exactly one.

    The hosts of a cluster that takes writes at each of them are one.
    """
    found = [
        status for status in statuses if status.get("store") == store and status.get("role") == "primary"
    ]
    whose = {(status.get("region"), status.get("timeline")) for status in found}
    if len(whose) == 1 and all(status.get("shared") for status in found):
        found = found[:1]
    if len(found) != 1:
        return {"region": None, "timeline": None, "position": None}
    return {key: found[0].get(key) for key in ("region", "timeline", "position")}


def collect_phases(phases: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The phases that have ended, in the order of their starts."""
    ended = [phase for phase in phases if phase.get("seconds") is not None]
    try:
        found = [
            {
                "name": str(phase["name"]),
                "started_at": _evidence.show_time(_evidence.read_time(str(phase["started_at"]))),
                "seconds": round(float(phase["seconds"]), 6),
            }
            for phase in ended
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise MusterError(f"a phase needs a name, started_at (UTC) and seconds: {error}") from error
    return sorted(found, key=lambda phase: str(phase["started_at"]))


def collect_versions(statuses: Iterable[Mapping[str, Any]]) -> dict[str, str | None]:
    """The versions that the stores' hosts told; more than one of the same thing side by side."""
    found: dict[str, set[str]] = {"ansible-core": {ansible_release.__version__}}
    for status in statuses:
        for name, version in (status.get("versions") or {}).items():
            found.setdefault(str(name), set()).update([str(version)] if version else [])
    return {name: ", ".join(sorted(versions)) or None for name, versions in sorted(found.items())}


def store_evidence(
    name: str, canary: Mapping[str, Any], figures: dict[str, Any], parameters: Mapping[str, Any]
) -> dict[str, Any]:
    was = primary_of(parameters["recovery_before"] or [], name)
    is_now = primary_of(parameters["recovery_after"] or [], name)
    commits = parameters["lost_commits"] or {}
    return {
        "name": name,
        **figures,
        "recovered_sequences": recovered(
            figures["lost_sequences"], (commits.get("canary_sequences") or {}).get(name)
        ),
        **{f"{key}_before": value for key, value in was.items()},
        **{f"{key}_after": value for key, value in is_now.items()},
        "surviving": {key: canary["surviving"].get(key) for key in SURVIVING},
    }


def recovered(lost: str | None, exported: Any) -> str | None:
    """Which of the lost writes were saved from the old side; None when that cannot be known."""
    if not lost:
        return lost
    if exported is None:
        return None
    both = read_ranges(lost) & read_ranges(str(exported))
    return to_ranges(sorted(both))


def measured(parameters: Mapping[str, Any], ledger: _evidence.Ledger) -> dict[str, Any]:
    """What the canary tells: how it measured, and the figures of each store."""
    canary = parameters["canary"]
    if not canary:
        return {"canary": None, "stores": [], "consistency_skew_seconds": None}
    window = window_of(canary)
    interval = round(float(canary["interval_ms"]) * 1000)
    stores = [
        store_evidence(name, part, _evidence.store_figures(name, ledger, part, window, interval), parameters)
        for name, part in sorted(canary["stores"].items())
    ]
    how = {
        "host": parameters["canary_host"],
        "interval_ms": canary["interval_ms"],
        "gap_limit_seconds": _evidence.seconds(_evidence.gap_limit(interval)),
        "from": _evidence.show_time(window.start),
        "to": _evidence.show_time(window.end),
        "rows": len(ledger.rows) + len(ledger.unreadable),
    }
    skew, _why = _evidence.consistency_skew(stores)
    return {"canary": how, "stores": stores, "consistency_skew_seconds": skew}


def window_of(canary: Mapping[str, Any]) -> _evidence.Window:
    return _evidence.Window(_evidence.read_time(canary["from"]), _evidence.read_time(canary["to"]))


def collect_objectives(objectives: Mapping[str, Any]) -> dict[str, Any]:
    """The stores' objectives; one that lacks its RPO or RTO is none."""
    required = ("rpo_seconds", "rto_seconds")
    found = {}
    for name, entry in sorted(objectives.items()):
        if None not in [entry.get(key) for key in required]:
            found[name] = {key: entry[key] for key in required}
            if entry.get("switchover_seconds") is not None:
                found[name]["switchover_seconds"] = entry["switchover_seconds"]
    return found


def collect_lost_commits(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if given is None:
        return None
    sequences = {str(store): str(text or "") for store, text in (given["canary_sequences"] or {}).items()}
    for text in sequences.values():
        read_ranges(text)
    if given["count"] is not None and given["count"] < 0:
        raise MusterError(f"lost_commits.count must be 0 or more, not {given['count']}")
    times = {
        key: time_of(given[key], f"lost_commits.{key}") if given[key] else None
        for key in ("first_at", "last_at")
    }
    return {**given, **times, "canary_sequences": dict(sorted(sequences.items()))}


def collect_restore_proof(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if given is None:
        return None
    point = given["point_reached"]
    return {**given, "point_reached": time_of(point, "restore_proof.point_reached") if point else None}


def span(parameters: Mapping[str, Any], phases: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """When the drill began and ended: as given, else as the canary looked, else by the phases and now."""
    canary = parameters["canary"] or {}
    started = parameters["started_at"] or canary.get("from") or (phases[0]["started_at"] if phases else None)
    if started is None:
        raise MusterError("started_at is needed when there is neither a canary nor a phase")
    now = datetime.now(UTC).isoformat()
    return {
        "started_at": time_of(started, "started_at"),
        "finished_at": time_of(parameters["finished_at"] or canary.get("to") or now, "finished_at"),
    }


def build(
    parameters: Mapping[str, Any],
    ledger: _evidence.Ledger,
    attachments: Sequence[str],
) -> dict[str, Any]:
    """The whole of evidence.json but what needs the chain: whether the plan changed, and the controls."""
    phases = collect_phases(parameters["phases"])
    statuses = [*(parameters["recovery_before"] or []), *(parameters["recovery_after"] or [])]
    evidence = {
        "schema_version": SCHEMA_VERSION,
        "drill_id": parameters["drill_id"],
        "scenario": parameters["scenario"],
        "verdict": "FAIL",
        "reasons": [],
        **span(parameters, phases),
        "plan": {**parameters["plan"], "changed_since_last_pass": None},
        "approver": parameters["approver"] or None,
        "gates": [{**gate, "overridden": gate["overridden"] or None} for gate in parameters["gates"]],
        "checks": parameters["checks"],
        "lost_commits": collect_lost_commits(parameters["lost_commits"]),
        "restore_proof": collect_restore_proof(parameters["restore_proof"]),
        "objectives": collect_objectives(parameters["objectives"]),
        "clock": [
            {key: entry.get(key) for key in ("host", "offset_ms", "uncertainty_ms")}
            for entry in parameters["clock"]
        ],
        "phases": phases,
        **measured(parameters, ledger),
        "versions": collect_versions(statuses)
        | {key: None if value is None else str(value) for key, value in parameters["versions"].items()},
        "attachments": sorted(attachments),
        "signature": parameters["signature"],
        "unsigned_reason": None if parameters["signature"] else "no signing_key was given",
    }
    complete = not parameters["canary"] or bool(parameters["canary"]["complete"])
    reasons = _judge.judge(evidence, complete)
    return {**evidence, "verdict": "FAIL" if reasons else "PASS", "reasons": reasons}


def plan_changed(plan: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> bool | None:
    """Whether something else was run than in the last PASS; None when nobody can tell."""
    if earlier is None:
        return None
    was = earlier["plan"]
    if plan["inventory_sha256"] != was["inventory_sha256"] or plan["git_sha"] != was["git_sha"]:
        return True
    # Two checkouts with changes of their own may share a commit and nothing else.
    exact = plan["git_sha"] and not plan["git_sha"].endswith("-dirty")
    return False if exact else None


def time_of(text: str, what: str) -> str:
    try:
        return _evidence.show_time(_evidence.read_time(re.sub(r" ?UTC$", "+00:00", str(text))))
    except ValueError as error:
        raise MusterError(f"{what} is not a UTC time in ISO 8601: {text}") from error


# --- on the terminal -----------------------------------------------------------


def shown(value: float | int | None, digits: int = 2) -> str:
    if value is None:
        return "unknown"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def summary(evidence: Mapping[str, Any]) -> list[str]:
    """A few lines: what was promised against what was measured, and what else a reader must know."""
    lines = aligned(store_rows(evidence)) if evidence["stores"] else []
    if len(evidence["stores"]) > 1:
        skew = evidence["consistency_skew_seconds"]
        how = "an unknown time" if skew is None else f"{shown(skew)} s"
        lines.append(f"the stores' copies reach within {how} of each other")
    proof = evidence["restore_proof"]
    if proof:
        took = "an unknown time" if proof["seconds"] is None else f"{proof['seconds']:.1f} s"
        lines.append(
            f"restored {proof['store']} to {proof['point_reached'] or 'an unknown point'} on {proof['host']}"
            f" in {took}"
        )
    lines += [
        f"gate {_judge.gate_name(gate, evidence['gates'])} was overridden: {gate['overridden']}"
        for gate in evidence["gates"]
        if gate["overridden"]
    ]
    return lines or [f"{evidence['scenario']}: {evidence['verdict']}"]


def store_rows(evidence: Mapping[str, Any]) -> list[list[str]]:
    scenario = evidence["scenario"]
    header = ["store", "acknowledged", "lost (objective)", "outage s (objective)", "two writers", "verdict"]
    rows = [header]
    for store in evidence["stores"]:
        objective = evidence["objectives"].get(store["name"])
        rto = _judge.outage_objective(scenario, objective)
        bad = _judge.judge_store(scenario, store, objective) or (
            _judge.is_accounted(evidence) and _judge.unaccounted(store)
        )
        rows.append(
            [
                store["name"],
                shown(store["acked_writes"]),
                shown_loss(scenario, store, objective),
                f"{shown(store['outage_seconds'])} ({'none set' if rto is None else format(rto, 'g')})",
                shown(store["dual_writer_writes"]),
                "FAIL" if bad else "PASS",
            ]
        )
    return rows


def shown_loss(scenario: str, store: Mapping[str, Any], objective: Mapping[str, Any] | None) -> str:
    lost = shown(store["rpo_lost_writes"])
    if scenario in _judge.LOSSLESS:
        return f"{lost} (0)"
    allowed = f"{objective['rpo_seconds']:g} s" if objective else "none set"
    return f"{lost} in {shown(store['rpo_seconds'])} s ({allowed})"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns under each other: the first and the last to the left, figures to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    last = len(widths) - 1
    return [
        "  ".join(
            cell.ljust(width) if column in (0, last) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
