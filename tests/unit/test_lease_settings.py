# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is refused of an inventory with automatic failover, before the first change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.muster.platform.plugins.module_utils import _lease

ROLE = Path(__file__).resolve().parents[2] / "roles/autofailover"
GROUPS = {"witnesses": ["w"], "canary": ["w"], "postgresql": ["n1", "s1"]}


def problems(groups: dict[str, Any] | None = None, **settings: Any) -> list[str]:
    return list(
        _lease.check_autofailover({**GROUPS, **(groups or {})}, {"dr_autofailover": True, **settings})
    )


def test_the_defaults_are_the_roles_and_good() -> None:
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    assert {name: defaults[name] for name in _lease.DEFAULTS} == _lease.DEFAULTS
    assert problems() == []


@pytest.mark.parametrize("off", [None, False, "false", "no"])
def test_nothing_is_asked_for_while_it_is_off(off: Any) -> None:
    assert problems({"witnesses": []}, dr_autofailover=off, autofailover_lease_seconds=1) == []


@pytest.mark.parametrize(
    ("groups", "settings", "message"),
    [
        ({}, {"dr_autofailover": "perhaps"}, "dr_autofailover is 'perhaps': it must be true or false"),
        ({"witnesses": []}, {}, "dr_autofailover needs one host in group witnesses"),
        ({"witnesses": ["w", "v"]}, {}, "found: w, v"),
        ({"canary": ["x"]}, {}, "dr_autofailover needs the canary on the witness w"),
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
