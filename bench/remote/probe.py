# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write a row every few milliseconds through each endpoint, until the input ends.

Runs on the witness. Reads one line of JSON (interval, endpoints, database, user,
password, ca, table), and prints how long each endpoint went without an
acknowledged write.
"""

from __future__ import annotations

import json
import math
import select
import sys
import threading
import time
from typing import Any

import psycopg2
import psycopg2.extensions

# A write that hangs for so long is given up, and its connection with it.
ATTEMPT_SECONDS = 0.5
OUTLIVE_SECONDS = 30.0


class Prober(threading.Thread):
    """One client of one endpoint."""

    def __init__(self, given: dict[str, Any], endpoint: dict[str, Any], stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.given = given
        self.endpoint = endpoint
        self.stop = stop
        self.connection: Any = None
        self.attempts = 0
        self.last_error = ""
        self.acknowledged: list[float] = []

    def run(self) -> None:
        interval = self.given["interval"]
        tick = time.monotonic()
        while not self.stop.wait(max(0.0, tick - time.monotonic())):
            self.attempts += 1
            try:
                self.write(time.monotonic() + ATTEMPT_SECONDS)
                self.acknowledged.append(time.monotonic())
            except (psycopg2.Error, TimeoutError) as error:
                self.last_error = f"{type(error).__name__} {error}".strip()
                self.connection = None
            now = time.monotonic()
            tick += interval * max(1, math.ceil((now - tick) / interval))

    def write(self, deadline: float) -> None:
        if self.connection is None:
            self.connection = psycopg2.connect(
                host=self.endpoint["host"],
                port=self.endpoint["port"],
                dbname=self.given["database"],
                user=self.given["user"],
                password=self.given["password"],
                sslmode="verify-full",
                sslrootcert=self.given["ca"],
                gssencmode="disable",
                application_name="muster-bench",
                async_=1,
            )
            self.finish(deadline)
        cursor = self.connection.cursor()  # kept, as the connection itself does not keep it
        cursor.execute(f"insert into {self.given['table']} default values")
        self.finish(deadline)

    def finish(self, deadline: float) -> None:
        """Drive the connection until what it does is done."""
        while True:
            state = self.connection.poll()
            if state == psycopg2.extensions.POLL_OK:
                return
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            poller = select.poll()
            wanted = select.POLLOUT if state == psycopg2.extensions.POLL_WRITE else select.POLLIN
            poller.register(self.connection.fileno(), wanted)
            poller.poll(math.ceil(remaining * 1000))

    def alive_since(self, moment: float) -> bool:
        return bool(self.acknowledged) and self.acknowledged[-1] > moment

    def result(self) -> dict[str, Any]:
        pairs = zip(self.acknowledged, self.acknowledged[1:], strict=False)
        gaps = sorted(((later - earlier) for earlier, later in pairs), reverse=True)
        return {
            "endpoint": self.endpoint["host"],
            "attempts": self.attempts,
            "acknowledged": len(self.acknowledged),
            "last_error": self.last_error,
            "outage_seconds": round(gaps[0], 4) if gaps else None,
            "next_gap_seconds": round(gaps[1], 4) if len(gaps) > 1 else None,
        }


def main() -> None:
    given = json.loads(sys.stdin.readline())
    stop = threading.Event()
    probers = [Prober(given, endpoint, stop) for endpoint in given["endpoints"]]
    for prober in probers:
        prober.start()
    sys.stdin.read()
    # An outage that has not ended yet is not measured yet.
    asked = time.monotonic()
    while time.monotonic() < asked + OUTLIVE_SECONDS:
        if all(prober.alive_since(asked) for prober in probers):
            break
        time.sleep(0.05)
    stop.set()
    for prober in probers:
        prober.join(5)
    print(json.dumps({"endpoints": [prober.result() for prober in probers]}))


main()
