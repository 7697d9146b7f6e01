# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters that decide from a host's state what is left to do."""

from __future__ import annotations

import pytest
from ansible_collections.muster.platform.plugins.filter import host

BLOCK = f"{host.HOSTS_BEGIN}\n192.0.2.1 north-1\n192.0.2.2 south-1\n{host.HOSTS_END}\n"
ENTRIES = {"south-1": "192.0.2.2", "north-1": "192.0.2.1"}


def test_missing_packages() -> None:
    found = {"packages": {"haproxy": "3.0", "chrony": None}}
    assert host.missing_packages(["haproxy"], found) == []
    assert host.missing_packages(["haproxy", "chrony", "never-asked"], found) == ["chrony", "never-asked"]
    assert host.missing_packages(["haproxy"], {}) == ["haproxy"]


def test_differing_sysctls() -> None:
    found = {
        "sysctls": {"a.same": {"value": "1 2", "writable": True}, "a.other": {"value": "1", "writable": True}}
    }
    assert host.differing_sysctls({"a.same": "1  2", "a.other": 2, "a.none": 3}, found) == [
        {"name": "a.other", "wanted": "2", "value": "1", "writable": True},
        {"name": "a.none", "wanted": "3", "value": None, "writable": False},
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, BLOCK),
        ("127.0.0.1 localhost\n127.0.1.1 north-1\n", BLOCK + "127.0.0.1 localhost\n127.0.1.1 north-1\n"),
        ("127.0.0.1 localhost", BLOCK + "127.0.0.1 localhost"),
        (
            f"# mine\n{host.HOSTS_BEGIN}\n192.0.2.9 gone\n{host.HOSTS_END}\n10.0.0.1 other\n",
            f"# mine\n{BLOCK}10.0.0.1 other\n",
        ),
    ],
)
def test_hosts_file_touches_its_block_only(before: str | None, after: str) -> None:
    assert host.hosts_file(before, ENTRIES) == after
    assert host.hosts_file(after, ENTRIES) == after


def test_hosts_file_does_not_swallow_what_follows_a_torn_block() -> None:
    torn = f"{host.HOSTS_BEGIN}\n10.0.0.1 other\n"
    assert host.hosts_file(torn, ENTRIES) == BLOCK + torn


def test_hosts_file_without_hosts() -> None:
    assert host.hosts_file("x\n", {}) == f"{host.HOSTS_BEGIN}\n{host.HOSTS_END}\nx\n"


def test_host_addresses_takes_the_first_variable_and_no_names() -> None:
    hostvars = {
        "north-1": {"ansible_host": "203.0.113.1", "base_address": "10.0.0.1"},
        "south-1": {"ansible_host": "2001:db8:0::1"},
        "witness": {"ansible_host": "witness.example.test"},
        "localhost": {},
    }
    found = host.host_addresses(hostvars, list(hostvars), ["base_address", "ansible_host"])
    assert found == {"north-1": "10.0.0.1", "south-1": "2001:db8::1"}
