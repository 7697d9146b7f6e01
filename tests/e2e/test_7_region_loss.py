"""A region is lost, cut off, comes back: what it cost, what was saved, and that there were never two writers."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator

import pytest
from e2e_lab import LIGHT, Lab, hosts_of, kill_group, other, recompute, wait

SEGMENTS = 8
TRANSACTION = "select txid_current()"
PHASES = ("gates", "fenced", "opened")


@pytest.fixture
def whole(healthy: Lab) -> Iterator[Lab]:
    """A lab whose network and whose regions are whole again afterwards, whatever the test did."""
    yield healthy
    healthy.repair()


def lose(lab: Lab, region: str, other: str, seconds: float = 3) -> None:
    """Cut the link, let the region go on alone, kill it."""
    lab.cut(hosts_of(region), hosts_of(other))
    time.sleep(seconds)
    lab.podman("kill", "--signal", "KILL", *(f"muster-{lab.id}-{host}" for host in hosts_of(region)))


def come_back(lab: Lab, region: str) -> None:
    lab.heal()
    lab.podman("start", *(f"muster-{lab.id}-{host}" for host in hosts_of(region)))


# --- drills -------------------------------------------------------------------


def test_a_backup_in_the_other_region_is_proven(lab: Lab) -> None:
    lab.wait_healthy()
    _folder, evidence = lab.drill("restore")
    assert evidence["verdict"] == "PASS"
    assert {check["name"] for check in evidence["restore_proof"]["checks"]} == {
        "amcheck",
        "pg_checksums",
        "canary",
    }
    assert all(row["last_restore_proof_at"] for row in lab.status()["stores"])


def test_flipped_bytes_in_the_repository_fail_the_proof(lab: Lab) -> None:
    """The largest file of the newest backup, in both repositories; put back afterwards."""
    lab.wait_healthy()
    find = (
        "find /var/lib/pgbackrest/backup/muster/*F/ -type f ! -name 'backup.manifest*' -printf '%s %p\\n' "
        "| sort -n | tail -1 | cut -d' ' -f2-"
    )
    broken = {}
    for host in ("north-3", "south-3"):
        path = lab.sh(host, find).strip()
        assert path, f"no backup on {host}"
        lab.sh(host, f"cp -p '{path}' /root/kept")
        lab.sh(host, f"printf 'rotten bytes' | dd of='{path}' bs=1 seek=2000 conv=notrunc status=none")
        broken[host] = path
    try:
        run = lab.play("dr_drill", "-e", "dr_scenario=restore", *LIGHT, timeout=700)
    finally:
        for host, path in broken.items():
            lab.sh(host, f"cp -p /root/kept '{path}' && rm /root/kept")
    assert run.code != 0
    _folder, evidence = lab.latest_drill()
    assert evidence["verdict"] == "FAIL"
    assert any("restore" in reason or "checksum" in reason for reason in evidence["reasons"])


def test_the_loss_of_a_region_is_counted_and_accounted_for(lab: Lab) -> None:
    lab.wait_healthy()
    home = lab.primary_region()
    folder, evidence = lab.drill("region_loss")
    store = evidence["stores"][0]
    assert evidence["verdict"] == "PASS"
    assert store["rpo_lost_writes"] > 0, "the cut before the kill must have cost something"
    assert store["dual_writer_writes"] == 0
    assert store["outage_seconds"] <= 45
    assert evidence["lost_commits"]["count"] >= store["rpo_lost_writes"]
    assert (folder / evidence["lost_commits"]["xids_file"]).is_file()
    assert lab.primary_region() == home
    done = recompute(folder, lab.surviving(folder))
    assert done.returncode == 0, done.stdout + done.stderr


def test_site_right_after_a_reprotection_changes_nothing(lab: Lab) -> None:
    lab.wait_healthy()
    run = lab.ok("site")
    assert not any(run.changed.values()), run.output


def test_a_region_that_is_cut_off_is_not_taken_over_unfenced(lab: Lab) -> None:
    lab.wait_healthy()
    _folder, evidence = lab.drill("partition")
    assert evidence["verdict"] == "PASS"
    assert evidence["checks"][0]["name"] == "no failover without a proven fence"
    fence = next(gate for gate in evidence["gates"] if gate["name"] == "fence_proven")
    assert fence["passed"]


def test_the_chain_of_evidence_holds(lab: Lab) -> None:
    run = lab.ok("dr_verify_evidence")
    assert "signed" in run.output
    folder, _evidence = lab.latest_drill()
    subprocess.run(["sha256sum", "--check", "--quiet", "manifest.sha256"], cwd=folder, check=True)
    with (folder / "manifest.sha256").open("rb") as manifest:
        subprocess.run(
            ["ssh-keygen", "-Y", "verify", "-f", "../allowed_signers", "-I", "muster", "-n", "muster-evidence",
             "-s", "manifest.sha256.sig"],
            cwd=folder, stdin=manifest, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    ledger = folder / "ledger.csv"
    kept = ledger.read_bytes()
    ledger.write_bytes(kept.replace(b"postgresql", b"postgresqL", 1))
    try:
        run = lab.play("dr_verify_evidence")
        assert run.code != 0
        assert f"{folder.name}: ledger.csv" in run.output
    finally:
        ledger.write_bytes(kept)


@pytest.mark.parametrize(
    "playbook", ["dr_drill", "dr_failover", "dr_reprotect", "dr_restore_proof", "dr_switchover"]
)
def test_an_operation_on_a_part_of_the_platform_is_refused(lab: Lab, playbook: str) -> None:
    run = lab.play(playbook, "--limit", "localhost,north-1", "-e", "dr_target_region=south")
    assert run.code != 0
    assert "run it without --limit" in run.output
    assert set(run.changed.values()) == {0}


def test_a_failover_that_is_refused_leaves_no_lock_behind(lab: Lab) -> None:
    """Another operation may begin at once; the refused one has ended."""
    lab.wait_healthy()
    home = lab.primary_region()
    run = lab.play("dr_failover", "-e", f"dr_target_region={home}")
    assert run.code != 0
    assert "target_not_primary" in run.output
    assert lab.sh("witness", "cat /var/lib/muster/dr/operation.json; true") == ""
    assert lab.ok("dr_reprotect")


# --- interrupted --------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_failover_is_finished_by_the_same_command(whole: Lab, phase: str) -> None:
    lab = whole
    home = lab.primary_region()
    away = other(home)
    since = lab.now()
    if phase == "fenced":
        # Alive, and fenced over ssh: the fence is what is interrupted.
        providers = ["-e", '{"dr_fence_providers": ["ssh"]}']
    else:
        lose(lab, home, away)
        providers = []
    command = ["dr_failover", "-e", f"dr_target_region={away}", *providers]
    process = lab.start(command[0], *command[1:])
    try:
        if phase == "gates":
            time.sleep(3)
        elif phase == "fenced":
            wait(lambda: fenced(lab, f"{home}-1"), "the fence", 60, 0.3, process)
        else:
            wait(lambda: not lab.declared_standby(away), "the region to be opened", 60, 0.05, process)
    finally:
        kill_group(process)
    lab.ok(*command)
    assert lab.query(f"{away}-3", "show cluster_name")[0][0] == f"muster-{away}"
    if phase == "fenced":
        # Right after a failover, with the old side fenced: nobody is started or promoted by a converge.
        run = lab.ok("site")
        assert not any(run.changed.values()), run.output
        assert lab.sh(f"{home}-1", "systemctl is-active patroni", check=False).strip() != "active"
        # ... nor by a reboot.
        lab.podman("restart", "--time", "0", f"muster-{lab.id}-{home}-1")
        time.sleep(5)
        assert lab.sh(f"{home}-1", "pgrep -c -x postgres; true").strip() == "0"
    else:
        come_back(lab, home)
        wait(lambda: guard(lab, f"{home}-1"), "the guard to refuse", 60)
        assert lab.sh(f"{home}-1", "pgrep -c -x postgres; true").strip() == "0"
    lab.ok("dr_reprotect")
    window = lab.window(since)
    assert window.dual == []


def fenced(lab: Lab, host: str) -> bool:
    return "masked" in lab.sh(host, "systemctl is-enabled patroni", check=False)


def guard(lab: Lab, host: str) -> bool:
    return "is primary" in lab.sh(host, "cat /run/muster-postgresql/guard", check=False)


def optime(lab: Lab, region: str) -> int:
    """How far the region's leader has come, as Patroni notes it in etcd."""
    return int(json.loads(lab.noted(region, "status"))["optime"])


def on_primary(lab: Lab, region: str, *statements: str) -> str:
    """Run SQL on the host that leads a region, whoever else can reach it; what it answers."""
    words = " ".join(f"-c '{statement}'" for statement in statements)

    def answer() -> str:
        return lab.sh(lab.noted(region, "leader"), f'su postgres -c "psql -At {words}"', check=False).strip()

    return str(wait(answer, f"{region} to take writes", 30))  # until then it refuses each of them


def move_within(lab: Lab, region: str) -> None:
    """Make the other host of a region its primary, as the failure of one does."""
    before = lab.noted(region, "leader")
    config = "/etc/patroni/config.yml"
    lab.sh(before, f"patronictl -c {config} switchover --force --leader {before}")
    wait(lambda: lab.noted(region, "leader") not in ("", before), "another host to be primary", 30)


def run_ahead(lab: Lab, region: str) -> int:
    """Let a region that still takes writes go on by itself for some WAL segments; how far it came.

    More of them than the other region begins meanwhile, which is one a minute.
    """
    before = optime(lab, region)
    on_primary(lab, region, *[TRANSACTION, "select pg_switch_wal()"] * SEGMENTS)
    return int(
        wait(
            lambda: (now := optime(lab, region)) > before + (SEGMENTS - 1) * 2**24 and now,
            "the new position",
            30,
        )
    )


def test_a_region_behind_a_closed_edge_is_stopped_before_it_is_opened(whole: Lab) -> None:
    lab = whole
    home = lab.primary_region()
    away = other(home)
    since = lab.now()
    lab.ok("dr_failover", "-e", f"dr_target_region={away}", "-e", '{"dr_fence_providers": ["network"]}')
    # It still takes writes there; nobody can reach it.
    assert lab.sh(f"{home}-1", "pgrep -c -x postgres; true").strip() != "0"
    assert lab.query(f"{home}-3", "show cluster_name")[0][0] == f"muster-{away}"
    ahead = run_ahead(lab, home)
    # One of its hosts fails as well, there alone: what was committed is on two timelines by now.
    xids = [on_primary(lab, home, TRANSACTION)]
    move_within(lab, home)
    xids.append(on_primary(lab, home, TRANSACTION))
    leader = lab.noted(home, "leader")
    lab.ok("dr_reprotect")
    listed = (lab.directory / f"operations/lost-{leader}-commits.csv").read_text()
    assert [xid for xid in xids if f"\n{xid}," not in listed] == []
    # Who is behind what the old side had may lead it again: it could be promoted at once.
    assert lab.noted(home, "leader")
    assert optime(lab, home) < ahead
    lab.wait_healthy()
    assert lab.primary_region() == away
    window = lab.window(since)
    assert window.dual == []


# --- a region whose data is gone ------------------------------------------------------


def test_a_region_without_its_data_is_copied_anew(whole: Lab) -> None:
    lab = whole
    home = lab.primary_region()
    away = other(home)
    lose(lab, home, away, 1)
    run = lab.play("dr_drill", "-e", "dr_scenario=region_loss")
    assert run.code != 0
    assert f"no drill now: {', '.join(hosts_of(home))} do not answer" in run.output
    assert "Drill | Scenario" not in run.output
    lab.ok("dr_failover", "-e", f"dr_target_region={away}")
    come_back(lab, home)
    for host in hosts_of(home)[:2]:
        wait(lambda host=host: guard(lab, host), "the guard to refuse", 60)
        lab.sh(host, "rm -rf /var/lib/postgresql/17/muster/*")
    run = lab.ok("dr_reprotect")
    assert "copied anew: the data directory is lost" in run.output
    assert "an unknown number of commits" in run.output
    lab.wait_healthy()
