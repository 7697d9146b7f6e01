# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writing the canary's numbers to an object store over S3.

A number is a small object whose name ends in it, padded with zeros, so that names are in the order of
numbers. It counts as acknowledged when the store answers 200. Requests are signed by botocore, and sent
over the canary's own connection: what that saves is told in muster_canary_wire.

Who answers is the region's store, so that the region's name stands for the host. Its timeline is an
object beside the numbers, which each region has its own copy of, and which says for which region it
counts: a region whose copy speaks of another one has been opened since, and counts on. It is read each
time a connection is new. It cannot hide a second writer by being old: what was opened later counts
more, or the same under the name of another region, and both tell the two apart.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from muster_canary import ATTEMPT_SECONDS, PRUNE_BATCHES
from muster_canary_wire import Rejected, WireSession, WireStore, answer_of

PREFIX = "canary/"
REGION = "canary-region.json"
DIGITS = 16
PRUNE_BATCH = 1000  # as many as S3 lists and deletes at a time
STATUS = {
    301: "rejected",
    307: "rejected",
    400: "rejected",
    403: "authentication",
    404: "rejected",
    507: "full",
}
CODE = re.compile(rb"<Code>([A-Za-z]{1,40})</Code>")
ENTRY = re.compile(r"<Contents>(.*?)</Contents>", re.DOTALL)
NAME = re.compile(r"<Key>([^<]+)</Key>")
CHANGED = re.compile(r"<LastModified>([^<]+)</LastModified>")


def key_of(sequence: int) -> str:
    return f"{PREFIX}{sequence:0{DIGITS}d}"


class ObjectSession(WireSession):
    """Puts objects through one endpoint of an object store."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        config = self.store.config
        self.bucket = config.options["bucket"]
        access = Credentials(config.user, config.password)
        self.signer = S3SigV4Auth(access, "s3", config.options["signing_region"])
        self.region = ""
        self.timeline = 0

    # --- requests ---

    def request(
        self, method: str, key: str, deadline: float, body: bytes = b"", query: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        endpoint = self.route.endpoint
        host = f"{endpoint.host}:{endpoint.port}"
        target = quote(f"/{self.bucket}/{key}" if key else f"/{self.bucket}")
        if query:
            target += "?" + urlencode(sorted(query.items()), quote_via=quote, safe="")
        request = AWSRequest(method, f"https://{host}{target}", data=body)
        request.headers["Host"] = host
        if method == "POST":
            digest = hashlib.md5(body, usedforsecurity=False).digest()
            request.headers["Content-MD5"] = base64.b64encode(digest).decode()
        self.signer.add_auth(request)
        # Not signed: a proxy or a server's library may write it in its own way.
        request.headers["Content-Length"] = str(len(body))
        lines = [f"{method} {target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in request.headers.items()]
        self.wire.send("\r\n".join([*lines, "", ""]).encode() + body, deadline)
        return answer_of(self.wire, method, deadline)

    def need(self, answer: tuple[int, bytes]) -> bytes:
        """The body of a 200; what else came is a refusal."""
        status, body = answer
        if status == 200:
            return body
        code = CODE.search(body)
        named = f" code={code[1].decode()}" if code else ""
        name = STATUS.get(status, "unavailable" if status >= 500 else "error")
        raise Rejected(f"{name} status={status}{named}", f"HTTP status {status}{named}")

    # --- who answers ---

    def greet(self, deadline: float) -> None:
        self.region = self.store.region_of(self.host, self.route)
        if self.region == "unknown":
            raise Rejected("unknown-region", f"nobody knows in which region {self.host or 'the server'} is")
        answer = self.request("GET", REGION, deadline)
        count = 0
        if answer[0] != 404:
            count, region = self.counted(self.need(answer))
            if region == self.region:
                self.timeline = count
                return
        self.timeline = count + 1
        body = json.dumps({"region": self.region, "timeline": self.timeline}).encode()
        self.need(self.request("PUT", REGION, deadline, body))

    @staticmethod
    def counted(body: bytes) -> tuple[int, str]:
        try:
            found = json.loads(body)
            return int(found["timeline"]), str(found["region"])
        except (ValueError, KeyError, TypeError) as error:
            raise Rejected("no-timeline", f"the object {REGION} holds {body[:80]!r}") from error

    # --- writing ---

    def put(self, sequence: int, deadline: float) -> str:
        body = f"{sequence} {self.route.endpoint.name}\n".encode()
        self.need(self.request("PUT", key_of(sequence), deadline, body))
        node = f" node={self.host}" if self.host in self.store.regions else ""
        return f"host={self.region} region={self.region} timeline={self.timeline}{node}"

    # --- removing what is old ---

    def prune(self, pause: Callable[[float], bool]) -> int:
        """Delete the objects that are older than they are kept, a thousand at a time."""
        limit = datetime.now(UTC) - timedelta(seconds=int(self.store.config.options["keep_seconds"]))
        removed = 0
        with self.guarded():
            self.connect(time.monotonic() + ATTEMPT_SECONDS)
            for _batch in range(PRUNE_BATCHES):
                old = self.older_than(limit, time.monotonic() + 10)
                if old:
                    self.delete(old, time.monotonic() + 10)
                removed += len(old)
                if len(old) < PRUNE_BATCH or pause(0.2):
                    break
        return removed

    def older_than(self, limit: datetime, deadline: float) -> list[str]:
        """The first thousand names, as far as they are that old."""
        listing = self.need(self.request("GET", "", deadline, query={"list-type": "2", "prefix": PREFIX}))
        found = []
        for entry in ENTRY.findall(listing.decode()):
            name, changed = NAME.search(entry), CHANGED.search(entry)
            if name and changed and datetime.fromisoformat(changed[1]) < limit:
                found.append(html.unescape(name[1]))
        return found

    def delete(self, names: list[str], deadline: float) -> None:
        entries = "".join(f"<Object><Key>{html.escape(name)}</Key></Object>" for name in names)
        body = f"<Delete><Quiet>true</Quiet>{entries}</Delete>".encode()
        answer = self.need(self.request("POST", "", deadline, body, {"delete": ""}))
        if b"<Error>" in answer:
            raise Rejected("rejected", f"not all of {len(names)} old objects could be removed")


class ObjectStore(WireStore):
    """An object store behind one endpoint per region."""

    session_class = ObjectSession
    # An object costs a store more than a row: it compares all of them with the other region's, now and then.
    prune_every = 120.0


STORE = ObjectStore
