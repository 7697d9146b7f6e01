#!/usr/bin/env python3
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Inventory script: what lab_up wrote into .lab/ (addresses, keys, secrets).

Before lab_up has run there is nothing to tell, and that is not an error: lab_up
itself reads this inventory.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

# The tests have a lab of their own, so that they can run beside one that is in use.
LAB = Path(os.environ.get("MUSTER_LAB") or Path(__file__).resolve().parents[2] / ".lab").resolve()


# Where the stores beside PostgreSQL run, when the lab has them (scripts/lab, STORES).
REGIONS = ("north", "south")
STORES = {"valkey": (1, 2, 3), "rabbitmq": (1, 2, 3), "object_storage": (2,)}


def groups() -> dict[str, Any]:
    """The groups of the stores that were asked for, one name a line."""
    wanted = (LAB / "stores").read_text().split() if (LAB / "stores").exists() else []
    return {
        name: {"hosts": [f"{region}-{number}" for region in REGIONS for number in numbers]}
        for name, numbers in STORES.items()
        if name in wanted
    }


def inventory() -> dict[str, Any]:
    """The hosts' connection variables and the lab's secrets, as Ansible wants them."""
    shared: dict[str, Any] = {"muster_lab_directory": str(LAB)}
    hostvars: dict[str, dict[str, Any]] = {}
    # The directory that the lab is made from instead of the registries (scripts/lab, MIRROR).
    if (LAB / "mirror").exists():
        mirror = (LAB / "mirror").read_text().strip()
        shared |= {"muster_lab_mirror": mirror, "mirror_address": f"file://{mirror}"}
        shared["mirror_key"] = f"{mirror}/debian/muster-mirror.asc"
    state_file, secrets_file = LAB / "state.json", LAB / "secrets.json"
    if state_file.exists() and secrets_file.exists():
        state = json.loads(state_file.read_text())
        shared |= json.loads(secrets_file.read_text())
        shared |= {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(LAB / "ssh" / "id_ed25519"),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={LAB}/ssh/known_hosts",
            # Short on purpose: a socket's path has 108 characters, a checkout's may have more.
            "ansible_control_path_dir": f"/run/muster-lab-{state['id']}",
        }
        # By scripts/lab and by the tests; without it the platform knows nothing of automatic failover.
        if (LAB / "automatic").exists():
            shared["dr_autofailover"] = (LAB / "automatic").read_text().strip() == "true"
        hostvars = {host: {"ansible_host": address} for host, address in state["addresses"].items()}
    return groups() | {"_meta": {"hostvars": hostvars}, "all": {"hosts": sorted(hostvars), "vars": shared}}


if __name__ == "__main__":
    json.dump(inventory() if "--host" not in sys.argv else {}, sys.stdout)
