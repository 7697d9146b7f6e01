#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: drill_timer_info
short_description: Tell how the last scheduled drill went, and whether the next one is overdue
version_added: 0.1.0
description:
  - Runs on the host that drills on a schedule (role C(controller), entry point C(drill_timer)), and reads
    what its last drill left there.
  - What cannot be read is a reason, too.
options:
  config:
    description: Path of the scheduled drill's configuration.
    type: path
    default: /etc/muster/drill-timer.json
extends_documentation_fragment:
  - muster.platform.info
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Look at the scheduled drill
  muster.platform.drill_timer_info:
  register: drill_timer

- name: Refuse to go on when it failed or is overdue
  ansible.builtin.assert:
    that: drill_timer.reasons | length == 0
    fail_msg: "{{ drill_timer.reasons | join('; ') }}"
"""

RETURN = r"""
reasons:
  description: Why the scheduled drills are not well; empty when they are.
  returned: success
  type: list
  elements: str
started_at:
  description: When the last one began, UTC. Null when there was none.
  returned: success
  type: str
ended_at:
  description: When it ended, UTC. Null while it runs, and when the host went down with it.
  returned: success
  type: str
passed:
  description: Whether it passed. Null while that is not known.
  returned: success
  type: bool
detail:
  description: The last words of one that failed.
  returned: success
  type: str
last_passed_at:
  description: When one last passed, UTC. Null when none has.
  returned: success
  type: str
"""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

BLANK: dict[str, Any] = {
    "started_at": None,
    "ended_at": None,
    "passed": None,
    "detail": "",
    "last_passed_at": None,
}


def read(path: Path) -> dict[str, Any] | None:
    """A JSON file of ours; None when it is not there."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise MusterError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise MusterError(f"{path} is not what the scheduled drill writes")
    return found


def judge(config: dict[str, Any], state: dict[str, Any], set_up: datetime, now: datetime) -> list[str]:
    """What is wrong: the last drill failed or never ended, or the last pass is too long ago."""
    reasons = []
    limit = timedelta(days=float(config["max_age_days"]))
    if state["started_at"] and state["passed"] is False:
        reasons.append(f"the scheduled drill of {state['started_at']} failed: {state['detail']}")
    elif state["started_at"] and state["passed"] is None:
        began = datetime.fromisoformat(state["started_at"])
        if now - began > timedelta(seconds=float(config["timeout"]) + 60):
            reasons.append(f"the scheduled drill of {state['started_at']} never ended")
    passed_at = state["last_passed_at"]
    if now - (datetime.fromisoformat(passed_at) if passed_at else set_up) > limit:
        last = f"the last one passed at {passed_at}" if passed_at else "none has passed"
        reasons.append(
            f"the scheduled drill is overdue: {last}, and the limit is {config['max_age_days']:g} days"
        )
    return reasons


def run(path: Path, now: datetime) -> dict[str, Any]:
    config = read(path)
    if config is None:
        raise MusterError(f"there is no {path}: run site.yml with dr_drill_timer_enabled")
    state = {**BLANK, **(read(Path(config["state"])) or {})}
    # Before the first pass it counts since the schedule was set up.
    set_up = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return {
        "changed": False,
        "reasons": judge(config, state, set_up, now),
        **{key: state[key] for key in BLANK},
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={"config": {"type": "path", "default": "/etc/muster/drill-timer.json"}},
        supports_check_mode=True,
    )
    try:
        result = run(Path(module.params["config"]), datetime.now(UTC))
    except (MusterError, KeyError, TypeError, ValueError) as error:
        # It is asked for a status: what is not known is told there, and counts against.
        result = {
            "changed": False,
            "reasons": [f"how the scheduled drills went is not known: {error}"],
            **BLANK,
        }
    module.exit_json(**result)


if __name__ == "__main__":
    main()
