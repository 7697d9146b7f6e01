#!/usr/bin/env python3
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Recompute a drill's figures without Muster: from ledger.csv and the numbers that survived.

- against the list of surviving numbers in evidence.json: tests/recompute.py .lab/drills/latest
- against numbers of one's own, one a line: tests/recompute.py FOLDER --surviving FILE (or - for stdin);
  of several stores: --surviving valkey=FILE --surviving object_storage=FILE. A file BLOCK.bits holds a
  Valkey's bits as GET gives them, of the key that ends in BLOCK
- against the store itself, with psql: tests/recompute.py FOLDER --dsn 'host=north-3 dbname=muster user=muster_canary'

Ends with 1 and names each figure that differs from evidence.json. Nothing of Muster's own code is
used, and the figures are found in another way than there: that is the point.
"""

from __future__ import annotations

import argparse
import bisect
import csv
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any


def every_number_in(text: str) -> list[int]:
    """Numbers and ranges, divided by commas or white space, as often as they stand there."""
    found: list[int] = []
    for word in text.replace(",", " ").split():
        first, _, last = word.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def numbers_in(text: str) -> set[int]:
    return set(every_number_in(text))


def numbers_from(name: str) -> list[int]:
    """What a file says that the store holds."""
    if name == "-":
        return every_number_in(sys.stdin.read())
    path = Path(name)
    if path.suffix != ".bits":
        return every_number_in(path.read_text())
    bits = "".join(f"{byte:08b}" for byte in path.read_bytes())
    return [int(path.stem) * 65536 + place for place, bit in enumerate(bits) if bit == "1"]


def ask(dsn: str, low: int, high: int) -> set[int]:
    query = f"select sequence from muster_canary where sequence between {low} and {high}"
    done = subprocess.run(
        ["psql", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", query, dsn],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return numbers_in(done.stdout)


def read_ledger(path: Path, store: str, start: datetime, end: datetime) -> list[dict[str, Any]]:
    """The store's attempts in the time that the drill looked at."""
    rows = []
    with path.open(newline="") as stream:
        for row in csv.DictReader(stream):
            sent = datetime.fromisoformat(row["sent_at"])
            if row["store"] != store or not start <= sent <= end:
                continue
            acked = datetime.fromisoformat(row["acknowledged_at"]) if row["acknowledged_at"] else None
            facts = dict(part.split("=") for part in row["answer"].split() if "=" in part)
            rows.append(
                {
                    "number": int(row["sequence"]),
                    "sent": sent,
                    "acked": acked,
                    "via": row["endpoint"],
                    **facts,
                }
            )
    return rows


def longest_silence(times: list[datetime], start: datetime, end: datetime) -> float:
    """Step through the acknowledgements, and keep the longest step."""
    longest, last = 0.0, start
    for time in sorted(times):
        if start <= time <= end:
            longest = max(longest, (time - last).total_seconds())
            last = time
    return max(longest, (end - last).total_seconds())


def reach_of_loss(acked: list[dict[str, Any]], held: set[int]) -> float | None:
    """For each lost write look back for the last held one of the same server and timeline."""
    survivors: dict[tuple[str, str], list[tuple[datetime, int]]] = {}
    for row in sorted(acked, key=lambda row: (row["acked"], row["number"])):
        if row["number"] in held:
            survivors.setdefault((row["host"], row["timeline"]), []).append((row["acked"], row["number"]))
    worst = 0.0
    for lost in (row for row in acked if row["number"] not in held):
        before = survivors.get((lost["host"], lost["timeline"]), [])
        place = bisect.bisect_left(before, (lost["acked"], lost["number"]))
        if place == 0:
            return None
        worst = max(worst, (lost["acked"] - before[place - 1][0]).total_seconds())
    return worst


def count_double(acked: list[dict[str, Any]]) -> int:
    """Walk through sendings and acknowledgements in time; what is newer than a sender knew is proof."""
    events = [(row["acked"], 1, row) for row in acked] + [(row["sent"], 0, row) for row in acked]
    newest, double = 0, 0
    hosts: dict[int, set[str]] = {}
    # At the same microsecond a sending comes first: nobody had been told yet.
    for _time, kind, row in sorted(events, key=lambda event: event[:2]):
        timeline = int(row["timeline"])
        if kind == 1:
            newest = max(newest, timeline)
            hosts.setdefault(timeline, set()).add(row["host"])
        elif timeline < newest or hosts.get(timeline, set()) - {row["host"]}:
            double += 1
    return double


def reach(rows: list[dict[str, Any]], held: set[int]) -> datetime | None:
    """Until when the copy holds what the region wrote that was the first to acknowledge."""
    acked = sorted((row for row in rows if row["acked"]), key=lambda row: (row["acked"], row["number"]))
    others = [place for place, row in enumerate(acked) if row["region"] != acked[0]["region"]]
    kept = [row["acked"] for row in acked[: others[0] if others else None] if row["number"] in held]
    return max(kept, default=None)


def apart(rows: dict[str, list[dict[str, Any]]], held: dict[str, set[int]]) -> float | None:
    """The seconds between the stores' reaches; none where they cannot be put beside each other."""
    reaches = [reach(rows[name], held[name]) for name in rows]
    moved = {len({row["region"] for row in found if row["acked"]}) > 1 for found in rows.values()}
    if len(reaches) < 2 or None in reaches or len(moved) > 1:
        return None
    known = [point for point in reaches if point is not None]
    return (max(known) - min(known)).total_seconds()


def as_ranges(numbers: list[int]) -> str:
    """Numbers as 1-5,7: a number whose neighbour below is missing begins a range."""
    known = set(numbers)
    begins = [number for number in sorted(known) if number - 1 not in known]
    ends = [number for number in sorted(known) if number + 1 not in known]
    return ",".join(
        str(low) if low == high else f"{low}-{high}" for low, high in zip(begins, ends, strict=True)
    )


def figures(
    rows: list[dict[str, Any]], held: set[int], start: datetime, end: datetime, endpoints: Any
) -> dict[str, Any]:
    acked = [row for row in rows if row["acked"]]
    survived = [row for row in acked if row["number"] in held]
    return {
        "attempts": len(rows),
        "acked_writes": len(acked),
        "surviving_writes": len(survived),
        "unanswered_writes": len(rows) - len(acked),
        "rpo_lost_writes": len(acked) - len(survived),
        "rpo_seconds": reach_of_loss(acked, held),
        "outage_seconds": longest_silence([row["acked"] for row in acked], start, end),
        "outage_by_endpoint": {
            name: longest_silence([row["acked"] for row in acked if row["via"] == name], start, end)
            for name in endpoints
        },
        "dual_writer_writes": count_double(acked),
        "lost_sequences": as_ranges([row["number"] for row in acked if row["number"] not in held]),
    }


def compare_saved(evidence: dict[str, Any], store: dict[str, Any], lost: str) -> list[str]:
    """What of the lost was saved from the old side, from the numbers that were exported there."""
    exported = ((evidence.get("lost_commits") or {}).get("canary_sequences") or {}).get(store["name"])
    if exported is None or not lost:
        return []
    saved = as_ranges(sorted(numbers_in(lost) & numbers_in(exported)))
    gone = as_ranges(sorted(numbers_in(lost) - numbers_in(exported)))
    print(f"{store['name']:14} {'not saved':24} {gone or 'none'}")
    told = store["recovered_sequences"]
    if told == saved:
        return []
    return [f"{store['name']} recovered_sequences: evidence.json says {told}, the export says {saved}"]


def same(left: Any, right: Any) -> bool:
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return abs(left - right) < 1e-6
    return bool(left == right)


def compare(store: dict[str, Any], found: dict[str, Any]) -> list[str]:
    differing = []
    for key, value in found.items():
        if same(store.get(key), value):
            print(f"{store['name']:14} {key:24} {value}")
        else:
            differing.append(
                f"{store['name']} {key}: evidence.json says {store.get(key)}, the ledger says {value}"
            )
    return differing


def own_numbers(given: list[str], usual: str) -> dict[str, list[int]]:
    """The numbers that were given, by store."""
    found: dict[str, list[int]] = {}
    for entry in given:
        name, _, file = entry.rpartition("=")
        found.setdefault(name or usual, []).extend(numbers_from(file))
    return found


def compare_double(store: dict[str, Any], numbers: list[int], rows: list[dict[str, Any]]) -> list[str]:
    """Numbers of the ledger's span that were given more than once: kept twice, and lost not at all."""
    span = [row["number"] for row in rows]
    inside = [number for number in numbers if min(span) <= number <= max(span)] if span else []
    again = len(inside) - len(set(inside))
    told = store.get("duplicate_writes")
    print(f"{store['name']:14} {'duplicate_writes':24} {again}")
    if told is None or told == again:
        return []
    return [f"{store['name']} duplicate_writes: evidence.json says {told}, the numbers given say {again}"]


def compare_skew(
    evidence: dict[str, Any], rows: dict[str, list[dict[str, Any]]], held: dict[str, set[int]]
) -> list[str]:
    """The stores beside each other; a drill of an older version says nothing of it."""
    differing = []
    for store in evidence["stores"]:
        if store.get("recovery_point"):
            told = datetime.fromisoformat(store["recovery_point"])
            found = reach(rows[store["name"]], held[store["name"]])
            differing += compare({"name": store["name"], "recovery_point": told}, {"recovery_point": found})
    if evidence.get("consistency_skew_seconds") is not None:
        whole = {"name": "all stores", "consistency_skew_seconds": evidence["consistency_skew_seconds"]}
        differing += compare(whole, {"consistency_skew_seconds": apart(rows, held)})
    return differing


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the drill's folder")
    parser.add_argument(
        "--store", default="postgresql", help="whose surviving numbers are given (postgresql)"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--surviving", metavar="[STORE=]FILE", action="append", default=[],
        help="the surviving numbers; - for stdin; may be given for each store, and several times for one",
    )  # fmt: skip
    source.add_argument("--dsn", help="where psql finds the surviving copy")
    given = parser.parse_args(arguments)

    evidence = json.loads((given.folder / "evidence.json").read_text())
    if not evidence["canary"]:
        print("no canary took part: there is nothing to recompute")
        return 0
    start, end = (datetime.fromisoformat(evidence["canary"][key]) for key in ("from", "to"))
    differing = []
    everything: dict[str, list[dict[str, Any]]] = {}
    kept: dict[str, set[int]] = {}
    own = own_numbers(given.surviving, given.store)
    for store in evidence["stores"]:
        rows = read_ledger(given.folder / "ledger.csv", store["name"], start, end)
        told = store["surviving"]["sequences"]
        held = numbers_in(told or "")
        if store["name"] in own:
            held = set(own[store["name"]])
            differing += compare_double(store, own[store["name"]], rows)
        elif store["name"] == given.store and given.dsn:
            held = ask(given.dsn, min(row["number"] for row in rows), max(row["number"] for row in rows))
        elif told is None:
            differing.append(f"{store['name']}: evidence.json knows no surviving numbers, and none are given")
            continue
        found = figures(rows, held, start, end, store["outage_by_endpoint"] or {})
        differing += compare(store, found) + compare_saved(evidence, store, found["lost_sequences"])
        everything[store["name"]], kept[store["name"]] = rows, held
    if len(everything) == len(evidence["stores"]):
        differing += compare_skew(evidence, everything, kept)
    print("\n".join(differing) if differing else "every figure is the same")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
