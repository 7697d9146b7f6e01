"""The lab under test: its hosts, and ways to use, to ask and to break them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg2
import urllib3

CHECKOUT = Path(__file__).resolve().parents[2]
ENDPOINTS = ("north-3", "south-3")
# A load that shows what it has to, and leaves some of two cores to the other tests.
LIGHT = ("-e", "dr_drill_load_rate=20")


@dataclass
class Run:
    """A finished playbook run."""

    code: int
    output: str
    seconds: float

    @property
    def changed(self) -> dict[str, int]:
        """`changed=` of the recap, by host."""
        found = {}
        for line in self.output.splitlines():
            if "changed=" in line and " : ok=" in line:
                found[line.split()[0]] = int(line.split("changed=")[1].split()[0])
        return found


@dataclass
class Window:
    """What the canary saw from a moment on, and what the platform holds of it."""

    rows: list[list[str]]
    surviving: set[int]
    acked: list[list[str]] = field(init=False)

    def __post_init__(self) -> None:
        self.acked = sorted((row for row in self.rows if row[3]), key=lambda row: row[3])

    @property
    def lost(self) -> set[int]:
        return {int(row[1]) for row in self.acked} - self.surviving

    @property
    def dual(self) -> list[list[str]]:
        """Writes acknowledged on an older timeline that were sent after a newer one had acknowledged."""
        found, newest, since = [], 0, ""
        for row in self.acked:
            timeline = int(row[5].split("timeline=")[1].split()[0])
            if timeline > newest:
                newest, since = timeline, row[3]
            elif timeline < newest and row[2] > since:
                found.append(row)
        return found

    @property
    def outage(self) -> float:
        moments = [datetime.fromisoformat(row[3]) for row in self.acked]
        return max(((b - a).total_seconds() for a, b in pairwise(moments)), default=0.0)


class Lab:
    """The hosts, and ways to use and to break them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        state = json.loads((directory / "state.json").read_text())
        self.id: str = state["id"]
        self.addresses: dict[str, str] = state["addresses"]
        self.secrets: dict[str, str] = json.loads((directory / "secrets.json").read_text())
        self.etcds: dict[str, urllib3.HTTPSConnectionPool] = {}
        self.environment = os.environ | {"MUSTER_LAB": str(directory), "MUSTER_TIMELINE_QUIET": "1"}

    # --- running things -----------------------------------------------------------

    def command(self, playbook: str, *arguments: str) -> list[str]:
        return ["ansible-playbook", "-i", "inventories/lab", f"playbooks/{playbook}.yml", *arguments]

    def play(self, playbook: str, *arguments: str, timeout: float = 300) -> Run:
        began = time.monotonic()
        done = subprocess.run(
            self.command(playbook, *arguments),
            cwd=CHECKOUT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Run(done.returncode, done.stdout + done.stderr, time.monotonic() - began)

    def ok(self, playbook: str, *arguments: str, timeout: float = 300) -> Run:
        run = self.play(playbook, *arguments, timeout=timeout)
        assert run.code == 0, run.output
        return run

    def start(self, playbook: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a playbook as a process group of its own, to be killed whole."""
        return subprocess.Popen(
            self.command(playbook, *arguments),
            cwd=CHECKOUT,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def sh(self, host: str, script: str, check: bool = True) -> str:
        """Run a shell line on a host, by the side door that a test may use and a user never does."""
        done = subprocess.run(
            ["podman", "exec", f"muster-{self.id}-{host}", "sh", "-c", script],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{host}: {script}: {done.stderr or done.stdout}")
        return done.stdout

    def podman(self, *words: str) -> None:
        subprocess.run(["podman", "--runtime=runc", *words], capture_output=True, timeout=120, check=True)

    def kill(self, host: str) -> None:
        self.podman("kill", "--signal", "KILL", f"muster-{self.id}-{host}")

    def boot(self, host: str) -> None:
        self.podman("start", f"muster-{self.id}-{host}")

    def boot_all(self) -> None:
        """Start every host that does not run."""
        done = subprocess.run(
            ["podman", "ps", "--filter", f"name=muster-{self.id}-", "--format", "{{.Names}}"],
            capture_output=True,
            text=True,
            check=True,
        )
        for host in self.addresses:
            if f"muster-{self.id}-{host}" not in done.stdout.split():
                self.boot(host)

    def link(self, action: str, hosts: list[str], peers: list[str]) -> None:
        addresses = ",".join(self.addresses[peer] for peer in peers)
        subprocess.run(
            ["lab/dr/link", action, f"muster-{self.id}", ",".join(hosts), addresses],
            cwd=CHECKOUT,
            check=True,
            timeout=60,
        )

    def cut(self, one: list[str], two: list[str]) -> None:
        """Let neither hear the other any more."""
        self.link("cut", one, two)
        self.link("cut", two, one)

    def heal(self) -> None:
        self.link("heal", sorted(self.addresses), [])

    def repair(self) -> None:
        """Both regions protected again, whatever a test did, and left locked."""
        self.heal()
        self.boot_all()
        if self.status()["exit_code"] == 0 and not self.sh(
            "witness", "cat /var/lib/muster/dr/operation.json; true"
        ):
            return
        deadline = time.monotonic() + 180
        takeover = '{"dr_lock_takeover": "left behind by a test that failed"}'
        while (run := self.play("dr_reprotect", "-e", takeover)).code != 0:
            assert time.monotonic() < deadline, f"waited 180 s for a re-protection:\n{run.output[-3000:]}"
            time.sleep(2)
        self.wait_healthy()

    # --- asking the platform --------------------------------------------------------

    def query(
        self, endpoint: str, statement: str, user: str = "muster_canary", port: int = 5432
    ) -> list[Any]:
        """Ask through an application's endpoint, over TLS with its name verified."""
        password = {"muster_canary": "canary_password", "application": "application_password"}[user]
        connection = psycopg2.connect(
            host=endpoint,
            hostaddr=self.addresses[endpoint],
            port=port,
            user=user,
            password=self.secrets[password],
            dbname={"muster_canary": "muster", "application": "application"}[user],
            sslmode="verify-full",
            sslrootcert=str(self.directory / "pki" / "ca.crt"),
            connect_timeout=3,
        )
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def primary_region(self) -> str:
        return str(self.query(ENDPOINTS[0], "show cluster_name")[0][0]).removeprefix("muster-")

    def status(self) -> dict[str, Any]:
        self.play("dr_status")
        document = json.loads((self.directory / "status.json").read_text())
        assert isinstance(document, dict)
        return document

    def wait_healthy(self, timeout: float = 180) -> dict[str, Any]:
        """Wait until every host is well again and streams."""
        deadline = time.monotonic() + timeout
        # Asked of Patroni first, which costs next to nothing: a playbook takes five seconds of a processor.
        with contextlib.suppress(AssertionError):
            wait(self.streams, "both regions to stream", timeout / 2)
        while (found := self.status())["exit_code"] != 0:
            assert time.monotonic() < deadline, f"waited {timeout:g} s for a healthy lab: {found['reasons']}"
            time.sleep(1)
        return found

    def streams(self) -> bool:
        """Whether every member of both regions runs and follows, as Patroni says."""
        return all(
            len(members := self.patroni(region)) == 2
            and all(member["state"] in ("running", "streaming") for member in members)
            and any(member["role"] in ("leader", "standby_leader") for member in members)
            for region in ("north", "south")
        )

    def patroni(self, region: str) -> list[dict[str, Any]]:
        """The members of a region, from whichever of them answers."""
        for host in (f"{region}-1", f"{region}-2"):
            with contextlib.suppress(urllib3.exceptions.HTTPError), self.https(host, 8008) as pool:
                return list(pool.request("GET", "/cluster").json()["members"])
        return []

    def https(self, host: str, port: int) -> urllib3.HTTPSConnectionPool:
        """Connections to a host's API with the certificate that the host has itself."""
        pki = self.directory / "pki"
        return urllib3.HTTPSConnectionPool(
            self.addresses[host], port, timeout=2, retries=False, ca_certs=str(pki / "ca.crt"),
            cert_file=str(pki / f"hosts/{host}.crt"), key_file=str(pki / f"hosts/{host}.key"),
            server_hostname=host, assert_hostname=host,
        )  # fmt: skip

    def now(self) -> str:
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def window(self, since: str) -> Window:
        """The canary's rows since a moment, and the numbers that the platform holds of them."""
        time.sleep(3)  # an attempt takes up to two seconds and is written down when it ends
        text = self.sh("witness", "zcat -f /var/lib/muster/canary/ledger*csv* | grep ^postgresql,")
        rows = [line.split(",", 5) for line in text.splitlines()]
        rows = [row for row in rows if row[2] >= since]
        assert len(rows) > 8, "the canary has hardly written anything"
        numbers = [int(row[1]) for row in rows]
        held = wait(
            lambda: self.query_any(
                f"select sequence from muster_canary where sequence between {min(numbers)} and {max(numbers)}"
            ),
            "an endpoint that answers",
            60,
        )
        return Window(rows, {row[0] for row in held})

    def etcdctl(self, region: str, words: str, number: int = 3) -> str:
        """Ask a region's own etcd, on the host that has no PostgreSQL or on another one."""
        tls = "--cacert /etc/etcd/tls/ca.crt --cert /etc/etcd/tls/member.crt --key /etc/etcd/tls/member.key"
        host = f"{region}-{number}"
        return self.sh(host, f"ETCDCTL_API=3 etcdctl --endpoints https://{host}:2379 {tls} {words}")

    def noted(self, region: str, key: str) -> str:
        """What Patroni notes in a region's etcd; from a host with PostgreSQL, which no fence parts from it."""
        return self.etcdctl(region, f"get --print-value-only /service/muster-{region}/{key}", 1).strip()

    def in_etcd(self, region: str, prefix: str) -> list[str]:
        """The values below a prefix in a region's etcd, asked from here over a connection that stays open.

        What is run on a host costs a tenth of a second of processor time: too much to ask again and again
        while a playbook is to be interrupted at the right moment.
        """
        if region not in self.etcds:
            self.etcds[region] = self.https(f"{region}-3", 2379)
        first = prefix.encode()
        keys = {"key": first, "range_end": first[:-1] + bytes([first[-1] + 1])}
        question = {name: base64.b64encode(key).decode() for name, key in keys.items()}
        try:
            answer = self.etcds[region].request("POST", "/v3/kv/range", json=question)
        except urllib3.exceptions.HTTPError as error:
            raise AssertionError(f"etcd of {region} does not answer: {error}") from error
        assert answer.status == 200, answer.data
        return [base64.b64decode(found["value"]).decode() for found in answer.json().get("kvs", [])]

    def declared_standby(self, region: str) -> bool:
        """Whether etcd says that the region is a standby: the one fact that changes at each step."""
        found = self.in_etcd(region, f"/service/muster-{region}/config")
        assert found, f"etcd of {region} holds no configuration of Patroni"
        return '"standby_cluster"' in found[0]

    def drill(self, scenario: str, *arguments: str, timeout: float = 700) -> tuple[Path, dict[str, Any]]:
        """Run a drill, which has to pass; its folder and its evidence."""
        self.ok("dr_drill", "-e", f"dr_scenario={scenario}", *arguments, *LIGHT, timeout=timeout)
        return self.latest_drill()

    def latest_drill(self) -> tuple[Path, dict[str, Any]]:
        """The folder of the last drill, and its evidence."""
        folder = (self.directory / "drills/latest").resolve()
        evidence = json.loads((folder / "evidence.json").read_text())
        assert isinstance(evidence, dict)
        return folder, evidence

    def surviving(self, folder: Path) -> list[int]:
        """Which of the numbers of a drill's ledger the platform holds."""
        lines = (folder / "ledger.csv").read_text().splitlines()[1:]
        numbers = [int(line.split(",")[1]) for line in lines]
        statement = (
            f"select sequence from muster_canary where sequence between {min(numbers)} and {max(numbers)}"
        )
        return [row[0] for row in self.query(ENDPOINTS[1], statement)]

    def query_any(self, statement: str) -> list[Any] | None:
        for endpoint in ENDPOINTS:
            try:
                return self.query(endpoint, statement)
            except psycopg2.Error:
                continue
        return None


def hosts_of(region: str) -> list[str]:
    return [f"{region}-{number}" for number in (1, 2, 3)]


def other(region: str) -> str:
    return {"north": "south", "south": "north"}[region]


def recompute(folder: Path, surviving: list[int]) -> subprocess.CompletedProcess[str]:
    """A stranger's figures, from the ledger and what the surviving primary holds."""
    return subprocess.run(
        [sys.executable, "tests/recompute.py", str(folder), "--surviving", "-"],
        cwd=CHECKOUT,
        input="\n".join(str(number) for number in surviving),
        capture_output=True,
        text=True,
        check=False,
    )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a playbook whole; it must still have run: else it was not interrupted."""
    ended = process.poll()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert ended is None, f"the playbook had ended with {ended} before it could be killed"


def wait(
    check: Callable[[], Any],
    what: str,
    timeout: float,
    interval: float = 0.5,
    during: subprocess.Popen[bytes] | None = None,
) -> Any:
    """Wait until something holds, and, where a process is named, only as long as that runs."""
    deadline = time.monotonic() + timeout
    while True:
        running = during is None or during.poll() is None
        try:
            found = check()
        except (psycopg2.Error, AssertionError):
            found = None
        if found:
            return found
        assert running, f"the playbook ended with {during and during.returncode} before {what}"
        assert time.monotonic() < deadline, f"waited {timeout:g} s for {what}"
        time.sleep(interval)
