#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_member
short_description: Add, start, restart or remove a member of an etcd cluster behind a health gate
version_added: 0.1.0
description:
  - Brings the member on this host to where it is a healthy, voting member that runs the settings in its
    files, or removes a member from the cluster.
  - Looks at the cluster itself before each step, and refuses a step that could leave the cluster without
    a quorum. Run it on one host after another (C(throttle) 1) where members are added or restarted.
options:
  state:
    description:
      - V(present) starts, adds, promotes, replaces or restarts this host's member as needed, and waits until
        it is healthy and has caught up.
      - V(started) starts the service and does not wait; with O(bootstrap) as a part of a new cluster.
      - V(absent) removes the member O(name) from the cluster's list.
    type: str
    choices: [present, started, absent]
    default: present
  name:
    description:
      - Name of this host's member, one of O(members).
      - With O(state=absent), the name or the peer URL of the member to remove, which is none of O(members).
    type: str
    required: true
  bootstrap:
    description:
      - Whether O(state=started) may form a new cluster out of O(members). Only when it is known of each of
        them that it is not part of a cluster.
    type: bool
    default: false
  token:
    description: Token of the new cluster; a cluster with another token is another cluster.
    type: str
    default: muster
  restart:
    description: Restart the member even when its running process has the settings of its files.
    type: bool
    default: false
  remove_unlisted:
    description: Whether a dead member that is none of O(members) may be removed to make room for this one.
    type: bool
    default: false
  allow_small_cluster:
    description:
      - Whether a member of a cluster with fewer than three voters may be restarted, although the cluster
        does not answer meanwhile.
    type: bool
    default: false
  timeout:
    description: Seconds until the member must be healthy.
    type: int
    default: 120
  data_directory:
    description:
      - The member's data directory. Data of a member that the cluster no longer has is moved aside.
    type: path
    default: /var/lib/etcd/muster
extends_documentation_fragment:
  - muster.platform.etcd
  - muster.platform.etcd.settings
attributes:
  check_mode:
    description: Tells the steps and the refusals, and changes nothing.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Add, replace or restart the member, one host after another
  muster.platform.etcd_member:
    name: "{{ inventory_hostname }}"
    members: "{{ etcd_members }}"
  throttle: 1

- name: Remove a member that is no longer wanted
  muster.platform.etcd_member:
    state: absent
    name: north-4
    members: "{{ etcd_members }}"
  run_once: true
"""

RETURN = r"""
steps:
  description: What was done (or would be, in check mode), in order.
  returned: success
  type: list
  elements: str
  sample: [add north-3 as a learner, start etcd, promote north-3, north-3 is healthy]
moved_data:
  description: Where data that could not be used was moved to; empty when there was none.
  returned: success
  type: str
"""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._etcd import EtcdClient
from ansible_collections.muster.platform.plugins.module_utils._etcd_cluster import (
    OPTIONS,
    SERVICE,
    Declared,
    Local,
    Seen,
    Survey,
    client_of,
    declared_members,
    initial_file,
    local_state,
    patient_survey,
    plan,
    service_state,
    survey,
)
from ansible_collections.muster.platform.plugins.module_utils._files import write_file
from ansible_collections.muster.platform.plugins.module_utils._systemd import systemctl
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until


class Worker:
    """The steps for one member; in check mode they are only told."""

    def __init__(self, params: dict[str, Any], check_mode: bool) -> None:
        self.params = params
        self.check_mode = check_mode
        self.declared: dict[str, Declared] = declared_members(params["members"])
        self.name: str = params["name"]
        self.steps: list[str] = []
        self.moved_data = ""
        # The process that a restart is to replace.
        self.old_process = ""

    @property
    def me(self) -> Declared:
        try:
            return self.declared[self.name]
        except KeyError as error:
            known = ", ".join(self.declared)
            raise MusterError(f"{self.name} is not among the members: {known}") from error

    @property
    def client(self) -> EtcdClient:
        found = client_of(self.params)
        if found is None:
            raise MusterError(
                f"the certificate {self.params['certificate']} and its key and CA must exist first"
            )
        return found

    def do(self, step: str, action: Callable[[], Any]) -> None:
        self.steps.append(step)
        if not self.check_mode:
            action()

    def survey(self) -> Survey:
        client = client_of(self.params)
        # In check mode on a fresh host the certificates are not there yet.
        return patient_survey(client, self.me.client_url) if client else Survey()

    # --- this host's service ----------------------------------------------------

    def start(self, verb: str = "start") -> None:
        self.old_process = service_state().get("MainPID", "0")
        # Never blocks: a member becomes ready only when the others answer.
        self.do(f"{verb} etcd", lambda: systemctl("--no-block", verb, SERVICE))

    def stop(self) -> None:
        self.do("stop etcd", lambda: systemctl("stop", SERVICE, timeout=120))

    def write_initial(self, state: str, members: dict[str, str]) -> None:
        """Settings of the first start; the unit does not start without them or data."""
        cluster = ",".join(f"{name}={url}" for name, url in members.items())
        text = (
            "# Read at the member's first start only; removed once it is healthy.\n"
            f'ETCD_INITIAL_CLUSTER_STATE="{state}"\n'
            f'ETCD_INITIAL_CLUSTER="{cluster}"\n'
            f'ETCD_INITIAL_CLUSTER_TOKEN="{self.params["token"]}"\n'
            f'ETCD_INITIAL_ADVERTISE_PEER_URLS="{self.me.peer_url}"\n'
        )
        path = initial_file(self.params["data_directory"])
        if path.exists() and path.read_text() == text:
            return
        # Data of an earlier attempt with other settings would win over these.
        self.move_data_aside()
        self.do(f"prepare the first start ({state} cluster)", lambda: write_file(path, text, 0o644))

    def move_data_aside(self) -> None:
        """Keep data that no cluster knows, out of the way; nothing is deleted."""
        directory = self.params["data_directory"]
        if not os.path.isdir(directory) or not os.listdir(directory):
            return
        if service_state().get("ActiveState") != "inactive":
            self.stop()
        moved = f"{directory}.{datetime.now(UTC):%Y%m%dT%H%M%SZ}"

        def move() -> None:
            status = os.stat(directory)
            os.rename(directory, moved)
            os.mkdir(directory, 0o700)
            os.chown(directory, status.st_uid, status.st_gid)

        self.moved_data = moved
        self.do(f"move the unusable data to {moved}", move)

    # --- state: started -----------------------------------------------------------

    def awaited(self, seen: Survey) -> bool:
        """Whether the other members, quicker by a moment, have just formed the cluster with this one in it.

        One that never started has told nobody its address for clients yet.
        """
        mine = seen.find(self.me)
        urls = {member.peer_url for member in self.declared.values()}
        return (
            mine is not None
            and not mine.is_learner
            and mine.status is None
            and not mine.client_url
            and {member.peer_url for member in seen.members} == urls
        )

    def started(self) -> None:
        local = local_state(self.params)
        if self.params["bootstrap"]:
            seen = self.survey()
            if seen.has_quorum() and not self.awaited(seen):
                raise MusterError(f"{self.name} is not to form a new cluster: its region has a working one")
            if not local.fresh:
                held = self.params["data_directory"]
                raise MusterError(f"{self.name} is not to form a new cluster: {held} holds data of one")
            self.write_initial("new", {name: member.peer_url for name, member in self.declared.items()})
            stray = local.running and local.pending is None
            if stray or (
                local.running and (local.restart_reasons or self.moved_data or self.params["restart"])
            ):
                # Debian's package starts a cluster of one on installation; or the first try was wrong.
                self.start("restart")
                return
            local = local_state(self.params)
        if not local.running:
            self.start()

    # --- state: present -----------------------------------------------------------

    def next_step(self, local: Local, seen: Survey) -> str:
        step = plan(self.me, local, seen)
        if step == "none" and self.params["restart"]:
            return "restart"
        if step == "refuse":
            raise MusterError(seen.split())
        # The new cluster that it is to be a part of is being formed, or the others have just formed it,
        # and this one has been started, but has not written its data yet.
        forming = step == "bootstrap" or (step == "replace" and self.awaited(seen))
        if forming and local.pending == "new":
            return "start"
        if step == "bootstrap":
            raise MusterError(
                f"{self.name} has no data, and its region has no working cluster that it could join"
                + ("" if seen.answers else f": {seen.silence}")
            )
        return step

    def present(self) -> None:
        # In this order: who is just starting must not be taken for one whose data is gone.
        seen = self.survey()
        local = local_state(self.params)
        step = self.next_step(local, seen)
        if step in ("join", "replace"):
            self.join(local, seen, replace=step == "replace")
        elif step == "promote":
            self.promote()
        elif step == "restart":
            self.restart(seen)
        elif step == "start":
            self.recover(local)
        if step != "none":
            self.wait_healthy()

    def recover(self, local: Local) -> None:
        """It is not healthy: start it, or give it its new settings, which costs nothing now."""
        if not local.running:
            self.start()
        elif local.restart_reasons or self.params["restart"]:
            self.start("restart")

    def restart(self, seen: Survey) -> None:
        mine = seen.find(self.me)
        if mine is not None and mine.healthy:
            self.gate_restart(seen, mine)
        self.start("restart")

    def gate_restart(self, seen: Survey, mine: Seen) -> None:
        ill = [member for member in seen.members if member.id != mine.id and not member.healthy]
        if ill:
            raise MusterError(
                f"{self.name} is not restarted while another member is not healthy: {ill[0].error}"
            )
        if not seen.has_quorum(without=mine.id) and not self.params["allow_small_cluster"]:
            raise MusterError(
                f"{self.name} is not restarted: without it the other voting members"
                f" ({len(seen.voters) - 1}) have no quorum"
            )

    def join(self, local: Local, seen: Survey, replace: bool) -> None:
        """Add this member as a learner, start it with an empty data directory, and give it its vote."""
        seen = self.gate_join(seen, replace)
        if local.running:
            self.stop()
        mine = seen.find(self.me)
        if mine is not None and mine.name:
            self.remove(mine)
            mine = None
        if local.data and (mine is None or local.pending != "existing"):
            self.move_data_aside()
        if mine is None:
            self.do(f"add {self.name} as a learner", self.add)
        if self.check_mode:
            self.steps += ["start etcd", f"promote {self.name}"]
            return
        self.write_initial("existing", self.initial_cluster())
        self.start()
        self.promote()

    def gate_join(self, seen: Survey, replace: bool) -> Survey:
        """All other voters must be healthy; dead ones that nobody lists may have to go first."""
        mine = seen.find(self.me)
        others = [member for member in seen.voters if mine is None or member.id != mine.id]
        unlisted = {member.id for member in seen.unlisted(self.declared)}
        for member in (m for m in others if not m.healthy):
            if member.id not in unlisted:
                raise MusterError(
                    f"{self.name} is not added while another member is not healthy: {member.error}"
                )
            if not self.params["remove_unlisted"]:
                raise MusterError(
                    f"{self.name} is not added: {member.label}, which is not listed, does not answer,"
                    " and its removal is not confirmed"
                )
            self.remove(member)
        if replace and mine is not None and not seen.has_quorum(without=mine.id):
            raise MusterError(f"{self.name} is not replaced: the others have no quorum without it")
        return seen

    def add(self) -> None:
        """Add to the list; etcd refuses for some seconds after any member's start."""

        def added() -> bool:
            if any(self.me.peer_url in member.peer_urls for member in self.client.members()):
                return True
            self.client.member_add(self.me.peer_url, learner=True)
            return True

        wait_until(added, f"etcd to accept {self.name} as a member", self.params["timeout"], 0.5)

    def initial_cluster(self) -> dict[str, str]:
        """The members as etcd wants them told at a joining member's first start."""
        names = {member.peer_url: name for name, member in self.declared.items()}
        found = {}
        for member in self.client.members():
            for url in member.peer_urls:
                found[names.get(url) or member.name or member.id] = url
        return found

    def promote(self) -> None:
        self.do(f"promote {self.name}", self._promote)

    def _promote(self) -> None:
        def promoted() -> bool:
            client = self.client
            member = next((m for m in client.members() if self.me.peer_url in m.peer_urls), None)
            if member is None:
                raise MusterError(f"{self.name} is no longer in the member list")
            if member.is_learner:
                client.member_promote(member.id)
            return True

        wait_until(promoted, f"{self.name} to catch up as a learner", self.params["timeout"], 0.5)

    def wait_healthy(self) -> None:
        """Until this member serves reads and has what the cluster had when the wait began."""
        if self.check_mode:
            return
        # A member that is starting accepts connections and then says nothing.
        client = client_of(self.params, timeout=1.0)
        target = -1

        def healthy() -> bool:
            nonlocal target
            seen = survey(client, self.me.client_url) if client else Survey()
            target = seen.raft_index if target < 0 else target
            if service_state().get("MainPID", "0") in ("0", self.old_process):
                raise MusterError("its process has not started")
            mine = seen.find(self.me)
            if mine is None:
                raise MusterError("it is not in the member list" if seen.answers else seen.silence)
            if mine.error or mine.status is None:
                raise MusterError(mine.error or "it does not answer")
            behind = target - (mine.status.raft_applied_index or 0)
            if behind > 0:
                raise MusterError(f"it is {behind} log entries behind")
            return not mine.is_learner and seen.has_quorum()

        wait_until(healthy, f"etcd on {self.name} to be healthy", self.params["timeout"], 0.3)
        initial_file(self.params["data_directory"]).unlink(missing_ok=True)
        self.steps.append(f"{self.name} is healthy")

    # --- state: absent ------------------------------------------------------------

    def absent(self) -> None:
        if self.name in self.declared or any(m.peer_url == self.name for m in self.declared.values()):
            raise MusterError(f"{self.name} is listed as a member, so it is not removed")
        client = client_of({**self.params, "name": ""})
        seen = patient_survey(client) if client else Survey()
        if not seen.answers:
            raise MusterError(f"{self.name} cannot be removed, no member answers: {seen.silence}")
        found = next((m for m in seen.members if self.name in (m.name, m.peer_url, m.id)), None)
        if found is None:
            return
        voters = [member for member in seen.voters if member.id != found.id]
        healthy = sum(member.healthy for member in voters)
        if healthy <= len(voters) // 2:
            raise MusterError(
                f"{found.label} is not removed: of the {len(voters)} voting members left only"
                f" {healthy} would be healthy, which is no quorum"
            )
        self.remove(found)

    def remove(self, member: Seen) -> None:
        def removed() -> bool:
            client = client_of({**self.params, "name": ""}) or self.client
            if any(member.id == left.id for left in client.members()):
                client.member_remove(member.id)
            return True

        def remove() -> None:
            wait_until(removed, f"etcd to remove {member.label}", self.params["timeout"], 0.5)

        self.do(f"remove {member.label} from the cluster", remove)


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Do what the state asks for."""
    worker = Worker(params, check_mode)
    {"present": worker.present, "started": worker.started, "absent": worker.absent}[params["state"]]()
    return {"changed": bool(worker.steps), "steps": worker.steps, "moved_data": worker.moved_data}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "state": {"type": "str", "choices": ["present", "started", "absent"], "default": "present"},
            "bootstrap": {"type": "bool", "default": False},
            "token": {"type": "str", "default": "muster", "no_log": False},
            "restart": {"type": "bool", "default": False},
            "remove_unlisted": {"type": "bool", "default": False},
            "allow_small_cluster": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module.params, module.check_mode)
    except MusterError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
