#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: canary_window
short_description: Read what the canary wrote in a time, and which of it the stores hold now
version_added: 0.1.0
description:
  - Runs on the canary's host. Returns the ledger's rows of a time, and asks the surviving copy of each store,
    through the applications' endpoints, which of these numbers it holds.
  - Waits until no attempt of that time is open any more, at most O(timeout).
  - The whole result is what O(muster.platform.drill_evidence#module:canary) takes.
options:
  from:
    description: Begin of the time, in ISO 8601 with a time zone, by the clock of the canary's host.
    type: str
    required: true
  to:
    description: End of the time. Now, when not given.
    type: str
  timeout:
    description: Seconds to wait for attempts that are still open.
    type: float
    default: 10
  max_rows:
    description: Refuse to return more rows than this.
    type: int
    default: 500000
extends_documentation_fragment:
  - muster.platform.canary
  - muster.platform.info
requirements:
  - psycopg2, for stores of type V(postgresql)
  - redis, for stores of type V(valkey)
  - pika, for stores of type V(rabbitmq)
  - boto3, for stores of type V(object_storage)
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Read what the canary saw
  muster.platform.canary_window:
    from: "{{ drill_started_at }}"
  register: drill_canary
"""

RETURN = r"""
from:
  description: Begin of the time, UTC.
  returned: success
  type: str
to:
  description: End of the time, UTC.
  returned: success
  type: str
complete:
  description: Whether every attempt of that time is in the ledger.
  returned: success
  type: bool
rows:
  description: How many rows were found.
  returned: success
  type: int
ledger:
  description: The ledger's header and rows as CSV, packed with gzip, in Base64.
  returned: success
  type: str
interval_ms:
  description: The interval that the canary is configured for.
  returned: success
  type: int
stores:
  description: For each store its endpoints, and what the surviving copy holds.
  returned: success
  type: dict
  contains:
    endpoints: {description: Names of its endpoints., type: list, elements: str}
    missing:
      description:
        - Numbers of that time that are not in the ledger, as ranges. Empty when the canary ran through; a
          restart leaves such a gap.
      type: str
    surviving:
      description:
        - The held numbers as ranges in C(sequences), how many are there once more in C(duplicates), and
          C(endpoint), C(host), C(region), C(timeline), C(position), C(read_at) of the answer. C(sequences) is
          null, with the reason in C(error), when they cannot be known.
        - Of a RabbitMQ and of an object store the region's name stands for the host.
      type: dict
"""

import base64
import gzip
import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils import _ledger, _survivors
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

AROUND = timedelta(seconds=5)


def numbers_of(rows: list[str], store: str) -> list[int]:
    split = (row.split(",", 2) for row in rows)
    return [
        int(parts[1]) for parts in split if len(parts) == 3 and parts[0] == store and parts[1].isdecimal()
    ]


def span_of(rows: list[str], store: str) -> tuple[int, int] | None:
    """The lowest and the highest number of a store among the rows."""
    numbers = numbers_of(rows, store)
    return (min(numbers), max(numbers)) if numbers else None


def missing_of(rows: list[str], around: list[str], store: str) -> str:
    """The numbers between the window's first and last that no row has, as ranges.

    An attempt takes up to two seconds, so that a neighbour's number may have been sent
    just before or after the window: C(around) holds these rows too.
    """
    span = span_of(rows, store)
    if span is None:
        return ""
    present = sorted(number for number in numbers_of(around, store) if span[0] <= number <= span[1])
    return ",".join(
        f"{before + 1}-{after - 1}" if after - before > 2 else str(before + 1)
        for before, after in itertools.pairwise(present)
        if after - before > 1
    )


def surviving_of(store: dict[str, Any], config: dict[str, Any], rows: list[str]) -> dict[str, Any]:
    span = span_of(rows, store["name"])
    if span is None:
        return {"sequences": None, "error": f"the ledger holds no row of {store['name']} in that time"}
    return _survivors.read_survivors(store, config, *span)


def look(parameters: dict[str, Any]) -> dict[str, Any]:
    start = _ledger.read_time(parameters["from"], "from")
    now = datetime.now(UTC)
    end = _ledger.read_time(parameters["to"], "to") if parameters["to"] else now
    if not start < end <= now:
        raise MusterError(
            f"from must be before to, and to not in the future: from {start.isoformat()},"
            f" to {end.isoformat()}, and it is {now.isoformat()} here"
        )
    config = _ledger.read_canary_config(parameters["config"])
    complete = _ledger.wait_complete(
        config, end.strftime(_ledger.FORMAT), parameters["timeout"], time.monotonic, time.sleep
    )
    around = _ledger.read_window(config["directory"], start - AROUND, end + AROUND)
    rows = list(_ledger.in_window(around, start.strftime(_ledger.FORMAT), end.strftime(_ledger.FORMAT)))
    if len(rows) > parameters["max_rows"]:
        raise MusterError(f"{len(rows)} rows are more than max_rows ({parameters['max_rows']}) allows")
    text = "".join(f"{line}\n" for line in [_ledger.COLUMNS, *rows])
    return {
        "from": start.strftime(_ledger.FORMAT),
        "to": end.strftime(_ledger.FORMAT),
        "complete": complete,
        "rows": len(rows),
        "ledger": base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode(),
        "interval_ms": config["interval_ms"],
        "stores": {
            store["name"]: {
                "endpoints": [endpoint["name"] for endpoint in store["endpoints"]],
                "missing": missing_of(rows, around, store["name"]),
                "surviving": surviving_of(store, config, rows),
            }
            for store in config["stores"]
        },
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "from": {"type": "str", "required": True},
            "to": {"type": "str"},
            "config": {"type": "path", "default": "/etc/muster/canary.json"},
            "timeout": {"type": "float", "default": 10},
            "max_rows": {"type": "int", "default": 500000},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(changed=False, **look(module.params))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
