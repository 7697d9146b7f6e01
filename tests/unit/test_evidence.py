# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the ledger proves: figures, doubts and verdicts, through the real modules where there is one."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import io
import json
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.muster.platform.plugins.module_utils import _drill, _evidence, _ranges
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.modules import drill_evidence
from drills import Drill, arguments, ranges, status

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "docs/evidence.schema.json").read_text())

spec = importlib.util.spec_from_file_location("recompute", ROOT / "tests/recompute.py")
assert spec
assert spec.loader
recompute = importlib.util.module_from_spec(spec)
sys.modules["recompute"] = recompute
spec.loader.exec_module(recompute)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run the module's main(); the result it prints."""

    def run_module(**parameters: Any) -> dict[str, Any]:
        with patch_module_args(parameters), pytest.raises(SystemExit) as ended:
            drill_evidence.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert ended.value.code == (1 if result.get("failed") else 0)
        return result

    return run_module


# --- reading -------------------------------------------------------------------------


def test_a_planned_drill_has_all_figures() -> None:
    figures = Drill.planned().figures()
    assert figures["reasons"] == []
    assert (figures["acked_writes"], figures["surviving_writes"], figures["unanswered_writes"]) == (
        471,
        471,
        9,
    )
    assert (figures["rpo_lost_writes"], figures["rpo_seconds"], figures["dual_writer_writes"]) == (0, 0.0, 0)
    # From the last acknowledgement before 42 s to the first after 42.7 s.
    assert figures["outage_seconds"] == 0.74975
    assert figures["outage_by_endpoint"] == {"north": 1.00025, "south": 0.74975}
    assert [(w["host"], w["timeline"]) for w in figures["writers"]] == [
        ("north-1", 3),
        ("south-1", 4),
        ("north-1", 5),
    ]
    assert len(figures["outages"]) == 2


def test_the_edges_of_the_window_belong_to_the_outage() -> None:
    drill = Drill.planned()
    for attempt in drill.attempts:
        if attempt.sent > 57:
            attempt.took = None
    assert drill.figures()["outage_seconds"] == pytest.approx(3.02, abs=0.1)


def test_lost_writes_are_counted_and_dated() -> None:
    drill = Drill.planned()
    # The last five acknowledged before the first pause.
    drill.lost = {a.sequence for a in drill.attempts if 19.4 <= a.sent < 20}
    figures = drill.figures()
    lost = sorted(drill.lost)
    assert figures["rpo_lost_writes"] == len(lost) == 5
    last, held = drill.at(lost[-1]), drill.at(lost[0] - 1)
    assert figures["rpo_seconds"] == pytest.approx(
        last.sent + (last.took or 0) - held.sent - (held.took or 0)
    )
    assert figures["surviving_writes"] == figures["acked_writes"] - 5


def test_a_loss_with_nothing_held_before_it_has_no_known_reach() -> None:
    drill = Drill.planned()
    drill.lost = {a.sequence for a in drill.attempts if a.timeline == 4}
    figures = drill.figures()
    assert figures["rpo_lost_writes"] > 0
    assert figures["rpo_seconds"] is None
    assert "how far back the loss reaches is not known" in figures["reasons"][0]


def test_unanswered_writes_that_survive_are_no_loss_and_no_gain() -> None:
    drill = Drill.planned()
    silent = next(a.sequence for a in drill.attempts if a.took is None)
    part = drill.canary()["stores"]["postgresql"]["surviving"]
    figures = drill.figures(surviving=part | {"sequences": ranges(drill.held() | {silent})})
    assert (figures["surviving_writes"], figures["rpo_lost_writes"]) == (471, 0)


def test_an_older_timeline_after_a_newer_one_is_a_second_writer() -> None:
    drill = Drill.planned()
    stale = [a for a in drill.attempts if 25 <= a.sent < 26 and a.endpoint == "north"]
    for attempt in stale:
        attempt.host, attempt.region, attempt.timeline = "north-1", "north", 3
    assert drill.figures()["dual_writer_writes"] == len(stale) == 4


def test_two_servers_on_one_timeline_are_two_writers() -> None:
    drill = Drill.planned()
    for attempt in drill.attempts:
        if attempt.timeline == 4 and attempt.endpoint == "north":
            attempt.host, attempt.region = "north-2", "north"
    south = [a for a in drill.attempts if a.timeline == 4 and a.took is not None]
    # All but the first of each, whose sending saw no other answer yet.
    assert drill.figures()["dual_writer_writes"] >= len(south) - 2


def test_a_write_in_flight_during_the_promotion_is_no_second_writer() -> None:
    drill = Drill.planned()
    late = [a for a in drill.attempts if a.sent < 20][-1]
    late.took = 0.7  # acknowledged after the new primary answered, but sent long before
    assert drill.figures()["dual_writer_writes"] == 0


def test_outages_are_those_longer_than_two_intervals_and_always_the_longest() -> None:
    quiet = Drill.planned()
    for attempt in quiet.attempts:
        attempt.took = 0.002
    assert [o["seconds"] for o in quiet.figures()["outages"]] == [pytest.approx(0.125, abs=0.03)]


def test_times_are_exact() -> None:
    assert _evidence.show_time(_evidence.read_time("2026-11-21T10:00:00.000001Z")) == (
        "2026-11-21T10:00:00.000001Z"
    )
    with pytest.raises(ValueError, match="not UTC"):
        _evidence.read_time("2026-11-21T10:00:00+01:00")
    with pytest.raises(ValueError, match="not UTC"):
        _evidence.read_time("2026-11-21T10:00:00")


def test_ranges_are_read() -> None:
    assert _ranges.read_ranges("1-3,7") == {1, 2, 3, 7}
    assert _ranges.read_ranges("") == set()
    with pytest.raises(MusterError, match="not a range of numbers: x-2"):
        _ranges.read_ranges("x-2")


# --- what is not known -----------------------------------------------------------------


def assert_unknown(figures: dict[str, Any], reason: str) -> None:
    assert any(reason in text for text in figures["reasons"]), figures["reasons"]
    assert {key: figures[key] for key in _evidence.FIGURES} == dict.fromkeys(_evidence.FIGURES)


def test_an_empty_ledger_proves_nothing() -> None:
    assert_unknown(Drill().figures(), "the ledger is empty")


def test_a_pause_of_the_canary_proves_nothing() -> None:
    drill = Drill.planned()
    drill.attempts = [a for a in drill.attempts if not 30 <= a.sent < 31.5]
    assert_unknown(drill.figures(), "the canary did not write through north for 1.")


def test_a_canary_that_began_late_or_ended_early_proves_nothing() -> None:
    late = Drill.planned()
    late.attempts = [a for a in late.attempts if a.sent > 2]
    assert_unknown(late.figures(), "from 2026-11-21T10:00:00.000000Z")
    early = Drill.planned()
    early.attempts = [a for a in early.attempts if a.sent < 58]
    assert_unknown(early.figures(), "the canary did not write through south for 2.")


def test_an_endpoint_that_nobody_tried_proves_nothing() -> None:
    drill = Drill.planned()
    drill.attempts = [a for a in drill.attempts if a.endpoint == "north"]
    assert_unknown(drill.figures(), "the canary did not write through south for 60.0 s")


def test_waiting_for_an_answer_is_no_pause() -> None:
    drill = Drill.planned()
    for endpoint in ("north", "south"):
        waits = [a for a in drill.attempts if a.endpoint == endpoint and 10 <= a.sent < 11.9]
        waits[0].took, waits[0].answer = None, "none error=timeout after=1.900000"
        drill.attempts = [a for a in drill.attempts if a not in waits[1:]]
    figures = drill.figures()
    assert figures["reasons"] == []
    assert figures["outage_seconds"] > 1.9


def test_the_time_of_connecting_is_no_pause_either() -> None:
    drill = Drill.planned()
    mine = [a for a in drill.attempts if a.endpoint == "north" and 10 <= a.sent < 12]
    mine[-1].answer = "ok host=north-1 region=north timeline=3 connect=1.000000"
    drill.attempts = [a for a in drill.attempts if a not in mine[3:-1]]
    assert drill.figures()["reasons"] == []


@pytest.mark.parametrize(
    ("answer", "took", "reason"),
    [
        ("ok host=unknown region=unknown timeline=3", 0.001, "nobody knows who answered"),
        ("ok host=10.0.0.9 region=unknown timeline=3", 0.001, "see canary_host_addresses"),
        ("ok host=north-1 region=north", 0.001, "the answer has no timeline"),
        ("ok host=north-1 region=north timeline=x", 0.001, "invalid literal"),
        ("ok host=north-1 region=north timeline=3", -0.5, "acknowledged before it was sent"),
        ("none error=refused after=0.1", 0.001, "contradict each other"),
        ("none error=refused", None, "the answer has no after"),
        ("ok host=north-1 region=north timeline=3", None, "contradict each other"),
    ],
)
def test_an_unreadable_answer_proves_nothing(answer: str, took: float | None, reason: str) -> None:
    drill = Drill.planned()
    drill.attempts[5].answer, drill.attempts[5].took = answer, took
    assert_unknown(drill.figures(), reason)


def test_a_number_that_appears_twice_proves_nothing() -> None:
    drill = Drill.planned()
    drill.attempts[9].sequence = drill.attempts[8].sequence
    assert_unknown(drill.figures(), "number 1009 of postgresql appears twice")


def test_missing_numbers_prove_nothing() -> None:
    assert_unknown(Drill.planned().figures(missing="1008-11007"), "the ledger misses the numbers 1008-11007")


def test_an_unknown_surviving_set_leaves_the_outage_known() -> None:
    figures = Drill.planned().figures(surviving={"sequences": None, "error": "no endpoint leads anywhere"})
    assert figures["rpo_lost_writes"] is figures["rpo_seconds"] is figures["surviving_writes"] is None
    assert figures["outage_seconds"] == 0.74975
    assert figures["reasons"] == ["nobody could tell what survived: no endpoint leads anywhere"]


# --- who was primary ---------------------------------------------------------------------


def primary(region: str, timeline: int, shared: bool, role: str = "primary") -> dict[str, Any]:
    said = {"store": "x", "role": role, "region": region, "timeline": timeline, "position": "9"}
    return said | ({"shared": True} if shared else {})


@pytest.mark.parametrize(
    ("rows", "known"),
    [
        ([primary("north", 3, False), primary("south", 3, False, "standby")], True),
        ([primary("north", 3, False)] * 2, False),
        # Of a cluster each host takes writes; but not of two clusters, nor by two epochs.
        ([primary("north", 3, True)] * 3, True),
        ([primary("north", 3, True), primary("south", 3, True)], False),
        ([primary("north", 3, True), primary("north", 4, True)], False),
        ([primary("north", 3, True), primary("north", 3, False)], False),
        ([], False),
    ],
)
def test_one_writer_is_the_primary_and_of_two_nobody_is(rows: list[dict[str, Any]], known: bool) -> None:
    found = _drill.primary_of(rows, "x")
    assert found == ({"region": "north", "timeline": 3, "position": "9"} if known else dict.fromkeys(found))


# --- the module --------------------------------------------------------------------------


def test_a_pass_writes_the_folder(tmp_path: Path, run: Callable[..., dict[str, Any]]) -> None:
    result = run(**arguments(tmp_path / "drills", Drill.planned()))
    assert (result["verdict"], result["reasons"], result["changed"]) == ("PASS", [], True)
    folder = tmp_path / "drills/20261121T100000-switchover"
    assert sorted(path.name for path in folder.iterdir()) == [
        "evidence.json",
        "ledger.csv",
        "manifest.sha256",
        "metrics.prom",
        "report.html",
    ]
    assert (tmp_path / "drills/latest").resolve() == folder
    evidence = json.loads((folder / "evidence.json").read_text())
    jsonschema.validate(evidence, SCHEMA)
    assert evidence["stores"][0]["timeline_before"] == 3
    assert evidence["stores"][0]["position_after"] == "0/9000000"
    versions = evidence["versions"]
    assert versions.pop("ansible-core")
    assert versions == {"muster": "0.1.0", "patroni": None, "postgresql": "17.10, 17.6"}
    assert (folder / "ledger.csv").read_text() == Drill.planned().text()
    assert result["summary"] == [
        "store       acknowledged  lost (objective)  outage s (objective)  two writers  verdict",
        "postgresql           471             0 (0)             0.75 (10)            0  PASS",
    ]


def test_the_schema_itself_is_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_a_second_drill_moves_latest_and_the_same_id_is_refused(
    tmp_path: Path, run: Callable[..., dict[str, Any]]
) -> None:
    run(**arguments(tmp_path, Drill.planned()))
    again = run(**arguments(tmp_path, Drill.planned()))
    assert again["msg"].endswith("holds evidence already; a drill needs an id of its own")
    run(**arguments(tmp_path, Drill.planned(), drill_id="second"))
    assert (tmp_path / "latest").readlink() == Path("second")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == [".lock"]


def test_check_mode_judges_and_writes_nothing(tmp_path: Path, run: Callable[..., dict[str, Any]]) -> None:
    result = run(**arguments(tmp_path / "drills", Drill.planned()), _ansible_check_mode=True)
    assert result["verdict"] == "PASS"
    assert not (tmp_path / "drills").exists()


def with_loss(drill: Drill) -> None:
    drill.lost = {1100}


def with_outage(drill: Drill) -> None:
    for attempt in drill.attempts:
        if 20 <= attempt.sent < 31:
            attempt.took = None


def with_two_writers(drill: Drill) -> None:
    drill.at(1250).timeline = 3
    drill.at(1250).host = "north-1"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_loss, "1 acknowledged write was lost; a planned switchover may lose none"),
        (with_outage, "s; the objective is 10 s"),
        (with_two_writers, "1 write was acknowledged by a second writer"),
    ],
)
def test_a_missed_objective_fails(
    change: Callable[[Drill], None], reason: str, tmp_path: Path, run: Callable[..., dict[str, Any]]
) -> None:
    drill = Drill.planned()
    change(drill)
    result = run(**arguments(tmp_path, drill))
    assert result["verdict"] == "FAIL"
    assert len(result["reasons"]) == 1
    assert reason in result["reasons"][0]
    assert result["summary"][1].endswith("FAIL")
    jsonschema.validate(result["evidence"], SCHEMA)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"clock": []}, "no host's clock offset was measured"),
        (
            {"clock": [{"host": "north-2", "offset_ms": None, "uncertainty_ms": 1}]},
            "the clock offset is not known of: north-2",
        ),
        ({"objectives": {}}, "dr_objectives sets no rpo_seconds and rto_seconds"),
        ({"objectives": {"postgresql": {"rto_seconds": 5}}}, "dr_objectives sets no rpo_seconds"),
        ({"recovery_before": []}, "its timeline and position before the drill are not known"),
        (
            {"recovery_after": [status("north", "primary", 5, "0/1"), status("south", "primary", 5, "0/1")]},
            "its timeline and position after the drill are not known",
        ),
        (
            {"objectives": {name: {"rpo_seconds": 0, "rto_seconds": 9} for name in ("postgresql", "valkey")}},
            "valkey: has objectives, but the canary did not write to it",
        ),
    ],
)
def test_what_is_not_known_fails(
    changes: dict[str, Any], reason: str, tmp_path: Path, run: Callable[..., dict[str, Any]]
) -> None:
    result = run(**arguments(tmp_path, Drill.planned(), **changes))
    assert result["verdict"] == "FAIL"
    assert reason in "\n".join(result["reasons"])
    jsonschema.validate(json.loads(Path(result["path"], "evidence.json").read_text()), SCHEMA)


def test_open_attempts_fail(tmp_path: Path, run: Callable[..., dict[str, Any]]) -> None:
    drill = Drill.planned()
    result = run(**arguments(tmp_path, drill, canary=drill.canary() | {"complete": False}))
    assert "the ledger misses attempts that were still open" in result["reasons"][0]


def test_unknown_figures_are_null_and_fail(tmp_path: Path, run: Callable[..., dict[str, Any]]) -> None:
    result = run(**arguments(tmp_path, Drill()))
    assert result["verdict"] == "FAIL"
    assert result["evidence"]["stores"][0]["rpo_lost_writes"] is None
    assert "unknown (0)" in result["summary"][1]
    jsonschema.validate(result["evidence"], SCHEMA)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drill_id": "../elsewhere"}, "drill_id may hold letters"),
        ({"drill_id": "latest"}, "not be 'latest'"),
        ({"canary": {"ledger": ""}}, "it lacks complete, from, interval_ms, stores, to"),
        (
            {"objectives": {"postgresql": {"rpo_seconds": 0, "rto_seconds": "5"}}},
            "must be a number of seconds",
        ),
        ({"objectives": {"postgresql": 5}}, "postgresql needs rpo_seconds and rto_seconds"),
        ({"timeline": "/nonexistent"}, "timeline: cannot read /nonexistent"),
        ({"phases": [{"name": "x", "seconds": 1}]}, "a phase needs a name, started_at"),
        ({"started_at": "yesterday"}, "started_at is not a UTC time in ISO 8601: yesterday"),
    ],
)
def test_bad_input_is_told_in_one_sentence(
    changes: dict[str, Any], message: str, tmp_path: Path, run: Callable[..., dict[str, Any]]
) -> None:
    result = run(**arguments(tmp_path / "drills", Drill.planned(), **changes))
    assert message in result["msg"]
    assert not (tmp_path / "drills").exists()


def test_a_damaged_ledger_is_told(tmp_path: Path, run: Callable[..., dict[str, Any]]) -> None:
    canary = Drill.planned().canary()
    broken = run(**arguments(tmp_path, Drill(), canary=canary | {"ledger": "!"}))
    assert broken["msg"].startswith("canary.ledger cannot be unpacked")
    other = base64.b64encode(gzip.compress(b"a,b\n")).decode()
    assert (
        "does not begin with the header"
        in run(**arguments(tmp_path, Drill(), canary=canary | {"ledger": other}))["msg"]
    )


def test_a_link_named_latest_is_all_that_is_replaced(
    tmp_path: Path, run: Callable[..., dict[str, Any]]
) -> None:
    (tmp_path / "latest").mkdir()
    result = run(**arguments(tmp_path, Drill.planned()))
    assert "latest is to be a link to the newest drill" in result["msg"]


def test_ended_phases_come_from_the_timeline(tmp_path: Path, run: Callable[..., dict[str, Any]]) -> None:
    timeline = tmp_path / "timeline.json"
    phases = [
        {"name": "Fence", "started_at": "2026-11-21T10:00:01.000000Z", "seconds": 0.5},
        {"name": "Record", "started_at": "2026-11-21T10:00:58.000000Z", "seconds": None},
    ]
    timeline.write_text(json.dumps({"phases": phases}))
    evidence = run(**arguments(tmp_path, Drill.planned(), timeline=str(timeline)))["evidence"]
    assert [p["name"] for p in evidence["phases"]] == [
        "Fence",
        "Assess",
        "Switch to south",
        "Switch to north",
    ]


# --- the report ----------------------------------------------------------------------------


class Page(HTMLParser):
    """Notes what is open, what is referred to, and the text."""

    VOID = {"meta", "br", "link", "img"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.outside += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_report_is_whole_and_refers_to_nothing(
    tmp_path: Path, run: Callable[..., dict[str, Any]]
) -> None:
    result = run(**arguments(tmp_path, Drill.planned()))
    page = Page()
    page.feed(Path(result["report"]).read_text())
    assert page.open == []
    assert page.outside == []
    words = " ".join(page.words)
    assert "Planned switchover: north → south → north" in words
    assert "of 471 acknowledged writes none was lost" in words
    assert "url(" not in words
    assert "http" not in words


def test_the_report_of_a_failure_says_why_and_escapes(
    tmp_path: Path, run: Callable[..., dict[str, Any]]
) -> None:
    phases = [{"name": "<b>x</b>", "started_at": "2026-11-21T10:00:01.000000Z", "seconds": 1}]
    result = run(**arguments(tmp_path, Drill(), phases=phases))
    html = Path(result["report"]).read_text()
    assert "Why it did not pass" in html
    assert "the ledger is empty" in html
    assert "<b>x" not in html
    assert "&lt;b&gt;x" in html


# --- tests/recompute.py, which shares nothing with the code above ------------------------------


@pytest.fixture
def recorded(tmp_path: Path, run: Callable[..., dict[str, Any]]) -> tuple[Drill, Path]:
    drill = Drill.planned()
    drill.lost = {a.sequence for a in drill.attempts if 19.4 <= a.sent < 20}
    drill.at(1250).timeline, drill.at(1250).host = 3, "north-1"
    return drill, Path(run(**arguments(tmp_path, drill))["path"])


def test_recompute_agrees(recorded: tuple[Drill, Path], capsys: pytest.CaptureFixture[str]) -> None:
    drill, folder = recorded
    numbers = folder / "numbers.txt"
    numbers.write_text("\n".join(map(str, sorted(drill.held()))) + "\n")
    assert recompute.main([str(folder), "--surviving", str(numbers)]) == 0
    assert "rpo_lost_writes" in capsys.readouterr().out
    assert recompute.main([str(folder)]) == 0


def test_recompute_reads_numbers_from_stdin(
    recorded: tuple[Drill, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    drill, folder = recorded
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(map(str, drill.held()))))
    assert recompute.main([str(folder), "--surviving", "-"]) == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("acked_writes", 470),
        ("surviving_writes", 1),
        ("rpo_lost_writes", 0),
        ("rpo_seconds", 0),
        ("outage_seconds", 0.5),
        ("dual_writer_writes", 0),
        ("unanswered_writes", 0),
        ("outage_by_endpoint", {"north": 0, "south": 0}),
    ],
)
def test_recompute_names_a_figure_that_differs(
    key: str, value: Any, recorded: tuple[Drill, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = recorded[1]
    evidence = json.loads((folder / "evidence.json").read_text())
    evidence["stores"][0][key] = value
    (folder / "evidence.json").write_text(json.dumps(evidence))
    assert recompute.main([str(folder)]) == 1
    assert f"postgresql {key}: evidence.json says" in capsys.readouterr().out


def test_recompute_sees_a_write_that_is_gone(
    recorded: tuple[Drill, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drill, folder = recorded
    numbers = tmp_path / "numbers"
    numbers.write_text("\n".join(map(str, sorted(drill.held() - {1400}))))
    assert recompute.main([str(folder), "--surviving", str(numbers)]) == 1
    assert "postgresql surviving_writes" in capsys.readouterr().out


def test_recompute_asks_the_store_itself(
    recorded: tuple[Drill, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drill, folder = recorded
    psql = tmp_path / "bin/psql"
    psql.parent.mkdir()
    numbers = "\\n".join(map(str, sorted(drill.held())))
    psql.write_text(f'#!/bin/sh\necho "$*" >{tmp_path}/asked\nprintf "{numbers}\\n"\n')
    psql.chmod(0o755)
    monkeypatch.setenv("PATH", f"{psql.parent}:/usr/bin:/bin")
    assert recompute.main([str(folder), "--dsn", "host=north-3 dbname=muster"]) == 0
    asked = (tmp_path / "asked").read_text()
    assert "where sequence between 1001 and 1480" in asked
    assert asked.strip().endswith("host=north-3 dbname=muster")
