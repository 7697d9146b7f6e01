"""The controller is killed in each phase of a switchover; the same command ends it. Never two writers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time

import pytest
from e2e_lab import Lab, wait

PHASES = ("assess", "before the demotion", "demoted", "promoting", "verify")


def kill_group(process: subprocess.Popen[bytes], lab: Lab) -> None:
    """Kill the controller and, harder than any real crash of it, the module on every host."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    for host in ("north-1", "north-2", "south-1", "south-2"):
        # Modules are fed to a bare `python3` over ssh. Patroni starts PostgreSQL by a child of that name too,
        # and when that is killed it waits for it without end.
        lab.sh(
            host,
            "for process in $(pgrep -x python3); do "
            "grep -q multiprocessing /proc/$process/cmdline || kill -KILL $process; done",
            check=False,
        )


def declared_standby(lab: Lab, region: str) -> bool:
    """Whether etcd says that the region is a standby: the one fact that changes at each step."""
    endpoint = f"--endpoints https://{region}-3:2379"
    tls = "--cacert /etc/etcd/tls/ca.crt --cert /etc/etcd/tls/member.crt --key /etc/etcd/tls/member.key"
    text = lab.sh(
        f"{region}-3",
        f"ETCDCTL_API=3 etcdctl {endpoint} {tls} get --print-value-only /service/muster-{region}/config",
    )
    return '"standby_cluster"' in text


@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_switchover_is_ended_by_the_same_command(healthy: Lab, phase: str) -> None:
    lab = healthy
    home = lab.primary_region()
    away = {"north": "south", "south": "north"}[home]
    since = lab.now()
    process = lab.start("dr_switchover", "-e", f"dr_target_region={away}")
    if phase == "assess":
        time.sleep(1.5)
    elif phase == "before the demotion":
        wait(lambda: "muster-dr" in locks(lab, away), "the handover to take its lock", 60, 0.05)
    elif phase == "demoted":
        wait(lambda: declared_standby(lab, home), "the old region to be demoted", 60, 0.05)
    elif phase == "promoting":
        wait(lambda: not declared_standby(lab, away), "the new region to be opened", 60, 0.05)
    else:
        wait(lambda: lab.primary_region() == away, "the new primary to answer", 60, 0.1)
    kill_group(process, lab)

    lab.ok("dr_switchover", "-e", f"dr_target_region={away}")
    assert lab.primary_region() == away
    window = lab.window(since)
    assert window.lost == set()
    assert window.dual == []


def locks(lab: Lab, region: str) -> str:
    endpoint = f"--endpoints https://{region}-3:2379"
    tls = "--cacert /etc/etcd/tls/ca.crt --cert /etc/etcd/tls/member.crt --key /etc/etcd/tls/member.key"
    found = lab.sh(
        f"{region}-3", f"ETCDCTL_API=3 etcdctl {endpoint} {tls} get --prefix --keys-only /muster/locks/"
    )
    return "muster-dr" if "/muster/locks/dr" in found else ""


def test_a_switch_that_cannot_catch_up_puts_the_old_primary_back(healthy: Lab) -> None:
    lab = healthy
    home = lab.primary_region()
    away = {"north": "south", "south": "north"}[home]
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
