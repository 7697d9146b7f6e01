# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What Valkey keeps on its host: the state file that it rewrites, and the declared settings beside it.

The server is started with the state file, and with the declared settings as an argument, which wins. So
C(CONFIG REWRITE), which Sentinel uses too, keeps whom a server follows, and never an old setting.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._files import wait_for_lock, write_file

SERVER_UNIT = "valkey-server.service"
SENTINEL_UNIT = "valkey-sentinel.service"
# What a server keeps its data in, beneath its data directory.
DATA = ("appendonlydir", "dump.rdb")
UNITS = {"k": 1000, "kb": 1024, "m": 1000**2, "mb": 1024**2, "g": 1000**3, "gb": 1024**3}
LOCK = "/run/lock/muster-valkey"
SIZE = re.compile(r"^(\d+)(k|kb|m|mb|g|gb)$", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """Where things are on the host."""

    config: str = "/etc/muster/valkey"
    data: str = "/var/lib/valkey"
    user: str = "valkey"
    applied: str = "/var/lib/muster/valkey-applied.json"
    reason: str = "/run/muster-valkey/guard"

    @property
    def server_state(self) -> str:
        return f"{self.data}/server.conf"

    @property
    def sentinel_state(self) -> str:
        return f"{self.data}/sentinel.conf"

    @property
    def first_start(self) -> str:
        """While it is there, the guard lets the server start once as a primary that nobody knows yet."""
        return f"{self.data}/first-start"

    @property
    def marker(self) -> str:
        return f"{self.config}/fenced.json"

    @property
    def append_directory(self) -> str:
        return f"{self.data}/appendonlydir"

    # --- whom the server follows ---

    def upstream(self) -> str | None:
        """The host that the state file follows; empty for a primary, None when there is no state."""
        try:
            with open(self.server_state, encoding="utf-8") as stream:
                lines = stream.read().splitlines()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise MusterError(f"{self.server_state} cannot be read: {error}") from error
        found = ""
        for line in lines:
            words = line.split()
            if words and words[0].lower() in ("replicaof", "slaveof") and len(words) == 3:
                found = "" if words[1].lower() == "no" else words[1].strip('"')
        return found

    def write_state(self, upstream: str, port: int, priority: int) -> None:
        lines = ["# Kept by the server itself (CONFIG REWRITE). What is declared is in server.conf of "]
        lines[0] += f"{self.config}."
        lines.append(f"replica-priority {priority}")
        if upstream:
            lines.append(f"replicaof {upstream} {port}")
        self.write(self.server_state, "\n".join(lines) + "\n")

    def write(self, path: str, text: str) -> None:
        """A file of the server's own."""
        write_file(path, text, 0o600)
        self.give(path)

    def give(self, path: str) -> None:
        try:
            account = pwd.getpwnam(self.user)
        except KeyError as error:
            raise MusterError(f"there is no user {self.user} on this host") from error
        os.chown(path, account.pw_uid, account.pw_gid)

    # --- what was applied to the running server ---

    def digests(self) -> dict[str, str]:
        """Of the files whose change the server does not see by itself."""
        groups = {
            "acl": ["users.acl"],
            "tls": ["ca.crt", "server.crt", "server.key"],
            "sentinel": ["sentinel.conf", "ca.crt", "server.crt", "server.key"],
        }
        found = {}
        for name, files in groups.items():
            total = hashlib.sha256()
            for file in files:
                try:
                    with open(f"{self.config}/{file}", "rb") as stream:
                        total.update(stream.read())
                except OSError:
                    total.update(b"-")
            found[name] = total.hexdigest()
        return found

    def noted(self) -> dict[str, str]:
        try:
            with open(self.applied, encoding="utf-8") as stream:
                return dict(json.load(stream))
        except (OSError, ValueError):
            return {}

    def not_applied(self) -> list[str]:
        known = self.noted()
        return [name for name, digest in self.digests().items() if known.get(name) != digest]

    def note_applied(self, names: Sequence[str]) -> None:
        digests = self.digests()
        os.makedirs(os.path.dirname(self.applied), exist_ok=True)
        write_file(self.applied, json.dumps(self.noted() | {name: digests[name] for name in names}), 0o644)


@contextmanager
def operation_lock(check: bool, path: str = LOCK, wait: float = 20) -> Iterator[None]:
    """One move at a time on this host. Two on different hosts are kept apart by the servers themselves."""
    if check:
        yield
        return
    with open(path, "w", encoding="utf-8") as stream:
        wait_for_lock(stream, fcntl.LOCK_EX, "another operation on Valkey to end on this host", wait, 0.2)
        yield


# --- the declared settings ---------------------------------------------------------


def normal(name: str, value: str) -> str:
    """A value as C(CONFIG GET) spells it."""
    words = []
    for word in value.split():
        size = SIZE.match(word)
        words.append(str(int(size[1]) * UNITS[size[2].lower()]) if size else word)
    if name == "client-output-buffer-limit":
        words = ["slave" if word == "replica" else word for word in words]
    if name == "notify-keyspace-events":
        return "".join(sorted(value))
    return " ".join(words)


def declared(path: str) -> dict[str, str]:
    """The settings of a configuration file; of a repeated one all values, in order."""
    found: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8") as stream:
            lines = stream.read().splitlines()
    except FileNotFoundError:
        return {}
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = shlex.split(line)
        name, value = words[0].lower(), " ".join(words[1:])
        found[name] = f"{found[name]} {value}".strip() if found.get(name) else value
    return found


def pending(wanted: Mapping[str, str], running: Mapping[str, Any]) -> list[str]:
    """The names of the settings that the server runs with differently, or does not know."""
    found = []
    for name, value in wanted.items():
        if name not in running:
            found.append(name)
            continue
        have, want = normal(name, str(running[name])), normal(name, value)
        within = name == "client-output-buffer-limit" and want in have
        if have != want and not within:
            found.append(name)
    return found
