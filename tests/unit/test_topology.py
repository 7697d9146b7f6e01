"""The topology filters, called as Ansible calls them: by name, through Jinja."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

GROUPS = {
    "all": ["north-1", "north-2", "south-1", "witness"],
    "region_north": ["north-1", "north-2"],
    "region_south": ["south-1"],
    "region_empty": [],
    "etcd": ["south-1", "north-2", "north-1"],
    "witness": ["witness"],
}


def template(expression: str, **variables: Any) -> Any:
    templar = Templar(loader=DataLoader(), variables=variables)
    return templar.template(trust_as_template("{{ " + expression + " }}"))


@pytest.mark.parametrize(
    ("names", "region"),
    [
        (["all", "etcd", "region_north"], "north"),
        (["all", "witness"], ""),
        ([], ""),
        (["region_eu_west_1"], "eu_west_1"),
    ],
)
def test_the_region_of_a_host(names: list[str], region: str) -> None:
    assert template("names | muster.platform.region", names=names) == region


def test_a_host_in_two_regions_is_refused_by_name() -> None:
    with pytest.raises(AnsibleError, match="a host is in more than one region: north, south"):
        template("names | muster.platform.region", names=["region_south", "region_north"])


def test_regions_are_sorted_and_have_hosts() -> None:
    assert template("inventory | muster.platform.regions", inventory=GROUPS) == ["north", "south"]


def test_members_are_in_the_inventory_order() -> None:
    assert template("g | muster.platform.members('etcd', 'north')", g=GROUPS) == ["north-2", "north-1"]
    assert template("g | muster.platform.members('etcd', 'south')", g=GROUPS) == ["south-1"]


@pytest.mark.parametrize("call", ["'etcd', 'east'", "'kafka', 'north'"])
def test_no_members_of_an_unknown_region_or_service(call: str) -> None:
    assert template(f"g | muster.platform.members({call})", g=GROUPS) == []
