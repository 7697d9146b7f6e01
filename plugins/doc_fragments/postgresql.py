# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options of what works with PostgreSQL."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  port:
    description: Port of PostgreSQL.
    type: int
    default: 5432
"""

    # What a planned and an unplanned move of the primary role both need.
    MOVE = r"""
options:
  regions:
    description: The PostgreSQL hosts of each of the two regions, by region name.
    type: dict
    required: true
  target:
    description: The region that shall be primary.
    type: str
    required: true
  etcd_endpoints:
    description: The https addresses of the etcd members of each region, by region name.
    type: dict
    required: true
  holder:
    description: Who does this, for the lock; shown to a second one who has to wait.
    type: str
    required: true
  operator:
    description: Role with which to read positions, and to ask for a checkpoint.
    type: str
    default: muster_operator
  operator_password:
    description: Its password.
    type: str
    required: true
"""

    # Of those that work with the data at rest.
    DATA = r"""
options:
  bin_directory:
    description: Directory of PostgreSQL's programs.
    type: path
    required: true
  user:
    description: User whose data it is.
    type: str
    default: postgres
"""
