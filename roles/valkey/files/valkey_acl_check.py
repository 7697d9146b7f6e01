#!/usr/bin/python3
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Let Valkey itself read a file of users, before it is put in place.

A server of its own, which only this user can reach, is started on the file. Ends 0 when it took it, else 1
with what it said.

usage: valkey_acl_check.py FILE OWN     where the first OWN lines are not valkey_users
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

SECONDS = 10.0
READY = "Ready to accept connections"


def reason(last: str, own: int) -> str:
    """What it said of a line, by the user's place in the list: what is in the line may be a secret."""
    found = re.search(r":(\d+): (?:Error in applying operation '.*': )?(.*?)(?: WARNING: .*)?$", last)
    return f"valkey_users, entry {int(found[1]) - own}: {found[2]}" if found else last


def main(path: str, own: int) -> int:
    with tempfile.TemporaryDirectory(prefix="muster-valkey-") as room:
        socket = Path(room) / "socket"
        words = ["--port", "0", "--unixsocket", str(socket), "--dir", room, "--save", "", "--aclfile", path]
        with subprocess.Popen(
            ["valkey-server", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as server:
            # Also one that says nothing ends.
            late = threading.Timer(SECONDS, server.kill)
            late.start()
            said = []
            assert server.stdout is not None
            for line in server.stdout:
                said.append(line)
                if READY in line:
                    server.kill()
            late.cancel()
            ready = any(READY in line for line in said)
        if ready:
            return 0
    last = said[-1].strip() if said else "valkey-server said nothing"
    print(reason(last, own), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
