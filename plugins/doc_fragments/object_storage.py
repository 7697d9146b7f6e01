# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options of the modules for the object store."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  configuration:
    description: File that the role object_storage writes, with the regions, the ports and the keys.
    type: path
    default: /etc/seaweedfs/muster.json
"""

    S3 = r"""
options:
  region:
    description: Name of the region that requests are signed for. SeaweedFS takes any.
    type: str
    default: us-east-1
  access_key:
    description: Access key.
    type: str
    required: true
  secret_key:
    description: Its secret key.
    type: str
    required: true
  ca_certificate:
    description:
      - Path on the host of the CA that signed the endpoint's certificate. The system's CAs when not given.
    type: path
"""
