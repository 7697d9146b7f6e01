# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writing the canary's numbers to a Valkey, or to another server that speaks as Redis does.

A number is one bit, so that a month of numbers is a few megabytes of the server's memory. An
acknowledgement is the primary's: it has the write in its memory and in its append-only file as
C(appendfsync) says, and its replicas may not have it yet. That is what applications are promised too.
"""

from __future__ import annotations

import hashlib
from typing import Any

from muster_canary_wire import Rejected, WireSession, WireStore

BLOCK = 65536  # numbers in a key, 8 KiB; the modules that read them know this too
STATE = "{muster:canary}:state"
PREFIX = "{muster:canary}:"

# The write, and who answers for it, in one step. The timeline counts the lives of the server's history:
# each promotion, and each start of a primary, gives it a new name, by which a copy that was made primary
# is known at its first write. Two that came from one copy may count alike, but on two hosts, which tells
# them apart: a second writer is always seen.
SCRIPT = """
local line = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
redis.call('SETBIT', KEYS[2], ARGV[1], 1)
redis.call('EXPIRE', KEYS[2], ARGV[2])
if redis.call('HGET', KEYS[1], 'line') ~= line then
  redis.call('HINCRBY', KEYS[1], 'timeline', 1)
  redis.call('HSET', KEYS[1], 'line', line)
end
return redis.call('HGET', KEYS[1], 'timeline')
"""
DIGEST = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()

CODES = {
    "READONLY": "read-only",
    "LOADING": "unavailable",
    "MASTERDOWN": "unavailable",
    "NOREPLICAS": "unavailable",
    "CLUSTERDOWN": "unavailable",
    "BUSY": "unavailable",
    "MISCONF": "unavailable",
    "OOM": "full",
    "NOAUTH": "authentication",
    "WRONGPASS": "authentication",
    "NOPERM": "rejected",
    "MOVED": "rejected",
}


def pack(*words: str | int) -> bytes:
    """A command as the protocol has it."""
    parts = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


class ValkeySession(WireSession):
    """Writes through one endpoint of a Valkey."""

    def greet(self, deadline: float) -> None:
        config = self.store.config
        self.ask(deadline, "AUTH", config.user, config.password)

    def ask(self, deadline: float, *words: str | int) -> Any:
        self.wire.send(pack(*words), deadline)
        return self.reply(deadline)

    def reply(self, deadline: float) -> Any:
        """One answer: a string, a number or nothing. More is never asked for."""
        line = self.wire.read_until(b"\r\n", deadline)
        kind, text = line[:1], line[1:].decode("utf-8", "replace")
        if kind == b"+":
            return text
        if kind == b":":
            return int(text)
        if kind == b"$":
            length = int(text)
            return None if length < 0 else self.wire.read(length + 2, deadline)[:-2].decode()
        if kind == b"-":
            code = text.partition(" ")[0]
            known = code if code.isalpha() and code.isupper() else "ERR"
            raise Rejected(f"{CODES.get(known, 'error')} code={known}", text)
        raise Rejected("protocol", f"an answer begins with {kind!r}")

    def put(self, sequence: int, deadline: float) -> str:
        block, bit = divmod(sequence, BLOCK)
        rest = (2, STATE, f"{PREFIX}{block}", bit, self.store.keep_seconds)
        try:
            timeline = self.ask(deadline, "EVALSHA", DIGEST, *rest)
        except Rejected as error:
            if not error.said.startswith("NOSCRIPT"):
                raise
            timeline = self.ask(deadline, "EVAL", SCRIPT, *rest)
        region = self.store.region_of(self.host, self.route)
        # Behind a certificate that names no host, the region stands for whichever answered.
        host = self.host if self.host in self.store.regions else region
        return f"host={host} region={region} timeline={int(timeline)}"


class ValkeyStore(WireStore):
    """A Valkey behind one endpoint per region."""

    session_class = ValkeySession


STORE = ValkeyStore
