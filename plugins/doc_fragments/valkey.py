# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options of what works with Valkey in its regions."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  regions:
    description: The Valkey hosts of each region, by region name.
    type: dict
    required: true
  host:
    description: This host, as it is named in O(regions).
    type: str
    required: true
  port:
    description: Port of the servers, with TLS.
    type: int
    default: 6379
  sentinel_port:
    description: Port of the Sentinels, with TLS.
    type: int
    default: 26379
  operator:
    description: User with whom to ask and change the servers.
    type: str
    default: muster_operator
  operator_password:
    description: Its password.
    type: str
    required: true
  sentinel_password:
    description: Password of the Sentinels, and of their user on the servers.
    type: str
    required: true
"""

    # What a planned and an unplanned move of the primary role both need.
    MOVE = r"""
options:
  target:
    description: The region that shall be primary.
    type: str
    required: true
  watching:
    description: How a Sentinel watches (C(down_after_ms), C(failover_timeout_ms), C(parallel_syncs)).
    type: dict
    default: {}
"""
