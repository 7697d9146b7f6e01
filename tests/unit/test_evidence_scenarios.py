# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What each scenario must prove, and what the folder then says: evidence, metrics, report, trend."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ansible_collections.muster.platform.plugins.modules import drill_evidence
from drills import Drill, arguments, ranges, region_loss, restore, status

Run = Callable[..., dict[str, Any]]
ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "docs/evidence.schema.json").read_text())

spec = importlib.util.spec_from_file_location("recompute_scenarios", ROOT / "tests/recompute.py")
assert spec
assert spec.loader
recompute = importlib.util.module_from_spec(spec)
sys.modules["recompute_scenarios"] = recompute
spec.loader.exec_module(recompute)


@pytest.fixture
def judge(tmp_path: Path, run_module: Run) -> Run:
    """Record a drill; its evidence must fit the schema whatever it says."""

    def record(make: Callable[..., dict[str, Any]], **changes: Any) -> dict[str, Any]:
        result = run_module(drill_evidence, make(tmp_path / "drills", **changes))
        assert "failed" not in result, result["msg"]
        jsonschema.validate(result["evidence"], SCHEMA)
        assert (result["verdict"] == "PASS") == (not result["reasons"])
        return result

    return record


def partition(directory: Path, **changes: Any) -> dict[str, Any]:
    changes = {"scenario": "partition", "lost_commits": None, "attachments": []} | changes
    return region_loss(directory, **changes)


def failover(directory: Path, **changes: Any) -> dict[str, Any]:
    return partition(directory, **{"scenario": "failover", "recovery_before": []} | changes)


def switchover(directory: Path, **changes: Any) -> dict[str, Any]:
    return arguments(directory, changes.pop("drill", None) or Drill.planned(), **changes)


def reprotect(directory: Path, **changes: Any) -> dict[str, Any]:
    commits = {"count": 35, "canary_sequences": {"postgresql": "1-4"}}
    return restore(
        directory, **{"scenario": "reprotect", "restore_proof": None, "lost_commits": commits} | changes
    )


# --- loss and outage ---------------------------------------------------------------------


def test_a_lost_region_may_cost_what_its_objectives_allow(judge: Run) -> None:
    result = judge(region_loss)
    assert (result["verdict"], result["reasons"]) == ("PASS", [])
    store = result["evidence"]["stores"][0]
    assert store["rpo_lost_writes"] == 23
    assert 5 < store["rpo_seconds"] < 6
    assert 7 < store["outage_seconds"] < 8
    assert store["lost_sequences"] == store["recovered_sequences"]
    assert len(store["lost_sequences"].split(",")) == 23
    assert result["summary"][1].split() == [
        *("postgresql", "713", "23", "in", "5.75", "s", "(30", "s)", "7.50", "(60)"),
        *("0", "PASS"),
    ]


@pytest.mark.parametrize("make", [region_loss, partition, failover])
@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        ({"rpo_seconds": 5, "rto_seconds": 60}, "23 acknowledged writes were lost, over 5.751 s; the objective is 5 s"),
        ({"rpo_seconds": 0, "rto_seconds": 60}, "the objective is 0 s"),
        ({"rpo_seconds": 30, "rto_seconds": 7}, "no write was acknowledged for 7.499 s; the objective is 7 s"),
        ({"rpo_seconds": 30}, "dr_objectives sets no rpo_seconds and rto_seconds"),
    ],
)  # fmt: skip
def test_more_than_the_objectives_fails(
    make: Any, objective: dict[str, Any], reason: str, judge: Run
) -> None:
    result = judge(make, objectives={"postgresql": objective})
    assert result["verdict"] == "FAIL"
    assert reason in result["reasons"][0]


@pytest.mark.parametrize("make", [region_loss, partition, failover, switchover])
def test_two_writers_and_unknown_figures_fail_everywhere(make: Any, judge: Run) -> None:
    drill = Drill.planned() if make is switchover else Drill.region_loss()
    late = [a for a in drill.attempts if a.timeline == 4 and a.took is not None][20]
    late.timeline, late.host, late.region = 3, "north-1", "north"
    assert "postgresql: 1 write was acknowledged by a second writer" in judge(make, drill=drill)["reasons"]
    unknown = judge(make, drill=Drill(), drill_id="unknown")
    assert "postgresql: the ledger is empty" in unknown["reasons"]
    assert unknown["evidence"]["stores"][0]["lost_sequences"] is None


def test_a_planned_switch_may_have_an_objective_of_its_own(judge: Run) -> None:
    objective = {"rpo_seconds": 30, "rto_seconds": 60, "switchover_seconds": 0.5}
    result = judge(switchover, objectives={"postgresql": objective})
    assert result["reasons"] == ["postgresql: no write was acknowledged for 0.750 s; the objective is 0.5 s"]
    assert result["evidence"]["objectives"]["postgresql"] == objective
    assert result["summary"][1].split()[-3:] == ["(0.5)", "0", "FAIL"]


def test_a_planned_switch_loses_nothing_whatever_is_allowed(judge: Run) -> None:
    drill = Drill.planned()
    drill.lost = {1100}
    result = judge(switchover, drill=drill, objectives={"postgresql": {"rpo_seconds": 60, "rto_seconds": 60}})
    assert result["reasons"] == [
        "postgresql: 1 acknowledged write was lost; a planned switchover may lose none"
    ]


def test_the_switch_back_counts_in_a_lost_region(judge: Run) -> None:
    drill = Drill.region_loss()
    for attempt in drill.attempts:
        if 80 <= attempt.sent < 95:
            attempt.took = None
    assert judge(region_loss, drill=drill)["evidence"]["stores"][0]["outage_seconds"] > 15


def test_a_lost_region_cannot_be_asked_where_it_stood(judge: Run) -> None:
    assert judge(failover)["verdict"] == "PASS"
    after = judge(failover, recovery_after=[], drill_id="after")
    assert after["reasons"] == ["postgresql: its timeline and position after the drill are not known"]
    drilled = judge(region_loss, recovery_before=[], drill_id="drilled")
    assert drilled["reasons"] == ["postgresql: its timeline and position before the drill are not known"]


# --- where lost writes went ----------------------------------------------------------------


def commits(**changes: Any) -> dict[str, Any]:
    lost = ranges(Drill.region_loss().lost)
    return {"count": 30, "canary_sequences": {"postgresql": lost}} | changes


def test_every_lost_write_must_be_saved(judge: Run) -> None:
    lost = sorted(Drill.region_loss().lost)
    given = commits(canary_sequences={"postgresql": f"1-{lost[17]}"})
    result = judge(region_loss, lost_commits=given)
    assert result["reasons"] == [
        "postgresql: 5 of 23 lost acknowledged writes are not among the 30 commits that were saved from the old"
        f" side: {','.join(map(str, lost[18:]))}"
    ]
    assert result["evidence"]["stores"][0]["recovered_sequences"] == ",".join(map(str, lost[:18]))
    assert result["summary"][1].endswith("FAIL")
    # The headline counts the lost writes; it counts commits only where no store was measured.
    assert "Commits that only the old side had: 30" not in Path(result["report"]).read_text()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (None, "the commits that only the old side had are not known: nobody reported them"),
        (commits(count=None, reason="no WAL at the fork"), "are not known: no WAL at the fork"),
        (commits(canary_sequences={}), "postgresql: 23 of 23 lost acknowledged writes are not among"),
        (commits(canary_sequences={"etcd": "1-9999"}), "postgresql: 23 of 23 lost acknowledged writes"),
        (commits(count=22), "contradicts itself: 22 in all, but 23 of the canary"),
        (commits(xids_file="gone.txt"), "the list of lost commits, gone.txt, is not in the folder"),
    ],
)
def test_a_loss_that_nobody_accounts_for_fails(given: Any, reason: str, judge: Run) -> None:
    result = judge(region_loss, lost_commits=given)
    assert result["verdict"] == "FAIL"
    assert reason in "\n".join(result["reasons"])


def test_where_nothing_was_lost_nothing_need_be_saved(judge: Run) -> None:
    result = judge(region_loss, drill=Drill.region_loss(loss=0), lost_commits=None)
    assert result["verdict"] == "PASS"
    store = result["evidence"]["stores"][0]
    assert (store["lost_sequences"], store["recovered_sequences"]) == ("", "")
    given = {"count": None, "reason": "the old side is gone"}
    told = judge(region_loss, drill=Drill.region_loss(loss=0), lost_commits=given, drill_id="told")
    assert (told["verdict"], told["reasons"]) == ("PASS", [])


def test_a_partition_is_held_to_what_it_reports(judge: Run) -> None:
    assert judge(partition)["verdict"] == "PASS"
    given = commits(canary_sequences={"postgresql": "1-5"})
    assert judge(partition, lost_commits=given, drill_id="told")["verdict"] == "FAIL"


def test_reprotecting_needs_no_canary_but_the_commits(judge: Run) -> None:
    result = judge(reprotect)
    assert (result["verdict"], result["evidence"]["stores"], result["evidence"]["canary"]) == (
        "PASS",
        [],
        None,
    )
    assert not (Path(result["path"]) / "ledger.csv").exists()
    assert judge(reprotect, lost_commits=None, drill_id="b")["reasons"] == [
        "the commits that only the old side had are not known: nobody reported them"
    ]
    drill = Drill.region_loss()
    measured = {"canary": drill.canary(), "canary_host": "witness", "lost_commits": commits()}
    measured["clock"] = [{"host": "witness", "offset_ms": 0.1, "uncertainty_ms": 0.5}]
    assert judge(reprotect, **measured, drill_id="c")["verdict"] == "PASS"
    measured["lost_commits"] = commits(canary_sequences={"postgresql": "1-5"})
    assert "postgresql: 23 of 23 lost" in judge(reprotect, **measured, drill_id="d")["reasons"][0]


# --- restores ------------------------------------------------------------------------------


def test_a_restore_is_proved_by_its_checks(judge: Run) -> None:
    result = judge(restore)
    assert (result["verdict"], result["evidence"]["stores"]) == ("PASS", [])
    assert result["summary"] == ["restored postgresql to 2026-11-21T10:58:12.104411Z on south-2 in 31.5 s"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"point_reached": None}, "restore: the point in time that it reached is not known"),
        ({"seconds": None}, "restore: how long it took is not known"),
        ({"checks": []}, "restore: nothing was checked on what was restored"),
        ({"checks": [{"name": "pg_checksums", "passed": False, "detail": "3 bad blocks"}]}, "pg_checksums: 3 bad"),
        ({"checks": [{"name": "amcheck"}]}, "amcheck: not shown"),
    ],
)  # fmt: skip
def test_a_restore_that_proves_too_little_fails(changes: dict[str, Any], reason: str, judge: Run) -> None:
    proof = restore(Path())["restore_proof"] | changes
    result = judge(restore, restore_proof=proof)
    assert len(result["reasons"]) == 1
    assert result["reasons"][0].startswith(reason)


def test_a_restore_without_a_proof_fails(judge: Run) -> None:
    assert judge(restore, restore_proof=None)["reasons"] == ["there is no proof of a restore"]


def test_times_come_from_the_phases_and_now_without_a_canary(judge: Run) -> None:
    evidence = judge(restore, started_at=None, finished_at=None)["evidence"]
    assert evidence["started_at"] == "2026-11-21T11:00:03.000000Z"
    assert evidence["finished_at"].endswith("Z")


# --- gates and checks ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "passes"),
    [
        ({"passed": True}, True),
        ({"passed": False, "reason": "the lag is unknown"}, False),
        ({"reason": "the lag is unknown"}, False),
        ({"passed": False, "overridden": ""}, False),
        ({"passed": False, "overridden": "approved by phone"}, True),
        ({"passed": False, "warns": True}, True),
        ({"passed": True, "store": "valkey"}, True),
    ],
)
@pytest.mark.parametrize("make", [region_loss, restore, reprotect, switchover])
def test_a_gate_that_refused_fails_unless_overridden(
    make: Any, gate: dict[str, Any], passes: bool, judge: Run
) -> None:
    result = judge(make, gates=[{"name": "lag", **gate}])
    assert result["evidence"]["gates"][0]["store"] == gate.get("store")
    if passes:
        assert result["reasons"] == []
    else:
        assert result["reasons"] == [f"gate lag refused: {gate.get('reason', 'it gave no reason')}"]


def test_of_several_stores_a_gate_is_told_with_its_store(judge: Run) -> None:
    gates = [
        {"name": "approver", "passed": False, "reason": "nobody approved it"},
        {"name": "lag_known", "store": "valkey", "passed": False, "overridden": "a cache"},
        {"name": "lag_known", "store": "postgresql", "passed": False, "reason": "no host answers"},
    ]
    result = judge(region_loss, gates=gates)
    assert result["reasons"] == [
        "gate approver refused: nobody approved it",
        "gate postgresql: lag_known refused: no host answers",
    ]
    assert "gate valkey: lag_known was overridden: a cache" in result["summary"]
    page = Path(result["report"]).read_text()
    assert "valkey: lag_known</strong> refused" in page
    assert all(f"<td>{name}" in page or f">{name}<" in page for name in ("approver", "postgresql: lag_known"))
    alone = judge(region_loss, gates=gates[::2], drill_id="alone")
    assert alone["reasons"] == [
        "gate approver refused: nobody approved it",
        "gate lag_known refused: no host answers",
    ]


def test_an_override_is_shown_to_everybody(judge: Run) -> None:
    gate = {
        "name": "freeze",
        "passed": False,
        "reason": "open until Monday",
        "overridden": "<region> is down",
    }
    result = judge(region_loss, gates=[gate])
    assert "gate freeze was overridden: <region> is down" in result["summary"]
    page = Path(result["report"]).read_text()
    assert page.index("One gate was overridden") < page.index("Objectives against")
    assert "&lt;region&gt; is down" in page
    assert 'muster_drill_gates_overridden{scenario="region_loss"} 1' in metrics(result)
    assert "1 gate overridden" in Path(result["trend"]).read_text()


@pytest.mark.parametrize("passed", [False, None])
def test_a_check_that_did_not_pass_fails(passed: bool | None, judge: Run) -> None:
    check = {"name": "old primary", "passed": passed, "detail": "it listens on 5432"}
    assert judge(region_loss, checks=[check])["reasons"] == ["old primary: it listens on 5432"]


# --- the plan --------------------------------------------------------------------------------


def test_the_plan_is_compared_with_the_last_pass_of_the_scenario(judge: Run) -> None:
    plan = {"git_sha": "ab" * 20, "inventory_sha256": "cd" * 32}
    other = {"git_sha": "ef" * 20, "inventory_sha256": "cd" * 32}

    def changed(name: str, make: Any = region_loss, **changes: Any) -> Any:
        return judge(make, drill_id=name, **changes)["evidence"]["plan"]["changed_since_last_pass"]

    assert changed("a", plan=plan) is None
    assert changed("b", plan=plan) is False
    assert changed("c", plan=other, checks=[{"name": "x", "passed": False}]) is True
    assert changed("d", make=switchover, plan=plan) is None
    # The last one did not pass, so what it was run from does not count.
    assert changed("e", plan=plan) is False
    assert changed("f", plan=plan | {"inventory_sha256": "00" * 32}) is True
    dirty = plan | {"git_sha": "ab" * 20 + "-dirty"}
    assert changed("g", plan=dirty) is True
    # Two checkouts with changes of their own are not known to be the same.
    assert changed("h", plan=dirty) is None
    assert changed("i", plan={"inventory_sha256": "cd" * 32}) is True


# --- controls ----------------------------------------------------------------------------------


def test_each_control_stands_beside_figures_that_exist(judge: Run) -> None:
    evidence = judge(region_loss)["evidence"]
    named = [f"{entry['framework']} {entry['control']}" for entry in evidence["controls"]]
    assert named == [
        "SOC 2 A1.3", "SOC 2 CC7.5", "ISO 22301 8.5", "DORA Article 11", "DORA Article 12", "DORA Article 24",
        "NIST SP 800-34 3.5",
    ]  # fmt: skip
    for entry in evidence["controls"]:
        for name in entry["answered_by"]:
            value: Any = evidence
            for part in name.split("."):
                value = value[part.removesuffix("[]")] if value is not None else None
                value = value[0] if part.endswith("[]") else value
    statements = {entry["control"]: entry["statement"] for entry in evidence["controls"]}
    assert (
        "longest time without a write 7.50 s (objective 60 s); acknowledged writes lost 23"
        in statements["A1.3"]
    )
    assert "35 commits were found on the old side alone" in statements["CC7.5"]
    assert statements["Article 12"] == "Not answered by this drill: nothing was restored from a backup."


def test_a_control_whose_figure_is_not_known_says_so(judge: Run) -> None:
    evidence = judge(region_loss, drill=Drill(), lost_commits=None, attachments=[])["evidence"]
    statements = {entry["control"]: entry["statement"] for entry in evidence["controls"]}
    assert "longest time without a write not known" in statements["A1.3"]
    assert "Whether two servers wrote at a time is not known." in statements["CC7.5"]
    assert not any("met" in statement.split() for statement in statements.values())
    restored = judge(restore, drill_id="r", restore_proof={"store": "postgresql"})["evidence"]["controls"]
    assert "it took not known" in next(e["statement"] for e in restored if e["control"] == "Article 12")


# --- metrics -----------------------------------------------------------------------------------


def metrics(result: dict[str, Any]) -> str:
    return (Path(result["path"]) / "metrics.prom").read_text()


def test_metrics_are_what_the_textfile_collector_reads(judge: Run) -> None:
    for number, make in enumerate((switchover, region_loss, partition, restore, failover, reprotect)):
        text = metrics(judge(make, drill_id=f"drill-{number}"))
        assert text.endswith("\n")
        sample = r'[a-z_]+\{scenario="\w+"(,store="\w+")?\} -?[0-9.]+(e[+-]?[0-9]+)?'
        described: set[str] = set()
        for line in text.splitlines():
            if line.startswith("# HELP "):
                described.add(line.split()[2])
            elif line.startswith("# TYPE "):
                assert line.split()[2:] == [line.split()[2], "gauge"]
            else:
                assert re.fullmatch(sample, line), line
                assert line.split("{")[0] in described
        assert len(set(text.splitlines())) == len(text.splitlines())


def test_metrics_say_what_was_measured(judge: Run) -> None:
    lines = metrics(judge(region_loss)).splitlines()
    assert 'muster_drill_verdict{scenario="region_loss"} 1' in lines
    assert 'muster_drill_lost_writes{scenario="region_loss",store="postgresql"} 23' in lines
    assert 'muster_drill_outage_seconds{scenario="region_loss",store="postgresql"} 7.49925' in lines
    assert 'muster_drill_finished_timestamp_seconds{scenario="region_loss"} 1795255300.0' in lines
    assert 'muster_drill_restore_seconds{scenario="restore",store="postgresql"} 31.5' in (
        metrics(judge(restore)).splitlines()
    )


def test_what_is_not_known_has_no_sample(judge: Run) -> None:
    text = metrics(judge(region_loss, drill=Drill(), lost_commits=None, attachments=[]))
    assert 'muster_drill_verdict{scenario="region_loss"} 0' in text
    for name in ("outage_seconds", "rpo_seconds", "lost_writes", "lost_commits", "NaN"):
        assert name not in text


# --- pages -------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Notes what is open, what is referred to, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read_page(path: str) -> Page:
    page = Page()
    page.feed(Path(path).read_text())
    assert page.open == []
    return page


def test_the_report_of_a_lost_region_says_what_was_lost(judge: Run) -> None:
    page = read_page(judge(region_loss)["report"])
    words = " ".join(page.words)
    assert page.links == []
    assert "http" not in words
    for said in (
        "Loss of a region: north → south → north",
        "of 713 acknowledged writes 23 were lost, and saved from the old side",
        "All 23 lost writes were found on the old side, and saved.",
        "1227, 1229",
        "lost-xids.txt",
        "DORA Article 11",
        "sha256sum -c manifest.sha256",
        "A. Person",
        "nothing listens on 5432",
    ):
        assert said in words


@pytest.mark.parametrize("make", [partition, restore, failover, reprotect])
def test_every_scenario_has_a_whole_report(make: Any, judge: Run) -> None:
    page = read_page(judge(make)["report"])
    assert page.links == []
    assert "How to verify it" in page.words


def test_the_trend_shows_every_drill(judge: Run, tmp_path: Path) -> None:
    old = tmp_path / "drills/old"
    old.mkdir(parents=True)
    evidence = {"scenario": "switchover", "verdict": "PASS", "finished_at": "2025-01-01T00:00:00.000000Z"}
    figures = {"outage_seconds": 1.25, "rpo_seconds": 0, "rpo_lost_writes": 0}
    (old / "evidence.json").write_text(json.dumps(evidence | {"stores": [figures]}))
    (tmp_path / "drills/broken").mkdir()
    (tmp_path / "drills/broken/evidence.json").write_text("{")
    for number in range(3):
        judge(region_loss, drill_id=f"loss-{number}")
    judge(region_loss, drill_id="unknown", drill=Drill(), lost_commits=None, attachments=[])
    page = read_page(judge(restore)["trend"])
    names = ["20261121T110000-restore", "loss-2", "loss-1", "loss-0", "unknown", "old"]
    assert page.links == [f"{name}/report.html" for name in names]
    words = " ".join(page.words)
    assert "6 drills from 2025-01-01 to 2026-11-21, 5 passed" in words
    assert "Evidence that cannot be read: broken." in words
    assert "3 of 4 passed" in words


# --- input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (region_loss, {"canary": None}, "scenario region_loss needs canary"),
        (failover, {"canary_host": None}, "scenario failover needs canary_host"),
        (restore, {"canary": {"ledger": ""}}, "canary is not a result of muster.platform.canary_window"),
        (restore, {"canary": Drill.planned().canary()}, "canary_host is needed with canary"),
        (restore, {"started_at": None, "phases": []}, "started_at is needed when there is neither"),
        (region_loss, {"lost_commits": commits(count=-1)}, "lost_commits.count must be 0 or more, not -1"),
        (region_loss, {"lost_commits": commits(first_at="noon")}, "lost_commits.first_at is not a UTC time"),
        (region_loss, {"lost_commits": commits(canary_sequences={"postgresql": "a-b"})}, "not a range of numbers"),
        (region_loss, {"lost_commits": commits(canary_sequences={"valkey": "a-b"})}, "not a range of numbers"),
        (restore, {"restore_proof": {"store": "x", "point_reached": "noon"}}, "restore_proof.point_reached is not"),
        (region_loss, {"objectives": {"postgresql": {"switchover_seconds": "5"}}}, "postgresql.switchover_seconds must"),
        (switchover, {"scenario": "earthquake"}, "value of scenario must be one of"),
    ],
)  # fmt: skip
def test_bad_input_is_told_before_anything_is_written(
    make: Any, changes: dict[str, Any], message: str, tmp_path: Path, run_module: Run
) -> None:
    result = run_module(drill_evidence, make(tmp_path / "drills", **changes))
    assert message in result["msg"]
    assert not (tmp_path / "drills").exists()


def test_check_mode_compares_and_writes_nothing(judge: Run, tmp_path: Path, run_module: Run) -> None:
    judge(region_loss, drill_id="a")
    before = sorted((tmp_path / "drills").iterdir())
    result = run_module(drill_evidence, region_loss(tmp_path / "drills", drill_id="b"), check=True)
    assert result["evidence"]["plan"]["changed_since_last_pass"] is False
    assert sorted((tmp_path / "drills").iterdir()) == before


# --- tests/recompute.py ---------------------------------------------------------------------------


def test_recompute_agrees_on_the_loss_of_a_region(judge: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = judge(region_loss)["path"]
    assert recompute.main([folder]) == 0
    said = capsys.readouterr().out
    assert re.search(r"rpo_lost_writes +23\n", said)
    assert re.search(r"lost_sequences +1227,1229,", said)
    assert re.search(r"not saved +none\n", said)


@pytest.mark.parametrize("key", ["lost_sequences", "recovered_sequences"])
def test_recompute_names_a_lost_write_that_is_left_out(
    key: str, judge: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(judge(region_loss)["path"])
    evidence = json.loads((folder / "evidence.json").read_text())
    evidence["stores"][0][key] = evidence["stores"][0][key].partition(",")[2]
    (folder / "evidence.json").write_text(json.dumps(evidence))
    assert recompute.main([str(folder)]) == 1
    assert f"postgresql {key}: evidence.json says" in capsys.readouterr().out


def test_recompute_has_nothing_to_do_for_a_restore(judge: Run) -> None:
    assert recompute.main([judge(restore)["path"]]) == 0


def test_status_of_both_sides_is_kept(judge: Run) -> None:
    after = [status("north", "standby", 4, "0/7000000"), status("south", "primary", 4, "0/7000000")]
    store = judge(failover, recovery_after=after)["evidence"]["stores"][0]
    assert (store["region_before"], store["region_after"], store["timeline_after"]) == (None, "south", 4)
