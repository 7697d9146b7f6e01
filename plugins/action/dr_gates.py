# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Action of muster.platform.dr_gates: judge on the controller what others have measured."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.muster.platform.plugins.module_utils import _freeze, _gates
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

STRINGS = {"type": "list", "elements": "str"}
DICTIONARIES = {"type": "list", "elements": "dict"}
# Parameter and the variable that a person sets.
LIMITS = {variable.removeprefix("dr_"): variable for variable in _gates.LIMITS}
SPEC: dict[str, dict[str, Any]] = {
    "operation": {"type": "str", "required": True, "choices": list(_gates.APPLIES)},
    "store": {"type": "str", "required": True},
    "source": {"type": "str"},
    "target": {"type": "str", "required": True},
    "target_leader": {"type": "str"},
    "statuses": {**DICTIONARIES, "required": True},
    "lag": {"type": "dict"},
    "objectives": {"type": "dict"},
    "fence": {"type": "dict"},
    "clock": DICTIONARIES,
    "freeze_windows": {"type": "list", "elements": "raw"},
    "now": {"type": "str"},
    "approver": {"type": "str"},
    "overrides": {"type": "raw"},
    "last_backup_at": {"type": "str"},
    "last_restore_proof_at": {"type": "str"},
    "plan": {"type": "dict"},
    "only": STRINGS,
    "skip": STRINGS,
    "fail": {"type": "bool", "default": True},
    **{name: {"type": "float", "default": _gates.LIMITS[variable]} for name, variable in LIMITS.items()},
}


def read_limits(arguments: Mapping[str, Any]) -> dict[str, float]:
    limits = {}
    for name, variable in LIMITS.items():
        value = _gates.number(arguments[name])
        if value is None:
            raise MusterError(f"{name} ({variable}) is {arguments[name]!r}: it must be a number, 0 or more")
        limits[variable] = value
    return limits


def read_facts(arguments: Mapping[str, Any]) -> _gates.Facts:
    """The arguments as the gates want them; a MusterError for what cannot be meant."""
    source, target = arguments["source"] or None, arguments["target"]
    if not target:
        raise MusterError("target is empty: name the region that shall be primary")
    if source == target:
        raise MusterError(f"source and target are both {target}")
    changed = (arguments["plan"] or {}).get("changed_since_last_pass")
    now = arguments["now"]
    return _gates.Facts(
        operation=arguments["operation"],
        store=arguments["store"],
        source=source,
        target=target,
        target_leader=arguments["target_leader"] or None,
        rows=[row for row in arguments["statuses"] if row.get("store") == arguments["store"]],
        lag=arguments["lag"],
        objectives=arguments["objectives"] or {},
        fence=arguments["fence"],
        clock=arguments["clock"] or [],
        windows=_freeze.read_windows(arguments["freeze_windows"]),
        approver=arguments["approver"],
        last_backup_at=arguments["last_backup_at"],
        last_restore_proof_at=arguments["last_restore_proof_at"],
        plan_changed=changed if isinstance(changed, bool) else None,
        limits=read_limits(arguments),
        now=_freeze.read_time(now, "now") if now else datetime.now(UTC),
    )


def judge(arguments: Mapping[str, Any]) -> dict[str, Any]:
    facts = read_facts(arguments)
    overrides = _gates.check_overrides(arguments["overrides"])
    names = _gates.select(facts.operation, arguments["only"], arguments["skip"])
    return _gates.evaluate(facts, names, overrides)


class ActionModule(ActionBase):
    """Runs on the controller only."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _valid, arguments = self.validate_argument_spec(argument_spec=SPEC)
        result["changed"] = False
        try:
            result |= judge(arguments)
        except MusterError as error:
            return result | {"failed": True, "msg": str(error)}
        if result["warned"]:
            result["warnings"] = list(result["warned"])
        if result["refused"] and arguments["fail"]:
            head = f"the {arguments['operation']} to {arguments['target']} is refused"
            result |= {"failed": True, "msg": "\n  - ".join([f"{head}:", *result["refused"]])}
        return result
