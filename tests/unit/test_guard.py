# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgresql_guard: run as systemd runs it, against two etcds, Patroni's API and real processes."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from etcd_fake import Cluster
from patroni_fake import PatroniApi, resolving

PROGRAM = Path(__file__).parents[2] / "roles/postgresql/files/postgresql_guard.py"
STANDBY = {"standby_cluster": {"host": "the others", "port": 5432}}
PRIMARY: dict[str, Any] = {"ttl": 20}
# What resolves names for a program of its own: sitecustomize is imported before it.
NAMES = """
import json, os, socket
real, known = socket.getaddrinfo, json.loads(os.environ["NAMES"])
socket.getaddrinfo = lambda host, *rest, **more: real(known.get(host, host), *rest, **more)
"""


class Host:
    """north-1, and both regions' etcds."""

    def __init__(self, home: Path, pki: Path) -> None:
        self.home = home
        self.etcd = {"north": Cluster(pki), "south": Cluster(pki)}
        self.data = home / "data"
        self.data.mkdir()
        self.marker, self.reason = home / "fenced.json", home / "guard"
        self.names: dict[str, str] = {}
        self.given: dict[str, Any] = {
            "region": "north",
            "host": "north-1",
            "api_port": 1,
            "data_directory": str(self.data),
            "scopes": {"north": "muster-north", "south": "muster-south"},
            "etcd_endpoints": {name: cluster.urls() for name, cluster in self.etcd.items()},
            "marker": str(self.marker),
            "reason": str(self.reason),
            "ca_certificate": str(pki / "ca.crt"),
            "certificate": str(pki / "member.crt"),
            "private_key": str(pki / "member.key"),
        }
        (home / "names").mkdir()
        (home / "names" / "sitecustomize.py").write_text(NAMES)
        self.processes: list[subprocess.Popen[bytes]] = []

    def put(self, region: str, config: Any, leader: str | None = None) -> None:
        etcd = self.etcd[region]
        if config is not None:
            etcd.put(f"/service/muster-{region}/config", json.dumps(config))
        if leader:
            etcd.put(f"/service/muster-{region}/leader", leader)

    def silence(self, region: str, members: int = 3) -> None:
        for endpoint in list(self.etcd[region].endpoints.values())[:members]:
            endpoint.up = False

    def asked(self, region: str) -> bool:
        return any(request.endswith("/kv/txn") for request in self.etcd[region].requests)

    def server(self, place: Path | None = None) -> Path:
        """A process named postgres, and the file in the data directory that says that it is the server."""
        program = self.home / "bin" / "postgres"
        program.parent.mkdir()
        shutil.copy("/bin/sleep", program)
        process = subprocess.Popen([str(program), "60"], cwd=place or self.data)
        self.processes.append(process)
        (self.data / "postmaster.pid").write_text(f"{process.pid}\n{self.data}\n1795255200\n")
        return program

    def guard(self) -> str:
        """Run it; its sentence, or nothing when Patroni may start. The file says the same."""
        config = self.home / "guard.json"
        config.write_text(json.dumps(self.given))
        result = subprocess.run(
            [sys.executable, str(PROGRAM), str(config)],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(self.home / "names"),
                 "NAMES": json.dumps(self.names)},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert "Traceback" not in result.stderr, result.stderr
        kept = self.reason.read_text() if self.reason.exists() else ""
        if result.returncode == 0:
            assert (kept, result.stderr) == ("", "")
            return ""
        assert result.returncode == 1
        assert result.stderr == f"Patroni may not start: {kept}"
        return kept.strip()


@pytest.fixture
def host(tmp_path: Path, pki: Path) -> Iterator[Host]:
    made = Host(tmp_path, pki)
    yield made
    for process in made.processes:
        process.kill()
        process.wait(10)
    for cluster in made.etcd.values():
        cluster.close()


OTHER_IS_PRIMARY = (
    "region south is primary: as a second primary north would lose writes; "
    "dr_reprotect brings it back as a standby"
)


def test_a_standby_region_starts_and_asks_nobody_else(host: Host) -> None:
    host.put("north", STANDBY)
    host.put("south", PRIMARY)
    assert host.guard() == ""
    assert not host.asked("south")


@pytest.mark.parametrize("theirs", [STANDBY, None], ids=["a standby", "not set up yet"])
@pytest.mark.parametrize("own", [PRIMARY, None], ids=["primary", "not set up yet"])
def test_the_only_primary_region_starts(host: Host, own: Any, theirs: Any) -> None:
    host.put("north", own)
    host.put("south", theirs)
    assert host.guard() == ""
    assert host.asked("south")


@pytest.mark.parametrize("own", [PRIMARY, {"standby_cluster": {}}, None])
def test_another_primary_region_forbids_it(host: Host, own: Any) -> None:
    """An empty section is no standby's, by Patroni's own rule; nor is a region whose etcd is new."""
    host.put("north", own)
    host.put("south", PRIMARY)
    assert host.guard() == OTHER_IS_PRIMARY


def test_another_region_that_does_not_answer_forbids_it(host: Host) -> None:
    host.put("north", PRIMARY)
    host.put("south", STANDBY)
    host.silence("south")
    said = host.guard()
    assert said.startswith("no etcd of region south answers (https://localhost:")
    assert said.endswith(
        ": whether another region is primary is not known, so north waits; "
        "when that region is lost for good, dr_failover to this one decides it"
    )


def test_a_member_without_a_quorum_is_no_answer(host: Host) -> None:
    host.put("north", PRIMARY)
    host.put("south", STANDBY)
    host.silence("south", 2)
    assert "HTTP status 503" in host.guard()
    host.etcd["south"].endpoints["north-1"].up = True
    assert host.guard() == ""


def test_a_region_of_which_no_etcd_is_known_forbids_it(host: Host) -> None:
    host.put("north", PRIMARY)
    del host.given["etcd_endpoints"]["south"]
    assert host.guard().startswith("no etcd of region south answers ()")


def test_the_own_etcd_that_does_not_answer_forbids_it(host: Host) -> None:
    host.put("south", STANDBY)
    host.silence("north")
    assert host.guard().startswith("no etcd of region north answers (")


@pytest.mark.parametrize(
    "answer", [{}, {"responses": None}, {"responses": [None, {}]}, {"responses": [{}, {}]}]
)
def test_an_answer_that_is_none_forbids_it(host: Host, answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    host.put("north", PRIMARY)
    monkeypatch.setattr(host.etcd["south"], "kv_txn", lambda _body: (200, dict(answer)))
    assert host.guard().startswith("no etcd of region south answers (")


@pytest.mark.parametrize("config", ["not JSON", "[]"])
def test_a_configuration_that_cannot_be_read(host: Host, config: str) -> None:
    """Not Patroni's at all is as good as none; what cannot be parsed is not known."""
    host.put("north", PRIMARY)
    host.etcd["south"].put("/service/muster-south/config", config)
    assert bool(host.guard()) is (config == "not JSON")


def test_a_fenced_host_starts_nothing(host: Host) -> None:
    host.put("north", STANDBY)
    host.server()
    host.marker.touch()
    assert host.guard() == f"this host is fenced ({host.marker}): dr_reprotect brings it back"
    assert not host.asked("north")


def test_where_the_server_runs_already_nothing_is_asked(host: Host) -> None:
    host.put("south", PRIMARY)
    host.server()
    assert host.guard() == ""
    assert not host.asked("north")
    assert not host.asked("south")


def test_a_server_whose_program_was_upgraded_runs_still(host: Host) -> None:
    host.put("south", PRIMARY)
    host.server().unlink()
    assert host.guard() == ""


@pytest.mark.parametrize("case", ["gone", "another program", "another server", "no number"])
def test_what_is_not_this_server_proves_nothing(host: Host, case: str) -> None:
    """After a reboot postmaster.pid is there still, and its number may be anybody's."""
    host.put("south", PRIMARY)
    if case == "another server":
        host.server(place=host.home)
    else:
        text = {"gone": "4194303", "another program": str(os.getpid()), "no number": "x"}[case]
        (host.data / "postmaster.pid").write_text(f"{text}\n")
    assert host.guard() == OTHER_IS_PRIMARY


class PrimaryApi:
    """What GET /primary says on one host of the region."""

    def __init__(self, host: Host, patroni: PatroniApi, name: str) -> None:
        host.given["api_port"] = patroni.port
        host.names = {name: instance.address for name, instance in patroni.hosts.items()}
        self.instance = patroni[name]
        self.say(200)

    def say(self, code: int) -> None:
        self.instance.answers["GET /primary"] = (code, "{}")


def test_beside_a_primary_that_is_seen_it_only_takes_up_its_place(host: Host, patroni: PatroniApi) -> None:
    host.put("north", PRIMARY, leader="north-2")
    host.silence("south")
    PrimaryApi(host, patroni, "north-2")
    assert host.guard() == ""
    assert not host.asked("south")


@pytest.mark.parametrize("case", ["not primary", "does not answer", "own name", "unknown name"])
def test_the_leader_that_etcd_names_proves_nothing(host: Host, patroni: PatroniApi, case: str) -> None:
    """An etcd that was killed gives the old leader a fresh lease when it returns."""
    leader = {"own name": "north-1", "unknown name": "north-9.invalid"}.get(case, "north-2")
    host.put("north", PRIMARY, leader=leader)
    host.put("south", PRIMARY)
    api = PrimaryApi(host, patroni, "north-1" if case == "own name" else "north-2")
    if case == "not primary":
        api.say(503)
    if case == "does not answer":
        api.instance.up = False
    assert host.guard() == OTHER_IS_PRIMARY
    if case == "own name":
        assert api.instance.requests == []


def test_the_reason_is_kept_and_removed(host: Host) -> None:
    host.put("north", PRIMARY)
    host.put("south", PRIMARY)
    host.guard()
    assert host.reason.read_text() == f"{OTHER_IS_PRIMARY}\n"
    host.put("south", STANDBY)
    host.guard()
    assert not host.reason.exists()


def test_certificates_that_cannot_be_used_forbid_it(host: Host) -> None:
    host.put("north", STANDBY)
    host.given["certificate"] = "/nowhere"
    assert host.guard().startswith("the TLS files of ")


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("guard_under_test", PROGRAM)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_reason_that_cannot_be_kept_changes_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The unit's directory in /run is not there: the journal has the sentence. In this process, to be counted."""
    guard = load()
    monkeypatch.setattr(socket, "getaddrinfo", resolving({}))
    host.given["reason"] = "/nowhere/guard"
    host.put("north", PRIMARY)
    host.put("south", PRIMARY)
    config = host.home / "guard.json"
    config.write_text(json.dumps(host.given))
    assert guard.main(str(config)) == 1
    assert OTHER_IS_PRIMARY in capsys.readouterr().err
    host.put("south", STANDBY)
    assert guard.main(str(config)) == 0
