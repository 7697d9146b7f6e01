# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the verbs of several stores have left in the facts of several hosts, put together by store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Hosts = Sequence[Mapping[str, Any]]  # the variables of each


def said(hosts: Hosts, stores: Sequence[str], name: str) -> dict[str, list[Any]]:
    """Of each store what its fact C(<store>_<name>) is, on those hosts that have it."""
    return {store: [value for facts in hosts if (value := facts.get(f"{store}_{name}"))] for store in stores}


def first_said(hosts: Hosts, stores: Sequence[str], name: str) -> dict[str, Any]:
    """The same of the first host that has it; a store of which nobody has is left out."""
    return {store: values[0] for store, values in said(hosts, stores, name).items() if values}


def agreed(hosts: Hosts, stores: Sequence[str], name: str) -> dict[str, Any]:
    """The same where all that have it say the same; a store of which they do not is left out."""
    found = said(hosts, stores, name)
    return {
        store: values[0]
        for store, values in found.items()
        if values and values.count(values[0]) == len(values)
    }


def unfenced(
    fenced: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]], stores: Sequence[str]
) -> list[str]:
    """The hosts of which a store is not proven to be fenced; C(fenced) holds C(dr_fenced) of each host."""
    return [
        host
        for host, proven in fenced.items()
        if any(host in groups.get(store, []) and proven.get(store) is not True for store in stores)
    ]


def outside(groups: Mapping[str, Sequence[str]], primaries: Mapping[str, str]) -> dict[str, list[str]]:
    """Of each store the hosts that are not in its primary region."""
    return {
        store: [host for host in groups[store] if host not in groups[f"region_{region}"]]
        for store, region in primaries.items()
    }


def returning(
    others: Mapping[str, Sequence[str]], statuses: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[str]]:
    """Those stores of C(others) of which a host could not take over, or is no standby, with all their hosts.

    C(statuses) holds C(recovery_statuses) of each host.
    """
    return {
        store: list(hosts)
        for store, hosts in others.items()
        if any(statuses.get(host, {}).get(store, {}).get("ready") is not True for host in hosts)
    }


def refusals(
    results: Sequence[Mapping[str, Any]], stores: Sequence[str], skipped: Sequence[str] = ()
) -> list[str]:
    """What the gates refuse, of a loop over C(dr_store); with the store's name where there are several.

    Nothing is refused of a store that is skipped, but that one store is left.
    """
    found = [
        f"{result['dr_store']}: {sentence}" if len(stores) > 1 else str(sentence)
        for result in results
        if result["dr_store"] not in skipped
        for sentence in result["refused"]
    ]
    return found if set(stores) - set(skipped) else ["every store is left behind"]


class FilterModule:
    """Filters of the namespace muster.platform."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "said": said,
            "first_said": first_said,
            "agreed": agreed,
            "unfenced": unfenced,
            "outside": outside,
            "returning": returning,
            "refusals": refusals,
        }
