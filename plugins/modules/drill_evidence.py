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
  - The folder holds C(evidence.json) as C(docs/evidence.schema.json) describes it, C(ledger.csv),
    C(report.html), which needs nothing else, C(metrics.prom) for node_exporter's textfile collector, the
    O(attachments), and C(manifest.sha256), which C(sha256sum -c) reads, with the hash of the manifest of the
    drill before; with O(signing_key) also C(manifest.sha256.sig).
  - The folder appears whole or not at all. The link C(latest) beside it is then pointed at it, and
    C(index.html), the trend over all drills, is written anew.
  - M(muster.platform.evidence_verify) checks what this module writes.
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
      - What was drilled.
      - V(switchover) passes when no acknowledged write was lost, no two servers wrote at a time, no outage
        was longer than the objective, and every figure and clock offset is known.
      - V(region_loss), V(partition) and V(failover) are allowed the loss and the outage of the objectives,
        and no second writer. The time of V(region_loss) ends with the switch back, which counts too.
      - V(region_loss) and V(reprotect) also need each lost write to be in O(lost_commits).
      - V(restore) needs O(restore_proof). It and V(reprotect) are not held against O(objectives), and
        O(canary), O(canary_host), O(objectives), O(clock), O(recovery_before) and O(recovery_after) may be
        absent.
      - In every scenario each of O(checks) must have passed, and each of O(gates) must have passed, been
        overridden, or only warn.
    type: str
    choices: [switchover, region_loss, partition, restore, failover, reprotect]
    required: true
  canary:
    description: The whole result of M(muster.platform.canary_window).
    type: dict
  canary_host:
    description: The canary's host, as it is named in O(clock).
    type: str
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
    description:
      - C(rpo_seconds) and C(rto_seconds) by store. C(switchover_seconds), when there, is the longest outage
        of a planned switchover instead of C(rto_seconds).
    type: dict
    default: {}
  clock:
    description:
      - C(host), C(offset_ms) (the host's clock minus the controller's) and C(uncertainty_ms) of every host.
    type: list
    elements: dict
    default: []
  recovery_before:
    description: C(recovery_status) of all hosts of all stores before the drill.
    type: list
    elements: dict
  recovery_after:
    description: The same after the drill.
    type: list
    elements: dict
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
    description:
      - When the drill began, UTC. The begin of the canary's time, when not given, or of the first phase.
    type: str
  finished_at:
    description: When the drill ended, UTC. The end of the canary's time, when not given, or now.
    type: str
  gates:
    description: The gates that were asked before anything was done.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the gate.
        type: str
        required: true
      store:
        description: Store that it judged. Not given when it judges the platform.
        type: str
      passed:
        description: Whether it let the operation pass. Not given when it is not known, which is a refusal.
        type: bool
      reason:
        description: Why it refused, or what it saw.
        type: str
        default: ""
      overridden:
        description: The reason that was given for the override, when it was overridden.
        type: str
      warns:
        description: It never refuses.
        type: bool
        default: false
  approver:
    description: Who approved the operation.
    type: str
  checks:
    description: What else the scenario must prove.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: What is checked.
        type: str
        required: true
      passed:
        description: Whether it is so. Not given when it is not known, which is a failure.
        type: bool
      detail:
        description: What was seen.
        type: str
        default: ""
  lost_commits:
    description: What only the old side had, as re-protecting found it.
    type: dict
    suboptions:
      count:
        description: How many commits. Not given when it is not known.
        type: int
      first_at:
        description: Time of the first, UTC.
        type: str
      last_at:
        description: Time of the last, UTC.
        type: str
      xids_file:
        description: File in the folder, one of O(attachments), that lists their transactions.
        type: str
      canary_sequences:
        description:
          - The canary's numbers that were exported from the old side, by store, as ranges such as V(1-5,7).
        type: dict
        default: {}
      reason:
        description: Why the count is not known.
        type: str
  restore_proof:
    description: What was restored, and what shows that it is good.
    type: dict
    suboptions:
      store:
        description: The store.
        type: str
        required: true
      host:
        description: Host that it was restored on.
        type: str
      repository:
        description: Repository that the backup came from.
        type: str
      backup:
        description: Label of the backup.
        type: str
      point_reached:
        description: Time of the newest data that the restored copy holds, UTC.
        type: str
      seconds:
        description: How long it took.
        type: float
      checks:
        description: What was checked on the restored copy, as in O(checks).
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description: What is checked.
            type: str
            required: true
          passed:
            description: Whether it is so. Not given when it is not known, which is a failure.
            type: bool
          detail:
            description: What was seen.
            type: str
            default: ""
  attachments:
    description: Files on the controller that belong to the evidence. They are copied into the folder.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name in the folder.
        type: str
        required: true
      path:
        description: Where it is. No more people can read the copy than can read this.
        type: path
        required: true
  signing_key:
    description:
      - Private ed25519 key without a passphrase on the controller, as C(ssh-keygen) makes it. Signs the
        manifest; its public half is added to C(allowed_signers) in O(directory). Without it nothing is
        signed.
    type: path
  signer:
    description: Name that the signature is verified by.
    type: str
    default: muster
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
trend:
  description: Path of the page over all drills.
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
from ansible_collections.muster.platform.plugins.module_utils import (
    _chain,
    _controls,
    _drill,
    _evidence,
    _judge,
    _metrics,
    _report,
    _trend,
)
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

CANARY_KEYS = {"from", "to", "complete", "ledger", "interval_ms", "stores"}
NEEDED = ("canary", "canary_host", "recovery_before", "recovery_after")
CHECK = {
    "name": {"type": "str", "required": True},
    "passed": {"type": "bool"},
    "detail": {"type": "str", "default": ""},
}


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
        for key in ("rpo_seconds", "rto_seconds", "switchover_seconds"):
            value = objective.get(key)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0
            ):
                raise MusterError(f"objectives: {name}.{key} must be a number of seconds, not {value!r}")


def check_canary(parameters: dict[str, Any]) -> None:
    scenario = parameters["scenario"]
    missing = [name for name in NEEDED if parameters[name] is None]
    if scenario in _judge.MEASURED and missing:
        raise MusterError(f"scenario {scenario} needs {', '.join(missing)}")
    if parameters["canary"] is None:
        return
    lacking = sorted(CANARY_KEYS - set(parameters["canary"]))
    if lacking:
        raise MusterError(
            f"canary is not a result of muster.platform.canary_window: it lacks {', '.join(lacking)}"
        )
    if not parameters["canary_host"]:
        raise MusterError("canary_host is needed with canary: it names whose clock gave the times")


def read_ledger(parameters: dict[str, Any]) -> tuple[str, _evidence.Ledger]:
    """The ledger's text, and its rows; empty when nothing was measured."""
    if not parameters["canary"]:
        return "", _evidence.Ledger()
    text = _drill.unpack_ledger(parameters["canary"]["ledger"])
    return text, _evidence.parse_ledger(text)


def render_files(evidence: dict[str, Any], text: str, ledger: _evidence.Ledger) -> dict[str, str]:
    files = {"ledger.csv": text} if evidence["canary"] else {}
    return files | {
        "report.html": _report.render(evidence, ledger.rows),
        "metrics.prom": _metrics.render(evidence),
        _chain.EVIDENCE: json.dumps(evidence, indent=2, ensure_ascii=False) + "\n",
    }


def record(parameters: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Judge the drill and write its folder. Whatever is wrong with the input is said before that."""
    directory = Path(parameters["directory"])
    folder = _chain.check_folder(directory, parameters["drill_id"])
    check_canary(parameters)
    check_objectives(parameters["objectives"])
    signer = _chain.load_signer(parameters["signing_key"], parameters["signer"])
    attachments = _chain.check_attachments(folder, parameters["attachments"])
    parameters = {
        **parameters,
        "phases": parameters["phases"] + read_timeline(parameters["timeline"]),
        "signature": signer.described() if signer else None,
    }
    text, ledger = read_ledger(parameters)
    evidence = _drill.build(parameters, ledger, sorted(attachments))

    def compare() -> None:
        earlier = _chain.last_pass(directory, parameters["scenario"])
        evidence["plan"]["changed_since_last_pass"] = _drill.plan_changed(evidence["plan"], earlier)
        evidence["controls"] = _controls.controls(evidence)

    if check_mode:
        compare()
    else:
        with _chain.locked(directory):
            # Somebody may have used this id while we waited.
            _chain.check_folder(directory, parameters["drill_id"])
            compare()
            files = render_files(evidence, text, ledger)
            _chain.publish(directory, folder, files, attachments, signer)
            _trend.write(directory)
    return {
        "changed": True,
        "verdict": evidence["verdict"],
        "reasons": evidence["reasons"],
        "summary": _drill.summary(evidence),
        "path": str(folder),
        "report": str(folder / "report.html"),
        "trend": str(directory / "index.html"),
        "evidence": evidence,
    }


STATUS = {"type": "list", "elements": "dict"}
CHECKS = {"type": "list", "elements": "dict", "default": [], "options": CHECK}
SPECIFICATION: dict[str, Any] = {
    "directory": {"type": "path", "required": True},
    "drill_id": {"type": "str", "required": True},
    "scenario": {"type": "str", "choices": list(_judge.SCENARIOS), "required": True},
    "canary": {"type": "dict"},
    "canary_host": {"type": "str"},
    "phases": {"type": "list", "elements": "dict", "default": []},
    "timeline": {"type": "path"},
    "objectives": {"type": "dict", "default": {}},
    "clock": {"type": "list", "elements": "dict", "default": []},
    "recovery_before": STATUS,
    "recovery_after": STATUS,
    "versions": {"type": "dict", "default": {}},
    "plan": {
        "type": "dict",
        "required": True,
        "options": {"git_sha": {"type": "str"}, "inventory_sha256": {"type": "str", "required": True}},
    },
    "started_at": {"type": "str"},
    "finished_at": {"type": "str"},
    "gates": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "store": {"type": "str"},
            "passed": {"type": "bool"},
            "reason": {"type": "str", "default": ""},
            "overridden": {"type": "str"},
            "warns": {"type": "bool", "default": False},
        },
    },
    "approver": {"type": "str"},
    "checks": CHECKS,
    "lost_commits": {
        "type": "dict",
        "options": {
            "count": {"type": "int"},
            "first_at": {"type": "str"},
            "last_at": {"type": "str"},
            "xids_file": {"type": "str"},
            "canary_sequences": {"type": "dict", "default": {}},
            "reason": {"type": "str"},
        },
    },
    "restore_proof": {
        "type": "dict",
        "options": {
            "store": {"type": "str", "required": True},
            "host": {"type": "str"},
            "repository": {"type": "str"},
            "backup": {"type": "str"},
            "point_reached": {"type": "str"},
            "seconds": {"type": "float"},
            "checks": CHECKS,
        },
    },
    "attachments": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "path": {"type": "path", "required": True},
        },
    },
    "signing_key": {"type": "path", "no_log": False},
    "signer": {"type": "str", "default": "muster"},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec=SPECIFICATION,
        supports_check_mode=True,
    )
    try:
        result = record(module.params, module.check_mode)
    except MusterError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
