# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The runner of Molecule scenarios: what failed beside others has to pass alone."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/molecule"
loader = SourceFileLoader("molecule_script", str(SCRIPT))
spec = importlib.util.spec_from_loader("molecule_script", loader)
assert spec
script: Any = importlib.util.module_from_spec(spec)
sys.modules["molecule_script"] = script
loader.exec_module(script)

NAMES = ["base", "canary", "etcd", "haproxy"]


@pytest.mark.parametrize(
    ("answers", "counts", "runs"),
    [
        ({}, (4, 0), 4),
        ({"etcd": [False, True]}, (4, 0), 5),
        ({"etcd": [False, False]}, (3, 1), 5),
        ({"base": [False, True], "etcd": [False, False]}, (3, 1), 6),
        # All that fails for one reason is not run twice.
        ({"base": [False], "canary": [False], "etcd": [False]}, (1, 3), 4),
    ],
)
def test_what_failed_is_run_again_alone(
    answers: dict[str, list[bool]],
    counts: tuple[int, int],
    runs: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun: list[str] = []

    def run_scenario(_run: Any, name: str, log: Path) -> tuple[bool, float]:
        begun.append(name)
        log.write_text(f"fatal: [{name}]\n")
        left = answers.get(name) or [True]
        return left.pop(0), 1.0

    monkeypatch.setattr(script, "run_scenario", run_scenario)
    monkeypatch.setattr(script, "CACHE", tmp_path)
    monkeypatch.setattr(script, "ROOT", tmp_path)
    assert script.run_all(script.Run("trixie", short=False, keep=False), NAMES, 2) == counts
    assert len(begun) == runs
    said = capsys.readouterr().out
    assert said.count("again, alone") == runs - 4


def test_a_single_scenario_is_not_run_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who works on one wants its failure at once."""
    monkeypatch.setattr(script, "CACHE", tmp_path)
    monkeypatch.setattr(script, "ROOT", tmp_path)
    (tmp_path / "base.log").write_text("")
    begun: list[str] = []

    def run_scenario(_run: Any, name: str, _log: Path) -> tuple[bool, float]:
        begun.append(name)
        return False, 1.0

    monkeypatch.setattr(script, "run_scenario", run_scenario)
    assert script.run_all(script.Run("trixie", short=False, keep=False), ["base"], 2) == (0, 1)
    assert begun == ["base"]
