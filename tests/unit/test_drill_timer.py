# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The scheduled drill: what it leaves behind, and what dr_status then says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils import _inventory
from ansible_collections.muster.platform.plugins.modules import drill_timer_info

PROGRAM = Path(__file__).resolve().parents[2] / "roles/controller/files/muster_drill_timer.py"
Run = Callable[..., dict[str, Any]]
DAY = 86400.0


def configure(root: Path, *command: str, **changes: Any) -> Path:
    config = root / "drill-timer.json"
    document = {
        "command": list(command),
        "environment": {"WHICH": "monthly"},
        "timeout": 20,
        "max_age_days": 35,
        "state": str(root / "state.json"),
        "metrics": str(root / "metrics/muster_drill.prom"),
    }
    config.write_text(json.dumps({**document, **changes}))
    return config


def drill(config: Path) -> int:
    command = [sys.executable, "-I", PROGRAM, config]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode


def info(config: Path, run_module: Run) -> dict[str, Any]:
    return run_module(drill_timer_info, {"config": str(config)})


def metrics(root: Path) -> dict[str, float]:
    lines = (root / "metrics/muster_drill.prom").read_text().splitlines()
    pairs = (line.split() for line in lines if not line.startswith("#"))
    return {name.removeprefix("muster_scheduled_drill_"): float(value) for name, value in pairs}


def test_one_that_passes(tmp_path: Path, run_module: Run) -> None:
    config = configure(tmp_path, "/bin/sh", "-c", "test $WHICH = monthly")
    assert info(config, run_module)["reasons"] == []  # set up a moment ago
    assert drill(config) == 0
    found = info(config, run_module)
    assert (found["reasons"], found["passed"], found["detail"]) == ([], True, "")
    assert found["last_passed_at"] == found["ended_at"]
    shown = metrics(tmp_path)
    assert (shown["passed"], shown["max_age_seconds"]) == (1, 35 * DAY)
    assert shown["last_pass_timestamp_seconds"] >= shown["last_start_timestamp_seconds"] > 1_700_000_000
    assert (tmp_path / "metrics/muster_drill.prom").stat().st_mode & 0o777 == 0o644


def test_one_that_fails_keeps_the_last_pass_and_says_why(tmp_path: Path, run_module: Run) -> None:
    assert drill(configure(tmp_path, "/bin/true")) == 0
    passed = json.loads((tmp_path / "state.json").read_text())["last_passed_at"]
    config = configure(tmp_path, "/bin/sh", "-c", "echo the drill did not pass: rotten; echo recap; exit 2")
    assert drill(config) == 1
    found = info(config, run_module)
    assert (found["passed"], found["last_passed_at"]) == (False, passed)
    assert found["reasons"] == [
        f"the scheduled drill of {found['started_at']} failed: the drill did not pass: rotten"
    ]
    assert metrics(tmp_path)["passed"] == 0


@pytest.mark.parametrize(
    ("command", "changes", "detail"),
    [
        (("/bin/sleep", "30"), {"timeout": 0.2}, "it did not end within 0.2 s"),
        (
            ("/nowhere/ansible-playbook",),
            {},
            "/nowhere/ansible-playbook cannot be run: No such file or directory",
        ),
        (("/bin/false",), {}, "it said nothing"),
    ],
)
def test_what_else_fails(
    command: tuple[str, ...], changes: dict[str, Any], detail: str, tmp_path: Path, run_module: Run
) -> None:
    config = configure(tmp_path, *command, **changes)
    assert drill(config) == 1
    assert info(config, run_module)["detail"] == detail


def test_overdue(tmp_path: Path, run_module: Run) -> None:
    config = configure(tmp_path, "/bin/true")
    long_ago = (datetime.now(UTC) - timedelta(days=36)).timestamp()
    os.utime(config, (long_ago, long_ago))
    assert info(config, run_module)["reasons"] == [
        "the scheduled drill is overdue: none has passed, and the limit is 35 days"
    ]
    assert drill(config) == 0
    assert info(config, run_module)["reasons"] == []
    state = json.loads((tmp_path / "state.json").read_text())
    state["last_passed_at"] = "2026-01-01T00:00:00Z"
    (tmp_path / "state.json").write_text(json.dumps(state))
    (reason,) = info(config, run_module)["reasons"]
    assert "overdue: the last one passed at 2026-01-01T00:00:00Z" in reason


def test_one_that_never_ended(tmp_path: Path, run_module: Run) -> None:
    config = configure(tmp_path, "/bin/true")
    assert drill(config) == 0
    state = json.loads((tmp_path / "state.json").read_text())
    state |= {"started_at": "2026-01-01T00:00:00Z", "ended_at": None, "passed": None}
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert info(config, run_module)["reasons"] == ["the scheduled drill of 2026-01-01T00:00:00Z never ended"]


@pytest.mark.parametrize("text", ["{", "[]", None, '{"max_age_days": "x"}'])
def test_what_cannot_be_read_counts_against(text: str | None, tmp_path: Path, run_module: Run) -> None:
    config = tmp_path / "drill-timer.json"
    if text is not None:
        config.write_text(text)
    (reason,) = info(config, run_module)["reasons"]
    assert reason.startswith("how the scheduled drills went is not known: ")


@pytest.mark.parametrize(
    ("groups", "settings", "message"),
    [
        (
            {},
            {"dr_drill_timer_enabled": "monthly"},
            "dr_drill_timer_enabled is 'monthly': it must be true or false",
        ),
        ({}, {"dr_drill_timer_enabled": True}, "needs a host in group witnesses"),
        (
            {"witnesses": ["w"]},
            {"dr_drill_timer_enabled": True, "dr_drill_timer_calendar": 5},
            "it must be what systemd",
        ),
        (
            {"witnesses": ["w"]},
            {"dr_drill_timer_enabled": True, "dr_drill_timer_calendar": "a\nb"},
            "OnCalendar",
        ),
        ({"witnesses": ["w"]}, {"dr_drill_timer_enabled": "yes"}, None),
        ({}, {"dr_drill_timer_enabled": False, "dr_drill_timer_calendar": 5}, None),
        ({}, {}, None),
    ],
)
def test_what_an_inventory_may_say(groups: Any, settings: dict[str, Any], message: str | None) -> None:
    found = list(_inventory.check_drill_timer(groups, settings))
    assert (message is None and found == []) or (message is not None and message in "".join(found))
