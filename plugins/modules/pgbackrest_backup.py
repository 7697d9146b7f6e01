#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: pgbackrest_backup
short_description: Take a pgBackRest backup, and prove that it is listed and readable
version_added: 0.1.0
author:
  - The Muster authors (@muster-platform)
description:
  - Runs on a repository host. The backup counts when the repository lists it without an error and
    C(pgbackrest verify) has read it again and found it intact; exit codes alone count for nothing.
  - Waits while another repository's backup of the same cluster is under way.
  - When the repository's disk is full, what the failed backup left there is removed, and earlier
    backups stay as they are.
options:
  type:
    description: Kind of backup. The first one of a repository is full, whatever is asked for.
    type: str
    choices: [full, diff, incr]
    default: incr
  only_if_none:
    description: Take one only when the repository has no good backup at all.
    type: bool
    default: false
  directory:
    description: The repository's directory. With O(config) it is elsewhere, and no room is looked for.
    type: path
    default: /var/lib/pgbackrest
  host:
    description: This host's name, for the sentences in errors.
    type: str
    default: this host
  min_free_mb:
    description: Refuse to begin when the repository's disk has less than this many MB free.
    type: int
    default: 0
  timeout:
    description: Seconds the backup may take, waiting for another one included; and again for reading it.
    type: int
    default: 14400
extends_documentation_fragment:
  - muster.platform.pgbackrest
attributes:
  check_mode:
    description: Says that it would take a backup.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Take a full backup
  muster.platform.pgbackrest_backup:
    stanza: muster
    type: full
  become: true
  register: backup
"""

RETURN = r"""
backup:
  description: As M(muster.platform.pgbackrest_info) describes one; the newest when none was taken.
  returned: outside check mode
  type: dict
label:
  description: Its name.
  returned: outside check mode
  type: str
seconds:
  description: Seconds that taking it took.
  returned: when one was taken
  type: float
verify_seconds:
  description: Seconds that reading it again took.
  returned: when one was taken
  type: float
bytes:
  description: Bytes read from the database.
  returned: when one was taken
  type: int
bytes_per_second:
  description: C(bytes) by C(seconds).
  returned: when one was taken
  type: int
line:
  description: The same told to a person.
  returned: when one was taken
  type: str
"""

import os
import re
import shutil
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._pgbackrest import (
    NO_SPACE,
    OPTIONS,
    Backup,
    PgBackRest,
    Repository,
    Result,
    as_dict,
    free_mb,
    reason_from,
    when_free,
)

LABEL = re.compile(r"[0-9]{8}-[0-9]{6}F(_[0-9]{8}-[0-9]{6}[DI])?")
# With less room than this after a failure, the disk is the reason whatever was said.
FULL_MB = 16


def remove_leftovers(directory: str, stanza: str, listed: Repository) -> list[str]:
    """Remove directories of backups that no list names, which a failed backup leaves behind."""
    place = os.path.join(directory, "backup", stanza)
    known = {backup.label for backup in listed.backups}
    removed = []
    for name in sorted(os.listdir(place)):
        if LABEL.fullmatch(name) and name not in known:
            shutil.rmtree(os.path.join(place, name))
            removed.append(name)
    return removed


def kept(found: Repository) -> str:
    if found.newest is None:
        return "there is no earlier backup"
    return f"earlier backups are as they were ({len(found.good)}, the newest {found.newest.label})"


class Task:
    """One backup of one repository."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self.host: str = params["host"]
        self.program = PgBackRest(params["stanza"], params["user"], params["config"])

    def refuse(self, found: Repository) -> None:
        """Reasons not to begin."""
        if not found.exists:
            stanza = self.params["stanza"]
            raise MusterError(
                f"the stanza {stanza} does not exist on {self.host}: provision the platform first"
            )
        if self.params["config"]:
            return
        free, least = free_mb(self.params["directory"])[0], self.params["min_free_mb"]
        if free < least:
            raise MusterError(
                f"refused to begin a backup: {self.params['directory']} on {self.host} has {free} MB free, "
                f"less than {least} MB; {kept(found)}"
            )

    def fail(self, output: str) -> None:
        """Say why the backup failed, having cleaned up when the disk is full. Always raises."""
        found = self.program.info()
        free = free_mb(self.params["directory"])[0]
        if not self.params["config"] and (NO_SPACE in output or free < FULL_MB):
            if not found.locked:
                remove_leftovers(self.params["directory"], self.params["stanza"], found)
            raise MusterError(
                f"the disk of {self.params['directory']} on {self.host} is full ({free} MB free): "
                f"no backup was taken; {kept(found)}"
            )
        raise MusterError(f"the backup on {self.host} failed: {reason_from(output)}; {kept(found)}")

    def attempt(self, *options: str) -> tuple[Result, float]:
        """One backup once no other is under way; what was said, and the seconds it took."""
        started = time.monotonic()

        def once() -> Result:
            nonlocal started
            started = time.monotonic()
            words = (f"--type={self.params['type']}", "--log-level-console=warn", *options)
            return self.program.command("backup", *words, timeout=self.params["timeout"])

        result = when_free(once, self.params["timeout"])
        return result, time.monotonic() - started

    def take(self, before: Repository) -> tuple[Backup, float]:
        """Take it; the backup that is listed now and was not before."""
        result, seconds = self.attempt()
        if result.returncode != 0 and re.search("standby", reason_from(result.stdout + result.stderr)):
            # A standby that answers but does not keep up must not cost the backup.
            result, seconds = self.attempt("--backup-standby=n")
        if result.returncode != 0:
            self.fail(result.stdout + result.stderr)
        known = {backup.label for backup in before.backups}
        new = [backup for backup in self.program.info().backups if backup.label not in known]
        if not new:
            raise MusterError(f"pgbackrest on {self.host} reported success, but lists no new backup")
        if new[-1].error:
            raise MusterError(
                f"the backup {new[-1].label} on {self.host} holds data pages with wrong checksums: "
                "PostgreSQL's data directory is damaged"
            )
        return new[-1], seconds

    def line(self, backup: Backup, seconds: float) -> str:
        size, speed = backup.delta / 1e6, backup.delta / 1e6 / seconds
        return (
            f"{self.host}: {backup.type} backup {backup.label} of {size:.1f} MB in {seconds:.1f} s "
            f"({speed:.1f} MB/s), listed and read again"
        )

    def run(self, check_mode: bool) -> dict[str, Any]:
        try:
            before = self.program.info()
        except MusterError as error:
            if check_mode and self.params["only_if_none"]:
                # A fresh host, where the tasks before this one did not really run.
                return {"changed": True}
            raise MusterError(f"{self.host}: {error}") from error
        if self.params["only_if_none"] and before.newest:
            return {"changed": False, "backup": as_dict(before.newest), "label": before.newest.label}
        if check_mode:
            return {"changed": True}
        self.refuse(before)
        backup, seconds = self.take(before)
        started = time.monotonic()
        self.program.verify(backup.label, self.params["timeout"])
        return {
            "changed": True,
            "backup": as_dict(backup),
            "label": backup.label,
            "seconds": round(seconds, 3),
            "verify_seconds": round(time.monotonic() - started, 3),
            "bytes": backup.delta,
            "bytes_per_second": int(backup.delta / seconds),
            "line": self.line(backup, seconds),
        }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "type": {"type": "str", "choices": ["full", "diff", "incr"], "default": "incr"},
            "only_if_none": {"type": "bool", "default": False},
            "directory": {"type": "path", "default": "/var/lib/pgbackrest"},
            "host": {"type": "str", "default": "this host"},
            "min_free_mb": {"type": "int", "default": 0},
            "timeout": {"type": "int", "default": 14400},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**Task(module.params).run(module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
