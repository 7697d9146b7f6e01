# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Proving a restored copy: started by itself, every index and table walked, every page's checksum read."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._diverged import Alone
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._pgbackrest import PROGRAMS, identity
from ansible_collections.muster.platform.plugins.module_utils._ranges import to_ranges
from ansible_collections.muster.platform.plugins.module_utils._restore import CONFIG, Server

Params = Mapping[str, Any]
# The numbers of the canary that are compared with its ledger.
NEWEST = "select sequence from muster_canary order by sequence desc limit 20000"


class Restored(Alone):
    """A restored directory, with the settings that the restore left in it."""

    def settings(self) -> dict[str, str]:
        return Server.settings(self)

    def open(self, timeout: float) -> None:
        words = self.start_words("-w", "-t", str(int(timeout)))
        if self._run(*words, timeout=timeout + 60).returncode != 0:
            raise MusterError(f"the restored server does not start: {self.last_words()}")
        if self.psql("postgres", "select pg_is_in_recovery()").strip() == "t":
            self.psql("postgres", f"select pg_promote(true, {int(timeout)})")

    def program(self, name: str, *words: str, timeout: float) -> tuple[int, str]:
        """Run one of PostgreSQL's programs; its exit code and what it said."""
        try:
            result = subprocess.run(  # pylint: disable=ansible-bad-function
                [f"{self.bin}/{name}", *words], capture_output=True, text=True, errors="replace",
                timeout=timeout, check=False, cwd="/", stdin=subprocess.DEVNULL,
                env={"PATH": PROGRAMS, "LC_ALL": "C.UTF-8"}, **identity(self.user),
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            raise MusterError(f"{name}: {error}") from error
        return result.returncode, (result.stderr.strip() or result.stdout.strip())


def check(name: str, code: int, said: str, good: str) -> dict[str, Any]:
    """One check in the form that evidence has."""
    lines = [line for line in said.splitlines() if line.strip()]
    return {"name": name, "passed": code == 0, "detail": good if code == 0 else " ".join(lines[:3])}


def walk(server: Restored, params: Params) -> dict[str, Any]:
    """amcheck over every database: B-trees against their tables, and the tables' pages."""
    code, said = server.program(
        "pg_amcheck", "--all", "--install-missing", "--heapallindexed", "--no-dependent-toast", "-j", "2",
        "-h", server.directory, "-p", str(server.port), "-U", server.user, timeout=params["timeout"],
    )  # fmt: skip
    return check("amcheck", code, said, "every index and table of every database is sound")


def canary(server: Restored, database: str) -> dict[str, Any]:
    """The newest numbers of the canary that the copy holds."""
    exists = server.psql(database, "select to_regclass('muster_canary') is not null").strip()
    if exists != "t":
        raise MusterError(f"the restored database {database} has no table muster_canary")
    rows = server.psql(database, NEWEST).split()
    numbers = sorted(int(row) for row in rows)
    return {
        "held": to_ranges(numbers),
        "lowest": numbers[0] if numbers else None,
        "highest": numbers[-1] if numbers else None,
    }


def refuse_live(params: Params) -> None:
    directory, live = os.path.realpath(params["directory"]), os.path.realpath(params["data_directory"])
    if directory == live or not os.path.isfile(f"{directory}/{CONFIG}"):
        raise MusterError(f"{directory} is not a directory that an isolated restore has left")


def prove(params: Params) -> dict[str, Any]:
    """Start, walk, compare, stop, read every page; remove the copy when asked to."""
    refuse_live(params)
    server = Restored(params["directory"], params["bin_directory"], params["user"], params["port"], None)
    databases = [params["canary_database"]] if params["canary_database"] else []
    try:
        try:
            server.open(params["timeout"])
            checks = [walk(server, params)]
            found = {name: canary(server, name) for name in databases}
        finally:
            server.stop(120)
        code, said = server.program(
            "pg_checksums", "--check", "-D", server.directory, timeout=params["timeout"]
        )
        blocks = re.search(r"Blocks scanned: +(\d+)", said)
        good = (
            f"the checksum of every page is right ({blocks[1]} pages)"
            if blocks
            else "every checksum is right"
        )
        checks.append(check("pg_checksums", code, said, good))
    finally:
        if params["remove"]:
            shutil.rmtree(server.directory, ignore_errors=True)
    return {"checks": checks, "canary": found.get(params["canary_database"])}
