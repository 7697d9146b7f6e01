#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: drill_evidence
short_description: Judge a drill by what the canary measured, and write its evidence
version_added: 0.1.0
description:
  - Runs on the controller. Computes loss, outage and double writers of every store from the canary's ledger
    and from what the surviving copy holds, compares them with the objectives, and writes the drill's folder.
  - The folder holds C(evidence.json) as C(docs/evidence.schema.json) describes it, C(ledger.csv), and
    C(report.html), which needs nothing else. The link C(latest) beside it is then pointed at it.
  - A figure that is not known is null, with the reason, and the verdict is then V(FAIL).
  - A verdict of V(FAIL) is no failure of this module.
options:
  directory:
    description: Directory on the controller that holds the folders of all drills. Made when it is missing.
    type: path
    required: true
  drill_id:
    description: Name of the drill and of its folder. A folder that holds evidence already is refused.
    type: str
    required: true
  scenario:
    description:
      - What was drilled. V(switchover) passes when no acknowledged write was lost, no two servers wrote at a
        time, no outage was longer than the objective, and every figure and clock offset is known.
    type: str
    choices: [switchover]
    required: true
  canary:
    description: The whole result of M(muster.platform.canary_window).
    type: dict
    required: true
  canary_host:
    description: The canary's host, as it is named in O(clock).
    type: str
    required: true
  phases:
    description: What the drill did when, as C(name), C(started_at) and C(seconds), by the controller's clock.
    type: list
    elements: dict
    default: []
  timeline:
    description:
      - File that the callback plugin P(muster.platform.timeline#callback) writes. Its ended phases are added
        to O(phases).
    type: path
  objectives:
    description: C(rpo_seconds) and C(rto_seconds) by store.
    type: dict
    required: true
  clock:
    description:
      - C(host), C(offset_ms) (the host's clock minus the controller's) and C(uncertainty_ms) of every host.
    type: list
    elements: dict
    required: true
  recovery_before:
    description: C(recovery_status) of all hosts of all stores before the drill.
    type: list
    elements: dict
    required: true
  recovery_after:
    description: The same after the drill.
    type: list
    elements: dict
    required: true
  versions:
    description:
      - Versions of what took part, by name. Those that O(recovery_before) and O(recovery_after) tell, and
        ansible-core's, are added.
    type: dict
    default: {}
  plan:
    description: What the drill was run from.
    type: dict
    required: true
    suboptions:
      git_sha:
        description: Commit of the checkout. Not given when there is none.
        type: str
      inventory_sha256:
        description: SHA-256 of the inventory.
        type: str
        required: true
  started_at:
    description: When the drill began, UTC. The begin of the canary's time, when not given.
    type: str
  finished_at:
    description: When the drill ended, UTC. The end of the canary's time, when not given.
    type: str
attributes:
  check_mode:
    description: Judges, and writes nothing.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Record the drill
  muster.platform.drill_evidence:
    directory: "{{ dr_drills_directory }}"
    drill_id: 20261121T101500-switchover
    scenario: switchover
    canary: "{{ hostvars['witness'].drill_canary }}"
    canary_host: witness
    timeline: "{{ lookup('ansible.builtin.env', 'MUSTER_TIMELINE') }}"
    objectives: "{{ dr_objectives }}"
    clock: "{{ drill_clock }}"
    recovery_before: "{{ drill_before }}"
    recovery_after: "{{ drill_after }}"
    plan:
      git_sha: "{{ drill_git_sha }}"
      inventory_sha256: "{{ drill_inventory_sha256 }}"
  delegate_to: localhost
  register: drill_evidence

- name: Show the verdict
  ansible.builtin.debug:
    msg: "{{ drill_evidence.summary }}"
"""

RETURN = r"""
verdict:
  description: V(PASS) or V(FAIL).
  returned: success
  type: str
reasons:
  description: Why the verdict is V(FAIL), the gravest first.
  returned: success
  type: list
  elements: str
summary:
  description: Lines of a table for a terminal, objective against measured per store.
  returned: success
  type: list
  elements: str
path:
  description: The drill's folder.
  returned: success
  type: str
report:
  description: Path of the report.
  returned: success
  type: str
evidence:
  description: What evidence.json holds.
  returned: success
  type: dict
"""

import json
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils import _drill, _evidence, _report
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

CANARY_KEYS = {"from", "to", "complete", "ledger", "interval_ms", "stores"}


def read_timeline(path: str | None) -> list[dict[str, Any]]:
    """The phases that the timeline plugin wrote so far."""
    if not path:
        return []
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        return [dict(phase) for phase in document["phases"]]
    except OSError as error:
        raise MusterError(f"timeline: cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise MusterError(f"timeline: {path} was not written by muster.platform.timeline") from error


def check_objectives(objectives: dict[str, Any]) -> None:
    for name, objective in objectives.items():
        if not isinstance(objective, dict):
            raise MusterError(f"objectives: {name} needs rpo_seconds and rto_seconds")
        for key in ("rpo_seconds", "rto_seconds"):
            value = objective.get(key)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0
            ):
                raise MusterError(f"objectives: {name}.{key} must be a number of seconds, not {value!r}")


def record(parameters: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Judge the drill and write its folder."""
    directory = Path(parameters["directory"])
    folder = _drill.check_folder(directory, parameters["drill_id"])
    lacking = sorted(CANARY_KEYS - set(parameters["canary"]))
    if lacking:
        raise MusterError(
            f"canary is not a result of muster.platform.canary_window: it lacks {', '.join(lacking)}"
        )
    check_objectives(parameters["objectives"])
    parameters = {**parameters, "phases": parameters["phases"] + read_timeline(parameters["timeline"])}
    text = _drill.unpack_ledger(parameters["canary"]["ledger"])
    ledger = _evidence.parse_ledger(text)
    evidence = _drill.build(parameters, ledger)
    if not check_mode:
        _drill.write_folder(
            folder,
            {
                "ledger.csv": text,
                "report.html": _report.render(evidence, ledger.rows),
                "evidence.json": json.dumps(evidence, indent=2, ensure_ascii=False) + "\n",
            },
        )
    return {
        "changed": True,
        "verdict": evidence["verdict"],
        "reasons": evidence["reasons"],
        "summary": _drill.summary(evidence),
        "path": str(folder),
        "report": str(folder / "report.html"),
        "evidence": evidence,
    }


def main() -> None:
    status = {"type": "list", "elements": "dict", "required": True}
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "drill_id": {"type": "str", "required": True},
            "scenario": {"type": "str", "choices": ["switchover"], "required": True},
            "canary": {"type": "dict", "required": True},
            "canary_host": {"type": "str", "required": True},
            "phases": {"type": "list", "elements": "dict", "default": []},
            "timeline": {"type": "path"},
            "objectives": {"type": "dict", "required": True},
            "clock": {"type": "list", "elements": "dict", "required": True},
            "recovery_before": status,
            "recovery_after": status,
            "versions": {"type": "dict", "default": {}},
            "plan": {
                "type": "dict",
                "required": True,
                "options": {
                    "git_sha": {"type": "str"},
                    "inventory_sha256": {"type": "str", "required": True},
                },
            },
            "started_at": {"type": "str"},
            "finished_at": {"type": "str"},
        },
        supports_check_mode=True,
    )
    try:
        result = record(module.params, module.check_mode)
    except MusterError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
