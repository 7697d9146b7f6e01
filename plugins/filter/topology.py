# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Regions and their members, read from the inventory's groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

PREFIX = "region_"


def region(group_names: Sequence[str]) -> str:
    """The region of a host from its groups; '' for a host outside all regions."""
    found = sorted(name[len(PREFIX) :] for name in group_names if name.startswith(PREFIX))
    if len(found) > 1:
        raise AnsibleFilterError(f"a host is in more than one region: {', '.join(found)}")
    return found[0] if found else ""


def regions(groups: Mapping[str, Sequence[str]]) -> list[str]:
    """All regions that the inventory names and that have hosts."""
    return sorted(name[len(PREFIX) :] for name, hosts in groups.items() if name.startswith(PREFIX) and hosts)


def members(groups: Mapping[str, Sequence[str]], service: str, region_name: str) -> list[str]:
    """The hosts of a service in a region, in the inventory's order."""
    within = set(groups.get(PREFIX + region_name, []))
    return [host for host in groups.get(service, []) if host in within]


def by_region(groups: Mapping[str, Sequence[str]], service: str) -> dict[str, list[str]]:
    """The hosts of a service, by region; regions without one are left out."""
    found = {name: members(groups, service, name) for name in regions(groups)}
    return {name: hosts for name, hosts in found.items() if hosts}


def own_first(groups: Mapping[str, Sequence[str]], service: str, region_name: str) -> list[str]:
    """All hosts of a service, those of the given region before the others."""
    own = members(groups, service, region_name)
    return own + [host for host in groups.get(service, []) if host not in own]


def endpoints(hosts: Sequence[str], port: int) -> list[dict[str, Any]]:
    """An endpoint for each host: its name and the port."""
    return [{"host": host, "port": int(port)} for host in hosts]


class FilterModule:
    """Filters of the namespace muster.platform."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "region": region,
            "regions": regions,
            "members": members,
            "by_region": by_region,
            "own_first": own_first,
            "endpoints": endpoints,
        }
