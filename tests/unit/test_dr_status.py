# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""dr_status: how rows are judged, and the action over facts of hosts."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from action_fake import run_action
from ansible.errors import AnsibleError
from ansible_collections.muster.platform.plugins.action import dr_status
from ansible_collections.muster.platform.plugins.module_utils._dr_status import judge, silent, table

Row = dict[str, Any]


def row(host: str, role: str = "standby", **more: Any) -> Row:
    region = {"n": "north", "s": "south"}[host[0]]
    return {
        **silent("postgresql", region, host),
        "role": role,
        "healthy": not more.get("reasons"),
        "reasons": [],
        "timeline": 3,
        "lag_bytes": 0,
        "lag_seconds": 0.0,
        "last_backup_at": "2026-11-21T10:00:00Z",
        "ready": None if role == "primary" else True,
        **more,
    }


GOOD = [row("n1", "primary"), row("n2"), row("s1"), row("s2")]


def without(host: str, *more: Row) -> list[Row]:
    return [found for found in GOOD if found["host"] != host] + list(more)


def test_what_else_is_wrong_degrades_and_keeps_nobody_from_switching() -> None:
    overdue = ["the scheduled drill is overdue"]
    assert judge(GOOD, overdue) == {"exit_code": 1, "status": "degraded", "reasons": overdue}
    found = judge(without("n1"), overdue)
    assert (found["exit_code"], found["reasons"][-1]) == (2, overdue[0])


@pytest.mark.parametrize(
    ("rows", "code", "reasons"),
    [
        (GOOD, 0, []),
        (without("n2", row("n2", reasons=["n2 is slow"])), 1, ["n2 is slow"]),
        (without("n2", {**row("n2"), "healthy": False}), 1, []),
        # One standby of two is enough for a switch, but not healthy.
        (
            without("s2", silent("postgresql", "south", "s2")),
            1,
            ["s2 did not answer"],
        ),
        ([], 2, []),
        (without("n1"), 2, ["postgresql: no primary answers"]),
        (
            without("s1", row("s1", "primary")),
            2,
            ["postgresql: more than one primary (n1, s1)"],
        ),
        (
            [row("n1", "primary"), row("n2")],
            2,
            ["postgresql: no standby answers outside region north"],
        ),
        (
            [row("n1", "primary"), row("s1", lag_bytes=None)],
            2,
            [
                "postgresql: no standby outside region north that could take over is on the primary's timeline "
                "with a known lag"
            ],
        ),
        (
            [row("n1", "primary"), row("s1", timeline=2)],
            2,
            [
                "postgresql: no standby outside region north that could take over is on the primary's timeline "
                "with a known lag"
            ],
        ),
        (
            [row("n1", "primary"), row("s1", ready=False, reasons=["s1 is not streaming (x)"])],
            2,
            [
                "postgresql: no standby outside region north that could take over is on the primary's timeline "
                "with a known lag",
                "s1 is not streaming (x)",
            ],
        ),
    ],
)
def test_judgement(rows: list[Row], code: int, reasons: list[str]) -> None:
    found = judge(rows)
    assert (found["exit_code"], found["reasons"]) == (code, reasons)
    assert found["status"] == ["healthy", "degraded", "unable to switch"][code]


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({}, 2),
        ({"lag_measure": "lag_messages"}, 2),
        ({"lag_measure": "lag_messages", "lag_messages": None}, 2),
        ({"lag_measure": "lag_messages", "lag_messages": 0}, 0),
        ({"lag_measure": "lag_seconds"}, 0),
    ],
)
def test_a_lag_is_known_in_what_the_store_counts(more: Row, code: int) -> None:
    assert judge([row("n1", "primary"), row("s1", lag_bytes=None, **more)])["exit_code"] == code


def test_a_cluster_that_takes_writes_everywhere_is_one_primary_a_region() -> None:
    rows = [row(host, "primary", shared=True) for host in ("n1", "n2")] + [row("s1", shared=True)]
    assert judge(rows)["exit_code"] == 0
    found = judge([*rows[:2], row("s1", "primary", shared=True)])
    assert (found["exit_code"], found["reasons"]) == (2, ["postgresql: more than one primary (n2, s1)"])
    # Who does not say so is not believed.
    assert judge([rows[0], row("n2", "primary"), rows[2]])["exit_code"] == 2


def test_of_a_long_timeline_the_beginning_is_shown() -> None:
    head, line = table([row("n1", "primary", timeline="7758756db5fc03d076f424ae959b1ea8cdd27cdc")])
    assert line[head.index("timeline") :].startswith("7758756d… ")


def test_a_reason_is_told_once() -> None:
    rows = [row(host, reasons=["no primary answers"]) for host in ("s1", "s2")]
    assert judge([row("n1", "primary"), *rows])["reasons"] == ["no primary answers"]


def test_the_table_is_aligned_and_tells_unknown_by_a_dash() -> None:
    head, *lines = table([row("n1", "primary"), {**row("s1", lag_bytes=None), "reasons": ["a", "b"]}])
    assert head.startswith("store       region  host")
    assert lines[0].endswith("  ok")
    assert lines[1].endswith("  a; b")
    column = head.index("lag bytes")
    assert [line[column] for line in lines] == ["0", "-"]
    assert len({line.index("2026-11-21") for line in lines} | {head.index("last backup")}) == 1


# --- the action -------------------------------------------------------------------------------


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(dr_status.display, "display", lines.append)
    return lines


def variables() -> dict[str, Any]:
    hostvars = {
        found["host"]: {
            "group_names": ["postgresql", f"region_{found['region']}"],
            "recovery_statuses": {
                found["store"]: {key: value for key, value in found.items() if key != "host"}
            },
        }
        for found in GOOD
    }
    return {"groups": {"postgresql": list(hostvars)}, "hostvars": hostvars}


def test_facts_become_rows_a_table_and_a_file(printed: list[str], tmp_path: Path) -> None:
    dest = tmp_path / "new" / "status.json"
    answer = run_action(
        dr_status, {"stores": ["postgresql"], "dest": str(dest), "end_run": True}, variables()
    )
    assert (answer["changed"], answer["exit_code"], answer["muster_exit_code"]) == (False, 0, 0)
    assert [found["host"] for found in answer["rows"]] == ["n1", "n2", "s1", "s2"]
    written = json.loads(dest.read_text())
    assert written["schema_version"] == 1
    assert (written["exit_code"], written["status"], written["stores"]) == (0, "healthy", answer["rows"])
    assert written["at"].endswith("Z")
    assert stat.S_IMODE(dest.stat().st_mode) == 0o644
    assert [path.name for path in dest.parent.iterdir()] == ["status.json"]
    assert "healthy" in printed[1]


def test_a_host_that_said_nothing_counts_against(printed: list[str]) -> None:
    given = variables()
    del given["hostvars"]["s1"]["recovery_statuses"]
    statuses = given["hostvars"]["s2"]["recovery_statuses"]
    statuses["valkey"] = statuses.pop("postgresql")
    answer = run_action(dr_status, {"stores": ["postgresql"]}, given)
    assert answer["exit_code"] == 2
    assert answer["reasons"] == [
        "postgresql: no standby answers outside region north",
        "s1 did not answer",
        "s2 did not answer",
    ]
    assert "muster_exit_code" not in answer
    assert "  - s1 did not answer" in printed[1]


@pytest.mark.parametrize("ready", [False, None])
def test_a_standby_that_could_not_take_over_is_no_target(printed: list[str], ready: bool | None) -> None:
    given = variables()
    for host in ("s1", "s2"):
        given["hostvars"][host]["recovery_statuses"]["postgresql"]["ready"] = ready
    answer = run_action(dr_status, {"stores": ["postgresql"], "show": False}, given)
    assert answer["exit_code"] == 2
    assert printed == []


def test_no_stores_or_no_hosts(printed: list[str]) -> None:
    assert run_action(dr_status, {"stores": ["valkey"]}, variables())["exit_code"] == 2
    with pytest.raises(AnsibleError, match="stores"):
        run_action(dr_status, {}, variables())
