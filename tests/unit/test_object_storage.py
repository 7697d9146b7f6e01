# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The object store's roles, status and moves: the modules' real main() against the real program of each region."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils import _object_handover
from ansible_collections.muster.platform.plugins.modules import (
    object_storage_handover,
    object_storage_info,
    object_storage_promote,
    object_storage_region,
)
from object_world import World, regions

__all__ = ["regions"]

Run = Callable[..., dict[str, Any]]
SHORT = {"catch_up": 0.3, "open": 0.5, "rollback": 0.5, "reprotect": 0.5}


def handover(run_module: Run, world: World, target: str, check: bool = False, **more: Any) -> dict[str, Any]:
    given = {"configuration": world.configuration[target], "holder": "ann", "timeouts": SHORT, **more}
    return run_module(object_storage_handover, given, check=check)


def status(run_module: Run, world: World, region: str) -> dict[str, Any]:
    return run_module(object_storage_info, {"configuration": world.configuration[region], "region": region})


def first_start(run_module: Run, world: World, region: str, **more: Any) -> dict[str, Any]:
    given = {"configuration": world.configuration[region], "initial_primary_region": "north", "timeout": 0.3}
    return run_module(object_storage_region, {**given, **more})


# --- the first start ---


def test_the_first_role_is_given_once(regions: World, run_module: Run) -> None:
    regions.act()
    assert first_start(run_module, regions, "north")["role"] == "primary"
    assert first_start(run_module, regions, "south")["role"] == "standby"
    again = first_start(run_module, regions, "north", initial_primary_region="south")
    assert (again["changed"], again["role"]) == (False, "primary")
    assert regions.open() == ["north"]


def test_no_role_is_given_while_the_other_region_is_silent(regions: World, run_module: Run) -> None:
    regions.act()
    regions.down.add("south-1")
    answer = first_start(run_module, regions, "north")
    assert answer["failed"]
    assert "south-1:9332 does not answer" in answer["msg"]
    assert regions.open() == []


def test_a_region_without_data_follows_the_one_that_is_primary(regions: World, run_module: Run) -> None:
    regions.begin()
    del regions.filers["south-1"]["/muster/region.json"]
    regions.act()
    assert first_start(run_module, regions, "south", initial_primary_region="south")["role"] == "standby"
    assert regions.open() == ["north"]


# --- the guard ---


def reboot(world: World, host: str) -> None:
    keeper = world.keepers[host]
    keeper.gateway.stop()
    keeper.note_open(None)


def test_a_region_that_returns_does_not_open_beside_another(regions: World, run_module: Run) -> None:
    regions.begin()
    regions.down.add("north-1")
    promote(run_module, regions)
    regions.down.clear()
    reboot(regions, "north-1")
    regions.act()
    assert regions.open() == ["south"]
    found = status(run_module, regions, "north")["recovery_status"]
    assert found["role"] == "fenced"
    assert found["reasons"] == [
        "region south is primary: as a second primary north would lose writes; dr_reprotect brings it back as a standby"
    ]


def test_a_region_that_was_never_down_closes_when_it_sees_another_primary(
    regions: World, run_module: Run
) -> None:
    regions.begin()
    regions.down.add("north-1")
    promote(run_module, regions)
    assert regions.open() == ["north", "south"]
    regions.down.clear()
    regions.act()
    assert regions.open() == ["south"]


def test_a_region_that_is_no_primary_by_its_own_record_closes(regions: World) -> None:
    regions.begin()
    state = {"role": "standby", "primary": "south", "epoch": 2}
    regions.filers["north-1"]["/muster/region.json"] = json.dumps(state).encode()
    regions.act()
    assert regions.open() == []


def test_after_a_boot_nothing_opens_while_the_other_region_is_silent(regions: World) -> None:
    regions.begin()
    regions.down.add("south-1")
    reboot(regions, "north-1")
    regions.act()
    assert regions.open() == []
    assert "whether another region is primary is not known" in regions.keepers["north-1"].reason


def test_a_gateway_that_crashed_opens_again_behind_a_cut(regions: World) -> None:
    regions.begin()
    regions.down.add("south-1")
    regions.keepers["north-1"].gateway.stop()
    regions.act()
    assert regions.open() == ["north"]


# --- status ---


def test_status_of_both_regions(regions: World, run_module: Run) -> None:
    regions.begin()
    regions.keepers["south-1"].compared = {
        "missing": [], "different": [], "extra": [], "at": "now", "repaired": 0, "files": 1
    }  # fmt: skip
    found = status(run_module, regions, "south")
    told = found["recovery_status"]
    assert (told["role"], told["healthy"], told["ready"], found["primary_region"]) == (
        "standby",
        True,
        True,
        "north",
    )
    assert told["lag_seconds"] < 1
    assert told["timeline"] == 1
    assert found["leader"] == "south-1"
    assert status(run_module, regions, "north")["recovery_status"]["role"] == "primary"


@pytest.mark.parametrize(
    ("change", "reason", "ready"),
    [
        (
            {"compared": None},
            "south has not been compared with its primary since the last start of either",
            False,
        ),
        ({"beat": None}, "no canary has arrived in south yet", False),
        ({"compare_error": "it broke"}, "the last comparison failed: it broke", True),
        ({"beat": {"at": 1.0, "epoch": 1, "sequence": 1}}, "the newest canary in south is", True),
    ],
)
def test_a_standby_is_not_well(
    regions: World, run_module: Run, change: dict[str, Any], reason: str, ready: bool
) -> None:
    regions.begin()
    keeper = regions.keepers["south-1"]
    keeper.compared = {"missing": [], "different": [], "extra": [], "at": "now", "repaired": 0}
    for name, value in change.items():
        setattr(keeper, name, value)
    told = status(run_module, regions, "south")["recovery_status"]
    assert (told["ready"], told["healthy"]) == (ready, False)
    assert any(reason in text for text in told["reasons"])


def test_status_without_anything(run_module: Run, tmp_path: Path) -> None:
    found = run_module(object_storage_info, {"configuration": str(tmp_path / "none"), "region": "north"})
    assert found["recovery_status"]["role"] == "unknown"
    assert found["primary_region"] is None
    assert set(found["recovery_status"]) == {
        "store", "region", "role", "healthy", "reasons", "ready", "position", "timeline", "lag_bytes",
        "lag_seconds", "lag_measure", "last_backup_at", "last_restore_proof_at", "versions",
    }  # fmt: skip


def test_status_of_a_silent_primary_is_no_readiness_for_free(regions: World, run_module: Run) -> None:
    regions.begin()
    regions.down.add("north-1")
    found = status(run_module, regions, "south")
    assert found["primary_region"] is None
    assert "no primary answers in any region" in found["recovery_status"]["reasons"]


# --- handover ---


def test_a_handover_loses_nothing_and_turns_the_copying_around(regions: World, run_module: Run) -> None:
    regions.begin()
    regions.put("north", "one")
    answer = handover(run_module, regions, "south")
    assert answer["situation"] == "start"
    assert answer["changed"]
    assert regions.open() == ["south"]
    assert regions.holds("south", "one")
    regions.act()
    regions.put("south", "two")
    assert regions.holds("north", "two")
    again = handover(run_module, regions, "south")
    assert (again["changed"], again["situation"]) == (False, "done")
    assert handover(run_module, regions, "north")["changed"]
    assert regions.open() == ["north"]
    assert regions.holds("north", "two")


def test_check_mode_changes_nothing(regions: World, run_module: Run) -> None:
    regions.begin()
    before = json.dumps(regions.state("north"))
    assert handover(run_module, regions, "south", check=True)["changed"]
    assert json.dumps(regions.state("north")) == before
    assert regions.open() == ["north"]


def test_a_handover_refuses_what_is_not_copied(regions: World, run_module: Run) -> None:
    regions.begin()
    regions.copying = False
    regions.put("north", "one")
    answer = handover(run_module, regions, "south")
    assert "refused: south lacks" in answer["msg"]
    assert regions.open() == ["north"]


def test_a_handover_refuses_an_old_canary(regions: World, run_module: Run) -> None:
    regions.begin()
    regions.keepers["south-1"].beat["at"] -= 100
    answer = handover(run_module, regions, "south")
    assert "refused: the newest canary in south is 100 s old" in answer["msg"]


def test_a_handover_refuses_when_nobody_copies(regions: World, run_module: Run) -> None:
    regions.begin()
    regions.keepers["south-1"].sync.stop()
    assert "south does not copy from north" in handover(run_module, regions, "south")["msg"]


def test_a_handover_refuses_a_comparison_that_takes_too_long(regions: World, run_module: Run) -> None:
    regions.begin()
    answer = handover(run_module, regions, "south", max_pause=0.01)
    assert "object_storage_handover_max_pause" in answer["msg"]
    assert regions.open() == ["north"]


def test_a_handover_refuses_a_silent_source(regions: World, run_module: Run) -> None:
    regions.begin()
    regions.down.add("north-1")
    assert "refused: the role of region north is not known" in handover(run_module, regions, "south")["msg"]


def test_what_does_not_arrive_rolls_back(
    regions: World, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    regions.begin()
    real = _object_handover.Handover.close

    def close(move: Any, *words: Any) -> Any:
        regions.copying = False
        return real(move, *words)

    monkeypatch.setattr(_object_handover.Handover, "close", close)
    answer = handover(run_module, regions, "south")
    assert (
        "failed and was rolled back: waited 0.3 s for a canary from north to arrive in south" in answer["msg"]
    )
    assert regions.open() == ["north"]
    assert regions.state("north")["role"] == "primary"


def test_a_handover_is_not_done_while_nothing_comes_back(
    regions: World, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    regions.begin()
    real = _object_handover.Handover.serving

    def serving(move: Any, *words: Any) -> None:
        real(move, *words)
        regions.copying = False

    monkeypatch.setattr(_object_handover.Handover, "serving", serving)
    answer = handover(run_module, regions, "south")
    assert "waited 0.5 s for a canary from south to arrive in north" in answer["msg"]
    assert regions.open() == ["south"]


def interrupted(world: World, run_module: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ended between the closing and the opening, with no time to put anything back."""

    def die(*_words: Any) -> None:
        raise SystemExit(1)

    with monkeypatch.context() as patch:
        patch.setattr(_object_handover.Handover, "catch_up", die)
        with pytest.raises(ValueError, match="Expecting value"):
            handover(run_module, world, "south")
    assert world.open() == []


def test_the_same_command_finishes_what_was_interrupted(
    regions: World, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    regions.begin()
    regions.put("north", "one")
    interrupted(regions, run_module, monkeypatch)
    answer = handover(run_module, regions, "south")
    assert answer["situation"] == "resume"
    assert regions.open() == ["south"]


def test_one_back_undoes_what_was_interrupted(
    regions: World, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    regions.begin()
    interrupted(regions, run_module, monkeypatch)
    answer = handover(run_module, regions, "north")
    assert answer["situation"] == "return"
    assert regions.open() == ["north"]
    regions.act()
    regions.put("north", "two")
    assert regions.holds("south", "two")


def test_an_opening_whose_answer_is_lost_goes_forward(regions: World, run_module: Run) -> None:
    regions.begin()
    lost = []
    real = regions.answer

    def answer(method: str, host: str, port: int, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        found = real(method, host, port, path, body)
        if (
            method == "POST"
            and host == "south-1"
            and b'"primary", "primary": "south"' in (body or b"")
            and not lost
        ):
            lost.append(host)
            raise regions.program.Unknown("south-1:9332 does not answer (timed out)")
        return found

    regions.answer = answer  # type: ignore[method-assign]
    handover(run_module, regions, "south")
    assert lost
    assert regions.open() == ["south"]


def test_an_opening_that_comes_late_is_refused(regions: World) -> None:
    regions.begin()
    keeper = regions.keepers["south-1"]
    wanted = {"expect": 1, "epoch": 3, "role": "primary", "primary": "south"}
    with pytest.raises(regions.program.Refused, match="region north takes writes"):
        keeper.change(dict(wanted))
    keeper.change({"expect": 1, "epoch": 2, "role": "standby", "primary": "north"})
    with pytest.raises(regions.program.Refused, match="the epoch of south is 2, not 1"):
        keeper.change(dict(wanted))
    assert regions.open() == ["north"]


# --- promote ---


def promote(run_module: Run, world: World, **more: Any) -> dict[str, Any]:
    proof = {
        "proven": True,
        "region": "north",
        "provider": "power",
        "proven_at": datetime.now(UTC).isoformat(),
    }
    given = {"configuration": world.configuration["south"], "holder": "ann", "timeout": 0.5}
    return run_module(object_storage_promote, {**given, "fence": {**proof, **more}})


def test_promote_opens_behind_a_proven_fence(regions: World, run_module: Run) -> None:
    regions.begin()
    regions.down.add("north-1")
    answer = promote(run_module, regions)
    assert answer["changed"]
    assert answer["epoch"] > 2
    assert answer["heartbeat"]["sequence"] >= 1
    assert regions.keepers["south-1"].gateway.alive
    assert promote(run_module, regions)["situation"] == "resume"


@pytest.mark.parametrize(
    ("proof", "text"),
    [
        ({"proven": False}, "region north is not proven to be fenced"),
        ({"region": "south"}, "the fence is of region south, not of north"),
        ({"proven_at": (datetime.now(UTC) - timedelta(hours=1)).isoformat()}, "s ago"),
    ],
)
def test_promote_refuses(regions: World, run_module: Run, proof: dict[str, Any], text: str) -> None:
    regions.begin()
    regions.down.add("north-1")
    assert text in promote(run_module, regions, **proof)["msg"]
    assert not regions.keepers["south-1"].gateway.alive


def test_promote_refuses_while_the_other_side_is_open(regions: World, run_module: Run) -> None:
    regions.begin()
    assert "region north takes writes, whatever its fence says" in promote(run_module, regions)["msg"]


def test_promote_refuses_when_its_own_store_is_not_known(regions: World, run_module: Run) -> None:
    regions.begin()
    regions.down.update({"north-1", "south-1"})
    assert "the role of region south is not known" in promote(run_module, regions)["msg"]
