#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: canary_info
short_description: Tell whether the canary runs, and what each endpoint answered last
version_added: 0.1.0
description:
  - Runs on the canary's host and reads the end of its ledger.
extends_documentation_fragment:
  - muster.platform.canary
  - muster.platform.info
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Look at the canary
  muster.platform.canary_info:
  register: canary

- name: Refuse a drill that nobody measures
  ansible.builtin.assert:
    that: canary.canary_status.healthy
    fail_msg: "{{ canary.canary_status.reasons | join('; ') }}"
"""

RETURN = r"""
canary_status:
  description: What the ledger says.
  returned: success
  type: dict
  contains:
    healthy: {description: Whether there are no reasons against it., type: bool}
    reasons: {description: Why it is not healthy., type: list, elements: str}
    now: {description: "The time of the canary's host, UTC.", type: str}
    interval_ms: {description: The interval that the canary is configured for., type: int}
    stores:
      description: >-
        For each store C(acknowledging), the C(last_acknowledged_at) of all its endpoints, and in
        C(endpoints) for each the C(last_sent_at), C(last_acknowledged_at) and last C(answer).
      type: dict
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils import _ledger
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

# An attempt takes up to two seconds and is written down when it ends.
OPEN_SECONDS = 2.0


def endpoint_status(rows: list[list[str]], store: str, endpoint: str) -> dict[str, Any]:
    mine = [row for row in rows if row[0] == store and row[4] == endpoint]
    return {
        "last_sent_at": mine[-1][2] if mine else None,
        "last_acknowledged_at": max((row[3] for row in mine if row[3]), default=None),
        "answer": mine[-1][5] if mine else None,
    }


def is_recent(text: str | None, now: datetime, interval: float) -> bool:
    """Whether a time is no further back than the slowest attempt and three intervals."""
    if not text:
        return False
    return _ledger.read_time(text, "the ledger") >= now - timedelta(seconds=OPEN_SECONDS + 3 * interval)


def canary_status(config: dict[str, Any], rows: list[list[str]], now: datetime) -> dict[str, Any]:
    interval = config["interval_ms"] / 1000
    stores: dict[str, Any] = {}
    reasons = []
    for store in config["stores"]:
        name = store["name"]
        endpoints = {
            entry["name"]: endpoint_status(rows, name, entry["name"]) for entry in store["endpoints"]
        }
        idle = [
            key for key, value in endpoints.items() if not is_recent(value["last_sent_at"], now, interval)
        ]
        acknowledged = max(
            (value["last_acknowledged_at"] for value in endpoints.values() if value["last_acknowledged_at"]),
            default=None,
        )
        acknowledging = is_recent(acknowledged, now, interval)
        stores[name] = {
            "acknowledging": acknowledging,
            "last_acknowledged_at": acknowledged,
            "endpoints": endpoints,
        }
        if idle:
            reasons.append(f"the canary does not write to {name} through {', '.join(sorted(idle))}")
        elif not acknowledging:
            answers = sorted({str(value["answer"]).partition(" after=")[0] for value in endpoints.values()})
            reasons.append(f"{name} acknowledges no write ({', '.join(answers)})")
    return {
        "healthy": not reasons,
        "reasons": reasons,
        "now": now.strftime(_ledger.FORMAT),
        "interval_ms": config["interval_ms"],
        "stores": stores,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={"config": {"type": "path", "default": "/etc/muster/canary.json"}},
        supports_check_mode=True,
    )
    try:
        config = _ledger.read_canary_config(module.params["config"])
        status = canary_status(config, _ledger.read_tail(config["directory"]), datetime.now(UTC))
    except MusterError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, canary_status=status)


if __name__ == "__main__":
    main()
