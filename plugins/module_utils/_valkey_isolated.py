# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A Valkey server of its own on a copy of data, which nobody but root and its user can reach."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._valkey import first_line
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

PROGRAM = "/usr/bin/valkey-server"


def private(path: str, flags: int) -> int:
    """An opener of files that only their owner may read."""
    return os.open(path, flags, 0o600)


def size_of(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def check_room(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed * 1.1 + 16 * 1024**2:
        raise MusterError(f"{directory} has {free >> 20} MB free and {needed >> 20} MB are needed")


def own(directory: Path, user: str) -> pwd.struct_passwd:
    account = pwd.getpwnam(user)
    for path in [directory, *directory.rglob("*")]:
        os.chown(path, account.pw_uid, account.pw_gid)
    return account


@contextlib.contextmanager
def served(directory: Path, append_only: bool, timeout: float, user: str = "valkey") -> Iterator[Any]:
    """Serve the data in C(directory) on a socket; a client of it."""
    import redis

    account = own(directory, user)
    room = Path(tempfile.mkdtemp(prefix="muster-valkey-"))
    os.chown(room, account.pw_uid, account.pw_gid)
    socket = room / "socket"
    words = ["--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700", "--dir", str(directory)]
    words += ["--appendonly", "yes" if append_only else "no", "--save", "", "--daemonize", "no"]
    log = room / "log"
    with open(log, "wb") as output:
        process = subprocess.Popen(  # pylint: disable=ansible-bad-function
            [PROGRAM, *words], stdout=output, stderr=output, cwd=directory,
            user=account.pw_uid, group=account.pw_gid, extra_groups=[],
        )  # fmt: skip
    client = redis.Redis(unix_socket_path=str(socket), lib_name=None, lib_version=None, socket_timeout=60)

    def settled() -> str | None:
        """Whether it answers or has ended; None while neither is so."""
        if process.poll() is not None:
            return "ended"
        with contextlib.suppress(redis.RedisError):
            client.ping()
            return "answers"
        return None

    try:
        if wait_until(settled, f"a server on the data in {directory}", timeout, 0.1) == "ended":
            said = log.read_text(errors="replace").strip().splitlines()
            raise MusterError(f"Valkey did not take the data: {said[-1] if said else 'no word'}")
        yield client
    except redis.RedisError as error:
        raise MusterError(f"the server on the data in {directory}: {first_line(error)}") from error
    finally:
        client.close()
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(room, ignore_errors=True)
