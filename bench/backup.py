# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A full backup of 1 GB by the verb `backup`, against pgBackRest run by hand on the same repository host."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from bench.data import drop, fill
from bench.lab import Lab, note
from bench.result import Row

STANZA = "muster"
LIMIT = 0.9


def ours(lab: Lab, repository: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as directory:
        path = Path(directory) / "result.json"
        lab.play("bench/backup.yml", "-e", f"bench_repository={repository}", "-e", f"bench_result={path}")
        found = json.loads(path.read_text())
    return {key: found[key] for key in ("label", "bytes", "seconds", "verify_seconds")}


def bare(lab: Lab, repository: str) -> dict[str, Any]:
    return lab.ask(repository, "pgbackrest.py", {"action": "backup", "stanza": STANZA})


def measure(lab: Lab, rounds: int) -> list[Row]:
    settled = lab.patroni("settle")
    primary, repository = settled["primary"], lab.members("backup_repository", settled["primary_region"])[0]
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "bare": []}
    try:
        fill(lab, primary)
        for number in range(rounds):
            for way in ("ours", "bare") if number % 2 else ("bare", "ours"):
                taken = {"ours": ours, "bare": bare}[way](lab, repository)
                note(f"  {way}: {taken['bytes'] / 1e6:.0f} MB in {taken['seconds']:.1f} s")
                found[way].append(taken)
                # So that backups do not fill the disk; the earlier ones stay.
                lab.ask(
                    repository,
                    "pgbackrest.py",
                    {"action": "expire", "stanza": STANZA, "label": taken["label"]},
                )
    finally:
        drop(lab, primary)
    # Whatever else the machine does can only add time: the quickest round tells most.
    speed = {
        way: max(each["bytes"] / 1e6 / each["seconds"] for each in taken) for way, taken in found.items()
    }
    proven = max(each["bytes"] / 1e6 / (each["seconds"] + each["verify_seconds"]) for each in found["ours"])
    return [
        Row(
            f"full backup of {found['ours'][0]['bytes'] / 1e9:.1f} GB, against raw pgBackRest",
            speed["ours"],
            "MB/s",
            speed["bare"],
            ">=",
            LIMIT,
            {"backups": found},
        ),
        Row("  the same with its proof, which the raw one lacks", proven, "MB/s"),
    ]
