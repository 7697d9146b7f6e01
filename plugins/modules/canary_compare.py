#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: canary_compare
short_description: Compare the numbers that a copy holds with the canary's ledger
version_added: 0.1.0
description:
  - Runs on the canary's host. A copy restored to some time must hold every number that was acknowledged
    before that time, on the timeline that was written then; what an earlier failover lost is left out.
options:
  store:
    description: Name of the store in the canary's configuration.
    type: str
    required: true
  held:
    description: The numbers that the copy holds, as ranges such as V(1-5,7).
    type: str
    required: true
  committed_until:
    description: The time of the last commit that the copy holds, UTC, by the store's clock.
    type: str
    required: true
  slack_seconds:
    description: How far the store's clock may be from this host's.
    type: float
    default: 1
  window_seconds:
    description: How far back from O(committed_until) the ledger is compared.
    type: float
    default: 3600
extends_documentation_fragment:
  - muster.platform.canary
  - muster.platform.info
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Compare the restored copy with the ledger
  muster.platform.canary_compare:
    store: postgresql
    held: 1-4711
    committed_until: "2026-11-21T10:00:00.123Z"
"""

RETURN = r"""
compared:
  description: How many acknowledged writes the copy had to hold.
  returned: success
  type: int
missing:
  description: Which of them it does not, as ranges.
  returned: success
  type: str
check:
  description: The same as C(name), C(passed) and C(detail). Nothing compared is not passed.
  returned: success
  type: dict
"""

from datetime import timedelta
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils import _lag, _ledger
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._ranges import read_ranges, to_ranges


def acknowledged(params: dict[str, Any]) -> list[int]:
    """What was acknowledged on the newest timeline in the window, long enough before its end."""
    committed_until = _ledger.read_time(params["committed_until"], "committed_until")
    until = committed_until - timedelta(seconds=params["slack_seconds"])
    start = until - timedelta(seconds=params["window_seconds"])
    config = _ledger.read_canary_config(params["config"])
    attempts = _lag.read_attempts(_ledger.read_window(config["directory"], start, until), params["store"])
    if attempts.unreadable:
        raise MusterError(
            f"{config['directory']}: a row of the ledger cannot be read: {attempts.unreadable[0]}"
        )
    written = [entry for entry in attempts.acknowledged if entry.at <= until]
    return sorted(entry.sequence for entry in written if entry.timeline == written[-1].timeline)


def compare(params: dict[str, Any]) -> dict[str, Any]:
    held = read_ranges(params["held"])
    # Older numbers than the copy was asked for are not known to be there or not.
    wanted = [number for number in acknowledged(params) if held and number >= min(held)]
    missing = [number for number in wanted if number not in held]
    if not held:
        detail = "the copy holds no write of the canary"
    elif not wanted:
        detail = "the ledger holds no acknowledged write of that time to compare with"
    elif missing:
        detail = f"{len(missing)} acknowledged writes are not in the copy: {to_ranges(missing)}"
    else:
        detail = f"all {len(wanted)} acknowledged writes of that time are in the copy"
    return {
        "compared": len(wanted),
        "missing": to_ranges(missing),
        "check": {"name": "canary", "passed": bool(wanted) and not missing, "detail": detail},
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "store": {"type": "str", "required": True},
            "held": {"type": "str", "required": True},
            "committed_until": {"type": "str", "required": True},
            "slack_seconds": {"type": "float", "default": 1},
            "window_seconds": {"type": "float", "default": 3600},
            "config": {"type": "path", "default": "/etc/muster/canary.json"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(changed=False, **compare(module.params))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
