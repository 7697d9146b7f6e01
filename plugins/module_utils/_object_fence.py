# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What of a host a fence of the object store stops."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._fence import GRACE, PROC, Fence, processes

KEEPER = "muster-object-storage.service"
SERVER = "seaweedfs.service"
PORTS = ("s3_port", "filer_port", "master_port", "volume_port")
GRPC = 10000  # above each of these ports


def programs(weed: str, keeper: str, proc: Path = PROC) -> list[int]:
    """The processes of SeaweedFS, of whatever version, and of what keeps the region in its role."""

    def fits(entry: Path) -> bool:
        words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        return os.path.basename(words[0]) == os.path.basename(weed) or (keeper in words and "serve" in words)

    return processes(fits, proc)


def object_fence(given: Mapping[str, Any], grace: float = GRACE) -> Fence:
    """C(given) is the configuration of what keeps the region in its role."""
    plain = [int(given[name]) for name in PORTS]
    ports = [int(given["port"]), *plain, *(port + GRPC for port in plain)]
    # What opens the gateway first: from then on nothing is acknowledged.
    units = (KEEPER, SERVER)

    def find() -> list[int]:
        return programs(given["weed"], given["program"])

    return Fence("SeaweedFS, or what keeps it in its role,", str(given["marker"]), units, find, ports, grace)
