#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: haproxy_info
short_description: Read which servers the endpoints of a HAProxy lead to
version_added: 0.1.0
description:
  - Reads HAProxy's admin socket on the host, and tries every endpoint with a connection of its own.
  - Tells whether the running process has read the files that are there now.
options:
  endpoints:
    description: The endpoints to tell about. Each is a frontend and a backend of the same name.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the endpoint.
        type: str
        required: true
      port:
        description: Port that it listens on.
        type: int
        required: true
      fallback:
        description: Name of the endpoint whose servers it uses when it has none.
        type: str
        default: ""
      single:
        description: Whether only one server may be up.
        type: bool
        default: false
  region:
    description: Region of the host, to be told in RV(recovery_status).
    type: str
    default: ""
  address:
    description: Address at which the endpoints are tried.
    type: str
    default: 127.0.0.1
  socket:
    description: Path of the admin socket.
    type: path
    default: /run/haproxy/admin.sock
  files:
    description: Files that HAProxy reads when it starts and when it is reloaded.
    type: list
    elements: path
    default: []
  timeout:
    description: Seconds to wait until all is healthy, and to fail afterwards. Does neither when not given.
    type: float
extends_documentation_fragment:
  - muster.platform.info
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Wait until the endpoint leads to a primary
  muster.platform.haproxy_info:
    endpoints:
      - {name: postgresql, port: 5432, single: true}
    timeout: 10
"""

RETURN = r"""
recovery_status:
  description: The keys that every store reports. Those that mean nothing to a proxy are null.
  returned: always
  type: dict
  contains:
    store: {description: "Always V(haproxy).", type: str}
    region: {description: The host's region., type: str}
    role: {description: "V(stopped) when HAProxy does not answer, else null.", type: str}
    healthy: {description: Whether there are no reasons against it., type: bool}
    reasons: {description: Why it is not healthy., type: list, elements: str}
    versions: {description: Of HAProxy., type: dict}
endpoints:
  description: What each endpoint leads to.
  returned: always
  type: list
  elements: dict
  contains:
    name: {description: Its name., type: str}
    port: {description: Its port., type: int}
    live: {description: The hosts that new connections go to., type: list, elements: str}
    fallback: {description: Whether those are the fallback's., type: bool}
    error: {description: Why a connection through it did not stay open; null when it did., type: str}
    servers:
      description: "By host: whether it is up, HAProxy's words for it, its sessions, when it changed."
      type: dict
max_connections:
  description: Connections of clients that it takes at a time.
  returned: always
  type: int
stale_files:
  description: Files that changed after the running process read them.
  returned: always
  type: list
  elements: str
"""

import csv
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

SOCKET_SECONDS = 5.0
# A connection that leads nowhere is closed at once.
PROBE_SECONDS = 0.3


def ask(path: str, command: str) -> str:
    """One command over the admin socket, and all of its answer."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(SOCKET_SECONDS)
            connection.connect(path)
            connection.sendall(command.encode() + b"\n")
            answer = bytearray()
            while chunk := connection.recv(65536):
                answer += chunk
    except OSError as error:
        raise MusterError(f"HAProxy does not answer at {path}: {error}") from error
    return answer.decode(errors="replace")


def probe(address: str, port: int) -> str | None:
    """Connect; why the connection did not stay open, or None when it did."""
    try:
        with socket.create_connection((address, port), timeout=SOCKET_SECONDS) as connection:
            connection.settimeout(PROBE_SECONDS)
            return None if connection.recv(1) else "the connection was closed at once"
    except TimeoutError as error:
        # Nobody closed it: the server waits for the client to speak.
        return None if str(error) == "timed out" else str(error)
    except OSError as error:
        return str(error)


def started_at(pid: int) -> float:
    """When a process started, in seconds since the epoch."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stream:
            ticks = int(stream.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError) as error:
        raise MusterError(f"HAProxy's process {pid} cannot be looked at: {error}") from error
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


def stale(files: list[str], since: float) -> list[str]:
    """The files whose content is newer than that."""
    return [path for path in files if os.path.exists(path) and os.stat(path).st_mtime > since]


def read_servers(answer: str) -> dict[str, dict[str, dict[str, Any]]]:
    """The servers of each backend, from `show stat`."""
    backends: dict[str, dict[str, dict[str, Any]]] = {}
    for row in csv.DictReader(answer.removeprefix("# ").splitlines()):
        if row["svname"] in ("FRONTEND", "BACKEND"):
            continue
        # A star before it says that the next check is under way.
        words = [row["status"], row["check_status"].removeprefix("* "), row["last_chk"]]
        backends.setdefault(row["pxname"], {})[row["svname"]] = {
            "up": row["status"].startswith("UP"),
            "backup": row["bck"] == "1",
            "status": " ".join(word for word in words if word),
            "sessions": int(row["scur"] or 0),
            "since_seconds": int(row["lastchg"] or 0),
        }
    return backends


def live(servers: dict[str, dict[str, Any]]) -> list[str]:
    """The servers that get new connections: backups only when nothing else is up."""
    up = [name for name, server in servers.items() if server["up"]]
    return [name for name in up if not servers[name]["backup"]] or up


def describe(endpoint: dict[str, Any], backends: dict[str, Any], error: str | None) -> dict[str, Any]:
    """One endpoint as plain data."""
    servers = backends.get(endpoint["name"], {})
    own = live(servers)
    other = live(backends.get(endpoint["fallback"], {}))
    return {
        "name": endpoint["name"],
        "port": endpoint["port"],
        "live": own or other,
        "fallback": not own and bool(other),
        "error": error,
        "servers": servers,
    }


def find_reasons(endpoint: dict[str, Any], single: bool) -> list[str]:
    """What is wrong with an endpoint."""
    name = f"endpoint {endpoint['name']} (port {endpoint['port']})"
    if not endpoint["live"]:
        said = "; ".join(f"{host} is {server['status']}" for host, server in endpoint["servers"].items())
        return [f"{name} leads to no host ({said or 'HAProxy has no such backend'})"]
    if single and len(endpoint["live"]) > 1:
        return [f"{name} is refused: more than one host claims to serve it ({', '.join(endpoint['live'])})"]
    if endpoint["error"]:
        return [f"{name} does not work: {endpoint['error']}"]
    return []


def read(params: dict[str, Any]) -> dict[str, Any]:
    """What the module returns."""
    status: dict[str, Any] = {"store": "haproxy", "region": params["region"] or None, "role": None}
    nulls = "ready", "position", "timeline", "lag_bytes", "lag_seconds", "last_backup_at"
    status |= dict.fromkeys((*nulls, "last_restore_proof_at"))
    try:
        information = dict(
            line.split(": ", 1) for line in ask(params["socket"], "show info").splitlines() if ": " in line
        )
        backends = read_servers(ask(params["socket"], "show stat"))
        old = stale(params["files"], started_at(int(information["Pid"])))
    except MusterError as error:
        status |= {"role": "stopped", "healthy": False, "reasons": [str(error)], "versions": {}}
        return {"recovery_status": status, "endpoints": [], "stale_files": [], "max_connections": None}
    with ThreadPoolExecutor(max_workers=max(1, len(params["endpoints"]))) as pool:
        errors = list(pool.map(lambda each: probe(params["address"], each["port"]), params["endpoints"]))
    endpoints = [
        describe(each, backends, error) for each, error in zip(params["endpoints"], errors, strict=True)
    ]
    reasons = [
        reason
        for asked, found in zip(params["endpoints"], endpoints, strict=True)
        for reason in find_reasons(found, asked["single"])
    ]
    if old:
        reasons.append(f"HAProxy runs without the changes of {', '.join(old)}: see its journal, or reload it")
    versions = {"haproxy": information["Version"].split("-")[0]}
    status |= {"healthy": not reasons, "reasons": reasons, "versions": versions}
    return {
        "recovery_status": status,
        "endpoints": endpoints,
        "stale_files": old,
        "max_connections": int(information["Maxconn"]),
    }


def run(params: dict[str, Any]) -> dict[str, Any]:
    if params["timeout"] is None:
        return read(params)

    def healthy() -> dict[str, Any]:
        found = read(params)
        if found["recovery_status"]["healthy"]:
            return found
        raise MusterError("; ".join(found["recovery_status"]["reasons"]))

    what = "HAProxy to serve every endpoint" if params["endpoints"] else "HAProxy to take its configuration"
    return wait_until(healthy, what, params["timeout"])


def main() -> None:
    endpoint = {
        "name": {"type": "str", "required": True},
        "port": {"type": "int", "required": True},
        "fallback": {"type": "str", "default": ""},
        "single": {"type": "bool", "default": False},
    }
    module = AnsibleModule(
        argument_spec={
            "endpoints": {"type": "list", "elements": "dict", "required": True, "options": endpoint},
            "region": {"type": "str", "default": ""},
            "address": {"type": "str", "default": "127.0.0.1"},
            "socket": {"type": "path", "default": "/run/haproxy/admin.sock"},
            "files": {"type": "list", "elements": "path", "default": []},
            "timeout": {"type": "float"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(changed=False, **run(module.params))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
