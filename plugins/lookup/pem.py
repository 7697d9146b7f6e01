# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The text of a certificate or key on the controller, also when check mode has not made it."""

from __future__ import annotations

DOCUMENTATION = r"""
name: pem
short_description: Read a certificate or key from the controller
version_added: 0.1.0
author:
  - The Muster authors (@muster-platform)
description:
  - Returns a file's text as it is, its last newline included.
  - In check mode a file that does not exist yet yields a line of comment, because the role
    that would make it has made nothing.
options:
  _terms:
    description: Paths of the files.
    type: list
    elements: path
    required: true
"""

EXAMPLES = r"""
- name: Ship the certificate
  muster.platform.config:
    files:
      - dest: /etc/ssl/host.crt
        content: "{{ lookup('muster.platform.pem', certificates_files.certificate) }}"
"""

RETURN = r"""
_raw:
  description: The files' texts.
  type: list
  elements: str
"""

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase


class LookupModule(LookupBase):
    """muster.platform.pem."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        self.set_options(var_options=variables, direct=kwargs)
        check_mode = bool((variables or {}).get("ansible_check_mode"))
        return [self._read(Path(term).expanduser(), check_mode) for term in terms]

    def _read(self, path: Path, check_mode: bool) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            if check_mode:
                return f"# {path.name}: not made in check mode\n"
            raise AnsibleError(f"{path} does not exist: the role certificates makes it") from error
        except (OSError, ValueError) as error:
            raise AnsibleError(f"{path} cannot be read: {error}") from error
