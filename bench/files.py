# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""20 files by muster.platform.config, against 20 template tasks: bench/config.py, over ssh to one host."""

from __future__ import annotations

import json
import subprocess
import sys

from bench.lab import ROOT, BenchError, Lab, last_lines
from bench.result import Row


def measure(lab: Lab, rounds: int) -> list[Row]:
    command = [
        sys.executable,
        "bench/config.py",
        "-i",
        "inventories/lab",
        "--hosts",
        lab.hosts_of_no_region[0],
    ]
    done = subprocess.run(
        [*command, "--rounds", str(rounds)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    try:
        found = json.loads(done.stdout)
    except ValueError as error:
        raise BenchError(f"bench/config.py: {last_lines(done.stdout + done.stderr)}") from error
    # It takes the worse of writing the files and of finding them unchanged.
    return [
        Row(
            f"20 files by muster.platform.config, {found['state']}",
            found["ours_seconds"],
            "s",
            found["peer_seconds"],
            limit=found["limit"],
            details={"states": found["states"]},
        )
    ]
