# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A client of HAProxy's endpoints, run on its host; prints what it saw as JSON.

usage: follow.py HAPROXY NORTH SOUTH     three host names
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import threading
import time

HAPROXY, NORTH, SOUTH = sys.argv[1:]
DIRECT, POOLER, READ_ONLY = 5432, 6432, 5433
# Whose checks are no request of HTTP, or one for a name.
OTHERS = 6380, 9000
ROLES = {NORTH: "primary", SOUTH: "standby_leader"}


class Session:
    """A connection, the host that it leads to, and when it was cut."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=3)
        self.stream = self.socket.makefile("r", encoding="ascii", newline="\n")
        self.host = self.stream.readline().strip()
        self.cut_at: float | None = None

    def say(self, text: str) -> bool:
        """Whether the other end repeats it."""
        try:
            self.socket.sendall(text.encode() + b"\n")
            return self.stream.readline().strip() == text
        except OSError:
            return False

    def watch(self) -> None:
        def wait() -> None:
            try:
                self.socket.settimeout(None)
                self.socket.recv(1)
            except OSError:
                pass
            self.cut_at = time.monotonic()

        threading.Thread(target=wait, daemon=True).start()

    def close(self) -> None:
        self.socket.close()


def where(port: int) -> str:
    """The host that a new connection leads to; empty when it leads nowhere."""
    try:
        session = Session(HAPROXY, port)
    except OSError:
        return ""
    session.close()
    return session.host


def become(**roles: str) -> None:
    for host, role in ((NORTH, roles.get("north")), (SOUTH, roles.get("south"))):
        if role:
            CONTROL[host].say(f"role {role}")


def wait_for(port: int, host: str, seconds: float = 5.0) -> float | None:
    """Seconds until new connections lead to a host."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        if where(port) == host:
            return time.monotonic() - started
        time.sleep(0.02)
    return None


def switch(old: str, new: str) -> tuple[float, float]:
    """Make another host primary: seconds until new sessions lead there, and until the old ones are cut."""
    sessions = [Session(HAPROXY, DIRECT), Session(HAPROXY, POOLER)]
    assert [session.host for session in sessions] == [old, old], "not at the old primary to begin with"
    for session in sessions:
        session.watch()
    CONTROL[old].say("role replica")
    CONTROL[new].say("role primary")
    started = time.monotonic()
    found = wait_for(DIRECT, new)
    assert found is not None, "never led to the new primary"
    assert wait_for(POOLER, new, 1) is not None, "the pooler's endpoint never led to the new primary"
    while any(session.cut_at is None for session in sessions) and time.monotonic() - started < 5:
        time.sleep(0.01)
    assert all(session.cut_at for session in sessions), "the sessions to the old primary live on"
    return found, max(session.cut_at or 0.0 for session in sessions) - started


def switches() -> dict[str, float]:
    """There and back twice; the medians, because the machine has other things to do."""
    times = [switch(NORTH, SOUTH), switch(SOUTH, NORTH), switch(NORTH, SOUTH), switch(SOUTH, NORTH)]
    return {
        "found_seconds": round(statistics.median(found for found, _cut in times), 3),
        "cut_seconds": round(statistics.median(cut for _found, cut in times), 3),
    }


def reading() -> dict[str, str]:
    """Where the read-only endpoint leads to: the host of HAProxy's region is NORTH."""
    result = {}
    become(north="primary", south="standby_leader")
    wait_for(READ_ONLY, SOUTH)
    result["own_primary_other_standby"] = where(READ_ONLY)
    become(south="none")
    wait_for(READ_ONLY, NORTH)
    result["primary_only"] = where(READ_ONLY)
    become(north="replica", south="replica")
    wait_for(READ_ONLY, NORTH)
    time.sleep(1.5)
    result["both_standbys"] = "".join({where(READ_ONLY) for _ in range(4)})
    return result


def others() -> list[str]:
    """Where the other endpoints lead to after a switch."""
    become(north="replica", south="primary")
    for port in OTHERS:
        wait_for(port, SOUTH)
    found = [where(port) for port in OTHERS]
    become(north="primary", south="standby_leader")
    wait_for(DIRECT, NORTH)
    return found


def two_primaries() -> str:
    become(north="primary", south="primary")
    time.sleep(1)
    host = where(DIRECT)
    become(south="standby_leader")
    wait_for(DIRECT, NORTH)
    return host


def reload() -> dict[str, object]:
    """A reload under connections, and a switch after it."""
    kept = [Session(HAPROXY, DIRECT), Session(HAPROXY, POOLER)]
    subprocess.run(["systemctl", "reload", "haproxy"], check=True)
    started, seen = time.monotonic(), set()
    while time.monotonic() - started < 1:
        seen.add(where(DIRECT))
        time.sleep(0.01)
    result: dict[str, object] = {
        "led_to": sorted(seen),
        "kept": [session.say("still here") for session in kept],
    }
    for session in kept:
        session.watch()
    become(north="replica", south="primary")
    started = time.monotonic()
    while any(session.cut_at is None for session in kept) and time.monotonic() - started < 5:
        time.sleep(0.02)
    result["cut_after_switch"] = [session.cut_at is not None for session in kept]
    become(north="primary", south="standby_leader")
    wait_for(DIRECT, NORTH)
    return result


def foreign_certificate() -> str:
    """The primary shows a certificate of the right CA with another host's name."""
    CONTROL[NORTH].say("certificate other.pem")
    time.sleep(1.5)
    host = where(DIRECT)
    CONTROL[NORTH].say("certificate server.pem")
    wait_for(DIRECT, NORTH)
    return host


CONTROL = {host: Session(host, DIRECT) for host in (NORTH, SOUTH)}
for host, role in ROLES.items():
    CONTROL[host].say(f"role {role}")
wait_for(DIRECT, NORTH)
print(
    json.dumps(
        {
            "switch": switches(),
            "reading": reading(),
            "others_after_the_switch": others(),
            "two_primaries": two_primaries(),
            "reload": reload(),
            "foreign_certificate": foreign_certificate(),
            "at_the_end": where(DIRECT),
        }
    )
)
