"""Provisioning: what the first run made stays, and nothing is made twice."""

from __future__ import annotations

import subprocess

import psycopg2
import pytest
from e2e_lab import CHECKOUT, Lab


def test_second_run_changes_nothing(lab: Lab) -> None:
    run = lab.ok("site")
    assert set(run.changed) >= set(lab.addresses)
    assert not any(run.changed.values()), run.output


def test_check_mode_is_clean_on_a_running_lab(lab: Lab) -> None:
    # A number that comes from a command line is text.
    numbers = {
        "backup_repository_min_free_mb": 1024, "backup_repository_retention_days": 30,
        "base_max_clock_offset_ms": 1000, "base_min_memory_mb": 512, "postgresql_min_free_mb": 512,
    }  # fmt: skip
    text = [word for name, number in numbers.items() for word in ("-e", f"{name}={number}")]
    run = lab.ok("site", "--check", "--diff", *text)
    assert not any(run.changed.values()), run.output


def test_limit_to_one_host(lab: Lab) -> None:
    run = lab.ok("site", "--limit", "south-2")
    assert run.changed == {"south-2": 0}


def test_status_is_healthy_and_quick(lab: Lab) -> None:
    rows = lab.wait_healthy()["stores"]
    run = lab.play("dr_status")
    assert run.code == 0, run.output
    assert "primary" in run.output
    assert [row["role"] for row in rows].count("primary") == 1
    assert all(row["last_backup_at"] for row in rows)


@pytest.mark.parametrize("endpoint", ["north-3", "south-3"])
@pytest.mark.parametrize("port", [5432, 6432])
def test_applications_write_through_every_endpoint(lab: Lab, endpoint: str, port: int) -> None:
    lab.query(
        endpoint, "create table if not exists notes (id bigserial, at timestamptz)", "application", port
    )
    rows = lab.query(endpoint, "insert into notes (at) values (now()) returning id", "application", port)
    assert rows[0][0] > 0


def test_pgvector_is_there(lab: Lab) -> None:
    assert lab.query("north-3", "select '[1,2]'::vector <-> '[1,4]'::vector", "application") == [(2.0,)]


def test_data_checksums_and_scram(lab: Lab) -> None:
    assert lab.query("north-3", "show data_checksums") == [("on",)]
    assert lab.query("north-3", "show password_encryption") == [("scram-sha-256",)]


def test_plain_text_and_superuser_are_refused(lab: Lab) -> None:
    for user, mode, secret in (
        ("muster_canary", "disable", "canary_password"),
        ("postgres", "require", "postgresql_superuser_password"),
    ):
        with pytest.raises(psycopg2.OperationalError):
            psycopg2.connect(
                host=lab.addresses["north-3"],
                port=5432,
                user=user,
                password=lab.secrets[secret],
                dbname="muster",
                sslmode=mode,
                connect_timeout=3,
            )


BAD_INPUT = {
    "a region that does not exist": ("dr_switchover", ["-e", "dr_target_region=east"], "'east'"),
    "no target": ("dr_switchover", [], "dr_target_region is missing"),
    "an unknown scenario": ("dr_drill", ["-e", "dr_scenario=earthquake"], "earthquake"),
    "a missing secret": (
        "site",
        ["-e", "postgresql_superuser_password="],
        "postgresql_superuser_password is missing",
    ),
    "a wrong type": ("site", ["-e", "postgresql_port=lots"], "postgresql_port"),
    "objectives nobody can meet": (
        "site",
        ["-e", '{"dr_objectives": {"postgresql": {"rpo_seconds": 0, "rto_seconds": 0.1}}}'],
        "rto_seconds",
    ),
    "no objectives": ("site", ["-e", '{"dr_objectives": {}}'], "dr_objectives.postgresql is missing"),
    "a first region that does not exist": ("site", ["-e", "dr_initial_primary_region=west"], "'west'"),
    "a restore time without a zone": (
        "restore",
        ["-e", "restore_to_time=2026-01-01T00:00:00", "-e", "restore_directory=/var/tmp/early"],
        "has no time zone",
    ),
    "a restore time before the first backup": (
        "restore",
        ["-e", "restore_to_time=2001-01-01T00:00:00Z", "-e", "restore_directory=/var/tmp/early"],
        "2001-01-01",
    ),
    "a restore into place without the confirmation": ("restore", [], "postgresql_restore_confirm"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_sentence_and_changes_nothing(lab: Lab, case: str) -> None:
    playbook, arguments, sentence = BAD_INPUT[case]
    run = lab.play(playbook, *arguments)
    assert run.code != 0
    assert sentence in run.output
    assert not any(run.changed.values()), run.output


INVENTORIES = {
    "a host in two regions": (
        "all: {children: {region_north: {hosts: {a: , b: }}, region_south: {hosts: {b: , c: }}}}",
        "b is in more than one region",
    ),
    "two etcd members": (
        "all: {children: {region_north: {hosts: {a: , b: }}, region_south: {hosts: {c: }}, etcd: {hosts: {a: , b: }}}}",
        "region north has 2 etcd members",
    ),
    "one region": ("all: {children: {region_north: {hosts: {a: }}}}", "needs two regions"),
}


@pytest.mark.parametrize("case", INVENTORIES)
def test_an_inventory_that_cannot_work_is_refused(
    lab: Lab, case: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text, sentence = INVENTORIES[case]
    file = tmp_path_factory.mktemp("inventory") / "hosts.yml"
    file.write_text(text)
    done = subprocess.run(
        ["ansible-playbook", "-i", str(file), "playbooks/site.yml"],
        cwd=CHECKOUT,
        env=lab.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert sentence in done.stdout + done.stderr


def test_an_unreachable_host_is_named_before_the_first_change(lab: Lab) -> None:
    run = lab.play(
        "site", "-e", "ansible_timeout=3", "--limit", "north-1,south-2", "-e", '{"ansible_port": 2222}'
    )
    assert run.code != 0
    assert "north-1" in run.output
    assert "UNREACHABLE" in run.output
    assert not any(run.changed.values())
