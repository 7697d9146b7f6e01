# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The background load's runner."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

RUNNER = Path(__file__).resolve().parents[2] / "roles/canary/files/muster_load.py"
spec = importlib.util.spec_from_file_location("muster_load", RUNNER)
assert spec
assert spec.loader
load: Any = importlib.util.module_from_spec(spec)
sys.modules["muster_load"] = load
spec.loader.exec_module(load)


def config(**changes: Any) -> dict[str, Any]:
    return {
        "endpoints": [{"host": "north-3", "port": 5432}, {"host": "south-3", "port": 5433}],
        "database": "muster_load",
        "user": "muster_load",
        "password": r"a:b\c",
        "ca": "/etc/muster/ca.crt",
        "clients": 4,
        "rate": 50,
        "scale": 10,
        "seconds": 60,
    } | changes


def read(tmp_path: Path, **changes: Any) -> tuple[Any, str]:
    path = tmp_path / "load.json"
    path.write_text(json.dumps(config(**changes)))
    found: tuple[Any, str] = load.read_load(str(path))
    return found


def test_libpq_chooses_the_endpoint_and_no_secret_is_in_the_command(tmp_path: Path) -> None:
    found, password = read(tmp_path, user="o'neil")
    found.passfile = "/run/x"
    command = load.command_of(found, "/usr/bin/pgbench", 30.4)
    assert "host='north-3,south-3' port='5432,5433'" in command[-1]
    assert "target_session_attrs='read-write'" in command[-1]
    assert r"user='o\'neil'" in command[-1]
    assert {"--time=30", "--rate=50", "--client=4"} <= set(command)
    assert password not in " ".join(command)
    assert not any(part.startswith("--rate") for part in load.command_of(read(tmp_path, rate=0)[0], "x", 9))


def test_the_pass_file_is_private_and_escaped(tmp_path: Path) -> None:
    path = Path(load.write_passfile(str(tmp_path), r"a:b\c"))
    assert path.read_text() == "*:*:*:*:a\\:b\\\\c\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_newest_pgbench_is_taken(tmp_path: Path) -> None:
    with pytest.raises(load.LoadError, match="install Debian's package"):
        load.find_pgbench(str(tmp_path))
    for version in ("9", "15", "17"):
        (tmp_path / version / "bin").mkdir(parents=True)
        (tmp_path / version / "bin/pgbench").touch()
    assert load.find_pgbench(str(tmp_path)) == str(tmp_path / "17/bin/pgbench")


def test_a_broken_configuration_is_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "load.json"
    path.write_text('{"password": "very-secret"')
    with pytest.raises(load.LoadError, match="not a valid configuration") as error:
        load.read_load(str(path))
    assert "very-secret" not in str(error.value)


def test_pgbench_is_started_again_until_the_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pgbench = tmp_path / "pgbench"
    pgbench.write_text(
        "#!/bin/sh\n"
        "echo 'progress: 1.0 s, 49.6 tps, lat 1 ms' >&2\n"
        "echo 'pgbench: error: client 2 aborted in command 1: server closed the connection' >&2\n"
        "exec sleep 30\n"
    )
    pgbench.chmod(0o755)
    monkeypatch.setattr(load, "is_initialised", lambda _load: True)
    found, _password = read(tmp_path, seconds=2)
    began = time.monotonic()
    load.run(found, str(pgbench))
    assert time.monotonic() - began < 4
    assert found.restarts >= 2
    assert found.transactions == 50 * (found.restarts + 1)
    assert "starting pgbench again: pgbench: error: client 2 aborted" in capsys.readouterr().err


def test_tables_are_made_only_when_they_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(load.subprocess, "run", run)
    monkeypatch.setattr(load, "is_initialised", lambda _load: bool(commands))
    found, _password = read(tmp_path)
    load.initialise(found, "pgbench", time.monotonic() + 5)
    load.initialise(found, "pgbench", time.monotonic() + 5)
    assert [command[:4] for command in commands] == [["pgbench", "--initialize", "--quiet", "--scale=10"]]


def test_what_keeps_the_tables_from_being_made_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_load: Any) -> bool:
        raise load.psycopg2.OperationalError("connection refused\nmore")

    monkeypatch.setattr(load, "is_initialised", refuse)
    found, _password = read(tmp_path)
    with pytest.raises(
        load.LoadError, match=r"could not be made in database muster_load: connection refused$"
    ):
        load.initialise(found, "pgbench", time.monotonic() + 0.3)
