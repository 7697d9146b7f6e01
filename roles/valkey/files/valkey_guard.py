#!/usr/bin/python3
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""May Valkey, or its Sentinel, start here? Run before each start of them, as ExecStartPre.

A region that was lost comes back with its old data: left alone, its old primary would take writes
again, or its Sentinels would make another host a second primary. So:

- A server that last was a replica starts: it takes no writes.
- A server that last was primary asks. Where another host of its region takes writes by now, it starts as
  that host's replica. Where a majority of its region's Sentinels names it, or nobody answers as primary,
  the other region is asked: it must not be primary.
- A Sentinel that watched nothing starts. One that watched its region asks the other region in the same way,
  except where a host of its own region is seen to take writes.

The other region is primary when one of its hosts takes writes, or one of its Sentinels watches it. When no
majority of its Sentinels answers, that is not known, and what is not known is not safe: systemd tries again.

Ends 0 when the service may start, else 1 with one sentence, also kept in the file that C(reason) of the
configuration names. Only the standard library.

usage: valkey_guard.py server|sentinel CONFIGURATION
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

TIMEOUT = 2.0


class Refused(Exception):
    """The service may not start; the text says why."""


class Peer:
    """One connection, and as much of the protocol as the guard needs."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, login: list[str]) -> None:
        plain = socket.create_connection((host, port), TIMEOUT)
        try:
            self.socket = context.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise
        self.stream = self.socket.makefile("rb")
        try:
            self.ask("AUTH", *login)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.stream.close()
        self.socket.close()

    def ask(self, *words: str) -> Any:
        parts = [f"*{len(words)}\r\n".encode()]
        for word in words:
            data = word.encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
        self.socket.sendall(b"".join(parts))
        return self._answer()

    def _answer(self) -> Any:
        line = self.stream.readline()
        if not line.endswith(b"\r\n"):
            raise OSError("the connection ended")
        kind, rest = line[:1], line[1:-2].decode(errors="replace")
        if kind == b"+":
            return rest
        if kind == b"-":
            raise OSError(rest)
        if kind == b":":
            return int(rest)
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self.stream.read(size + 2)[:-2].decode(errors="replace")
        if kind == b"*":
            return None if int(rest) < 0 else [self._answer() for _number in range(int(rest))]
        raise OSError("an unexpected answer")


class Guard:
    """What is known of both regions."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.host, self.region = given["host"], given["region"]
        self.others = [name for name in given["regions"] if name != self.region]
        self.context = ssl.create_default_context(cafile=given["ca_certificate"])
        self.context.load_cert_chain(given["certificate"], given["private_key"])

    # --- asking ---

    def is_primary(self, host: str) -> bool:
        """Whether a host says of itself, now, that it takes writes."""
        login = [self.given["operator"], self.given["operator_password"]]
        try:
            peer = Peer(host, self.given["port"], self.context, login)
        except OSError:
            return False
        with contextlib.closing(peer):
            try:
                return str(peer.ask("ROLE")[0]) == "master"
            except (OSError, LookupError, TypeError, ValueError):
                return False

    def watches(self, host: str, region: str) -> str | None:
        """Whom the host's Sentinel calls the region's primary; empty for nobody, None when it is silent."""
        try:
            peer = Peer(host, self.given["sentinel_port"], self.context, [self.given["sentinel_password"]])
        except OSError:
            return None
        with contextlib.closing(peer):
            try:
                found = peer.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", f"muster-{region}")
                return str(found[0]) if found else ""
            except (OSError, LookupError, TypeError, ValueError):
                return None

    def each(self, function: Any, hosts: list[str], *more: Any) -> dict[str, Any]:
        if not hosts:
            return {}
        with ThreadPoolExecutor(max_workers=len(hosts)) as pool:
            return dict(zip(hosts, pool.map(lambda host: function(host, *more), hosts), strict=True))

    def primary_here(self) -> str | None:
        """Another host of the own region that takes writes."""
        hosts = [host for host in self.given["regions"][self.region] if host != self.host]
        found = [host for host, yes in self.each(self.is_primary, hosts).items() if yes]
        return found[0] if found else None

    def named_here(self) -> str | None:
        """Whom a majority of the region's Sentinels calls primary; None when no majority agrees."""
        hosts = self.given["regions"][self.region]
        said = [name for name in self.each(self.watches, hosts, self.region).values() if name is not None]
        for name in set(said):
            if said.count(name) > len(hosts) // 2:
                return str(name)
        return None

    def refuse_other_primary(self) -> None:
        for name in self.others:
            hosts = self.given["regions"][name]
            said = self.each(self.watches, hosts, name)
            if any(said.values()) or any(self.each(self.is_primary, hosts).values()):
                raise Refused(
                    f"region {name} is primary: as a second primary {self.region} would lose writes; "
                    "dr_reprotect brings it back as a standby"
                )
            silent = [host for host, watched in said.items() if watched is None]
            if len(hosts) - len(silent) <= len(hosts) // 2:
                raise Refused(
                    f"the Sentinels of {', '.join(silent)} do not answer: whether region {name} "
                    f"is primary is not known, so {self.region} waits; "
                    "when that region is lost for good, dr_failover to this one decides it"
                )

    # --- the state files ---

    def upstream(self) -> str:
        path = self.given["server_state"]
        if not os.path.exists(path):
            raise Refused(f"{path} is missing, so that its part is not known: run the role valkey")
        found = ""
        with open(path, encoding="utf-8") as stream:
            for line in stream:
                words = line.split()
                if len(words) == 3 and words[0].lower() in ("replicaof", "slaveof"):
                    found = "" if words[1].lower() == "no" else words[1]
        return found

    def become_replica(self, host: str) -> None:
        """Kept beside what the server wrote; the last line wins."""
        with open(self.given["server_state"], "a", encoding="utf-8") as stream:
            stream.write(f"\nreplicaof {host} {self.given['port']}\n")
            stream.flush()
            os.fsync(stream.fileno())
        print(f"{host} is primary by now: starting as its replica", file=sys.stderr)

    def watched(self) -> bool:
        try:
            with open(self.given["sentinel_state"], encoding="utf-8") as stream:
                return any(line.lower().startswith("sentinel monitor ") for line in stream)
        except FileNotFoundError:
            return False

    # --- deciding ---

    def server(self) -> None:
        if self.upstream():
            return
        first = self.given["first_start"]
        if os.path.exists(first):
            # Once: whoever starts it later must ask.
            os.unlink(first)
            return
        elsewhere = self.primary_here()
        if elsewhere:
            self.become_replica(elsewhere)
            return
        self.refuse_other_primary()
        named = self.named_here()
        if named is None:
            raise Refused(
                f"no majority of the Sentinels of region {self.region} says who is primary, so {self.host}, "
                "which was it last, waits"
            )
        if named not in ("", self.host):
            self.become_replica(named)

    def sentinel(self) -> None:
        if self.watched() and not any(
            self.each(self.is_primary, self.given["regions"][self.region]).values()
        ):
            self.refuse_other_primary()

    def decide(self, service: str) -> None:
        marker = self.given["marker"]
        if os.path.lexists(marker):
            raise Refused(f"this host is fenced ({marker}): dr_reprotect brings it back")
        if service == "server":
            self.server()
        else:
            self.sentinel()


def note(path: str, text: str) -> None:
    """Keep the reason where others find it; empty when there is none."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text + "\n" if text else "")
    except OSError:
        pass  # the journal has it


def main(service: str, path: str) -> int:
    with open(path, encoding="utf-8") as stream:
        given = json.load(stream)
    reason = ""
    try:
        Guard(given).decide(service)
    except Refused as error:
        reason = str(error)
    except OSError as error:
        reason = f"what {path} names cannot be used: {error}"
    note(f"{given['reason']}-{service}", reason)
    if reason:
        print(f"{service} may not start: {reason}", file=sys.stderr)
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
