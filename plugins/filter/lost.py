# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the hosts of a lost region had that nobody else had, put together."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._ranges import read_ranges, to_ranges


def rows(texts: Iterable[str]) -> Iterator[dict[str, str]]:
    return itertools.chain.from_iterable(csv.DictReader(text.splitlines()) for text in texts)


def canary_of(hosts: Sequence[Mapping[str, Any]]) -> str | None:
    """The canary's numbers that any host saved; None when no host knows."""
    known = [str(host["canary"]) for host in hosts if host.get("canary") is not None]
    if not known:
        return None
    return to_ranges(sorted(set().union(*map(read_ranges, known))))


def lost_commits(
    stores: Mapping[str, Sequence[Mapping[str, Any]]], lists: Sequence[str], canary: Sequence[str]
) -> dict[str, Any]:
    """One list of the hosts' lists of PostgreSQL; what two hosts have is one commit.

    When another host became primary after the link was cut, none of them has all. One host whose commits are
    not known may have had any: then their number is not known either. The other stores tell the canary's
    numbers by themselves.
    """
    hosts = stores.get("postgresql", [])
    others = {name: canary_of(told) for name, told in sorted(stores.items()) if name != "postgresql"}
    commits = {(row["committed_at"], int(row["xid"]), row["lsn"]) for row in rows(lists)}
    ordered = sorted(commits)
    unknown = [
        f"{host['host']}: {host['saved']['reason']}" for host in hosts if host["saved"]["count"] is None
    ]
    numbers = sorted({int(row["sequence"]) for row in rows(canary)})
    return {
        "csv": "xid,committed_at,lsn\n" + "".join(f"{xid},{at},{lsn}\n" for at, xid, lsn in ordered),
        "evidence": {
            "count": None if unknown else len(ordered),
            "reason": "; ".join(unknown),
            "first_at": ordered[0][0] if ordered else None,
            "last_at": ordered[-1][0] if ordered else None,
            "canary_sequences": {
                **({"postgresql": to_ranges(numbers)} if canary else {}),
                **{name: ranges for name, ranges in others.items() if ranges is not None},
            },
        },
    }


class FilterModule:
    """The filter muster.platform.lost_commits."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"lost_commits": lost_commits}
