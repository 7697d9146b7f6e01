#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: dr_gates
short_description: Refuse a DR operation that must not go ahead
version_added: 0.1.0
description:
  - Judges what others have measured, on the controller. Asks no host, and changes nothing.
  - Each gate says one sentence. A figure that is not known (null) never passes.
  - Fails with the sentences of all gates that refuse. The whole result is returned then as well.
options:
  operation:
    description:
      - What is about to happen. All gates apply to a V(failover). To a V(switchover) apply
        V(target_not_primary), V(freeze_window) and V(clock_offset), because its handover proves lag and
        timeline itself. To V(reprotect) applies V(freeze_window).
    type: str
    required: true
    choices: [failover, switchover, reprotect]
  store:
    description: Name of the store. Rows of other stores in O(statuses) are left out.
    type: str
    required: true
  source:
    description: Region that is or was primary, for the sentences. Null when it is not known.
    type: str
  target:
    description: Region that shall be primary, or that shall be protected again.
    type: str
    required: true
  target_leader:
    description:
      - Host of the target that would be promoted. The timeline is asked of it alone, and O(lag) must have
        been measured on it. Without it every host of the target that answers must be on the right timeline.
      - Where RV(muster.platform.dr_lag#module:timeline_of) is V(ledger), no host's own timeline counts. The
        newest write that the copy holds must be of the timeline that was written last.
    type: str
  statuses:
    description:
      - RV(muster.platform.dr_status#module:rows). Rows of hosts that did not answer say nothing here.
    type: list
    elements: dict
    required: true
  lag:
    description: The result of M(muster.platform.dr_lag). Null is unknown.
    type: dict
  objectives:
    description: The store's entry of C(dr_objectives).
    type: dict
  fence:
    description:
      - C(proven), C(provider), C(proven_at) and C(detail) of the fence. Null before there is one.
      - Give O(skip=fence_proven) before the fence, and O(only=fence_proven) after it.
    type: dict
  clock:
    description:
      - C(host), C(offset_ms) and C(uncertainty_ms) of each host that was asked, as
        M(muster.platform.clock_info) measures them. Each host of the target that answered must be among them.
    type: list
    elements: dict
  freeze_windows:
    description:
      - Times in which nothing is moved. One that comes once has C(name), C(from) and C(to), in ISO 8601 with
        a time zone.
      - One that comes every week has C(name), C(days) (V(mon) to V(sun), on which it begins), C(from) and
        C(to) as V(18:00), in UTC and in quotes. It may wrap midnight, and C(to) may be V(24:00).
      - Both may have a C(reason). The end is outside.
    type: list
    elements: raw
  now:
    description: Time to judge at, in ISO 8601 with a time zone, for tests. The controller's clock by default.
    type: str
  approver:
    description: Who approves.
    type: str
  overrides:
    description:
      - Gates that may be passed though they refuse, each with the reason. V(target_not_primary) and
        V(fence_proven) cannot be.
      - An override of a gate that passes, or that is not evaluated in this call, does nothing.
    type: raw
  last_backup_at:
    description: When the newest backup ended. The newest among O(statuses) when not given.
    type: str
  last_restore_proof_at:
    description: When a restore last proved one. The newest among O(statuses) when not given.
    type: str
  plan:
    description:
      - C(changed_since_last_pass), whether the plan has changed since its last passed drill. Null is unknown.
    type: dict
  max_clock_offset_ms:
    description: Limit of V(clock_offset), offset and uncertainty together, in milliseconds.
    type: float
    default: 500
  max_backup_age_hours:
    description: Limit of V(backup_age), in hours.
    type: float
    default: 26
  max_restore_proof_age_days:
    description: Limit of V(restore_proof_age), in days.
    type: float
    default: 35
  max_receiver_silence_seconds:
    description: Limit of V(receiver_alive), in seconds.
    type: float
    default: 30
  only:
    description: Evaluate these gates only.
    type: list
    elements: str
  skip:
    description: Evaluate all but these gates. They are told in RV(not_evaluated).
    type: list
    elements: str
  fail:
    description: Whether to fail when a gate refuses.
    type: bool
    default: true
attributes:
  action:
    description: Runs on the controller.
    support: full
  check_mode:
    description: Changes nothing, and refuses the same.
    support: full
seealso:
  - module: muster.platform.dr_status
  - module: muster.platform.dr_lag
  - module: muster.platform.clock_info
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Refuse what must not be
  muster.platform.dr_gates:
    operation: failover
    store: postgresql
    source: north
    target: south
    statuses: "{{ dr_status.rows }}"
    lag: "{{ dr_lag }}"
    objectives: "{{ dr_objectives.postgresql }}"
    clock: "{{ dr_clock }}"
    freeze_windows: "{{ dr_freeze_windows | default([]) }}"
    approver: "{{ dr_approver | default(omit) }}"
    overrides: "{{ dr_override | default({}) }}"
    plan: "{{ dr_plan }}"
    skip: [fence_proven]
  register: dr_gates

- name: Refuse to promote what is not fenced
  muster.platform.dr_gates:
    operation: failover
    store: postgresql
    source: north
    target: south
    statuses: "{{ dr_status.rows }}"
    fence: "{{ dr_fence }}"
    only: [fence_proven]
  register: dr_gates_of_fence
"""

RETURN = r"""
gates:
  description: The gates that were evaluated, always in the same order.
  returned: always, unless the input is wrong
  type: list
  elements: dict
  contains:
    name: {description: Its name., type: str}
    store: {description: O(store); null where the gate judges the platform., type: str}
    passed: {description: Whether what it asks for is so., type: bool}
    reason:
      description: What was found, in one sentence, and what can be done when it did not pass.
      type: str
    overridden:
      description: The reason for which it may be passed. Null when nobody gave one, or when none was needed.
      type: str
    warns: {description: Whether it did not pass and is one that only warns., type: bool}
refused:
  description: The sentences of the gates that refuse, each with the gate's name.
  returned: always, unless the input is wrong
  type: list
  elements: str
warned:
  description: The sentences of the gates that only warn.
  returned: always, unless the input is wrong
  type: list
  elements: str
overrides_not_needed:
  description: Gates that pass, and have an override.
  returned: always, unless the input is wrong
  type: list
  elements: str
not_evaluated:
  description: Gates that apply to the operation, and were left out by O(only) or O(skip).
  returned: always, unless the input is wrong
  type: list
  elements: str
"""
