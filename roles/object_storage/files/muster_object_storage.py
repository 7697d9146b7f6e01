#!/usr/bin/python3
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keeps one region's object store in its role.

SeaweedFS knows nothing of regions: this program does. It runs beside the storage server on each host and
starts, as its own children, what the region's role asks for:

- in the primary region the S3 gateway, which is the only way in for applications,
- in a standby region C(weed filer.sync), which copies the primary's buckets to this one.

So a region takes writes exactly when something listens on its S3 port. The role is kept in the region's own
store, C(/muster/region.json), with an epoch that grows with every change; C(GET /state) and C(POST /state)
read and change it, a change only when the epoch is still the one that the caller has seen.

Before the gateway is started the other regions are asked: one that has been made primary since, or that does
not answer, forbids it. Nobody is asked when this region was open already since the host booted: the gateway,
or this program, only crashed then.

filer.sync loses what a crash of the primary took from its memory, silently. So after each start of either
side, and now and then, both sides are compared, and what is missing is sent again.

usage: muster_object_storage.py CONFIGURATION serve
       muster_object_storage.py CONFIGURATION compare --source HOST --target HOST [--recent SECONDS]
       muster_object_storage.py CONFIGURATION repair --source HOST --target HOST [--recent SECONDS]
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import hmac
import http.client
import http.server
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any

STATE = "/muster/region.json"  # outside of the buckets, so that it is not copied
HEARTBEAT = "/buckets/.muster/heartbeat.json"  # inside: it travels as objects do
HEADER = b'{"alg":"HS256","typ":"JWT"}'
TIMEOUT = 3.0
LOOP = 0.5
STALE = 30.0  # seconds after which the newest canary says that the copying is behind
PEERS = 5.0  # seconds between looks at the other regions while open
WORDS_OF_ROLE = ("primary", "standby")


class Unknown(Exception):
    """Something that is needed for a decision could not be read."""


class Refused(Exception):
    """What was asked for may not be; the text says why."""


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(key: str, seconds: int = 10) -> str:
    """What SeaweedFS takes as proof that somebody knows the key."""
    claims = json.dumps({"exp": int(time.time()) + seconds}).encode()
    text = f"{base64url(HEADER)}.{base64url(claims)}"
    return f"{text}.{base64url(hmac.new(key.encode(), text.encode(), hashlib.sha256).digest())}"


def token_is_good(given: str, key: str) -> bool:
    try:
        head, claims, signature = given.split(".")
        wanted = base64url(hmac.new(key.encode(), f"{head}.{claims}".encode(), hashlib.sha256).digest())
        content = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        return hmac.compare_digest(signature, wanted) and content["exp"] >= time.time()
    except (ValueError, KeyError, TypeError):
        return False


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{int(time.time() % 1 * 1000):03d}Z"


class Site:
    """This host's settings, and the TLS that it speaks."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.region: str = given["region"]
        self.host: str = given["host"]
        self.regions: dict[str, list[str]] = given["regions"]

    @property
    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.given["ca_certificate"])
        context.load_cert_chain(self.given["certificate"], self.given["private_key"])
        return context

    def request(
        self, method: str, host: str, port: int, path: str, key: str, body: bytes | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=self.context)
        headers = {"Authorization": f"Bearer {token(key)}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unknown(f"{host}:{port} does not answer ({error or type(error).__name__})") from error
        finally:
            connection.close()

    # --- a filer --------------------------------------------------------------

    def read(self, host: str, path: str) -> dict[str, Any] | None:
        """A small document of a store; None when there is none."""
        status, body = self.request("GET", host, self.given["filer_port"], path, self.given["read_key"])
        if status == 404:
            return None
        try:
            if status == 200:
                found: dict[str, Any] = json.loads(body)
                return found
        except ValueError:
            pass
        raise Unknown(f"the store of {host} answers {status} for {path}")

    def write(self, host: str, path: str, document: dict[str, Any]) -> None:
        body, key = json.dumps(document).encode(), self.given["write_key"]
        status, answer = self.request("PUT", host, self.given["filer_port"], path, key, body)
        if status not in (200, 201):
            raise Unknown(f"the store of {host} did not keep {path}: {status} {answer[:100]!r}")

    def remove(self, host: str, path: str) -> None:
        """Remove an entry of a store, and all below it."""
        query = f"{urllib.parse.quote(path)}?recursive=true&ignoreRecursiveError=true"
        key = self.given["write_key"]
        status, answer = self.request("DELETE", host, self.given["filer_port"], query, key)
        if status not in (200, 202, 204, 404):
            raise Unknown(f"the store of {host} did not remove {path}: {status} {answer[:100]!r}")

    # --- the other regions ------------------------------------------------------

    def state_of(self, host: str) -> dict[str, Any]:
        status, body = self.request("GET", host, self.given["port"], "/state", self.given["read_key"])
        try:
            found = json.loads(body)
            if status == 200 and isinstance(found, dict):
                return found
        except ValueError:
            pass
        raise Unknown(f"{host} answers {status} instead of its state")


class Child:
    """A program that runs as long as the region's role asks for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        self.argv: list[str] = []
        self.started = 0.0
        self.instance = 0

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, argv: list[str]) -> None:
        """Have it run with these words; not more often than once a second."""
        if self.alive and argv == self.argv:
            return
        if not self.alive and time.monotonic() - self.started < 1.0:
            return
        self.stop()
        self.argv, self.started = argv, time.monotonic()
        self.instance += 1
        print(f"{self.name} starts", flush=True)
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)

    def stop(self) -> None:
        """End it at once: a gateway that is asked kindly goes on with the uploads that it has begun."""
        if self.process is None:
            return
        if self.process.poll() is None:
            print(f"{self.name} ends", flush=True)
            self.process.kill()
        self.process.wait()
        self.process = None
        self.started = 0.0

    def hang_up(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGHUP)


def server_instance(weed: str) -> str | None:
    """Which storage server runs here, by when it started; None when there is none."""
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError, IndexError):
            words = Path(entry.path, "cmdline").read_bytes().split(b"\0")
            if words[0] == weed.encode() and b"server" in words[:4]:
                ticks = Path(entry.path, "stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[19]
                return f"{boot_id()}/{entry.name}/{ticks}"
    return None


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return stream.read().strip()


# --- comparing and repairing ----------------------------------------------------------------------


def compare(site: Site, source: str, target: str, recent: float = 0.0) -> dict[str, Any]:
    """What of the source's buckets the target lacks or holds differently, by SeaweedFS's own comparison."""
    ports = {name: f"{name}:{site.given['filer_port']}" for name in (source, target)}
    argv = [site.given["weed"], "filer.sync.verify", f"-a={ports[source]}", f"-b={ports[target]}"]
    argv += ["-a.path=/buckets", "-b.path=/buckets", "-jsonOutput"]
    argv += [f"-modifiedTimeAgo={recent:g}s"] if recent else []
    began = time.monotonic()
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=site.given["compare_timeout"]
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Unknown(f"{source} and {target} could not be compared: {error}") from error
    found = []
    for line in done.stdout.splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    summary = next((entry for entry in found if entry.get("type") == "SUMMARY"), None)
    if summary is None:
        reason = (done.stderr.strip().splitlines() or ["no summary"])[-1]
        raise Unknown(f"{source} and {target} could not be compared: {reason[-200:]}")
    kinds: dict[str, list[str]] = {"MISSING": [], "SIZE_MISMATCH": [], "ETAG_MISMATCH": [], "ONLY_IN_B": []}
    for entry in found:
        if entry.get("type") in kinds:
            kinds[entry["type"]].append(entry["path"])
    folders = [
        entry["path"] for entry in found if entry.get("type") == "MISSING" and entry.get("isDirectory")
    ]
    counted = sum(summary.get(key, 0) for key in ("missing", "sizeMismatch", "etagMismatch"))
    listed = sum(len(kinds[key]) for key in ("MISSING", "SIZE_MISMATCH", "ETAG_MISMATCH"))
    if counted != listed or (done.returncode != 0 and not counted and not kinds["ONLY_IN_B"]):
        code = done.returncode
        raise Unknown(f"the comparison of {source} and {target} failed in part (exit code {code})")
    return {
        "source": source,
        "target": target,
        "at": now(),
        "seconds": round(time.monotonic() - began, 3),
        "files": summary.get("files", 0),
        "missing": kinds["MISSING"],
        "directories": folders,  # of those
        "different": kinds["SIZE_MISMATCH"] + kinds["ETAG_MISMATCH"],
        "extra": kinds["ONLY_IN_B"],
    }


def send_again(site: Site, source: str, paths: list[str]) -> None:
    """Have the source tell all of these buckets anew, as if just written; versions keep their ids."""
    buckets = sorted({"/".join(path.split("/")[:3]) for path in paths if path.startswith("/buckets/")})
    with tempfile.TemporaryDirectory(prefix="muster-object-storage-") as room:
        words = []
        for number, bucket in enumerate(buckets):
            words += [f"fs.meta.save -o {room}/{number}.meta {bucket}", f"fs.meta.load {room}/{number}.meta"]
        filer, master = (f"{source}:{site.given[name]}" for name in ("filer_port", "master_port"))
        done = subprocess.run(
            [site.given["weed"], "shell", f"-master={master}", f"-filer={filer}"],
            input="\n".join(words) + "\n", capture_output=True, text=True, check=False,
            timeout=site.given["compare_timeout"],
        )  # fmt: skip
        if done.returncode != 0 or "is loaded" not in done.stdout:
            raise Unknown(f"{source} did not send {', '.join(buckets)} again: {done.stderr.strip()[-200:]}")


def repair(site: Site, source: str, target: str, recent: float = 0.0) -> dict[str, Any]:
    """Compare, send again what the target lacks, and go on until nothing is missing."""
    found = compare(site, source, target, recent)
    if found["missing"] or found["different"]:
        # What is on its way is missing once; what is lost is missing twice, and has not been written anew.
        settle = site.given["compare_settle"]
        time.sleep(settle)
        again = compare(site, source, target, max(recent, settle))
        for kind in ("missing", "different"):
            again[kind] = [path for path in again[kind] if path in found["missing"] + found["different"]]
        found = again
    lost = found["missing"] + found["different"]
    found["repaired"] = len(lost)
    if not lost:
        return found
    # What is newer in the target would be left as it is.
    for path in found["different"]:
        # Comparing takes a while: a target that has been made primary since holds the newer truth.
        if site.state_of(target).get("source") != source:
            raise Unknown(f"{target} does not copy from {source} any more")
        site.remove(target, path)
    send_again(site, source, lost)
    deadline = time.monotonic() + site.given["compare_timeout"]
    while True:
        left = compare(site, source, target, recent)
        for kind in ("missing", "different"):
            left[kind] = [path for path in left[kind] if path in lost]
        if not left["missing"] + left["different"] or time.monotonic() > deadline:
            return {**left, "repaired": len(lost)}
        time.sleep(1)


# --- the role ---------------------------------------------------------------------------------------


class Keeper:
    """What this host is doing for its region's role."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.lock = threading.RLock()
        self.state: dict[str, Any] | None = None
        self.known = False  # whether the store has been asked for the state
        self.reason = ""
        self.gateway = Child("the S3 gateway")
        self.sync = Child("the copying")
        self.sequence = 0
        self.beat: dict[str, Any] | None = None
        self.peers_at = 0.0
        self.compared: dict[str, Any] | None = None
        self.compared_for: tuple[Any, ...] = ()
        self.compared_at = -1e9
        self.compare_error = ""

    # --- what is noted on this host: it ends with the boot ---

    @property
    def note(self) -> str:
        return os.path.join(self.site.given["run_directory"], "open")

    def was_open(self, epoch: int) -> bool:
        try:
            with open(self.note, encoding="ascii") as stream:
                return stream.read().strip() == str(epoch)
        except OSError:
            return False

    def note_open(self, epoch: int | None) -> None:
        if epoch is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.note)
            return
        with open(self.note, "w", encoding="ascii") as stream:
            stream.write(f"{epoch}\n")

    # --- words to start things with ---

    def gateway_argv(self) -> list[str]:
        given = self.site.given
        return [
            given["weed"], "-logtostderr=true", "s3", f"-filer={self.site.host}:{given['filer_port']}",
            f"-ip={self.site.host}", "-ip.bind=0.0.0.0", f"-port={given['s3_port']}",
            f"-config={given['identities']}", f"-cert.file={given['certificate']}",
            f"-key.file={given['private_key']}", "-iam=false", "-port.iceberg=0", "-port.lance=0",
            "-allowDeleteBucketNotEmpty=false", "-autoCreateBucket=false",
        ]  # fmt: skip

    def sync_argv(self, source: str) -> list[str]:
        given = self.site.given
        return [
            given["weed"], "-logtostderr=true", "filer.sync", "-isActivePassive",
            f"-a={source}:{given['filer_port']}", f"-b={self.site.host}:{given['filer_port']}",
            "-a.path=/buckets", "-b.path=/buckets",
        ]  # fmt: skip

    # --- may it open? ---

    def others(self) -> dict[str, dict[str, Any]]:
        """The state of one host of each other region; Unknown when a region does not answer."""
        found = {}
        for region, hosts in self.site.regions.items():
            if region == self.site.region:
                continue
            failures = []
            for host in hosts:
                try:
                    found[region] = self.site.state_of(host)
                    break
                except Unknown as error:
                    failures.append(str(error))
            else:
                raise Unknown(f"region {region} does not answer: {'; '.join(failures)}")
        return found

    def may_open(self, state: dict[str, Any]) -> None:
        """Return when the gateway may be started; Refused says why not."""
        if self.was_open(state["epoch"]):
            return
        try:
            others = self.others()
        except Unknown as error:
            raise Refused(
                f"{error}: whether another region is primary is not known, so {self.site.region} waits; "
                "when that region is lost for good, dr_failover to this one decides it"
            ) from error
        for region, other in others.items():
            theirs = other.get("state")
            if theirs and theirs["role"] == "primary" and theirs["epoch"] >= state["epoch"]:
                raise Refused(
                    f"region {region} is primary: as a second primary {self.site.region} would lose writes; "
                    "dr_reprotect brings it back as a standby"
                )
            if other.get("open"):
                raise Refused(f"region {region} takes writes")
            if other.get("reason_unknown"):
                raise Refused(f"region {region} does not know its own role: {other['reason_unknown']}")

    # --- the loop ---

    def read_state(self) -> None:
        try:
            self.state = self.site.read(self.site.host, STATE)
            self.known = True
        except Unknown as error:
            self.known = False
            self.reason = str(error)

    def act(self) -> None:
        """Make what runs what the role asks for."""
        with self.lock:
            self.read_state()
            if not self.known:
                return  # what runs goes on: the server has crashed, and is being started again
            role = self.state["role"] if self.state else None
            if role != "primary":
                self.gateway.stop()
                self.note_open(None)
            if role != "standby" or not self.source():
                self.sync.stop()
            self.reason = ""
            if role == "primary":
                self.be_primary()
            elif self.source():
                self.sync.start(self.sync_argv(self.source() or ""))

    def source(self) -> str | None:
        """The host that this region copies from."""
        primary = (self.state or {}).get("primary")
        hosts = self.site.regions.get(primary or "", [])
        return hosts[0] if hosts and primary != self.site.region else None

    def be_primary(self) -> None:
        assert self.state is not None
        try:
            if not self.gateway.alive:
                self.may_open(self.state)
                self.note_open(self.state["epoch"])
            self.watch_peers()
        except Refused as error:
            self.gateway.stop()
            self.note_open(None)
            self.reason = str(error)
            return
        self.gateway.start(self.gateway_argv())

    def watch_peers(self) -> None:
        """Close at once when another region has been made primary behind this one's back."""
        assert self.state is not None
        if time.monotonic() - self.peers_at < PEERS:
            return
        self.peers_at = time.monotonic()
        try:
            others = self.others()
        except Unknown:
            return
        for region, other in others.items():
            theirs = other.get("state")
            if theirs and theirs["role"] == "primary" and theirs["epoch"] > self.state["epoch"]:
                raise Refused(
                    f"region {region} was made primary while this one was: {self.site.region} is closed; "
                    "dr_reprotect brings it back as a standby"
                )

    # --- changing the role ---

    def change(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Change the role when nothing has changed since the caller looked."""
        with self.lock:
            self.read_state()
            if not self.known:
                raise Refused(self.reason)
            seen, expected = self.state["epoch"] if self.state else 0, wanted.get("expect")
            if expected != seen:
                raise Refused(f"the epoch of {self.site.region} is {seen}, not {expected}: it was changed")
            state = {key: wanted.get(key) for key in ("role", "primary", "epoch", "move", "by")}
            state |= {"region": self.site.region, "changed_at": now()}
            epoch = state["epoch"]
            if state["role"] not in WORDS_OF_ROLE or not isinstance(epoch, int) or epoch <= seen:
                raise Refused("the role or the epoch makes no sense")
            self.apply(state, bool(wanted.get("fenced")))
            return self.tell()

    def apply(self, state: dict[str, Any], fenced: bool) -> None:
        if state["role"] == "standby":
            # Closed before it is noted: whatever happens to the note, nothing is acknowledged any more.
            self.gateway.stop()
            self.note_open(None)
        elif not fenced and not self.gateway.alive:
            self.may_open(state)
        if state["role"] == "primary":
            self.sync.stop()
        self.site.write(self.site.host, STATE, state)
        self.state = state
        if state["role"] == "primary":
            self.note_open(state["epoch"])
        self.act()

    # --- telling ---

    @property
    def open(self) -> bool:
        return self.gateway.alive and bool(self.state) and (self.state or {}).get("role") == "primary"

    def tell(self) -> dict[str, Any]:
        return {
            "region": self.site.region,
            "host": self.site.host,
            "state": self.state,
            "open": self.open,
            "copying": self.sync.alive,
            "source": self.source() if self.state and self.state["role"] == "standby" else None,
            "reason": self.reason,
            "reason_unknown": "" if self.known else self.reason or "the store has not been read yet",
            "server": server_instance(self.site.given["weed"]),
            "heartbeat": self.beat,
            "compared": self.short_comparison(),
            "compare_error": self.compare_error,
        }

    def short_comparison(self) -> dict[str, Any] | None:
        if self.compared is None:
            return None
        return {key: len(told) if isinstance(told, list) else told for key, told in self.compared.items()}

    # --- the canary, and the comparison ---

    def heartbeat(self) -> None:
        """Write it in the primary region; read the copy in a standby one."""
        try:
            if self.open and self.state:
                self.sequence += 1
                beat = {"epoch": self.state["epoch"], "sequence": self.sequence, "at": time.time()}
                self.site.write(self.site.host, HEARTBEAT, beat)
                self.beat = beat
            else:
                self.beat = self.site.read(self.site.host, HEARTBEAT)
        except Unknown:
            return

    def look(self) -> None:
        """Compare, and repair, when anything has started anew since, or it is time."""
        source = self.source()
        if not self.sync.alive or source is None or (self.state or {}).get("role") != "standby":
            return
        try:
            started = self.site.state_of(source)["server"]
            key = (source, started, server_instance(self.site.given["weed"]), self.sync.instance)
            fresh = time.monotonic() - self.compared_at < self.site.given["compare_seconds"]
            if started is None or (key == self.compared_for and fresh):
                return
            if key != self.compared_for:
                self.compared = None  # what was found before a crash proves nothing after it
            if not self.beat or time.time() - self.beat["at"] > STALE:
                return  # it is still catching up, and the lag says so
            found = repair(self.site, source, self.site.host)
        except (Unknown, KeyError, subprocess.SubprocessError, OSError) as error:
            self.compare_error = str(error)
            return
        self.compared, self.compared_for, self.compare_error = found, key, ""
        self.compared_at = time.monotonic()
        if found["repaired"]:
            print(
                f"{found['repaired']} entries that were missing have been sent again by {source}", flush=True
            )

    def enforce(self) -> None:
        """Close the buckets that hold more than their quota, and open those that no longer do."""
        if not self.open:
            return
        given = self.site.given
        ports = [f"-{name}={self.site.host}:{given[name + '_port']}" for name in ("master", "filer")]
        done = subprocess.run(
            [given["weed"], "shell", *ports],
            input="s3.bucket.quota.enforce -apply\n",
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        if done.returncode != 0:
            print(f"the quotas were not enforced: {done.stderr.strip()[-200:]}", file=sys.stderr, flush=True)


class Handler(http.server.BaseHTTPRequestHandler):
    keeper: Keeper
    timeout = 10

    def setup(self) -> None:
        self.request.settimeout(10)
        self.request.do_handshake()
        super().setup()

    def answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def allowed(self, key: str) -> bool:
        word, _space, given = (self.headers.get("Authorization") or "").partition(" ")
        if word == "Bearer" and token_is_good(given, key):
            return True
        self.answer(401, {"error": "a token signed with the cluster's key is needed"})
        return False

    def do_GET(self) -> None:
        if not self.allowed(self.keeper.site.given["read_key"]):
            return
        if self.path != "/state":
            self.answer(404, {"error": "there is /state only"})
            return
        self.answer(200, self.keeper.tell())

    def do_POST(self) -> None:
        if not self.allowed(self.keeper.site.given["write_key"]):
            return
        try:
            length = min(int(self.headers.get("Content-Length") or 0), 65536)
            wanted = json.loads(self.rfile.read(length))
            self.answer(200, self.keeper.change(wanted))
        except Refused as error:
            self.answer(409, {"error": str(error)})
        except Unknown as error:
            self.answer(503, {"error": str(error)})
        except (ValueError, TypeError) as error:
            self.answer(400, {"error": str(error)})

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    # An IPv6 socket takes IPv4 too, where there is IPv6.
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # somebody without a certificate, or who hung up


def repeat(action: Any, seconds: float) -> None:
    """In a thread of its own: what one does must not hold up another."""

    def loop() -> None:
        while True:
            try:
                action()
            except Exception as error:  # this loop must not end
                print(f"{action.__name__}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            time.sleep(seconds)

    threading.Thread(target=loop, daemon=True).start()


def serve(site: Site) -> None:
    keeper = Keeper(site)
    Handler.keeper = keeper
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=site.given["ca_certificate"])
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(site.given["certificate"], site.given["private_key"])
    server = Server(("", site.given["port"]), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)

    def stop(_number: int, _frame: Any) -> None:
        keeper.gateway.stop()
        keeper.sync.stop()
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, lambda *_: keeper.gateway.hang_up())
    repeat(keeper.act, LOOP)
    repeat(keeper.heartbeat, site.given["heartbeat_seconds"])
    repeat(keeper.look, 2.0)
    if site.given["quota_seconds"]:
        repeat(keeper.enforce, site.given["quota_seconds"])
    server.serve_forever()


def main() -> int:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("configuration")
    parser.add_argument("action", choices=["serve", "compare", "repair"])
    parser.add_argument("--source")
    parser.add_argument("--target")
    parser.add_argument("--recent", type=float, default=0.0, help="leave out what changed in these seconds")
    given = parser.parse_args()
    with open(given.configuration, encoding="utf-8") as stream:
        site = Site(json.load(stream))
    if given.action == "serve":
        serve(site)
        return 0
    action = {"compare": compare, "repair": repair}[given.action]
    try:
        print(json.dumps(action(site, given.source, given.target, given.recent)))
    except (Unknown, OSError, subprocess.SubprocessError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
