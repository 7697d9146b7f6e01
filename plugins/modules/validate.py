#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: validate
short_description: Find what is wrong with the inventory before anything is changed
version_added: 0.1.0
description:
  - Looks at regions, quorums, objectives and every role's variables for every host, on the controller,
    without a connection. All that is wrong is told at once, a sentence each.
  - "Reads from the inventory: C(dr_initial_primary_region), C(dr_target_region), C(dr_objectives), what
    M(muster.platform.dr_gates) and M(muster.platform.dr_lock) are given (C(dr_freeze_windows),
    C(dr_override), C(dr_approver), C(dr_lock_takeover) and the limits C(dr_max_*)), C(dr_autofailover) and
    the times of the role autofailover, groups and the variables that the roles declare, also of the roles
    that C(dr_autofailover) and C(dr_drill_timer_enabled) turn on."
  - C(localhost), if it is in the inventory, must have C(ansible_connection=local).
options: {}
extends_documentation_fragment:
  - muster.platform.info
attributes:
  action:
    description: Runs on the controller.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Check the inventory
  muster.platform.validate:
  run_once: true
"""

RETURN = r"""
hosts:
  description: How many hosts the inventory has.
  returned: success
  type: int
"""
