# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is refused of an inventory with automatic failover, before the first change."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.action.validate import defaults_of, role_spec
from ansible_collections.muster.platform.plugins.filter.lease import FilterModule
from ansible_collections.muster.platform.plugins.filter.topology import stores
from ansible_collections.muster.platform.plugins.module_utils import _lease

GROUPS = {
    "witnesses": ["w"],
    "canary": ["w"],
    "postgresql": ["n1", "s1"],
    "region_north": ["n1"],
    "region_south": ["s1"],
    "region_west": ["x1"],
}
DEFAULTS = defaults_of(role_spec("autofailover"))


def problems(groups: dict[str, Any] | None = None, **settings: Any) -> list[str]:
    given = {"dr_autofailover": True, **settings}
    given_groups = {**GROUPS, **(groups or {})}
    return list(_lease.check_autofailover(given_groups, given, DEFAULTS, stores(given_groups)))


def test_the_roles_defaults_are_good() -> None:
    assert DEFAULTS["autofailover_lease_seconds"] == 20
    assert problems() == []


def test_the_role_refuses_the_same() -> None:
    find = FilterModule().filters()["autofailover_problems"]
    times = {name: value for name, value in DEFAULTS.items() if name.endswith("_seconds")}
    assert find(GROUPS, times) == []
    (text,) = find(GROUPS, {**times, "autofailover_lease_seconds": 12})
    assert "is 12 s, which must be less than autofailover_lease_seconds (12 s)" in text
    assert len(find({**GROUPS, "witnesses": []}, times)) == 1
    del times["autofailover_fence_seconds"]
    assert find(GROUPS, times) == [
        "autofailover_fence_seconds is None: it must be a number of seconds, 2 or more"
    ]


@pytest.mark.parametrize("off", [None, False, "false", "no"])
def test_nothing_is_asked_for_while_it_is_off(off: Any) -> None:
    assert problems({"witnesses": []}, dr_autofailover=off, autofailover_lease_seconds=1) == []


@pytest.mark.parametrize(
    ("groups", "settings", "message"),
    [
        ({}, {"dr_autofailover": "perhaps"}, "dr_autofailover is 'perhaps': it must be true or false"),
        ({"valkey": ["n1"]}, {}, "only PostgreSQL fences itself so far: turn it off, or take valkey out of"),
        ({"witnesses": []}, {}, "dr_autofailover needs one host in group witnesses"),
        ({"witnesses": ["w", "v"]}, {}, "found: w, v"),
        ({"canary": ["x"]}, {}, "dr_autofailover needs the canary on the witness w"),
        ({"region_south": []}, {}, "PostgreSQL hosts in exactly two regions, found: north"),
        ({"postgresql": ["n1", "s1", "x1"]}, {}, "exactly two regions, found: north, south, west"),
        ({"postgresql": []}, {}, "exactly two regions, found: none"),
        (
            {},
            {"autofailover_lease_seconds": 12},
            "autofailover_fence_seconds + autofailover_clock_uncertainty_seconds + autofailover_watchdog_seconds + "
            "autofailover_renew_seconds is 12 s, which must be less than autofailover_lease_seconds (12 s)",
        ),
        ({}, {"autofailover_fence_seconds": "14"}, "is 21 s, which must be less than"),
        (
            {},
            {"autofailover_renew_seconds": "often"},
            "autofailover_renew_seconds is 'often': it must be a number",
        ),
        ({}, {"autofailover_watchdog_seconds": 1}, "it must be a number of seconds, 3 or more"),
        ({}, {"autofailover_probe_seconds": True}, "autofailover_probe_seconds is True"),
        ({}, {"autofailover_clock_uncertainty_seconds": 0}, "it must be a number of seconds, 0.1 or more"),
    ],
)
def test_refusals(groups: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    (found,) = problems(groups, **settings)
    assert message in found
