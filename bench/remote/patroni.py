# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The bare Patroni sequence that moves the primary role to another region, and nothing else.

Runs on a PostgreSQL host. Reads one line of JSON (action, regions, and for a
switch target and standby_cluster) and prints one. It knows nothing of Muster: it
is what a careful person would type, without the checks, locks and ways back.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import time
from typing import Any

TLS = "/etc/muster/postgresql"
PORT = 8008
POLL = 0.03
SETTLE_SECONDS = 90.0
SWITCH_SECONDS = 60.0


def context() -> ssl.SSLContext:
    found = ssl.create_default_context(cafile=f"{TLS}/ca.crt")
    found.load_cert_chain(f"{TLS}/server.crt", f"{TLS}/server.key")
    return found


CONTEXT = context()


def request(host: str, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPSConnection(host, PORT, timeout=5, context=CONTEXT)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        text = answer.read()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, {}
    finally:
        connection.close()


def cluster(hosts: list[str]) -> list[dict[str, Any]]:
    """The members of a region; none when nobody answers."""
    for host in hosts:
        try:
            return list(request(host, "GET", "/cluster")[1]["members"])
        except (OSError, http.client.HTTPException, KeyError):
            continue
    return []


def named(members: list[dict[str, Any]], *roles: str) -> list[str]:
    return [str(member["name"]) for member in members if member["role"] in roles]


def unsettled(regions: dict[str, list[str]], found: dict[str, list[dict[str, Any]]]) -> str:
    """What is not yet as it is in peace; empty when all is."""
    primaries = [name for members in found.values() for name in named(members, "leader", "primary", "master")]
    timelines = {member.get("timeline") for members in found.values() for member in members}
    if len(primaries) != 1:
        return f"primaries: {primaries}"
    if len(timelines) != 1:
        return f"timelines: {timelines}"
    for region, members in found.items():
        if len(members) != len(regions[region]) or len(named(members, "leader", "standby_leader")) != 1:
            return f"members of {region}: {members}"
        for member in members:
            wanted = "running" if member["name"] in primaries else "streaming"
            if member["state"] != wanted or (wanted == "streaming" and member.get("lag") not in (0, None)):
                return f"{member['name']} is {member['state']}, lag {member.get('lag')}"
    return ""


def settle(regions: dict[str, list[str]]) -> dict[str, Any]:
    """Wait until one region has the primary and everybody else streams from it without lag."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        found = {region: cluster(hosts) for region, hosts in regions.items()}
        why = unsettled(regions, found)
        if not why:
            break
        if time.monotonic() > deadline:
            sys.exit(f"not settled after {SETTLE_SECONDS:.0f} s: {why}")
        time.sleep(0.3)
    region, primary = next(
        (region, names[0])
        for region, members in found.items()
        if (names := named(members, "leader", "primary", "master"))
    )
    return {"primary_region": region, "primary": primary}


def holds_all(old: str, new: str) -> bool:
    """Whether the old primary is in recovery and the new one has replayed all that it holds."""
    _status, there = request(old, "GET", "/patroni")
    _status, here = request(new, "GET", "/patroni")
    left = there.get("xlog", {})
    if there.get("role") in ("primary", "master") or "replayed_location" not in left:
        return False
    held = max(left.get("received_location") or 0, left["replayed_location"] or 0)
    return bool(held) and (here.get("xlog", {}).get("replayed_location") or 0) >= held


def switch(regions: dict[str, list[str]], target: str, standby_cluster: dict[str, Any]) -> dict[str, Any]:
    source = next(region for region in regions if region != target)
    (old,) = named(cluster(regions[source]), "leader", "primary", "master")
    (new,) = named(cluster(regions[target]), "standby_leader")
    began = time.monotonic()
    request(old, "PATCH", "/config", {"standby_cluster": standby_cluster})
    while not retried(lambda: holds_all(old, new)):
        if time.monotonic() - began > SWITCH_SECONDS:
            sys.exit(f"{new} does not hold all of {old} after {SWITCH_SECONDS:.0f} s")
        time.sleep(POLL)
    caught_up = time.monotonic()
    request(new, "PATCH", "/config", {"standby_cluster": None})
    while not retried(lambda: request(new, "GET", "/primary")[0] == 200):
        if time.monotonic() - began > SWITCH_SECONDS:
            sys.exit(f"{new} is no primary after {SWITCH_SECONDS:.0f} s")
        time.sleep(POLL)
    return {"catch_up_seconds": caught_up - began, "seconds": time.monotonic() - began}


def retried(check: Any) -> bool:
    try:
        return bool(check())
    except (OSError, http.client.HTTPException):
        return False


def main() -> None:
    given = json.loads(sys.stdin.readline())
    if given["action"] == "settle":
        result = settle(given["regions"])
    else:
        result = switch(given["regions"], given["target"], given["standby_cluster"])
    print(json.dumps(result))


main()
