#!/usr/bin/python3
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Take a backup into the repository in S3, unless another repository host has done so.

All repository hosts have this on a timer, so that no single one must be there. The first takes the
backup; the others find it listed. Two at once cannot be: PostgreSQL lets only one in, the other
ends with an error, and systemd tries it again. Only the standard library.

usage: pgbackrest_s3_backup.py CONFIGURATION STANZA TYPE HOURS
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any


def listed(words: list[str]) -> list[dict[str, Any]]:
    """The backups of the stanza that are good."""
    done = subprocess.run(
        [*words, "--output=json", "--log-level-console=off", "--log-level-file=off", "info"],
        capture_output=True, text=True, errors="replace", timeout=300, check=True, cwd="/",
    )  # fmt: skip
    return [
        one for entry in json.loads(done.stdout) for one in entry.get("backup") or [] if not one.get("error")
    ]


def recent(backups: list[dict[str, Any]], kind: str, hours: float, now: float) -> str | None:
    """The newest backup that stands for one of this kind, if it is no older than that; its label."""
    fit = [one for one in backups if kind == "incr" or one["type"] == kind]
    newest = max(fit, key=lambda one: one["timestamp"]["stop"], default=None)
    return str(newest["label"]) if newest and now - newest["timestamp"]["stop"] <= hours * 3600 else None


def main() -> int:
    config, stanza, kind, hours = sys.argv[1:]
    words = ["pgbackrest", f"--config={config}", f"--stanza={stanza}"]
    try:
        label = recent(listed(words), kind, float(hours), time.time())
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        print(f"the repository in S3 cannot be read: {error}", file=sys.stderr)
        return 1
    if label:
        print(f"{label} is there, not older than {hours} h: nothing to do")
        return 0
    backup = [*words, f"--type={kind}", "backup"]
    if subprocess.run(backup, check=False, cwd="/").returncode == 0:
        return 0
    # A standby that answers but does not keep up must not cost the backup: the second try reads the primary.
    return subprocess.run([*backup, "--backup-standby=n"], check=False, cwd="/").returncode


if __name__ == "__main__":
    sys.exit(main())
