# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Valkey's status and its moves between regions: the real main() of each module."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils import (
    _valkey,
    _valkey_handover,
    _valkey_state,
    _valkey_status,
)
from ansible_collections.muster.platform.plugins.modules import valkey_handover, valkey_info, valkey_promote
from valkey_fake import PARAMS, Platform, Unreached, library, valkeys

__all__ = ["valkeys"]
Run = Callable[..., dict[str, Any]]
MOVE = {**PARAMS, "host": "south-2", "target": "south"}
QUICK = {"catch_up": 0.05, "promote": 0.1, "rollback": 0.1, "reprotect": 0.1}


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> _valkey_state.Place:
    """No file and no unit of this machine."""
    data, config = tmp_path / "data", tmp_path / "config"
    data.mkdir()
    config.mkdir()
    (data / "server.conf").write_text("replicaof north-1 6379\n")
    place = _valkey_state.Place(str(config), str(data), "root", str(tmp_path / "applied.json"))
    place.note_applied(["acl", "tls", "sentinel"])
    monkeypatch.setattr(valkey_info, "Place", lambda: place)
    monkeypatch.setattr(_valkey_status, "systemctl", lambda *_words, **_more: "inactive")
    monkeypatch.setattr(
        _valkey_state.operation_lock.__wrapped__, "__defaults__", (str(tmp_path / "lock"), 0.1)
    )
    return place


def proof(ago: float = 1.0, **more: Any) -> dict[str, Any]:
    at = datetime.now(UTC) - timedelta(seconds=ago)
    return {"proven": True, "region": "north", "provider": "power", "proven_at": at.isoformat()} | more


# --- what a host says of itself ------------------------------------------------------------------


def status(run_module: Run, host: str = "south-1") -> dict[str, Any]:
    return run_module(valkey_info, {**PARAMS, "host": host})


def test_a_standby_that_is_well(valkeys: Platform, run_module: Run) -> None:
    valkeys.nodes["south-1"].offset = 900
    found = status(run_module)
    assert found["recovery_status"] == {
        "store": "valkey",
        "region": "south",
        "role": "standby",
        "healthy": True,
        "reasons": [],
        "ready": True,
        "position": "900",
        "timeline": "a" * 40,
        "lag_bytes": 100,
        "lag_seconds": 0.0,
        "last_backup_at": None,
        "last_restore_proof_at": None,
        "versions": {"valkey": "8.1.1"},
    }
    assert (found["primary_region"], found["plan"]) == ("north", "none")
    assert found["regions"]["south"]["leader"] == "south-1"


def test_lag_of_another_history_is_not_known(valkeys: Platform, run_module: Run) -> None:
    valkeys.nodes["south-1"].replid = "f" * 40
    found = status(run_module)["recovery_status"]
    assert (found["lag_bytes"], found["lag_seconds"], found["healthy"]) == (None, None, False)
    assert found["reasons"] == ["south-1 follows another history than the primary north-1"]


def test_a_dead_primary_makes_the_lag_unknown(valkeys: Platform, run_module: Run) -> None:
    valkeys.nodes["north-1"].down = True
    found = status(run_module)
    assert found["primary_region"] is None
    assert found["recovery_status"]["lag_bytes"] is None
    assert found["recovery_status"]["ready"] is False
    assert "no primary answers in any region, so the lag is not known" in found["recovery_status"]["reasons"]


def test_two_that_take_writes(valkeys: Platform, run_module: Run) -> None:
    valkeys.nodes["south-1"].upstream = None
    found = status(run_module, "north-1")
    assert found["primary_region"] is None
    assert "more than one host takes writes: north-1, south-1" in found["recovery_status"]["reasons"]


def test_a_stopped_host(valkeys: Platform, run_module: Run) -> None:
    valkeys.nodes["south-1"].down = True
    found = status(run_module)
    assert (found["recovery_status"]["role"], found["plan"]) == ("stopped", "start")
    assert found["recovery_status"]["reasons"] == ["south-1: Connection refused"]
    assert found["recovery_status"]["position"] is None


def test_sentinels_that_watch_a_standby_are_told(valkeys: Platform, run_module: Run) -> None:
    valkeys.nodes["south-1"].monitors = {"muster-south": {"ip": "south-1"}}
    found = status(run_module)
    assert found["plan"] == "settle"
    assert found["recovery_status"]["reasons"] == [
        "the Sentinels on south-1 watch region south, which is a standby"
    ]


def test_too_few_sentinels_are_told(valkeys: Platform, run_module: Run) -> None:
    for host in ("north-2", "north-3"):
        valkeys.nodes[host].monitors = {}
    assert status(run_module, "north-1")["recovery_status"]["reasons"] == [
        "too few Sentinels watch region north, so that nobody takes over from its primary"
    ]


def test_sentinels_that_watch_otherwise_are_told_again(valkeys: Platform, run_module: Run) -> None:
    wanted = {
        "down-after-milliseconds": "5000",
        "failover-timeout": "20000",
        "parallel-syncs": "1",
        "quorum": "2",
    }
    for host in ("north-1", "north-2", "north-3"):
        valkeys.nodes[host].monitors["muster-north"] |= wanted
    arguments = {**PARAMS, "host": "north-2"}
    assert run_module(valkey_info, {**arguments, "watching": {}})["plan"] == "none"
    assert run_module(valkey_info, {**arguments, "watching": {"down_after_ms": 3000}})["plan"] == "settle"
    # A region that grew.
    valkeys.nodes["north-2"].monitors["muster-north"]["quorum"] = "1"
    assert run_module(valkey_info, {**arguments, "watching": {}})["plan"] == "settle"
    assert run_module(valkey_info, arguments)["plan"] == "none"
    # One of the standby region watches nobody, in no way.
    assert run_module(valkey_info, {**PARAMS, "watching": {"down_after_ms": 3000}})["plan"] == "none"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"loading": 1}, "Valkey on south-1 reads its data"),
        ({"rdb_last_bgsave_status": "err"}, "the last RDB of south-1 could not be written"),
        ({"aof_last_write_status": "err"}, "south-1 cannot write its AOF"),
    ],
)
def test_what_a_server_complains_of(
    valkeys: Platform, run_module: Run, said: dict[str, Any], reason: str
) -> None:
    valkeys.nodes["south-1"].persistence = said
    assert status(run_module)["recovery_status"]["reasons"] == [reason]


def test_a_server_without_an_aof_does_not_complain_of_it(valkeys: Platform, run_module: Run) -> None:
    valkeys.nodes["south-1"].persistence = {"aof_enabled": 0, "aof_last_write_status": "err"}
    assert status(run_module)["recovery_status"]["reasons"] == []


@pytest.mark.parametrize(("more", "decodes"), [({}, True), ({"decode": False}, False)])
def test_answers_are_text_unless_bytes_are_asked_for(
    valkeys: Platform, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], decodes: bool
) -> None:
    asked: list[dict[str, Any]] = []
    real = sys.modules["redis"].Redis

    def note(**words: Any) -> Any:
        asked.append(words)
        return real(**words)

    monkeypatch.setattr(sys.modules["redis"], "Redis", note)
    defaults = {name: option.get("default") for name, option in _valkey.OPTIONS.items()}
    with _valkey.Access.from_params({**defaults, **PARAMS}).session("south-1", **more):
        pass
    assert [(words["port"], words["decode_responses"]) for words in asked] == [(6379, decodes)]


def test_a_host_that_copies_is_no_standby_yet(valkeys: Platform, run_module: Run) -> None:
    valkeys.nodes["south-1"].link, valkeys.nodes["south-1"].copying = "down", 1
    found = status(run_module)["recovery_status"]
    assert (found["ready"], found["reasons"]) == (False, ["south-1 copies all data from north-1"])


def test_backups_and_a_fence_are_told(valkeys: Platform, run_module: Run, place: _valkey_state.Place) -> None:
    found = run_module(valkey_info, {**PARAMS, "backups": True, "backup_proof": f"{place.data}/none"})
    assert found["recovery_status"]["reasons"] == ["south-1 has no backup yet"]
    Path(place.marker).write_text('{"fenced_at": "then", "operation": "failover to north"}')
    found = status(run_module)
    assert (found["recovery_status"]["role"], found["plan"]) == ("fenced", "none")
    assert found["recovery_status"]["reasons"] == [
        "fenced since then (failover to north); dr_reprotect brings it back"
    ]


def test_a_sentinel_that_is_silent_is_told(valkeys: Platform, run_module: Run) -> None:
    valkeys.nodes["south-1"].sentinel_down = True
    found = status(run_module)
    assert found["plan"] == "start"
    assert found["recovery_status"]["reasons"] == [
        "the Sentinel on south-1 does not answer (the Sentinel on south-1: Connection refused)"
    ]


def test_a_host_of_no_region(valkeys: Platform, run_module: Run) -> None:
    found = status(run_module, "west-1")
    assert found["msg"] == "west-1 is not among the Valkey hosts of any region"


# --- the planned move ------------------------------------------------------------------------------


def test_a_handover(valkeys: Platform, run_module: Run) -> None:
    found = run_module(valkey_handover, MOVE)
    assert (found["situation"], found["changed"], found["primary"]) == ("start", True, "south-1")
    assert found["proof_position"] == found["position_promoted"] == "1000"
    assert valkeys.primaries() == ["south-1"]
    assert {host: node.upstream for host, node in valkeys.nodes.items()} == {
        "north-1": "south-1",
        "north-2": "north-1",
        "north-3": "north-1",
        "south-1": None,
        "south-2": "south-1",
        "south-3": "south-1",
    }
    for host, node in valkeys.nodes.items():
        assert node.priority == (100 if host.startswith("south") else 0)
        assert list(node.monitors) == (["muster-south"] if host.startswith("south") else [])
    order = [call for call in valkeys.calls if "REMOVE" in call or "FAILOVER" in call or "MONITOR" in call]
    # The old Sentinels are silent before, the new ones watch only after.
    kinds = ["REMOVE" if "REMOVE" in call else call.split()[1] for call in order]
    assert kinds == ["REMOVE"] * 3 + ["FAILOVER"] + ["SENTINEL"] * 3


def test_a_second_handover_does_nothing(valkeys: Platform, run_module: Run) -> None:
    run_module(valkey_handover, MOVE)
    found = run_module(valkey_handover, MOVE)
    assert (found["situation"], found["changed"]) == ("done", False)


def test_check_mode_changes_nothing(valkeys: Platform, run_module: Run) -> None:
    found = run_module(valkey_handover, MOVE, check=True)
    assert (found["changed"], found["target_host"]) == (True, "south-1")
    assert valkeys.primaries() == ["north-1"]
    assert not [call for call in valkeys.calls if "INFO" not in call and "MASTERS" not in call]


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda n: n["south-1"].__dict__.update(offset=0), "refused: south-1 is 1000 bytes behind, at most 100 are allowed"),
        (lambda n: n["south-1"].__dict__.update(link="down"), "refused: south-1 does not stream from the primary north-1"),
        (lambda n: n["south-3"].__dict__.update(link="down"), "refused: south-3 does not stream the primary's history"),
        (lambda n: n["south-3"].__dict__.update(down=True), "refused: south-3 of region south does not answer"),
        (
            lambda n: [n[h].__dict__.update(sentinel_down=True) for h in ("south-1", "south-2")],
            "refused: only 1 of 3 Sentinels of region south answer",
        ),
        (lambda n: n["north-1"].__dict__.update(down=True), "exactly one host must take writes, found: none"),
        (
            lambda n: n["south-1"].__dict__.update(upstream=None),
            "exactly one host must take writes, found: north-1, south-1",
        ),
    ],
)  # fmt: skip
def test_a_handover_refuses(
    valkeys: Platform, run_module: Run, break_it: Callable[[Any], Any], sentence: str
) -> None:
    break_it(valkeys.nodes)
    found = run_module(valkey_handover, {**MOVE, "max_lag_bytes": 100})
    assert found["msg"] == sentence
    assert not [call for call in valkeys.calls if "PAUSE" in call or "REMOVE" in call or "FAILOVER" in call]


def test_a_target_that_does_not_catch_up_is_rolled_back(valkeys: Platform, run_module: Run) -> None:
    valkeys.nodes["south-1"].offset = 990
    found = run_module(valkey_handover, {**MOVE, "timeouts": QUICK})
    assert found["msg"] == (
        "waited 0.05 s for south-1 to hold all of north-1: it is 10 bytes behind; north-1 is primary as before"
    )
    assert valkeys.primaries() == ["north-1"]
    assert "north-1 CLIENT UNPAUSE" in valkeys.calls
    assert [list(valkeys.nodes[host].monitors) for host in ("north-1", "north-2", "north-3")] == [
        ["muster-north"]
    ] * 3


def test_a_failover_that_the_servers_give_up_is_rolled_back(
    valkeys: Platform, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valkey_fake.Client._failover", lambda *_arguments: None)
    found = run_module(valkey_handover, {**MOVE, "timeouts": QUICK})
    assert found["msg"] == "north-1 gave the failover up; north-1 is primary as before"
    assert valkeys.primaries() == ["north-1"]


def test_a_target_lost_in_the_middle_is_not_guessed_about(
    valkeys: Platform, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(client: Any, target: Any) -> None:
        client.node.failover, client.node.upstream, target.down = "failover-in-progress", target.host, True

    monkeypatch.setattr("valkey_fake.Client._failover", lost)
    found = run_module(valkey_handover, {**MOVE, "timeouts": QUICK})
    assert found["msg"].endswith("whether region south was promoted is not known: run the same command again")
    assert not [call for call in valkeys.calls if "ABORT" in call]
    # The same again, while it is still silent, or the way back: refused.
    for target in ("south", "north"):
        found = run_module(valkey_handover, {**MOVE, "target": target, "timeouts": QUICK})
        assert found["msg"].startswith("north-1 hands over to region south, of which south-1 does not answer")
    assert not [call for call in valkeys.calls if "ABORT" in call]
    # When it is back and was not promoted: rolled back, and moved.
    valkeys.nodes["south-1"].down = False
    monkeypatch.undo()
    library(monkeypatch, valkeys)
    found = run_module(valkey_handover, {**MOVE, "timeouts": QUICK})
    assert (found["situation"], valkeys.primaries()) == ("start", ["south-1"])
    assert "north-1 FAILOVER ABORT" in valkeys.calls


def test_a_failover_whose_target_was_promoted_is_not_aborted(valkeys: Platform, run_module: Run) -> None:
    valkeys.client("north-1", False).execute_command("FAILOVER", "TO", "south-1", 6379, "TIMEOUT", 1)
    valkeys.nodes["north-1"].failover = "failover-in-progress"
    found = run_module(valkey_handover, {**MOVE, "timeouts": QUICK})
    assert (found["situation"], valkeys.primaries()) == ("resume", ["south-1"])
    assert not [call for call in valkeys.calls if "ABORT" in call]


def test_a_failover_under_way_is_waited_for(valkeys: Platform, run_module: Run) -> None:
    valkeys.nodes["north-1"].failover = "waiting-for-sync"

    def end(host: str, words: tuple[Any, ...]) -> None:
        if len([call for call in valkeys.calls if call.startswith("north-1 INFO")]) > 2:
            valkeys.nodes["north-1"].failover = "no-failover"

    valkeys.on_call = end
    assert run_module(valkey_handover, {**MOVE, "timeouts": QUICK})["situation"] == "start"
    assert not [call for call in valkeys.calls if "ABORT" in call]


def test_a_target_promoted_while_rolled_back_is_told(
    valkeys: Platform, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valkey_fake.Client._failover", lambda *_arguments: None)

    def promote(_host: str, words: tuple[Any, ...]) -> None:
        if words[:2] == ("FAILOVER", "ABORT"):
            valkeys.nodes["south-1"].upstream = None

    valkeys.on_call = promote
    found = run_module(valkey_handover, {**MOVE, "timeouts": QUICK})
    assert found["msg"] == (
        "waited 0.1 s for north-1 to take writes again: exactly one host must take writes, found: north-1, south-1"
    )


def test_a_target_that_changed_its_history_is_rolled_back(valkeys: Platform, run_module: Run) -> None:
    def stray(_host: str, words: tuple[Any, ...]) -> None:
        if words[:2] == ("CLIENT", "PAUSE"):
            valkeys.nodes["south-1"].replid = "e" * 40

    valkeys.on_call = stray
    found = run_module(valkey_handover, {**MOVE, "timeouts": QUICK})
    assert "south-1 no longer follows the history of north-1; north-1 is primary as before" in found["msg"]


def test_who_was_promoted_sees_it_itself(
    valkeys: Platform, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(client: Any, target: Any) -> None:
        client.node.upstream = target.host  # and the target was not promoted

    monkeypatch.setattr("valkey_fake.Client._failover", lost)
    valkeys.on_call = lambda _host, words: (
        valkeys.nodes["north-1"].__dict__.update(upstream=None) if "UNPAUSE" in words[1:] else None
    )
    found = run_module(valkey_handover, {**MOVE, "timeouts": QUICK})
    assert found["msg"] == "south-1 is not primary after the failover; north-1 is primary as before"


def test_what_must_last_a_restart_is_written(valkeys: Platform, run_module: Run) -> None:
    run_module(valkey_handover, MOVE)
    calls = valkeys.calls
    moved = next(n for n, call in enumerate(calls) if "FAILOVER TO" in call)
    told = next(n for n, call in enumerate(calls) if "SENTINEL MONITOR" in call)
    for host in ("north-1", "south-1"):
        assert f"{host} CONFIG REWRITE" in calls[moved:told]
    assert "north-1 CLIENT UNPAUSE" in calls[moved:told]
    assert "north-1 CLIENT KILL TYPE normal SKIPME yes" in calls[moved:told]
    pause = next(n for n, call in enumerate(calls) if "CLIENT PAUSE" in call)
    assert calls[pause].endswith("WRITE")
    assert pause < moved


def test_sentinels_with_an_old_view_are_told_anew(valkeys: Platform, run_module: Run) -> None:
    valkeys.nodes["south-3"].monitors = {"muster-south": {"ip": "south-3"}}
    run_module(valkey_handover, MOVE)
    assert valkeys.nodes["south-3"].monitors["muster-south"]["ip"] == "south-1"


def test_a_follower_that_strayed_is_chained(valkeys: Platform, run_module: Run) -> None:
    valkeys.nodes["north-3"].upstream = "south-1"
    run_module(valkey_handover, MOVE)
    assert valkeys.nodes["north-3"].upstream == "north-1"


def test_a_follower_that_does_not_stream_is_told(valkeys: Platform, run_module: Run) -> None:
    valkeys.nodes["north-3"].link = "down"
    found = run_module(valkey_handover, {**MOVE, "timeouts": QUICK})
    assert found["msg"].endswith("to stream from the new primary: not yet north-3")


def test_an_interrupted_handover_is_finished(valkeys: Platform, run_module: Run) -> None:
    # Promoted, but nobody was told.
    valkeys.client("north-1", False).execute_command("FAILOVER", "TO", "south-1", 6379, "TIMEOUT", 1)
    for host in ("north-1", "north-2", "north-3"):
        valkeys.nodes[host].monitors = {}
    found = run_module(valkey_handover, MOVE)
    assert (found["situation"], found["changed"]) == ("resume", True)
    assert all(list(valkeys.nodes[f"south-{n}"].monitors) == ["muster-south"] for n in (1, 2, 3))
    assert [valkeys.nodes[f"{r}-2"].priority for r in ("north", "south")] == [0, 100]


def test_an_unknown_timeout(valkeys: Platform, run_module: Run) -> None:
    found = run_module(valkey_handover, {**MOVE, "timeouts": {"demote": 3}})
    assert found["msg"] == "timeouts: unknown demote; known are catch_up, promote, reprotect, rollback"


def test_an_unknown_region(valkeys: Platform, run_module: Run) -> None:
    found = run_module(valkey_handover, {**MOVE, "target": "west"})
    assert found["msg"] == "west is no region with Valkey hosts; there are: north, south"


# --- the unplanned move -----------------------------------------------------------------------------


def lose_north(valkeys: Platform) -> None:
    for host in ("north-1", "north-2", "north-3"):
        valkeys.nodes[host].down = valkeys.nodes[host].sentinel_down = True


def test_a_promotion(valkeys: Platform, run_module: Run) -> None:
    lose_north(valkeys)
    valkeys.nodes["south-3"].offset = 1200
    found = run_module(valkey_promote, {**MOVE, "fence": proof()})
    assert (found["situation"], found["primary"], found["fork_position"]) == ("start", "south-3", "1200")
    assert valkeys.nodes["south-1"].upstream == valkeys.nodes["south-2"].upstream == "south-3"
    assert [valkeys.nodes[f"south-{n}"].monitors["muster-south"]["ip"] for n in (1, 2, 3)] == ["south-3"] * 3
    calls = [call for call in valkeys.calls if "MONITOR" in call or "NO ONE" in call]
    assert calls[-1] == "south-3 REPLICAOF NO ONE"  # the Sentinels, whom the guard asks, knew before


def test_a_promotion_again(valkeys: Platform, run_module: Run) -> None:
    lose_north(valkeys)
    run_module(valkey_promote, {**MOVE, "fence": proof()})
    found = run_module(valkey_promote, {**MOVE, "fence": {}})
    assert (found["situation"], found["changed"]) == ("resume", False)


@pytest.mark.parametrize(
    ("break_it", "fence", "sentence"),
    [
        (lambda n: None, None, "refused: region north is not proven to be fenced"),
        (lambda n: None, {"region": "south"}, "refused: the fence is of region south, not of north"),
        (
            lambda n: n["north-1"].__dict__.update(down=False),
            {},
            "refused: north-1 takes writes, whatever the fence says",
        ),
        (
            lambda n: [n[h].__dict__.update(down=True) for h in ("south-1", "south-2")],
            {},
            "refused: only 1 of 3 hosts of region south answer (south-1: Connection refused; south-2: Connection refused)",
        ),
        (
            lambda n: [n[f"south-{i}"].__dict__.update(copying=1) for i in (1, 2, 3)],
            {},
            "refused: no host of region south holds a whole copy",
        ),
        (
            lambda n: [n[h].__dict__.update(sentinel_down=True) for h in ("south-1", "south-2")],
            {},
            "no majority of the Sentinels of region south answers: as a primary it would not be safe",
        ),
    ],
)  # fmt: skip
def test_a_promotion_refuses(
    valkeys: Platform,
    run_module: Run,
    break_it: Callable[[Any], Any],
    fence: dict[str, Any] | None,
    sentence: str,
) -> None:
    lose_north(valkeys)
    break_it(valkeys.nodes)
    found = run_module(valkey_promote, {**MOVE, "fence": {} if fence is None else proof(**fence)})
    assert found["msg"] == sentence
    assert not [call for call in valkeys.calls if "NO ONE" in call]


def test_more_than_one_writer_is_refused(valkeys: Platform, run_module: Run) -> None:
    lose_north(valkeys)
    valkeys.nodes["south-1"].upstream = valkeys.nodes["south-2"].upstream = None
    found = run_module(valkey_promote, {**MOVE, "fence": proof()})
    assert found["msg"] == "refused: south-1, south-2 take writes both"


def test_a_copy_that_is_not_whole_is_not_promoted(valkeys: Platform, run_module: Run) -> None:
    lose_north(valkeys)
    valkeys.nodes["south-3"].offset, valkeys.nodes["south-3"].persistence = 1200, {"loading": 1}
    valkeys.nodes["south-2"].offset, valkeys.nodes["south-2"].replid = 1300, "0" * 40
    found = run_module(valkey_promote, {**MOVE, "fence": proof()}, check=True)
    assert (found["primary"], valkeys.primaries()) == ("south-1", [])
    found = run_module(valkey_promote, {**MOVE, "fence": proof()})
    assert (found["primary"], found["fork_position"]) == ("south-1", "1000")
    assert "south-1 CONFIG REWRITE" in valkeys.calls
    assert [valkeys.nodes[f"south-{n}"].priority for n in (1, 2, 3)] == [100] * 3


def test_silent_hosts_are_told(valkeys: Platform, run_module: Run) -> None:
    lose_north(valkeys)
    valkeys.nodes["south-2"].down = True
    assert run_module(valkey_promote, {**MOVE, "fence": proof()})["silent"] == ["south-2"]


def test_sentinels_of_an_earlier_time_are_told_anew(valkeys: Platform, run_module: Run) -> None:
    lose_north(valkeys)
    valkeys.nodes["south-3"].monitors = {"muster-south": {"ip": "south-3"}}
    run_module(valkey_promote, {**MOVE, "fence": proof()})
    assert valkeys.nodes["south-3"].monitors["muster-south"]["ip"] == "south-1"


def test_a_region_of_two_histories_is_refused(valkeys: Platform, run_module: Run) -> None:
    lose_north(valkeys)
    valkeys.nodes["south-2"].replid = "d" * 40
    found = run_module(valkey_promote, {**MOVE, "fence": proof()})
    assert found["msg"].startswith("refused: the hosts of region south follow different histories")
    assert valkeys.nodes["south-1"].upstream == "north-1"


def test_the_library_is_named_when_it_is_missing(
    valkeys: Platform, run_module: Run, monkeypatch: Any
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "redis", None)
    found = status(run_module)
    assert found["recovery_status"]["reasons"] == ["python3-redis is not installed"]


def test_the_limits_have_defaults() -> None:
    assert replace(_valkey_handover.Limits(), catch_up=1).promote == 10


def test_a_connection_lost_while_told(valkeys: Platform, run_module: Run) -> None:
    def lose(host: str, words: tuple[Any, ...]) -> None:
        if words[0] == "CLIENT" and words[1] == "PAUSE":
            raise Unreached("Connection reset by peer")

    valkeys.on_call = lose
    found = run_module(valkey_handover, {**MOVE, "timeouts": QUICK})
    assert found["msg"] == "north-1: Connection reset by peer; north-1 is primary as before"
