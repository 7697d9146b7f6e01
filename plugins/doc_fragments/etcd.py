# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options of what works with an etcd member."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  name:
    description: Name of this host's member, one of O(members).
    type: str
    required: true
  members:
    description: The members that the region is to have, by name, each with C(client_url) and C(peer_url).
    type: dict
    required: true
  data_directory:
    description: The member's data directory.
    type: path
    default: /var/lib/etcd/muster
  ca_certificate:
    description: Path on the host of the CA that signed the members' certificates.
    type: path
    default: /etc/etcd/tls/ca.crt
  certificate:
    description: Path on the host of the member's certificate, also used as the client's.
    type: path
    default: /etc/etcd/tls/member.crt
  private_key:
    description: Path on the host of the certificate's key.
    type: path
    default: /etc/etcd/tls/member.key
"""

    # Of those that compare the running process with its files.
    SETTINGS = r"""
options:
  environment_file:
    description: The file with the member's settings, which the running process is compared with.
    type: path
    default: /etc/default/etcd
  watched_files:
    description: Files that etcd reads only when it starts; a newer one is a reason to restart.
    type: list
    elements: path
    default: []
"""
