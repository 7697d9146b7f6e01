# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Putting a drill's evidence together, telling it on a terminal, and writing it to its folder."""

from __future__ import annotations

import base64
import binascii
import contextlib
import gzip
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils import ansible_release
from ansible_collections.muster.platform.plugins.module_utils import _evidence
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

SCHEMA_VERSION = 1
DRILL_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
SURVIVING = ("sequences", "endpoint", "host", "region", "timeline", "position", "read_at")


def unpack_ledger(text: str) -> str:
    """The ledger that muster.platform.canary_window packed."""
    try:
        return gzip.decompress(base64.b64decode(text, validate=True)).decode()
    except (binascii.Error, OSError, EOFError, ValueError) as error:
        raise MusterError(f"canary.ledger cannot be unpacked: {error}") from error


def primary_of(statuses: Iterable[Mapping[str, Any]], store: str) -> dict[str, Any]:
    """Region, timeline and position of a store's one primary; nulls when there is not exactly one."""
    found = [
        status for status in statuses if status.get("store") == store and status.get("role") == "primary"
    ]
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
    name: str, canary: Mapping[str, Any], figures: dict[str, Any], before: Any, after: Any
) -> dict[str, Any]:
    was, is_now = primary_of(before, name), primary_of(after, name)
    return {
        "name": name,
        **figures,
        **{f"{key}_before": value for key, value in was.items()},
        **{f"{key}_after": value for key, value in is_now.items()},
        "surviving": {key: canary["surviving"].get(key) for key in SURVIVING},
    }


def build(parameters: Mapping[str, Any], ledger: _evidence.Ledger) -> dict[str, Any]:
    """The whole of evidence.json."""
    canary = parameters["canary"]
    window = _evidence.Window(_evidence.read_time(canary["from"]), _evidence.read_time(canary["to"]))
    interval = round(float(canary["interval_ms"]) * 1000)
    stores = [
        store_evidence(
            name,
            part,
            _evidence.store_figures(name, ledger, part, window, interval),
            parameters["recovery_before"],
            parameters["recovery_after"],
        )
        for name, part in sorted(canary["stores"].items())
    ]
    objectives = {
        name: {key: entry.get(key) for key in ("rpo_seconds", "rto_seconds")}
        for name, entry in sorted(parameters["objectives"].items())
    }
    clock = [
        {key: entry.get(key) for key in ("host", "offset_ms", "uncertainty_ms")}
        for entry in parameters["clock"]
    ]
    reasons = _evidence.judge(stores, objectives, clock, bool(canary["complete"]))
    return {
        "schema_version": SCHEMA_VERSION,
        "drill_id": parameters["drill_id"],
        "scenario": parameters["scenario"],
        "verdict": "FAIL" if reasons else "PASS",
        "reasons": reasons,
        "started_at": time_of(parameters["started_at"] or canary["from"], "started_at"),
        "finished_at": time_of(parameters["finished_at"] or canary["to"], "finished_at"),
        "plan": {key: parameters["plan"][key] for key in ("git_sha", "inventory_sha256")},
        "objectives": {name: entry for name, entry in objectives.items() if None not in entry.values()},
        "clock": clock,
        "phases": collect_phases(parameters["phases"]),
        "canary": {
            "host": parameters["canary_host"],
            "interval_ms": canary["interval_ms"],
            "gap_limit_seconds": _evidence.seconds(_evidence.gap_limit(interval)),
            "from": _evidence.show_time(window.start),
            "to": _evidence.show_time(window.end),
            "rows": len(ledger.rows) + len(ledger.unreadable),
        },
        "stores": stores,
        "versions": collect_versions([*parameters["recovery_before"], *parameters["recovery_after"]])
        | {key: None if value is None else str(value) for key, value in parameters["versions"].items()},
    }


def time_of(text: str, what: str) -> str:
    try:
        return _evidence.show_time(_evidence.read_time(text))
    except ValueError as error:
        raise MusterError(f"{what} is not a UTC time in ISO 8601: {text}") from error


# --- on the terminal -----------------------------------------------------------


def shown(value: float | int | None, digits: int = 2) -> str:
    if value is None:
        return "unknown"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def summary(evidence: Mapping[str, Any]) -> list[str]:
    """A short table: what was promised against what was measured, per store."""
    header = ["store", "acknowledged", "lost (objective)", "outage s (objective)", "two writers", "verdict"]
    rows = [header]
    for store in evidence["stores"]:
        objective = evidence["objectives"].get(store["name"])
        rto = f"{objective['rto_seconds']:g}" if objective else "none set"
        bad = _evidence.judge_store(store, objective)
        rows.append(
            [
                store["name"],
                shown(store["acked_writes"]),
                f"{shown(store['rpo_lost_writes'])} (0)",
                f"{shown(store['outage_seconds'])} ({rto})",
                shown(store["dual_writer_writes"]),
                "FAIL" if bad else "PASS",
            ]
        )
    return aligned(rows)


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


# --- on the disk -----------------------------------------------------------------


def check_folder(directory: Path, drill_id: str) -> Path:
    """The drill's folder; evidence that is there already is never written over."""
    if not DRILL_ID.match(drill_id) or drill_id == "latest":
        raise MusterError(
            f"drill_id may hold letters, digits and _ . - only, and not be 'latest': {drill_id!r}"
        )
    folder = directory / drill_id
    if (folder / "evidence.json").exists():
        raise MusterError(f"{folder} holds evidence already; a drill needs an id of its own")
    latest = directory / "latest"
    if latest.exists() and not latest.is_symlink():
        raise MusterError(f"{latest} is to be a link to the newest drill, but something else is there")
    return folder


def write_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files, the last one last: who sees it sees all of them. Then point `latest` here."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            write_file(folder / name, text)
        temporary = folder.parent / f".latest-{secrets.token_hex(6)}"
        temporary.symlink_to(folder.name)
        temporary.replace(folder.parent / "latest")
    except OSError as error:
        raise MusterError(f"cannot write the evidence to {folder}: {error.strerror}") from error


def write_file(path: Path, text: str) -> None:
    temporary = path.parent / f".{path.name}-{secrets.token_hex(6)}"
    try:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
