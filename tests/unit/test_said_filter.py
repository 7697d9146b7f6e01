# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What hosts have said of several stores, put together."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.filter.said import FilterModule

filters = FilterModule().filters()
STORES = ["postgresql", "valkey"]
GROUPS = {
    "postgresql": ["n1", "s1"],
    "valkey": ["n1", "n2", "s1", "s2"],
    "region_north": ["n1", "n2", "n3"],
    "region_south": ["s1", "s2"],
}


def regions(*found: str | None) -> list[dict[str, Any]]:
    return [{} if region is None else {"valkey_primary_region": region} for region in found]


@pytest.mark.parametrize(
    ("hosts", "each", "first", "all_of_them"),
    [
        (regions("south", None, "south"), ["south", "south"], {"valkey": "south"}, {"valkey": "south"}),
        (regions("", "north"), ["north"], {"valkey": "north"}, {"valkey": "north"}),
        # Two that contradict each other say nothing together.
        (regions("north", "south"), ["north", "south"], {"valkey": "north"}, {}),
        (regions(None, ""), [], {}, {}),
        ([], [], {}, {}),
    ],
)
def test_what_each_host_says(hosts: Any, each: Any, first: Any, all_of_them: Any) -> None:
    assert filters["said"](hosts, STORES, "primary_region") == {"postgresql": [], "valkey": each}
    assert filters["first_said"](hosts, STORES, "primary_region") == first
    assert filters["agreed"](hosts, STORES, "primary_region") == all_of_them


@pytest.mark.parametrize(
    ("fenced", "found"),
    [
        ({"n1": {"postgresql": True, "valkey": True}, "n2": {"valkey": True}}, []),
        ({"n1": {"postgresql": True, "valkey": False}, "n2": {"valkey": True}}, ["n1"]),
        # Silence, and a store that was forgotten, prove nothing.
        ({"n1": {"postgresql": True}, "n2": {}}, ["n1", "n2"]),
        ({"n1": {"postgresql": "yes", "valkey": True}}, ["n1"]),
    ],
)
def test_a_host_is_fenced_when_each_of_its_stores_is(fenced: Any, found: list[str]) -> None:
    assert filters["unfenced"](fenced, GROUPS, STORES) == found


def test_what_is_left_behind_need_not_be_fenced() -> None:
    assert filters["unfenced"]({"n1": {"postgresql": True}}, GROUPS, ["postgresql"]) == []


def test_the_other_side_of_each_store() -> None:
    found = filters["outside"](GROUPS, {"postgresql": "south", "valkey": "north"})
    assert found == {"postgresql": ["n1"], "valkey": ["s1", "s2"]}


@pytest.mark.parametrize(
    ("ready", "back"),
    [
        ({"n1": True, "n2": True}, False),
        ({"n1": True, "n2": False}, True),
        # Null of one that is fenced, stopped or primary; and nothing at all of one that said nothing.
        ({"n1": None, "n2": True}, True),
        ({"n1": True}, True),
    ],
)
def test_a_store_comes_back_whole_when_one_host_could_not_take_over(ready: Any, back: bool) -> None:
    statuses = {host: {"valkey": {"ready": value}} for host, value in ready.items()}
    found = filters["returning"]({"valkey": ["n1", "n2"], "postgresql": []}, statuses)
    assert found == ({"valkey": ["n1", "n2"]} if back else {})


def test_what_is_refused_names_its_store_where_there_are_several() -> None:
    results = [
        {"dr_store": "postgresql", "refused": []},
        {"dr_store": "valkey", "refused": ["lag_known: it is not", "approver: nobody"]},
    ]
    named = ["valkey: lag_known: it is not", "valkey: approver: nobody"]
    assert filters["refusals"](results, STORES) == named
    assert filters["refusals"](results, STORES, ["postgresql"]) == named
    assert filters["refusals"](results, STORES, ["valkey"]) == []
    assert filters["refusals"](results[1:], ["valkey"]) == ["lag_known: it is not", "approver: nobody"]
    assert filters["refusals"](results, STORES, STORES) == ["every store is left behind"]
    # An earlier run had promoted all: nothing was weighed.
    assert filters["refusals"]([], STORES) == []
