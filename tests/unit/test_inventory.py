# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is wrong with an inventory, a sentence each."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils import _inventory
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

NORTH, SOUTH = ["n1", "n2", "n3"], ["s1", "s2", "s3"]
GROUPS = {
    "all": [*NORTH, *SOUTH, "w"],
    "region_north": NORTH,
    "region_south": SOUTH,
    "witness": ["w"],
    "etcd": [*NORTH, *SOUTH],
    "postgresql": ["n1", "n2", "s1", "s2"],
    "haproxy": ["n3", "s3"],
    "backup_repository": ["n3", "s3"],
    "canary": ["w"],
}
TIMERS = {"canary_interval": 0.25, "patroni_reaction": 4.0}


def test_a_good_inventory_has_nothing_wrong() -> None:
    assert list(_inventory.check_regions(GROUPS)) == []
    assert list(_inventory.check_quorum(GROUPS, False)) == []
    assert list(_inventory.check_first_region(GROUPS, "north")) == []
    assert list(_inventory.check_target(GROUPS, "south")) == []
    assert list(_inventory.check_target(GROUPS, None)) == []
    assert _inventory.regions_of(GROUPS) == {"north": NORTH, "south": SOUTH}


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        (
            {"region_south": []},
            ["the inventory needs two regions (groups region_<name> with hosts), found: north"],
        ),
        (
            {"region_north": [], "region_south": []},
            ["the inventory needs two regions (groups region_<name> with hosts), found: none"],
        ),
        (
            {"region_south": ["n1", *SOUTH]},
            ["n1 is in more than one region (north, south): a host is in one"],
        ),
        (
            {"haproxy": ["n3", "x"], "etcd": ["w"]},
            [
                "w is in group etcd, but in no region: put it into one group region_<name>",
                "x is in group haproxy, but in no region: put it into one group region_<name>",
            ],
        ),
    ],
)
def test_regions(change: dict[str, list[str]], problems: list[str]) -> None:
    found = list(_inventory.check_regions({**GROUPS, **change}))
    if len(problems) == 1 and "two regions" in problems[0]:
        found = found[:1]  # hosts of services are in no region then, which is told as well
    assert found == problems


@pytest.mark.parametrize(
    ("etcd", "problems"),
    [
        (
            ["n1", "n2", *SOUTH],
            [
                "region north has 2 etcd members (n1, n2): "
                "a quorum that survives the loss of one needs 3 (or 5)"
            ],
        ),
        (SOUTH, ["region north has PostgreSQL hosts but no etcd hosts, which Patroni needs"]),
        (
            ["n1", *SOUTH],
            ["region north has 1 etcd members (n1): a quorum that survives the loss of one needs 3 (or 5)"],
        ),
    ],
)
def test_quorum(etcd: list[str], problems: list[str]) -> None:
    groups = {**GROUPS, "etcd": etcd}
    assert list(_inventory.check_quorum(groups, False)) == problems
    allowed = [problem for problem in problems if "no etcd hosts" in problem]
    assert list(_inventory.check_quorum(groups, True)) == allowed


@pytest.mark.parametrize(
    ("first", "problem"),
    [
        (None, "dr_initial_primary_region is missing: name the region that starts as primary (north, south)"),
        ("", "dr_initial_primary_region is missing: name the region that starts as primary (north, south)"),
        ("nort", "dr_initial_primary_region is 'nort', which is no region of the inventory (north, south)"),
    ],
)
def test_the_first_region(first: Any, problem: str) -> None:
    assert list(_inventory.check_first_region(GROUPS, first)) == [problem]


def test_a_target_that_does_not_exist() -> None:
    assert list(_inventory.check_target(GROUPS, "east")) == [
        "dr_target_region is 'east', which is no region of the inventory (north, south)"
    ]


def objectives(**values: Any) -> dict[str, Any]:
    return {"postgresql": {"rpo_seconds": 0, "rto_seconds": 30, **values}}


@pytest.mark.parametrize(
    ("given", "problems"),
    [
        (objectives(), []),
        (None, ["dr_objectives is missing: set rpo_seconds and rto_seconds for each store"]),
        ([1], ["dr_objectives is missing: set rpo_seconds and rto_seconds for each store"]),
        ({}, ["dr_objectives.postgresql is missing: set rpo_seconds and rto_seconds"]),
        ({"postgresql": 5}, ["dr_objectives.postgresql is missing: set rpo_seconds and rto_seconds"]),
        (
            objectives() | {"valkey": {}},
            ["dr_objectives names the store 'valkey', which has no hosts in the inventory"],
        ),
        (
            objectives(rpo_seconds="soon"),
            ["dr_objectives.postgresql.rpo_seconds is 'soon': it must be a number of seconds, 0 or more"],
        ),
        (
            objectives(rpo_seconds=True, rto_seconds=-1),
            [
                "dr_objectives.postgresql.rpo_seconds is True: it must be a number of seconds, 0 or more",
                "dr_objectives.postgresql.rto_seconds is -1: it must be a number of seconds, 0 or more",
            ],
        ),
        (
            {"postgresql": {"rpo_seconds": 0}},
            ["dr_objectives.postgresql.rto_seconds is None: it must be a number of seconds, 0 or more"],
        ),
        (
            objectives(rto_seconds=3),
            [
                "dr_objectives.postgresql.rto_seconds is 3, but Patroni may take "
                "4 s (loop_wait + retry_timeout) to act"
            ],
        ),
        (
            objectives(rto_seconds=0.4),
            [
                "dr_objectives.postgresql.rto_seconds is 0.4, but the canary probes every 0.25 s "
                "and cannot measure less than 0.5",
                "dr_objectives.postgresql.rto_seconds is 0.4, but Patroni may take "
                "4 s (loop_wait + retry_timeout) to act",
            ],
        ),
    ],
)
def test_objectives(given: Any, problems: list[str]) -> None:
    assert list(_inventory.check_objectives(given, ["postgresql"], TIMERS)) == problems


@pytest.mark.parametrize("value", [True, "true", "True", "yes", 1, "1"])
def test_a_switch_that_is_on(value: Any) -> None:
    assert _inventory.is_on({"switch": value}, "switch") is True


@pytest.mark.parametrize("value", [None, False, "false", "no", 0, "0"])
def test_a_switch_that_is_off(value: Any) -> None:
    assert _inventory.is_on({"switch": value}, "switch") is False
    assert _inventory.is_on({}, "switch") is False


@pytest.mark.parametrize("value", ["perhaps", "", 2, []])
def test_a_switch_that_is_neither(value: Any) -> None:
    with pytest.raises(MusterError, match=r"switch is .*: it must be true or false"):
        _inventory.is_on({"switch": value}, "switch")
