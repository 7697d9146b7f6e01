#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: dr_reach
short_description: Tell in seconds which hosts answer on their management port
version_added: 0.1.0
description:
  - Opens a TCP connection to the port over which Ansible would come, to all hosts at once, on the controller.
  - In a disaster a play over dead hosts costs the connection's whole timeout, and a kept connection to one
    that died costs more.
  - That a host answers says nothing about its services.
options:
  hosts:
    description: The hosts, by their names in the inventory.
    type: list
    elements: str
    required: true
  timeout:
    description: Seconds that a host has to answer.
    type: float
    default: 2
extends_documentation_fragment:
  - muster.platform.info
attributes:
  action:
    description: Works on the controller only.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Find out who is still there
  muster.platform.dr_reach:
    hosts: "{{ groups['all'] }}"
  register: dr_reach
"""

RETURN = r"""
reachable:
  description: The hosts that answered, in the order they were given.
  returned: always
  type: list
  elements: str
silent:
  description: Why each of the others did not, by host.
  returned: always
  type: dict
"""
