# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What automatic failover needs before it may be set up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.muster.platform.plugins.filter.topology import stores
from ansible_collections.muster.platform.plugins.module_utils._lease import check_autofailover


def autofailover_problems(groups: Mapping[str, Any], times: Mapping[str, Any]) -> list[str]:
    """Why it cannot work with these groups and times; empty when it can."""
    return list(check_autofailover(groups, {"dr_autofailover": True}, times, stores(groups)))


class FilterModule:
    """The filter muster.platform.autofailover_problems."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"autofailover_problems": autofailover_problems}
