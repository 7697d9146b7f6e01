#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: dr_lag
short_description: Count how far a standby is behind what was acknowledged
version_added: 0.1.0
description:
  - Runs on the canary's host. Compares the canary's ledger, which holds every acknowledged write, with what a
    host of the target holds. No lag gauge is asked, because gauges freeze or lie when a link is cut.
  - Works while the primary and its region are gone.
  - What cannot be known is null, with the reason in RV(reason). It is no failure of the module.
  - Asks stores of the types V(postgresql) and V(valkey) itself. The standby of another lets no application
    read. The verb C(held) of its role does, and O(held) takes what that told.
options:
  store:
    description: Name of the store in the canary's configuration.
    type: str
    required: true
  target_hosts:
    description:
      - Hosts of the target, the one that would be promoted first. The first that answers is enough.
      - Each is asked itself, not through HAProxy, with the canary's own user and certificate authority. So
        the canary's host must be among the networks that may connect.
      - Either this or O(held) is required.
    type: list
    elements: dict
    suboptions:
      host:
        description: Its name, which its certificate carries.
        type: str
        required: true
      address:
        description: Its IP address. Without it the name is resolved.
        type: str
      port:
        description: Port of the server. 5432 of a PostgreSQL and 6379 of a Valkey, when it is not given.
        type: int
  held:
    description:
      - What a copy was found to hold, for a store of any type. No host is asked then. It is an entry of the
        fact C(canary_held), which the verb C(held) of a store's role sets.
      - It was read before the ledger. What has been acknowledged and copied since counts as lacking, so the
        lag is never too small.
    type: dict
    suboptions:
      host:
        description: The host that told it, which is the one that would be promoted.
        type: str
        required: true
      ranges:
        description: The numbers that are held, as pairs of the first and the last of each range.
        type: list
        elements: raw
        required: true
  window_seconds:
    description:
      - How far before the last acknowledged write to count. The standby must hold a write of that time.
      - A copy that keeps the canary's writes for a time only (C(x-message-ttl) and
        C(rabbitmq_standby_replay_seconds), C(keep_seconds) of an object store) must keep them for longer than
        this and the time since the last acknowledged write together. What has expired counts as lacking.
      - The last acknowledged write itself is looked for in the last day, or in this time if it is longer.
    type: float
    default: 3600
  timeout:
    description:
      - Seconds for each step with a host, which are to connect, to replay what it has received, and to answer
        a query.
    type: float
    default: 5
extends_documentation_fragment:
  - muster.platform.canary
  - muster.platform.info
requirements:
  - psycopg2, for stores of type V(postgresql)
  - redis, for stores of type V(valkey)
seealso:
  - module: muster.platform.dr_gates
  - module: muster.platform.canary_window
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Read what the south's RabbitMQ holds, on one of its hosts
  ansible.builtin.include_role:
    name: muster.platform.rabbitmq
    tasks_from: held

- name: Count how far it is behind, on the canary's host
  become: true
  muster.platform.dr_lag:
    store: rabbitmq
    held: "{{ hostvars['south-1'].canary_held.rabbitmq }}"
    window_seconds: 600
  register: dr_lag_of_rabbitmq

- name: Count how far the south is behind
  become: true
  muster.platform.dr_lag:
    store: postgresql
    target_hosts:
      - {host: south-1, address: 198.51.100.11}
      - {host: south-2, address: 198.51.100.12}
  register: dr_lag
"""

RETURN = r"""
store:
  description: The store.
  returned: success
  type: str
read_at:
  description: When the ledger was read. All times are UTC, and of the clock of the canary's host.
  returned: success
  type: str
last_acknowledged_at:
  description: When the last write was acknowledged that any server acknowledged.
  returned: success
  type: str
last_acknowledged_sequence:
  description: Its number.
  returned: success
  type: int
last_timeline:
  description: The timeline on which it was acknowledged.
  returned: success
  type: int
timeline_of:
  description:
    - Whose count RV(last_timeline) and RV(held_timeline) are. V(server) is the server's own, which its hosts
      tell as well, for PostgreSQL. V(ledger) is one that only the ledger tells, for the other types.
    - Null when the canary's configuration cannot be read.
  returned: success
  type: str
last_region:
  description: The region that acknowledged it.
  returned: success
  type: str
last_host:
  description: The host that acknowledged it.
  returned: success
  type: str
held_sequence:
  description: The newest acknowledged number that the host holds.
  returned: success
  type: int
held_at:
  description: When that one was acknowledged.
  returned: success
  type: str
held_timeline:
  description: The timeline on which that one was acknowledged, which the host has replayed therefore.
  returned: success
  type: int
lag_writes:
  description:
    - How many writes of the time were acknowledged, and are not held. Exact, of the canary's own writes.
    - What is on an older timeline than RV(held_timeline) was lost at an earlier failover, and is in
      RV(lost_before).
  returned: success
  type: int
lost_before:
  description: How many acknowledged writes of the time are on no copy that is followed now.
  returned: success
  type: int
lag_seconds:
  description:
    - From the acknowledgement of the last write before the first one that is not held, to
      RV(last_acknowledged_at). 0 when all is held.
  returned: success
  type: float
silence_seconds:
  description:
    - From RV(held_at) to RV(last_acknowledged_at), 0 when all is held. How long nothing has come through.
  returned: success
  type: float
answered_by:
  description:
    - The host that answered, with C(host), C(in_recovery), C(timeline), C(received_lsn) and C(replayed_lsn).
    - Of what O(held) gives C(host) alone is not null.
    - Of a Valkey C(received_lsn) and C(replayed_lsn) are replication offsets, and C(timeline) is null.
    - On a standby C(timeline) is the newest one that the control file knows, which may be older than what it
      replays. It is null where the canary's user may not read that.
    - Null when no host answered.
  returned: success
  type: dict
reason:
  description: Why the lag is not known. Null when it is.
  returned: success
  type: str
"""

import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils import (
    _lag,
    _ledger,
    _survivors,
    _survivors_stores,
)
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

UNKNOWN: dict[str, Any] = dict.fromkeys(
    (
        "last_acknowledged_at",
        "last_acknowledged_sequence",
        "last_timeline",
        "timeline_of",
        "last_region",
        "last_host",
        "held_sequence",
        "held_at",
        "held_timeline",
        "lag_writes",
        "lost_before",
        "lag_seconds",
        "silence_seconds",
        "answered_by",
        "reason",
    )
)
PORTS = {"postgresql": 5432, "valkey": 6379}
# What a host tells of itself.
POSITION = ("in_recovery", "timeline", "received_lsn", "replayed_lsn")
Span = tuple[int, int]
# Seconds without a step of the replay after which none is waited for.
STUCK = 0.5
IN_RECOVERY = "select pg_is_in_recovery()"
PRIMARY = "select ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int"
POSITIONS = "select pg_last_wal_receive_lsn()::text, pg_last_wal_replay_lsn()::text"
REPLAYED = "select coalesce(pg_last_wal_replay_lsn() >= %s::pg_lsn, false)"
CONTROL = (
    "select greatest((select timeline_id from pg_control_checkpoint()), "
    "(select min_recovery_end_timeline from pg_control_recovery()))"
)


def connect(store: Mapping[str, Any], target: Mapping[str, Any], timeout: float) -> Any:
    address = {"hostaddr": target["address"]} if target.get("address") else {}
    return _survivors.connect(
        store,
        target,
        "muster-dr",
        **address,
        # libpq's own limit has no unit below two seconds.
        connect_timeout=max(2, math.ceil(timeout)),
        tcp_user_timeout=int(timeout * 1000),
        options=f"-c default_transaction_read_only=on -c statement_timeout={int(timeout * 1000)}",
    )


def first_row(cursor: Any, sql: str, values: tuple[Any, ...] | None = None) -> tuple[Any, ...] | None:
    cursor.execute(sql, values)
    row: tuple[Any, ...] | None = cursor.fetchone()
    return row


def wait_replayed(cursor: Any, timeout: float) -> None:
    """Let a standby replay what it has received by now; what is not replayed counts as not held."""
    wanted, position = first_row(cursor, POSITIONS) or (None, None)
    deadline, moved = time.monotonic() + timeout, time.monotonic()
    while wanted is not None and not (first_row(cursor, REPLAYED, (wanted,)) or (False,))[0]:
        now, before = time.monotonic(), position
        position = (first_row(cursor, POSITIONS) or (None, None))[1]
        moved = now if position != before else moved
        # A link that was cut leaves half a record, which is never replayed.
        if now >= deadline or now - moved >= STUCK:
            return
        time.sleep(0.05)


def standby_facts(cursor: Any, timeout: float) -> dict[str, Any]:
    """Where a standby is, after it has replayed what it had received when it was asked."""
    wait_replayed(cursor, timeout)
    received, replayed = first_row(cursor, POSITIONS) or (None, None)
    timeline = None
    try:
        timeline = (first_row(cursor, CONTROL) or (None,))[0]
    except _survivors.psycopg2.Error as error:
        if error.pgcode != "42501":  # insufficient privilege
            raise
    return {"timeline": timeline, "received_lsn": received, "replayed_lsn": replayed}


def primary_facts(cursor: Any) -> dict[str, Any]:
    timeline = (first_row(cursor, PRIMARY) or (None,))[0]
    return {"timeline": timeline, "received_lsn": None, "replayed_lsn": None}


def ask_valkey(
    store: Mapping[str, Any], target: Mapping[str, Any], span: tuple[int, int], timeout: float
) -> tuple[dict[str, Any], set[int]]:
    """The same of a Valkey: its offsets stand for the LSNs."""
    try:
        server = _survivors_stores.Valkey(store, target, timeout)
        try:
            told = server.replication()
            held = set(server.held(span))
        finally:
            server.close()
    except MusterError as error:
        raise MusterError(f"{target['host']}: {error}") from error
    standby = told.get("role") != "master"
    position = told.get("slave_repl_offset") if standby else told.get("master_repl_offset")
    facts = {"timeline": None, "received_lsn": position if standby else None, "replayed_lsn": position}
    return {"host": target["host"], "in_recovery": standby, **facts}, held


def ask(
    store: Mapping[str, Any], target: Mapping[str, Any], span: tuple[int, int], timeout: float
) -> tuple[dict[str, Any], set[int]]:
    """One host's facts, and which of the numbers it holds; a MusterError when it does not answer."""
    if store["type"] == "valkey":
        return ask_valkey(store, target, span, timeout)
    if _survivors.PSYCOPG2_ERROR is not None:
        raise MusterError("psycopg2 is not installed")
    connection = None
    try:
        connection = connect(store, target, timeout)
        with connection.cursor() as cursor:
            standby = bool((first_row(cursor, IN_RECOVERY) or (False,))[0])
            facts = standby_facts(cursor, timeout) if standby else primary_facts(cursor)
            cursor.execute(_survivors.HELD, span)
            held = {row[0] for row in cursor}
        return {"host": target["host"], "in_recovery": standby, **facts}, held
    except _survivors.psycopg2.Error as error:
        raise MusterError(f"{target['host']}: {_survivors.first_line(error, store)}") from error
    finally:
        if connection is not None:
            connection.close()


def ask_first(
    store: Mapping[str, Any], targets: list[dict[str, Any]], span: tuple[int, int], timeout: float
) -> tuple[dict[str, Any], set[int]]:
    errors = []
    for target in targets:
        try:
            return ask(store, target, span, timeout)
        except MusterError as error:
            errors.append(str(error))
    raise MusterError(f"no host of the target answers: {'; '.join(errors)}")


def is_whole(value: Any) -> bool:
    """Whether it is a whole number; True and False are ints, too."""
    return isinstance(value, int) and not isinstance(value, bool)


def read_pairs(given: Any) -> list[Span]:
    """The ranges of what is held; a MusterError when they are none."""
    for pair in given:
        good = isinstance(pair, list) and len(pair) == 2 and all(map(is_whole, pair))
        if not good or not 0 <= pair[0] <= pair[1]:
            raise MusterError(
                f"held.ranges has {pair!r}: each range is a list of its first and its last whole number"
            )
    return [(pair[0], pair[1]) for pair in given]


def ask_or_take(parameters: Mapping[str, Any], store: dict[str, Any], span: Span) -> tuple[Any, set[int]]:
    """Who answered, and which numbers are held: as it was given, or as a host of the target says."""
    held = parameters["held"]
    if held is not None:
        numbers = {
            number
            for first, last in read_pairs(held["ranges"])
            for number in range(max(first, span[0]), min(last, span[1]) + 1)
        }
        return {"host": held["host"], **dict.fromkeys(POSITION)}, numbers
    targets = [
        {**target, "port": target["port"] or PORTS[store["type"]]} for target in parameters["target_hosts"]
    ]
    return ask_first(store, targets, span, parameters["timeout"])


def measure(parameters: Mapping[str, Any], store: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """All figures; what is not known is null, with the reason."""
    now = datetime.now(UTC)
    window = timedelta(seconds=parameters["window_seconds"])
    found = {**UNKNOWN, "store": store["name"], "read_at": now.strftime(_ledger.FORMAT)}
    found["timeline_of"] = "server" if store["type"] == "postgresql" else "ledger"
    try:
        attempts = _lag.look_back(config["directory"], store["name"], window, now)
        last = attempts.last
        if last is None:
            raise MusterError(
                f"the ledger holds no acknowledged write to {store['name']} of the last "
                f"{max(window, _lag.FURTHEST).total_seconds():g} s"
            )
        found |= {
            "last_acknowledged_at": last.at.strftime(_ledger.FORMAT),
            "last_acknowledged_sequence": last.sequence,
            "last_timeline": last.timeline,
            "last_region": last.region,
            "last_host": last.host,
        }
        numbers = [entry.sequence for entry in attempts.acknowledged]
        # Read before a host is asked: what has come to the standby since cannot hide a write that it lacks.
        span = (min(numbers), max(numbers))
        found["answered_by"], held = ask_or_take(parameters, store, span)
        found |= _lag.compare(attempts.acknowledged, held)
        reason = found["reason"] or doubt(attempts, store, config, found["held_at"], now)
    except MusterError as error:
        reason = str(error)
    if reason:
        found |= {"reason": reason, "lag_writes": None, "lag_seconds": None, "silence_seconds": None}
    return found


def doubt(
    attempts: _lag.Attempts, store: dict[str, Any], config: dict[str, Any], held_at: str, now: datetime
) -> str | None:
    """Why more may have been acknowledged than the ledger says, since the newest write that is held."""
    if attempts.unreadable:
        count = len(attempts.unreadable)
        return (
            f"{count} row{'' if count == 1 else 's'} of the ledger cannot be read: {attempts.unreadable[0]}"
        )
    return _lag.find_pause(
        attempts.spans,
        [endpoint["name"] for endpoint in store["endpoints"]],
        _ledger.read_time(held_at, "held_at"),
        now,
        timedelta(milliseconds=config["interval_ms"]),
    )


def check_who(parameters: Mapping[str, Any]) -> None:
    """Either hosts to ask, or what one of them holds."""
    hosts, held = parameters["target_hosts"], parameters["held"]
    if hosts is None and held is None:
        raise MusterError(
            "neither target_hosts nor held is given: name the target's hosts, or what its copy holds"
        )
    if hosts is not None and held is not None:
        raise MusterError("target_hosts and held are both given: with held no host is asked")
    if hosts is not None and not hosts:
        raise MusterError("target_hosts is empty: name the hosts of the target region")
    if held is not None:
        read_pairs(held["ranges"])


def run(parameters: Mapping[str, Any]) -> dict[str, Any]:
    for name in ("window_seconds", "timeout"):
        if not 0 < parameters[name] < math.inf:
            raise MusterError(f"{name} is {parameters[name]:g}: it must be a number of seconds above 0")
    check_who(parameters)
    now = datetime.now(UTC).strftime(_ledger.FORMAT)
    try:
        config = _ledger.read_canary_config(parameters["config"])
    except MusterError as error:
        return {**UNKNOWN, "store": parameters["store"], "read_at": now, "reason": str(error)}
    stores = {store["name"]: store for store in config["stores"]}
    store = stores.get(parameters["store"])
    if store is None:
        names = ", ".join(sorted(stores)) or "none"
        raise MusterError(f"the canary has no store '{parameters['store']}'; it has: {names}")
    if parameters["held"] is None and store["type"] not in PORTS:
        raise MusterError(
            f"store {store['name']} is of the type {store['type']}, which dr_lag cannot ask: its standby lets"
            " no application read; give held, which the verb held of its role tells"
        )
    return measure(parameters, store, config)


def main() -> None:
    target = {
        "host": {"type": "str", "required": True},
        "address": {"type": "str"},
        "port": {"type": "int"},
    }
    held = {
        "host": {"type": "str", "required": True},
        "ranges": {"type": "list", "elements": "raw", "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            "store": {"type": "str", "required": True},
            "target_hosts": {"type": "list", "elements": "dict", "options": target},
            "held": {"type": "dict", "options": held},
            "window_seconds": {"type": "float", "default": 3600},
            "timeout": {"type": "float", "default": 5},
            "config": {"type": "path", "default": "/etc/muster/canary.json"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(changed=False, **run(module.params))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
