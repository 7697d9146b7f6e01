# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a survey of two regions means for one host."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils._patroni import Member, Region
from ansible_collections.muster.platform.plugins.module_utils._recovery import (
    lag_bytes,
    lag_seconds,
    primaries,
    reasons_for,
    recovery_status,
)

NOW = datetime(2026, 11, 21, 10, 0, 10, tzinfo=UTC)


def primary(**more: Any) -> Member:
    return Member(
        "north-1", "north", **{"role": "primary", "state": "running", "timeline": 3, "lsn": 1000, **more}
    )


def standby(**more: Any) -> Member:
    given = {
        "role": "standby_leader",
        "state": "running",
        "timeline": 3,
        "lsn": 900,
        "replication_state": "streaming",
    }
    return Member("south-1", "south", **{**given, **more})


def regions(*members: Member) -> dict[str, Region]:
    return {
        name: Region(name, {m.host: m for m in members if m.region == name}) for name in ("north", "south")
    }


def test_only_who_takes_writes_now_is_a_primary() -> None:
    assert primaries(regions(primary(), standby())) == [primary()]
    assert primaries(regions(primary(state="starting"), standby())) == []


@pytest.mark.parametrize(
    ("old", "new", "lag"),
    [
        (primary(), standby(), 100),
        (primary(), standby(lsn=1200), 0),  # read a moment later than the primary
        (primary(), standby(lsn=None), None),
        (primary(lsn=None), standby(), None),
        (primary(state="stopping"), standby(), None),
        (primary(), standby(role="primary"), None),
    ],
)
def test_lag_is_known_or_null(old: Member, new: Member, lag: int | None) -> None:
    assert lag_bytes(new, regions(old, new)) == lag


@pytest.mark.parametrize(
    ("lag", "replayed_at", "seconds"),
    [
        (None, "2026-11-21 10:00:00+00:00", None),
        (0, None, 0.0),
        (1, "2026-11-21 10:00:07.25+00:00", 2.75),
        (1, "2026-11-21 10:00:07.25 UTC", 2.75),
        (1, "2026-11-21 10:00:07.25", 2.75),
        (1, "2026-11-21 11:00:00+00:00", 0.0),
        (1, None, None),
        (1, "yesterday", None),
    ],
)
def test_lag_in_seconds(lag: int | None, replayed_at: str | None, seconds: float | None) -> None:
    assert lag_seconds(standby(replayed_at=replayed_at), lag, NOW) == seconds


@pytest.mark.parametrize(
    ("members", "reasons"),
    [
        ((primary(), standby()), []),
        ((primary(), standby(error="no answer")), ["no answer"]),
        ((primary(), standby(role="stopped", state="stopped")), ["PostgreSQL on south-1 is stopped"]),
        ((primary(), standby(role="unknown", state=None)), ["PostgreSQL on south-1 is in an unknown state"]),
        ((primary(), standby(state="starting")), ["PostgreSQL on south-1 is starting"]),
        ((standby(),), ["no primary answers in any region, so the lag is not known"]),
        (
            (primary(), standby(replication_state="in archive recovery")),
            ["south-1 is not streaming (in archive recovery)"],
        ),
        ((primary(), standby(replication_state=None)), ["south-1 is not streaming (no WAL receiver)"]),
        ((primary(), standby(timeline=2)), ["south-1 is on timeline 2, the primary north-1 on 3"]),
        ((primary(), standby(unled=True)), ["nobody leads region south, so it cannot take over"]),
        ((primary(unled=True), standby()), []),
        ((primary(), standby(role="primary")), ["more than one host takes writes: north-1, south-1"]),
    ],
)
def test_reasons(members: tuple[Member, ...], reasons: list[str]) -> None:
    assert reasons_for(members[-1], regions(*members)) == reasons


@pytest.mark.parametrize(
    ("member", "ready"),
    [
        (primary(), None),
        (standby(role="stopped", state="stopped"), None),
        (Member("south-1", "south", error="silent"), None),
        (standby(), True),
        (standby(role="replica"), True),
        (standby(role="replica", unled=True), False),
        (standby(replication_state="in archive recovery"), False),
        (standby(replication_state=None), False),
    ],
)
def test_a_standby_tells_whether_it_could_take_over(member: Member, ready: bool | None) -> None:
    assert recovery_status(member, regions(member), NOW)["ready"] is ready


@pytest.mark.parametrize(
    ("member", "role"),
    [
        (primary(), "primary"),
        (standby(), "standby"),
        (standby(role="replica"), "standby"),
        (standby(role="stopped", state="crashed"), "stopped"),
        (Member("south-1", "south", error="silent"), "unknown"),
    ],
)
def test_every_figure_that_is_not_known_is_null(member: Member, role: str) -> None:
    found = recovery_status(member, regions(member), NOW)
    assert found["role"] == role
    assert found["versions"] == {"postgresql": None, "patroni": None}
    if role != "primary":
        assert (found["lag_bytes"], found["lag_seconds"], found["healthy"]) == (None, None, False)
    else:
        assert (found["lag_bytes"], found["lag_seconds"], found["healthy"]) == (0, 0.0, True)
    assert (found["last_backup_at"], found["last_restore_proof_at"]) == (None, None)
