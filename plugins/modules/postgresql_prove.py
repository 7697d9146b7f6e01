#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_prove
short_description: Check a restored copy of PostgreSQL through and through
version_added: 0.1.0
description:
  - Starts what an isolated restore has left (see M(muster.platform.postgresql_restore)), without a network
    and without an archive, walks every index and table with amcheck, reads which of the canary's numbers it
    holds, stops it, and reads the checksum of every page.
  - A check that fails is told in RV(checks), and is no failure of this module.
options:
  directory:
    description: The restored directory.
    type: path
    required: true
  data_directory:
    description: The live data directory, which is refused.
    type: path
    required: true
  port:
    description: Port that names the server's socket.
    type: int
    default: 5432
  canary_database:
    description: Database with the canary's table; empty for none.
    type: str
    default: ''
  remove:
    description: Whether the restored directory is removed afterwards.
    type: bool
    default: false
  timeout:
    description: Seconds that each of the checks may take.
    type: int
    default: 14400
extends_documentation_fragment:
  - muster.platform.postgresql.data
attributes:
  check_mode:
    description: Checks nothing.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Check the restored copy
  muster.platform.postgresql_prove:
    directory: /var/lib/postgresql/restored
    data_directory: /var/lib/postgresql/17/muster
    bin_directory: /usr/lib/postgresql/17/bin
    canary_database: muster
    remove: true
"""

RETURN = r"""
checks:
  description: C(name), C(passed) and C(detail) of each check.
  returned: outside check mode
  type: list
  elements: dict
canary:
  description: The newest numbers that the copy holds, as ranges in C(held), with C(lowest) and C(highest).
  returned: outside check mode
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils import _proof
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "data_directory": {"type": "path", "required": True},
            "bin_directory": {"type": "path", "required": True},
            "user": {"type": "str", "default": "postgres"},
            "port": {"type": "int", "default": 5432},
            "canary_database": {"type": "str", "default": ""},
            "remove": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 14400},
        },
        supports_check_mode=True,
    )
    try:
        result = {} if module.check_mode else _proof.prove(module.params)
    except MusterError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=not module.check_mode, **result)


if __name__ == "__main__":
    main()
