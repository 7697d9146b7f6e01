# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What of a host a fence of Valkey stops."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from ansible_collections.muster.platform.plugins.module_utils._fence import (
    GRACE,
    PROC,
    Fence,
    directory,
    processes,
    program,
)
from ansible_collections.muster.platform.plugins.module_utils._valkey_state import SENTINEL_UNIT, SERVER_UNIT


def servers(data_directory: str, proc: Path = PROC) -> list[int]:
    """The servers and Sentinels whose data these are: each works in its data directory."""
    wanted = os.path.realpath(data_directory)
    return processes(lambda entry: program(entry).startswith("valkey-") and directory(entry) == wanted, proc)


def valkey_fence(data_directory: str, marker: str, ports: Collection[int], grace: float = GRACE) -> Fence:
    # The Sentinel first: it must not see the server go and choose another.
    units = (SENTINEL_UNIT, SERVER_UNIT)
    return Fence("Valkey or Sentinel", marker, units, lambda: servers(data_directory), ports, grace)
