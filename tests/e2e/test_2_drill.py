"""The main job: a drill, its verdict, and figures that anyone can recompute."""

from __future__ import annotations

import json
import subprocess
import sys

import jsonschema
import pytest
from e2e_lab import CHECKOUT, Lab


@pytest.fixture(scope="module")
def drilled(lab: Lab) -> Lab:
    lab.wait_healthy()
    lab.ok("dr_drill", "-e", "dr_scenario=switchover")
    return lab


def test_the_drill_passes_and_loses_nothing(drilled: Lab) -> None:
    evidence = json.loads((drilled.directory / "drills/latest/evidence.json").read_text())
    assert evidence["verdict"] == "PASS"
    store = evidence["stores"][0]
    assert store["rpo_lost_writes"] == 0
    assert store["dual_writer_writes"] == 0
    assert 0 < store["outage_seconds"] <= evidence["objectives"]["postgresql"]["rto_seconds"]
    # There and back: two promotions.
    assert store["timeline_after"] == store["timeline_before"] + 2


def test_the_evidence_is_valid(drilled: Lab) -> None:
    schema = json.loads((CHECKOUT / "docs/evidence.schema.json").read_text())
    evidence = json.loads((drilled.directory / "drills/latest/evidence.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(evidence)
    assert {row["host"] for row in evidence["clock"]} == set(drilled.addresses)
    assert any("handover" in phase["name"] for phase in evidence["phases"])


def test_the_figures_are_those_that_a_stranger_recomputes(drilled: Lab) -> None:
    folder = drilled.directory / "drills/latest"
    evidence = json.loads((folder / "evidence.json").read_text())
    ledger = (folder / "ledger.csv").read_text().splitlines()
    assert ledger[0] == "store,sequence,sent_at,acknowledged_at,endpoint,answer"
    numbers = [int(line.split(",")[1]) for line in ledger[1:]]
    held = drilled.query(
        "south-3",
        f"select sequence from muster_canary where sequence between {min(numbers)} and {max(numbers)}",
    )
    done = subprocess.run(
        [sys.executable, "tests/recompute.py", str(folder), "--surviving", "-"],
        cwd=CHECKOUT,
        input="\n".join(str(row[0]) for row in held),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # ... and the recomputation would notice: one number less must be one write lost.
    done = subprocess.run(
        [sys.executable, "tests/recompute.py", str(folder), "--surviving", "-"],
        cwd=CHECKOUT,
        input="\n".join(str(row[0]) for row in held[1:-20]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert evidence["stores"][0]["name"] in done.stdout + done.stderr


def test_the_report_refers_to_nothing_outside(drilled: Lab) -> None:
    report = (drilled.directory / "drills/latest/report.html").read_text()
    assert "PASS" in report
    for reference in ('src="http', 'href="http', "url(http", "@import"):
        assert reference not in report


def test_site_right_after_a_switch_changes_nothing(lab: Lab) -> None:
    lab.wait_healthy()
    home = lab.primary_region()
    away = {"north": "south", "south": "north"}[home]
    lab.ok("dr_switchover", "-e", f"dr_target_region={away}")
    run = lab.ok("site")
    assert not any(run.changed.values()), run.output
    assert lab.primary_region() == away
    # The same command again finds its work done.
    again = lab.ok("dr_switchover", "-e", f"dr_target_region={away}")
    assert not any(again.changed.values())
