# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What follows from a host's state as muster.platform.host_info returns it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

HOSTS_BEGIN = "# BEGIN muster: hosts of the inventory"
HOSTS_END = "# END muster"
HOSTS_BLOCK = re.compile(rf"^{re.escape(HOSTS_BEGIN)}\n(?:.*\n)*?{re.escape(HOSTS_END)}\n", re.MULTILINE)


def missing_packages(wanted: Sequence[str], host: Mapping[str, Any]) -> list[str]:
    """The wanted packages that were not found installed.

    A package that host_info was not asked about counts as missing: apt then
    decides. So does every package when nothing is known of the host, that is {}.
    """
    installed = host.get("packages", {})
    return [name for name in wanted if not installed.get(name)]


def differing_sysctls(wanted: Mapping[str, Any], host: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The kernel settings whose value is not the wanted one: name, wanted, value, writable."""
    found = host.get("sysctls", {})
    unknown = {"value": None, "writable": False}
    return [
        {"name": name, "wanted": str(value), **found.get(name, unknown)}
        for name, value in wanted.items()
        if found.get(name, unknown)["value"] != " ".join(str(value).split())
    ]


def host_addresses(
    hostvars: Mapping[str, Mapping[str, Any]], names: Sequence[str], variables: Sequence[str]
) -> dict[str, str]:
    """Host name to address, from the first of C(variables) that a host has.

    A host whose variable holds a name instead of an address is left out: its name
    is known to the DNS already.
    """
    found = {}
    for name in names:
        address = next((hostvars[name][key] for key in variables if key in hostvars[name]), "")
        try:
            found[name] = str(ipaddress.ip_address(address))
        except ValueError:
            continue
    return found


def hosts_file(text: str | None, entries: Mapping[str, str]) -> str:
    """/etc/hosts with the names of C(entries) (name to address) in a marked block.

    A new block comes first, because Debian's installer gives the host's own name
    the address 127.0.1.1, and the first line that has a name wins. All other
    lines stay as they are.
    """
    lines = [f"{address} {name}" for name, address in sorted(entries.items())]
    block = "\n".join([HOSTS_BEGIN, *lines, HOSTS_END]) + "\n"
    present = text or ""
    if HOSTS_BLOCK.search(present):
        return HOSTS_BLOCK.sub(lambda _match: block, present, count=1)
    return block + present


class FilterModule:
    """Filters named muster.platform.missing_packages, .differing_sysctls, .host_addresses, .hosts_file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "differing_sysctls": differing_sysctls,
            "host_addresses": host_addresses,
            "hosts_file": hosts_file,
            "missing_packages": missing_packages,
        }
