# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Talking to what keeps the regions of the object store in their roles, and to the stores' filers.

The role's files/muster_object_storage.py is the other end. A region's state is C(role), C(primary) and an
C(epoch) that grows with each change; a change names the epoch that it has seen, so that two who change at
once cannot both succeed.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import secrets
import socket
import ssl
import subprocess
import time
import urllib.parse
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

CONFIGURATION = "/etc/seaweedfs/muster.json"
OPTIONS: dict[str, Any] = {"configuration": {"type": "path", "default": CONFIGURATION}}
TIMEOUT = 3.0
HEADER = b'{"alg":"HS256","typ":"JWT"}'
STATE = "/muster/region.json"
OWN = "/buckets/.muster"  # canaries
DIRECTORY = 1 << 31  # in the mode of a filer's entry
PAGE = 2000  # entries of a listing that are asked for at a time


class Conflict(MusterError):
    """A change was refused by the region itself: nothing has been changed."""


class Silent(MusterError):
    """Nobody answered: of a change it is not known whether it was made."""


def token(key: str, seconds: int = 10) -> str:
    """What SeaweedFS, and the program beside it, take as proof that somebody knows the key."""

    def text(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    claims = json.dumps({"exp": int(time.time()) + seconds}).encode()
    signed = f"{text(HEADER)}.{text(claims)}"
    return f"{signed}.{text(hmac.new(key.encode(), signed.encode(), hashlib.sha256).digest())}"


@dataclass
class Region:
    """What one host says of its region; C(error) when it does not answer."""

    name: str
    host: str
    told: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def state(self) -> dict[str, Any]:
        return self.told.get("state") or {}

    @property
    def role(self) -> str | None:
        return self.state.get("role")

    @property
    def epoch(self) -> int:
        return int(self.state.get("epoch") or 0)

    @property
    def known(self) -> bool:
        """Whether it answers and knows its own role, or knows that it has none yet."""
        return self.error is None and not self.told.get("reason_unknown")

    @property
    def open(self) -> bool:
        return bool(self.told.get("open"))

    @property
    def trouble(self) -> str:
        return self.error or self.told.get("reason_unknown") or self.told.get("reason") or ""


class Stores:
    """All regions' stores, as seen from this host."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.region: str = given["region"]
        self.host: str = given["host"]
        self.regions: dict[str, list[str]] = given["regions"]

    @classmethod
    def load(cls, path: str) -> Stores:
        try:
            given = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls({**given, "configuration": path})
        except (OSError, ValueError) as error:
            raise MusterError(
                f"{path}, which the role object_storage writes, cannot be read: {error}"
            ) from error

    def request(
        self,
        method: str,
        host: str,
        port: int,
        path: str,
        body: bytes | None = None,
        write: bool = False,
        timeout: float = TIMEOUT,
    ) -> tuple[int, bytes]:
        key = self.given["write_key" if write else "read_key"]
        connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=self.context)
        headers = {"Authorization": f"Bearer {token(key)}", "Content-Type": "application/json"}
        headers["Accept"] = "application/json"
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Silent(f"{host}:{port} does not answer ({error or type(error).__name__})") from error
        finally:
            connection.close()

    @cached_property
    def context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.given["ca_certificate"])
            context.load_cert_chain(self.given["certificate"], self.given["private_key"])
        except OSError as error:
            raise MusterError(
                f"the TLS files in {self.given['certificate']} cannot be used: {error}"
            ) from error
        return context

    # --- states ---

    def ask(self, name: str) -> Region:
        """What a region says; from the first of its hosts that answers."""
        errors = []
        for host in self.regions[name]:
            try:
                status, body = self.request("GET", host, self.given["port"], "/state")
                told = json.loads(body)
                if status == 200:
                    return Region(name, host, told)
                errors.append(f"{host} answers {status}: {told.get('error', '')}")
            except (MusterError, ValueError) as error:
                errors.append(str(error))
        return Region(name, self.regions[name][0], error="; ".join(errors))

    def survey(self) -> dict[str, Region]:
        return {name: self.ask(name) for name in self.regions}

    def change(self, region: Region, epoch: int, timeout: float = 15.0, **wanted: Any) -> Region:
        """Change a region from what C(region) says it is; Conflict when it is not so any more."""
        body = json.dumps({"expect": region.epoch, "epoch": epoch, **wanted}).encode()
        status, answer = self.request(
            "POST", region.host, self.given["port"], "/state", body, write=True, timeout=timeout
        )
        try:
            told = json.loads(answer)
        except ValueError as error:
            raise Silent(f"{region.host} answers {status} without a sense") from error
        if status == 200:
            return Region(region.name, region.host, told)
        kind = Conflict if status in (400, 401, 409) else Silent
        raise kind(f"region {region.name} did not change: {told.get('error', status)}")

    # --- filers ---

    def put(self, host: str, path: str, body: bytes) -> None:
        status, answer = self.request("PUT", host, self.given["filer_port"], path, body, write=True)
        if status not in (200, 201):
            raise MusterError(f"the store of {host} did not take {path}: {status} {answer[:100]!r}")

    def get(self, host: str, path: str, query: str = "") -> bytes | None:
        """What a store holds there; None when it holds nothing."""
        address = f"{urllib.parse.quote(path)}?{query}" if query else urllib.parse.quote(path)
        status, body = self.request("GET", host, self.given["filer_port"], address)
        if status == 404:
            return None
        if status != 200:
            raise MusterError(f"the store of {host} answers {status} for {path}")
        return body

    def files(self, host: str, directory: str, most: int) -> list[str]:
        """Files of a store below a directory, no more than C(most)."""
        found: list[str] = []
        waiting = [directory]
        while waiting and len(found) < most:
            body = self.get(host, f"{waiting.pop()}/", f"limit={most}")
            for entry in json.loads(body or b"{}").get("Entries") or []:
                if not entry["Mode"] & DIRECTORY:
                    found.append(entry["FullPath"])
                elif not entry["FullPath"].startswith("/buckets/."):
                    waiting.append(entry["FullPath"])
        return found[:most]

    def names(self, host: str, directory: str) -> list[str]:
        """The names of all files in a directory, not below it; none where there is no directory."""
        found: list[str] = []
        after = ""
        while True:
            query = f"limit={PAGE}&lastFileName={urllib.parse.quote(after, safe='')}"
            entries = json.loads(self.get(host, f"{directory}/", query) or b"{}").get("Entries") or []
            if not entries:
                return found
            found += [_name(entry) for entry in entries if not entry["Mode"] & DIRECTORY]
            after = _name(entries[-1])

    def remove(self, host: str, path: str) -> None:
        query = f"{urllib.parse.quote(path)}?recursive=true&ignoreRecursiveError=true"
        status, answer = self.request("DELETE", host, self.given["filer_port"], query, write=True)
        if status not in (200, 202, 204, 404):
            raise MusterError(f"the store of {host} did not remove {path}: {status} {answer[:100]!r}")

    def send_canary(self, source: Region, target: Region, name: str, timeout: float) -> None:
        """Write something into one region, past the gateway, and wait until it has arrived in the other."""
        # Under a name of its own in each epoch: one that the target had written later would not be replaced.
        path, body = f"{OWN}/{name}-{source.epoch}.json", json.dumps({"nonce": secrets.token_hex(8)}).encode()
        self.put(source.host, path, body)
        what = f"a canary from {source.name} to arrive in {target.name}"
        wait_until(lambda: self.get(target.host, path) == body, what, timeout, 0.05)

    # --- comparing ---

    def compare(
        self, source: str, target: str, recent: float = 0.0, action: str = "compare", timeout: float = 3600
    ) -> dict[str, Any]:
        """What the target lacks of the source's buckets; with the action C(repair) it is sent again."""
        argv = ["/usr/bin/python3", "-I", self.given["program"], self.given["configuration"], action]
        argv += ["--source", source, "--target", target, "--recent", str(recent)]
        try:
            done = subprocess.run(  # pylint: disable=ansible-bad-function
                argv, capture_output=True, text=True, timeout=timeout, check=False
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise MusterError(f"{source} and {target} could not be compared: {error}") from error
        if done.returncode != 0:
            raise MusterError(done.stderr.strip() or f"{source} and {target} could not be compared")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def s3_listens(self, host: str) -> bool:
        """Whether anything takes connections where the gateway would."""
        try:
            socket.create_connection((host, self.given["s3_port"]), timeout=TIMEOUT).close()
        except ConnectionRefusedError:
            return False
        except OSError as error:
            raise Silent(f"{host}:{self.given['s3_port']} cannot be asked ({error})") from error
        return True

    def s3_healthy(self, host: str) -> bool:
        """Whether the gateway there serves: what a load balancer asks as well."""
        try:
            context = ssl.create_default_context(cafile=self.given["ca_certificate"])
            connection = http.client.HTTPSConnection(
                host, self.given["s3_port"], timeout=1.0, context=context
            )
            with contextlib.closing(connection):
                connection.request("GET", "/healthz")
                return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False


def _name(entry: dict[str, Any]) -> str:
    return str(entry["FullPath"]).rpartition("/")[2]


def missing(found: dict[str, Any]) -> int:
    """How many entries the target lacks or holds differently."""
    return len(found["missing"]) + len(found["different"])


def other_region(stores: Stores, what: str) -> str:
    """The region that is not this one."""
    others = [name for name in stores.regions if name != stores.region]
    if len(others) != 1:
        raise MusterError(f"{what} needs two regions, there are {len(others) + 1}")
    return others[0]
