# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A drill's figures as Prometheus reads them from node_exporter's textfile collector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _evidence

PREFIX = "muster_drill_"
# Name, help, and the store's figure.
OF_STORES = [
    ("outage_seconds", "Longest time without an acknowledged write.", "outage_seconds"),
    ("rpo_seconds", "How far back acknowledged writes were lost.", "rpo_seconds"),
    ("lost_writes", "Acknowledged writes that the surviving copy does not hold.", "rpo_lost_writes"),
    ("dual_writer_writes", "Writes acknowledged by a second writer.", "dual_writer_writes"),
    ("acknowledged_writes", "Writes that were acknowledged.", "acked_writes"),
    ("duplicate_writes", "Writes that the surviving copy holds once more.", "duplicate_writes"),
]


def timestamp(text: str | None) -> float | None:
    return None if text is None else _evidence.seconds(_evidence.read_time(text))


def labelled(**labels: str) -> str:
    escaped = {
        name: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        for name, value in labels.items()
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"


def of_drill(evidence: Mapping[str, Any]) -> list[tuple[str, str, float | int | None]]:
    commits = evidence["lost_commits"] or {"count": None}
    return [
        ("verdict", "1 when the drill passed, else 0.", int(evidence["verdict"] == "PASS")),
        ("started_timestamp_seconds", "When the drill began.", timestamp(evidence["started_at"])),
        ("finished_timestamp_seconds", "When the drill ended.", timestamp(evidence["finished_at"])),
        (
            "gates_overridden",
            "Gates that were overridden.",
            sum(bool(gate["overridden"]) for gate in evidence["gates"]),
        ),
        ("lost_commits", "Commits that only the old side had.", commits["count"]),
        (
            "consistency_skew_seconds",
            "How far the stores' recovery points are apart.",
            evidence["consistency_skew_seconds"],
        ),
    ]


def render(evidence: Mapping[str, Any]) -> str:
    """The whole file. A figure that is not known has no sample."""
    scenario = str(evidence["scenario"])
    proof = evidence["restore_proof"]
    lines: list[str] = []

    def add(name: str, what: str, samples: list[tuple[str, float | int | None]]) -> None:
        known = [(labels, value) for labels, value in samples if value is not None]
        if known:
            lines.extend([f"# HELP {PREFIX}{name} {what}", f"# TYPE {PREFIX}{name} gauge"])
            lines.extend(f"{PREFIX}{name}{labels} {value!r}" for labels, value in known)

    for name, what, value in of_drill(evidence):
        add(name, what, [(labelled(scenario=scenario), value)])
    for name, what, key in OF_STORES:
        add(
            name,
            what,
            [(labelled(scenario=scenario, store=store["name"]), store[key]) for store in evidence["stores"]],
        )
    if proof:
        labels = labelled(scenario=scenario, store=str(proof["store"]))
        add("restore_seconds", "How long the restore took.", [(labels, proof["seconds"])])
        point = timestamp(proof["point_reached"])
        add("restore_point_timestamp_seconds", "The point that the restore reached.", [(labels, point)])
    return "\n".join(lines) + "\n"
