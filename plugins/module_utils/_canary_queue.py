# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reading the canary's queue and leaving everything in it: nothing is acknowledged.

Whose connections these are is the caller's: the canary's own in a region that takes writes, the operator's
in one that lets no application in.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

PREFETCH = 50_000
# Seconds without a next message, after which what is missing is not waited for.
IDLE = 10.0
# Seconds without a next message, after which the queue is asked whether it has another one. It is read once
# for each, because on a busy machine messages may be under way for long.
PATIENCE = (0.5, 2.0, 8.0)
# Seconds until the count of a queue is believed, of which fewer messages came than it had.
SETTLE = 0.5


Connect = Callable[[], AbstractContextManager[Any]]


def look_at(connection: Any, queue: str) -> tuple[int, int]:
    """Messages that are ready, and consumers, as the queue counts them now."""
    channel = connection.channel()
    found = channel.queue_declare(queue, passive=True).method
    channel.close()
    return found.message_count, found.consumer_count


def count_messages(watch: Any, queue: str) -> int:
    """How many messages there are; a MusterError when somebody may hold some of them back."""
    count, consumers = look_at(watch, queue)
    if consumers:
        raise MusterError(f"somebody else reads {queue}, so what it holds is not known")
    return count


def read_queue(connect: Connect, watch: Any, queue: str, count: int) -> list[str]:
    """The ids of that many messages, from the head of the queue on."""
    if count > PREFETCH:
        raise MusterError(
            f"{queue} has {count} messages, and {PREFETCH} are read at most: give it a shorter x-message-ttl"
        )
    for patience in PATIENCE:
        with connect() as connection:
            found = _consume(connection, watch, queue, count, patience)
        _returned(watch, queue, len(found))
        if len(found) >= count:
            return found
        time.sleep(SETTLE)
        left = _returned(watch, queue, len(found))
        # Fewer than there were: the others have expired, or were under way to the reader and are back too.
        if len(found) >= left:
            return found
    raise MusterError(f"{queue} has {left} messages, and gave {len(found)}: what it holds is not known")


def _returned(watch: Any, queue: str, read: int) -> int:
    """How many are ready when all that was read is back: at once, a moment after the consumer is gone."""

    def look() -> tuple[int]:
        ready, consumers = look_at(watch, queue)
        # A few may have expired.
        if consumers or 2 * ready < read:
            raise MusterError(f"{ready} are ready, and {consumers} consumers are there")
        return (ready,)

    return wait_until(look, f"the messages to be back in {queue}", IDLE)[0]


def _consume(connection: Any, watch: Any, queue: str, count: int, patience: float) -> list[str]:
    """They all go back to their places when the connection ends."""
    found: list[str] = []

    def take(_channel: Any, _method: Any, properties: Any, _body: Any) -> None:
        found.append(str(properties.message_id))

    channel = connection.channel()
    channel.basic_qos(prefetch_count=PREFETCH)
    channel.basic_consume(queue, take)
    seen, came = 0, time.monotonic()
    while len(found) < count:
        connection.process_data_events(time_limit=0.2)
        silence = time.monotonic() - came
        if len(found) > seen:
            seen, came = len(found), time.monotonic()
        # Where nobody writes any more, the oldest expire meanwhile. The others are here, or under way.
        elif silence >= patience and look_at(watch, queue) == (0, 1):
            break
        elif silence >= IDLE:
            raise MusterError(
                f"{queue} has {count} messages, and gave {len(found)}: what it holds is not known"
            )
    return found


def numbers_of(ids: Iterable[str]) -> Counter[int]:
    """The canary's numbers among the ids of messages, with how often each is there."""
    return Counter(int(text) for text in ids if text.isascii() and text.isdecimal())
