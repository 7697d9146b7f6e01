# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The last cold `make lab` on a fresh machine: told, not measured, as it needs such a machine.

.lab/cold.json: seconds, cores, at, and phases (a list of name and seconds).
"""

from __future__ import annotations

import json

from bench.lab import BenchError, Lab, note
from bench.result import Row

LIMIT = 600.0


def measure(lab: Lab, rounds: int) -> list[Row]:
    path = lab.directory / "cold.json"
    if not path.exists():
        note(f"  no cold run has been recorded in {path}")
        return []
    try:
        found = json.loads(path.read_text())
        return [
            Row(
                f"cold make lab on {found['cores']} cores",
                float(found["seconds"]),
                "s",
                limit=LIMIT,
                details=found,
            )
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise BenchError(f"{path} is not what it should be: {error}") from error
