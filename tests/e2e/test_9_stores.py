"""All four stores in one lab: a planned move, and the loss of a region, measured for each of them."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Any

import pytest
from e2e_lab import CHECKOUT, Lab, hosts_of, other

# Three more stores come up, and six hosts of four stores die and return: on two cores, beside other tests.
MINUTES = 25
pytestmark = pytest.mark.timeout(MINUTES * 60)
STORES = ["object_storage", "postgresql", "rabbitmq", "valkey"]


@pytest.fixture(scope="module")
def four(lab: Lab) -> Lab:
    """The same lab, with the three other stores in it."""
    left = float(os.environ.get("MUSTER_STAGE_ENDS", "inf")) - time.time()
    if left < MINUTES * 60:
        pytest.skip(f"{left / 60:.0f} minutes are left to the run, and these tests take up to {MINUTES}")
    lab.repair()
    done = subprocess.run(
        ["scripts/lab", "up"], cwd=CHECKOUT, env=lab.environment | {"STORES": "all"},
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return lab


def measured(evidence: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = {store["name"]: store for store in evidence["stores"]}
    assert sorted(found) == STORES
    return found


def test_a_planned_move_of_all_loses_nothing(four: Lab) -> None:
    _folder, evidence = four.drill("switchover")
    assert evidence["verdict"] == "PASS"
    for name, store in measured(evidence).items():
        assert (store["rpo_lost_writes"], store["dual_writer_writes"]) == (0, 0), name
        assert store["acked_writes"] > 0, name


def test_the_loss_of_a_region_is_accounted_for_in_every_store(four: Lab) -> None:
    folder, evidence = four.drill("region_loss", timeout=1200)
    assert evidence["verdict"] == "PASS"
    stores = measured(evidence)
    lost = {name: store["rpo_lost_writes"] for name, store in stores.items()}
    assert all(lost.values()), f"the cut before the kill must have cost something: {lost}"
    for name, store in stores.items():
        assert store["dual_writer_writes"] == 0, name
        assert store["recovered_sequences"] == store["lost_sequences"], f"{name}: not all was found again"
    assert evidence["consistency_skew_seconds"] is not None
    judged = {gate["store"] for gate in evidence["gates"] if gate["name"] == "lag_known"}
    assert judged == set(STORES), "each store has gates of its own"
    # By a stranger's program, from the ledger and what the evidence says that the stores hold.
    done = subprocess.run(
        ["tests/recompute.py", str(folder)], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert four.status()["exit_code"] < 2, "every store could switch again"


def test_site_after_that_changes_nothing(four: Lab) -> None:
    run = four.ok("site", timeout=600)
    assert not any(run.changed.values()), run.output


def test_one_store_that_a_gate_refuses_keeps_all_from_moving(four: Lab) -> None:
    home = four.primary_region()
    away = other(home)
    for host in hosts_of(away):
        four.sh(host, "systemctl stop valkey-server")
    try:
        run = four.play("dr_failover", "-e", f"dr_target_region={away}", "-e", "dr_approver=a test")
    finally:
        for host in hosts_of(away):
            four.sh(host, "systemctl start valkey-server")
    assert run.code != 0
    assert "valkey: lag_known: " in run.output
    assert "postgresql: lag_known: " not in run.output
    assert four.primary_region() == home
    assert all(row["region"] == home for row in four.status()["stores"] if row["role"] == "primary")
