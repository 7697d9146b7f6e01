#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_rejoin
short_description: The steps by which a region that was failed over from comes back as a standby
version_added: 0.1.0
description:
  - The role C(postgresql) runs these steps in its verb C(reprotect), each on the hosts of the old region,
    while their fence is up (see M(muster.platform.postgresql_fence)).
  - V(look) tells what the data directory holds, seen from the new primary.
  - "V(save) keeps what only this host has: the WAL after the fork, a list of its commits made by pg_waldump,
    and the rows that they left, as CSV, read from the old data started by itself."
  - V(configure) makes the region a standby in its own etcd.
  - V(rewind) runs pg_rewind, and clears the data for a new copy where that is impossible. It refuses while
    V(save) has not been run. Data of which the commits could not be listed is set aside, neither rewound nor
    removed.
  - V(release) takes the fence down, when the region is configured as a standby.
  - A step that was interrupted is run again.
options:
  step:
    description: Which step.
    type: str
    choices: [look, save, configure, rewind, release]
    required: true
  regions:
    description: The PostgreSQL hosts of each region, by region name.
    type: dict
    required: true
  host:
    description: This host, as it is named in O(regions).
    type: str
    required: true
  data_directory:
    description: PostgreSQL's data directory.
    type: path
    required: true
  save_directory:
    description: Where V(save) keeps what it saves, in a folder named after the moment of the fence.
    type: path
    default: /var/lib/muster/diverged
  max_rows:
    description: The most rows of one table that V(save) exports.
    type: int
    default: 1000000
  marker:
    description: The fence's file.
    type: path
    default: /etc/muster/postgresql/fenced.json
  scope:
    description: Name of the region's Patroni cluster.
    type: str
    required: true
  etcd_endpoints:
    description: The https addresses of the etcd members of this host's region.
    type: list
    elements: str
    required: true
  standby_cluster:
    description: Patroni's C(standby_cluster) that makes the region follow the other. V(configure) needs it.
    type: dict
    default: {}
  forget_data:
    description: For V(configure), that no host of the region has data any more.
    type: bool
    default: false
  discard:
    description: For V(rewind), rewind or remove data even when what only it has is not listed.
    type: bool
    default: false
  restore_command:
    description: How PostgreSQL fetches WAL from the archive. For V(rewind).
    type: str
    default: ''
  superuser_password:
    description: Password of C(postgres) on the primary.
    type: str
    required: true
  rewind_user:
    description: Role with which pg_rewind reads from the primary.
    type: str
    default: muster_rewind
  rewind_password:
    description: Its password.
    type: str
    required: true
  timeout:
    description: Seconds that a rewind, or the start of the old data, may take.
    type: int
    default: 600
extends_documentation_fragment:
  - muster.platform.patroni
  - muster.platform.patroni.unit
  - muster.platform.postgresql
  - muster.platform.postgresql.data
  - muster.platform.tls
attributes:
  check_mode:
    description: Says what would change.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Save what only this side has
  muster.platform.postgresql_rejoin:
    step: save
    regions: {north: [north-1, north-2], south: [south-1, south-2]}
    host: "{{ inventory_hostname }}"
    data_directory: /var/lib/postgresql/17/main
    bin_directory: /usr/lib/postgresql/17/bin
    scope: muster-north
    etcd_endpoints: ["https://north-1:2379"]
    superuser_password: "{{ postgresql_superuser_password }}"
    rewind_password: "{{ postgresql_rewind_password }}"
    ca_certificate: /etc/muster/postgresql/ca.crt
    certificate: /etc/muster/postgresql/server.crt
    private_key: /etc/muster/postgresql/server.key
"""

RETURN = r"""
data:
  description:
    - V(none), V(foreign) for another cluster's, V(current) when it never left the new primary's line, or
      V(old).
  returned: for O(step=look)
  type: str
timeline:
  description: The data's timeline.
  returned: for O(step=look)
  type: int
fork:
  description: The LSN at which the new primary's line left this timeline.
  returned: for O(step=look)
  type: str
primary:
  description: The host that takes writes.
  returned: for O(step=look)
  type: str
primary_timeline:
  description: Its timeline.
  returned: for O(step=look)
  type: int
free_mb:
  description: Free space of the data's file system, in MB.
  returned: for O(step=look)
  type: int
data_mb:
  description: Size of the data, in MB.
  returned: for O(step=look)
  type: int
saved:
  description:
    - "What was saved: C(count) of commits after the fork (null when they cannot be known, with C(reason)),
      C(first_at) and C(last_at) (UTC), C(tables) with the C(file) and number of C(rows) of each,
      C(deleted_rows), C(wal_files), C(directory), C(host), C(timeline) and C(fork)."
  returned: for O(step=save)
  type: dict
method:
  description: V(rewind), V(clone), or V(none) when there was nothing to do.
  returned: for O(step=rewind)
  type: str
reason:
  description: Why it could not be rewound.
  returned: for O(step=rewind)
  type: str
old_directory:
  description: Where the old data was set aside; null when it was not.
  returned: for O(step=rewind) when something was done
  type: str
seconds:
  description: How long the rewind took.
  returned: for O(step=rewind) when something was done
  type: float
muster_phases:
  description: What took how long.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils import _rejoin
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._patroni import TLS_OPTIONS


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "choices": list(_rejoin.STEPS), "required": True},
            "regions": {"type": "dict", "required": True},
            "host": {"type": "str", "required": True},
            "data_directory": {"type": "path", "required": True},
            "bin_directory": {"type": "path", "required": True},
            "user": {"type": "str", "default": "postgres"},
            "save_directory": {"type": "path", "default": "/var/lib/muster/diverged"},
            "max_rows": {"type": "int", "default": 1000000},
            "marker": {"type": "path", "default": "/etc/muster/postgresql/fenced.json"},
            "unit": {"type": "str", "default": "patroni.service"},
            "scope": {"type": "str", "required": True},
            "etcd_endpoints": {"type": "list", "elements": "str", "required": True},
            "standby_cluster": {"type": "dict", "default": {}},
            "forget_data": {"type": "bool", "default": False},
            "discard": {"type": "bool", "default": False},
            "restore_command": {"type": "str", "default": ""},
            "superuser_password": {"type": "str", "required": True, "no_log": True},
            "rewind_user": {"type": "str", "default": "muster_rewind"},
            "rewind_password": {"type": "str", "required": True, "no_log": True},
            "port": {"type": "int", "default": 5432},
            "api_port": {"type": "int", "default": 8008},
            "timeout": {"type": "int", "default": 600},
            **TLS_OPTIONS,
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**_rejoin.run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
