# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""pgBackRest as a person runs it on a repository host: take a full backup, or remove one.

Reads one line of JSON (action and stanza; label for expire) and prints one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any


def pgbackrest(stanza: str, *words: str) -> str:
    command = ["runuser", "-u", "postgres", "--", "pgbackrest", f"--stanza={stanza}", *words]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, cwd="/"
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stdout}")
    return done.stdout


def backup(stanza: str) -> dict[str, Any]:
    began = time.monotonic()
    pgbackrest(stanza, "--type=full", "--log-level-console=warn", "backup")
    seconds = time.monotonic() - began
    found = json.loads(pgbackrest(stanza, "--output=json", "--log-level-console=off", "info"))[0]["backup"]
    newest = max(found, key=lambda each: each["timestamp"]["stop"])
    return {"label": newest["label"], "bytes": newest["info"]["delta"], "seconds": seconds}


def main() -> None:
    given = json.loads(sys.stdin.readline())
    if given["action"] == "backup":
        print(json.dumps(backup(given["stanza"])))
    else:
        pgbackrest(given["stanza"], f"--set={given['label']}", "expire")
        print("{}")


main()
