# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options of what talks to RabbitMQ."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  regions:
    description: The RabbitMQ hosts of each region, by region name.
    type: dict
    required: true
  operator_user:
    description: The administrator as whom this looks and changes.
    type: str
    default: muster_operator
  operator_password:
    description: Its password.
    type: str
    required: true
  port:
    description: Port for AMQP over TLS.
    type: int
    default: 5671
  api_port:
    description: Port of the management API over TLS.
    type: int
    default: 15671
  ca_certificate:
    description: Path on the host of the CA that signed the servers' certificates.
    type: path
    required: true
"""

    DECLARED = r"""
options:
  declared:
    description:
      - What the clusters of all regions shall have, as the role's variables without their prefix (C(vhosts),
        C(users), C(exchanges), C(queues), C(bindings), C(policies)), with C(regions), C(operator_user),
        C(upstream_user), C(port), C(ca_certificate) and C(standby) (C(mode), C(prefetch), C(replay_seconds),
        C(max_messages)).
    type: dict
    required: true
  passwords:
    description: The password of each user in O(declared), the operator and the link's user among them.
    type: dict
    required: true
"""

    MOVE = r"""
options:
  target:
    description: The region that shall be primary.
    type: str
    required: true
  holder:
    description: Who asks for it, for the one who is refused meanwhile.
    type: str
    required: true
"""
