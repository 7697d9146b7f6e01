# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""PostgreSQL's recovery status: what a survey of two regions means for one host."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._patroni import (
    ROLES,
    Member,
    Region,
    format_lsn,
)


def primaries(regions: Mapping[str, Region]) -> list[Member]:
    """Every member that takes writes now; more than one is the worst state there is."""
    return [member for region in regions.values() for member in region.members.values() if member.writable]


def lag_bytes(member: Member, regions: Mapping[str, Region]) -> int | None:
    """How much WAL of the primary this member has not replayed; None when either end is unknown."""
    found = primaries(regions)
    if len(found) != 1 or found[0].lsn is None or member.lsn is None:
        return None
    return max(0, found[0].lsn - member.lsn)


def lag_seconds(member: Member, lag: int | None, now: datetime) -> float | None:
    """Age of the newest replayed commit while something is outstanding, else 0."""
    if lag is None:
        return None
    if lag == 0:
        return 0.0
    if not member.replayed_at:
        return None
    try:
        replayed = datetime.fromisoformat(member.replayed_at.replace(" UTC", "+00:00"))
    except ValueError:
        return None
    if replayed.tzinfo is None:
        replayed = replayed.replace(tzinfo=UTC)
    return round(max(0.0, (now - replayed).total_seconds()), 3)


def reasons_for(member: Member, regions: Mapping[str, Region]) -> list[str]:
    """Why this host is not healthy; an empty list means it is."""
    if member.error:
        return [member.error]
    reasons = []
    if member.role in ("stopped", "unknown") or member.state not in ("running", "streaming"):
        reasons.append(f"PostgreSQL on {member.host} is {member.state or 'in an unknown state'}")
        return reasons
    found = primaries(regions)
    if len(found) > 1:
        reasons.append("more than one host takes writes: " + ", ".join(m.host for m in found))
    if not found:
        reasons.append("no primary answers in any region, so the lag is not known")
    if ROLES.get(member.role) == "standby":
        if member.replication_state != "streaming":
            reasons.append(
                f"{member.host} is not streaming ({member.replication_state or 'no WAL receiver'})"
            )
        if len(found) == 1 and member.timeline != found[0].timeline:
            reasons.append(
                f"{member.host} is on timeline {member.timeline}, "
                f"the primary {found[0].host} on {found[0].timeline}"
            )
        if member.unled:
            reasons.append(f"nobody leads region {member.region}, so it cannot take over")
    return reasons


def recovery_status(
    member: Member, regions: Mapping[str, Region], now: datetime | None = None
) -> dict[str, Any]:
    """The design's recovery_status of one PostgreSQL host."""
    now = now or datetime.now(UTC)
    role = "stopped" if member.role == "stopped" else ROLES.get(member.role, "unknown")
    lag = 0 if member.writable else lag_bytes(member, regions)
    reasons = reasons_for(member, regions)
    ready = not member.unled and member.replication_state == "streaming" if role == "standby" else None
    return {
        "store": "postgresql",
        "region": member.region,
        "role": role,
        "healthy": not reasons,
        "reasons": reasons,
        "ready": ready,
        "position": format_lsn(member.lsn),
        "timeline": member.timeline,
        "lag_bytes": lag,
        "lag_seconds": lag_seconds(member, lag, now),
        "last_backup_at": None,
        "last_restore_proof_at": None,
        "versions": {
            "postgresql": str(member.server_version // 10000) + "." + str(member.server_version % 10000)
            if member.server_version
            else None,
            "patroni": member.patroni_version,
        },
    }
