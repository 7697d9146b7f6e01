# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Talking to the lease's daemon on the witness, and what its timing must satisfy."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._inventory import is_on, regions_of

SOCKET = "/run/muster-lease/control.sock"
LEAST: dict[str, float] = {
    "autofailover_renew_seconds": 0.5,
    "autofailover_fence_seconds": 2,
    "autofailover_watchdog_seconds": 3,
}


class NotYet(MusterError):
    """The daemon refuses what may be possible in some seconds."""


def ask(path: str, request: Mapping[str, Any], timeout: float = 5.0) -> dict[str, Any]:
    """One request and its answer; what the daemon refuses is a MusterError with its own sentence."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(timeout)
            client.connect(path)
            with client.makefile("rw", encoding="utf-8") as stream:
                stream.write(json.dumps(dict(request)) + "\n")
                stream.flush()
                answer = json.loads(stream.readline())
    except OSError as error:
        raise MusterError(
            f"the lease's daemon does not answer at {path} ({error}): does muster-lease.service run here, "
            "on the witness, and is dr_autofailover on?"
        ) from error
    except ValueError as error:
        raise MusterError(f"the lease's daemon gave no answer at {path}") from error
    if not isinstance(answer, dict):
        raise MusterError(f"the lease's daemon gave no answer at {path}")
    if "error" in answer:
        raise (NotYet if answer.get("again") else MusterError)(f"refused: {answer['error']}")
    return answer


def heard(found: Mapping[str, Any], hosts: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """What those of the hosts said last whose word still counts, by the daemon's C(info)."""
    said = {host: found["agents"][host] for host in hosts if host in found["agents"]}
    return {host: word for host, word in said.items() if word["seconds_ago"] <= found["fresh_seconds"]}


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def check_timing(times: Mapping[str, Any]) -> Iterator[str]:
    """The role's times that would let two regions write, or that no host can keep, a sentence each."""
    parts = [f"autofailover_{part}_seconds" for part in ("fence", "clock_uncertainty", "watchdog", "renew")]
    needed = dict.fromkeys((*parts, "autofailover_lease_seconds"))
    seconds: dict[str, float] = {}
    for name, value in {**needed, **times}.items():
        found = _number(value)
        least = LEAST.get(name, 0.1)
        if found is None or not least <= found <= 86400:
            yield f"{name} is {value!r}: it must be a number of seconds, {least:g} or more"
        else:
            seconds[name] = found
    if set(needed) - set(seconds):
        return
    total, lease = sum(seconds[part] for part in parts), seconds["autofailover_lease_seconds"]
    if total >= lease:
        yield (
            f"{' + '.join(parts)} is {total:g} s, which must be less than autofailover_lease_seconds "
            f"({lease:g} s): else a region could still write when its lease has gone to the other"
        )


def check_autofailover(
    groups: Mapping[str, Any],
    settings: Mapping[str, Any],
    defaults: Mapping[str, Any],
    stores: Sequence[str],
) -> Iterator[str]:
    """What automatic failover needs of the inventory; nothing while it is off.

    C(defaults) are the role's: its times are those whose names end in _seconds. C(stores) have hosts.
    """
    try:
        if not is_on(settings, "dr_autofailover"):
            return
    except MusterError as error:
        yield str(error)
        return
    witnesses = list(groups.get("witnesses") or [])
    if len(witnesses) != 1:
        found = ", ".join(witnesses) or "none"
        yield f"dr_autofailover needs one host in group witnesses, which keeps the lease; found: {found}"
    elif witnesses != list(groups.get("canary") or []):
        yield (
            f"dr_autofailover needs the canary on the witness {witnesses[0]} (group canary): "
            "its writes are the second verdict"
        )
    databases = set(groups.get("postgresql") or [])
    homes = [name for name, hosts in regions_of(groups).items() if databases & set(hosts)]
    if len(homes) != 2:
        found = ", ".join(homes) or "none"
        yield f"dr_autofailover needs PostgreSQL hosts in exactly two regions, found: {found}"
    # The agents stop PostgreSQL alone when their word ends: another store would go on taking writes.
    if others := [store for store in stores if store != "postgresql"]:
        yield (
            "dr_autofailover is on, but only PostgreSQL fences itself so far: turn it off, or take "
            f"{', '.join(others)} out of the inventory"
        )
    times = {name: value for name, value in defaults.items() if name.endswith("_seconds")}
    given = {name: settings[name] for name in times if settings.get(name) is not None}
    yield from check_timing(times | given)
