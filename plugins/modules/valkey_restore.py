#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: valkey_restore
short_description: Restore a backup of Valkey, beside the live data or in its place
version_added: 0.1.0
description:
  - "V(isolated) decrypts a backup of this host into a directory, has a server that nobody else reaches
    read all of
    it, and leaves it stopped there. It fails when not all keys were read. What was found is the proof that
    the backup restores."
  - "V(prove) does the same in a directory of its own within O(directory), removes it, and returns what was
    checked. Only what passed is noted as a proof."
  - "V(replace) is one host's part of a restore into place: it stops Valkey and Sentinel, moves the old
    data aside, and
    makes the host the primary with the restored data, or a replica of that host. Nothing is started."
options:
  step:
    description: What to do.
    type: str
    choices: [isolated, prove, replace]
    required: true
  host:
    description: This host.
    type: str
    required: true
  backup:
    description: Path of the backup, or V(latest) for this host's newest that was proven.
    type: str
    default: latest
  backup_directory:
    description: Directory of this host's backups.
    type: path
    default: /var/backups/muster/valkey
  key:
    description: File with the passphrase of the backups.
    type: path
    default: /etc/muster/valkey-backup.key
  directory:
    description:
      - Directory to restore into, missing or empty, which the user valkey can reach. For V(prove) one that is
        there and may hold anything.
    type: path
    required: true
  upstream:
    description: For V(replace), whom the host follows afterwards; empty for the one that holds the
      restored data.
    type: str
    default: ''
  eligible:
    description: For V(replace), whether the host is of the region that is primary afterwards.
    type: bool
    default: true
  keep_old:
    description: For V(replace), whether the data that was in place is kept.
    type: bool
    default: true
  port:
    description: Port of the servers.
    type: int
    default: 6379
  timeout:
    description: Seconds that reading the data may take.
    type: float
    default: 3600
attributes:
  check_mode:
    description: Says which backup it would take, and changes nothing.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Prove the newest backup
  muster.platform.valkey_restore:
    step: isolated
    host: "{{ inventory_hostname }}"
    directory: /var/lib/valkey-restored
"""

RETURN = r"""
restored:
  description:
    - "What was restored: C(backup), C(taken_at) and C(proven_at) (UTC), C(host), C(key_count), C(bytes) and
      C(seconds); C(checks), each with C(name), C(passed) and C(detail)."
  returned: for O(step=isolated) and O(step=prove)
  type: dict
old_directory:
  description: Where the data that was in place is; null when there was none, or it was removed.
  returned: for O(step=replace)
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils import _valkey_restore
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "choices": ["isolated", "prove", "replace"], "required": True},
            "host": {"type": "str", "required": True},
            "backup": {"type": "str", "default": "latest"},
            "backup_directory": {"type": "path", "default": "/var/backups/muster/valkey"},
            "key": {"type": "path", "default": "/etc/muster/valkey-backup.key", "no_log": False},
            "directory": {"type": "path", "required": True},
            "upstream": {"type": "str", "default": ""},
            "eligible": {"type": "bool", "default": True},
            "keep_old": {"type": "bool", "default": True},
            "port": {"type": "int", "default": 6379},
            "timeout": {"type": "float", "default": 3600},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**_valkey_restore.run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
