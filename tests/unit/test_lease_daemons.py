# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The faults of automatic failover with real processes, and what operators ask of the lease."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils import _lease
from ansible_collections.muster.platform.plugins.modules import lease, lease_info
from lease_processes import LEASE, REGIONS, Processes, wait
from lease_world import witness

Run = Callable[..., dict[str, Any]]
Scenario = Callable[[Processes], None]
SCENARIOS: list[Scenario] = []
AT_ONCE, PARTS = 5, 4


def scenario(function: Scenario) -> Scenario:
    """Something to be run on processes of its own. They mostly wait, so some are run beside each other."""
    SCENARIOS.append(function)
    return function


def play(function: Scenario, root: Path, pki: Path) -> str:
    """What went wrong; empty when nothing did."""
    root.mkdir()
    made = Processes(root, pki)
    try:
        made.settle()
        function(made)
    except Exception:  # of whatever kind: it is the scenario's, and the others go on
        return f"{function.__name__}: {traceback.format_exc()}"
    finally:
        made.close()
    return ""


# The daemons know nothing of Ansible: scripts/unit runs this on one generation of it.
@pytest.mark.daemons
@pytest.mark.parametrize("part", range(PARTS))
def test_real_processes(part: int, tmp_path: Path, pki: Path) -> None:
    mine = SCENARIOS[part::PARTS]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        failures = list(pool.map(lambda each: play(each[1], tmp_path / str(each[0]), pki), enumerate(mine)))
    # Their lease lasts two seconds: on a machine that is busy with others a process misses that. What failed
    # beside the others has to pass alone.
    again = [
        play(each, tmp_path / f"again-{each.__name__}", pki)
        for each, failure in zip(mine, failures, strict=True)
        if failure
    ]
    assert not any(again), "\n".join(failures + again)


@pytest.fixture
def world(tmp_path: Path, pki: Path) -> Iterator[Processes]:
    made = Processes(tmp_path, pki)
    try:
        made.settle()
        yield made
    finally:
        made.close()


# --- the five faults -------------------------------------------------------------------


@scenario
def region_killed(world: Processes) -> None:
    began = time.monotonic()
    world.machines["north-1"].die()
    wait(world.ran.exists, "the failover")
    took = time.monotonic() - began
    assert LEASE - 1 < took < LEASE + 5
    source, target, proof = world.ran.read_text().split()
    assert (source, target) == ("north", "south")
    fence = json.loads(Path(proof).read_text())
    assert (fence["proven"], fence["provider"], fence["region"], fence["term"]) == (True, "lease", "north", 2)
    assert Path(proof).stat().st_mode & 0o077 == 0
    wait(lambda: world.said("south-1").get("entitled"), "south to have its lease")
    found = wait(lambda: (info := world.info())["passed"]["finished"] and info, "the failover to be noted")
    assert (found["holder"], found["decision"]["verdict"]) == ("south", "ok")
    assert "passed: region north lost its lease" in world.log()
    # What it was: the second run of the command would be a second failover.
    time.sleep(1.0)
    assert len(world.ran.read_text().splitlines()) == 1


@scenario
def region_isolated_fences_itself_first_and_stays_down_when_it_is_back(world: Processes) -> None:
    north = world.machines["north-1"]
    world.isolate("north-1")
    wait(lambda: not north.runs, "north to fence itself", LEASE)
    assert not world.ran.exists()
    assert "stop --no-block patroni.service" in north.calls.read_text()
    assert north.call("--may-start").returncode == 1
    wait(world.ran.exists, "the failover")
    world.isolate("north-1", up=True)
    wait((north.root / "fenced.json").exists, "north to fence itself for good")
    note = json.loads((north.root / "fenced.json").read_text())
    assert note["operation"] == "automatic failover"
    assert "region north was primary" in note["reason"]
    wait(lambda: "mask patroni.service" in north.calls.read_text(), "north to be masked")
    assert "start" not in [line.split()[0] for line in north.calls.read_text().splitlines()]


@scenario
def region_isolated_for_a_short_time_starts_again_by_itself(world: Processes) -> None:
    north = world.machines["north-1"]
    world.canary_runs = False  # no second verdict
    world.isolate("north-1")
    wait(lambda: not north.runs, "north to fence itself", LEASE)
    wait(lambda: "the canary does not write" in world.log(), "the witness to refuse")
    assert not world.ran.exists()
    world.isolate("north-1", up=True)
    wait(lambda: "start --no-block patroni.service" in north.calls.read_text(), "Patroni to be started")
    assert north.call("--may-start").returncode == 0
    assert not (north.root / "fenced.json").exists()


@scenario
def witness_killed_and_restarted_moves_nothing_and_stops_nothing(world: Processes) -> None:
    world.kill_witness()
    deadline = time.monotonic() + 1.4 * LEASE
    while time.monotonic() < deadline:
        assert world.machines["north-1"].runs
        time.sleep(0.1)
    assert any(key.startswith("/muster/lease/cover/north-1") for key in world.etcds["south"].keys)
    world.start_witness()
    assert world.info()["holder"] == "north"
    wait(lambda: world.said("north-1").get("entitled"), "north to have its lease again")
    time.sleep(1.0)
    assert world.machines["north-1"].runs
    assert not world.ran.exists()


@scenario
def witness_cut_off_from_the_primary_region(world: Processes) -> None:
    world.acknowledging = False  # the canary is wrong too: the cover alone must hold
    world.machines["north-1"].to_witness.up = False
    wait(lambda: "still hears it, and covers it" in world.log(), "the witness to be told of the cover")
    time.sleep(1.0)
    assert world.machines["north-1"].runs
    assert not world.ran.exists()


@scenario
def witness_cut_off_from_both(world: Processes) -> None:
    world.acknowledging = False
    for machine in world.machines.values():
        machine.to_witness.up = False
    wait(lambda: "the witness may be cut off" in world.log(), "the witness to refuse")
    time.sleep(1.0)
    assert world.machines["north-1"].runs
    assert not world.ran.exists()


@scenario
def a_flapping_link(world: Processes) -> None:
    for _flap in range(3):
        world.isolate("north-1")
        time.sleep(0.9)
        world.isolate("north-1", up=True)
        time.sleep(0.7)
    assert world.machines["north-1"].runs
    assert world.info()["holder"] == "north"
    assert not world.ran.exists()


# --- the agent ----------------------------------------------------------------------------


@scenario
def an_agent_that_was_killed_goes_on_with_its_word(world: Processes) -> None:
    north = world.machines["north-1"]
    north.kill_agent()
    assert north.call("--may-start").returncode == 0
    north.start_agent()
    time.sleep(1.5)
    assert north.runs
    assert "stop" not in north.calls.read_text()


@scenario
def patroni_that_stopped_with_its_agent_is_started_by_the_next(world: Processes) -> None:
    north = world.machines["north-1"]
    north.kill_agent()
    shown = "ActiveState=inactive\nInactiveEnterTimestampMonotonic={:.0f}\n"
    (north.root / "show").write_text(shown.format(time.monotonic() * 1e6))
    north.start_agent()
    wait(lambda: "start --no-block patroni.service" in north.calls.read_text(), "Patroni to be started")


@scenario
def patroni_that_somebody_stopped_before_is_left_alone(world: Processes) -> None:
    north = world.machines["north-1"]
    shown = "ActiveState=inactive\nInactiveEnterTimestampMonotonic={:.0f}\n"
    (north.root / "show").write_text(shown.format((time.monotonic() - 5) * 1e6))
    north.kill_agent()
    north.start_agent()
    wait(lambda: "show " in north.calls.read_text(), "the agent to look")
    time.sleep(1.5)
    assert "start" not in [line.split()[0] for line in north.calls.read_text().splitlines()]


@scenario
def the_word_of_a_dead_agent_runs_out(world: Processes) -> None:
    north = world.machines["north-1"]
    north.kill_agent()
    (north.root / "active").write_text("failed\n")
    wait(lambda: north.call("--may-start").returncode == 1, "the word to run out", LEASE)
    assert north.runs
    assert north.call("--after-stop").returncode == 0
    wait(lambda: not north.runs, "PostgreSQL to be killed")


@scenario
def an_agent_that_is_reloaded_stays_the_same_process(world: Processes) -> None:
    north = world.machines["north-1"]
    assert north.agent
    north.agent.send_signal(signal.SIGHUP)
    time.sleep(1.5)
    assert north.agent.poll() is None
    assert north.runs
    assert world.said("north-1")["seconds_ago"] < 1


@scenario
def a_hung_agent_is_seen_by_its_silence_and_fences_when_it_is_replaced(world: Processes) -> None:
    north = world.machines["north-1"]
    world.isolate("north-1")
    assert north.agent
    os.kill(north.agent.pid, signal.SIGSTOP)
    time.sleep(LEASE - 0.8)
    north.kill_agent()  # what systemd's watchdog does
    north.start_agent()
    wait(lambda: not north.runs, "the next agent to fence", 2)


@scenario
def disarm_tells_the_witness_before_the_host_stops_fencing_itself(world: Processes) -> None:
    north = world.machines["north-1"]
    done = north.call("--disarm")
    assert (done.returncode, done.stdout) == (0, "disarmed\n")
    wait(lambda: world.info()["armed"] == [], "the witness to know")
    north.kill_agent()
    assert north.call("--may-start").returncode == 0
    world.acknowledging = False
    wait(lambda: "north-1 never renewed it" in world.log(), "the witness to refuse")
    assert not world.ran.exists()
    assert north.runs
    assert not world.info()["proof"]["proven"]


@scenario
def disarm_is_refused_without_the_witness(world: Processes) -> None:
    north = world.machines["north-1"]
    world.kill_witness()
    done = north.call("--disarm")
    assert done.returncode == 1
    assert "the witness does not know" in done.stderr
    assert json.loads((north.root / "state/agent.json").read_text())["armed"]
    assert north.call("--disarm", "--alone").returncode == 0


# --- the witness ---------------------------------------------------------------------------


def ask(
    world: Processes, certificate: bool, host: str, path: str = "/v1/renew"
) -> tuple[int, dict[str, Any]]:
    context = ssl.create_default_context(cafile=str(world.pki / "ca.crt"))
    if certificate:
        context.load_cert_chain(world.pki / "member.crt", world.pki / "member.key")
    connection = http.client.HTTPSConnection("localhost", timeout=5)
    plain = socket.create_connection((world.address, world.port), 5)
    connection.sock = context.wrap_socket(plain, server_hostname="localhost")
    connection.request("POST", path, json.dumps({"host": host, "said": {}}))
    response = connection.getresponse()
    return response.status, json.loads(response.read())


@scenario
def who_may_renew(world: Processes) -> None:
    status, answer = ask(world, True, "north-9")
    assert (status, answer["error"]) == (403, "the certificate is not north-9's")
    status, answer = ask(world, True, "north-2")  # a good certificate of a host that has no PostgreSQL
    assert (status, answer["error"]) == (403, "north-2 is no PostgreSQL host of this lease")
    assert ask(world, True, "south-1", "/v1/other")[0] == 404
    with pytest.raises((ssl.SSLError, OSError)):
        ask(world, False, "north-1")
    assert world.machines["north-1"].runs


@scenario
def a_failed_failover_is_run_again_after_a_while(world: Processes) -> None:
    (world.root / "exit").write_text("2")
    world.machines["north-1"].die()
    wait(world.ran.exists, "the failover")
    wait(lambda: "ended with 2" in world.log(), "the failure")
    (world.root / "exit").write_text("0")
    # Also by a witness that was restarted in between: what it decided is on its disk.
    world.kill_witness()
    world.start_witness()
    wait(lambda: len(world.ran.read_text().splitlines()) == 2, "the second try")
    wait(lambda: world.info()["passed"]["finished"], "the failover to be finished")


@scenario
def an_operation_under_way_is_not_disturbed(world: Processes) -> None:
    (world.root / "lock/operation.json").write_text(json.dumps({"operation": "drill", "target": "south"}))
    world.machines["north-1"].die()
    wait(lambda: "a DR operation is under way (drill)" in world.log(), "the witness to refuse")
    time.sleep(1)
    assert not world.ran.exists()
    (world.root / "lock/operation.json").unlink()
    wait(world.ran.exists, "the failover")


# --- the modules --------------------------------------------------------------------------


def test_a_planned_move_and_its_lease(world: Processes, run_module: Run) -> None:
    def call(state: str, region: str, **more: Any) -> dict[str, Any]:
        return run_module(lease, {"socket": world.socket, "state": state, "region": region, **more})

    found = run_module(lease_info, {"socket": world.socket})
    assert (found["holder"], found["term"], found["reasons"]) == ("north", 1, [])
    assert found["expires_in_seconds"] > 0
    assert "refused: the lease is at term 1, not at 9" in call("shared", "south", term=9)["msg"]
    checked = run_module(lease, {"socket": world.socket, "state": "shared", "region": "south"}, check=True)
    assert (checked["changed"], checked["holders"], world.info()["term"]) == (True, ["north", "south"], 1)
    shared = call("shared", "south")
    assert (shared["changed"], shared["holders"]) == (True, ["north", "south"])
    assert world.said("south-1")["entitled"]
    assert call("shared", "south")["changed"] is False
    refused = call("held", "south", timeout=0.5)
    assert "north-1 does not say that region north is a standby" in refused["msg"]
    # What the handover does.
    world.configure_region(world.etcds["north"], "north", True)
    world.machines["north-1"].patroni.role = "standby_leader"
    world.configure_region(world.etcds["south"], "south", False)
    world.machines["south-1"].patroni.role = "primary"
    assert call("held", "south")["holders"] == ["south"]
    time.sleep(LEASE)
    assert all(machine.runs for machine in world.machines.values())
    assert run_module(lease_info, {"socket": world.socket})["proof"]["region"] == "north"
    assert not world.ran.exists()


def test_a_failover_by_hand_needs_an_ended_lease_or_a_proven_fence(world: Processes, run_module: Run) -> None:
    arguments = {"socket": world.socket, "state": "passed", "region": "south"}
    refused = run_module(lease, arguments)
    assert refused["failed"]
    assert "is not proven to be fenced" in refused["msg"]
    wrong = {"proven": True, "region": "south"}
    assert "is not proven to be fenced" in run_module(lease, {**arguments, "proof": wrong})["msg"]
    look = {"socket": world.socket, "failover_after": datetime.now(UTC).isoformat(), "timeout": 0}
    world.machines["north-1"].die()
    assert run_module(lease_info, look)["msg"] == (
        f"waited 0 s for a failover after {look['failover_after']}: the lease has not been passed since"
    )
    passed = run_module(lease, {**arguments, "proof": {"proven": True, "region": "north"}})
    assert (passed["changed"], passed["holders"], passed["term"]) == (True, ["south"], 2)
    assert run_module(lease_info, look)["passed"]["to"] == "south"
    late = run_module(lease_info, {**look, "failover_after": datetime.now(UTC).isoformat()})
    assert "the lease has not been passed since" in late["msg"]
    again = run_module(lease, {**arguments, "proof": {"proven": True, "region": "north"}})
    assert again["changed"] is False
    assert not world.ran.exists()


def test_a_planned_move_that_failed_leaves_the_lease_where_the_primary_is(
    world: Processes, run_module: Run
) -> None:
    held = {"socket": world.socket, "state": "held"}
    assert run_module(lease, {"socket": world.socket, "state": "shared", "region": "south"})["changed"]
    settled = run_module(lease, held)
    assert (settled["changed"], settled["holders"]) == (True, ["north"])
    assert run_module(lease, held)["changed"] is False
    # Rolled back half: both regions are standbys.
    world.configure_region(world.etcds["north"], "north", True)
    wait(lambda: world.said("north-1").get("standby"), "north to say that it is a standby")
    refused = run_module(lease, {**held, "timeout": 0.5})
    assert "which region is primary is not clear (north: standby, south: standby)" in refused["msg"]


def test_agents_are_waited_for(world: Processes, run_module: Run) -> None:
    look = {"socket": world.socket, "agents": ["north-1", "south-1"]}
    assert run_module(lease_info, look)["term"] == 1
    world.machines["south-1"].die()
    wait(
        lambda: world.said("south-1")["seconds_ago"] > world.info()["fresh_seconds"],
        "its last word to be old",
    )
    assert run_module(lease_info, {**look, "timeout": 0.5})["msg"] == (
        "waited 0.5 s for the agents of north-1, south-1: south-1 is not heard"
    )
    assert run_module(lease_info, {**look, "agents": ["north-1"], "timeout": 0})["term"] == 1


HEARD = {"seconds_ago": 1.0, "standby": True, "down": False}
PASSED = {"at": "2026-11-21T10:00:01.000000Z", "to": "south", "finished": True}


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({}, None),
        ({"agents": {}}, "north-1 is not heard"),
        ({"agents": {"north-1": {**HEARD, "seconds_ago": 9}}}, "north-1 is not heard"),
        ({"agents": {"north-1": {**HEARD, "down": True}}}, "north-1 keeps PostgreSQL down"),
        (
            {"agents": {"north-1": {**HEARD, "standby": None}}},
            "north-1 does not know whether its region is a standby",
        ),
        ({"passed": None}, "the lease has not been passed since"),
        ({"passed": {**PASSED, "at": "2026-11-21T09:59:59Z"}}, "the lease has not been passed since"),
        ({"passed": {**PASSED, "finished": False}}, "the failover to south has not ended"),
        ({"running": True}, "the failover to south has not ended"),
    ],
)
def test_what_is_not_there_yet_is_told(
    told: dict[str, Any], message: str | None, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = {"agents": {"north-1": HEARD}, "fresh_seconds": 5, "passed": PASSED, "running": False, **told}
    monkeypatch.setattr(_lease, "ask", lambda *_arguments: daemon)
    wanted = {"agents": ["north-1"], "failover_after": "2026-11-21T10:00:00.000000Z", "timeout": 0}
    answer = run_module(lease_info, wanted)
    if message:
        assert answer["msg"] == (
            f"waited 0 s for the agents of north-1 and a failover after {wanted['failover_after']}: {message}"
        )
    else:
        assert answer["passed"] == PASSED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yesterday", "failover_after is not a time in ISO 8601: yesterday"),
        ("2026-11-21T10:00:00", "failover_after must name its time zone"),
    ],
)
def test_a_moment_that_is_none_is_refused_at_once(
    text: str, message: str, tmp_path: Path, run_module: Run
) -> None:
    found = run_module(lease_info, {"socket": str(tmp_path / "none.sock"), "failover_after": text})
    assert found["msg"].startswith(message)


@pytest.mark.parametrize("state", ["shared", "passed"])
def test_only_held_finds_the_region_itself(state: str, tmp_path: Path, run_module: Run) -> None:
    found = run_module(lease, {"socket": str(tmp_path / "none.sock"), "state": state})
    assert found["failed"]
    assert "region" in found["msg"]


def test_no_daemon_is_told_in_one_sentence(tmp_path: Path, run_module: Run) -> None:
    found = run_module(lease_info, {"socket": str(tmp_path / "none.sock")})
    assert found["failed"]
    assert "is dr_autofailover on?" in found["msg"]


# --- parts of the witness -----------------------------------------------------------------


NOW = 1_795_255_200.0


def rows(*tries: tuple[float, bool, str]) -> list[list[str]]:
    return [
        [
            "postgresql",
            str(number),
            witness.stamp(NOW + at),
            witness.stamp(NOW + at) if good else "",
            name,
            "x",
        ]
        for number, (at, good, name) in enumerate(tries)
    ]


BOTH = ["north", "south"]
ALIVE = [(-20.0 + step / 4, True, name) for step in range(36) for name in BOTH]
DEAD = [(-11.0 + step / 2, False, name) for step in range(22) for name in BOTH]


@pytest.mark.parametrize(
    ("tries", "now", "verdict", "text"),
    [
        (ALIVE + DEAD, 0.0, True, "no write was acknowledged through north, south for"),
        (ALIVE + DEAD[:-2], 5.0, None, "does not write through north"),
        ([*ALIVE, *DEAD, (-0.2, True, "south")], 0.0, False, "the last acknowledged write is"),
        ([each for each in ALIVE + DEAD if each[2] == "north"], 0.0, None, "does not write through south"),
        ([*ALIVE, (8.0, False, "north"), (8.0, False, "south")], 8.5, None, "too few attempts"),
        (ALIVE + DEAD, -60.0, None, "does not write"),
        (DEAD, 0.0, True, "no write was acknowledged"),
        ([], 0.0, None, "does not write"),
    ],
    ids=[
        "dead",
        "stopped",
        "one late",
        "half a canary",
        "clock set forward",
        "clock set back",
        "never",
        "empty",
    ],
)
def test_the_canarys_verdict(tries: Any, now: float, verdict: bool | None, text: str) -> None:
    found, why = witness.judge_probe(rows(*tries), BOTH, 0.25, 10.0, NOW + now)
    assert found is verdict
    assert text in why


def test_a_canary_that_is_not_there_gives_no_verdict(tmp_path: Path) -> None:
    assert witness.canary_probe(str(tmp_path / "none.json"), "postgresql", 10.0)[0] is None


def test_an_unreadable_lock_is_a_lock(tmp_path: Path) -> None:
    assert witness.operation_lock(str(tmp_path)) is None
    (tmp_path / "operation.json").write_text("{")
    assert witness.operation_lock(str(tmp_path)) == {}


def test_a_witness_whose_state_is_old_decides_nothing_until_it_is_told(tmp_path: Path) -> None:
    timing = witness.Timing(LEASE, 1.0, 1.0, 1.0)
    found = witness.Lease(REGIONS, timing, tmp_path)
    assert found.hold("north")
    answer = found.renew("north-1", {"term": 7, "armed": True})
    assert answer["granted"] is False
    assert "knows term 7" in found.info()["reasons"][0]
    assert found.proof()["proven"] is False
    with pytest.raises(witness.Refused, match="its state is old"):
        found.share("south")
    assert found.hold("north")
    assert found.term == 8
    assert witness.Lease(REGIONS, timing, tmp_path).holders == ["north"]


def north_is_lost(directory: Path, armed: bool) -> Any:
    """A lease that ended long ago, of two hosts that said (not) that they fence themselves."""
    now = [0.0]
    timing = witness.Timing(LEASE, 1.0, 1.0, 1.0)
    found = witness.Lease(REGIONS, timing, directory, lambda: now[0])
    found.hold("north")
    found.renew("north-1", {"term": 1, "armed": armed})
    now[0] += LEASE + 1
    return found


def test_an_ended_lease_is_a_fence_only_of_hosts_that_stop_themselves(tmp_path: Path) -> None:
    found = north_is_lost(tmp_path, armed=False)
    with pytest.raises(witness.Refused, match="not known to fence themselves are: north-1"):
        found.hand("south", None, None)
    assert found.holders == ["north"]
    assert found.hand("south", None, {"proven": True, "region": "north"})


def test_an_operator_who_goes_on_ends_the_witness_s_own_attempts(tmp_path: Path) -> None:
    found = north_is_lost(tmp_path, armed=True)
    found.save(passed=found.facts("north", "south", "the witness", finished=False), holders=["south"], term=2)
    assert found.hand("south", None, None) is False
    assert found.state["passed"]["finished"] is False
    found.finish()
    assert found.state["passed"]["finished"] is True


def test_a_new_witness_begins_above_the_terms_that_were_claimed_before(tmp_path: Path) -> None:
    """Else the other region's old claim would refuse to cover, and a silent witness would stop the primary one."""
    found = witness.Lease(REGIONS, witness.Timing(LEASE, 1.0, 1.0, 1.0), tmp_path)
    found.renew("north-1", {"term": 0, "claimed": 0, "armed": False})
    found.renew("south-1", {"term": 0, "claimed": 7, "armed": False})
    assert found.hold("north", 0)
    assert found.term == 8
    # Later a claim is what it was asked for, and makes nobody's state old.
    found.renew("south-1", {"term": 8, "claimed": 9, "armed": False})
    assert found.info()["reasons"] == []


@pytest.mark.parametrize("text", ["{", "[]", '{"term": "x"}'])
def test_a_state_that_cannot_be_read_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "witness.json").write_text(text)
    with pytest.raises((witness.Refused, ValueError)):
        witness.Lease(REGIONS, witness.Timing(LEASE, 1.0, 1.0, 1.0), tmp_path)


def test_a_host_that_was_set_up_anew_is_not_taken_for_one_that_fences_itself(tmp_path: Path) -> None:
    found = witness.Lease(REGIONS, witness.Timing(LEASE, 1.0, 1.0, 1.0), tmp_path)
    found.hold("north")
    found.renew("north-1", {"term": 1, "armed": True})
    assert found.info()["armed"] == ["north-1"]
    found.renew("north-1", {"term": 0, "armed": False})
    assert found.info()["armed"] == []
