"""Hosts die under the canary: no acknowledged write is lost."""

from __future__ import annotations

import time

import psycopg2
import pytest
from e2e_lab import ENDPOINTS, Lab, wait


def leader(lab: Lab) -> str:
    return next(row["host"] for row in lab.status()["stores"] if row["role"] == "primary")


def writes_again(lab: Lab, since: str, timeout: float = 90) -> None:
    """Wait until the canary was answered again after a moment."""

    def answered() -> bool:
        text = lab.sh("witness", "tail -n 40 /var/lib/muster/canary/ledger.csv")
        return any(line.split(",")[3] > since for line in text.splitlines() if line.count(",") >= 5)

    wait(answered, "the canary to be answered again", timeout)


def test_the_primary_host_dies(healthy: Lab) -> None:
    lab = healthy
    victim = leader(lab)
    since = lab.now()
    lab.kill(victim)
    killed = lab.now()
    time.sleep(2)
    writes_again(lab, lab.now())
    window = lab.window(since)
    assert window.lost == set()
    assert window.dual == []
    assert any(row[3] > killed for row in window.acked)


def test_a_replica_host_dies(healthy: Lab) -> None:
    lab = healthy
    primary = leader(lab)
    victim = primary[:-1] + {"1": "2", "2": "1"}[primary[-1]]
    since = lab.now()
    lab.kill(victim)
    time.sleep(2)
    writes_again(lab, lab.now())
    window = lab.window(since)
    assert window.lost == set()
    assert window.dual == []


def test_an_etcd_member_dies(healthy: Lab) -> None:
    lab = healthy
    region = lab.primary_region()
    since = lab.now()
    lab.sh(f"{region}-3", "systemctl kill --signal=KILL etcd.service && systemctl stop etcd.service")
    try:
        time.sleep(8)
        window = lab.window(since)
        assert window.lost == set()
        assert window.dual == []
        # Two of three members are a quorum: no outage beyond the canary's own rhythm.
        assert window.outage < 3
    finally:
        lab.sh(f"{region}-3", "systemctl start etcd.service")


def test_the_haproxy_host_of_the_primary_region_dies(healthy: Lab) -> None:
    lab = healthy
    region = lab.primary_region()
    victim = f"{region}-3"
    other = next(endpoint for endpoint in ENDPOINTS if endpoint != victim)
    since = lab.now()
    lab.kill(victim)
    time.sleep(5)
    window = lab.window(since)
    assert window.lost == set()
    assert window.dual == []
    assert lab.query(other, "select 1") == [(1,)]
    with pytest.raises(psycopg2.OperationalError):
        lab.query(victim, "select 1")


def test_the_canary_survives_kill_9(healthy: Lab) -> None:
    lab = healthy
    since = lab.now()
    time.sleep(2)
    lab.sh("witness", "systemctl kill --signal=KILL muster-canary.service")
    time.sleep(1)
    writes_again(lab, lab.now(), 30)
    window = lab.window(since)
    numbers = [int(row[1]) for row in window.rows]
    assert len(numbers) == len(set(numbers)), "a number was used twice"
    assert window.lost == set()
