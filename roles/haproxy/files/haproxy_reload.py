#!/usr/bin/python3
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What HAProxy's reload lacks.

usage: haproxy_reload.py save|drain

save   Write down which servers are up. A new process otherwise takes all of them for up until its
       first checks are done, and leads clients to standbys meanwhile. Run before a reload.
drain  An old process that a reload left to its connections checks no servers any more, so it would
       keep clients on an old primary. Cut its sessions on every server that the new process sees
       go down, for as long as there are old processes.
"""

from __future__ import annotations

import csv
import os
import re
import socket
import sys
import time

ADMIN_SOCKET = "/run/haproxy/admin.sock"
MASTER_SOCKET = "/run/haproxy-master.sock"
STATE_FILE = "/run/haproxy-servers.state"
TIMEOUT = 2.0
INTERVAL = 0.25
BATCH = 50
SESSION = re.compile(r"^(0x[0-9a-f]+): .*? be=(\S+) srv=(\S+) ", re.MULTILINE)
# Until the new process has taken over.
PATIENCE = 10.0


def ask(path: str, command: str) -> str:
    """One command over a socket of HAProxy's, and all of its answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect(path)
        connection.sendall(command.encode() + b"\n")
        connection.shutdown(socket.SHUT_WR)
        answer = bytearray()
        while chunk := connection.recv(65536):
            answer += chunk
    return answer.decode()


def save() -> None:
    """Replace the state file at once, so that nobody reads half of it."""
    state = ask(ADMIN_SOCKET, "show servers state")
    with open(f"{STATE_FILE}.new", "w", encoding="utf-8") as stream:
        stream.write(state)
    os.replace(f"{STATE_FILE}.new", STATE_FILE)


def old_workers() -> list[int]:
    """The processes that earlier reloads left to their connections."""
    answer = ask(MASTER_SOCKET, "show proc")
    rows = answer.partition("# old workers")[2].partition("\n# ")[0].splitlines()
    return [int(row.split()[0]) for row in rows if len(row.split()) > 1 and row.split()[1] == "worker"]


def servers(answer: str) -> dict[tuple[str, str], dict[str, str]]:
    """The server rows of `show stat` by backend and server."""
    rows = csv.DictReader(answer.removeprefix("# ").splitlines())
    return {
        (row["pxname"], row["svname"]): row for row in rows if row["svname"] not in ("FRONTEND", "BACKEND")
    }


def cut(worker: int, down: set[tuple[str, str]]) -> None:
    """End the old process's sessions on servers that are down."""
    counts = servers(ask(MASTER_SOCKET, f"@!{worker} show stat"))
    busy = {name for name in down & set(counts) if int(counts[name]["scur"] or 0)}
    if not busy:
        return
    # An old process refuses `shutdown sessions server`: its backends count as disabled.
    found = SESSION.findall(ask(MASTER_SOCKET, f"@!{worker} show sess"))
    identifiers = [identifier for identifier, backend, server in found if (backend, server) in busy]
    where = ", ".join(sorted("/".join(name) for name in busy))
    print(f"cutting {len(identifiers)} sessions of the old process {worker} on {where}", flush=True)
    for first in range(0, len(identifiers), BATCH):
        batch = identifiers[first : first + BATCH]
        ask(MASTER_SOCKET, "; ".join(f"@!{worker} shutdown session {identifier}" for identifier in batch))


def drain() -> None:
    """Until there are no old processes any more."""
    patience = time.monotonic() + PATIENCE
    while True:
        try:
            workers = old_workers()
            if not workers and time.monotonic() > patience:
                return
            if workers:
                now = servers(ask(ADMIN_SOCKET, "show stat"))
                down = {name for name, row in now.items() if row["status"].startswith("DOWN")}
                for worker in workers:
                    cut(worker, down)
        except (OSError, ValueError, KeyError) as error:
            # HAProxy is being reloaded or stopped, or an old process just ended.
            print(f"HAProxy did not answer: {error}", flush=True)
            if time.monotonic() > patience and not os.path.exists(MASTER_SOCKET):
                return
        time.sleep(INTERVAL)


def main(arguments: list[str]) -> int:
    if arguments == ["save"]:
        try:
            save()
        except OSError as error:
            # Not a reason to keep the old configuration: the new process finds out by itself.
            print(f"the servers' states could not be saved: {error}", file=sys.stderr)
        return 0
    if arguments == ["drain"]:
        drain()
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
