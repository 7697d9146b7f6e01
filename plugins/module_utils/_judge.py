# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a drill passed: what each scenario may cost, and what it must prove. Unknown is never enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _evidence
from ansible_collections.muster.platform.plugins.module_utils._ranges import read_ranges, to_ranges

SCENARIOS = ("switchover", "region_loss", "partition", "restore", "failover", "reprotect")
# These are measured by the canary, against the objectives.
MEASURED = ("switchover", "region_loss", "partition", "failover")
# A planned move loses nothing, whatever the objective allows.
LOSSLESS = ("switchover",)
# These end with the old side looked through: what it alone had is written down.
ACCOUNTED = ("region_loss", "reprotect")
# A lost region cannot be asked where it stood when it was lost.
KNOWN_BEFORE = ("switchover", "region_loss", "partition")


def counted(number: int, what: str) -> str:
    return f"{number} {what} was" if number == 1 else f"{number} {what}s were"


def outage_objective(scenario: str, objective: Mapping[str, Any] | None) -> Any:
    """The longest outage that is allowed; a planned one may have an objective of its own."""
    if not objective:
        return None
    planned = objective.get("switchover_seconds") if scenario in LOSSLESS else None
    return objective.get("rto_seconds") if planned is None else planned


def judge_store(scenario: str, store: Mapping[str, Any], objective: Mapping[str, Any] | None) -> list[str]:
    """Why a store did not do what the scenario asks of it; empty when it did."""
    name = store["name"]
    reasons = [f"{name}: {reason}" for reason in store["reasons"]]
    unknown = [key for key in _evidence.FIGURES if store[key] is None]
    if unknown and not store["reasons"]:
        reasons.append(f"{name}: not known: {', '.join(unknown)}")
    if store["dual_writer_writes"]:
        reasons.append(
            f"{name}: {counted(store['dual_writer_writes'], 'write')} acknowledged by a second writer"
        )
    if scenario not in MEASURED:
        return reasons
    if not objective or objective.get("rto_seconds") is None or objective.get("rpo_seconds") is None:
        return [*reasons, f"{name}: dr_objectives sets no rpo_seconds and rto_seconds for it"]
    return [
        *judge_loss(scenario, store, objective["rpo_seconds"]),
        *reasons,
        *judge_outage(store, outage_objective(scenario, objective)),
        *judge_positions(scenario, store),
    ]


def judge_loss(scenario: str, store: Mapping[str, Any], allowed: float) -> list[str]:
    name, lost, far = store["name"], store["rpo_lost_writes"], store["rpo_seconds"]
    if lost and scenario in LOSSLESS:
        what = counted(lost, "acknowledged write")
        return [f"{name}: {what} lost; a planned switchover may lose none"]
    if lost and far is not None and far > allowed:
        what = counted(lost, "acknowledged write")
        return [f"{name}: {what} lost, over {far:.3f} s; the objective is {allowed:g} s"]
    return []


def judge_outage(store: Mapping[str, Any], allowed: float) -> list[str]:
    outage = store["outage_seconds"]
    if outage is None or outage <= allowed:
        return []
    name = store["name"]
    return [f"{name}: no write was acknowledged for {outage:.3f} s; the objective is {allowed:g} s"]


def judge_positions(scenario: str, store: Mapping[str, Any]) -> list[str]:
    looked = ("before", "after") if scenario in KNOWN_BEFORE else ("after",)
    return [
        f"{store['name']}: its timeline and position {when} the drill are not known"
        for when in looked
        if store[f"timeline_{when}"] is None or store[f"position_{when}"] is None
    ]


def is_accounted(evidence: Mapping[str, Any]) -> bool:
    """Whether the drill has to say where each lost write went."""
    scenario = evidence["scenario"]
    return scenario in ACCOUNTED or (scenario == "partition" and evidence["lost_commits"] is not None)


def unaccounted(store: Mapping[str, Any]) -> set[int]:
    """Lost writes that nobody saved from the old side."""
    lost = read_ranges(store["lost_sequences"] or "")
    return lost - read_ranges(store["recovered_sequences"] or "")


def judge_lost_commits(evidence: Mapping[str, Any]) -> list[str]:
    """Every write that was acknowledged and lost must be among what was saved from the old side."""
    if not is_accounted(evidence):
        return []
    commits, stores = evidence["lost_commits"], evidence["stores"]
    reasons = []
    for store in stores:
        gone = unaccounted(store)
        if gone:
            reasons.append(
                f"{store['name']}: {len(gone)} of {store['rpo_lost_writes']} lost acknowledged writes are"
                f" not among {what_was_saved(store, commits)} saved from the old side:"
                f" {_evidence.some_ranges(to_ranges(sorted(gone)))}"
            )
    lost = any(store["rpo_lost_writes"] for store in stores if store["name"] == "postgresql")
    if (lost or not stores) and (commits is None or commits["count"] is None):
        why = (commits or {}).get("reason") or "nobody reported them"
        reasons.append(f"the commits that only the old side had are not known: {why}")
    elif commits is not None and commits["count"] is not None:
        reasons += judge_commit_list(commits, stores)
    if commits is not None and commits["xids_file"] not in (None, *evidence["attachments"]):
        reasons.append(f"the list of lost commits, {commits['xids_file']}, is not in the folder")
    return reasons


def what_was_saved(store: Mapping[str, Any], commits: Mapping[str, Any] | None) -> str:
    if store["name"] != "postgresql":
        return "what was"
    number = f"{commits['count']} " if commits and commits["count"] is not None else ""
    return f"the {number}commits that were"


def judge_commit_list(commits: Mapping[str, Any], stores: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each of the canary's writes to PostgreSQL is a commit of its own, so there cannot be fewer commits."""
    saved = sum(
        len(read_ranges(store["recovered_sequences"] or ""))
        for store in stores
        if store["name"] == "postgresql"
    )
    if saved <= commits["count"]:
        return []
    return [
        f"the list of the old side's commits contradicts itself: {commits['count']} in all,"
        f" but {saved} of the canary"
    ]


def gate_name(gate: Mapping[str, Any], gates: Sequence[Mapping[str, Any]]) -> str:
    """The gate's name, behind that of its store where several are judged."""
    several = len({one.get("store") for one in gates} - {None}) > 1
    return f"{gate['store']}: {gate['name']}" if several and gate.get("store") else str(gate["name"])


def judge_gates(gates: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"gate {gate_name(gate, gates)} refused: {gate['reason'] or 'it gave no reason'}"
        for gate in gates
        if not gate["passed"] and not gate["overridden"] and not gate["warns"]
    ]


def judge_checks(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{check['name']}: {check['detail'] or 'not shown'}" for check in checks if not check["passed"]]


def judge_restore(evidence: Mapping[str, Any]) -> list[str]:
    proof = evidence["restore_proof"]
    if proof is None:
        return ["there is no proof of a restore"] if evidence["scenario"] == "restore" else []
    reasons = judge_checks(proof["checks"])
    named = {"point_reached": "the point in time that it reached", "seconds": "how long it took"}
    reasons += [f"restore: {what} is not known" for key, what in named.items() if proof[key] is None]
    if not proof["checks"] and not evidence["checks"]:
        reasons.append("restore: nothing was checked on what was restored")
    return reasons


def judge_clocks(clock: Sequence[Mapping[str, Any]], needed: bool) -> list[str]:
    """Why the hosts' clocks are not known; empty when they are."""
    if not clock:
        return ["no host's clock offset was measured"] if needed else []
    unknown = [
        str(entry["host"])
        for entry in clock
        if entry.get("offset_ms") is None or entry.get("uncertainty_ms") is None
    ]
    return [f"the clock offset is not known of: {', '.join(unknown)}"] if unknown else []


def judge_skew(evidence: Mapping[str, Any]) -> list[str]:
    """How far the stores are apart has no objective, but it must be known."""
    if evidence["scenario"] not in MEASURED:
        return []
    _skew, why = _evidence.consistency_skew(evidence["stores"])
    return [f"the consistency skew between the stores is not known: {why}"] if why else []


def judge_measurement(evidence: Mapping[str, Any], complete: bool) -> list[str]:
    """Whether the canary looked at everything that was promised."""
    reasons = []
    measured = evidence["scenario"] in MEASURED
    if measured:
        names = {store["name"] for store in evidence["stores"]}
        reasons += [
            f"{name}: has objectives, but the canary did not write to it"
            for name in sorted(set(evidence["objectives"]) - names)
        ]
        if not evidence["stores"]:
            reasons.append("the canary wrote to no store")
    if not complete:
        reasons.append("the ledger misses attempts that were still open when it was read")
    return reasons + judge_clocks(evidence["clock"], measured or bool(evidence["stores"]))


def judge(evidence: Mapping[str, Any], complete: bool) -> list[str]:
    """Every reason against a PASS, the gravest first."""
    reasons = [
        reason
        for store in evidence["stores"]
        for reason in judge_store(evidence["scenario"], store, evidence["objectives"].get(store["name"]))
    ]
    reasons += judge_skew(evidence)
    reasons += judge_lost_commits(evidence)
    reasons += judge_restore(evidence)
    reasons += judge_checks(evidence["checks"])
    reasons += judge_gates(evidence["gates"])
    return reasons + judge_measurement(evidence, complete)
