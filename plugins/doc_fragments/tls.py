# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options of what talks to a store's API over mutual TLS."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  ca_certificate:
    description: Path on the host of the CA that signed the servers' certificates.
    type: path
    required: true
  certificate:
    description: Path on the host of the client certificate.
    type: path
    required: true
  private_key:
    description: Path on the host of the client certificate's key.
    type: path
    required: true
"""
