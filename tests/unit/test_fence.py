# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgresql_fence: the real main(), a systemctl of our own, real processes and sockets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils import _fence
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until
from ansible_collections.muster.platform.plugins.modules import postgresql_fence

Run = Callable[..., dict[str, Any]]
# The unit's state is in files; what `stop` and `kill` do to the processes is what the test says.
SYSTEMCTL = """#!/bin/sh
cd {home} || exit 9
echo "$*" >>calls
case $1 in
  is-enabled) cat enabled; [ "$(cat enabled)" = enabled ] ;;
  show) cat active ;;
  mask) [ ! -e mask-fails ] || {{ echo "Failed to mask unit: Read-only file system" >&2; exit 1; }}
    echo masked >enabled ;;
  unmask) if [ "$2" = --runtime ]; then [ "$(cat enabled)" = masked-runtime ] && echo enabled >enabled
    else [ "$(cat enabled)" = masked ] && cat under-mask >enabled; fi; true ;;
  stop) sh ./on-stop ;;
  kill) sh ./on-kill ;;
esac
"""


class Unit:
    """Patroni's unit and what runs on the host."""

    def __init__(self, home: Path, port: int) -> None:
        self.home = home
        self.port = port
        self.data = home / "data"
        self.data.mkdir()
        self.marker = home / "etc" / "fenced.json"
        program = home / "bin" / "systemctl"
        program.parent.mkdir()
        program.write_text(SYSTEMCTL.format(home=home))
        program.chmod(0o755)
        shutil.copy("/bin/sleep", home / "bin" / "postgres")
        self.processes: list[subprocess.Popen[bytes]] = []
        self.say(enabled="enabled", active="active", under_mask="enabled", on_stop="echo inactive >active",
                 on_kill="echo failed >active")  # fmt: skip

    def say(self, **files: str) -> None:
        for name, text in files.items():
            (self.home / name.replace("_", "-")).write_text(f"{text}\n")

    def server(self, place: Path | None = None) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([str(self.home / "bin" / "postgres"), "60"], cwd=place or self.data)
        self.processes.append(process)
        return process

    def calls(self) -> list[str]:
        """The changes that were asked of systemd since the last look."""
        path = self.home / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line for line in lines if not line.startswith(("is-enabled", "show"))]

    def arguments(self, **more: Any) -> dict[str, Any]:
        return {
            "data_directory": str(self.data),
            "marker": str(self.marker),
            "ports": [self.port],
            "grace": 0.5,
            **more,
        }


@pytest.fixture
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Unit]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = Unit(tmp_path, port)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    yield made
    for process in made.processes:
        process.kill()
        process.wait(10)


def test_a_running_host_is_fenced_gracefully(unit: Unit, run_module: Run) -> None:
    server = unit.server()
    unit.say(on_stop=f"echo inactive >active; kill {server.pid}")
    answer = run_module(postgresql_fence, unit.arguments(operation="failover to south", reason="flood"))
    assert (answer["changed"], answer["fenced"]) == (True, True)
    assert unit.calls() == ["stop --no-block patroni.service", "mask patroni.service"]
    assert server.wait(1) == -signal.SIGTERM
    proof = answer["proof"]
    assert (proof["masked"], proof["processes"], proof["listening"]) == (True, 0, [])
    for at in (proof["proven_at"], answer["note"]["fenced_at"]):
        assert abs((datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()) < 60
    note = json.loads(unit.marker.read_text())
    assert note == answer["note"]
    assert (note["operation"], note["reason"]) == ("failover to south", "flood")
    assert unit.marker.stat().st_mode & 0o777 == 0o644


def test_a_second_run_proves_it_again_and_changes_nothing(unit: Unit, run_module: Run) -> None:
    first = run_module(postgresql_fence, unit.arguments(operation="one"))
    unit.calls()
    second = run_module(postgresql_fence, unit.arguments(operation="two"))
    assert (second["changed"], second["fenced"], second["note"]) == (False, True, first["note"])
    assert second["proof"]["proven_at"] > first["proof"]["proven_at"]
    assert unit.calls() == []


def test_the_host_is_marked_before_anything_is_stopped(unit: Unit, run_module: Run) -> None:
    """Whatever happens after that, the guard keeps it down."""
    unit.say(on_stop=f"test -s {unit.marker} && cp {unit.marker} then; echo inactive >active")
    note = run_module(postgresql_fence, unit.arguments(operation="failover to south"))["note"]
    assert json.loads((unit.home / "then").read_text()) == note


def test_a_server_that_does_not_stop_is_killed(unit: Unit, run_module: Run) -> None:
    """Also one that Patroni's unit does not know any more; not a server of other data."""
    server, other = unit.server(), unit.server(place=unit.home)
    unit.say(on_stop="true")
    answer = run_module(postgresql_fence, unit.arguments())
    assert answer["changed"] is True
    assert unit.calls() == [
        "stop --no-block patroni.service",
        "kill --kill-who=all --signal=SIGKILL patroni.service",
        "mask patroni.service",
    ]
    assert server.wait(1) == -signal.SIGKILL
    assert other.poll() is None


def test_a_server_whose_program_was_upgraded_is_found(unit: Unit, run_module: Run) -> None:
    server = unit.server()
    (unit.home / "bin" / "postgres").unlink()
    assert run_module(postgresql_fence, unit.arguments())["changed"] is True
    assert server.wait(1) == -signal.SIGKILL


def test_something_that_listens_still_is_no_fence(unit: Unit, run_module: Run) -> None:
    with socket.create_server(("127.0.0.1", unit.port)):
        answer = run_module(postgresql_fence, unit.arguments())
        assert answer["failed"] is True
        assert answer["msg"] == f"the fence is not proven: something listens on port {unit.port}"
        # It stays down all the same.
        assert unit.marker.exists()
        assert (unit.home / "enabled").read_text() == "masked\n"
        again = run_module(postgresql_fence, unit.arguments(), check=True)
        assert again["changed"] is True
    assert run_module(postgresql_fence, unit.arguments())["fenced"] is True


@pytest.mark.skipif(not socket.has_ipv6 or not Path("/proc/net/tcp6").exists(), reason="no IPv6 here")
def test_what_listens_on_ipv6_is_seen(unit: Unit, run_module: Run) -> None:
    try:
        listener = socket.create_server(("::1", unit.port), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 address here")
    with listener:
        answer = run_module(postgresql_fence, unit.arguments())
    assert answer["msg"] == f"the fence is not proven: something listens on port {unit.port}"


def test_a_unit_that_does_not_end_is_no_fence(
    unit: Unit, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit.say(on_stop="true", on_kill="true")

    def soon(check: Any, what: str, timeout: float, interval: float) -> Any:
        return wait_until(check, what, timeout, interval, clock=lambda: time.monotonic() * 50)

    monkeypatch.setattr(_fence, "wait_until", soon)
    answer = run_module(postgresql_fence, unit.arguments())
    assert answer["msg"] == f"waited 10 s for PostgreSQL in {unit.data}, or Patroni, to end"


def test_a_mask_that_fails_is_told(unit: Unit, run_module: Run) -> None:
    (unit.home / "mask-fails").touch()
    answer = run_module(postgresql_fence, unit.arguments())
    assert answer["msg"] == (
        "systemctl mask patroni.service failed: Failed to mask unit: Read-only file system"
    )
    assert unit.marker.exists(), "the guard refuses each start from now on"


def test_a_host_without_systemctl_is_told(
    unit: Unit, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    answer = run_module(postgresql_fence, unit.arguments())
    assert answer["msg"].startswith("systemctl is-enabled patroni.service failed: [Errno 2]")


def test_a_runtime_mask_is_not_enough(unit: Unit, run_module: Run) -> None:
    """It ends with the next boot."""
    unit.say(enabled="masked-runtime", active="inactive")
    answer = run_module(postgresql_fence, unit.arguments())
    assert answer["changed"] is True
    assert "mask patroni.service" in unit.calls()


@pytest.mark.parametrize("missing", ["marker", "mask", "stop"])
def test_whatever_is_missing_is_made_up_for(unit: Unit, run_module: Run, missing: str) -> None:
    first = run_module(postgresql_fence, unit.arguments())["note"]
    unit.calls()
    if missing == "marker":
        unit.marker.unlink()
    else:
        unit.say(**{"mask": {"enabled": "disabled"}, "stop": {"active": "active"}}[missing])
    assert run_module(postgresql_fence, unit.arguments(), check=True)["changed"] is True
    answer = run_module(postgresql_fence, unit.arguments())
    assert (answer["changed"], answer["fenced"]) == (True, True)
    assert ("mask patroni.service" in unit.calls()) is (missing == "mask")
    assert (answer["note"] == first) is (missing != "marker")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}"])
def test_a_marker_that_says_nothing_is_written_anew(unit: Unit, run_module: Run, text: str) -> None:
    """A person may have made it by hand: it must not keep the host from being fenced, nor released."""
    unit.marker.parent.mkdir()
    unit.marker.write_text(text)
    assert run_module(postgresql_fence, unit.arguments())["note"]["fenced_at"]
    unit.marker.write_text(text)
    # All else stands, but such a file proves nothing.
    again = run_module(postgresql_fence, unit.arguments())
    assert (again["changed"], bool(again["note"].get("fenced_at"))) == (True, True)
    unit.marker.write_text(text)
    assert run_module(postgresql_fence, unit.arguments(state="released"))["changed"] is True
    assert not unit.marker.exists()


def test_check_mode_changes_nothing(unit: Unit, run_module: Run) -> None:
    server = unit.server()
    answer = run_module(postgresql_fence, unit.arguments(), check=True)
    assert (answer["changed"], answer["note"]) == (True, None)
    assert "fenced" not in answer
    assert unit.calls() == []
    assert server.poll() is None
    assert not unit.marker.exists()


def test_a_fence_is_taken_down_and_nothing_is_started(unit: Unit, run_module: Run) -> None:
    run_module(postgresql_fence, unit.arguments())
    unit.calls()
    assert run_module(postgresql_fence, unit.arguments(state="released"), check=True)["changed"] is True
    assert unit.calls() == []
    answer = run_module(postgresql_fence, unit.arguments(state="released"))
    assert (answer["changed"], answer["fenced"], answer["note"]) == (True, False, None)
    assert unit.calls() == ["unmask patroni.service"]
    for check in (True, False):
        again = run_module(postgresql_fence, unit.arguments(state="released"), check=check)
        assert again["changed"] is False
    assert unit.calls() == []


def test_a_marker_alone_is_taken_down_too(unit: Unit, run_module: Run) -> None:
    unit.marker.parent.mkdir()
    unit.marker.write_text("{}")
    for check in (True, False):
        answer = run_module(postgresql_fence, unit.arguments(state="released"), check=check)
        assert (answer["changed"], unit.marker.exists()) == (True, check)
    assert unit.calls() == []


def test_a_mask_alone_is_taken_down_too(unit: Unit, run_module: Run) -> None:
    unit.say(enabled="masked")
    assert run_module(postgresql_fence, unit.arguments(state="released"))["changed"] is True
    assert unit.calls() == ["unmask patroni.service"]


def test_a_runtime_mask_is_taken_down_too(unit: Unit, run_module: Run) -> None:
    unit.say(enabled="masked", under_mask="masked-runtime")
    assert run_module(postgresql_fence, unit.arguments(state="released"), check=True)["changed"] is True
    assert run_module(postgresql_fence, unit.arguments(state="released"))["changed"] is True
    assert unit.calls() == ["unmask patroni.service", "unmask --runtime patroni.service"]
    assert (unit.home / "enabled").read_text() == "enabled\n"


def test_a_marker_that_may_not_be_read_is_told(unit: Unit, run_module: Run) -> None:
    unit.marker.mkdir(parents=True)
    answer = run_module(postgresql_fence, unit.arguments())
    assert answer["msg"].startswith(f"{unit.marker} cannot be read: ")
