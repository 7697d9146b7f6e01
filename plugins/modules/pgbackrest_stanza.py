#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: pgbackrest_stanza
short_description: Have a pgBackRest stanza in this host's repository
version_added: 0.1.0
author:
  - The Muster authors (@muster-platform)
description:
  - Creates the stanza when the repository has none, and proves that WAL arrives in it.
  - A stanza that exists is left alone, even when it belongs to another PostgreSQL cluster; a backup
    then fails and says so.
options:
  timeout:
    description: Seconds that creating it, and the proof that WAL arrives, may take each.
    type: int
    default: 180
extends_documentation_fragment:
  - muster.platform.pgbackrest
attributes:
  check_mode:
    description: Says whether it would create the stanza, also on a host that has no pgBackRest yet.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Have the stanza
  muster.platform.pgbackrest_stanza:
    stanza: muster
  become: true
"""

RETURN = r"""
message:
  description: pgBackRest's own word on the stanza.
  returned: outside check mode
  type: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._pgbackrest import (
    OPTIONS,
    PgBackRest,
    Result,
    reason_from,
    when_free,
)


def create(program: PgBackRest, timeout: float) -> str:
    """Create the stanza, see that it is there, and that a WAL segment arrives in it."""

    def attempt() -> Result:
        return program.command("stanza-create", "--log-level-console=warn", timeout=timeout)

    # The other repository's stanza, or an archiver that tries its luck, may hold the cluster's lock.
    result = when_free(attempt, timeout)
    found = program.info()
    if result.returncode != 0 or not found.exists:
        raise MusterError(
            f"the stanza {program.stanza} could not be created: {reason_from(result.stdout + result.stderr)}"
        )
    result = program.command("check", "--log-level-console=warn", timeout=timeout)
    if result.returncode != 0:
        raise MusterError(
            f"the stanza {program.stanza} was created, but no WAL arrives in it: "
            + reason_from(result.stdout + result.stderr)
        )
    return found.message


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Create it if it is missing."""
    program = PgBackRest(params["stanza"], params["user"], params["config"])
    try:
        found = program.info()
    except MusterError:
        if check_mode:
            # A fresh host, where the tasks before this one did not really run.
            return {"changed": True}
        raise
    if found.exists:
        return {"changed": False, "message": found.message}
    if check_mode:
        return {"changed": True}
    return {"changed": True, "message": create(program, params["timeout"])}


def main() -> None:
    module = AnsibleModule(
        argument_spec={**OPTIONS, "timeout": {"type": "int", "default": 180}},
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
