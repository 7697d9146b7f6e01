#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: dr_run
short_description: Run another playbook as a step of a drill
version_added: 0.1.0
description:
  - Runs C(ansible-playbook) on the controller over the same inventory, as a process of its own, and shows its
    progress. What a drill rehearses may fail, and the drill must clean up and write its evidence then too.
  - What the outer command line said of the connection and of extra variables holds for it as well, and so do
    the passwords of vaults and connections. They are passed in files that only this user can read.
  - The phases that the playbook went through come back in RV(muster_phases).
options:
  playbook:
    description: Path of the playbook.
    type: path
    required: true
  extra_vars:
    description:
      - More extra variables, which win over those of the outer run.
      - They are passed in a file that only this user can read.
    type: dict
    default: {}
  timeout:
    description: Seconds after which it is ended.
    type: float
    default: 3600
  fail:
    description: Whether an exit code other than 0 is a failure of this task.
    type: bool
    default: true
attributes:
  check_mode:
    description: Runs the playbook in check mode.
    support: full
  action:
    description: Works on the controller only.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Fail over
  muster.platform.dr_run:
    playbook: "{{ playbook_dir }}/dr_failover.yml"
    extra_vars: {dr_target_region: south}
"""

RETURN = r"""
rc:
  description: Its exit code; 124 when it was ended at the timeout.
  returned: always
  type: int
seconds:
  description: How long it took.
  returned: always
  type: float
started_at:
  description: When it began, UTC, by the controller's clock.
  returned: always
  type: str
lines:
  description: Its last lines of output.
  returned: always
  type: list
  elements: str
muster_phases:
  description: What took how long.
  returned: always
  type: list
  elements: dict
"""
