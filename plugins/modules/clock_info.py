#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: clock_info
short_description: Measure how far a host's clock is from the controller's
version_added: 0.1.0
author:
  - The Muster authors (@muster-platform)
description:
  - Asks the host for its time several times, through the connection that Ansible has anyway,
    and keeps the answer with the shortest round trip.
  - The host read its clock somewhere within that round trip. RV(offset_ms) assumes the middle,
    and the truth is at most RV(uncertainty_ms) away from it.
  - Needs neither a time service nor Python on the host, only C(date) with nanoseconds.
options:
  samples:
    description: How many times to ask, from 1 to 100.
    type: int
    default: 8
extends_documentation_fragment:
  - muster.platform.info
attributes:
  diff_mode:
    description: There is nothing to show.
    support: none
  action:
    description: Works on the controller, over the connection.
    support: full
"""

EXAMPLES = r"""
- name: Measure the clock
  muster.platform.clock_info:
  register: clock

- name: Refuse a clock that is more than a second wrong
  ansible.builtin.assert:
    that: clock.offset_ms | abs - clock.uncertainty_ms < 1000
"""

RETURN = r"""
host:
  description: The host, by its name in the inventory.
  returned: success
  type: str
  sample: north-1
offset_ms:
  description: The host's clock minus the controller's, in milliseconds.
  returned: success
  type: float
  sample: -0.412
uncertainty_ms:
  description: Half of the shortest round trip, in milliseconds.
  returned: success
  type: float
  sample: 4.031
samples:
  description: How many answers were measured.
  returned: success
  type: int
  sample: 8
source:
  description: How it was measured.
  returned: success
  type: str
  sample: controller round trip
measured_at:
  description: When the answer that was kept came, by the controller's clock, in UTC.
  returned: success
  type: str
  sample: "2026-11-21T10:00:00.123456Z"
"""
