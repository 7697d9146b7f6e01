# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Read certificates on the controller, and say which of them must be issued anew."""

from __future__ import annotations

DOCUMENTATION = r"""
name: certificate_info
short_description: Tell which certificates in a directory on the controller are due
version_added: 0.1.0
author:
  - The Muster authors (@muster-platform)
description:
  - Reads C(ca.crt), C(hosts/<host>.crt) and C(hosts/<host>.key) in a few milliseconds, without a
    task on the controller for each file.
  - Nothing is written, and no key leaves the directory.
requirements:
  - The Python package C(cryptography), version 42 or later, on the controller.
options:
  _terms:
    description: Names of hosts.
    type: list
    elements: str
    required: true
  directory:
    description: The directory of the certificates.
    type: path
    required: true
  names:
    description: Names and IP addresses for which the certificate must be valid.
    type: list
    elements: str
    default: []
  renew_below:
    description: The part of its life below which a certificate is renewed.
    type: float
    default: 0.3333
"""

EXAMPLES = r"""
- name: Tell why the certificate must be issued
  ansible.builtin.debug:
    msg: "{{ lookup('muster.platform.certificate_info', 'north-1', directory='/srv/pki', names=['db']).due }}"
"""

RETURN = r"""
_raw:
  description:
    - Per host C(exists), C(due) (reasons to issue it, empty when it is good), C(wanted_names) (O(names)
      as subject alternative names), C(authority) (C(exists), C(problem) and the CA's own dates).
    - Of a certificate that exists also C(subject), C(issuer), C(serial), C(not_before), C(not_after),
      C(days_left) and C(names).
  type: list
  elements: dict
"""

from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.plugin_utils._certificates import certificate_info


class LookupModule(LookupBase):
    """muster.platform.certificate_info."""

    def run(
        self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[dict[str, Any]]:
        self.set_options(var_options=variables, direct=kwargs)
        directory, names, share = (self.get_option(key) for key in ("directory", "names", "renew_below"))
        try:
            return [certificate_info(term, directory, names, share) for term in terms]
        except MusterError as error:
            raise AnsibleError(str(error)) from error
