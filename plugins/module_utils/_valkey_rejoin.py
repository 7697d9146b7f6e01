# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The steps by which a region that was failed over from comes back as a standby.

Each is run on a host of that region while its fence is up. A replica that returns copies everything anew, so
the old data is moved aside first, and what only it has is listed: every key that the new primary lacks or
holds with another value. Each step may be run again.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _valkey_isolated
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._fence import Fence
from ansible_collections.muster.platform.plugins.module_utils._files import sync, write_file
from ansible_collections.muster.platform.plugins.module_utils._ranges import to_ranges
from ansible_collections.muster.platform.plugins.module_utils._survivors_stores import (
    BLOCK,
    PREFIX,
    numbers_in,
)
from ansible_collections.muster.platform.plugins.module_utils._systemd import systemctl
from ansible_collections.muster.platform.plugins.module_utils._valkey import (
    NEVER,
    Access,
    Server,
    Survey,
)
from ansible_collections.muster.platform.plugins.module_utils._valkey_member import Member
from ansible_collections.muster.platform.plugins.module_utils._valkey_state import (
    DATA,
    SENTINEL_UNIT,
    SERVER_UNIT,
    Place,
)

BATCH = 500
# What to read of a value whose serialization differs: the same content may be laid out in another order.
READ = {
    b"hash": ("HGETALL",),
    b"set": ("SMEMBERS",),
    b"zset": ("ZRANGE", 0, -1, "WITHSCORES"),
    b"list": ("LRANGE", 0, -1),
}


@dataclass
class Rejoin:
    """One host of the old region."""

    host: str
    head: str
    regions: Mapping[str, Any]
    access: Access
    place: Place
    fence: Fence
    member: Member
    save_directory: str
    max_keys: int
    timeout: float

    # --- what only this side has ---

    def primary(self) -> Server:
        """The one primary, outside this host's region."""
        world = Survey(self.regions, self.access).look(sentinels=False)
        primary = world.sole_primary()
        if primary.region == world.home(self.host):
            raise MusterError(f"region {primary.region} is primary itself: there is nothing to re-protect")
        return primary

    def directory(self) -> Path:
        """Of this fence: named after its moment."""
        note = self.fence.marked()
        if not note:
            raise MusterError(f"{self.host} is not fenced: nothing was touched")
        stamp = re.sub(r"[^0-9T]", "", str(note["fenced_at"]))[:15]
        return Path(self.save_directory) / f"valkey-{stamp}"

    def save(self, check: bool) -> dict[str, Any]:
        """Move the old data aside, and list what only it has."""
        if not self.fence.stands():
            # It came back in an earlier run of this.
            return {"changed": False, "saved": None}
        primary, directory = self.primary(), self.directory()
        done = directory / "saved.json"
        if done.exists():
            return {"changed": False, "saved": json.loads(done.read_text(encoding="utf-8"))}
        if check:
            return {"changed": True, "saved": None}
        doubts = self.fence.doubts()
        if doubts:
            raise MusterError(f"{self.host} is not fenced as it should be: {'; '.join(doubts)}")
        self.set_aside(directory / "data")
        saved = {"host": self.host, "directory": str(directory), "primary": primary.host}
        saved |= self.listed(directory, primary)
        write_file(done, json.dumps(saved), 0o600)
        return {"changed": True, "saved": saved}

    def set_aside(self, target: Path) -> None:
        """A rename where both are on one file system; else a copy, which is whole before the source goes."""
        os.makedirs(target, mode=0o700, exist_ok=True)
        os.chmod(target.parent, 0o700)
        for name in DATA:
            source, kept = Path(self.place.data) / name, target / name
            if not source.exists():
                continue
            if not kept.exists() and not renamed(source, kept):
                partial = target / f"{name}.partial"
                remove(partial)
                copy(source, partial)
                os.sync()
                os.replace(partial, kept)
                sync(target)
            remove(source)

    def listed(self, directory: Path, primary: Server) -> dict[str, Any]:
        """Every key that the new primary lacks, or holds with another value, in keys.jsonl."""
        data = directory / "data"
        append = (data / "appendonlydir").is_dir() and any((data / "appendonlydir").iterdir())
        if not append and not (data / "dump.rdb").exists():
            nothing = dict.fromkeys(("count", "missing", "different", "bytes"), 0)
            return {**nothing, "file": None, "reason": "no data", "canary": None}
        needed = _valkey_isolated.size_of(data)
        # A copy is served, so that what was saved stays as it was.
        served = Path(self.place.data) / "reprotect"
        shutil.rmtree(served, ignore_errors=True)
        _valkey_isolated.check_room(Path(self.place.data), needed)
        try:
            shutil.copytree(data, served)
            with (
                _valkey_isolated.served(served, append, self.timeout, self.place.user) as old,
                self.access.session(primary.host, timeout=30, decode=False) as new,
            ):
                return {**self.compare(old, new, directory / "keys.jsonl"), "bytes": needed}
        finally:
            shutil.rmtree(served, ignore_errors=True)

    def compare(self, old: Any, new: Any, file: Path) -> dict[str, Any]:
        counts = {"missing": 0, "different": 0}
        temporary = file.with_suffix(".partial")
        with open(temporary, "w", encoding="utf-8", opener=_valkey_isolated.private) as stream:
            for database in databases(old):
                for client in (old, new):
                    use(client, database)
                for entry in differences(old, new, database):
                    counts[entry["state"]] += 1
                    if sum(counts.values()) <= self.max_keys:
                        stream.write(json.dumps(entry) + "\n")
        os.replace(temporary, file)
        canary = canary_of_one_side(old, new)
        count = sum(counts.values())
        reason = None if count <= self.max_keys else f"only the first {self.max_keys} are in the file"
        return {"count": count, **counts, "file": str(file), "reason": reason, "canary": canary}

    # --- coming back ---

    def rejoin(self, check: bool) -> bool:
        """Start as a replica: the head of the new primary, the others of the head."""
        primary = self.primary()
        upstream = primary.host if self.host == self.head else self.head
        stands = self.fence.stands()
        if check:
            return stands
        if stands:
            if not (self.directory() / "saved.json").exists():
                raise MusterError(f"what only {self.host} has is not saved yet: nothing was started")
            self.place.write_state(upstream, self.access.port, NEVER)
            # Whom its Sentinel watched is past.
            self.place.write(self.place.sentinel_state, "# Kept by Sentinel itself.\n")
            self.fence.take_down()
        for unit in (SERVER_UNIT, SENTINEL_UNIT):
            if systemctl("is-active", unit, check=False) != "active":
                self.member.start_unit(unit)
        self.member.answering()
        self.member.linked()
        return stands


def renamed(source: Path, target: Path) -> bool:
    """Whether that was possible: both are on one file system."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def use(client: Any, database: int) -> None:
    """Of all connections from now on, also of one that has to be made anew."""
    client.connection_pool.connection_kwargs["db"] = database
    client.connection_pool.disconnect()


def databases(client: Any) -> list[int]:
    """The numbers of the databases that hold keys."""
    return sorted(int(name[2:]) for name in client.info("keyspace") if str(name).startswith("db"))


def differences(old: Any, new: Any, database: int) -> Iterator[dict[str, Any]]:
    """What the old side has and the new one has not, or not so."""
    for keys in batches(old):
        mine, theirs = dumps(old, keys), dumps(new, keys)
        for key, have, other in zip(keys, mine, theirs, strict=True):
            if have is None or have == other or (other is not None and same_content(old, new, key)):
                continue
            yield {
                "database": database,
                "key": key.decode("utf-8", "backslashreplace"),
                "key_base64": base64.b64encode(key).decode(),
                "type": old.execute_command("TYPE", key).decode(),
                "ttl_ms": old.execute_command("PTTL", key),
                "state": "missing" if other is None else "different",
                # As RESTORE takes it.
                "dump_base64": base64.b64encode(have).decode(),
            }


def canary_of_one_side(old: Any, new: Any) -> str:
    """The canary's numbers that only the old side has, as ranges."""
    for client in (old, new):
        use(client, 0)
    found: set[int] = set()
    for key in old.scan_iter(match=f"{PREFIX}[0-9]*", count=BATCH):
        first = int(key[len(PREFIX) :]) * BLOCK
        mine, theirs = (set(numbers_in(client.get(key) or b"", first)) for client in (old, new))
        found |= mine - theirs
    return to_ranges(sorted(found))


def batches(client: Any) -> Iterator[list[bytes]]:
    found: list[bytes] = []
    for key in client.scan_iter(count=BATCH):
        found.append(key)
        if len(found) == BATCH:
            yield found
            found = []
    if found:
        yield found


def dumps(client: Any, keys: list[bytes]) -> list[Any]:
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.execute_command("DUMP", key)
    return list(pipeline.execute())


def same_content(old: Any, new: Any, key: bytes) -> bool:
    """Whether two values that are laid out differently hold the same."""
    kinds = {client.execute_command("TYPE", key) for client in (old, new)}
    kind = kinds.pop()
    if kinds or kind not in READ:
        return False
    name, *more = READ[kind]
    mine, theirs = (client.execute_command(name, key, *more) for client in (old, new))
    if isinstance(mine, list) and kind == b"set":
        return sorted(mine) == sorted(theirs)
    return bool(mine == theirs)
