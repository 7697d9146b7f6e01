# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The RabbitMQ node on this host, and its place in the region's cluster."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.muster.platform.plugins.module_utils._etcd_cluster import restart_reasons
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq import Region
from ansible_collections.muster.platform.plugins.module_utils._systemd import systemctl

UNIT = "rabbitmq-server.service"
PROPERTIES = "ActiveState,LoadState,MainPID,NRestarts,ExecMainStartTimestamp"


@dataclass(frozen=True)
class Local:
    """What systemd says of the node."""

    active: str
    masked: bool
    restart_reasons: tuple[str, ...]
    restarts: int = 0  # how often systemd has started it anew, since somebody last did

    @property
    def running(self) -> bool:
        return self.active == "active"


def local_state(watched: Sequence[str]) -> Local:
    answer = systemctl("show", UNIT, f"--property={PROPERTIES}", "--timestamp=us+utc", check=False)
    found = dict(line.split("=", 1) for line in answer.splitlines() if "=" in line)
    active = found.get("ActiveState", "unknown")
    reasons: list[str] = []
    if active == "active":
        reasons = restart_reasons({}, {}, found.get("ExecMainStartTimestamp", ""), watched, _program(found))
    restarts = int(found.get("NRestarts") or 0)
    return Local(active, found.get("LoadState") == "masked", tuple(reasons), restarts)


def _program(found: dict[str, str]) -> str:
    try:
        return os.readlink(f"/proc/{found['MainPID']}/exe")
    except (OSError, KeyError):
        return ""


def nodes(region: Region) -> dict[str, bool]:
    """The hosts that are members of the region's cluster, and whether each runs."""
    found = region.request("GET", "/api/nodes") or []
    return {node["name"].split("@", 1)[1]: bool(node.get("running")) for node in found}


def read_file(path: str | None) -> str:
    try:
        with open(path or "", encoding="utf-8") as stream:
            return stream.read()
    except (OSError, ValueError):
        return ""
