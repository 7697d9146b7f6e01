# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What can be known to be wrong from the inventory alone, a sentence each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _freeze, _gates
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

PREFIX = "region_"
# Groups whose hosts must be in a region; the witness's services are in none.
REGIONAL = ("etcd", "postgresql", "object_storage", "rabbitmq", "valkey", "backup_repository", "haproxy")


def regions_of(groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {
        name[len(PREFIX) :]: list(hosts)
        for name, hosts in groups.items()
        if name.startswith(PREFIX) and hosts
    }


def check_regions(groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Every host in one region at most, every regional service's host in one."""
    regions = regions_of(groups)
    if len(regions) < 2:
        found = ", ".join(regions) or "none"
        yield f"the inventory needs two regions (groups {PREFIX}<name> with hosts), found: {found}"
    homes: dict[str, list[str]] = {}
    for name, hosts in regions.items():
        for host in hosts:
            homes.setdefault(host, []).append(name)
    for host, names in sorted(homes.items()):
        if len(names) > 1:
            yield f"{host} is in more than one region ({', '.join(sorted(names))}): a host is in one"
    for service in REGIONAL:
        for host in groups.get(service, []):
            if host not in homes:
                yield f"{host} is in group {service}, but in no region: put it into one group {PREFIX}<name>"


def check_quorum(groups: Mapping[str, Sequence[str]], small_allowed: bool) -> Iterator[str]:
    """etcd needs three members, or another odd number above, in each region that has a database."""
    for name, hosts in regions_of(groups).items():
        members = [host for host in groups.get("etcd", []) if host in hosts]
        databases = [host for host in groups.get("postgresql", []) if host in hosts]
        if databases and not members:
            yield f"region {name} has PostgreSQL hosts but no etcd hosts, which Patroni needs"
        if members and not small_allowed and (len(members) < 3 or len(members) % 2 == 0):
            yield (
                f"region {name} has {len(members)} etcd members ({', '.join(members)}): "
                "a quorum that survives the loss of one needs 3 (or 5)"
            )


def is_on(settings: Mapping[str, Any], name: str) -> bool:
    """Whether a switch of the inventory's is on; MusterError when it is neither on nor off."""
    value = settings.get(name)
    word = "false" if value is None else str(value).lower()
    if word not in ("true", "false", "yes", "no", "1", "0"):
        raise MusterError(f"{name} is {value!r}: it must be true or false")
    return word in ("true", "yes", "1")


def check_drill_timer(groups: Mapping[str, Sequence[str]], settings: Mapping[str, Any]) -> Iterator[str]:
    """A drill on a schedule needs a host that runs it, and a calendar in one line."""
    try:
        if not is_on(settings, "dr_drill_timer_enabled"):
            return
    except MusterError as error:
        yield str(error)
        return
    if not groups.get("witnesses"):
        yield "dr_drill_timer_enabled needs a host in group witnesses, which runs the drill"
    calendar = settings.get("dr_drill_timer_calendar", "monthly")
    if not isinstance(calendar, str) or not calendar.strip() or "\n" in calendar:
        yield (
            f"dr_drill_timer_calendar is {calendar!r}: it must be what systemd takes as OnCalendar, "
            "such as monthly"
        )


def check_first_region(groups: Mapping[str, Sequence[str]], first: Any) -> Iterator[str]:
    regions = sorted(regions_of(groups))
    if not first:
        names = ", ".join(regions)
        yield f"dr_initial_primary_region is missing: name the region that starts as primary ({names})"
    elif first not in regions:
        names = ", ".join(regions)
        yield f"dr_initial_primary_region is '{first}', which is no region of the inventory ({names})"


def check_target(groups: Mapping[str, Sequence[str]], target: Any) -> Iterator[str]:
    regions = sorted(regions_of(groups))
    if target and target not in regions:
        yield f"dr_target_region is '{target}', which is no region of the inventory ({', '.join(regions)})"


def check_objectives(objectives: Any, stores: Sequence[str], timers: Mapping[str, float]) -> Iterator[str]:
    """Objectives for every store, and none that its timers cannot meet or the canary cannot measure."""
    if not isinstance(objectives, Mapping):
        yield "dr_objectives is missing: set rpo_seconds and rto_seconds for each store"
        return
    for name in sorted(set(objectives) - set(stores)):
        yield f"dr_objectives names the store '{name}', which has no hosts in the inventory"
    for store in stores:
        wanted = objectives.get(store)
        if not isinstance(wanted, Mapping):
            yield f"dr_objectives.{store} is missing: set rpo_seconds and rto_seconds"
            continue
        for key in ("rpo_seconds", "rto_seconds"):
            value = wanted.get(key)
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                yield f"dr_objectives.{store}.{key} is {value!r}: it must be a number of seconds, 0 or more"
            elif key == "rto_seconds":
                yield from _check_rto(store, float(value), timers)


def _check_rto(store: str, rto: float, timers: Mapping[str, float]) -> Iterator[str]:
    probe = 2 * timers["canary_interval"]
    if rto < probe:
        yield (
            f"dr_objectives.{store}.rto_seconds is {rto:g}, but the canary probes every "
            f"{timers['canary_interval']:g} s and cannot measure less than {probe:g}"
        )
    if store == "postgresql" and rto < timers["patroni_reaction"]:
        yield (
            f"dr_objectives.postgresql.rto_seconds is {rto:g}, but Patroni may take "
            f"{timers['patroni_reaction']:g} s (loop_wait + retry_timeout) to act"
        )


def check_gates(settings: Mapping[str, Any], stores: Sequence[str]) -> Iterator[str]:
    """What the gates and the lock of a DR operation read: told before the day on which it is needed."""
    yield from _check_skips(settings.get("dr_skip_stores"), stores)
    for read, variable in (
        (_freeze.read_windows, "dr_freeze_windows"),
        (_gates.check_overrides, "dr_override"),
    ):
        try:
            read(settings.get(variable), variable)
        except MusterError as error:
            yield str(error)
    for variable in _gates.LIMITS:
        yield from _check_limit(variable, settings.get(variable))
    for variable, what in (("dr_approver", "who approves"), ("dr_lock_takeover", "the reason")):
        value = settings.get(variable)
        if value is not None and not isinstance(value, str):
            yield f"{variable} is {value!r}: it must be text that names {what}"
        elif variable == "dr_lock_takeover" and value is not None and not value.strip():
            yield "dr_lock_takeover is empty: it must give the reason for taking the lock over"


def _check_skips(skips: Any, stores: Sequence[str]) -> Iterator[str]:
    """The stores that a failover may leave behind when a gate refuses them."""
    if skips is None:
        return
    if not isinstance(skips, Mapping):
        yield (
            f"dr_skip_stores is {skips!r}: it must be a dictionary of stores and reasons, "
            'such as -e \'{"dr_skip_stores": {"valkey": "why"}}\''
        )
        return
    for name, reason in skips.items():
        if name not in stores:
            yield f"dr_skip_stores names '{name}', which is no store here; there are: {', '.join(stores)}"
        elif not isinstance(reason, str) or not reason.strip():
            yield f"dr_skip_stores.{name} gives no reason: say why the others may go on without it"


def _check_limit(variable: str, value: Any) -> Iterator[str]:
    if value is None:
        return
    try:
        # From the command line every value is text.
        found = float(value) if isinstance(value, str) else _gates.number(value)
    except ValueError:
        found = None
    if found is None or not 0 <= found < math.inf:
        yield f"{variable} is {value!r}: it must be a number, 0 or more"
