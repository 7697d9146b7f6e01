# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The gates of a DR operation: each says in one sentence whether the operation may go ahead.

A gate judges what others have measured, and asks nobody itself. What is not known does not pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._freeze import Window, read_time

# Limits by the name of their variable, with their defaults.
LIMITS: dict[str, float] = {
    "dr_max_clock_offset_ms": 500,
    "dr_max_backup_age_hours": 26,
    "dr_max_restore_proof_age_days": 35,
    "dr_max_receiver_silence_seconds": 30,
}
# A host that answered has one of these; "unknown" is what others say of a silent one.
KNOWN_ROLES = ("primary", "standby", "fenced", "stopped")
# Times of different hosts are compared: what lies further ahead than this is wrong.
AHEAD = timedelta(minutes=1)


@dataclass(frozen=True)
class Facts:
    """What the gates judge."""

    operation: str
    store: str
    source: str | None
    target: str
    target_leader: str | None
    rows: Sequence[Mapping[str, Any]]
    lag: Mapping[str, Any] | None
    objectives: Mapping[str, Any]
    fence: Mapping[str, Any] | None
    clock: Sequence[Mapping[str, Any]]
    windows: Sequence[Window]
    approver: str | None
    last_backup_at: Any
    last_restore_proof_at: Any
    plan_changed: bool | None
    limits: Mapping[str, float]
    now: datetime

    @property
    def target_rows(self) -> list[Mapping[str, Any]]:
        """What the target's hosts said, without those that said nothing."""
        return [
            row
            for row in self.rows
            if row.get("region") == self.target and row.get("role") in KNOWN_ROLES and row.get("host")
        ]

    @property
    def leaders(self) -> list[Mapping[str, Any]]:
        """The host that would be promoted; all of the target's where it is not named."""
        named = self.target_leader
        return [row for row in self.target_rows if named is None or row["host"] == named]


# Whether it passes, and why (not).
Verdict = tuple[bool, str]


def number(value: Any) -> float | None:
    """A figure, or None for whatever is no finite number of 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


def signed(value: Any) -> float | None:
    found = number(abs(value)) if isinstance(value, int | float) and not isinstance(value, bool) else None
    return None if found is None else math.copysign(found, value)


def counted(figure: float, what: str) -> str:
    return f"{figure:g} {what}" + ("" if figure == 1 else "s")


def seconds(figure: float) -> str:
    return f"{round(figure, 3):g} s"


def target_not_primary(facts: Facts) -> Verdict:
    if not facts.target_rows:
        return False, f"no host of {facts.store} in {facts.target} says what it is, so it may be primary"
    found = [str(row["host"]) for row in facts.target_rows if row["role"] == "primary"]
    if found:
        return False, f"{facts.target} is primary already ({', '.join(found)} takes writes)"
    return True, f"{facts.target} is not primary"


def lag_known(facts: Facts) -> Verdict:
    what = f"how far {facts.target} is behind what was acknowledged is not known"
    lag = facts.lag
    if lag is None:
        return False, f"{what}: it was not measured"
    if number(lag.get("lag_seconds")) is None or number(lag.get("lag_writes")) is None:
        return False, f"{what}: {lag.get('reason') or 'no figure was returned'}"
    answered = (lag.get("answered_by") or {}).get("host")
    if facts.target_leader is not None and answered != facts.target_leader:
        return False, f"{what}: {answered} was asked, and {facts.target_leader} would be promoted"
    return True, f"{facts.target} lacks {counted(lag['lag_writes'], 'acknowledged write')}"


def lag_within_objective(facts: Facts) -> Verdict:
    variable = f"dr_objectives.{facts.store}.rpo_seconds"
    limit = number(facts.objectives.get("rpo_seconds"))
    if limit is None:
        return False, f"{variable} is not set, so no loss is allowed or refused"
    lag = facts.lag or {}
    behind, writes = number(lag.get("lag_seconds")), number(lag.get("lag_writes"))
    if behind is None or writes is None:
        return False, f"an unknown lag cannot be held against {variable} ({seconds(limit)})"
    found = f"{facts.target} is {seconds(behind)} behind and lacks {counted(writes, 'acknowledged write')}"
    # No figure of seconds makes a lost write nothing.
    if behind > limit or (writes and not limit):
        return False, f"{found}, which is above {variable} ({seconds(limit)})"
    return True, f"{found}, within {variable} ({seconds(limit)})"


def same_timeline_in_ledger(facts: Facts, lag: Mapping[str, Any]) -> Verdict:
    """For stores whose hosts count something else: what was copied last is of whom wrote last."""
    who = (lag.get("answered_by") or {}).get("host") or facts.target_leader or facts.target
    held, last = lag.get("held_timeline"), lag.get("last_timeline")
    if last is None:
        return False, "the canary's ledger does not say which timeline was written last"
    if held is None:
        return False, f"the timeline of the newest write that {who} holds is not known"
    if held != last:
        acknowledged = f"{lag.get('last_host') or 'the host'}, which acknowledged last,"
        return False, f"the newest write that {who} holds is of timeline {held}, {acknowledged} on {last}"
    return True, f"the newest write that {who} holds is of timeline {held}, which was written last"


def same_timeline(facts: Facts) -> Verdict:
    if facts.lag is not None and facts.lag.get("timeline_of") == "ledger":
        return same_timeline_in_ledger(facts, facts.lag)
    if not facts.leaders:
        who = facts.target_leader or f"any host of {facts.store} in {facts.target}"
        return False, f"the timeline of {who} is not known, because it did not answer"
    references = {
        f"the primary {row.get('host')}": row.get("timeline")
        for row in facts.rows
        if row.get("role") == "primary" and row.get("region") != facts.target
    }
    if facts.lag is not None:
        last = f"{facts.lag.get('last_host') or 'the host'}, which acknowledged last,"
        references[last] = facts.lag.get("last_timeline")
    references = {who: timeline for who, timeline in references.items() if timeline is not None}
    if not references:
        return False, "neither a primary nor the canary's ledger says which timeline was written last"
    for row in facts.leaders:
        if row.get("timeline") is None:
            return False, f"the timeline of {row['host']} is not known"
        for who, timeline in references.items():
            if row["timeline"] != timeline:
                return False, f"{row['host']} is on timeline {row['timeline']}, {who} on {timeline}"
    return True, f"{facts.target} is on timeline {facts.leaders[0]['timeline']}, which was written last"


def receiver_alive(facts: Facts) -> Verdict:
    """A state such as "streaming" is no proof: only what came through the stream is."""
    variable = "dr_max_receiver_silence_seconds"
    limit = facts.limits[variable]
    lag = facts.lag or {}
    silence = number(lag.get("silence_seconds"))
    if silence is None:
        why = lag.get("reason") or "it was not measured"
        return False, f"whether {facts.target} still receives anything is not known: {why}"
    if silence <= limit:
        return (
            True,
            f"{facts.target} received until {seconds(silence)} before the last acknowledged write",
        )
    says = "says that it streams, but " if any(row.get("streaming") for row in facts.leaders) else ""
    return False, (
        f"{facts.target} {says}received nothing of what was acknowledged after {lag.get('held_at')} "
        f"until {lag.get('last_acknowledged_at')}: {seconds(silence)}, above {variable} ({seconds(limit)})"
    )


def fence_proven(facts: Facts) -> Verdict:
    side = facts.source or "the other side"
    fence = facts.fence
    if fence is None:
        return False, f"nothing has proven that {side} cannot take writes: it was not fenced"
    provider = fence.get("provider") or "no provider"
    if fence.get("proven") is not True:
        detail = fence.get("detail")
        return False, f"the fence of {side} by {provider} is not proven" + (f": {detail}" if detail else "")
    try:
        at = read_time(fence.get("proven_at"), "proven_at")
    except MusterError as error:
        return False, f"the fence of {side} by {provider} does not say when it was proven: {error}"
    return True, f"{side} was fenced by {provider}, proven at {at.isoformat()}"


def freeze_window(facts: Facts) -> Verdict:
    for window in facts.windows:
        until = window.open_until(facts.now)
        if until is not None:
            why = f" ({window.reason})" if window.reason else ""
            return False, f"freeze window '{window.name}'{why} is open until {until:%Y-%m-%dT%H:%M:%SZ}"
    return True, f"none of {counted(len(facts.windows), 'freeze window')} is open"


def approver(facts: Facts) -> Verdict:
    name = (facts.approver or "").strip()
    return (True, f"approved by {name}") if name else (False, "no approver is named")


def _age(facts: Facts, given: Any, key: str, what: str) -> tuple[timedelta | None, str]:
    """How old the newest is, or why that is not known."""
    times = [row[key] for row in facts.rows if row.get(key)] if given in (None, "") else [given]
    try:
        newest = max((read_time(value, key) for value in times), default=None)
    except MusterError as error:
        return None, f"the time of {what} is not known: {error}"
    if newest is None:
        return None, f"{what} is not known"
    if newest > facts.now + AHEAD:
        return None, f"{what} is said to be of {newest.isoformat()}, which is in the future"
    return max(facts.now - newest, timedelta()), ""


def backup_age(facts: Facts) -> Verdict:
    variable = "dr_max_backup_age_hours"
    age, why = _age(facts, facts.last_backup_at, "last_backup_at", f"the last backup of {facts.store}")
    if age is None:
        return False, why
    found = f"the last backup of {facts.store} is {age / timedelta(hours=1):.1f} h old"
    return age <= timedelta(hours=facts.limits[variable]), _against(facts, found, variable, "h")


def restore_proof_age(facts: Facts) -> Verdict:
    variable = "dr_max_restore_proof_age_days"
    what = f"the last restore that proved a backup of {facts.store}"
    age, why = _age(facts, facts.last_restore_proof_at, "last_restore_proof_at", what)
    if age is None:
        return False, why
    found = f"{what} is {age / timedelta(days=1):.1f} days old"
    return age <= timedelta(days=facts.limits[variable]), _against(facts, found, variable, "days")


def _against(facts: Facts, found: str, variable: str, unit: str) -> str:
    return f"{found}, and {variable} is {facts.limits[variable]:g} {unit}"


def clock_offset(facts: Facts) -> Verdict:
    variable = "dr_max_clock_offset_ms"
    measured = {str(row.get("host")): row for row in facts.clock}
    wanted = sorted({*measured, *(str(row["host"]) for row in facts.target_rows)})
    if not measured:
        return False, "no host's clock was measured"
    worst, unknown = (0.0, ""), []
    for host in wanted:
        row = measured.get(host, {})
        offset, uncertainty = signed(row.get("offset_ms")), number(row.get("uncertainty_ms"))
        if offset is None or uncertainty is None:
            unknown.append(host)
        else:
            # The truth is that far away at most.
            worst = max(worst, (abs(offset) + uncertainty, host))
    if unknown:
        return False, f"the clock offset is not known of {', '.join(unknown)}"
    found = f"the clock of {worst[1] or wanted[0]} may be {worst[0]:g} ms off"
    return worst[0] <= facts.limits[variable], _against(facts, found, variable, "ms")


def plan_unchanged(facts: Facts) -> Verdict:
    if facts.plan_changed is None:
        return False, "whether the plan has changed since its last passed drill is not known"
    if facts.plan_changed:
        return False, "the plan has changed since its last passed drill"
    return True, "the plan is the one that passed its last drill"


@dataclass(frozen=True)
class Gate:
    """One gate, and what a person can do about its refusal."""

    check: Callable[[Facts], Verdict]
    remedy: str
    overridable: bool = True
    warns: bool = False
    platform: bool = False  # It judges the platform: what it says is the same for every store.


# In the order in which they are told.
GATES: dict[str, Gate] = {
    "target_not_primary": Gate(
        target_not_primary, "name another region in dr_target_region, or finish what is under way", False
    ),
    "lag_known": Gate(lag_known, "bring the canary and a host of the target back"),
    "lag_within_objective": Gate(lag_within_objective, "wait, or set the objective beforehand"),
    "same_timeline": Gate(same_timeline, "wait until the target follows the primary's timeline"),
    "receiver_alive": Gate(
        receiver_alive, "repair the replication, or change dr_max_receiver_silence_seconds"
    ),
    "fence_proven": Gate(fence_proven, "fence it by another provider", False, platform=True),
    "freeze_window": Gate(freeze_window, "wait, or change dr_freeze_windows", platform=True),
    "approver": Gate(approver, "set dr_approver to who approves it", platform=True),
    "backup_age": Gate(backup_age, "take a backup, or change dr_max_backup_age_hours"),
    "restore_proof_age": Gate(
        restore_proof_age, "run the restore drill, or change dr_max_restore_proof_age_days"
    ),
    "clock_offset": Gate(clock_offset, "set the clock right, or change dr_max_clock_offset_ms"),
    "plan_unchanged": Gate(plan_unchanged, "drill the plan", warns=True, platform=True),
}
# The handover of a switchover proves lag and timeline itself, with the primary's help.
APPLIES: dict[str, tuple[str, ...]] = {
    "failover": tuple(GATES),
    "switchover": ("target_not_primary", "freeze_window", "clock_offset"),
    "reprotect": ("freeze_window",),
}


def check_overrides(overrides: Any, variable: str = "dr_override") -> dict[str, str]:
    """The overrides; a MusterError for one that names no gate, or one that never opens, or no reason."""
    if overrides is None:
        return {}
    if not isinstance(overrides, Mapping):
        raise MusterError(
            f"{variable} is {overrides!r}: it must be a dictionary of gates and reasons, "
            f'such as -e \'{{"{variable}": {{"freeze_window": "why"}}}}\''
        )
    for name, reason in overrides.items():
        if name not in GATES:
            raise MusterError(f"{variable} names '{name}', which is no gate; there are: {', '.join(GATES)}")
        if not GATES[name].overridable:
            raise MusterError(f"{variable} names {name}, which nobody can override")
        if not isinstance(reason, str) or not reason.strip():
            raise MusterError(f"{variable}.{name} gives no reason: say why the gate may be passed")
    return {str(name): str(reason).strip() for name, reason in overrides.items()}


def select(operation: str, only: Sequence[str] | None, skip: Sequence[str] | None) -> list[str]:
    """The gates to evaluate now, in their order."""
    applies = APPLIES[operation]
    for name in (*(only or ()), *(skip or ())):
        if name not in GATES:
            raise MusterError(f"'{name}' is no gate; there are: {', '.join(GATES)}")
    for name in only or ():
        if name not in applies:
            raise MusterError(f"the gate {name} does not apply to a {operation}")
    return [name for name in applies if (only is None or name in only) and name not in (skip or ())]


def evaluate(facts: Facts, names: Sequence[str], overrides: Mapping[str, str]) -> dict[str, Any]:
    """Each gate's verdict, and the sentences of those that refuse."""
    gates: list[dict[str, Any]] = []
    refused: list[str] = []
    warnings: list[str] = []
    for name in names:
        gate = GATES[name]
        passed, reason = gate.check(facts)
        overridden = None if passed else overrides.get(name)
        if not passed:
            also = (
                f", or set dr_override.{name} to the reason why it may go ahead" if gate.overridable else ""
            )
            reason = f"{reason}; {gate.remedy}{'' if gate.warns else also}"
            if gate.warns:
                warnings.append(f"{name}: {reason}")
            elif overridden is None:
                refused.append(f"{name}: {reason}")
        warns = gate.warns and not passed
        gates.append(
            {
                "name": name,
                "store": None if gate.platform else facts.store,
                "passed": passed,
                "reason": reason,
                "overridden": overridden,
                "warns": warns,
            }
        )
    passing = [gate["name"] for gate in gates if gate["passed"]]
    return {
        "gates": gates,
        "refused": refused,
        "warned": warnings,
        "overrides_not_needed": [name for name in passing if name in overrides],
        "not_evaluated": [name for name in APPLIES[facts.operation] if name not in names],
    }
