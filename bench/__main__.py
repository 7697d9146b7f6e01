# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run the benches, print one table and write .lab/bench.json."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import backup, cold, files, loss, noop, switch
from bench.lab import ROOT, BenchError, Lab, note
from bench.result import Row, table

BENCHES: dict[str, tuple[Callable[[Lab, int], list[Row]], str]] = {
    "noop": (noop.measure, "site.yml with nothing to do, and how that grows with the hosts"),
    "config": (files.measure, "20 files in one call"),
    "switch": (switch.measure, "the write outage of a planned switch, and how long all of it takes"),
    "backup": (backup.measure, "a full backup of 1 GB"),
    "loss": (loss.measure, "the loss of a region with 1 GB, and its return"),
    "cold": (cold.measure, "the last cold `make lab`, where one was recorded"),
}


def now_text() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "memory_mb": memory >> 20,
        "kernel": platform.release(),
        "load": [round(figure, 2) for figure in os.getloadavg()],
    }


def versions(lab: Lab) -> dict[str, str]:
    """What is compared: on the controller, and in the hosts' packages."""
    found = {"python": platform.python_version(), "ansible-core": version("ansible-core")}
    found["podman"] = output("podman", "--version").rpartition(" ")[2]
    for host in (lab.hosts("postgresql")[0], lab.hosts("haproxy")[0]):
        packages = "'postgresql-1?' patroni pgbackrest haproxy etcd-server"
        text = lab.run(host, f"dpkg-query -W -f '${{Package}} ${{Version}}\\n' {packages} || true")
        found |= dict(line.split() for line in text.splitlines() if len(line.split()) == 2)
    return found


def run_all(lab: Lab, names: list[str], rounds: int) -> dict[str, dict[str, Any]]:
    results = {}
    for name in names:
        note(f"{name}: {BENCHES[name][1]}")
        result: dict[str, Any] = {
            "started_at": now_text(),
            "git_sha": output("git", "rev-parse", "HEAD"),
            "git_dirty": bool(output("git", "status", "--porcelain")),
            "machine": machine(),
            "error": None,
            "rows": [],
        }
        try:
            result["rows"] = [row.record() for row in BENCHES[name][0](lab, rounds)]
        except BenchError as error:
            result["error"] = str(error)
            note(f"{name} failed: {error}")
        results[name] = {**result, "finished_at": now_text()}
    return results


def write(path: Path, lab: Lab, results: dict[str, dict[str, Any]]) -> None:
    """Keep what earlier runs measured by benches that this one did not run."""
    try:
        kept = json.loads(path.read_text())["benches"]
    except (OSError, ValueError, KeyError):
        kept = {}
    document = {"written_at": now_text(), "versions": versions(lab), "benches": {**kept, **results}}
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(document, indent=2) + "\n")
    temporary.replace(path)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHES)}; without one all"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each figure is taken (default: 3)")
    parser.add_argument(
        "--no-up", action="store_true", help="the lab runs and is converged: do not see to it first"
    )
    parser.add_argument("--list", action="store_true", help="tell which benches there are")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name:<8} {about}" for name, (_measure, about) in BENCHES.items()))
        return 0
    unknown = sorted(set(arguments.names) - set(BENCHES))
    if unknown or arguments.rounds < 1:
        parser.error(
            f"no bench {', '.join(unknown)}; see --list" if unknown else "--rounds must be at least 1"
        )
    # What is measured is PostgreSQL; a lab that is there keeps what it has.
    kept = os.environ.get("STORES") or (Lab().directory / "state.json").exists()
    if (
        not arguments.no_up
        and subprocess.run(
            ["scripts/lab", "up"],
            cwd=ROOT,
            env=os.environ | ({} if kept else {"STORES": "none"}),
            stdout=sys.stderr,
            check=False,
        ).returncode
    ):
        print("the lab could not be brought up", file=sys.stderr)
        return 1
    lab = Lab()
    # The lock of scripts/lab: nobody else works on this lab meanwhile.
    name = Path(os.environ.get("MUSTER_LAB") or "lab").name
    with (ROOT / ".cache" / f"lab-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = run_all(lab, arguments.names or list(BENCHES), arguments.rounds)
        path = lab.directory / "bench.json"
        write(path, lab, results)
    rows = [row for result in results.values() for row in result["rows"]]
    print(table(rows))
    print(f"written to {path}")
    failed = [name for name, result in results.items() if result["error"]]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed) or any(row["ok"] is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
