# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options of what keeps a store on a host from taking writes."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  state:
    description:
      - V(fenced) stops the store, by force when it does not stop by itself, masks its units for good, and
        proves it. A fence that cannot be proven is an error.
      - V(released) takes the fence down, and starts nothing.
    type: str
    choices: [fenced, released]
    default: fenced
  operation:
    description: Which operation puts the fence up; kept in the marker for a person.
    type: str
    default: ''
  reason:
    description: Why; kept in the marker for a person.
    type: str
    default: ''
  grace:
    description: Seconds that the store may take to stop by itself.
    type: float
    default: 5
attributes:
  check_mode:
    description: Says whether it would change anything.
    support: full
"""
