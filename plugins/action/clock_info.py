# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Measure a host's clock against the controller's over the ordinary connection."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

COMMAND = "date +%s.%N"
MOST_SAMPLES = 100
NS = 1_000_000_000


@dataclass(frozen=True)
class Sample:
    """One answer: all times in nanoseconds, whole numbers, as floats are too coarse here."""

    asked_at: int
    round_trip: int
    host_time: int

    @property
    def offset_ms(self) -> float:
        return (self.host_time - self.asked_at - self.round_trip / 2) / 1e6

    @property
    def uncertainty_ms(self) -> float:
        return self.round_trip / 2e6


class ActionModule(ActionBase):
    """muster.platform.clock_info."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _ignored, arguments = self.validate_argument_spec({"samples": {"type": "int", "default": 8}})
        wanted = arguments["samples"]
        if not 1 <= wanted <= MOST_SAMPLES:
            raise AnsibleActionFail(f"samples must be from 1 to {MOST_SAMPLES}, not {wanted}")
        best = min((self._ask() for _number in range(wanted)), key=lambda sample: sample.round_trip)
        came_at = datetime.fromtimestamp((best.asked_at + best.round_trip) / NS, UTC)
        result.update(
            changed=False,
            host=(task_vars or {}).get("inventory_hostname"),
            offset_ms=round(best.offset_ms, 3),
            uncertainty_ms=round(best.uncertainty_ms, 3),
            samples=wanted,
            source="controller round trip",
            measured_at=came_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        )
        return result

    def _ask(self) -> Sample:
        asked_at, began = time.time_ns(), time.monotonic_ns()
        # Not sudoable: no become and no terminal, whose start would count as distance.
        code, stdout, stderr = self._connection.exec_command(COMMAND, sudoable=False)
        round_trip = time.monotonic_ns() - began
        return Sample(asked_at, round_trip, read_time(code, as_text(stdout), as_text(stderr)))


def as_text(output: bytes | str) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else str(output)


def read_time(code: int, stdout: str, stderr: str) -> int:
    """The host's time in nanoseconds, from the last line: a login may have printed others."""
    lines = stdout.split()
    found = re.fullmatch(r"(\d+)\.(\d{9})", lines[-1]) if lines else None
    if code != 0 or found is None:
        said = (stderr.strip() or stdout.strip() or "nothing").splitlines()[-1]
        raise AnsibleActionFail(
            f"the host's clock cannot be read: `{COMMAND}` ended with {code} and said: {said}"
        )
    return int(found.group(1)) * NS + int(found.group(2))
