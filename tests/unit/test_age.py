# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a time that a recovery status tells is longer ago than some hours."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.muster.platform.plugins.filter.age import FilterModule

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
older_than = FilterModule().filters()["older_than"]


@pytest.mark.parametrize(
    ("at", "older"),
    [
        ("2026-11-25T12:00:00Z", False),
        ("2026-11-25T11:59:59Z", True),
        ("2026-11-26T11:59:00.123456Z", False),
        ("2026-11-26T12:00:30Z", False),  # of a clock that is ahead a little
        ("2026-11-26T12:02:00Z", True),
        (None, True),
        ("", True),
    ],
)
def test_what_is_older(at: Any, older: bool) -> None:
    assert older_than(at, "24", NOW) is older


def test_what_is_no_time() -> None:
    with pytest.raises(AnsibleFilterError, match="the time is 'soon': it must be a UTC time"):
        older_than("soon", 24)
