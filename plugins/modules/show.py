#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: show
short_description: Print lines to the terminal, whatever the stdout callback hides
version_added: 0.1.0
description:
  - Like M(ansible.builtin.debug), for a result that a person waits for, and as plain lines.
options:
  lines:
    description: The lines.
    type: list
    elements: str
    required: true
extends_documentation_fragment:
  - muster.platform.info
attributes:
  action:
    description: Runs on the controller.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Show the verdict
  muster.platform.show:
    lines: "{{ evidence.summary }}"
"""

RETURN = r""" # """
