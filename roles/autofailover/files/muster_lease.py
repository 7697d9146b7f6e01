#!/usr/bin/python3
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keep the lease of the region that may write, and fail over when two verdicts say that it is lost.

One host, the witness, runs this. PostgreSQL's hosts renew the lease for their region over
mutual TLS (muster_lease_agent.py). Each answer is a promise: for lease_seconds from now the
lease goes to nobody else. A restarted witness does not know what it promised, so it waits a
whole lease before it may pass the lease on.

The lease is passed when all of these hold: no host of its region has renewed it for
lease_seconds; the canary has had no acknowledged write through any endpoint for
probe_seconds; the other region is a healthy standby and has claimed the new term in its own
etcd, so that it covers the old one no more; no DR operation is under way. Each decision, and
each refusal to decide, is one line in the journal.

Only the standard library.

usage: muster_lease.py CONFIGURATION
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

STATE = "witness.json"
LIMIT = 1 << 16  # bytes of a request
TICK = 0.5
# A decision must still be right after this many looks in a row: one look may fall between two packets.
LOOKS = 3
# A canary's attempt takes up to two seconds, and is written down when it ends.
OPEN_SECONDS = 2.0
LEDGER_TAIL = 1 << 17


def say(text: str) -> None:
    """One line for the journal."""
    print(text, file=sys.stderr, flush=True)


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def boottime() -> float:
    """Seconds that nobody can set, and that go on while the host sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def notify(text: str) -> None:
    """Tell systemd; silent where there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect("\0" + address[1:] if address.startswith("@") else address)
        client.sendall(text.encode())


class Refused(Exception):
    """What was asked for cannot be; told in one sentence."""

    again = False


class NotYet(Refused):
    """What was asked for may be possible in some seconds."""

    again = True


def write_file(path: Path, text: str) -> None:
    """Replace a file so that a crash leaves the old one or the new one, on the disk."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- the lease ---------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """Seconds; what each means is in the role's argument specs."""

    lease: float
    renew: float
    probe: float
    retry: float


@dataclass
class Word:
    """What a host said of itself with its last renewal."""

    at: float
    said: dict[str, Any]


class Lease:
    """Who may write, by terms. Every change is on the disk before it is told to anybody."""

    def __init__(
        self,
        regions: dict[str, list[str]],
        timing: Timing,
        directory: Path,
        clock: Callable[[], float] = boottime,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.regions = regions
        self.timing = timing
        self.path = directory / STATE
        self.clock = clock
        self.wall = wall
        self.mutex = threading.RLock()
        self.started = clock()
        self.renewed: dict[str, float] = {}
        self.words: dict[str, Word] = {}
        self.ahead = 0  # the highest term that a host knows, when it is above this witness's own
        self.state = self._load()

    def _load(self) -> dict[str, Any]:
        blank: dict[str, Any] = {
            "schema_version": 1,
            "term": 0,
            "holders": [],
            "since": None,
            "armed": [],
            "candidate": None,
            "passed": None,
            "tried_at": None,
        }
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return blank
        if not isinstance(found, dict) or not isinstance(found.get("term"), int):
            raise Refused(f"{self.path} is no state of the lease that can be read")
        return blank | found

    def save(self, **changes: Any) -> None:
        state = {**self.state, **changes}
        write_file(self.path, json.dumps(state, indent=2, sort_keys=True) + "\n")
        self.state = state

    # --- looking ---

    @property
    def term(self) -> int:
        return int(self.state["term"])

    @property
    def holders(self) -> list[str]:
        return list(self.state["holders"])

    def region_of(self, host: str) -> str:
        for name, hosts in self.regions.items():
            if host in hosts:
                return name
        raise Refused(f"{host} is no PostgreSQL host of this lease")

    def other(self, region: str) -> str:
        return next(name for name in self.regions if name != region)

    def expires_at(self, region: str) -> float:
        """When all promises to a region's hosts have ended, also those of an earlier run."""
        promised = [self.renewed[host] for host in self.regions[region] if host in self.renewed]
        return max([self.started, *promised]) + self.timing.lease

    def fresh(self, host: str) -> dict[str, Any] | None:
        """What a host said lately; None when it is silent."""
        word = self.words.get(host)
        return word.said if word and self.clock() - word.at <= 3 * self.timing.renew else None

    # --- what hosts ask ---

    def renew(self, host: str, said: dict[str, Any]) -> dict[str, Any]:
        """One host's renewal for its region; the answer tells whether it is granted."""
        with self.mutex:
            region, now = self.region_of(host), self.clock()
            self.words[host] = Word(now, said)
            known = int(said.get("term") or 0)
            if not self.holders:
                # A new witness, where there was one before: an old claim would refuse to cover lower terms.
                known = max(known, int(said.get("claimed") or 0))
            if known > self.term:
                self.ahead = max(self.ahead, known)
            self._note_armed(host, said.get("armed") is True)
            granted = region in self.state["holders"] and not self.ahead
            if granted:
                self._cancel(region)
                # Read again: writing may have taken long, and the promise counts from its end.
                self.renewed[host] = self.clock()
            return {
                "term": self.term,
                "holders": self.holders,
                "granted": granted,
                "candidate": self.state["candidate"],
            }

    def _note_armed(self, host: str, armed: bool) -> None:
        """Whether a host stops itself without a word, by its own account: a new one does not yet."""
        if armed != (host in self.state["armed"]):
            self.save(
                armed=sorted({*self.state["armed"], host} if armed else {*self.state["armed"]} - {host})
            )

    def _cancel(self, region: str) -> None:
        """A region that is back keeps its lease. The other one may have claimed the new term: skip it."""
        candidate = self.state["candidate"]
        if candidate and candidate["region"] != region:
            self.save(candidate=None, term=int(candidate["term"]) + 1)
            say(f"not passed: region {region} renews its lease again, term {self.term}")

    def disarm(self, host: str) -> dict[str, Any]:
        """A host's agent is about to be removed: from now on nothing is decided for its region."""
        with self.mutex:
            self.region_of(host)
            if host in self.state["armed"]:
                self.save(armed=[each for each in self.state["armed"] if each != host])
                say(f"{host} does not fence itself any more: nothing is decided without it")
            self.renewed.pop(host, None)
            return {"term": self.term, "disarmed": True}

    # --- what the operator asks, always on this host ---

    def _expect(self, term: int | None) -> None:
        if term is not None and term != self.term:
            raise Refused(f"the lease is at term {self.term}, not at {term}: it has changed meanwhile")

    def _check_region(self, region: str) -> None:
        if region not in self.regions:
            raise Refused(f"{region} is no region of this lease ({', '.join(self.regions)})")

    def _set(self, holders: list[str], **more: Any) -> bool:
        term = max(
            [self.term, self.ahead, *([self.state["candidate"]["term"]] if self.state["candidate"] else [])]
        )
        self.save(
            term=term + 1,
            holders=holders,
            since=stamp(self.wall()),
            candidate=None,
            **{"passed": None, **more},
        )
        self.ahead = 0
        say(f"term {self.term}: the lease is {' and '.join(holders)}'s")
        return True

    def hold(self, region: str, term: int | None = None) -> bool:
        """Make the lease one region's alone; from two in a planned move, or the very first time."""
        with self.mutex:
            self._check_region(region)
            self._expect(term)
            if self.holders == [region] and not self.ahead:
                return False
            if self.holders and region not in self.holders:
                raise Refused(
                    f"the lease is {self.holders[0]}'s: share it for a planned move, or pass it in a failover"
                )
            for loser in self.holders:
                if loser != region:
                    self._check_drop(loser)
            return self._set([region])

    def _check_drop(self, region: str) -> None:
        """A region that may still take writes does not lose its share by a word."""
        if self.clock() >= self.expires_at(region):
            return
        for host in self.regions[region]:
            said = self.fresh(host)
            silent_for = self.clock() - max(self.renewed.get(host, self.started), self.started)
            if said is None and silent_for < self.timing.lease:
                raise NotYet(
                    f"{host} has not said for {silent_for:.0f} s whether it takes writes: try again later"
                )
            if said is not None and said.get("standby") is not True:
                raise NotYet(
                    f"{host} does not say that region {region} is a standby: it may still take writes"
                )

    def share(self, region: str, term: int | None = None) -> bool:
        """For a planned move the lease is both regions'; the move itself keeps them from both writing."""
        with self.mutex:
            self._check_region(region)
            self._expect(term)
            if region in self.holders:
                return False
            if not self.holders:
                raise Refused("nobody holds the lease: say first which region holds it")
            if self.ahead:
                raise Refused(self.behind())
            silent = [host for host in self.regions[region] if self.fresh(host) is None]
            if len(silent) == len(self.regions[region]):
                raise Refused(
                    f"no agent of region {region} renews ({', '.join(silent)}): it would fence itself"
                )
            return self._set([*self.holders, region])

    def hand(self, region: str, term: int | None, proof: dict[str, Any] | None) -> bool:
        """Pass the lease by hand, in a failover that an operator runs."""
        with self.mutex:
            self._check_region(region)
            self._expect(term)
            if self.holders == [region]:
                return False
            if not self.holders:
                raise Refused("nobody holds the lease: say first which region holds it")
            loser = self.other(region)
            if not (proof and proof.get("proven") is True and proof.get("region") == loser):
                self._check_ended(loser)
            return self._set([region], passed=self.facts(loser, region, "an operator", finished=True))

    def _check_ended(self, loser: str) -> None:
        """Without another proof only a lease that ended counts, of hosts that then stopped themselves."""
        remaining = self.expires_at(loser) - self.clock()
        if remaining > 0:
            raise Refused(
                f"region {loser} may hold the lease for {remaining:.0f} s and is not proven to be fenced"
            )
        unknown = sorted(set(self.regions[loser]) - set(self.state["armed"]))
        if unknown:
            raise Refused(
                f"region {loser} is not proven to be fenced, and not known to fence themselves are: "
                + ", ".join(unknown)
            )

    def finish(self) -> None:
        """An operator goes on with a failover that the witness began: it is not run again."""
        with self.mutex:
            passed = self.state["passed"]
            if passed and not passed["finished"]:
                self.save(passed={**passed, "finished": True})
                say(f"the failover to {passed['to']} is an operator's now")

    def facts(self, loser: str, winner: str, by: str, finished: bool) -> dict[str, Any]:
        now, ended = self.clock(), self.expires_at(loser)
        return {
            "from": loser,
            "to": winner,
            "by": by,
            "at": stamp(self.wall()),
            "expired": now >= ended,
            "expired_at": stamp(self.wall() - (now - ended)) if now >= ended else None,
            "finished": finished,
        }

    def behind(self) -> str:
        return (
            f"a host knows term {self.ahead}, this witness only {self.term}: its state is old. "
            "Look which region is primary, and say so with state held"
        )

    def proof(self) -> dict[str, Any]:
        """The fence that the lease itself is: of the region that does not hold it any more."""
        with self.mutex:
            holders, now = self.holders, self.clock()
            if len(holders) != 1 or self.ahead:
                why = self.behind() if self.ahead else "the lease is not one region's alone"
                return {"proven": False, "provider": "lease", "region": None, "proven_at": None,
                        "detail": why, "term": self.term}  # fmt: skip
            loser, passed = self.other(holders[0]), self.state["passed"] or {}
            ended = self.expires_at(loser)
            ended_at = stamp(self.wall() - (now - ended))
            unknown = sorted(set(self.regions[loser]) - set(self.state["armed"]))
            if passed.get("expired") and passed["to"] == holders[0]:
                # Noted when it was passed: a restart since then does not make it doubtful.
                ended, ended_at = min(ended, now), passed["expired_at"]
            proven = now >= ended and not unknown
            detail = f"its lease may last {ended - now:.0f} s more"
            if unknown:
                detail = f"not known to fence themselves: {', '.join(unknown)}"
            elif proven:
                detail = f"its lease ended at {ended_at}, and each of its hosts has kept itself down since"
            return {
                "proven": proven,
                "provider": "lease",
                "region": loser,
                "proven_at": stamp(self.wall()) if proven else None,
                "detail": detail,
                "term": self.term,
            }

    def info(self) -> dict[str, Any]:
        with self.mutex:
            now = self.clock()
            holder = self.holders[0] if len(self.holders) == 1 else None
            left = self.expires_at(holder) - now if holder else None
            return {
                "term": self.term,
                "holder": holder,
                "holders": self.holders,
                "since": self.state["since"],
                "expires_in_seconds": round(max(0.0, left), 3) if left is not None else None,
                "expired_at": stamp(self.wall() + left) if left is not None and left <= 0 else None,
                "regions": self.regions,
                "fresh_seconds": 3 * self.timing.renew,
                "armed": self.state["armed"],
                "candidate": self.state["candidate"],
                "passed": self.state["passed"],
                "agents": {
                    host: {"seconds_ago": round(now - word.at, 3), **word.said}
                    for host, word in sorted(self.words.items())
                },
                "proof": self.proof(),
                "reasons": [self.behind()] if self.ahead else [],
            }


# --- the second verdict ------------------------------------------------------


def read_rows(path: Path) -> list[list[str]]:
    """The last rows of the canary's ledger: store, number, sent, acknowledged, endpoint, answer."""
    with path.open("rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - LEDGER_TAIL))
        text = stream.read()
    lines = text[text.find(b"\n") + 1 : text.rfind(b"\n") + 1].decode("utf-8", "replace").splitlines()
    return [row for row in (line.split(",") for line in lines) if len(row) == 6 and row[1].isdecimal()]


def seconds_of(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def judge_probe(
    rows: list[list[str]], endpoints: list[str], interval: float, probe_seconds: float, now: float
) -> tuple[bool | None, str]:
    """Whether nothing could be written through any endpoint for so long; None is no verdict."""
    mine = [row for row in rows if row[4] in endpoints]
    sent = {name: [row for row in mine if row[4] == name] for name in endpoints}
    reach = OPEN_SECONDS + 3 * interval
    for name, tries in sent.items():
        # A row from the future is of a clock that was set back: no verdict on that.
        if not tries or not -reach <= now - seconds_of(tries[-1][2]) <= reach:
            return None, f"the canary does not write through {name}: no verdict"
    acknowledged = max((seconds_of(row[3]) for row in mine if row[3]), default=None)
    first = min(seconds_of(row[2]) for row in mine)
    silent = max(seconds_of(row[2]) for row in mine) - (acknowledged if acknowledged is not None else first)
    if silent < probe_seconds:
        return False, f"the last acknowledged write is {max(0.0, silent):.1f} s old"
    for name, tries in sent.items():
        since = [row for row in tries if acknowledged is None or seconds_of(row[2]) > acknowledged]
        # A clock that is set forward makes one row look late; it does not make three attempts fail.
        if len(since) < 3:
            return None, f"too few attempts through {name} since the last acknowledged write"
    return True, f"no write was acknowledged through {', '.join(endpoints)} for {silent:.1f} s"


def canary_probe(
    config_path: str, store: str, probe_seconds: float, wall: Callable[[], float] = time.time
) -> tuple[bool | None, str]:
    """The canary's verdict; anything that is wrong with it is none."""
    try:
        config = json.loads(Path(config_path).read_text(encoding="utf-8"))
        found = next(each for each in config["stores"] if each["name"] == store)
        endpoints = [each["name"] for each in found["endpoints"]]
        rows = [row for row in read_rows(Path(config["directory"]) / "ledger.csv") if row[0] == store]
        return judge_probe(rows, endpoints, config["interval_ms"] / 1000, probe_seconds, wall())
    except StopIteration:
        return None, f"the canary does not write to {store}: no verdict"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"the canary's ledger cannot be read ({type(error).__name__}): no verdict"


def operation_lock(directory: str) -> dict[str, Any] | None:
    """The DR operation that is under way; a lock that cannot be read is one."""
    try:
        found = json.loads((Path(directory) / "operation.json").read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}


# --- deciding ----------------------------------------------------------------


class Runner:
    """Runs the command of a failover, one at a time, its output in the journal."""

    def __init__(
        self, words: list[str], directory: Path, environment: dict[str, str], timeout: float
    ) -> None:
        self.words = words
        self.directory = directory
        self.environment = environment
        self.timeout = timeout
        self.process: subprocess.Popen[bytes] | None = None
        self.began = 0.0

    def start(self, source: str, target: str, proof: dict[str, Any]) -> None:
        path = self.directory / "proof.json"
        write_file(path, json.dumps(proof, indent=2, sort_keys=True) + "\n")
        places = {"{source}": source, "{target}": target, "{proof}": str(path)}
        command = []
        for word in self.words:
            for place, value in places.items():
                word = word.replace(place, value)
            command.append(word)
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            cwd=self.directory,
            env=os.environ | self.environment,
            start_new_session=True,
        )

    def poll(self) -> int | None:
        """The exit code once it has ended; None while it runs, or when none was started."""
        if self.process is None:
            return None
        code = self.process.poll()
        if code is None and time.monotonic() - self.began > self.timeout:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            code = self.process.wait()
            say(f"the failover's command took longer than {self.timeout:g} s and was ended")
        if code is not None:
            self.process = None
        return code

    @property
    def busy(self) -> bool:
        return self.process is not None


@dataclass
class Decider:
    """Looks every half second, and says once what it thinks."""

    lease: Lease
    probe: Callable[[], tuple[bool | None, str]]
    lock: Callable[[], dict[str, Any] | None]
    runner: Any
    looks: int = 0
    said: str = ""
    last: dict[str, Any] = field(default_factory=dict)

    def tell(self, verdict: str, reason: str) -> None:
        """One line for each new reason; figures in it do not make it new."""
        plain = "".join(letter for letter in f"{verdict} {reason}" if not letter.isdigit())
        self.last = {"at": stamp(self.lease.wall()), "verdict": verdict, "reason": reason}
        if plain != self.said:
            self.said = plain
            say(f"{verdict}: {reason}")

    def tick(self) -> None:
        code = self.runner.poll()
        with self.lease.mutex:
            if code is not None:
                self.ended(code)
            if self.runner.busy:
                return
            passed = self.lease.state["passed"]
            if passed and not passed["finished"]:
                self.finish(passed)
                return
            reason = self.doubt()
            if reason is not None:
                self.looks = 0
                self.tell(*reason)
                return
            self.looks += 1
            if self.looks >= LOOKS:
                self.act()

    def doubt(self) -> tuple[str, str] | None:
        """Why nothing is to be done; None when all that must hold does."""
        lease = self.lease
        if lease.ahead:
            return "undecided", lease.behind()
        if not lease.holders:
            return "undecided", "nobody holds the lease yet"
        if len(lease.holders) > 1:
            return "undecided", "a planned move is under way, the lease is both regions'"
        holder = lease.holders[0]
        left = lease.expires_at(holder) - lease.clock()
        if left > 0:
            renewed = any(lease.fresh(host) for host in lease.regions[holder])
            if renewed:
                return "ok", f"region {holder} renews its lease"
            return "waiting", f"region {holder} is silent, and its lease lasts {left:.0f} s more"
        return self._doubt_lost(holder)

    def _doubt_lost(self, holder: str) -> tuple[str, str] | None:
        lease, lost = self.lease, f"region {holder} has lost its lease, but "
        unknown = sorted(set(lease.regions[holder]) - set(lease.state["armed"]))
        if unknown:
            return (
                "refused",
                lost + f"{', '.join(unknown)} never renewed it, so nobody knows that it fences itself",
            )
        failing, why = self.probe()
        if not failing:
            return "refused", lost + why
        lock = self.lock()
        if lock is not None:
            return (
                "refused",
                lost + f"a DR operation is under way ({lock.get('operation', 'unreadable lock')})",
            )
        waits = self.since_try()
        if waits is not None and waits < lease.timing.retry:
            return "refused", lost + f"it was tried {waits:.0f} s ago, and {lease.timing.retry:g} s must pass"
        return self._doubt_target(lease.other(holder), lost)

    def _doubt_target(self, target: str, lost: str) -> tuple[str, str] | None:
        said = {host: self.lease.fresh(host) for host in self.lease.regions[target]}
        heard = {host: each for host, each in said.items() if each is not None}
        if not heard:
            return "refused", lost + f"no host of region {target} is heard either: the witness may be cut off"
        if not any(
            each.get("role") == "standby_leader" and each.get("standby") is True for each in heard.values()
        ):
            return "refused", lost + f"region {target} has no healthy standby leader"
        covered = sorted(host for host, each in heard.items() if each.get("covers"))
        if covered:
            return "refused", lost + f"region {target} still hears it, and covers it ({', '.join(covered)})"
        return None

    def since_try(self) -> float | None:
        """Seconds since the last attempt; a clock that was set back makes it no shorter wait."""
        tried = self.lease.state["tried_at"]
        return max(0.0, self.lease.wall() - seconds_of(tried)) if tried else None

    def act(self) -> None:
        """First the other region claims the new term, and so gives up covering; then it is passed."""
        lease = self.lease
        holder = lease.holders[0]
        target, candidate = lease.other(holder), lease.state["candidate"]
        if not candidate:
            candidate = {"region": target, "term": lease.term + 1}
            lease.save(candidate=candidate)
        claims = [
            int(said.get("claimed") or 0) for host in lease.regions[target] if (said := lease.fresh(host))
        ]
        if max(claims, default=0) < candidate["term"]:
            self.tell(
                "deciding",
                f"region {holder} is lost: region {target} is asked to claim term {candidate['term']}",
            )
            return
        facts = lease.facts(holder, target, "the witness", finished=False)
        lease.save(
            term=candidate["term"],
            holders=[target],
            since=facts["at"],
            candidate=None,
            passed=facts,
            tried_at=facts["at"],
        )
        self.looks = 0
        _failing, why = self.probe()
        self.tell("passed", f"region {holder} lost its lease at {facts['expired_at']}, and {why}; "
                            f"term {lease.term} is region {target}'s")  # fmt: skip
        self.run()

    def run(self) -> None:
        passed, proof = self.lease.state["passed"], self.lease.proof()
        try:
            self.runner.start(passed["from"], passed["to"], proof)
        except OSError as error:
            self.tell("failed", f"the failover's command cannot be run: {error}")

    def finish(self, passed: dict[str, Any]) -> None:
        """The lease was passed, but the failover has not ended well: again, after a while."""
        waits = self.since_try()
        if waits is not None and waits < self.lease.timing.retry:
            return
        lock = self.lock()
        if lock is not None and (lock.get("operation"), lock.get("target")) != ("failover", passed["to"]):
            self.tell(
                "refused",
                f"the failover to {passed['to']} is not finished, and another operation is under way",
            )
            return
        self.lease.save(tried_at=stamp(self.lease.wall()))
        self.tell("again", f"the failover to {passed['to']} is run again, because it has not finished")
        self.run()

    def ended(self, code: int) -> None:
        passed = self.lease.state["passed"]
        if not passed:
            return
        if code == 0:
            self.lease.save(passed={**passed, "finished": True})
            self.tell("done", f"the failover to {passed['to']} has finished")
        else:
            self.tell("failed", f"the failover to {passed['to']} ended with {code}; "
                                f"it is run again after {self.lease.timing.retry:g} s")  # fmt: skip


# --- answering ---------------------------------------------------------------


def names_of(certificate: dict[str, Any]) -> set[str]:
    """Whom a certificate is for."""
    found = {value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"}
    for part in certificate.get("subject", ()):
        found |= {value for key, value in part if key == "commonName"}
    return found


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], lease: Lease, context: ssl.SSLContext) -> None:
        self.lease = lease
        self.context = context
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        # In the connection's own thread, with a deadline: who only connects must keep nobody waiting.
        request.settimeout(5)
        with self.context.wrap_socket(request, server_side=True) as secured:
            Handler(secured, client_address, self)

    def handle_error(self, *_arguments: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):
            say(f"a connection was refused: {type(error).__name__}: {str(error)[:100]}")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server
    timeout = 30

    def log_message(self, *_arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        try:
            size = int(self.headers.get("Content-Length") or 0)
            if not 0 <= size <= LIMIT:
                raise ValueError
            body = json.loads(self.rfile.read(size))
            host = str(body["host"])
            if host not in names_of(self.connection.getpeercert() or {}):
                self.answer(403, {"error": f"the certificate is not {host}'s"})
            elif self.path == "/v1/renew":
                self.answer(200, self.server.lease.renew(host, dict(body.get("said") or {})))
            elif self.path == "/v1/disarm":
                self.answer(200, self.server.lease.disarm(host))
            else:
                self.answer(404, {"error": "there are /v1/renew and /v1/disarm"})
        except Refused as error:
            self.answer(403, {"error": str(error)})
        except (ValueError, KeyError, TypeError):
            self.answer(400, {"error": "not a request of an agent"})

    def answer(self, code: int, payload: dict[str, Any]) -> None:
        raw = json.dumps(payload).encode()
        # One write: head and body apart would wait for a delayed ACK.
        head = f"HTTP/1.1 {code} -\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
        self.wfile.write(head.encode() + raw)


class Control:
    """A socket for root on this host: one request and one answer, a line of JSON each."""

    def __init__(self, path: str, decider: Decider) -> None:
        self.decider = decider
        self.lease = decider.lease
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            self.socket.bind(path)
        finally:
            os.umask(mask)
        self.socket.listen(16)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            client, _address = self.socket.accept()
            with client, contextlib.suppress(OSError):
                client.settimeout(5)
                with client.makefile("rw", encoding="utf-8") as stream:
                    stream.write(json.dumps(self.answer(stream.readline(LIMIT))) + "\n")

    def answer(self, line: str) -> dict[str, Any]:
        try:
            asked = json.loads(line)
            changed = self.change(asked)
        except Refused as error:
            return {"error": str(error), "again": error.again}
        except (ValueError, KeyError, TypeError) as error:
            return {"error": f"not a request: {type(error).__name__}"}
        except OSError as error:
            return {"error": f"the lease cannot be written down: {error.strerror}"}
        return {
            "changed": changed,
            **self.lease.info(),
            "decision": self.decider.last or None,
            "running": bool(self.decider.runner.busy),
        }

    def change(self, asked: dict[str, Any]) -> bool:
        state, region, term = asked["state"], str(asked.get("region")), asked.get("term")
        if state == "info":
            return False
        if self.decider.runner.busy and state != "passed":
            raise Refused("a failover of the witness's own is under way: wait until it has ended")
        if state == "held":
            return self.lease.hold(region, term)
        if state == "shared":
            return self.lease.share(region, term)
        if state == "passed":
            changed = self.lease.hand(region, term, asked.get("proof"))
            if not self.decider.runner.busy:
                self.lease.finish()
            return changed
        raise Refused(f"there is no state {state}")


def server_context(config: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(config["certificate"], config["private_key"])
    context.load_verify_locations(config["ca_certificate"])
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def build(config: dict[str, Any]) -> tuple[Server, Decider]:
    directory = Path(config["directory"])
    timing = Timing(
        config["lease_seconds"], config["renew_seconds"], config["probe_seconds"], config["retry_seconds"]
    )
    lease = Lease(config["regions"], timing, directory)
    decider = Decider(
        lease,
        lambda: canary_probe(config["canary_config"], config["store"], timing.probe),
        lambda: operation_lock(config["lock_directory"]),
        Runner(config["command"], directory, config.get("environment", {}), config["command_timeout"]),
    )
    Control(config["socket"], decider)
    return Server((config["address"], config["port"]), lease, server_context(config)), decider


def main(path: str) -> int:
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
        server, decider = build(config)
    except (Refused, OSError, ValueError, KeyError) as error:
        say(f"{path}: {type(error).__name__}: {error}")
        return 1
    threading.Thread(target=server.serve_forever, args=(0.2,), daemon=True).start()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_arguments: stop.set())
    say(f"term {decider.lease.term}, {' and '.join(decider.lease.holders) or 'nobody'} holds the lease; "
        f"it goes to nobody else for {decider.lease.timing.lease:g} s")  # fmt: skip
    notify("READY=1")
    while not stop.wait(TICK):
        try:
            decider.tick()
        except OSError as error:
            # Not written down is not decided.
            decider.tell("undecided", f"the lease cannot be written down: {error}")
        notify("WATCHDOG=1")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
