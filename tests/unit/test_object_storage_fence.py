# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Fencing the object store, bringing it back, and comparing both sides."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils import _fence, _object_fence
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.modules import (
    object_storage_fence,
    object_storage_info,
    object_storage_promote,
    object_storage_rejoin,
)
from object_world import World, load_program, regions

__all__ = ["regions"]

Run = Callable[..., dict[str, Any]]


class Units:
    """systemd with the two units of north-1, and their processes."""

    def __init__(self, world: World, patch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.masked: set[str] = set()
        self.running = {_object_fence.KEEPER, _object_fence.SERVER}
        self.stubborn = False
        self.killed: list[int] = []
        patch.setattr(_fence, "systemctl", self.systemctl)
        patch.setattr(_object_fence, "programs", lambda *_words: list(range(1000, 1000 + len(self.running))))
        patch.setattr(_fence, "listening", lambda ports: [ports[0]] if self.running else [])
        patch.setattr(_fence.os, "kill", self.kill)
        patch.setattr(object_storage_rejoin, "systemctl", self.systemctl)

    def kill(self, process: int, _number: int) -> None:
        self.killed.append(process)
        self.running.clear()

    def systemctl(self, *words: str, check: bool = True) -> str:
        verb, units = words[0], [word for word in words[1:] if not word.startswith("--")]
        if verb == "is-enabled":
            return "masked" if units[0] in self.masked else "enabled"
        if verb == "show":
            return "active" if units[0] in self.running else "inactive"
        for unit in units:
            if verb == "stop" and not self.stubborn:
                self.running.discard(unit)
            elif verb == "mask":
                self.masked.add(unit)
            elif verb == "unmask":
                self.masked.discard(unit)
            elif verb == "start":
                if unit in self.masked:
                    raise MusterError(f"{unit} is masked")
                self.running.add(unit)
        self.world.keepers["north-1"].gateway.stop()
        if _object_fence.KEEPER in self.running and verb == "start":
            self.world.down.discard("north-1")
            self.world.act()
        return ""


@pytest.fixture
def units(regions: World, monkeypatch: pytest.MonkeyPatch) -> Units:
    regions.begin()
    return Units(regions, monkeypatch)


def fence(run_module: Run, world: World, check: bool = False, **more: Any) -> dict[str, Any]:
    given = {"configuration": world.configuration["north"], "grace": 0.2, "operation": "failover", **more}
    return run_module(object_storage_fence, given, check=check)


def test_a_fence_is_put_up_proven_and_taken_down(regions: World, units: Units, run_module: Run) -> None:
    assert fence(run_module, regions, check=True)["changed"]
    assert units.running
    answer = fence(run_module, regions)
    assert answer["changed"]
    assert answer["fenced"]
    assert answer["note"]["operation"] == "failover"
    assert answer["proof"]["masked"] is True
    assert units.masked == {_object_fence.KEEPER, _object_fence.SERVER}
    assert answer["proof"]["processes"] == 0
    assert units.killed == []
    assert fence(run_module, regions)["changed"] is False
    status = run_module(
        object_storage_info, {"configuration": regions.configuration["north"], "region": "north"}
    )["recovery_status"]
    assert (status["role"], status["reasons"]) == ("fenced", ["this host is fenced"])
    assert fence(run_module, regions, state="released")["changed"]
    assert units.masked == set()
    assert fence(run_module, regions, state="released")["changed"] is False


def test_whatever_runs_the_store_is_found(tmp_path: Path) -> None:
    """Of any version, and what would start it again; not what only mentions one of them."""
    for number, command in (
        ("10", b"/opt/seaweedfs/4.48/weed\0server\0-dir=/d\0"),
        ("11", b"/usr/bin/python3\0-I\0/opt/muster/keep.py\0/etc/muster.json\0serve\0"),
        ("12", b"/usr/bin/python3\0-I\0/opt/muster/keep.py\0/etc/muster.json\0compare\0"),
        ("13", b"/usr/bin/vi\0/opt/seaweedfs/4.48/weed\0"),
        ("14", b"/usr/bin/python3\0/opt/other.py\0serve\0"),
        ("self", b"weed\0"),
    ):
        (tmp_path / number).mkdir()
        (tmp_path / number / "cmdline").write_bytes(command)
    (tmp_path / "15").mkdir()  # It ends meanwhile.
    assert _object_fence.programs("/opt/seaweedfs/4.50/weed", "/opt/muster/keep.py", tmp_path) == [10, 11]


def test_what_does_not_stop_is_killed(regions: World, units: Units, run_module: Run) -> None:
    units.stubborn = True
    assert fence(run_module, regions)["fenced"]
    assert units.killed == [1000, 1001]


def test_an_unproven_fence_is_a_failure(
    regions: World, units: Units, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fence, "listening", lambda _ports: [8888])
    answer = fence(run_module, regions)
    assert answer["failed"]
    assert answer["msg"] == "the fence is not proven: something listens on port 8888"


# --- reprotect ---


def fail_over(regions: World, run_module: Run) -> None:
    """North is cut off, takes a write that never arrives, and south is promoted."""
    regions.put("north", "both")
    regions.copying = False
    regions.put("north", "tail")
    regions.down.add("north-1")
    proof = {
        "proven": True,
        "region": "north",
        "provider": "power",
        "proven_at": datetime.now(UTC).isoformat(),
    }
    given = {"configuration": regions.configuration["south"], "holder": "ann", "fence": proof}
    assert run_module(object_storage_promote, given)["changed"]
    regions.put("south", "new")
    regions.copying = True
    regions.down.clear()


def rejoin(run_module: Run, world: World, tmp_path: Path, check: bool = False) -> dict[str, Any]:
    given = {
        "configuration": world.configuration["north"],
        "save_directory": str(tmp_path / "saved"),
        "timeout": 0.5,
    }
    return run_module(object_storage_rejoin, given, check=check)


def test_what_only_the_old_side_had_is_kept(
    regions: World, units: Units, run_module: Run, tmp_path: Path
) -> None:
    fail_over(regions, run_module)
    tail = regions.filers["north-1"]["/buckets/b/tail"]
    fence(run_module, regions)
    assert rejoin(run_module, regions, tmp_path, check=True)["changed"]
    assert regions.holds("north", "tail")
    answer = rejoin(run_module, regions, tmp_path)
    saved = answer["saved"]
    listed = json.loads(Path(saved["list"]).read_text())
    assert saved["objects"] == 1
    assert listed["path"] == "/buckets/b/tail"
    assert listed["sha256"] == hashlib.sha256(tail).hexdigest()
    assert (Path(saved["directory"]) / "objects/b/tail").read_bytes() == tail
    assert regions.open() == ["south"]
    assert not regions.holds("north", "tail")
    assert regions.holds("north", "new")
    assert regions.state("north")["role"] == "standby"
    assert units.masked == set()


def test_it_refuses_what_is_not_fenced(regions: World, units: Units, run_module: Run, tmp_path: Path) -> None:
    fail_over(regions, run_module)
    assert "refused: north-1 is not fenced" in rejoin(run_module, regions, tmp_path)["msg"]


def test_it_refuses_without_another_primary(
    regions: World, units: Units, run_module: Run, tmp_path: Path
) -> None:
    fence(run_module, regions)
    answer = rejoin(run_module, regions, tmp_path)
    assert "refused: region south is not primary and open" in answer["msg"]
    assert not units.running


# --- comparing ---


def comparison(monkeypatch: pytest.MonkeyPatch, output: str, code: int = 0) -> dict[str, Any]:
    program = load_program()
    done = subprocess.CompletedProcess([], code, output, "E1126 it broke")
    monkeypatch.setattr(program.subprocess, "run", lambda *_words, **_how: done)
    site = program.Site(
        {"region": "north", "host": "n", "regions": {}, "filer_port": 1, "weed": "weed", "compare_timeout": 1}
    )
    try:
        found: dict[str, Any] = program.compare(site, "n", "s")
    except program.Unknown as error:
        return {"unknown": str(error)}
    return found


def line(kind: str, **more: Any) -> str:
    return json.dumps({"type": kind, **more}) + "\n"


def test_a_comparison_is_read_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    output = line("MISSING", path="/buckets/b/1") + line("SIZE_MISMATCH", path="/buckets/b/2")
    output += line("ONLY_IN_B", path="/buckets/b/3") + line(
        "SUMMARY", files=7, missing=1, sizeMismatch=1, onlyInB=1
    )
    found = comparison(monkeypatch, output, 2)
    assert (found["missing"], found["different"], found["extra"]) == (
        ["/buckets/b/1"], ["/buckets/b/2"], ["/buckets/b/3"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("output", "code", "text"),
    [
        ("", 2, "could not be compared: E1126 it broke"),
        (line("SUMMARY", files=7, missing=0), 2, "failed in part (exit code 2)"),
        (line("SUMMARY", files=7, missing=2) + line("MISSING", path="/buckets/b/1"), 2, "failed in part"),
    ],
)
def test_a_comparison_that_failed_in_part_proves_nothing(
    monkeypatch: pytest.MonkeyPatch, output: str, code: int, text: str
) -> None:
    assert text in comparison(monkeypatch, output, code)["unknown"]


def test_tokens() -> None:
    program = load_program()
    assert program.token_is_good(program.token("key"), "key")
    assert not program.token_is_good(program.token("other"), "key")
    assert not program.token_is_good(program.token("key", seconds=-5), "key")
    assert not program.token_is_good("no token", "key")


def repaired(monkeypatch: pytest.MonkeyPatch, *missing: list[str]) -> tuple[dict[str, Any], list[str]]:
    """What repair makes of comparisons that find this missing, one after the other; and what it sends again."""
    program = load_program()
    found = [{"missing": paths, "different": [], "extra": [], "files": 1} for paths in missing]
    sent: list[str] = []
    monkeypatch.setattr(program, "compare", lambda *_words: found.pop(0))
    monkeypatch.setattr(program, "send_again", lambda _site, _source, paths: sent.extend(paths))
    monkeypatch.setattr(program.time, "sleep", lambda _seconds: None)
    given = {"region": "north", "host": "n", "regions": {}, "compare_settle": 0, "compare_timeout": 60}
    return program.repair(program.Site(given), "n", "s"), sent


def test_what_is_on_its_way_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    result, sent = repaired(monkeypatch, ["/buckets/b/1"], ["/buckets/b/2"])
    assert (result["missing"], result["repaired"], sent) == ([], 0, [])


def test_what_is_lost_is_sent_until_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = "/buckets/b/1"
    result, sent = repaired(monkeypatch, [lost], [lost, "/buckets/b/2"], [lost], ["/buckets/b/3"])
    assert (result["missing"], result["repaired"], sent) == ([], 1, [lost])
