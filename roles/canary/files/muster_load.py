#!/usr/bin/python3
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keep a pgbench running against the applications' endpoints for a limited time.

pgbench ends when its connections break. This starts it again at once, until the
time is over; libpq picks the endpoint that leads to a server which takes writes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psycopg2

RETRY_SECONDS = 0.2
PROGRESS = re.compile(r"progress: ([0-9.]+) s, ([0-9.]+) tps")


def say(text: str) -> None:
    """One line for the journal."""
    print(text, file=sys.stderr, flush=True)


def notify(text: str) -> None:
    """Tell systemd; silent where there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect("\0" + address[1:] if address.startswith("@") else address)
        client.sendall(text.encode())


class LoadError(Exception):
    """The load cannot run; told in one sentence."""


@dataclass
class Load:
    """What to run, and what came of it."""

    endpoints: list[dict[str, Any]]
    database: str
    user: str
    ca: str
    clients: int
    rate: float
    scale: int
    seconds: float
    passfile: str = ""
    stopping: bool = False
    transactions: int = 0
    restarts: int = 0
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    def conninfo(self) -> str:
        """How libpq finds the server that takes writes; the password is in the pass file."""
        values = {
            "host": ",".join(str(endpoint["host"]) for endpoint in self.endpoints),
            "port": ",".join(str(endpoint["port"]) for endpoint in self.endpoints),
            "dbname": self.database,
            "user": self.user,
            "passfile": self.passfile,
            "sslmode": "verify-full",
            "sslrootcert": self.ca,
            "gssencmode": "disable",
            "target_session_attrs": "read-write",
            "connect_timeout": "2",
            "tcp_user_timeout": "2000",
            "application_name": "muster-load",
        }
        return " ".join(f"{key}='{quoted(value)}'" for key, value in values.items())


def quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


def find_pgbench(directory: str = "/usr/lib/postgresql") -> str:
    """The newest pgbench that Debian's packages brought."""
    found = [path for path in Path(directory).glob("*/bin/pgbench") if path.parts[-3].isdecimal()]
    if not found:
        raise LoadError(f"no pgbench below {directory}: install Debian's package postgresql-17")
    return str(max(found, key=lambda path: int(path.parts[-3])))


def read_load(path: str) -> tuple[Load, str]:
    """The load and its password."""
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
        password = str(raw.pop("password"))
        return Load(**raw), password
    except OSError as error:
        raise LoadError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        # The text of the error may quote the file, which holds a password.
        raise LoadError(f"{path} is not a valid configuration ({type(error).__name__})") from error


def write_passfile(directory: str, password: str) -> str:
    descriptor, path = tempfile.mkstemp(prefix="pgpass-", dir=directory)
    with open(descriptor, "w", encoding="utf-8") as stream:
        stream.write("*:*:*:*:" + password.replace("\\", "\\\\").replace(":", "\\:") + "\n")
    return path


def is_initialised(load: Load) -> bool:
    """Whether pgbench's tables are there; their primary keys are what its start-up makes last."""
    connection = psycopg2.connect(load.conninfo())
    try:
        with connection.cursor() as cursor:
            cursor.execute("select to_regclass('pgbench_accounts_pkey') is not null")
            return bool(cursor.fetchone()[0])
    finally:
        connection.close()


def initialise(load: Load, pgbench: str, deadline: float) -> None:
    """Make the tables when they are missing; wait for a server that takes writes."""
    reason = ""
    while not load.stopping and time.monotonic() < deadline:
        try:
            if is_initialised(load):
                return
            command = [pgbench, "--initialize", "--quiet", f"--scale={load.scale}", load.conninfo()]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            reason = done.stderr.strip().splitlines()[-1] if done.returncode and done.stderr.strip() else ""
        except psycopg2.OperationalError as error:
            reason = str(error).strip().splitlines()[0]
        if reason:
            time.sleep(RETRY_SECONDS)
    if not load.stopping:
        raise LoadError(f"pgbench's tables could not be made in database {load.database}: {reason}")


def command_of(load: Load, pgbench: str, remaining: float) -> list[str]:
    command = [pgbench, "--no-vacuum", f"--client={load.clients}", "--jobs=1", "--progress=1"]
    command += [f"--time={max(1, round(remaining))}"]
    if load.rate > 0:
        # A transaction that is late by a second is dropped: after an outage the load goes on
        # at its rate instead of catching up.
        command += [f"--rate={load.rate:g}", "--latency-limit=1000"]
    return [*command, load.conninfo()]


def follow(load: Load, errors: IO[str], process: subprocess.Popen[str]) -> str:
    """Read pgbench's progress until it ends; return why, when it lost a client."""
    for line in errors:
        if found := PROGRESS.match(line):
            load.transactions += round(float(found[2]))
            notify(f"STATUS={found[2]} transactions a second, {load.restarts} restarts")
        elif "aborted" in line:
            # One lost client is enough: the others would go on with less load, or hang.
            process.kill()
            return line.strip()
    return ""


def run(load: Load, pgbench: str) -> None:
    deadline = time.monotonic() + load.seconds
    initialise(load, pgbench, min(deadline, time.monotonic() + 100))
    notify("READY=1")
    say(f"{load.clients} clients for {load.seconds:g} s")
    while not load.stopping and (remaining := deadline - time.monotonic()) > 0:
        command = command_of(load, pgbench, remaining)
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            load.process = process
            assert process.stderr is not None
            reason = follow(load, process.stderr, process)
        load.process = None
        if load.stopping or time.monotonic() >= deadline - 1:
            break
        load.restarts += 1
        if reason:
            say(f"starting pgbench again: {reason}")
        time.sleep(RETRY_SECONDS)
    say(f"ended: about {load.transactions} transactions, pgbench started again {load.restarts} times")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="/etc/muster/load.json", help="path of the configuration")
    arguments = parser.parse_args()
    try:
        load, password = read_load(arguments.config)
        load.passfile = write_passfile(os.environ.get("RUNTIME_DIRECTORY", tempfile.gettempdir()), password)

        def stop(_number: int, _frame: object) -> None:
            load.stopping = True
            if load.process is not None:
                load.process.terminate()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        try:
            run(load, find_pgbench())
        finally:
            os.unlink(load.passfile)
    except LoadError as error:
        say(f"muster-load: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
