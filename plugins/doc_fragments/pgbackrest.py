# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options of what works with a pgBackRest repository."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  stanza:
    description: The stanza.
    type: str
    required: true
  user:
    description: Operating system user that runs pgBackRest and owns the repository.
    type: str
    default: postgres
  config:
    description: pgBackRest's configuration, which names the repository. The host's own when not given.
    type: path
"""
