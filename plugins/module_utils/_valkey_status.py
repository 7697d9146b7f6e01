# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Valkey's recovery status: what a survey of two regions means for one host."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._systemd import systemctl
from ansible_collections.muster.platform.plugins.module_utils._valkey import Server, World
from ansible_collections.muster.platform.plugins.module_utils._valkey_state import SERVER_UNIT, Place


def lag_bytes(server: Server, world: World) -> int | None:
    """What the primary has written and this host has not received; None when either is unknown."""
    if server.writable:
        return 0
    primary = world.primary()
    if primary is None or primary.offset is None or server.offset is None:
        return None
    # Only on the primary's own line do the two numbers count the same bytes.
    if primary.replid != server.replid:
        return None
    return max(0, primary.offset - server.offset)


def lag_seconds(server: Server, lag: int | None) -> float | None:
    if lag is None:
        return None
    if lag == 0:
        return 0.0
    return float(server.last_io) if server.link_up and server.last_io is not None else None


def replica_reasons(server: Server, world: World) -> list[str]:
    found = []
    primary = world.primary()
    if server.copying:
        found.append(f"{server.host} copies all data from {server.upstream}")
    elif not server.link_up:
        found.append(f"{server.host} is not streaming from {server.upstream}")
    if primary is not None and server.link_up and primary.replid != server.replid:
        found.append(f"{server.host} follows another history than the primary {primary.host}")
    if world.leader(server.region) is None:
        found.append(f"nobody leads region {server.region}, so it cannot take over")
    return found


def watch_reasons(server: Server, world: World) -> list[str]:
    """What the Sentinels of a region mean for its health."""
    primary = world.primary()
    watch = world.watches[server.host]
    found = []
    if watch.error:
        found.append(f"the Sentinel on {server.host} does not answer ({watch.error})")
    if primary is None:
        return found
    watching = world.watching(server.region)
    if server.region == primary.region and len(watching) < world.quorum(server.region):
        found.append(
            f"too few Sentinels watch region {server.region}, so that nobody takes over from its primary"
        )
    if server.region != primary.region and watching:
        names = ", ".join(one.host for one in watching)
        found.append(f"the Sentinels on {names} watch region {server.region}, which is a standby")
    return found


def reasons_for(server: Server, world: World) -> list[str]:
    """Why this host is not healthy; an empty list means it is."""
    if server.error:
        return [server.error]
    reasons = list(server.complaints)
    if server.loading:
        reasons.append(f"Valkey on {server.host} reads its data")
    found = world.primaries()
    if len(found) > 1:
        reasons.append("more than one host takes writes: " + ", ".join(one.host for one in found))
    if not found:
        reasons.append("no primary answers in any region, so the lag is not known")
    if server.follows:
        reasons += replica_reasons(server, world)
    return reasons + watch_reasons(server, world)


def role_of(server: Server) -> str:
    if server.error is None:
        return "primary" if server.writable else "standby"
    try:
        state = systemctl("is-active", SERVER_UNIT, check=False)
    except MusterError:
        return "unknown"
    return "stopped" if state in ("inactive", "failed") else "unknown"


def noted(path: str | None, key: str) -> str | None:
    """A time that was noted in a file on this host; None when that is not known."""
    try:
        with open(path or "", encoding="utf-8") as stream:
            return str(json.load(stream)[key])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def fence_note(marker: str) -> list[str]:
    """That this host is fenced, and since when; an empty list when it is not."""
    if not os.path.lexists(marker):
        return []
    try:
        with open(marker, encoding="utf-8") as stream:
            note = json.load(stream)
        since = f" since {note['fenced_at']} ({note.get('operation') or 'by hand'})"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        since = ""
    return [f"fenced{since}; dr_reprotect brings it back"]


def recovery_status(world: World, host: str, place: Place, params: Mapping[str, Any]) -> dict[str, Any]:
    """The design's recovery_status of one Valkey host, which is the one that this runs on."""
    server = world.servers[host]
    role, reasons = role_of(server), reasons_for(server, world)
    backup = noted(params["backup_proof"], "taken_at")
    if params["backups"] and backup is None:
        reasons.append(f"{host} has no backup yet")
    fenced = fence_note(place.marker)
    if fenced:
        role, reasons = "fenced", [*fenced, *reasons]
    lag = lag_bytes(server, world)
    led = world.leader(server.region) is not None
    return {
        "store": "valkey",
        "region": server.region,
        "role": role,
        "healthy": not reasons,
        "reasons": reasons,
        "ready": server.link_up and led if role == "standby" else None,
        "position": None if server.offset is None else str(server.offset),
        "timeline": server.replid,
        "lag_bytes": lag,
        "lag_seconds": lag_seconds(server, lag),
        "last_backup_at": backup,
        "last_restore_proof_at": noted(params["restore_proof"], "proven_at"),
        "versions": {"valkey": server.version},
    }


def describe(world: World) -> dict[str, Any]:
    """Each region as plain data."""
    found = {}
    for name in world.regions:
        leader = world.leader(name)
        members = {}
        for server in world.of(name):
            data = dataclasses.asdict(server)
            data["sentinel_error"] = world.watches[server.host].error
            members[server.host] = data
        found[name] = {
            "leader": leader.host if leader else None,
            "watching": len(world.watching(name)),
            "members": members,
        }
    return found
