# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Two runs at once, epochs, and the copy: what is saved, repaired, and never removed."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils import _object_handover
from ansible_collections.muster.platform.plugins.module_utils._object_storage import Stores
from ansible_collections.muster.platform.plugins.modules import object_storage_rejoin
from object_world import World, load_program, regions
from test_object_storage import first_start, handover, promote
from test_object_storage_fence import Units, fail_over, fence, rejoin, units

__all__ = ["regions", "units"]

Run = Callable[..., dict[str, Any]]


# --- two runs, and who wins -----------------------------------------------------------------------


def change(world: World, host: str, epoch: int, **more: Any) -> None:
    keeper = world.keepers[host]
    keeper.change({"expect": keeper.state["epoch"], "epoch": epoch, "primary": "north", **more})


def before_closing(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    real = _object_handover.Handover.close

    def close(move: Any, *words: Any) -> Any:
        act()
        return real(move, *words)

    monkeypatch.setattr(_object_handover.Handover, "close", close)


@pytest.mark.parametrize("first", ["south-1", "north-1"])
def test_who_comes_second_changes_nothing(
    regions: World, run_module: Run, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """The other run has changed a region, and closed north in one case: only it may open north again."""
    regions.begin()
    instance = regions.keepers["north-1"].gateway.instance
    before_closing(monkeypatch, lambda: change(regions, first, 5, role="standby"))
    answer = handover(run_module, regions, "south")
    assert answer["msg"].startswith(
        f"refused: region {first[:5]} did not change: the epoch of {first[:5]} is 5"
    )
    assert regions.open() == (["north"] if first == "south-1" else [])
    assert regions.keepers["north-1"].gateway.instance == instance


def test_an_opening_on_its_way_fails_after_going_back(
    regions: World, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    regions.begin()
    seen: list[int] = []

    def fail(_move: Any, _source: Any, target: Any) -> None:
        seen.append(target.epoch)
        raise _object_handover.MusterError("it did not arrive")

    monkeypatch.setattr(_object_handover.Handover, "catch_up", fail)
    assert "rolled back: it did not arrive" in handover(run_module, regions, "south")["msg"]
    assert regions.open() == ["north"]
    assert regions.state("south")["epoch"] > seen[0]
    assert regions.state("south")["epoch"] >= regions.state("north")["epoch"]


def test_nothing_goes_back_while_the_target_is_silent(
    regions: World, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    regions.begin()

    def fail(*_words: Any) -> None:
        regions.down.add("south-1")
        raise _object_handover.MusterError("it went away")

    monkeypatch.setattr(_object_handover.Handover, "catch_up", fail)
    answer = handover(run_module, regions, "south")
    assert "could not be rolled back (waited 0.5 s for region north to be primary again" in answer["msg"]
    assert "whether south was opened is not known" in answer["msg"]
    assert regions.open() == []


def test_something_on_the_closed_port_rolls_back(
    regions: World, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    regions.begin()
    monkeypatch.setattr(Stores, "s3_listens", lambda _stores, _host: True)
    answer = handover(run_module, regions, "south")
    assert "rolled back: something still listens on the S3 port of north-1" in answer["msg"]
    assert regions.open() == ["north"]


def test_what_is_promoted_wins_over_a_move_that_got_further(regions: World, run_module: Run) -> None:
    """North's epoch had grown past what south knows of when the link was cut."""
    regions.begin()
    state = {**regions.state("north"), "epoch": 3}
    regions.filers["north-1"]["/muster/region.json"] = json.dumps(state).encode()
    regions.down.add("north-1")
    assert promote(run_module, regions)["changed"]
    regions.down.clear()
    regions.act()
    assert regions.open() == ["south"]


# --- an empty region ------------------------------------------------------------------------------


@pytest.mark.parametrize("knows", ["heartbeat", "epoch"])
def test_an_empty_region_is_not_opened_beside_a_copy(regions: World, run_module: Run, knows: str) -> None:
    regions.begin()
    if knows == "epoch":
        change(regions, "south-1", 2, role="standby")
        del regions.filers["south-1"]["/buckets/.muster/heartbeat.json"]
    regions.filers["north-1"].clear()
    regions.keepers["north-1"].gateway.stop()
    regions.act()
    answer = first_start(run_module, regions, "north")
    assert "region north has no role and no data, and south holds a copy" in answer["msg"]
    assert regions.open() == []


# --- what only one side has -----------------------------------------------------------------------


def test_all_that_is_removed_with_a_directory_is_saved(
    regions: World, units: Units, run_module: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison names the directory alone, as where the other side has a file of that name."""
    fail_over(regions, run_module)
    north = regions.filers["north-1"]
    del north["/buckets/b/tail"]
    north |= {"/buckets/b/dir/one": b"1", "/buckets/b/dir/deep/two": b"22"}
    found = {"missing": ["/buckets/b/dir", "/buckets/b/dir/deep"], "different": [], "files": 2}
    found["directories"] = found["missing"]
    real = Stores.compare

    def compare(stores: Any, source: str, target: str, *rest: Any, **more: Any) -> dict[str, Any]:
        return found if source == "north-1" else real(stores, source, target, *rest, **more)

    monkeypatch.setattr(Stores, "compare", compare)
    fence(run_module, regions)
    saved = rejoin(run_module, regions, tmp_path)["saved"]
    assert (saved["objects"], saved["bytes"]) == (2, 3)
    assert not [path for path in north if path.startswith("/buckets/b/dir")]


def test_nobody_else_reads_what_is_saved(
    regions: World, units: Units, run_module: Run, tmp_path: Path
) -> None:
    fail_over(regions, run_module)
    fence(run_module, regions)
    saved = rejoin(run_module, regions, tmp_path)["saved"]
    assert stat.S_IMODE(Path(saved["directory"]).stat().st_mode) == 0o700


def test_an_interrupted_run_s_list_stays(
    regions: World, units: Units, run_module: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_over(regions, run_module)
    regions.filers["north-1"]["/buckets/b/other"] = b"other"
    fence(run_module, regions)
    real = Stores.remove

    def remove(stores: Any, host: str, path: str) -> None:
        real(stores, host, path)
        raise _object_handover.MusterError("it was interrupted")

    with monkeypatch.context() as patch:
        patch.setattr(Stores, "remove", remove)
        assert rejoin(run_module, regions, tmp_path)["failed"]
    saved = rejoin(run_module, regions, tmp_path)["saved"]
    listed = [json.loads(line)["path"] for line in Path(saved["list"]).read_text().splitlines()]
    assert sorted(listed) == ["/buckets/b/other", "/buckets/b/tail"]
    assert saved["objects"] == 2


def test_all_versions_of_an_object_go_together(regions: World, monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[str] = []
    monkeypatch.setattr(Stores, "remove", lambda _stores, _host, path: gone.append(path))
    work = object.__new__(object_storage_rejoin.Rejoin)
    work.stores = Stores.load(regions.configuration["north"])
    work.folders = []
    work.forget(["/buckets/b/x.versions/v_1", "/buckets/b/x.versions/v_2", "/buckets/b/y"])
    assert gone == ["/buckets/b/x.versions", "/buckets/b/y"]


# --- repairing ------------------------------------------------------------------------------------


class Site:
    """What repair asks of a host: what is removed there, and what the target copies from."""

    def __init__(self, copies: str) -> None:
        self.given = {"compare_settle": 7.0, "compare_timeout": 60}
        self.copies = copies
        self.removed: list[str] = []

    def remove(self, host: str, path: str) -> None:
        self.removed.append(f"{host}{path}")

    def state_of(self, _host: str) -> dict[str, Any]:
        return {"source": self.copies}


def repair(monkeypatch: pytest.MonkeyPatch, site: Site, *found: dict[str, Any]) -> list[float]:
    program = load_program()
    comparisons = [{"missing": [], "different": [], "extra": [], "files": 1, **entry} for entry in found]
    recents: list[float] = []

    def compare(_site: Any, _source: str, _target: str, recent: float) -> dict[str, Any]:
        recents.append(recent)
        return comparisons.pop(0)

    monkeypatch.setattr(program, "compare", compare)
    monkeypatch.setattr(program, "send_again", lambda *_words: None)
    monkeypatch.setattr(program.time, "sleep", lambda _seconds: None)
    program.repair(site, "north-1", "south-1")
    return recents


DIFFERENT = {"different": ["/buckets/b/x"]}


def test_what_differs_is_removed_before_it_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site("north-1")
    recents = repair(monkeypatch, site, DIFFERENT, DIFFERENT, {})
    assert site.removed == ["south-1/buckets/b/x"]
    assert recents == [0.0, 7.0, 0.0]  # what was written while it waited is on its way, not lost


def test_nothing_is_removed_from_a_region_that_does_not_copy_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site("somebody else")
    with pytest.raises(Exception, match="south-1 does not copy from north-1 any more"):
        repair(monkeypatch, site, DIFFERENT, DIFFERENT)
    assert site.removed == []
