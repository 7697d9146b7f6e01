#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: dr_lock
short_description: Allow one DR operation at a time
version_added: 0.1.0
description:
  - Keeps a lock on the witness, which is the host that the task runs on. It belongs to a process of
    C(ansible-playbook) on its controller, known by host, process number and start.
  - A process that has the lock gets it again, so that an operation may run inside another one, as a drill
    runs a switchover. Only the operation that took it first, by its name and target, releases it.
  - When the process that has the lock has provably ended on this controller, the same operation to the same
    target takes it over without being asked, as whoever runs it again after an interruption wants.
  - Everything else is refused with who has it, since when, and what to do. With O(takeover) it is taken over,
    but never from a process that provably runs.
options:
  state:
    description: Whether to have the lock, or to give it back.
    type: str
    choices: [held, released]
    default: held
  operation:
    description: Name of the operation, such as V(failover) or V(drill).
    type: str
    required: true
  target:
    description: What it is done to, as a region. The same at V(held) and V(released).
    type: str
    required: true
  directory:
    description: Directory for the lock and its log.
    type: path
    default: /var/lib/muster/dr
  takeover:
    description:
      - Reason for taking the lock over from a run that does not end its operation itself. Nothing happens
        with it when it is not needed.
    type: str
  me:
    description: Who asks. Set by the action.
    type: dict
  seen:
    description: Which holder O(verdict) is about. Set by the action.
    type: str
  verdict:
    description: Whether that holder still runs. Set by the action.
    type: str
    choices: [alive, gone, unknown]
attributes:
  action:
    description: The part on the controller says who asks, and whether the holder still runs there.
    support: full
  check_mode:
    description: Says what it would do or refuse, and changes nothing.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Be the only one
  become: true
  muster.platform.dr_lock:
    operation: failover
    target: south
    takeover: "{{ dr_lock_takeover | default(omit) }}"
  register: dr_lock

- name: Let others in again
  become: true
  muster.platform.dr_lock:
    state: released
    operation: failover
    target: south
"""

RETURN = r"""
lock:
  description:
    - The lock as it is now, with C(operation), C(target), C(since) and C(holder). Null when it is free.
  returned: success, and when it is refused
  type: dict
nested:
  description: Whether the lock is this run's, but was taken for another operation, which will release it.
  returned: success
  type: bool
undecided:
  description: Whether nothing was decided, because a verdict is missing. The action never returns that.
  returned: success
  type: bool
took_over:
  description:
    - The lock that was there in C(previous), the C(reason), whether it needed none in C(automatic), and in
      C(verdict) whether the process was V(gone) or that was V(unknown). Null when nothing was taken over.
  returned: success
  type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils import _dr_lock
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

SPEC: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "choices": ["held", "released"], "default": "held"},
    "operation": {"type": "str", "required": True},
    "target": {"type": "str", "required": True},
    "directory": {"type": "path", "default": "/var/lib/muster/dr"},
    "takeover": {"type": "str"},
    "me": {"type": "dict"},
    "seen": {"type": "str"},
    "verdict": {"type": "str", "choices": [_dr_lock.ALIVE, _dr_lock.GONE, _dr_lock.UNKNOWN]},
}


def read_request(parameters: dict[str, Any]) -> _dr_lock.Request:
    for name in ("operation", "target"):
        if not parameters[name].strip():
            raise MusterError(f"{name} is empty: the lock says what is done, and to what")
    me = parameters["me"]
    if not me or any(me.get(key) is None for key in _dr_lock.IDENTITY):
        raise MusterError("who asks for the lock is not known: dr_lock runs through its action only")
    return _dr_lock.Request(
        operation=parameters["operation"],
        target=parameters["target"],
        me={key: int(me[key]) if key == "pid" else str(me[key]) for key in _dr_lock.IDENTITY},
        takeover=parameters["takeover"],
        seen=parameters["seen"],
        verdict=parameters["verdict"],
    )


def main() -> None:
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    store = _dr_lock.Store(module.params["directory"], module.check_mode)
    current = None
    try:
        request = read_request(module.params)
        with store.guarded():
            current = store.read()
            act = _dr_lock.hold if module.params["state"] == "held" else _dr_lock.release
            found = act(store, request)
        module.exit_json(**found)
    except MusterError as error:
        module.fail_json(msg=str(error), lock=current)


if __name__ == "__main__":
    main()
