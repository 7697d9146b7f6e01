# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The lab as the benches use it: playbooks with their times, and programs on its hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REMOTE = ROOT / "bench" / "remote"


class BenchError(Exception):
    """A bench could not be run; told in one sentence."""


@dataclass(frozen=True)
class Played:
    """One run of ansible-playbook."""

    seconds: float
    phases: list[dict[str, Any]]
    stats: dict[str, dict[str, int]]

    @property
    def changed(self) -> dict[str, int]:
        """The hosts on which something changed, and how much."""
        return {host: found["changed"] for host, found in self.stats.items() if found["changed"]}

    @property
    def tasks(self) -> int:
        """Tasks that ran, a host at a time."""
        return sum(found["ok"] for found in self.stats.values())


def last_lines(text: str, count: int = 25) -> str:
    return "\n".join(text.strip().splitlines()[-count:])


class Lab:
    """The lab of this checkout, or the one that MUSTER_LAB names."""

    def __init__(self) -> None:
        self.directory = Path(os.environ.get("MUSTER_LAB") or ROOT / ".lab").resolve()

    # --- playbooks ---------------------------------------------------------------

    def play(self, playbook: str, *arguments: str, allowed: tuple[int, ...] = (0,)) -> Played:
        """Run a playbook as anybody would, and return how long that took."""
        with tempfile.TemporaryDirectory(prefix="muster-bench-") as directory:
            timeline = Path(directory) / "timeline.json"
            environment = {
                **os.environ,
                "ANSIBLE_STDOUT_CALLBACK": "default",
                "MUSTER_TIMELINE": str(timeline),
                "MUSTER_TIMELINE_QUIET": "1",
            }
            command = ["ansible-playbook", "-i", "inventories/lab", playbook, *arguments]
            began = time.monotonic()
            done = subprocess.run(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            )  # fmt: skip
            seconds = time.monotonic() - began
            if done.returncode not in allowed:
                raise BenchError(f"{playbook} ended with {done.returncode}:\n{last_lines(done.stdout)}")
            told = json.loads(timeline.read_text())
        return Played(seconds, told["phases"], told["stats"])

    @cached_property
    def inventory(self) -> dict[str, Any]:
        command = ["ansible-inventory", "-i", "inventories/lab", "--list"]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def hosts(self, group: str) -> list[str]:
        return list(self.inventory.get(group, {}).get("hosts", []))

    @cached_property
    def regions(self) -> list[str]:
        prefix = "region_"
        return sorted(name.removeprefix(prefix) for name in self.inventory if name.startswith(prefix))

    def members(self, service: str, region: str) -> list[str]:
        within = self.hosts(f"region_{region}")
        return [host for host in self.hosts(service) if host in within]

    @cached_property
    def hosts_of_no_region(self) -> list[str]:
        within = {host for region in self.regions for host in self.hosts(f"region_{region}")}
        return [host for host in self.inventory["_meta"]["hostvars"] if host not in within]

    def variable(self, name: str) -> Any:
        """A variable of all hosts, such as a password."""
        return next(iter(self.inventory["_meta"]["hostvars"].values()))[name]

    # --- programs on hosts -------------------------------------------------------

    def ssh(self, host: str, command: str) -> list[str]:
        """How to run a shell command on a host, with the keys and host keys that Ansible uses."""
        return [
            "ssh", "-i", str(self.directory / "ssh" / "id_ed25519"), "-o", "BatchMode=yes",
            "-o", f"UserKnownHostsFile={self.directory}/ssh/known_hosts",
            f"root@{self.inventory['_meta']['hostvars'][host]['ansible_host']}", command,
        ]  # fmt: skip

    def run(self, host: str, command: str, given: str = "") -> str:
        done = subprocess.run(
            self.ssh(host, command), input=given, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise BenchError(
                f"on {host}, '{command}' ended with {done.returncode}: {last_lines(done.stderr)}"
            )
        return done.stdout

    def start(self, host: str, script: str, given: dict[str, Any]) -> subprocess.Popen[str]:
        """Start a program of bench/remote; what it is given goes through its input, as it may be a secret."""
        # The program comes first and is as long as the first line says.
        loader = "import sys; exec(compile(sys.stdin.read(int(sys.stdin.readline())), 'bench', 'exec'))"
        running = subprocess.Popen(
            self.ssh(host, f'python3 -Ic "{loader}"'),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        source = (REMOTE / script).read_text()
        assert running.stdin is not None
        running.stdin.write(f"{len(source)}\n{source}{json.dumps(given)}\n")
        running.stdin.flush()
        return running

    def finish(self, running: subprocess.Popen[str], what: str) -> dict[str, Any]:
        """Close its input, wait for its end and return what it printed."""
        output, errors = running.communicate()
        if running.returncode != 0:
            raise BenchError(f"{what} ended with {running.returncode}: {last_lines(errors)}")
        result: dict[str, Any] = json.loads(output)
        return result

    def ask(self, host: str, script: str, given: dict[str, Any]) -> dict[str, Any]:
        return self.finish(self.start(host, script, given), f"bench/remote/{script} on {host}")

    # --- Patroni -----------------------------------------------------------------

    def patroni(self, action: str, host: str | None = None, **given: Any) -> dict[str, Any]:
        """Ask all Patronis, from a PostgreSQL host."""
        regions = {region: self.members("postgresql", region) for region in self.regions}
        return self.ask(
            host or self.hosts("postgresql")[0], "patroni.py", {"action": action, "regions": regions, **given}
        )

    def primary_region(self) -> str:
        return str(self.patroni("settle")["primary_region"])


def note(text: str) -> None:
    """Say what goes on; the table alone goes to the standard output."""
    print(text, file=sys.stderr, flush=True)
