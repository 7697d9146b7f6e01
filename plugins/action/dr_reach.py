# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Action of muster.platform.dr_reach: a TCP connection to every host at once."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

MOST_AT_ONCE = 64


def knock(address: str, port: int, timeout: float) -> str:
    """Why the port does not answer; empty when it does."""
    try:
        socket.create_connection((address, port), timeout).close()
    except OSError as error:
        return f"{address} port {port}: {error.strerror or error}"
    except UnicodeError:
        return f"{address} port {port}: it is no name of a host"
    return ""


def place_of(host: str, found: Mapping[str, Any]) -> tuple[str, int]:
    """The address and port over which Ansible would come."""
    port = found.get("ansible_port") or 22
    try:
        return str(found.get("ansible_host", host)), int(port)
    except ValueError:
        raise AnsibleActionFail(f"{host}: ansible_port is {port!r}: it must be a number") from None


class ActionModule(ActionBase):
    """muster.platform.dr_reach."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _valid, arguments = self.validate_argument_spec(
            argument_spec={
                "hosts": {"type": "list", "elements": "str", "required": True},
                "timeout": {"type": "float", "default": 2},
            }
        )
        hostvars = (task_vars or {})["hostvars"]
        hosts: list[str] = arguments["hosts"]
        unknown = [host for host in hosts if host not in hostvars]
        if unknown:
            raise AnsibleActionFail(f"hosts: not in the inventory: {', '.join(unknown)}")
        places = [place_of(host, hostvars[host]) for host in hosts]
        with ThreadPoolExecutor(max_workers=min(MOST_AT_ONCE, max(1, len(hosts)))) as pool:
            answers = list(pool.map(lambda place: knock(place[0], place[1], arguments["timeout"]), places))
        reasons = dict(zip(hosts, answers, strict=True))
        return result | {
            "changed": False,
            "reachable": [host for host in hosts if not reasons[host]],
            "silent": {host: reason for host, reason in reasons.items() if reason},
        }
