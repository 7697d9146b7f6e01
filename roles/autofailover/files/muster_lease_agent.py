#!/usr/bin/python3
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keep this host's region entitled to write, or keep PostgreSQL on this host down.

Every PostgreSQL host runs this. The region needs the word of one of two others: the
witness's, which is the lease, or, while the witness is silent, the other region's etcd,
which then holds a note that it covers this region. The other region may not take over while
it holds that note, so two of three have to agree to anything. A word counts from the moment
it was asked for, by a clock that nobody can set, and ends early enough to stop PostgreSQL
before the lease can go to the other side.

A host without a valid word stops Patroni and PostgreSQL, by force when they do not stop by
themselves, and starts Patroni again when the word comes back. When the lease has gone to the
other region meanwhile, it stays down for good: dr_reprotect brings it back. A standby region
cannot take writes and needs no word.

Only the standard library.

usage: muster_lease_agent.py CONFIGURATION               the daemon
       muster_lease_agent.py CONFIGURATION --may-start   may Patroni start now? (ExecStartPre)
       muster_lease_agent.py CONFIGURATION --after-stop  Patroni has ended (ExecStopPost)
       muster_lease_agent.py CONFIGURATION --disarm      before the agent is removed
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import math
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

TICK = 0.1
# A standby needs no word, but a live agent: what it wrote down counts that long.
STANDBY_SECONDS = 5.0
# How often in a row the word must come before PostgreSQL starts again: a link may flap.
CALM = 3
# How old the last answer of the own etcd may be to still say that this region is a standby.
CONFIG_SECONDS = 10.0
# How long after its start an agent looks whether Patroni stopped with the agent before it.
ADOPT_SECONDS = 20.0
CLAIM, COVER = "/muster/lease/claim", "/muster/lease/cover/"
RUN, FENCE, LOST = "run", "fence", "lost"


def say(text: str) -> None:
    """One line for the journal."""
    print(text, file=sys.stderr, flush=True)


def boottime() -> float:
    """Seconds that nobody can set, and that go on while the host sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def notify(text: str) -> None:
    """Tell systemd; silent where there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect("\0" + address[1:] if address.startswith("@") else address)
        client.sendall(text.encode())


def write_file(path: Path, document: dict[str, Any], mode: int, sync: bool) -> None:
    """Replace a file at once; with C(sync) also when the power fails."""
    temporary = path.with_name(f"{path.name}.{threading.get_ident()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump(document, stream)
        stream.flush()
        if sync:
            os.fsync(stream.fileno())
    temporary.replace(path)
    if sync:
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_file(path: Path) -> dict[str, Any]:
    """What a file of ours holds; nothing when it is not there or broken."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# --- who may write: no clock, no network, no disk of its own -------------------


@dataclass(frozen=True)
class Timing:
    """Seconds; what each means is in the role's argument specs."""

    lease: float
    renew: float
    fence: float
    uncertainty: float
    watchdog: float

    @property
    def validity(self) -> float:
        """For how long a word counts, from when it was asked for.

        What must fit between its end and the lease's: an agent that hangs is noticed by systemd
        (watchdog), the fence, and what the two clocks differ by meanwhile.
        """
        return self.lease - self.fence - self.uncertainty - self.watchdog


class Mind:
    """What this host knows, and what follows from it."""

    def __init__(
        self, region: str, timing: Timing, saved: dict[str, Any], save: Callable[[dict[str, Any]], None]
    ) -> None:
        self.region = region
        self.timing = timing
        self.save = save
        self.term = int(saved.get("term") or 0)
        self.holders: list[str] = list(saved.get("holders") or [])
        self.armed = bool(saved.get("armed"))
        self.claimed = 0
        self.wanted = 0  # a term to be claimed in the own etcd
        self.granted_at: float | None = None  # a grant that waits for its claim
        self.by_witness = -math.inf
        self.by_cover = -math.inf
        self.heard = -math.inf  # when the witness answered last
        self.standby: bool | None = None  # what the own etcd makes of this region
        self.standby_at = -math.inf
        self.covers = False  # whether the own etcd covers the other region
        self.writable: bool | None = None  # whether this host's PostgreSQL takes writes
        self.calm = 0

    @property
    def holds(self) -> bool:
        return self.region in self.holders

    def until(self) -> float:
        return max(self.by_witness, self.by_cover)

    def keep(self) -> None:
        self.save({"term": self.term, "holders": self.holders, "armed": self.armed})

    # --- hearing ---

    def on_answer(self, asked: float, now: float, answer: dict[str, Any]) -> None:
        """The witness's answer to a question that was sent at C(asked)."""
        term, holders = int(answer["term"]), list(answer["holders"])
        if term < self.term:
            return  # an old answer that came late, or a witness that lost its memory
        self.heard = now
        candidate = answer.get("candidate") or {}
        if (term, holders) != (self.term, self.holders):
            if self.region not in holders:
                # Before anything else: what was promised belongs to an earlier term.
                self.by_witness = self.by_cover = -math.inf
            self.term, self.holders = term, holders
            self.granted_at = None
            self.keep()
        if candidate.get("region") == self.region:
            self.wanted = max(self.wanted, int(candidate["term"]))
        if answer.get("granted") is True and self.holds:
            self._granted(asked)
        else:
            self.calm = 0

    def _granted(self, asked: float) -> None:
        self.calm += 1
        if self.claimed >= self.term:
            self._given(asked)
        else:
            # It counts once this region's etcd covers nobody else.
            self.wanted = max(self.wanted, self.term)
            self.granted_at = asked

    def _given(self, asked: float) -> None:
        """The witness's word. The first one arms this host: without one it stops nothing."""
        self.by_witness = max(self.by_witness, asked + self.timing.validity)
        if not self.armed:
            self.armed = True
            self.keep()

    def on_silence(self) -> None:
        self.calm = 0

    def on_claimed(self, term: int) -> None:
        self.claimed = max(self.claimed, term)
        if self.granted_at is not None and self.holds and self.claimed >= self.term:
            self._given(self.granted_at)
            self.granted_at = None

    def on_cover(self, asked: float, term: int) -> None:
        """The other region's etcd covers this one, as of C(asked)."""
        if term == self.term and self.holds and self.armed:
            self.by_cover = max(self.by_cover, asked + self.timing.validity)
            self.calm += 1

    def on_config(self, now: float, standby: bool, covers: bool) -> None:
        self.standby, self.standby_at, self.covers = standby, now, covers

    # --- deciding ---

    def wants_cover(self, now: float) -> bool:
        """Two renewals in a row have failed: ask the other region, while there is time."""
        return self.holds and self.armed and now - self.heard > 2 * self.timing.renew

    def is_standby(self, now: float) -> bool:
        return self.standby is True and now - self.standby_at <= CONFIG_SECONDS and self.writable is not True

    def may_until(self, now: float) -> float:
        """Until when PostgreSQL may run here, when nothing else is heard."""
        if not self.armed:
            return now + STANDBY_SECONDS
        word = self.until() if self.holds else -math.inf
        return max(word, now + STANDBY_SECONDS) if self.is_standby(now) else word

    def decide(self, now: float) -> tuple[str, str]:
        """What is to be done with PostgreSQL on this host, and why."""
        if not self.armed:
            return RUN, "this host has not had a lease yet"
        if self.holds and now < self.until():
            by = "the witness" if self.by_witness >= self.by_cover else "the other region's etcd"
            return RUN, f"region {self.region} may write, by the word of {by}, term {self.term}"
        if self.is_standby(now):
            return RUN, f"region {self.region} is a standby"
        if self.holds:
            return FENCE, f"neither the witness nor the other region gives region {self.region} its word"
        where = " and ".join(self.holders) or "nobody"
        if self.standby is False and now - self.standby_at <= CONFIG_SECONDS:
            return (
                LOST,
                f"the lease of term {self.term} is {where}'s, and region {self.region} was primary",
            )
        if self.writable:
            return FENCE, f"PostgreSQL takes writes here, but the lease of term {self.term} is {where}'s"
        if self.standby is True:
            return RUN, f"region {self.region} is a standby, and its etcd is silent"
        return (
            FENCE,
            f"the lease of term {self.term} is {where}'s, and what {self.region} is now is not known",
        )

    def words(self, now: float) -> dict[str, Any]:
        """What the witness is told."""
        return {
            "entitled": self.holds and now < self.until(),
            "term": self.term,
            "armed": self.armed,
            "claimed": self.claimed,
            "standby": self.standby,
            "covers": self.covers,
        }


# --- the network ---------------------------------------------------------------


class Client:
    """One https address, asked again over the same connection; every failure is an OSError."""

    def __init__(self, url: str, config: dict[str, Any], timeout: float) -> None:
        parts = urllib.parse.urlsplit(url)
        self.host, self.port = parts.hostname or "", parts.port or 443
        self.config = config
        self.timeout = timeout
        self.connection: http.client.HTTPSConnection | None = None

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        try:
            if self.connection is None:
                # Read for each connection: certificates are renewed.
                context = ssl.create_default_context(cafile=self.config["ca_certificate"])
                context.load_cert_chain(self.config["certificate"], self.config["private_key"])
                self.connection = http.client.HTTPSConnection(
                    self.host, self.port, timeout=self.timeout, context=context
                )
            headers = {"Content-Type": "application/json"} if body is not None else {}
            self.connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = self.connection.getresponse()
            text = response.read().decode(errors="replace")
            return response.status, json.loads(text) if text.startswith(("{", "[")) else {}
        except (http.client.HTTPException, ValueError, OSError) as error:
            self.close()
            raise OSError(f"{self.host}:{self.port}: {error or type(error).__name__}") from error

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Seat:
    """One region's etcd, as a party of the lease: it covers the other region, or claims a term."""

    def __init__(
        self, endpoints: list[str], scope: str, hosts_of_other: list[str], config: dict[str, Any]
    ) -> None:
        self.clients = [Client(url, config, config["renew_seconds"]) for url in endpoints]
        self.scope = scope
        self.covers = [COVER + host for host in hosts_of_other]

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The first member that answers, which then stays first."""
        failures = []
        for client in list(self.clients):
            try:
                status, answer = client.ask("POST", path, body)
                if status == 200 and isinstance(answer, dict):
                    self.clients.sort(key=lambda each: each is not client)
                    return answer
                failures.append(f"{client.host}: HTTP status {status}")
            except OSError as error:
                failures.append(str(error))
        raise OSError("; ".join(failures) or "no etcd is known")

    def read(self) -> tuple[bool | None, int, dict[str, int]]:
        """Whether the region is configured as a standby, the term claimed, each key's revision."""
        keys = [f"/service/{self.scope}/config", CLAIM, *self.covers]
        answer = self._ask("/v3/kv/txn", {"compare": [], "failure": [],
                           "success": [{"request_range": {"key": b64(key)}} for key in keys]})  # fmt: skip
        pairs = [part["response_range"].get("kvs") or [] for part in answer["responses"]]
        revisions = {
            key: int(found[0].get("mod_revision", 0)) if found else 0
            for key, found in zip(keys, pairs, strict=True)
        }
        values = [base64.b64decode(found[0]["value"]).decode() if found else "" for found in pairs]
        standby = is_standby(json.loads(values[0])) if values[0] else None
        return standby, int(values[1] or 0), revisions

    def _change(self, revisions: dict[str, int], put: dict[str, Any]) -> bool:
        compare = [
            {"key": b64(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}
            for key, revision in revisions.items()
        ]
        answer = self._ask(
            "/v3/kv/txn", {"compare": compare, "success": [{"request_put": put}], "failure": []}
        )
        return answer.get("succeeded") is True

    def claim(self, term: int) -> int:
        """Have this region claim a term, and cover the other no more; returns what is claimed now."""
        _standby, claimed, revisions = self.read()
        if claimed >= term:
            return claimed
        if any(revisions[key] for key in self.covers):
            return claimed  # not while it covers the other region
        watched = {key: revisions[key] for key in (CLAIM, *self.covers)}
        return term if self._change(watched, {"key": b64(CLAIM), "value": b64(str(term))}) else claimed

    def cover(self, host: str, term: int, seconds: float) -> bool:
        """Have this region cover a host of the other; False when it has claimed a newer term."""
        lease = str(self._ask("/v3/lease/grant", {"TTL": str(math.ceil(seconds)), "ID": "0"})["ID"])
        standby, claimed, revisions = self.read()
        if claimed > term or standby is not True:
            return False
        own, settings = COVER + host, f"/service/{self.scope}/config"
        # With its own revision: an older request that comes late must not shorten this one.
        watched = {key: revisions[key] for key in (CLAIM, own, settings)}
        return self._change(watched, {"key": b64(own), "value": b64(str(term)), "lease": lease})


def is_standby(config: Any) -> bool:
    """By Patroni's own rule."""
    section = config.get("standby_cluster") if isinstance(config, dict) else None
    return isinstance(section, dict) and any(section.get(key) for key in ("host", "port", "restore_command"))


# --- this host -------------------------------------------------------------------


def servers(data_directory: str) -> list[int]:
    """The processes of the server whose data these are: each works in its data directory."""
    wanted, found = os.path.realpath(data_directory), []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                program = os.path.basename(os.readlink(f"/proc/{name}/exe").removesuffix(" (deleted)"))
                if (
                    program == "postgres"
                    and os.readlink(f"/proc/{name}/cwd").removesuffix(" (deleted)") == wanted
                ):
                    found.append(int(name))
    return found


class Host:
    """Patroni and PostgreSQL on this host, stopped and started without waiting for systemd for long."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.unit = config["unit"]
        self.data_directory = config["data_directory"]
        self.cgroup = Path(config["cgroup"])
        self.marker = Path(config["marker"])
        self.mask = config.get("mask_path") or f"/etc/systemd/system/{self.unit}"
        self.fence_seconds = float(config["fence_seconds"])

    def systemctl(self, *words: str, timeout: float = 1.0) -> str:
        """What it prints; a systemd that does not answer must not hold up a fence."""
        try:
            return subprocess.run(
                ["systemctl", *words], capture_output=True, text=True, timeout=timeout, check=False
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError) as error:
            say(f"systemctl {' '.join(words)}: {type(error).__name__}")
            return ""

    def processes(self) -> list[int]:
        """All of Patroni's unit, and the server's, wherever they are."""
        found = set(servers(self.data_directory))
        for path in [self.cgroup / "cgroup.procs", *self.cgroup.glob("*/cgroup.procs")]:
            with contextlib.suppress(OSError, ValueError):
                found |= {int(line) for line in path.read_text(encoding="ascii").split()}
        return sorted(found - {os.getpid(), 0})

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            (self.cgroup / "cgroup.kill").write_text("1", encoding="ascii")
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def stop(self, alive: Callable[[], None] = lambda: None) -> bool:
        """By itself in half of a fence's time, else by force. True when nothing is left."""
        began = time.monotonic()
        if not self.processes():
            return True
        self.systemctl("stop", "--no-block", self.unit)
        while self.processes() and time.monotonic() - began < self.fence_seconds / 2:
            alive()
            time.sleep(0.05)
        while self.processes() and time.monotonic() - began < self.fence_seconds:
            alive()
            self.kill()
            time.sleep(0.05)
        return not self.processes()

    def stopped_at(self) -> float | None:
        """When Patroni ended, by the monotonic clock; None while it runs, or when that is not known."""
        text = self.systemctl(
            "show", "--property=ActiveState", "--property=InactiveEnterTimestampMonotonic", self.unit
        )
        found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        if found.get("ActiveState") not in ("inactive", "failed"):
            return None
        moment = found.get("InactiveEnterTimestampMonotonic", "")
        return int(moment) / 1e6 if moment.isdecimal() and moment != "0" else None

    def fenced_for_good(self) -> bool:
        return self.marker.exists() and os.path.realpath(self.mask) == "/dev/null"

    def fence_for_good(self, reason: str) -> None:
        """As the operator's fence does it: over reboots, until dr_reprotect."""
        if not self.marker.exists():
            note = {
                "fenced_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "operation": "automatic failover",
                "reason": reason,
            }
            write_file(self.marker, note, 0o644, sync=True)
        if os.path.realpath(self.mask) != "/dev/null":
            self.systemctl("mask", self.unit, timeout=10)

    def start(self) -> None:
        if not self.marker.exists():
            self.systemctl("start", "--no-block", self.unit, timeout=10)


class Agent:
    """The daemon: one thread asks the witness, one the etcds, and this one keeps the promise."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.name = config["host"]
        self.timing = timing_of(config)
        self.saved = Path(config["directory"]) / "agent.json"
        self.runtime = Path(config["runtime_directory"]) / "lease.json"
        self.mutex = threading.RLock()
        saved = read_file(self.saved)
        self.mind = Mind(config["region"], self.timing, saved, self.keep)
        self.host = Host(config)
        self.down = bool(saved.get("down"))  # stopped by this agent
        self.born = self.looked = time.monotonic()
        self.predecessor: float | None = None  # when the agent before this one was last seen
        self.resume()
        self.role: str | None = None
        self.said = ""
        self.written = -math.inf
        renew = config["renew_seconds"]
        self.witness = Client(config["witness"], config, renew)
        self.patroni = Client(config["patroni"], config, renew)
        (other,) = set(config["regions"]) - {config["region"]}
        self.own = self.seat(config["region"], config["regions"][other])
        self.other = self.seat(other, config["regions"][config["region"]])

    def seat(self, region: str, hosts_of_other: list[str]) -> Seat:
        return Seat(
            self.config["etcd_endpoints"][region], self.config["scopes"][region], hosts_of_other, self.config
        )

    def keep(self, known: dict[str, Any]) -> None:
        write_file(self.saved, {**known, "down": getattr(self, "down", False)}, 0o600, sync=True)

    def resume(self) -> None:
        """An agent that died and came back in the same boot goes on where it was."""
        found = read_file(self.runtime)
        if found.get("boot_id") != boot_id():
            return
        if isinstance(found.get("noted"), int | float):
            self.predecessor = float(found["noted"])
        if found.get("term") == self.mind.term and self.mind.holds:
            self.mind.by_witness = float(found.get("word_until") or -math.inf)
            self.mind.heard = boottime()

    # --- the threads ---

    def renew(self) -> None:
        self.read_flags()
        with self.mutex:
            words = {
                **self.mind.words(boottime()),
                "role": self.role,
                "writable": self.mind.writable,
                "down": self.down,
            }
            if self.disarming():
                words["armed"] = False
        asked = boottime()
        try:
            status, answer = self.witness.ask("POST", "/v1/renew", {"host": self.name, "said": words})
            if status != 200:
                raise OSError(f"the witness answered {status}: {str(answer.get('error', ''))[:200]}")
            with self.mutex:
                self.mind.on_answer(asked, boottime(), answer)
        except (OSError, KeyError, TypeError, ValueError) as error:
            with self.mutex:
                if not self.mind.wants_cover(boottime()):
                    self.mind.on_silence()
            self.remark(f"the witness gives no word: {error}")

    def remark(self, text: str) -> None:
        if text != self.said:
            self.said = text
            say(text)

    def disarming(self) -> bool:
        return (Path(self.config["directory"]) / "disarming").exists()

    def read_flags(self) -> None:
        if (Path(self.config["directory"]) / "disarmed").exists():
            with self.mutex:
                self.mind.armed = False

    def look(self) -> None:
        """What PostgreSQL is here, what the own etcd says, and the claims and covers that are due."""
        self.look_here()
        with contextlib.suppress(OSError, KeyError, IndexError, ValueError, TypeError):
            standby, claimed, revisions = self.own.read()
            with self.mutex:
                wanted = self.mind.wanted
                if standby is not None:
                    covers = any(revisions[key] for key in self.own.covers)
                    self.mind.on_config(boottime(), standby, covers)
            if wanted > claimed:
                claimed = self.own.claim(wanted)
            with self.mutex:
                self.mind.on_claimed(claimed)

    def look_here(self) -> None:
        role, writable = None, None
        with contextlib.suppress(OSError, AttributeError):
            _status, answer = self.patroni.ask("GET", "/patroni")
            role = str(answer.get("role") or "") or None
            running = answer.get("state") == "running"
            writable = running and role in ("primary", "master")
        with self.mutex:
            self.role, self.mind.writable = role, writable

    def cover(self) -> None:
        with self.mutex:
            wanted, term = self.mind.wants_cover(boottime()), self.mind.term
        if not wanted or self.disarming():
            return
        asked = boottime()
        try:
            if self.other.cover(self.name, term, self.timing.lease):
                with self.mutex:
                    self.mind.on_cover(asked, term)
            else:
                self.remark("the witness is silent, and the other region does not cover this one")
        except (OSError, KeyError, IndexError, ValueError, TypeError) as error:
            with self.mutex:
                self.mind.on_silence()
            self.remark(f"the witness is silent, and so is the other region's etcd: {error}")

    def every(self, seconds: float, work: Callable[[], None]) -> None:
        """A thread of its own: whoever hangs here only lets a word run out."""

        def loop() -> None:
            while True:
                began = time.monotonic()
                try:
                    work()
                except (
                    Exception
                ) as error:  # a thread that ended would be a word that is never asked for again
                    say(f"{work.__name__}: {type(error).__name__}: {error}")
                time.sleep(max(0.1, seconds - (time.monotonic() - began)))

        threading.Thread(target=loop, daemon=True).start()

    # --- keeping the promise ---

    def note(self, now: float) -> None:
        """What Patroni's start asks, and a successor of this process."""
        with self.mutex:
            blocked = self.down
            document = {
                "boot_id": boot_id(),
                "noted": time.monotonic(),
                "term": self.mind.term,
                "word_until": self.mind.until() if self.mind.until() > -math.inf else None,
                "may_until": None if blocked else finite(self.mind.may_until(now)),
                "why": self.mind.decide(now)[1],
            }
        # What cannot be written down runs out by itself; it must not keep this process from its work.
        with contextlib.suppress(OSError):
            write_file(self.runtime, document, 0o644, sync=False)
        self.written = now

    def step(self) -> None:
        now = boottime()
        with self.mutex:
            action, why = self.mind.decide(now)
            calm = self.mind.calm >= CALM or self.mind.is_standby(now) or not self.mind.armed
        if action == RUN:
            self.down = self.down or self.stopped_with_predecessor()
            if self.down and calm:
                self.let_start(why)
            elif now - self.written > 0.5:
                self.note(now)
        else:
            self.put_down(action, why)

    def stopped_with_predecessor(self) -> bool:
        """systemd before 254 stops Patroni with an agent that ended. Whoever stopped it before meant it."""
        moment = time.monotonic()
        if self.predecessor is None or moment - self.looked < 1:
            return False
        self.looked = moment
        stopped = self.host.stopped_at()
        latest = self.born + self.timing.fence + 1  # it is given a fence's time to stop
        ended_with_it = stopped is not None and self.predecessor <= stopped <= latest
        if ended_with_it or moment - self.born > ADOPT_SECONDS:
            self.predecessor = None
        return ended_with_it

    def put_down(self, action: str, why: str) -> None:
        if action == LOST and self.down and self.host.fenced_for_good():
            return  # whoever works on the data now does it for dr_reprotect
        first = not self.down
        if first:
            self.down = True
            self.note(boottime())
            say(f"fencing this host: {why}")
        if not self.host.stop(lambda: notify("WATCHDOG=1")):
            say(f"PostgreSQL still runs {self.timing.fence:g} s after the fence began: it is killed again")
            return
        if first:
            # After it: nothing may delay the fence. A crash before this finds no valid word either.
            with self.mutex, contextlib.suppress(OSError):
                self.mind.keep()
            say("this host takes no writes")
        if action == LOST:
            self.host.fence_for_good(why)
        elif boottime() - self.written > 0.5:
            self.note(boottime())

    def let_start(self, why: str) -> None:
        self.down = False
        with self.mutex:
            self.mind.keep()
        self.note(boottime())
        say(f"Patroni may start again: {why}")
        self.host.start()

    def run(self) -> int:
        stop = threading.Event()
        reload = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_arguments: stop.set())
        signal.signal(signal.SIGHUP, lambda *_arguments: reload.set())
        self.every(self.timing.renew, self.renew)
        self.every(self.timing.renew / 2, self.look)
        self.every(self.timing.renew, self.cover)
        self.note(boottime())
        notify("READY=1")
        while not stop.wait(TICK):
            self.step()
            notify("WATCHDOG=1")
            if reload.is_set():
                # The same process begins anew: systemd, and so Patroni, does not notice.
                self.note(boottime())
                os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606
        return 0


def finite(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None


def timing_of(config: dict[str, Any]) -> Timing:
    return Timing(
        config["lease_seconds"],
        config["renew_seconds"],
        config["fence_seconds"],
        config["clock_uncertainty_seconds"],
        config["watchdog_seconds"],
    )


# --- what systemd asks -------------------------------------------------------------


def may_start(config: dict[str, Any]) -> str:
    """Why Patroni may not start now; empty when it may."""
    if not read_file(Path(config["directory"]) / "agent.json").get("armed"):
        return ""
    found = read_file(Path(config["runtime_directory"]) / "lease.json")
    until = found.get("may_until")
    if found.get("boot_id") == boot_id() and isinstance(until, int | float) and boottime() < until:
        return ""
    return str(found.get("why") or "the lease agent has said nothing yet")


def after_stop(config: dict[str, Any]) -> int:
    """Patroni has ended, and its PostgreSQL may run on: not without a word, nor without an agent."""
    host = Host(config)
    agent = host.systemctl("is-active", config["agent_unit"], timeout=2)
    if may_start(config) or agent not in ("active", "activating", "reloading"):
        for process in servers(config["data_directory"]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    return 0


def tell_witness(config: dict[str, Any]) -> str:
    """Why the witness could not be told; empty when it knows."""
    # A renewal that is on its way still says that the host fences itself.
    time.sleep(2 * config["renew_seconds"])
    try:
        client = Client(config["witness"], config, 5.0)
        status, answer = client.ask("POST", "/v1/disarm", {"host": config["host"]})
    except OSError as error:
        return str(error)
    return "" if status == 200 else f"HTTP status {status}: {answer.get('error')}"


def disarm(config: dict[str, Any], alone: bool) -> int:
    """Before the agent is removed the witness must know that this host fences itself no more."""
    directory = Path(config["directory"])
    if not read_file(directory / "agent.json").get("armed"):
        return 0
    (directory / "disarming").touch()
    problem = "" if alone else tell_witness(config)
    if problem:
        (directory / "disarming").unlink()
        print(f"the witness does not know that this host shall not fence itself: {problem}", file=sys.stderr)
        return 1
    (directory / "disarmed").touch()
    (directory / "agent.json").unlink(missing_ok=True)
    print("disarmed")
    return 0


def main(path: str, *what: str) -> int:
    with open(path, encoding="utf-8") as stream:
        config = json.load(stream)
    if what == ("--may-start",):
        reason = may_start(config)
        if reason:
            print(f"Patroni may not start: {reason}", file=sys.stderr)
        return 1 if reason else 0
    if what == ("--after-stop",):
        return after_stop(config)
    if what and what[0] == "--disarm" and what[1:] in ((), ("--alone",)):
        return disarm(config, alone=bool(what[1:]))
    if what:
        print(__doc__, file=sys.stderr)
        return 2
    return Agent(config).run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
