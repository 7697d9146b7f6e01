# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""End what a test's processes leave behind, wherever in the process tree it went."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
SECONDS = 10.0


def parents() -> dict[int, int]:
    """The parent of each process. `stat` says it without looking into the memory of the process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError):
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return found


def descendants() -> set[int]:
    """The children of this process, and theirs."""
    known, found = parents(), {os.getpid()}
    while more := {pid for pid, parent in known.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


@contextlib.contextmanager
def none_left() -> Iterator[None]:
    """Whatever began meanwhile and still runs is ended. A worker of ansible-playbook has a session of its own
    and outlives a killed parent; as this process is a subreaper, it becomes a child of this one."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = descendants()
    try:
        yield
    finally:
        deadline = time.monotonic() + SECONDS
        while left := descendants() - before:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            assert time.monotonic() < deadline, f"waited {SECONDS:.0f} s for {sorted(left)} to end"
            time.sleep(0.02)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
