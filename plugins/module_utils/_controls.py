# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which control of which framework a drill's figures answer. Figures only: whether that is enough is
the auditor's to say, and a figure that is not known answers nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ansible_collections.muster.platform.plugins.module_utils import _judge

Evidence = Mapping[str, Any]


class Control(NamedTuple):
    framework: str
    control: str
    title: str
    answered_by: list[str]
    statement: Callable[[Evidence], str]


def figure(value: float | int | None, unit: str = "") -> str:
    if value is None:
        return "not known"
    return f"{value:.2f}{unit}" if isinstance(value, float) else f"{value}{unit}"


def exercise(evidence: Evidence) -> str:
    """What was exercised, when, and how it ended."""
    said = (
        f"The scenario {evidence['scenario']} was exercised on {evidence['started_at'][:10]};"
        f" the verdict is {evidence['verdict']}"
    )
    reasons = len(evidence["reasons"])
    return said + (f", for {reasons} reason{'s' * (reasons > 1)}." if reasons else ".")


def against_objectives(evidence: Evidence) -> str:
    """Outage and loss of each store beside what was promised."""
    if not evidence["stores"]:
        return "Outage and loss were not measured by this drill: no canary wrote during it."
    said = []
    for store in evidence["stores"]:
        objective = evidence["objectives"].get(store["name"])
        rto = _judge.outage_objective(evidence["scenario"], objective)
        rpo = objective["rpo_seconds"] if objective else None
        said.append(
            f"{store['name']}: longest time without a write {figure(store['outage_seconds'], ' s')}"
            f" (objective {figure(rto, ' s')}); acknowledged writes lost"
            f" {figure(store['rpo_lost_writes'])}, loss in time {figure(store['rpo_seconds'], ' s')}"
            f" (objective {figure(rpo, ' s')})."
        )
    return " ".join(said)


def outcome(evidence: Evidence) -> str:
    """What recovering took: from a backup, where that was drilled, else of what the canary saw."""
    return restored(evidence) if evidence["restore_proof"] else against_objectives(evidence)


def recovery(evidence: Evidence) -> str:
    """How the recovery went: one writer at a time, and where lost writes went."""
    doubles = [store["dual_writer_writes"] for store in evidence["stores"]]
    if not doubles:
        writers = "Writers were not measured by this drill."
    elif None in doubles:
        writers = "Whether two servers wrote at a time is not known."
    else:
        writers = f"{sum(doubles)} writes were acknowledged by a second writer."
    return f"Phases timed: {len(evidence['phases'])}. {writers} {lost_commits(evidence)}"


def lost_commits(evidence: Evidence) -> str:
    commits = evidence["lost_commits"]
    if commits is None:
        return "Commits of the old side alone were not looked for by this drill."
    if commits["count"] is None:
        return f"The commits of the old side alone are not known: {commits['reason'] or 'no reason given'}."
    return f"{commits['count']} commits were found on the old side alone, and listed."


def restored(evidence: Evidence) -> str:
    proof = evidence["restore_proof"]
    if proof is None:
        return "Not answered by this drill: nothing was restored from a backup."
    good = sum(bool(check["passed"]) for check in proof["checks"])
    return (
        f"{proof['store']} was restored from {proof['repository'] or 'a repository that is not known'}"
        f" (backup {proof['backup'] or 'not known'}) to {proof['point_reached'] or 'a point not known'};"
        f" it took {figure(proof['seconds'], ' s')}; {good} of {len(proof['checks'])} checks passed."
    )


def governed(evidence: Evidence) -> str:
    """Who let it happen, and which gates stood open."""
    gates = evidence["gates"]
    overridden = sum(bool(gate["overridden"]) for gate in gates)
    passed = sum(bool(gate["passed"]) for gate in gates)
    approver = f"approved by {evidence['approver']}" if evidence["approver"] else "no approver is known"
    looked = (
        f"{passed} of {len(gates)} gates passed, {overridden} overridden" if gates else "no gate is known"
    )
    return f"{approver[:1].upper()}{approver[1:]}; {looked}."


def plan(evidence: Evidence) -> str:
    return {
        True: "The plan changed since the last passed drill of this scenario.",
        False: "The plan is the one of the last passed drill of this scenario.",
        None: "Whether the plan changed since a passed drill of this scenario is not known.",
    }[evidence["plan"]["changed_since_last_pass"]]


OUTAGE = "stores[].outage_seconds"
LOST = "stores[].rpo_lost_writes"
FAR = "stores[].rpo_seconds"
CONTROLS = [
    Control(
        "SOC 2",
        "A1.3",
        "Tests recovery plan procedures",
        ["verdict", OUTAGE, LOST, FAR, "restore_proof"],
        lambda evidence: f"{exercise(evidence)} {outcome(evidence)}",
    ),
    Control(
        "SOC 2",
        "CC7.5",
        "Recovers from identified security incidents",
        ["phases", "stores[].dual_writer_writes", "lost_commits"],
        recovery,
    ),
    Control(
        "ISO 22301",
        "8.5",
        "Exercise programme",
        ["verdict", "reasons", "plan.changed_since_last_pass"],
        lambda evidence: f"{exercise(evidence)} {plan(evidence)}",
    ),
    Control(
        "DORA",
        "Article 11",
        "Response and recovery",
        [OUTAGE, LOST, FAR, "gates", "approver"],
        lambda evidence: f"{against_objectives(evidence)} {governed(evidence)}",
    ),
    Control(
        "DORA",
        "Article 12",
        "Backup, restoration and recovery procedures and methods",
        ["restore_proof"],
        restored,
    ),
    Control(
        "DORA",
        "Article 24",
        "Testing of digital operational resilience",
        ["verdict", "checks", "restore_proof.checks", "plan.git_sha", "plan.inventory_sha256"],
        lambda evidence: f"{exercise(evidence)} {checked(evidence)} {plan(evidence)}",
    ),
    Control(
        "NIST SP 800-34",
        "3.5",
        "Plan testing, training, and exercises",
        ["verdict", OUTAGE, LOST, FAR, "restore_proof"],
        lambda evidence: f"{exercise(evidence)} {outcome(evidence)}",
    ),
]


def checked(evidence: Evidence) -> str:
    checks = [*evidence["checks"], *(evidence["restore_proof"] or {"checks": []})["checks"]]
    if not checks:
        return "No check beyond the measurement was made."
    return f"{sum(bool(check['passed']) for check in checks)} of {len(checks)} checks passed."


def controls(evidence: Evidence) -> list[dict[str, Any]]:
    """Each control beside the figures that answer it."""
    return [
        {
            "framework": entry.framework,
            "control": entry.control,
            "title": entry.title,
            "answered_by": entry.answered_by,
            "statement": entry.statement(evidence),
        }
        for entry in CONTROLS
    ]
