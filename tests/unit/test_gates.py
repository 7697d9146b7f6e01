# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""dr_gates: each gate refusing by its name, what an override does, and input that cannot be meant."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from action_fake import run_action
from ansible.errors import AnsibleError
from ansible_collections.muster.platform.plugins.action import dr_gates
from ansible_collections.muster.platform.plugins.module_utils import _gates
from ansible_collections.muster.platform.plugins.module_utils._dr_status import silent

NOW = "2026-11-21T12:00:00Z"  # a Saturday
NAMES = [
    "target_not_primary",
    "lag_known",
    "lag_within_objective",
    "same_timeline",
    "receiver_alive",
    "fence_proven",
    "freeze_window",
    "approver",
    "backup_age",
    "restore_proof_age",
    "clock_offset",
    "plan_unchanged",
]
Row = dict[str, Any]


def row(host: str, role: str = "standby", **more: Any) -> Row:
    region = {"n": "north", "s": "south"}[host[0]]
    return {
        **silent("postgresql", region, host),
        "role": role,
        "healthy": True,
        "reasons": [],
        "timeline": 3,
        "last_backup_at": "2026-11-21T02:00:00Z",
        "last_restore_proof_at": "2026-11-01T02:00:00Z",
        "streaming": True,
        **more,
    }


def dead(host: str) -> Row:
    return {**silent("postgresql", {"n": "north", "s": "south"}[host[0]], host), "streaming": False}


def lag(**more: Any) -> dict[str, Any]:
    """The target lacks the last two of what was acknowledged in 0.5 s."""
    return {
        "store": "postgresql",
        "last_acknowledged_at": "2026-11-21T11:59:00.500000Z",
        "last_acknowledged_sequence": 102,
        "last_timeline": 3,
        "last_region": "north",
        "last_host": "n1",
        "held_sequence": 100,
        "held_at": "2026-11-21T11:59:00.000000Z",
        "lag_writes": 2,
        "lag_seconds": 0.5,
        "silence_seconds": 0.5,
        "answered_by": {"host": "s1", "in_recovery": True},
        "reason": None,
        **more,
    }


def clock(host: str, offset: float | None = 0.4, uncertainty: float | None = 4.0) -> dict[str, Any]:
    return {"host": host, "offset_ms": offset, "uncertainty_ms": uncertainty}


def given(**more: Any) -> dict[str, Any]:
    """A failover for which everything speaks; the old region is dead."""
    return {
        "operation": "failover",
        "store": "postgresql",
        "source": "north",
        "target": "south",
        "statuses": [dead("n1"), dead("n2"), row("s1"), row("s2")],
        "lag": lag(),
        "objectives": {"rpo_seconds": 1, "rto_seconds": 30},
        "fence": {
            "proven": True,
            "provider": "power",
            "proven_at": "2026-11-21T11:59:30Z",
            "detail": None,
        },
        "clock": [clock("s1"), clock("s2")],
        "now": NOW,
        "approver": "Alice",
        "plan": {"changed_since_last_pass": False},
        **more,
    }


def run(**more: Any) -> dict[str, Any]:
    return run_action(dr_gates, given(**more), {})


def refuse(name: str, **more: Any) -> str:
    """The one sentence with which that gate refuses alone."""
    answer = run(**more)
    assert answer["failed"] is True
    assert [gate["name"] for gate in answer["gates"] if not gate["passed"]] == [name]
    (sentence,) = answer["refused"]
    assert answer["msg"] == f"the failover to south is refused:\n  - {sentence}"
    assert sentence.startswith(f"{name}: ")
    assert "\n" not in sentence
    return sentence.removeprefix(f"{name}: ")


def only(name: str, **more: Any) -> dict[str, Any]:
    (gate,) = run(only=[name], fail=False, **more)["gates"]
    return dict(gate)


# --- the whole ------------------------------------------------------------------------------


def test_all_pass_with_the_target_alone() -> None:
    answer = run()
    assert "failed" not in answer
    assert answer["changed"] is False
    assert [gate["name"] for gate in answer["gates"]] == NAMES
    for gate in answer["gates"]:
        assert (gate["passed"], gate["overridden"], gate["warns"]) == (True, None, False), gate
        platform = gate["name"] in ("fence_proven", "freeze_window", "approver", "plan_unchanged")
        assert gate["store"] == (None if platform else "postgresql"), gate
        assert gate["reason"]
    assert answer["refused"] == answer["warned"] == answer["overrides_not_needed"] == []
    assert answer["not_evaluated"] == []


def test_nothing_known_passes_nothing_but_the_calendar() -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ("lag", "objectives", "fence", "clock", "approver", "plan", "source"), None
    )
    answer = run(statuses=[dead("n1"), dead("s1")], **nothing)
    assert [gate["name"] for gate in answer["gates"] if gate["passed"]] == ["freeze_window"]
    assert len(answer["refused"]) == 10
    assert all(sentence in answer["msg"] for sentence in answer["refused"])
    assert [gate["name"] for gate in answer["gates"] if gate["warns"]] == ["plan_unchanged"]


def test_rows_of_other_stores_say_nothing() -> None:
    other = {**row("s1", "primary"), "store": "valkey"}
    assert "failed" not in run(statuses=[*given()["statuses"], other])


@pytest.mark.parametrize(
    ("operation", "names"),
    [
        ("failover", NAMES),
        ("switchover", ["target_not_primary", "freeze_window", "clock_offset"]),
        ("reprotect", ["freeze_window"]),
    ],
)
def test_which_gates_apply(operation: str, names: list[str]) -> None:
    assert [gate["name"] for gate in run(operation=operation)["gates"]] == names


def test_each_gate_says_which_store_it_judged() -> None:
    """Several stores are judged in one operation, and their rows are put together."""
    rows = [{**row("s1"), "store": "valkey"}]
    assert {gate["store"] for gate in run(store="valkey", statuses=rows, fail=False)["gates"]} == {
        "valkey",
        None,
    }


def test_the_fence_is_judged_apart() -> None:
    before = run(fence=None, skip=["fence_proven"])
    assert "failed" not in before
    assert before["not_evaluated"] == ["fence_proven"]
    after = run(fence={"proven": False, "provider": "ssh", "detail": "no route"}, only=["fence_proven"])
    assert [gate["name"] for gate in after["gates"]] == ["fence_proven"]
    assert after["failed"] is True


def test_not_failing_on_request() -> None:
    answer = run(approver=None, fail=False)
    assert "failed" not in answer
    assert len(answer["refused"]) == 1


# --- each gate refusing ---------------------------------------------------------------------


def test_target_not_primary() -> None:
    rows = [row("n1", "stopped"), row("s1", "primary"), row("s2")]
    sentence = refuse("target_not_primary", statuses=rows)
    assert sentence.startswith("south is primary already (s1 takes writes); ")
    assert "dr_override" not in sentence


def test_target_not_primary_when_nobody_there_says_so() -> None:
    found = only("target_not_primary", statuses=[row("n1", "primary"), dead("s1"), dead("s2")])
    assert not found["passed"]
    assert "no host of postgresql in south says what it is" in found["reason"]


@pytest.mark.parametrize(
    ("measured", "sentence"),
    [
        (None, "how far south is behind what was acknowledged is not known: it was not measured"),
        (
            lag(lag_seconds=None, lag_writes=None, reason="the canary's ledger ends at 11:40"),
            "is not known: the canary's ledger ends at 11:40",
        ),
        (lag(lag_writes=None), "is not known: no figure was returned"),
        (lag(lag_seconds=float("nan")), "is not known: no figure was returned"),
        (lag(lag_seconds=-4), "is not known: no figure was returned"),
        (lag(lag_seconds="0.1"), "is not known: no figure was returned"),
        (lag(lag_writes=True), "is not known: no figure was returned"),
        ({}, "is not known: no figure was returned"),
    ],
)
def test_lag_known(measured: Any, sentence: str) -> None:
    found = only("lag_known", lag=measured)
    assert not found["passed"]
    assert sentence in found["reason"]
    assert found["reason"].endswith("or set dr_override.lag_known to the reason why it may go ahead")


def test_lag_known_of_the_host_that_would_be_promoted() -> None:
    sentence = refuse("lag_known", target_leader="s2")
    assert "s1 was asked, and s2 would be promoted" in sentence
    assert "failed" not in run(target_leader="s1")


def test_lag_within_objective() -> None:
    sentence = refuse("lag_within_objective", lag=lag(lag_writes=19, lag_seconds=4.75, silence_seconds=4.75))
    assert sentence.startswith(
        "south is 4.75 s behind and lacks 19 acknowledged writes, "
        "which is above dr_objectives.postgresql.rpo_seconds (1 s); "
    )


@pytest.mark.parametrize(
    ("measured", "objectives", "sentence"),
    [
        (lag(), {"rpo_seconds": 0}, "which is above dr_objectives.postgresql.rpo_seconds (0 s)"),
        # Lost, though within one tick of the clock.
        (lag(lag_writes=1, lag_seconds=0), {"rpo_seconds": 0}, "lacks 1 acknowledged write, which is above"),
        (lag(), {}, "dr_objectives.postgresql.rpo_seconds is not set"),
        (lag(), {"rpo_seconds": "many"}, "dr_objectives.postgresql.rpo_seconds is not set"),
        (None, {"rpo_seconds": 5}, "an unknown lag cannot be held against"),
        (lag(lag_writes=None), {"rpo_seconds": 5}, "an unknown lag cannot be held against"),
    ],
)
def test_lag_within_objective_unknown_or_none_allowed(measured: Any, objectives: Any, sentence: str) -> None:
    found = only("lag_within_objective", lag=measured, objectives=objectives)
    assert not found["passed"]
    assert sentence in found["reason"]


def test_lag_exactly_at_the_objective_passes() -> None:
    assert only("lag_within_objective", lag=lag(lag_seconds=1))["passed"]
    assert only("lag_within_objective", lag=lag(lag_seconds=0, lag_writes=0), objectives={"rpo_seconds": 0})[
        "passed"
    ]


def test_same_timeline_as_the_one_that_acknowledged_last() -> None:
    sentence = refuse("same_timeline", lag=lag(last_timeline=4, last_host="n2"))
    assert sentence.startswith("s1 is on timeline 3, n2, which acknowledged last, on 4; ")


def test_same_timeline_as_the_primary() -> None:
    rows = [row("n1", "primary", timeline=5), row("s1"), row("s2")]
    found = only("same_timeline", statuses=rows, lag=None)
    assert not found["passed"]
    assert found["reason"].startswith("s1 is on timeline 3, the primary n1 on 5; ")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"statuses": [dead("s1")]}, "any host of postgresql in south is not known"),
        ({"statuses": [row("s2")], "target_leader": "s1"}, "the timeline of s1 is not known"),
        ({"statuses": [row("s1", timeline=None)]}, "the timeline of s1 is not known"),
        ({"statuses": [row("s1"), row("s2", timeline=2)]}, "s2 is on timeline 2"),
        ({"lag": None}, "neither a primary nor the canary's ledger says"),
        ({"lag": lag(last_timeline=None)}, "neither a primary nor the canary's ledger says"),
    ],
)
def test_same_timeline_unknown(more: dict[str, Any], sentence: str) -> None:
    found = only("same_timeline", **more)
    assert not found["passed"]
    assert sentence in found["reason"]


def test_a_replica_elsewhere_does_not_count_when_the_leader_is_named() -> None:
    rows = [row("s1"), row("s2", timeline=2)]
    assert only("same_timeline", statuses=rows, target_leader="s1")["passed"]


def counted(**more: Any) -> dict[str, Any]:
    """The lag of a store whose hosts tell no timeline that the ledger knows."""
    return lag(timeline_of="ledger", held_timeline=3, **more)


def test_same_timeline_by_the_ledger_alone() -> None:
    """Epochs of another count, of the target and of a primary that answers, mean nothing here."""
    rows = [row("n1", "primary", timeline=8), row("s1", timeline=7), row("s2", timeline=None)]
    found = only("same_timeline", statuses=rows, lag=counted())
    assert found["passed"]
    assert found["reason"] == "the newest write that s1 holds is of timeline 3, which was written last"
    # PostgreSQL's own is asked of its hosts.
    assert not only("same_timeline", statuses=rows, lag=counted() | {"timeline_of": "server"})["passed"]
    assert not only("same_timeline", statuses=rows, lag=lag(held_timeline=3))["passed"]


def test_a_copy_that_follows_an_older_timeline_of_the_ledger() -> None:
    sentence = refuse("same_timeline", lag=counted(last_timeline=4, last_host="south"))
    assert sentence.startswith(
        "the newest write that s1 holds is of timeline 3, south, which acknowledged last, on 4; "
    )


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"held_timeline": None}, "the timeline of the newest write that s1 holds is not known; "),
        (
            {"held_timeline": None, "answered_by": None},
            "the timeline of the newest write that south holds is not known; ",
        ),
        ({"last_timeline": None}, "the canary's ledger does not say which timeline was written last; "),
        (
            {"last_timeline": None, "held_timeline": None},
            "the canary's ledger does not say which timeline was written last; ",
        ),
    ],
)
def test_a_timeline_that_the_ledger_does_not_know(more: dict[str, Any], sentence: str) -> None:
    found = only("same_timeline", lag=counted() | more)
    assert not found["passed"]
    assert found["reason"].startswith(sentence)


def test_receiver_alive() -> None:
    """Trap 1: every word says streaming, the timelines agree, and nothing came for 23 minutes."""
    silent_for = lag(
        held_at="2026-11-21T11:36:00.500000Z", silence_seconds=1380.0, lag_seconds=1380.0, lag_writes=5520
    )
    sentence = refuse("receiver_alive", lag=silent_for, objectives={"rpo_seconds": 3600})
    assert sentence.startswith(
        "south says that it streams, but received nothing of what was acknowledged after "
        "2026-11-21T11:36:00.500000Z until 2026-11-21T11:59:00.500000Z: "
        "1380 s, above dr_max_receiver_silence_seconds (30 s); "
    )
    assert only("receiver_alive", lag=silent_for, max_receiver_silence_seconds=1380)["passed"]


def test_receiver_alive_does_not_hang_on_the_word() -> None:
    rows = [row("s1", streaming=False), row("s2", streaming=False)]
    found = only("receiver_alive", statuses=rows, lag=lag(silence_seconds=31))
    assert not found["passed"]
    assert found["reason"].startswith("south received nothing")


@pytest.mark.parametrize("measured", [None, lag(silence_seconds=None, reason="no ledger"), {}])
def test_receiver_alive_unknown(measured: Any) -> None:
    found = only("receiver_alive", lag=measured)
    assert not found["passed"]
    assert "whether south still receives anything is not known" in found["reason"]


@pytest.mark.parametrize(
    ("fence", "sentence"),
    [
        (None, "nothing has proven that north cannot take writes"),
        (
            {"proven": False, "provider": "ssh", "detail": "no route"},
            "the fence of north by ssh is not proven: no route",
        ),
        ({"provider": "ssh"}, "the fence of north by ssh is not proven"),
        ({"proven": "true", "provider": "ssh", "proven_at": NOW}, "is not proven"),
        ({"proven": True, "provider": "ssh"}, "does not say when it was proven"),
    ],
)
def test_fence_proven(fence: Any, sentence: str) -> None:
    found = refuse("fence_proven", fence=fence)
    assert sentence in found
    assert "dr_override" not in found


def test_freeze_window() -> None:
    window = {
        "name": "year-end",
        "from": "2026-11-20T00:00:00Z",
        "to": "2026-11-22T00:00:00+01:00",
        "reason": "books",
    }
    sentence = refuse("freeze_window", freeze_windows=[window])
    assert sentence == (
        "freeze window 'year-end' (books) is open until 2026-11-21T23:00:00Z; wait, or change "
        "dr_freeze_windows, or set dr_override.freeze_window to the reason why it may go ahead"
    )


@pytest.mark.parametrize(
    ("now", "opened"),
    [
        ("2026-11-20T17:59:59Z", False),  # a Friday
        ("2026-11-20T18:00:00Z", True),
        ("2026-11-21T05:59:59Z", True),
        ("2026-11-21T06:00:00Z", False),
        ("2026-11-21T18:30:00Z", True),
        ("2026-11-22T05:00:00Z", True),
        ("2026-11-22T18:30:00Z", False),
        ("2026-11-22T23:30:00-08:00", False),
        ("2026-11-20T19:30:00+02:00", False),
    ],
)
def test_a_window_of_every_week_wraps_midnight(now: str, opened: bool) -> None:
    window = {"name": "weekend", "days": ["fri", "sat"], "from": "18:00", "to": "06:00"}
    assert only("freeze_window", freeze_windows=[window], now=now)["passed"] is not opened


def test_a_window_of_whole_days() -> None:
    window = {"name": "sunday", "days": ["sun"], "from": "00:00", "to": "24:00"}
    for now, opened in (
        ("2026-11-21T23:59:59Z", 0),
        ("2026-11-22T00:00:00Z", 1),
        ("2026-11-23T00:00:00Z", 0),
    ):
        assert only("freeze_window", freeze_windows=[window], now=now)["passed"] is not bool(opened)


def test_times_that_yaml_has_read() -> None:
    begin = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
    window = {"name": "x", "from": begin, "to": begin + dt.timedelta(days=1)}
    assert not only("freeze_window", freeze_windows=[window])["passed"]


@pytest.mark.parametrize("name", [None, "", "  "])
def test_approver(name: Any) -> None:
    assert refuse("approver", approver=name).startswith("no approver is named; set dr_approver")


def test_backup_age() -> None:
    rows = [row("s1", last_backup_at="2026-11-20T09:00:00Z"), row("s2", last_backup_at=None)]
    sentence = refuse("backup_age", statuses=rows)
    assert sentence.startswith(
        "the last backup of postgresql is 27.0 h old, and dr_max_backup_age_hours is 26 h; take a backup"
    )
    # What is given goes before what the rows say.
    assert only("backup_age", statuses=rows, last_backup_at="2026-11-21T09:00:00Z")["passed"]
    assert only("backup_age", statuses=rows, max_backup_age_hours=27)["passed"]


def test_restore_proof_age() -> None:
    sentence = refuse("restore_proof_age", last_restore_proof_at="2026-10-01T12:00:00Z")
    assert sentence.startswith(
        "the last restore that proved a backup of postgresql is 51.0 days old, "
        "and dr_max_restore_proof_age_days is 35 days; run the restore drill"
    )


@pytest.mark.parametrize("name", ["backup_age", "restore_proof_age"])
@pytest.mark.parametrize(
    ("at", "sentence"),
    [
        (None, "is not known"),
        ("yesterday", "is not known: "),
        ("2026-11-21T02:00:00", "must name its time zone"),
        ("2026-11-21T12:05:00Z", "which is in the future"),
    ],
)
def test_ages_that_are_not_known(name: str, at: Any, sentence: str) -> None:
    rows = [row("s1", last_backup_at=at, last_restore_proof_at=at)]
    found = only(name, statuses=rows)
    assert not found["passed"]
    assert sentence in found["reason"]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            [clock("s1", -498, 4), clock("s2")],
            "the clock of s1 may be 502 ms off, and dr_max_clock_offset_ms",
        ),
        ([clock("s1"), clock("s2"), clock("w", 9000)], "the clock of w may be 9004 ms off"),
        ([clock("s1", None), clock("s2")], "the clock offset is not known of s1"),
        ([clock("s1"), clock("s2", 0, None)], "the clock offset is not known of s2"),
        ([clock("s1")], "the clock offset is not known of s2"),
        ([], "no host's clock was measured"),
        (None, "no host's clock was measured"),
    ],
)
def test_clock_offset(rows: Any, sentence: str) -> None:
    assert refuse("clock_offset", clock=rows).startswith(sentence)


def test_plan_unchanged_only_warns() -> None:
    for changed, sentence in (
        (True, "the plan has changed since its last passed drill; drill the plan"),
        (None, "is not known"),
    ):
        answer = run(plan={"changed_since_last_pass": changed})
        assert "failed" not in answer
        gate = answer["gates"][-1]
        assert (gate["passed"], gate["warns"], gate["overridden"]) == (False, True, None)
        assert sentence in gate["reason"]
        assert answer["refused"] == []
        assert answer["warnings"] == answer["warned"] == [f"plan_unchanged: {gate['reason']}"]


# --- overrides -------------------------------------------------------------------------------

REFUSING: dict[str, dict[str, Any]] = {
    "lag_known": {"lag": lag(lag_writes=None)},
    "lag_within_objective": {"objectives": {"rpo_seconds": 0}},
    "same_timeline": {"lag": lag(last_timeline=9)},
    "receiver_alive": {"lag": lag(silence_seconds=90)},
    "freeze_window": {
        "freeze_windows": [{"name": "x", "from": "2026-11-20T00:00:00Z", "to": "2026-11-22T00:00:00Z"}]
    },
    "approver": {"approver": ""},
    "backup_age": {"last_backup_at": "2026-11-01T00:00:00Z"},
    "restore_proof_age": {"last_restore_proof_at": "2026-01-01T00:00:00Z"},
    "clock_offset": {"clock": []},
    "plan_unchanged": {"plan": {"changed_since_last_pass": True}},
}


def test_there_is_a_case_for_every_gate_that_can_be_overridden() -> None:
    assert set(REFUSING) == {name for name, gate in _gates.GATES.items() if gate.overridable}
    assert list(_gates.GATES) == NAMES


@pytest.mark.parametrize("name", REFUSING)
def test_an_override_passes_its_gate_and_is_recorded(name: str) -> None:
    answer = run(**REFUSING[name], only=[name], overrides={name: " the CTO said so "})
    assert "failed" not in answer
    assert answer["refused"] == answer["overrides_not_needed"] == []
    (gate,) = answer["gates"]
    assert (gate["passed"], gate["overridden"]) == (False, "the CTO said so")
    assert gate["reason"]


def test_an_override_of_one_gate_passes_no_other() -> None:
    answer = run(approver=None, clock=[], overrides={"approver": "x"})
    assert [sentence.split(":")[0] for sentence in answer["refused"]] == ["clock_offset"]


def test_an_override_that_is_not_needed_is_told() -> None:
    answer = run(overrides={"approver": "x"}, skip=["fence_proven"])
    gate = next(gate for gate in answer["gates"] if gate["name"] == "approver")
    assert (gate["passed"], gate["overridden"]) == (True, None)
    assert answer["overrides_not_needed"] == ["approver"]
    # The same overrides serve the call that asks for the fence only.
    assert run(overrides={"approver": "x"}, only=["fence_proven"])["overrides_not_needed"] == []


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"overrides": {"lag": "x"}}, "dr_override names 'lag', which is no gate; there are: target_not_"),
        ({"overrides": {"fence_proven": "x"}}, "dr_override names fence_proven, which nobody can override"),
        (
            {"overrides": {"target_not_primary": "x"}},
            "dr_override names target_not_primary, which nobody can override",
        ),
        ({"overrides": {"approver": " "}}, "dr_override.approver gives no reason"),
        ({"overrides": {"approver": True}}, "dr_override.approver gives no reason"),
        ({"overrides": ["approver"]}, "it must be a dictionary of gates and reasons"),
        ({"only": ["gate"]}, "'gate' is no gate; there are: "),
        ({"skip": ["gate"]}, "'gate' is no gate; there are: "),
        (
            {"only": ["lag_known"], "operation": "switchover"},
            "the gate lag_known does not apply to a switchover",
        ),
        ({"source": "south"}, "source and target are both south"),
        ({"target": ""}, "target is empty"),
        ({"now": "noon"}, "now is 'noon': it must be a UTC time"),
        ({"max_backup_age_hours": -1}, "max_backup_age_hours (dr_max_backup_age_hours) is -1.0"),
        ({"max_clock_offset_ms": "nan"}, "max_clock_offset_ms (dr_max_clock_offset_ms) is nan"),
    ],
)
def test_input_that_cannot_be_meant(more: dict[str, Any], sentence: str) -> None:
    answer = run(**more, fail=False)
    assert answer["failed"] is True
    assert answer["msg"].startswith(sentence) or sentence in answer["msg"]
    assert "gates" not in answer


@pytest.mark.parametrize(
    ("window", "sentence"),
    [
        ("weekend", "dr_freeze_windows[0] is 'weekend': it must be a dictionary"),
        ({"from": NOW, "to": NOW}, "dr_freeze_windows[0].name is missing"),
        ({"name": "x", "from": NOW}, "dr_freeze_windows[0] (x).to is missing"),
        ({"name": "x", "from": NOW, "until": NOW}, "dr_freeze_windows[0] (x) has until: a window has days"),
        ({"name": "x", "from": NOW, "to": NOW}, "(x).from must be before its to"),
        ({"name": "x", "from": "18:00", "to": "19:00"}, "(x).from is '18:00': it must be a UTC time"),
        ({"name": "x", "from": "2026-11-21T00:00:00", "to": NOW}, "(x).from must name its time zone"),
        ({"name": "x", "from": dt.date(2026, 11, 21), "to": NOW}, "(x).from is 2026-11-21: it must be a UTC"),
        ({"name": "x", "days": ["friday"], "from": "1", "to": "2"}, "(x).days holds 'friday': the days are"),
        ({"name": "x", "days": [], "from": "1", "to": "2"}, "(x).days is []: it must be a list of days"),
        (
            {"name": "x", "days": ["fri"], "from": 1080, "to": "20:00"},
            "(x).from is 1080: it must be a time of day, UTC, such as '18:00' in quotes",
        ),
        ({"name": "x", "days": ["fri"], "from": "24:00", "to": "20:00"}, "(x).from is '24:00'"),
        ({"name": "x", "days": ["fri"], "from": "20:00", "to": "20:00"}, "(x).from must be before its to"),
        ({"name": "x", "from": NOW, "to": NOW, "reason": 5}, "(x).reason is 5: it must be text"),
    ],
)
def test_windows_that_are_no_windows(window: Any, sentence: str) -> None:
    answer = run(freeze_windows=[window])
    assert answer["failed"] is True
    assert sentence in answer["msg"]


def test_an_operation_that_is_not_known() -> None:
    with pytest.raises(AnsibleError, match="operation"):
        run(operation="teleport")
