# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the hosts' restore proofs say together."""

from __future__ import annotations

from typing import Any

from ansible_collections.muster.platform.plugins.filter.proofs import FilterModule

judge = FilterModule().filters()["judge_proofs"]


def proof(store: str, host: str, *passed: bool) -> dict[str, Any]:
    checks = [{"name": "c", "passed": one, "detail": "all" if one else "half"} for one in passed]
    found = {
        "store": store,
        "host": host,
        "backup": "b",
        "point_reached": "t",
        "seconds": 1.5,
        "checks": checks,
    }
    return {store: found}


def test_one_proof_of_each_store() -> None:
    north, south = proof("valkey", "north-3", True), proof("valkey", "south-3", True, True)
    found = judge([north | proof("rabbitmq", "north-3", True), south], ["valkey"])
    assert found == {
        "stores": {"valkey": north["valkey"]},
        "checks": [{"name": "restore of valkey: c", "passed": True, "detail": "all"}],
        "lines": ["valkey, north-3: b of t in 1.5 s: all", "valkey, south-3: b of t in 1.5 s: all; all"],
        "bad": [],
    }


def test_the_one_that_did_not_pass_is_told() -> None:
    bad = proof("valkey", "south-3", True, False)
    for order in ([proof("valkey", "north-3", True), bad], [bad, proof("valkey", "north-3", True)]):
        found = judge(order, ["valkey"])
        assert found["stores"] == bad
        assert found["bad"] == ["the backup b of valkey on south-3 is not proven: half"]


def test_nothing_is_proven_by_nothing() -> None:
    found = judge([proof("valkey", "north-3")], ["valkey", "rabbitmq"])
    assert found["bad"] == [
        "the backup b of valkey on north-3 is not proven: nothing was checked",
        "no backup of rabbitmq was restored, so none is proven",
    ]
