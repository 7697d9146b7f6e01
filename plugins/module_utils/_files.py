# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files that are there whole or not at all, also after a crash, and locks with a deadline."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until


def write_file(path: str | os.PathLike[str], text: str, mode: int | None = None) -> None:
    """Replace a file in one step and have it on the disk; without a mode the umask decides."""
    directory, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(directory, f".{name[:200]}-{secrets.token_hex(6)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        # Closed until it has its mode: what it holds may be a secret.
        descriptor = os.open(temporary, flags, 0o666 if mode is None else 0o600)
        with open(descriptor, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            if mode is not None:
                os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync(directory)


def file_hash(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(directory: str | os.PathLike[str]) -> None:
    """Make names in a directory last through a crash of the machine."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def wait_for_lock(stream: Any, kind: int, what: str, timeout: float, interval: float) -> None:
    """Lock an open file; a MusterError says what was waited for when another keeps it until the deadline."""

    def take() -> bool:
        try:
            fcntl.flock(stream, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    wait_until(take, what, timeout, interval)
