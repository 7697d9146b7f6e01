# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The platform's recovery status, put together from what each host said of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEALTHY, DEGRADED, UNABLE = 0, 1, 2
WORDS = {HEALTHY: "healthy", DEGRADED: "degraded", UNABLE: "unable to switch"}
MOST = 24
COLUMNS = ("store", "region", "host", "role", "timeline", "lag bytes", "lag s", "last backup", "reasons")


def silent(store: str, region: str, host: str) -> dict[str, Any]:
    """The status of a host that did not say anything."""
    return {
        "store": store,
        "region": region,
        "host": host,
        "role": "unknown",
        "healthy": False,
        "reasons": [f"{host} did not answer"],
        "ready": None,
        "position": None,
        "timeline": None,
        "lag_bytes": None,
        "lag_seconds": None,
        "last_backup_at": None,
        "last_restore_proof_at": None,
        "versions": {},
    }


def lag_is_known(row: Mapping[str, Any]) -> bool:
    """By what the store counts in: bytes, where its status does not name another key (C(lag_measure))."""
    return row.get(str(row.get("lag_measure") or "lag_bytes")) is not None


def switchable(store: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why a planned switch of this store is not possible now; empty when it is."""
    primaries = [row for row in rows if row["role"] == "primary"]
    # Of a cluster that takes writes at each of its hosts there is one a region.
    if all(row.get("shared") for row in primaries):
        primaries = list({row["region"]: row for row in primaries}.values())
    if len(primaries) > 1:
        return [f"{store}: more than one primary ({', '.join(row['host'] for row in primaries)})"]
    if not primaries:
        return [f"{store}: no primary answers"]
    home = primaries[0]["region"]
    standbys = [row for row in rows if row["region"] != home and row["role"] == "standby"]
    if not standbys:
        return [f"{store}: no standby answers outside region {home}"]
    fit = [
        row
        for row in standbys
        if lag_is_known(row) and row["timeline"] == primaries[0]["timeline"] and row["ready"]
    ]
    if not fit:
        return [
            f"{store}: no standby outside region {home} that could take over "
            "is on the primary's timeline with a known lag"
        ]
    return []


def judge(rows: Sequence[Mapping[str, Any]], more: Sequence[str] = ()) -> dict[str, Any]:
    """0 healthy, 1 degraded, 2 unable to switch; unknown counts against, never for.

    C(more) is what else is wrong with the platform, and keeps nobody from switching.
    """
    reasons: list[str] = []
    for store in sorted({str(row["store"]) for row in rows}):
        reasons += switchable(store, [row for row in rows if row["store"] == store])
    code = UNABLE if reasons or not rows else HEALTHY
    for row in rows:
        reasons += [reason for reason in row["reasons"] if reason not in reasons]
    reasons += [reason for reason in more if reason not in reasons]
    if code == HEALTHY and (reasons or not all(row["healthy"] for row in rows)):
        code = DEGRADED
    return {"exit_code": code, "status": WORDS[code], "reasons": reasons}


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows as aligned text; a figure that is not known is a dash."""

    def text(value: Any) -> str:
        # Of an id its beginning tells it apart.
        return "-" if value is None else str(value) if len(str(value)) <= MOST else f"{str(value)[:8]}…"

    cells = [list(COLUMNS)]
    for row in rows:
        keys = ("store", "region", "host", "role", "timeline", "lag_bytes", "lag_seconds", "last_backup_at")
        cells.append([text(row[key]) for key in keys] + ["; ".join(row["reasons"]) or "ok"])
    widths = [max(len(line[index]) for line in cells) for index in range(len(COLUMNS) - 1)]
    return [
        "  ".join([*(c.ljust(w) for c, w in zip(line[:-1], widths, strict=True)), line[-1]]) for line in cells
    ]
