"""Automatic failover: nobody gives a command. Five faults, and never two regions that take writes.

What it took is printed, and kept in autofailover.json in the lab's directory.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import psycopg2
import pytest
from e2e_lab import Lab, hosts_of, other, wait

REGIONS = ("north", "south")
LEASE = 20  # autofailover_lease_seconds
WORD = 10  # how long a host goes on after its last word: the lease less fence, uncertainty and watchdog
OBJECTIVE = 90  # seconds from the fault to the verified service
STATEMENT = (
    "insert into muster_e2e_writes (writer) values (%s) "
    "returning current_setting('cluster_name'), substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"
)


def state(lab: Lab) -> dict[str, Any]:
    """What the witness has on its disk."""
    found = json.loads(lab.sh("witness", "cat /var/lib/muster/lease/witness.json"))
    assert isinstance(found, dict)
    return found


def journal(lab: Lab, since: float) -> str:
    return lab.sh("witness", f"journalctl -q -o cat -u muster-lease --since @{since:.0f}")


# --- writers -------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A write that was acknowledged."""

    sent: float
    acked: float
    writer: str
    region: str
    timeline: int


class Writers:
    """Applications: through each endpoint, and past HAProxy to each PostgreSQL host, from a machine that
    no cut separates from anybody. So they see the writes that an isolated region still takes."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.rows: list[Row] = []
        self.stopping = threading.Event()
        places = [host for region in REGIONS for host in hosts_of(region)]
        self.threads = [threading.Thread(target=self.write, args=(place,)) for place in places]

    def __enter__(self) -> Writers:
        for thread in self.threads:
            thread.start()
        wait(lambda: len({row.writer for row in self.rows}) >= 3, "the writers to be answered", 30)
        return self

    def __exit__(self, *_arguments: object) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(15)

    def connect(self, host: str) -> Any:
        connection = psycopg2.connect(
            host=host, hostaddr=self.lab.addresses[host], port=5432,
            user="application", password=self.lab.secrets["application_password"], dbname="application",
            sslmode="verify-full", sslrootcert=str(self.lab.directory / "pki/ca.crt"),
            connect_timeout=2, tcp_user_timeout=2000, keepalives_idle=1, keepalives_interval=1,
        )  # fmt: skip
        connection.autocommit = True
        return connection

    def write(self, host: str) -> None:
        connection = None
        while not self.stopping.is_set():
            try:
                connection = connection or self.connect(host)
                with connection.cursor() as cursor:
                    sent = time.time()
                    cursor.execute(STATEMENT, (host,))
                    name, timeline = cursor.fetchone()
                row = Row(sent, time.time(), host, name.removeprefix("muster-"), int(timeline, 16))
                self.rows.append(row)
            except psycopg2.errors.ReadOnlySqlTransaction:
                pass  # a standby: the connection is good, and a new one for each try would cost a third of a core
            except psycopg2.Error:
                with contextlib.suppress(psycopg2.Error, AttributeError):
                    connection.close()
                connection = None
            self.stopping.wait(0.1)

    def of(self, region: str) -> list[Row]:
        return sorted((row for row in list(self.rows) if row.region == region), key=lambda row: row.acked)

    def dual(self, old: str, moved_home: bool = False) -> list[Row]:
        """What the old primary region acknowledged after the other one's first acknowledged write.

        With C(moved_home) but for what it took again by a planned move, which begins a later timeline.
        """
        new = self.of(other(old))
        first = min((row.acked for row in new), default=float("inf"))
        last = max((row.timeline for row in new), default=0) if moved_home else float("inf")
        return [row for row in self.of(old) if row.acked > first and row.timeline <= last]

    def silence(self, region: str) -> float:
        moments = [row.acked for row in self.of(region)] + [time.time()]
        return max(b - a for a, b in pairwise(moments))


# --- the lab -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def automatic(lab: Lab) -> Iterator[Lab]:
    """A lab with automatic failover on, and off again afterwards."""
    found = lab.wait_healthy()
    if not any(row["last_restore_proof_at"] for row in found["stores"]):
        lab.ok("dr_restore_proof")  # a gate of every failover asks for it
    (lab.directory / "automatic").write_text("true\n")
    (lab.directory / "autofailover.json").unlink(missing_ok=True)
    lab.ok("site")
    lab.query(
        "north-3",
        "create table if not exists muster_e2e_writes (writer text, at timestamptz default now())",
        user="application",
    )
    yield lab
    if (lab.directory / "automatic").read_text() == "true\n":
        lab.repair()
        (lab.directory / "automatic").write_text("false\n")
        lab.ok("site")


@pytest.fixture
def ready(automatic: Lab) -> Iterator[Lab]:
    lab = automatic
    if lab.status()["exit_code"] != 0:
        lab.repair()  # a fault before this one left it so
    holder = lab.primary_region()
    assert state(lab)["holders"] == [holder]
    # After a repair the other region's hosts have to have said that they fence themselves.
    wait(lambda: len(set(state(lab)["armed"]) & set(hosts_of(holder))) == 2, "the region to be armed", 30)
    yield lab
    lab.heal()


def record(lab: Lab, fault: str, **figures: Any) -> None:
    path = lab.directory / "autofailover.json"
    found = json.loads(path.read_text()) if path.exists() else []
    found.append({"fault": fault, **figures})
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(f"\n{fault}: " + ", ".join(f"{name} {value}" for name, value in figures.items()))


def failed_over(lab: Lab, target: str, before: dict[str, Any]) -> dict[str, Any]:
    """Wait until the witness has failed over to a region, and verified it."""

    def finished() -> dict[str, Any] | None:
        found = state(lab)
        passed = found["passed"] or {}
        return found if found["term"] > before["term"] and passed.get("finished") else None

    found = wait(finished, "the witness to fail over", OBJECTIVE + 30, 1)
    assert found["holders"] == [target]
    assert found["passed"]["by"] == "the witness"
    assert isinstance(found, dict)
    return found


def verified_at(lab: Lab) -> float:
    text = lab.sh("witness", "cat $(ls /var/lib/muster/operations/*-failover.json | tail -1)")
    document = json.loads(text)
    assert document["approver"] == "autofailover"
    assert document["fence"]["provider"] == "lease"
    return datetime.fromisoformat(document["recorded_at"]).timestamp()


def first_write(lab: Lab, since: float, region: str) -> float:
    """When the canary had its first write acknowledged by a region, from its ledger."""
    text = lab.sh("witness", "zcat -f /var/lib/muster/canary/ledger*csv* | grep ^postgresql,")
    rows = [line.split(",", 5) for line in text.splitlines()]
    found = [
        datetime.fromisoformat(row[3]).timestamp()
        for row in rows
        if row[3] and f"region={region}" in row[5] and datetime.fromisoformat(row[2]).timestamp() > since
    ]
    assert found, f"the canary had no write acknowledged by {region}"
    return min(found)


def region_lost(lab: Lab, fault: str, lose: Callable[[str], None]) -> str:
    """The primary region goes; the witness fails over. Returns the region that was lost."""
    home = lab.primary_region()
    away = other(home)
    before, window_from = state(lab), lab.now()
    with Writers(lab) as writers:
        began = time.time()
        lose(home)
        failed_over(lab, away, before)
        wait(lambda: writers.of(away), "the writers to be answered", 30)
        time.sleep(2)
    took = first_write(lab, began, away) - began
    verified = verified_at(lab) - began
    window = lab.window(window_from)
    record(
        lab,
        fault,
        first_write_seconds=round(took, 1),
        verified_seconds=round(verified, 1),
        old_region_silent_after_seconds=round(writers.of(home)[-1].acked - began, 1),
        lost_canary_writes=len(window.lost),
        dual_writes=len(writers.dual(home)) + len(window.dual),
    )
    assert writers.dual(home) == []
    assert window.dual == []
    assert verified <= OBJECTIVE
    return home


def nothing_moves(lab: Lab, fault: str, disturb: Callable[[str], None], longest: float) -> str:
    """A fault that is no reason: the region goes on, and the lease stays where it is."""
    home = lab.primary_region()
    before, window_from, began = state(lab), lab.now(), time.time()
    with Writers(lab) as writers:
        disturb(home)
        wait(lambda: state(lab), "the witness", 30)
        time.sleep(2)
        silence = writers.silence(home)
    after = state(lab)
    window = lab.window(window_from)
    record(
        lab,
        fault,
        moved=after["holders"] != [home],
        longest_silence_seconds=round(silence, 1),
        lost_canary_writes=len(window.lost),
        dual_writes=len(writers.of(other(home))) + len(window.dual),
    )
    assert after["holders"] == [home]
    assert (after["term"], after["passed"]) == (before["term"], before["passed"])
    assert writers.of(other(home)) == []
    assert window.dual == []
    assert window.lost == set()
    assert silence <= longest
    return journal(lab, began)


# --- with the lease -------------------------------------------------------------------------


def test_a_planned_move_takes_the_lease_along(ready: Lab) -> None:
    lab = ready
    away = other(lab.primary_region())
    window_from, began = lab.now(), time.time()
    lab.ok("dr_switchover", "-e", f"dr_target_region={away}")
    assert state(lab)["holders"] == [away]
    time.sleep(3)
    for host in (f"{region}-{number}" for region in REGIONS for number in (1, 2)):
        said = lab.sh(host, f"journalctl -q -o cat -u muster-lease-agent --since @{began:.0f}")
        assert "fencing this host" not in said
    window = lab.window(window_from)
    assert (window.lost, window.dual) == (set(), [])
    assert window.outage < 15
    assert lab.primary_region() == away


def test_site_changes_nothing_then(ready: Lab) -> None:
    run = ready.ok("site")
    assert not any(run.changed.values()), run.output


# --- the five faults ---------------------------------------------------------------------------


def test_region_killed(ready: Lab) -> None:
    """By a drill that leaves the failover to the witness, brings the region back, and moves home."""
    lab = ready
    home = lab.primary_region()
    with Writers(lab) as writers:
        _folder, evidence = lab.drill("region_loss", "-e", "dr_drill_automatic=true")
    assert writers.of(other(home))
    store = evidence["stores"][0]
    (cut,) = (phase for phase in evidence["phases"] if "the link is cut" in phase["name"])
    dead = datetime.fromisoformat(cut["started_at"]).timestamp() + cut["seconds"]
    verified = verified_at(lab) - dead
    record(
        lab,
        "region killed",
        first_write_seconds=round(first_write(lab, dead, other(home)) - dead, 1),
        verified_seconds=round(verified, 1),
        lost_canary_writes=store["rpo_lost_writes"],
        dual_writes=len(writers.dual(home, moved_home=True)) + store["dual_writer_writes"],
    )
    assert (evidence["verdict"], evidence["approver"]) == ("PASS", "autofailover")
    assert any(gate["name"] == "fence_proven" and gate["passed"] for gate in evidence["gates"])
    assert store["rpo_lost_writes"] > 0, "the cut before the kill must have cost something"
    assert store["dual_writer_writes"] == 0
    assert writers.dual(home, moved_home=True) == []
    assert verified <= OBJECTIVE
    assert state(lab)["holders"] == [home]
    assert lab.primary_region() == home


def test_region_isolated(ready: Lab) -> None:
    lab = ready

    def isolate(home: str) -> None:
        lab.cut(hosts_of(home), [*hosts_of(other(home)), "witness"])

    home = region_lost(lab, "region isolated", isolate)
    lab.heal()
    # It hears that it has lost its lease, and stays down over a reboot, too.
    for host in hosts_of(home)[:2]:
        wait(
            lambda host=host: "masked" in lab.sh(host, "systemctl is-enabled patroni", check=False),
            f"{host} to fence itself for good",
            30,
        )
        assert lab.sh(host, "pgrep -c -x postgres; true").strip() == "0"
    lab.repair()


def test_witness_killed(ready: Lab) -> None:
    lab = ready

    def kill(_home: str) -> None:
        lab.kill("witness")
        time.sleep(LEASE + 6)
        lab.boot("witness")

    nothing_moves(lab, "witness killed", kill, 4)


def test_witness_isolated_from_one_region(ready: Lab) -> None:
    lab = ready

    def isolate(home: str) -> None:
        lab.cut(hosts_of(home), ["witness"])
        time.sleep(LEASE + 6)
        lab.heal()

    said = nothing_moves(lab, "witness isolated from the primary region", isolate, 4)
    assert "passed:" not in said


def test_flapping_link(ready: Lab) -> None:
    """Twice for less than a host's word lasts, and once for longer, but for less than the lease."""
    lab = ready

    def flap(home: str) -> None:
        for seconds in (4, 6, WORD + 4):
            lab.cut(hosts_of(home), [*hosts_of(other(home)), "witness"])
            time.sleep(seconds)
            lab.heal()
            time.sleep(5)
        wait(lambda: lab.primary_region() == home, "the region to be back", 60)

    nothing_moves(lab, "flapping link", flap, 60)


# --- off again -----------------------------------------------------------------------------------


def test_turned_off_it_leaves_nothing_behind(ready: Lab) -> None:
    lab = ready
    (lab.directory / "automatic").write_text("false\n")
    lab.ok("site")
    assert not any(lab.ok("site").changed.values())
    for host in (f"{region}-{number}" for region in REGIONS for number in (1, 2)):
        assert "muster" not in lab.sh(host, "systemctl list-units --plain 'muster-lease*'", check=False)
    window_from = lab.now()
    lab.ok("dr_switchover", "-e", f"dr_target_region={other(lab.primary_region())}")
    window = lab.window(window_from)
    assert (window.lost, window.dual) == (set(), [])
