"""The controller is killed in each phase of a switchover; the same command ends it. Never two writers."""

from __future__ import annotations

import subprocess
import time

import pytest
from e2e_lab import Lab, kill_group, other, wait

PHASES = ("assess", "before the demotion", "demoted", "promoting", "verify")


def kill_everywhere(process: subprocess.Popen[bytes], lab: Lab) -> None:
    """Kill the controller and, harder than any real crash of it, the module on every host."""
    kill_group(process)
    for host in ("north-1", "north-2", "south-1", "south-2"):
        # Modules are fed to a bare `python3` over ssh. Patroni starts PostgreSQL by a child of that name too,
        # and when that is killed it waits for it without end.
        lab.sh(
            host,
            "for process in $(pgrep -x python3); do "
            "grep -q multiprocessing /proc/$process/cmdline || kill -KILL $process; done",
            check=False,
        )


@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_switchover_is_ended_by_the_same_command(healthy: Lab, phase: str) -> None:
    lab = healthy
    home = lab.primary_region()
    away = other(home)
    since = lab.now()
    process = lab.start("dr_switchover", "-e", f"dr_target_region={away}")
    if phase == "assess":
        time.sleep(1.5)
    elif phase == "before the demotion":
        wait(
            lambda: lab.in_etcd(away, "/muster/locks/dr"), "the handover to take its lock", 60, 0.05, process
        )
    elif phase == "demoted":
        wait(lambda: lab.declared_standby(home), "the old region to be demoted", 60, 0.05, process)
    elif phase == "promoting":
        wait(lambda: not lab.declared_standby(away), "the new region to be opened", 60, 0.05, process)
    else:
        wait(lambda: lab.primary_region() == away, "the new primary to answer", 60, 0.1, process)
    kill_everywhere(process, lab)

    lab.ok("dr_switchover", "-e", f"dr_target_region={away}")
    assert lab.primary_region() == away
    window = lab.window(since)
    assert window.lost == set()
    assert window.dual == []


def test_a_switch_that_cannot_catch_up_puts_the_old_primary_back(healthy: Lab) -> None:
    lab = healthy
    home = lab.primary_region()
    away = other(home)
    since = lab.now()
    # Replay on the standbys stands still: they will never hold all of the old primary's WAL.
    for host in (f"{away}-1", f"{away}-2"):
        lab.sh(host, "pkill -STOP -f '[s]tartup recovering'")
    try:
        run = lab.play(
            "dr_switchover",
            "-e",
            f"dr_target_region={away}",
            "-e",
            '{"postgresql_handover_timeouts": {"catch_up": 3}}',
        )
    finally:
        for host in (f"{away}-1", f"{away}-2"):
            lab.sh(host, "pkill -CONT -f '[s]tartup recovering'", check=False)
    assert run.code != 0
    assert "rolled back" in run.output
    assert wait(lambda: lab.primary_region() == home, "the old primary to be back", 60)
    window = lab.window(since)
    assert window.lost == set()
    assert window.dual == []
