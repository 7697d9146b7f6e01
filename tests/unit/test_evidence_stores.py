# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Evidence of a drill over several stores: each store's figures, and how far the stores are apart."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ansible_collections.muster.platform.plugins.module_utils import _chain_check
from ansible_collections.muster.platform.plugins.modules import drill_evidence
from drills import HEADER, Drill, arguments, region_loss, status

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "docs/evidence.schema.json").read_text())
Module = Callable[..., dict[str, Any]]

spec = importlib.util.spec_from_file_location("recompute_stores", ROOT / "tests/recompute.py")
assert spec
assert spec.loader
recompute = importlib.util.module_from_spec(spec)
sys.modules["recompute_stores"] = recompute
spec.loader.exec_module(recompute)


def clustered(drill: Drill) -> Drill:
    """The region's name stands for the host."""
    for attempt in drill.attempts:
        attempt.host = attempt.region
    return drill


def four(planned: bool = False) -> dict[str, Drill]:
    losses = {"object_storage": 11, "postgresql": 23, "rabbitmq": 5, "valkey": 17}
    return {
        name: clustered(Drill.planned() if planned else Drill.region_loss(loss))
        for name, loss in losses.items()
    }


def together(drills: dict[str, Drill], duplicates: dict[str, int] | None = None) -> dict[str, Any]:
    """What canary_window returns of all of them."""
    lines = [
        line.replace("postgresql,", f"{name},", 1)
        for name, drill in drills.items()
        for line in drill.text().splitlines()[1:]
    ]
    text = "".join(f"{line}\n" for line in [HEADER, *lines])
    stores = {name: drill.canary()["stores"]["postgresql"] for name, drill in drills.items()}
    for name, part in stores.items():
        part["surviving"] |= {"duplicates": (duplicates or {}).get(name, 0)}
    canary: dict[str, Any] = next(iter(drills.values())).canary()
    return canary | {"ledger": base64.b64encode(gzip.compress(text.encode())).decode(), "stores": stores}


def loss_arguments(directory: Path, drills: dict[str, Drill], **changes: Any) -> dict[str, Any]:
    made = region_loss(directory)
    (objective,) = made["objectives"].values()
    lost = {name: f"{min(drill.lost)}-{max(drill.lost)}" for name, drill in drills.items()}
    return (
        made
        | {
            "canary": together(drills),
            "objectives": dict.fromkeys(drills, objective),
            "lost_commits": made["lost_commits"] | {"canary_sequences": lost, "count": 500},
            "recovery_before": statuses(drills, 3),
            "recovery_after": statuses(drills, 5),
        }
        | changes
    )


def statuses(drills: dict[str, Drill], timeline: int) -> list[dict[str, Any]]:
    return [status("north", "primary", timeline, "1") | {"store": name} for name in drills]


@pytest.fixture
def judge(tmp_path: Path, run_module: Module) -> Module:
    def run(given: dict[str, Any]) -> dict[str, Any]:
        result = run_module(drill_evidence, given)
        assert "evidence" in result, result
        jsonschema.validate(result["evidence"], SCHEMA)
        return result

    return run


def figure(result: dict[str, Any], name: str, key: str) -> Any:
    return next(store[key] for store in result["evidence"]["stores"] if store["name"] == name)


def test_each_store_has_its_own_loss_and_all_together_a_skew(judge: Module, tmp_path: Path) -> None:
    drills = four()
    result = judge(loss_arguments(tmp_path / "drills", drills))
    assert result["reasons"] == []
    assert {name: figure(result, name, "rpo_lost_writes") for name in drills} == {
        "object_storage": 11,
        "postgresql": 23,
        "rabbitmq": 5,
        "valkey": 17,
    }
    # The last held one of postgresql was the 24th from the end, that of rabbitmq the 6th.
    acked = [a for a in drills["valkey"].attempts if a.sent < 34 and a.took is not None]
    last, first = acked[-6], acked[-24]
    skew = last.sent + (last.took or 0) - first.sent - (first.took or 0)
    assert result["evidence"]["consistency_skew_seconds"] == pytest.approx(skew, abs=1e-5)
    assert f"the stores' copies reach within {skew:.2f} s of each other" in result["summary"]


def test_a_planned_switch_of_all_stores_has_the_skew_of_their_moves(judge: Module, tmp_path: Path) -> None:
    drills = four(planned=True)
    for attempt in drills["valkey"].attempts:
        if 18.9 < attempt.sent < 20:
            attempt.took = None
    objectives = {name: {"rpo_seconds": 0, "rto_seconds": 10} for name in drills}
    given = arguments(
        tmp_path / "drills",
        drills["valkey"],
        canary=together(drills),
        objectives=objectives,
        recovery_before=statuses(drills, 3),
        recovery_after=statuses(drills, 5),
    )
    result = judge(given)
    assert result["reasons"] == []
    assert result["evidence"]["consistency_skew_seconds"] == pytest.approx(1.125, abs=0.002)
    assert figure(result, "valkey", "recovery_point") < figure(result, "rabbitmq", "recovery_point")


def test_a_message_read_twice_is_a_duplicate_and_no_loss(judge: Module, tmp_path: Path) -> None:
    drills = four()
    given = loss_arguments(tmp_path / "drills", drills, canary=together(drills, {"rabbitmq": 4}))
    result = judge(given)
    assert result["verdict"] == "PASS"
    assert figure(result, "rabbitmq", "duplicate_writes") == 4
    metrics = (Path(result["path"]) / "metrics.prom").read_text()
    assert 'muster_drill_duplicate_writes{scenario="region_loss",store="rabbitmq"} 4' in metrics
    assert "muster_drill_consistency_skew_seconds" in metrics


def test_a_store_that_stayed_leaves_the_skew_unknown(judge: Module, tmp_path: Path) -> None:
    drills = four()
    for attempt in drills["valkey"].attempts:
        attempt.host, attempt.region, attempt.timeline = "north", "north", 3
    result = judge(loss_arguments(tmp_path / "drills", drills))
    assert result["evidence"]["consistency_skew_seconds"] is None
    assert result["verdict"] == "FAIL"
    assert (
        "the consistency skew between the stores is not known: not all stores changed their region: valkey did not"
        in result["reasons"]
    )


def test_a_store_that_could_not_be_asked_leaves_the_skew_unknown(judge: Module, tmp_path: Path) -> None:
    drills = four()
    canary = together(drills)
    canary["stores"]["rabbitmq"]["surviving"] = {"sequences": None, "error": "refused"}
    result = judge(loss_arguments(tmp_path / "drills", drills, canary=canary))
    assert result["evidence"]["consistency_skew_seconds"] is None
    assert figure(result, "rabbitmq", "duplicate_writes") is None
    assert (
        "the consistency skew between the stores is not known: no recovery point is known of rabbitmq"
        in result["reasons"]
    )


def test_a_single_store_has_nobody_to_be_apart_from(judge: Module, tmp_path: Path) -> None:
    result = judge(region_loss(tmp_path / "drills"))
    assert result["verdict"] == "PASS"
    assert result["evidence"]["consistency_skew_seconds"] is None
    assert "Consistency between the stores" not in Path(result["report"]).read_text()


def test_evidence_of_before_is_still_valid(judge: Module, tmp_path: Path) -> None:
    evidence = judge(region_loss(tmp_path / "drills"))["evidence"]
    del evidence["consistency_skew_seconds"]
    for store in evidence["stores"]:
        del store["recovery_point"], store["duplicate_writes"]
    jsonschema.validate(evidence, SCHEMA)
    folder = tmp_path / "drills" / evidence["drill_id"]
    (folder / "evidence.json").write_text(json.dumps(evidence))
    assert _chain_check.figure_problems(folder, evidence) == []
    assert recompute.main([str(folder)]) == 0


def test_the_report_has_one_lane_for_each_of_several_stores(judge: Module, tmp_path: Path) -> None:
    drills = four()
    page = Path(judge(loss_arguments(tmp_path / "drills", drills))["report"]).read_text()
    assert page.count("acknowledged through north and south") == len(drills)
    assert "acknowledged through north<" not in page
    assert "Consistency between the stores" in page


def test_the_figures_of_all_stores_are_found_again(
    judge: Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drills = four()
    result = judge(loss_arguments(tmp_path / "drills", drills, canary=together(drills, {"rabbitmq": 1})))
    folder = Path(result["path"])
    assert _chain_check.figure_problems(folder, result["evidence"]) == []
    bits = bytearray(8192)
    for number in drills["valkey"].held():
        bits[number // 8] |= 0x80 >> number % 8
    (tmp_path / "0.bits").write_bytes(bytes(bits))
    held = sorted(drills["rabbitmq"].held())
    (tmp_path / "messages").write_text("\n".join(str(number) for number in [*held, held[7]]))
    (tmp_path / "objects").write_text(
        "\n".join(f"{number:016d}" for number in drills["object_storage"].held())
    )
    own = [
        f"--surviving={name}={tmp_path / file}"
        for name, file in (("valkey", "0.bits"), ("rabbitmq", "messages"), ("object_storage", "objects"))
    ]
    assert recompute.main([str(folder), *own]) == 0
    said = capsys.readouterr().out
    assert "consistency_skew_seconds" in said
    assert "every figure is the same" in said


@pytest.mark.parametrize("key", ["consistency_skew_seconds", "recovery_point", "duplicate_writes"])
def test_a_figure_that_was_changed_is_found(key: str, judge: Module, tmp_path: Path) -> None:
    drills = four()
    result = judge(loss_arguments(tmp_path / "drills", drills))
    folder, evidence = Path(result["path"]), result["evidence"]
    if key == "consistency_skew_seconds":
        evidence[key] += 1
    else:
        evidence["stores"][2][key] = "2026-11-21T10:00:01.000000Z" if key == "recovery_point" else 3
    (folder / "evidence.json").write_text(json.dumps(evidence))
    (tmp_path / "messages").write_text("\n".join(str(number) for number in drills["rabbitmq"].held()))
    assert recompute.main([str(folder), f"--surviving=rabbitmq={tmp_path / 'messages'}"]) == 1
    # How often the store holds a number is not in the ledger.
    assert bool(_chain_check.figure_problems(folder, evidence)) == (key != "duplicate_writes")
