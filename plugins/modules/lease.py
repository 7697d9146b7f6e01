#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: lease
short_description: Say which region may hold the lease to write
version_added: 0.1.0
description:
  - Runs on the witness as root. Needed where automatic failover is on, around each move by an operator.
  - "A planned move: V(shared) before it, with the region that shall be primary; V(held) after it, with the
    region that is primary then, also when the move failed. While the lease is both regions', nothing is
    decided automatically, and the move's own order keeps them from both writing."
  - "A failover by hand: V(passed), between the fence and the promotion."
  - It waits until the hosts of O(region) say that they have the lease, so that they may be promoted.
options:
  state:
    description:
      - V(held) makes the lease O(region)'s alone, the first time or after V(shared). A region that may still
        take writes does not lose it so.
      - V(shared) lets O(region) hold it too.
      - V(passed) gives it to O(region) when the other region's has ended, or O(proof) proves that one fenced.
    type: str
    choices: [held, shared, passed]
    required: true
  region:
    description:
      - The region. With O(state=held) and without it, the one that is primary, by what the agents of both
        regions read in their etcds; it waits until exactly one is.
    type: str
  term:
    description: Refuse unless the lease is at this term, as M(muster.platform.lease_info) returned it.
    type: int
  proof:
    description: The fence of the other region, with C(proven) and C(region), as a fence provider returns it.
    type: dict
  timeout:
    description:
      - Seconds to wait for the hosts of O(region), and for the other region's to be heard. V(0) is not to.
    type: float
    default: 45
  socket:
    description: The daemon's socket.
    type: path
    default: /run/muster-lease/control.sock
attributes:
  check_mode:
    description: Says whether the holders would change, and changes nothing.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Let both regions hold the lease while the primary role moves
  become: true
  muster.platform.lease:
    state: shared
    region: south

- name: Give it to the one that is primary now
  become: true
  muster.platform.lease:
    state: held
    region: south

- name: After a planned move that failed, give it to whichever region is primary
  become: true
  muster.platform.lease:
    state: held

- name: In a failover by hand, after the fence
  become: true
  muster.platform.lease:
    state: passed
    region: south
    proof: "{{ hostvars['localhost'].dr_fence }}"
"""

RETURN = r"""
term:
  description: Number of the lease now.
  returned: success
  type: int
holders:
  description: The regions that hold it now; in check mode, would hold it.
  returned: success
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils import _lease
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

SPEC: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "choices": ["held", "shared", "passed"], "required": True},
    "region": {"type": "str"},
    "term": {"type": "int"},
    "proof": {"type": "dict"},
    "timeout": {"type": "float", "default": 45},
    "socket": {"type": "path", "default": _lease.SOCKET},
}


def wanted_holders(params: dict[str, Any], holders: list[str]) -> list[str]:
    if params["state"] == "shared":
        return holders if params["region"] in holders else [*holders, params["region"]]
    return [params["region"]]


def change(params: dict[str, Any]) -> dict[str, Any]:
    """Ask for it, again while only the hosts' next words are missing: they come every few seconds."""
    request = {key: params[key] for key in ("state", "region", "term", "proof")}
    refused: list[MusterError] = []

    def attempt() -> dict[str, Any]:
        try:
            return _lease.ask(params["socket"], request)
        except _lease.NotYet:
            raise
        except MusterError as error:
            refused.append(error)
            return {"changed": False}

    answer = wait_until(attempt, f"the lease to be {params['region']}'s alone", params["timeout"], 0.5)
    if refused:
        raise refused[0]
    return answer


def primary_region(socket: str) -> str:
    """The one region whose own etcd makes it primary, while the other's makes that one a standby."""
    found = _lease.ask(socket, {"state": "info"})
    said = {
        region: {word.get("standby") for word in _lease.heard(found, hosts).values()}
        for region, hosts in found["regions"].items()
    }
    primary = [region for region, words in said.items() if words == {False}]
    if len(primary) != 1 or any(words != {True} for region, words in said.items() if region not in primary):
        unclear = ", ".join(f"{region}: {_word(words)}" for region, words in sorted(said.items()))
        raise MusterError(f"which region is primary is not clear ({unclear})")
    return primary[0]


def _word(said: set[Any]) -> str:
    return {frozenset({True}): "standby", frozenset({False}): "primary"}.get(frozenset(said), "unknown")


def entitled(params: dict[str, Any]) -> bool:
    """Whether the hosts of the region that are heard all have the lease of this term."""
    found = _lease.ask(params["socket"], {"state": "info"})
    heard = _lease.heard(found, found["regions"].get(params["region"], []))
    if not heard:
        raise MusterError(f"no agent of region {params['region']} is heard")
    without = [
        host for host, said in heard.items() if not said.get("entitled") or said.get("term") != found["term"]
    ]
    if without:
        raise MusterError(f"{', '.join(without)} has no word for term {found['term']} yet")
    return True


def run(params: dict[str, Any], check: bool) -> dict[str, Any]:
    if not params["region"]:
        region = wait_until(
            lambda: primary_region(params["socket"]), "one region to be primary", params["timeout"], 0.5
        )
        params = {**params, "region": region}
    before = _lease.ask(params["socket"], {"state": "info"})
    wanted = wanted_holders(params, before["holders"])
    if check:
        changed = wanted != before["holders"] or bool(before["reasons"])
        return {"changed": changed, "term": before["term"], "holders": wanted}
    answer = change(params)
    # The very first time there may be no agents yet; they stop nothing before they have had a lease.
    if params["timeout"] and before["holders"]:
        wait_until(
            lambda: entitled(params),
            f"the hosts of region {params['region']} to have the lease",
            params["timeout"],
            0.3,
        )
    return {"changed": answer["changed"], "term": answer["term"], "holders": answer["holders"]}


def main() -> None:
    module = AnsibleModule(
        argument_spec=SPEC,
        supports_check_mode=True,
        required_if=[("state", "shared", ("region",)), ("state", "passed", ("region",))],
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
