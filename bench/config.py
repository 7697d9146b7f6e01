#!/usr/bin/env python3
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compare one muster.platform.config task with 20 template tasks, and print the result as JSON.

usage: bench/config.py [-i INVENTORY] [--hosts PATTERN] [--rounds N]
Ends 1 when the ratio is above the limit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 0.1


def run_round(arguments: argparse.Namespace) -> dict[str, float]:
    """Run the playbook once, and return the seconds of each of its plays."""
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as directory:
        timeline = Path(directory) / "timeline.json"
        command = [
            "ansible-playbook",
            "--inventory",
            arguments.inventory,
            "--extra-vars",
            json.dumps(
                {
                    "bench_hosts": arguments.hosts,
                    "bench_directory": f"/tmp/{Path(directory).name}-files",
                }
            ),
            str(ROOT / "bench" / "config.yml"),
        ]
        if arguments.inventory == "localhost,":
            command.append("--connection=local")
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_HOME": str(ROOT / ".ansible"),
            "MUSTER_TIMELINE": str(timeline),
            "MUSTER_TIMELINE_QUIET": "1",
        }
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode != 0:
            sys.exit(f"bench/config.yml failed:\n{done.stdout}")
        return {phase["name"]: phase["seconds"] for phase in json.loads(timeline.read_text())["phases"]}


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    rounds = [run_round(arguments) for _number in range(arguments.rounds)]
    # Whatever else the machine does can only add time: the quickest round tells most.
    best = {name: min(each[name] for each in rounds) for name in rounds[0]}
    pairs = {
        state: {
            "ours_seconds": round(best[f"Ours, {state}"], 3),
            "peer_seconds": round(best[f"Peer, {state}"], 3),
            "ratio": round(best[f"Ours, {state}"] / best[f"Peer, {state}"], 4),
        }
        for state in ("written", "unchanged")
    }
    # The verdict is on the worse of the two.
    worse = max(pairs, key=lambda state: pairs[state]["ratio"])
    return {
        "name": "20 files by muster.platform.config, against 20 template tasks",
        **pairs[worse],
        "limit": LIMIT,
        "state": worse,
        "states": pairs,
        "rounds": arguments.rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare muster.platform.config with template tasks.")
    parser.add_argument("-i", "--inventory", default="localhost,", help="default: this machine, without ssh")
    parser.add_argument("--hosts", default="all", help="pattern of the hosts to run on")
    parser.add_argument("--rounds", type=int, default=3, help="the quickest of so many is taken")
    arguments = parser.parse_args()
    result = measure(arguments)
    print(json.dumps(result))
    ratio = result["ratio"]
    sys.exit(isinstance(ratio, float) and ratio > LIMIT)


if __name__ == "__main__":
    main()
