# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One DR operation at a time: who holds the lock, and who may have it.

The lock is a file on the witness. Whether its holder still runs can only be seen on the
holder's own controller: the module decides what it can, and asks the action for the rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pwd
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

STATE, LOG, GUARD = "operation.json", "operations.log", "lock"
ALIVE, GONE, UNKNOWN = "alive", "gone", "unknown"
IDENTITY = ("user", "host", "pid", "process_started", "boot_id", "machine_id", "pid_namespace", "token")


def now_text() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# --- on the controller: who a process is, and whether it still runs ----------------------------


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def process_start(pid: int) -> str | None:
    """When a process started, in clock ticks since the boot; None when it has ended."""
    # The command in parentheses may hold anything, a parenthesis too.
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(fields) < 20 or fields[0] in ("Z", "X"):
        return None
    return fields[19]


def user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def identify(pid: int) -> dict[str, Any]:
    """Who a running process is, so that no other one is ever taken for it."""
    started = process_start(pid)
    if started is None:
        raise MusterError(f"the process {pid} that asks for the lock is not in /proc")
    found: dict[str, Any] = {
        "user": user_name(),
        "host": socket.gethostname(),
        "pid": pid,
        "process_started": started,
        "boot_id": _read("/proc/sys/kernel/random/boot_id"),
        "machine_id": _read("/etc/machine-id"),
        "pid_namespace": os.readlink("/proc/self/ns/pid"),
    }
    text = "\n".join(str(found[key]) for key in sorted(found) if key != "user")
    return {**found, "token": hashlib.sha256(text.encode()).hexdigest()[:32]}


def judge(holder: Mapping[str, Any], me: Mapping[str, Any]) -> str:
    """Whether a holder still runs, as far as this controller can prove it."""
    if holder.get("host") != me["host"]:
        return UNKNOWN
    if holder.get("boot_id") != me["boot_id"]:
        # The same machine has been started again since, unless it is another one of that name.
        same = me["machine_id"] and holder.get("machine_id") == me["machine_id"]
        return GONE if same else UNKNOWN
    if holder.get("pid_namespace") != me["pid_namespace"]:
        return UNKNOWN  # another container on this machine has processes that cannot be seen here
    started = process_start(int(holder["pid"]))
    return ALIVE if started is not None and started == holder.get("process_started") else GONE


# --- on the witness: the file ----------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """What one call wants."""

    operation: str
    target: str
    me: Mapping[str, Any]
    takeover: str | None = None
    seen: str | None = None  # token of the holder that the verdict is about
    verdict: str | None = None


class Store:
    """The lock's directory; every look and change is made under one flock."""

    def __init__(self, directory: str, check: bool) -> None:
        self.directory = Path(directory)
        self.check = check

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        try:
            if not self.check:
                self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            elif not (self.directory / GUARD).exists():
                yield
                return
            descriptor = os.open(self.directory / GUARD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise MusterError(f"cannot use {self.directory} for the lock: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        except OSError as error:
            raise MusterError(f"cannot keep the lock in {self.directory}: {error.strerror}") from error
        finally:
            os.close(descriptor)

    def read(self) -> dict[str, Any] | None:
        """The lock as it is; None when nobody holds it."""
        path = self.directory / STATE
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            whole = all(isinstance(found[key], str) for key in ("operation", "target", "since"))
            if not whole or not isinstance(found["holder"]["pid"], int) or not found["holder"]["token"]:
                raise ValueError
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise MusterError(
                f"{path} is no lock that can be read: look at it and at {LOG} beside it, and remove it "
                "when you know that no operation is under way"
            ) from error
        return dict(found)

    def take(self, request: Request) -> dict[str, Any]:
        lock = {
            "schema_version": 1,
            "operation": request.operation,
            "target": request.target,
            "since": now_text(),
            "holder": {key: request.me[key] for key in IDENTITY},
        }
        if self.check:
            return lock
        handle, temporary = tempfile.mkstemp(dir=self.directory, prefix=STATE)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(lock, stream, indent=2, sort_keys=True)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(self.directory / STATE)
        self._sync()
        return lock

    def free(self) -> None:
        if not self.check:
            (self.directory / STATE).unlink()
            self._sync()

    def note(self, event: str, lock: Mapping[str, Any], **more: Any) -> None:
        """One line of what has been done with the lock. It is written first: better told twice than not."""
        if self.check:
            return
        entry = {"at": now_text(), "event": event, **lock, **more}
        descriptor = os.open(
            self.directory / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            os.write(descriptor, (json.dumps(entry, sort_keys=True) + "\n").encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _sync(self) -> None:
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# --- deciding --------------------------------------------------------------------------------


def describe(lock: Mapping[str, Any]) -> str:
    holder = lock["holder"]
    return (
        f"{lock['operation']} to {lock['target']}, begun by {holder.get('user')} on {holder.get('host')} "
        f"(process {holder['pid']}), holds the lock since {lock['since']}"
    )


def result(changed: bool, lock: Mapping[str, Any] | None, **more: Any) -> dict[str, Any]:
    return {
        "changed": changed,
        "lock": lock,
        "undecided": False,
        "nested": False,
        "took_over": None,
        **more,
    }


def hold(store: Store, request: Request) -> dict[str, Any]:
    """Take the lock, or say in one sentence who has it."""
    current = store.read()
    mine = {"operation": request.operation, "target": request.target, "holder": dict(request.me)}
    if current is None:
        store.note("taken", mine)
        return result(True, store.take(request))
    if current["holder"]["token"] == request.me["token"]:
        return result(False, current, nested=not is_owner(current, request))
    if request.verdict is None or request.seen != current["holder"]["token"]:
        return result(False, current, undecided=True)
    same = is_owner(current, request)
    reason = (request.takeover or "").strip()
    if request.verdict == ALIVE:
        raise MusterError(f"{describe(current)}, and still runs: wait until it has ended")
    if request.verdict == GONE and same:
        reason = reason or "the same operation is run again after its process ended"
    elif not reason:
        raise MusterError(refusal(current, request.verdict))
    automatic = request.verdict == GONE and same
    took_over = {"previous": current, "reason": reason, "automatic": automatic, "verdict": request.verdict}
    store.note("taken over", mine, took_over=took_over)
    return result(True, store.take(request), took_over=took_over)


def refusal(current: Mapping[str, Any], verdict: str) -> str:
    how = "set dr_lock_takeover='reason' to take its lock over"
    command = f"the {current['operation']} to {current['target']}"
    if verdict == GONE:
        return f"{describe(current)}, and its process has ended: run {command} again to finish it, or {how}"
    where = current["holder"].get("host")
    return (
        f"{describe(current)}, and whether that process still runs can be seen on {where} only: wait, or, "
        f"when you know that it has ended, run {command} again with dr_lock_takeover='reason', or {how}"
    )


def is_owner(current: Mapping[str, Any], request: Request) -> bool:
    return bool(current["operation"] == request.operation and current["target"] == request.target)


def release(store: Store, request: Request) -> dict[str, Any]:
    """Free the lock, if this is the operation that took it and not one inside it."""
    current = store.read()
    if current is None:
        return result(False, None)
    if current["holder"]["token"] != request.me["token"]:
        raise MusterError(f"the lock is not this run's to release: {describe(current)}")
    if not is_owner(current, request):
        return result(False, current, nested=True)
    store.note("released", {key: current[key] for key in ("operation", "target", "holder")})
    store.free()
    return result(True, None)
