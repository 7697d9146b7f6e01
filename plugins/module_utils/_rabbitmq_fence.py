# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What of a host a fence of RabbitMQ stops."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ansible_collections.muster.platform.plugins.module_utils._fence import (
    GRACE,
    PROC,
    Fence,
    processes,
    program,
)

UNIT = "rabbitmq-server.service"


def nodes(proc: Path = PROC) -> list[int]:
    """The processes of RabbitMQ nodes; its command-line tools run in the same virtual machine."""
    return processes(
        lambda entry: (
            program(entry) == "beam.smp" and b"\0rabbit\0boot\0" in (entry / "cmdline").read_bytes()
        ),
        proc,
    )


def rabbitmq_fence(marker: str, ports: Collection[int], grace: float = GRACE) -> Fence:
    return Fence("RabbitMQ", marker, (UNIT,), nodes, ports, grace)
