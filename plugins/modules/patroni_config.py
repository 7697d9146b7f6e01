#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: patroni_config
short_description: Declare the dynamic configuration of a region's Patroni cluster
version_added: 0.1.0
description:
  - Writes Patroni's dynamic configuration straight into etcd, so that it works before Patroni has
    started for the first time as well as afterwards. Patroni picks a change up within one loop.
  - Whether a region is a standby is decided once, when it has no configuration yet. After that
    C(standby_cluster) belongs to the DR engine and this module leaves it alone.
options:
  etcd_endpoints:
    description: The region's etcd members, as https addresses.
    type: list
    elements: str
    required: true
  scope:
    description: Patroni's scope, which is the name of the region's cluster.
    type: str
    required: true
  namespace:
    description: Patroni's namespace in etcd.
    type: str
    default: /service
  settings:
    description:
      - The settings to declare. Dictionaries are merged into what is there; a null removes a key.
      - C(postgresql.parameters) is taken as a whole, so that a parameter taken out is taken out.
    type: dict
    required: true
  initial_standby_cluster:
    description: C(standby_cluster) for a region that has no configuration yet; none for the first primary.
    type: dict
extends_documentation_fragment:
  - muster.platform.tls
attributes:
  check_mode:
    description: Reads and compares only.
    support: full
  diff_mode:
    description: Shows the configuration before and after.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Declare the settings of the region
  muster.platform.patroni_config:
    etcd_endpoints: [https://north-1:2379, https://north-2:2379, https://north-3:2379]
    scope: muster-north
    settings:
      ttl: 20
      postgresql:
        parameters:
          max_connections: 200
    ca_certificate: /etc/muster/postgresql/ca.crt
    certificate: /etc/muster/postgresql/server.crt
    private_key: /etc/muster/postgresql/server.key
"""

RETURN = r"""
initial:
  description: Whether the region had no configuration before.
  returned: always
  type: bool
config:
  description: The configuration as it is now, or would be.
  returned: always
  type: dict
"""

import json
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._etcd import EtcdClient
from ansible_collections.muster.platform.plugins.module_utils._patroni import TLS_OPTIONS

WHOLE = ("postgresql", "parameters")


def merge(
    current: Mapping[str, Any], declared: Mapping[str, Any], path: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The declared settings over the current ones; null removes, parameters are taken as a whole."""
    result = dict(current)
    for key, value in declared.items():
        here = (*path, key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and here != WHOLE and isinstance(result.get(key), Mapping):
            result[key] = merge(result[key], value, here)
        elif isinstance(value, Mapping):
            result[key] = {name: item for name, item in value.items() if item is not None}
        else:
            result[key] = value
    return result


def wanted(current: Mapping[str, Any] | None, params: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration to write."""
    if "standby_cluster" in params["settings"]:
        raise MusterError(
            "standby_cluster is not a setting: which region is a standby is the DR engine's to say"
        )
    if current is not None:
        return merge(current, params["settings"])
    fresh = merge({}, params["settings"])
    if params["initial_standby_cluster"]:
        fresh["standby_cluster"] = params["initial_standby_cluster"]
    return fresh


def run(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Read, compare, write with compare-and-swap; a concurrent change is merged again, not overwritten."""
    client = EtcdClient(
        params["etcd_endpoints"], params["ca_certificate"], params["certificate"], params["private_key"]
    )
    key = f"{params['namespace'].rstrip('/')}/{params['scope']}/config"
    for _attempt in range(5):
        found = client.get(key)
        current = json.loads(found.value) if found else None
        config = wanted(current, params)
        changed = config != current
        if (
            not changed
            or check_mode
            or client.put_if(key, json.dumps(config), found.mod_revision if found else 0)
        ):
            return {
                "changed": changed,
                "initial": current is None,
                "config": config,
                "diff": {"before": current or {}, "after": config, "before_header": key, "after_header": key},
            }
    raise MusterError(f"{key} kept changing under this task; run it again")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "etcd_endpoints": {"type": "list", "elements": "str", "required": True},
            "scope": {"type": "str", "required": True},
            "namespace": {"type": "str", "default": "/service"},
            "settings": {"type": "dict", "required": True},
            "initial_standby_cluster": {"type": "dict"},
            **TLS_OPTIONS,
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
