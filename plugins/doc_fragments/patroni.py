# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options of what asks Patroni, or starts and stops it."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  api_port:
    description: Port of Patroni's REST API.
    type: int
    default: 8008
"""

    UNIT = r"""
options:
  unit:
    description: Patroni's systemd unit.
    type: str
    default: patroni.service
"""
