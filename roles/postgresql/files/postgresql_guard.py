#!/usr/bin/python3
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""May Patroni start here? Run before each start of it, as ExecStartPre.

A region that was lost comes back with its old data and an etcd that still calls it
primary: left alone, its Patroni would open a second primary. So where the own region's
configuration makes it primary, the other regions' etcds are asked first, each by a read
that needs a quorum. One that is primary forbids the start, and so does one that does not
answer: what is not known is not safe. systemd tries again.

Nothing is asked where PostgreSQL runs on this host already, or another host of the region
is seen to take writes: then Patroni only takes up its place. The leader that etcd names
proves nothing: an etcd that was killed gives the old leader a fresh lease when it returns.

Ends 0 when Patroni may start, else 1 with one sentence, also kept in the file that
C(reason) of the configuration names. Only the standard library.

usage: postgresql_guard.py CONFIGURATION
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import sys
import urllib.parse
from typing import Any

TIMEOUT = 2.0


class Unknown(Exception):
    """What a region's etcd holds could not be read."""


class Refused(Exception):
    """Patroni may not start; the text says why."""


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Region:
    """One region's etcd, and the keys of its Patroni cluster."""

    def __init__(self, name: str, scope: str, endpoints: list[str], context: ssl.SSLContext) -> None:
        self.name = name
        self.scope = scope
        self.endpoints = endpoints
        self.context = context

    def read(self) -> tuple[dict[str, Any] | None, str | None]:
        """Its configuration and its leader, read at one moment; None for what is not there."""
        ranges = [
            {"request_range": {"key": b64(f"/service/{self.scope}/{key}")}} for key in ("config", "leader")
        ]
        failures = []
        for endpoint in self.endpoints:
            try:
                answer = self._ask(endpoint, {"success": ranges})
                found = [part["response_range"].get("kvs", []) for part in answer["responses"]]
                values = [base64.b64decode(pairs[0]["value"]).decode() if pairs else None for pairs in found]
                config = json.loads(values[0]) if values[0] else None
                return config if isinstance(config, dict) else None, values[1]
            except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
                failures.append(f"{endpoint}: {error or type(error).__name__}")
        raise Unknown(f"no etcd of region {self.name} answers ({'; '.join(failures)})")

    def _ask(self, endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
        url = urllib.parse.urlsplit(endpoint)
        connection = http.client.HTTPSConnection(
            url.hostname or "", url.port or 2379, timeout=TIMEOUT, context=self.context
        )
        try:
            connection.request("POST", "/v3/kv/txn", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
            if response.status != 200:
                raise OSError(f"HTTP status {response.status}: {text[:100]}")
            answer = json.loads(text)
        finally:
            connection.close()
        if not isinstance(answer, dict):
            raise ValueError("an unexpected answer")
        return answer


def is_standby(config: dict[str, Any] | None) -> bool:
    """By Patroni's own rule."""
    section = (config or {}).get("standby_cluster")
    return isinstance(section, dict) and any(section.get(key) for key in ("host", "port", "restore_command"))


def runs(data_directory: str) -> bool:
    """Whether the server whose data these are runs on this host."""
    try:
        with open(f"{data_directory}/postmaster.pid", encoding="utf-8") as stream:
            process = int(stream.readline())
        # An upgrade replaces the program of a running server; after a reboot the number may be another's.
        program = os.readlink(f"/proc/{process}/exe").removesuffix(" (deleted)")
        place = os.readlink(f"/proc/{process}/cwd")
        return os.path.basename(program) == "postgres" and place == os.path.realpath(data_directory)
    except (OSError, ValueError):
        return False


def takes_writes(host: str, port: int, context: ssl.SSLContext) -> bool:
    """Whether a host says of itself, now, that it is primary."""
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=context)
    try:
        connection.request("GET", "/primary")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def decide(given: dict[str, Any], own: Region, others: list[Region]) -> None:
    """Return when Patroni may start; Refused says why not."""
    if os.path.exists(given["marker"]):
        raise Refused(f"this host is fenced ({given['marker']}): dr_reprotect brings it back")
    if runs(given["data_directory"]):
        return
    try:
        config, leader = own.read()
        if is_standby(config):
            return
        if leader and leader != given["host"] and takes_writes(leader, given["api_port"], own.context):
            return
        for region in others:
            theirs, _leader = region.read()
            if theirs is not None and not is_standby(theirs):
                raise Refused(
                    f"region {region.name} is primary: as a second primary {own.name} would lose writes; "
                    "dr_reprotect brings it back as a standby"
                )
    except Unknown as error:
        raise Refused(
            f"{error}: whether another region is primary is not known, so {own.name} waits; "
            "when that region is lost for good, dr_failover to this one decides it"
        ) from error


def note(path: str, text: str) -> None:
    """Keep the reason where others find it; empty when there is none."""
    try:
        if not text:
            if os.path.exists(path):
                os.unlink(path)
            return
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text + "\n")
    except OSError:
        pass  # the journal has it


def main(path: str) -> int:
    with open(path, encoding="utf-8") as stream:
        given = json.load(stream)
    reason = ""
    try:
        context = ssl.create_default_context(cafile=given["ca_certificate"])
        context.load_cert_chain(given["certificate"], given["private_key"])
        regions = {
            name: Region(name, scope, given["etcd_endpoints"].get(name, []), context)
            for name, scope in given["scopes"].items()
        }
        own = regions.pop(given["region"])
        decide(given, own, list(regions.values()))
    except Refused as error:
        reason = str(error)
    except OSError as error:
        reason = f"the TLS files of {path} cannot be used: {error}"
    note(given["reason"], reason)
    if reason:
        print(f"Patroni may not start: {reason}", file=sys.stderr)
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
