# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Regions and their members, read from the inventory's groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
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


@cache
def roles_with(*verbs: str) -> list[str]:
    roles = Path(__file__).resolve().parents[2] / "roles"
    return sorted(
        path.name
        for path in roles.iterdir()
        if all((path / "tasks" / f"{verb}.yml").is_file() for verb in verbs)
    )


def store_roles(*verbs: str) -> list[str]:
    """What makes a role a store is that it can be asked how it stands, and handed over."""
    return roles_with("status", "handover", *verbs)


def stores(
    groups: Mapping[str, Sequence[str]], group_names: Sequence[str] | None = None, verb: str | None = None
) -> list[str]:
    """The stores that the inventory has hosts for.

    With a host's groups only those of that host, and with a verb only those that have it.
    """
    found = [name for name in store_roles(*([verb] if verb else [])) if groups.get(name)]
    return found if group_names is None else [name for name in found if name in group_names]


def with_verb(names: Sequence[str], verb: str) -> list[str]:
    """Of these groups those whose role has a verb, in their order."""
    return [name for name in names if name in roles_with(verb)]


def store_hosts(groups: Mapping[str, Sequence[str]], region_name: str = "") -> list[str]:
    """All hosts of all stores, or those of one region, in the inventory's order and each once."""
    found = [host for name in stores(groups) for host in groups[name]]
    within = set(groups.get(PREFIX + region_name, [])) if region_name else set(found)
    return [host for host in dict.fromkeys(found) if host in within]


def moved_by(
    groups: Mapping[str, Sequence[str]],
    host: str,
    region_name: str,
    hosts: Sequence[str],
    leaders: Mapping[str, str | None] | None = None,
) -> list[str]:
    """The stores of a region that a host acts for: each has another one, as long as there are any.

    C(hosts) are those that can be asked. A leader that is among them acts for its store.
    """
    fit = {
        name: [member for member in members(groups, name, region_name) if member in hosts]
        for name in stores(groups)
    }
    for name, leader in (leaders or {}).items():
        if leader in fit.get(name, []):
            fit[name] = [leader]
    acting: dict[str, str] = {}
    # Who has the least choice chooses first.
    for name, candidates in sorted(fit.items(), key=lambda item: len(item[1])):
        if candidates:
            free = [member for member in candidates if member not in acting.values()]
            acting[name] = (free or candidates)[0]
    return [name for name in fit if acting.get(name) == host]


def undone(why: Sequence[str], stores: Sequence[str], done: Sequence[str], otherwise: str) -> list[str]:
    """A sentence for each store that is not done: the one that was noted, or C(otherwise)."""
    named = {sentence.partition(":")[0] for sentence in why}
    return [*why, *(f"{name}: {otherwise}" for name in stores if name not in done and name not in named)]


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
            "stores": stores,
            "with_verb": with_verb,
            "store_hosts": store_hosts,
            "moved_by": moved_by,
            "undone": undone,
        }
