#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: postgresql_restore
short_description: Restore PostgreSQL from pgBackRest, into a directory or into place
version_added: 0.1.0
author:
  - The Muster authors (@muster-platform)
description:
  - Runs on PostgreSQL hosts. O(step=isolated) is a whole restore into a directory of its own, which
    touches nothing else. The other steps are those of a restore into place, which the role
    C(postgresql) puts in order over all hosts of all regions.
  - Every step that changes something is noted in a journal beside the data directory. A step that
    was done is not done again, and one that was interrupted is.
  - The replay runs in a temporary server that listens on no network.
options:
  step:
    description:
      - V(look) reads this host's journal and the room on its disk.
      - V(plan) checks what was asked for against the repository.
      - V(isolated) restores into O(directory), replays to the target, stops, and leaves the result there.
      - V(set_aside) stops Patroni and PostgreSQL, keeps Patroni from starting, and renames the data
        directory.
      - V(recover) restores into O(data_directory), replays to the target, promotes, and stops.
      - V(clear) removes from every region's etcd what Patroni knew of the old cluster, and sees that its
        configuration names O(restore_region) as the primary.
      - V(release) lets Patroni start again; it is not started here.
      - V(finish) removes the journal.
    type: str
    required: true
    choices: [look, plan, isolated, set_aside, recover, clear, release, finish]
  stanza:
    description: pgBackRest's stanza.
    type: str
    required: true
  host:
    description: This host's name.
    type: str
    required: true
  data_directory:
    description: The live data directory.
    type: path
    required: true
  directory:
    description: Directory to restore into, which must not exist or be empty. For O(step=isolated).
    type: path
  to_time:
    description: Point in time to restore to, ISO 8601 with a time zone; empty for none.
    type: str
    default: ""
  backup:
    description: Label of the backup to start from; without O(to_time) the restore stops at its end.
    type: str
    default: ""
  timeline:
    description: Timeline to follow; 0 for the newest.
    type: int
    default: 0
  repository:
    description: Number of the repository, as this host counts them.
    type: int
    default: 1
  repositories:
    description: Numbers of all repositories, of which none may know a newer timeline when it is into place.
    type: list
    elements: int
    default: [1, 2]
  id:
    description: Names a restore into place, and the directories that it keeps.
    type: str
  restore_host:
    description: For O(step=set_aside), the host that restores into place, to be noted.
    type: str
  restore_region:
    description: The region that is primary afterwards, which is that host's. For V(set_aside) and V(clear).
    type: str
  keep_old:
    description: Whether the old data directory is kept under another name. Otherwise it is removed.
    type: bool
    default: true
  bin_directory:
    description: Directory of PostgreSQL's programs.
    type: path
  port:
    description: Port that names the temporary server's socket, and PostgreSQL's port on O(primary).
    type: int
    default: 5432
  user:
    description: Operating system user and superuser of PostgreSQL.
    type: str
    default: postgres
  timeout:
    description: Seconds that copying the files, and replaying WAL, may take each.
    type: int
    default: 14400
  primary:
    description:
      - Host that takes writes now; empty when none does. It is asked to finish its WAL segment first, so
        that the archive holds the present.
    type: str
    default: ""
  superuser_password:
    description: Password of O(user) on O(primary).
    type: str
  etcd_endpoints:
    description: For O(step=clear), the URLs of each region's etcd, by the region's name.
    type: dict
    default: {}
  standby_cluster:
    description: For O(step=clear), what Patroni is told in a region that follows O(restore_region).
    type: dict
    default: {}
  ca_certificate:
    description: Path on the host of the CA certificate.
    type: path
  certificate:
    description: Path on the host of the client certificate for etcd.
    type: path
  private_key:
    description: Path on the host of that certificate's key.
    type: path
extends_documentation_fragment:
  - muster.platform.patroni.unit
attributes:
  check_mode:
    description: Checks what can be checked without changing anything, and says that it would go on.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Restore yesterday's noon beside the live data
  muster.platform.postgresql_restore:
    step: isolated
    stanza: muster
    host: north-2
    data_directory: /var/lib/postgresql/17/muster
    directory: /var/lib/postgresql/restored
    to_time: "2026-11-20T12:00:00+00:00"
    bin_directory: /usr/lib/postgresql/17/bin
  become: true
"""

RETURN = r"""
restored:
  description:
    - What is restored, or for V(plan) what would be. C(backup), C(repository), C(target) in words,
      C(target_time), C(target_timeline).
    - After a replay also C(position) (the LSN reached), C(last_commit_at) (of the last commit replayed,
      null when there was none) and C(timeline).
  returned: for V(plan), V(isolated) and V(recover)
  type: dict
lines:
  description: The same told to a person, for V(isolated) with the commands to read from the restored server.
  returned: for V(isolated) and V(recover)
  type: list
  elements: str
needed_mb:
  description: Room that the restored data takes.
  returned: for V(plan)
  type: int
free_mb:
  description: Room on the disk of the data directory.
  returned: for V(look)
  type: int
data_mb:
  description: Size of the data directory as it is.
  returned: for V(look)
  type: int
problem:
  description: Why this host cannot take part in a restore into place; empty when it can.
  returned: for V(look)
  type: str
journal:
  description: What an unfinished restore into place noted on this host; null when there is none.
  returned: for V(look)
  type: dict
old_directory:
  description: Where the old data directory is now; null when it was removed or there was none.
  returned: for V(set_aside)
  type: str
muster_phases:
  description: What took how long.
  returned: for V(isolated) and V(recover)
  type: list
  elements: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._restore_steps import STEPS, run


def main() -> None:
    options: dict[str, Any] = {
        "step": {"type": "str", "required": True, "choices": list(STEPS)},
        "stanza": {"type": "str", "required": True},
        "host": {"type": "str", "required": True},
        "data_directory": {"type": "path", "required": True},
        "directory": {"type": "path"},
        "to_time": {"type": "str", "default": ""},
        "backup": {"type": "str", "default": ""},
        "timeline": {"type": "int", "default": 0},
        "repository": {"type": "int", "default": 1},
        "repositories": {"type": "list", "elements": "int", "default": [1, 2]},
        "id": {"type": "str"},
        "restore_host": {"type": "str"},
        "restore_region": {"type": "str"},
        "keep_old": {"type": "bool", "default": True},
        "bin_directory": {"type": "path"},
        "port": {"type": "int", "default": 5432},
        "user": {"type": "str", "default": "postgres"},
        "unit": {"type": "str", "default": "patroni.service"},
        "timeout": {"type": "int", "default": 14400},
        "primary": {"type": "str", "default": ""},
        "superuser_password": {"type": "str", "no_log": True},
        "etcd_endpoints": {"type": "dict", "default": {}},
        "standby_cluster": {"type": "dict", "default": {}},
        "ca_certificate": {"type": "path"},
        "certificate": {"type": "path"},
        "private_key": {"type": "path", "no_log": False},
    }
    module = AnsibleModule(
        argument_spec=options,
        required_if=[
            ("step", "isolated", ["directory", "bin_directory"]),
            ("step", "recover", ["id", "bin_directory"]),
            ("step", "set_aside", ["id", "bin_directory", "restore_host", "restore_region"]),
            ("step", "clear", ["id", "restore_region", "etcd_endpoints", "standby_cluster"]),
            ("step", "release", ["id"]),
            ("step", "finish", ["id"]),
        ],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
