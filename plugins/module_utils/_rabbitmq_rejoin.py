# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bringing a region of RabbitMQ back as a standby, after everything that only it has was saved."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _rabbitmq_move as move
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._files import sync, write_file
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq import Region, Role, now
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq_declared import (
    BACKLOG,
    followed_queues,
)
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq_objects import bring
from ansible_collections.muster.platform.plugins.module_utils._ranges import to_ranges
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

GONE = 10.0  # seconds until a consumer that has gone is gone for the broker too
IDLE = 0.5  # seconds without a message, after which the queue is asked whether it has more
BATCH = 500  # a quorum queue stops at 2000 that are not acknowledged


def plain(value: Any) -> Any:
    """A header as JSON takes it."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def line(vhost: str, queue: str, method: Any, properties: Any, body: bytes) -> str:
    """One message, whole."""
    found = {name: plain(value) for name, value in vars(properties).items() if value is not None}
    found |= {
        "vhost": vhost,
        "queue": queue,
        "exchange": method.exchange,
        "routing_key": method.routing_key,
        "redelivered": method.redelivered,
        "headers": plain(properties.headers or {}),
        "body": base64.b64encode(body).decode(),
    }
    return json.dumps(found, sort_keys=True) + "\n"


def _done(own: Role, newest: Role) -> bool:
    return (own.role, own.epoch, own.moving_to) == ("standby", newest.epoch, "")


@dataclass
class Rejoin:
    """The way of one region back to be a standby."""

    regions: Mapping[str, Region]
    name: str
    declared: Mapping[str, Any]
    save_directory: str
    timeout: float
    canary: tuple[str, str] = ("", "")  # virtual host and name of the canary's queue
    numbers: set[int] = field(default_factory=set)  # of the canary, among what was saved

    @property
    def own(self) -> Region:
        return self.regions[self.name]

    def look(self) -> Region:
        """The region that is primary; refuses when none is, so that nothing is closed for nothing."""
        return self._primary()[0]

    def _primary(self) -> tuple[Region, Role]:
        for name, region in self.regions.items():
            role = None if name == self.name else region.role()
            if role is not None and role.role == "primary":
                return region, role
        raise MusterError(
            f"refused: no other region is primary, so {self.name} is not to be a standby; "
            "dr_failover decides which region is to be primary"
        )

    def assess(self) -> tuple[Region, Role, Role]:
        """The primary region with its role, and what this one's record says."""
        primary, newest = self._primary()
        own = self.own.role()
        if own is None:
            raise MusterError(f"region {self.name} has no role yet: run site.yml")
        if own.role == "primary" and own.epoch >= newest.epoch:
            raise MusterError(
                f"refused: {self.name} is primary with epoch {own.epoch}, {primary.name} with {newest.epoch}"
            )
        return primary, newest, own

    def run(self, holder: str) -> dict[str, Any]:
        primary, newest, own = self.assess()
        if not _done(own, newest):
            # Before the gate opens, which it does when the region is no primary any more.
            move.close(self.own, self.declared, self.timeout)
            # A move that is under way, and with the old epoch until all is saved: a rerun begins here again.
            self.own.set_role(Role("standby", own.epoch, now(), primary.name))
        wait_until(self.own.lets_in, f"region {self.name} to let the operator in", self.timeout)
        with self.own.lock(holder, self.timeout):
            # The one that had the lock may have done it all, and what is in the queues is a standby's copy.
            primary, newest, own = self.assess()
            done = _done(own, newest)
            saved = None
            if not done:
                # One that carried over when the region was lost would bring in more.
                move.drop_links(self.own, move.carrying(self.own))
                saved = self.save()
                # Before it pulls: what it gets from then on is not to be saved but to be kept.
                self.own.set_role(Role("standby", newest.epoch))
            change = bring(self.own, self.declared, "standby")
            move.wait_for_links(self.own, primary, self.declared, self.timeout)
        return {"changed": bool(change) or not done, "saved": saved}

    # --- saving ---

    def save(self) -> dict[str, Any] | None:
        """Every message to a file before it leaves its queue."""
        kinds = {
            "only-here": move.backlogs(self.own, self.declared),
            "copies": followed_queues(self.declared),
        }
        depths = self.own.depths([key for keys in kinds.values() for key in keys])
        if not any(ready for ready, _consumers in depths.values()):
            return None
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        directory = os.path.join(self.save_directory, f"rabbitmq-{self.name}-{stamp}")
        try:
            return self._save(directory, kinds)
        except OSError as error:
            raise MusterError(
                f"cannot save to {directory}: {error.strerror}; what is not in it is still in its queue"
            ) from error

    def _save(self, directory: str, kinds: Mapping[str, list[tuple[str, str]]]) -> dict[str, Any]:
        os.makedirs(directory, mode=0o700)
        sync(self.save_directory)
        sync(os.path.dirname(os.path.abspath(self.save_directory)))
        queues: dict[str, int] = {}
        totals = dict.fromkeys(kinds, 0)
        for kind, keys in kinds.items():
            for vhost, name in keys:
                count = self.drain(vhost, name, os.path.join(directory, f"{kind}.jsonl"))
                queues[f"{vhost}/{name}"] = count
                totals[kind] += count
        found = {
            "directory": directory,
            "only_here": totals["only-here"],
            "copies": totals["copies"],
            "queues": queues,
            "canary": to_ranges(sorted(self.numbers)),
        }
        write_file(
            os.path.join(directory, "summary.json"), json.dumps({**found, "saved_at": now()}) + "\n", 0o600
        )
        return found

    def drain(self, vhost: str, name: str, path: str) -> int:
        """Take all out of a queue; acknowledged in batches, each when it is on the disk."""
        count, deadline = 0, time.monotonic() + self.timeout
        while True:
            count += self.take(vhost, name, path)
            # On a busy machine messages may be under way for longer than they were waited for.
            ready = self.rest(vhost, name)
            if not ready:
                return count
            if time.monotonic() >= deadline:
                raise MusterError(
                    f"{name} of {vhost} still has {ready} messages after {count} were saved: run it again"
                )

    def take(self, vhost: str, name: str, path: str) -> int:
        """Take what comes, until nothing is ready and nothing comes any more."""
        count = 0
        counts = (vhost, name) in (self.canary, (self.canary[0], self.canary[1] + BACKLOG))
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with open(descriptor, "w", encoding="utf-8") as stream, self.own.amqp(vhost) as connection:
            channel = connection.channel()
            channel.basic_qos(prefetch_count=BATCH)
            tag = None
            # Sent without being asked for: a request for each would take milliseconds each.
            for method, properties, body in channel.consume(name, inactivity_timeout=IDLE):
                if method is not None:
                    tag = method.delivery_tag
                    stream.write(line(vhost, name, method, properties, body))
                    count += 1
                    if counts and str(properties.message_id).isdecimal():
                        self.numbers.add(int(properties.message_id))
                if tag is not None and (method is None or count % BATCH == 0):
                    stream.flush()
                    os.fsync(stream.fileno())
                    sync(os.path.dirname(path))
                    channel.basic_ack(tag, multiple=True)
                    tag = None
                if method is None and not self.left(vhost, name):
                    break
            channel.cancel()
            channel.close()
        return count

    def left(self, vhost: str, name: str) -> int:
        """Messages that a queue holds, and that nobody is being sent."""
        return self.own.depths([(vhost, name)])[vhost, name][0]

    def rest(self, vhost: str, name: str) -> int:
        """The same once what was on its way to us is back, because nobody reads any more."""

        def look() -> tuple[int] | None:
            ready, consumers = self.own.depths([(vhost, name)])[vhost, name]
            return None if consumers else (ready,)

        return wait_until(look, f"nobody to read {name} of {vhost} any more", GONE)[0]
