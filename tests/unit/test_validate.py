# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The action validate, over an inventory in memory and the roles' real specs."""

from __future__ import annotations

from typing import Any

import pytest
from action_fake import run_action
from ansible.errors import AnsibleError, AnsibleUndefinedVariable
from ansible_collections.muster.platform.plugins.action import validate
from test_inventory import GROUPS, objectives

EXAMPLES = {
    "str": "text",
    "int": 5,
    "bool": True,
    "list": [],
    "dict": {},
    "path": "/x",
    "float": 1.5,
    "raw": 1,
}


class Variables(dict[str, Any]):
    """A host's variables, of which one cannot be worked out, as with an undefined variable in a template."""

    broken = ""

    def __getitem__(self, name: str) -> Any:
        if name == self.broken:
            raise AnsibleUndefinedVariable("'vault_password' is undefined\nmore")
        return super().__getitem__(name)


def required() -> dict[str, Any]:
    """What a user has to set for the roles, with a value of the right kind."""
    found: dict[str, Any] = {}
    for role in ("base", "certificates", *validate.GROUP_ROLES):
        for name, option in validate.role_spec(role).items():
            if option.get("required"):
                found[name] = option.get("choices", [EXAMPLES[option.get("type", "str")]])[0]
    return found


@pytest.fixture
def inventory() -> dict[str, Any]:
    common = {
        "dr_initial_primary_region": "north",
        "dr_objectives": objectives(),
        **required(),
    }
    groups = {**GROUPS, "all": [*GROUPS["all"], "localhost"]}
    hostvars: dict[str, Any] = {
        host: Variables(common, ansible_host=f"192.0.2.{number}") for number, host in enumerate(GROUPS["all"])
    }
    return {"groups": groups, "hostvars": {**hostvars, "localhost": Variables(ansible_connection="local")}}


def problems(inventory: dict[str, Any]) -> list[str]:
    with pytest.raises(AnsibleError) as caught:
        run_action(validate, {}, inventory)
    head, *found = str(caught.value).split("\n  - ")
    assert head == "the inventory cannot work, nothing was changed:"
    return found


def everywhere(inventory: dict[str, Any], **values: Any) -> None:
    for host in GROUPS["all"]:
        inventory["hostvars"][host].update(values)


def test_a_good_inventory_passes(inventory: dict[str, Any]) -> None:
    answer = run_action(validate, {}, inventory)
    assert (answer["changed"], answer["hosts"]) == (False, 8)


def test_every_role_of_a_group_has_a_spec() -> None:
    for role in ("base", "certificates", *validate.GROUP_ROLES):
        assert validate.role_spec(role), role
    assert validate.role_spec("no_such_role") == {}


def test_all_that_is_wrong_is_told_at_once(inventory: dict[str, Any]) -> None:
    inventory["groups"]["region_south"] = ["n1", "s1", "s2", "s3"]
    inventory["groups"]["etcd"] = ["n1", "n2", "s1", "s2", "s3"]
    everywhere(inventory, dr_initial_primary_region="nort", dr_target_region="east", dr_objectives=None)
    found = problems(inventory)
    beginnings = [
        "n1 is in more than one region",
        "region north has 2 etcd members (n1, n2)",
        "dr_initial_primary_region is 'nort'",
        "dr_target_region is 'east'",
        "dr_objectives is missing",
    ]
    for beginning in beginnings:
        assert any(problem.startswith(beginning) for problem in found), beginning


def test_a_small_cluster_may_be_allowed(inventory: dict[str, Any]) -> None:
    inventory["groups"]["etcd"] = ["n1", "s1"]
    assert len(problems(inventory)) == 2
    everywhere(inventory, etcd_allow_small_cluster=True)
    assert run_action(validate, {}, inventory)["changed"] is False


@pytest.mark.parametrize("connection", [{}, {"ansible_connection": "ssh"}])
def test_a_localhost_that_is_reached_over_ssh_is_refused(
    inventory: dict[str, Any], connection: dict[str, str]
) -> None:
    inventory["hostvars"]["localhost"] = Variables(connection)
    (problem,) = problems(inventory)
    assert problem == (
        "localhost is in the inventory without ansible_connection: local; leave it out, or set that"
    )


@pytest.mark.parametrize(
    ("switch", "name", "value", "hosts"),
    [
        ("dr_autofailover", "autofailover_port", "many", ["n1", "n2", "s1", "s2", "w"]),
        ("dr_autofailover", "controller_variables", "none", ["w"]),
        ("dr_drill_timer_enabled", "controller_drill_timer_max_age_days", "often", ["w"]),
        ("dr_drill_timer_enabled", "controller_variables", "none", ["w"]),
    ],
)
def test_what_is_switched_on_is_checked_on_its_hosts(
    inventory: dict[str, Any], switch: str, name: str, value: Any, hosts: list[str]
) -> None:
    inventory["groups"] |= {"witnesses": ["w"], "canary": ["w"]}
    everywhere(inventory, **{name: value})
    run_action(validate, {}, inventory)
    everywhere(inventory, **{switch: True})
    found = problems(inventory)
    assert sorted(problem.split(":")[0] for problem in found) == hosts
    assert all(name in problem for problem in found)


def test_another_store_is_held_to_the_same(inventory: dict[str, Any]) -> None:
    """Its objectives, its variables, and what it does to automatic failover."""
    hosts = [host for host in GROUPS["all"] if host[0] in "ns"]
    inventory["groups"]["valkey"] = hosts
    assert problems(inventory) == ["dr_objectives.valkey is missing: set rpo_seconds and rto_seconds"]
    everywhere(inventory, dr_objectives={**objectives(), "valkey": objectives()["postgresql"]})
    run_action(validate, {}, inventory)
    everywhere(inventory, valkey_check_password="")
    assert [problem.split(" is missing")[0] for problem in problems(inventory)] == [
        f"{host}: valkey_check_password" for host in hosts
    ]
    everywhere(inventory, valkey_check_password="x", dr_autofailover=True)
    assert any("take valkey out of the inventory" in problem for problem in problems(inventory))


@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_secret_is_named_with_its_host_and_role(inventory: dict[str, Any], value: Any) -> None:
    inventory["hostvars"]["n1"]["postgresql_replication_password"] = value
    (problem,) = problems(inventory)
    assert problem.startswith("n1: postgresql_replication_password is missing (")
    assert problem.endswith("; role postgresql)")


def test_a_variable_that_is_not_set_at_all(inventory: dict[str, Any]) -> None:
    del inventory["hostvars"]["n3"]["backup_repository_cipher_pass"]
    (problem,) = problems(inventory)
    assert problem.startswith("n3: backup_repository_cipher_pass is missing (")


def test_a_value_of_the_wrong_kind_is_named(inventory: dict[str, Any]) -> None:
    inventory["hostvars"]["n1"]["postgresql_port"] = "high"
    (problem,) = problems(inventory)
    assert problem.startswith("n1: ")
    assert "postgresql_port" in problem
    assert problem.endswith("(role postgresql)")


def test_a_template_that_cannot_be_worked_out_is_told(inventory: dict[str, Any]) -> None:
    inventory["hostvars"]["s1"]["postgresql_replication_password"] = "{{ vault_password }}"
    inventory["hostvars"]["s1"].broken = "postgresql_replication_password"
    assert problems(inventory) == [
        "s1: postgresql_replication_password cannot be worked out: 'vault_password' is undefined"
    ]


def test_a_host_without_an_address(inventory: dict[str, Any]) -> None:
    del inventory["hostvars"]["w"]["ansible_host"]
    assert problems(inventory) == ["w has no ansible_host: its address is needed by every other host"]


def test_objectives_are_held_against_the_timers(inventory: dict[str, Any]) -> None:
    everywhere(inventory, postgresql_patroni_settings={"loop_wait": 10, "retry_timeout": 30})
    assert problems(inventory) == [
        "dr_objectives.postgresql.rto_seconds is 30, but Patroni may take "
        "40 s (loop_wait + retry_timeout) to act"
    ]
    everywhere(inventory, postgresql_patroni_settings={}, canary_interval_ms=60000)
    assert problems(inventory) == [
        "dr_objectives.postgresql.rto_seconds is 30, but the canary probes every 60 s "
        "and cannot measure less than 120"
    ]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("canary_interval_ms", "often", "canary_interval_ms is 'often': it must be a number"),
        (
            "postgresql_patroni_settings",
            {"loop_wait": "x"},
            "postgresql_patroni_settings.loop_wait is 'x': it must be a number",
        ),
        (
            "postgresql_patroni_settings",
            {"retry_timeout": None},
            "postgresql_patroni_settings.retry_timeout is None: it must be a number",
        ),
        ("postgresql_patroni_settings", "x", "postgresql_patroni_settings is 'x': it must be a dictionary"),
    ],
)
def test_timers_that_are_no_numbers(inventory: dict[str, Any], name: str, value: Any, sentence: str) -> None:
    everywhere(inventory, **{name: value})
    with pytest.raises(AnsibleError) as caught:
        run_action(validate, {}, inventory)
    assert str(caught.value).startswith(sentence)


def test_what_gates_and_lock_read_is_checked(inventory: dict[str, Any]) -> None:
    window = {"name": "weekend", "days": ["fri", "sat"], "from": "18:00", "to": "06:00", "reason": "nobody"}
    everywhere(
        inventory,
        dr_freeze_windows=[window],
        dr_override={"backup_age": "the repository is being moved"},
        dr_approver="Alice",
        dr_max_clock_offset_ms="250",
        dr_lock_takeover="ctl-2 has burnt down",
    )
    assert run_action(validate, {}, inventory)["changed"] is False
    everywhere(
        inventory,
        dr_freeze_windows=[{**window, "from": 1080}],
        dr_override={"no_such_gate": "x"},
        dr_approver=["Alice"],
        dr_max_clock_offset_ms="often",
        dr_max_backup_age_hours=-1,
        dr_max_restore_proof_age_days=True,
        dr_max_receiver_silence_seconds="nan",
        dr_lock_takeover=" ",
    )
    found = problems(inventory)
    beginnings = [
        "dr_freeze_windows[0] (weekend).from is 1080: it must be a time of day, UTC, such as '18:00' in quotes",
        "dr_override names 'no_such_gate', which is no gate; there are: ",
        "dr_max_clock_offset_ms is 'often': it must be a number, 0 or more",
        "dr_max_backup_age_hours is -1: it must be a number, 0 or more",
        "dr_max_restore_proof_age_days is True: it must be a number, 0 or more",
        "dr_max_receiver_silence_seconds is 'nan': it must be a number, 0 or more",
        "dr_approver is ['Alice']: it must be text that names who approves",
        "dr_lock_takeover is empty: it must give the reason for taking the lock over",
    ]
    assert [
        next((problem for problem in found if problem.startswith(beginning)), beginning + " (not told)")
        for beginning in beginnings
    ] == found


def test_a_takeover_that_is_no_text(inventory: dict[str, Any]) -> None:
    everywhere(inventory, dr_lock_takeover=True, dr_override="approver", dr_freeze_windows={})
    assert [problem.split(":")[0] for problem in problems(inventory)] == [
        "dr_freeze_windows is {}",
        "dr_override is 'approver'",
        "dr_lock_takeover is True",
    ]


def test_an_inventory_without_hosts() -> None:
    variables = {"groups": {"all": ["localhost"]}, "hostvars": {"localhost": {}}}
    with pytest.raises(
        AnsibleError, match=r"^the inventory has no hosts; in the lab, `make lab` makes them$"
    ):
        run_action(validate, {}, variables)


@pytest.mark.parametrize(
    ("skips", "found"),
    [
        ({"postgresql": "it is copied by hand"}, []),
        (["postgresql"], ["dr_skip_stores is ['postgresql']: it must be a dictionary of stores and reasons"]),
        (
            {"mysql": "why not"},
            ["dr_skip_stores names 'mysql', which is no store here; there are: postgresql"],
        ),
        ({"postgresql": " "}, ["dr_skip_stores.postgresql gives no reason"]),
        ({"postgresql": True}, ["dr_skip_stores.postgresql gives no reason"]),
    ],
)
def test_what_may_be_left_behind_is_a_store_with_a_reason(
    inventory: dict[str, Any], skips: Any, found: list[str]
) -> None:
    everywhere(inventory, dr_skip_stores=skips)
    if not found:
        run_action(validate, {}, inventory)
        return
    assert [told[: len(start)] for told, start in zip(problems(inventory), found, strict=True)] == found
