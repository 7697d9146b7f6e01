"""The main job: a drill, its verdict, and figures that anyone can recompute."""

from __future__ import annotations

import json

import jsonschema
import pytest
from e2e_lab import CHECKOUT, Lab, other, recompute


@pytest.fixture(scope="module")
def drilled(lab: Lab) -> Lab:
    lab.wait_healthy()
    lab.drill("switchover")
    return lab


def test_the_drill_passes_and_loses_nothing(drilled: Lab) -> None:
    evidence = drilled.latest_drill()[1]
    assert evidence["verdict"] == "PASS"
    store = evidence["stores"][0]
    assert store["rpo_lost_writes"] == 0
    assert store["dual_writer_writes"] == 0
    assert 0 < store["outage_seconds"] <= evidence["objectives"]["postgresql"]["rto_seconds"]
    # There and back: two promotions.
    assert store["timeline_after"] == store["timeline_before"] + 2


def test_the_evidence_is_valid(drilled: Lab) -> None:
    schema = json.loads((CHECKOUT / "docs/evidence.schema.json").read_text())
    evidence = drilled.latest_drill()[1]
    jsonschema.Draft202012Validator(schema).validate(evidence)
    assert {row["host"] for row in evidence["clock"]} == set(drilled.addresses)
    assert any("handover" in phase["name"] for phase in evidence["phases"])


def test_the_figures_are_those_that_a_stranger_recomputes(drilled: Lab) -> None:
    folder, evidence = drilled.latest_drill()
    ledger = (folder / "ledger.csv").read_text().splitlines()
    assert ledger[0] == "store,sequence,sent_at,acknowledged_at,endpoint,answer"
    held = drilled.surviving(folder)
    done = recompute(folder, held)
    assert done.returncode == 0, done.stdout + done.stderr
    # ... and the recomputation would notice: one number less must be one write lost.
    done = recompute(folder, held[1:-20])
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
    away = other(home)
    lab.ok("dr_switchover", "-e", f"dr_target_region={away}")
    run = lab.ok("site")
    assert not any(run.changed.values()), run.output
    assert lab.primary_region() == away
    # The same command again finds its work done.
    again = lab.ok("dr_switchover", "-e", f"dr_target_region={away}")
    assert not any(again.changed.values())
