#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: object_storage_verify
short_description: Write an object through the endpoints of the applications, and read it back
version_added: 0.1.0
description:
  - Over S3 with TLS and verified names, as an application does. The object C(muster-verify) is overwritten.
options:
  configuration:
    description:
      - File that the role object_storage writes, to tell which region took the write. Not given for an
        endpoint that is not Muster's.
    type: path
  endpoints:
    description: Endpoints, each with C(host) and C(port).
    type: list
    elements: dict
    default: []
  endpoint:
    description: Address of one endpoint, instead of O(endpoints).
    type: str
  bucket:
    description: Bucket to write to.
    type: str
    required: true
  expect_region:
    description: The region that must take the write; empty for any.
    type: str
    default: ''
  timeout:
    description: Seconds until each endpoint must serve.
    type: float
    default: 30
extends_documentation_fragment:
  - muster.platform.object_storage.s3
attributes:
  check_mode:
    description: Writes nothing, and tells no endpoint.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Verify
  muster.platform.object_storage_verify:
    endpoints: [{host: edge-1, port: 9000}]
    bucket: muster-canary
    access_key: canary
    secret_key: "{{ canary_password }}"
    ca_certificate: /etc/seaweedfs/tls/ca.crt
"""

RETURN = r"""
endpoints:
  description: What each endpoint did.
  returned: success
  type: list
  elements: dict
  contains:
    endpoint: {description: Its address., type: str}
    region: {description: "The region that takes writes; null when it is not known.", type: str}
    milliseconds: {description: "Time to write and to read back.", type: float}
"""

import secrets
import time
from functools import partial
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils import _s3
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._object_storage import Stores
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

KEY = "muster-verify"


def write_and_read(params: dict[str, Any], endpoint: str) -> dict[str, Any]:
    """One object, written and read back; MusterError with the reason when any of it fails."""
    client = _s3.connect(params, endpoint)
    body = secrets.token_hex(16).encode()
    started = time.monotonic()
    _s3.call("the write", client.put_object, Bucket=params["bucket"], Key=KEY, Body=body)
    found = _s3.call("the read", client.get_object, Bucket=params["bucket"], Key=KEY)
    if found["Body"].read() != body:
        raise MusterError("what was written was not read back")
    return {"endpoint": endpoint, "milliseconds": round((time.monotonic() - started) * 1000, 1)}


def open_region(params: dict[str, Any]) -> str | None:
    if not params["configuration"]:
        return None
    found = [region.name for region in Stores.load(params["configuration"]).survey().values() if region.open]
    return found[0] if len(found) == 1 else None


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    endpoints = [f"https://{entry['host']}:{entry['port']}" for entry in params["endpoints"]]
    endpoints = [params["endpoint"]] if params["endpoint"] else endpoints
    if not endpoints:
        raise MusterError("there is no endpoint to verify: object_storage_verify_endpoints is empty")
    if check_mode:
        return {"changed": False, "endpoints": []}
    found = []
    for endpoint in endpoints:
        what = f"{endpoint} to take a write and give it back"
        told = wait_until(partial(write_and_read, params, endpoint), what, params["timeout"], 0.3)
        region = open_region(params)
        if params["expect_region"] and region != params["expect_region"]:
            raise MusterError(f"{region or 'no single region'} takes writes, not {params['expect_region']}")
        found.append({**told, "region": region})
    return {"changed": False, "endpoints": found}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "configuration": {"type": "path"},
            "endpoints": {"type": "list", "elements": "dict", "default": []},
            "endpoint": {"type": "str"},
            "region": {"type": "str", "default": "us-east-1"},
            "bucket": {"type": "str", "required": True},
            "access_key": {"type": "str", "required": True, "no_log": False},
            "secret_key": {"type": "str", "required": True, "no_log": True},
            "ca_certificate": {"type": "path"},
            "expect_region": {"type": "str", "default": ""},
            "timeout": {"type": "float", "default": 30},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
