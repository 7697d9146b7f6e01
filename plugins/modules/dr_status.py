#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: dr_status
short_description: Put together what the stores say, and judge whether the platform could switch
version_added: 0.1.0
description:
  - Reads the fact C(recovery_statuses), to which each store's status verb adds its own. Prints one table, and
    writes JSON.
  - A host that said nothing is unknown, and unknown counts against.
options:
  stores:
    description: The stores, which are also the names of their groups.
    type: list
    elements: str
    required: true
  dest:
    description: File on the controller to write the status to, as JSON.
    type: path
  show:
    description: Whether to print the table.
    type: bool
    default: true
  end_run:
    description:
      - Whether C(ansible-playbook) shall end with RV(exit_code). It needs the callback plugin
        P(muster.platform.timeline#callback).
    type: bool
    default: false
  reasons:
    description:
      - What else is wrong with the platform, such as a scheduled drill that failed. It makes a healthy one
        degraded.
    type: list
    elements: str
    default: []
attributes:
  action:
    description: Runs on the controller.
    support: full
  check_mode:
    description: Changes nothing on any host.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Tell it
  muster.platform.dr_status:
    stores: [postgresql]
    dest: status.json
"""

RETURN = r"""
exit_code:
  description: 0 healthy, 1 degraded, 2 unable to switch.
  returned: success
  type: int
status:
  description: The same in words.
  returned: success
  type: str
reasons:
  description: What is wrong, worst first.
  returned: success
  type: list
  elements: str
rows:
  description: The recovery status of each host of each store.
  returned: success
  type: list
  elements: dict
"""
