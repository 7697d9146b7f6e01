# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How old a time is that a recovery status tells."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._freeze import read_time

# As the gates have it: the clocks of two hosts are compared.
AHEAD = timedelta(minutes=1)


def older_than(at: Any, hours: float, now: datetime | None = None) -> bool:
    """Whether a time is longer ago than that; one that is not known, or lies ahead, counts as older."""
    if at in (None, ""):
        return True
    try:
        age = (now or datetime.now(UTC)) - read_time(at, "the time")
    except MusterError as error:
        raise AnsibleFilterError(str(error)) from error
    return not -AHEAD <= age <= timedelta(hours=float(hours))


class FilterModule:
    """Filters of the namespace muster.platform."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"older_than": older_than}
