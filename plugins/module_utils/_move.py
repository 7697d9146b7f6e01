# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the planned and the unplanned move of PostgreSQL's primary role have in common."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._etcd import EtcdClient, Lock
from ansible_collections.muster.platform.plugins.module_utils._handover import EtcdDcs, Psycopg
from ansible_collections.muster.platform.plugins.module_utils._patroni import TLS_OPTIONS, Survey, Tls

LOCK = "dr"
OPTIONS: dict[str, dict[str, Any]] = {
    "regions": {"type": "dict", "required": True},
    "target": {"type": "str", "required": True},
    "etcd_endpoints": {"type": "dict", "required": True},
    "holder": {"type": "str", "required": True},
    "operator": {"type": "str", "default": "muster_operator"},
    "operator_password": {"type": "str", "required": True, "no_log": True},
    "port": {"type": "int", "default": 5432},
    "api_port": {"type": "int", "default": 8008},
    **TLS_OPTIONS,
}


def other_region(params: Mapping[str, Any], operation: str) -> str:
    """The region that is moved away from; there are exactly two."""
    names = sorted(params["regions"])
    if params["target"] not in names:
        raise MusterError(
            f"{params['target']} is no region with PostgreSQL hosts; there are: {', '.join(names)}"
        )
    if len(names) != 2:
        raise MusterError(f"{operation} needs two regions with PostgreSQL hosts, found: {', '.join(names)}")
    return next(name for name in names if name != params["target"])


def talk_to(
    params: Mapping[str, Any], regions: Collection[str], timeout: float = 2.0
) -> tuple[Survey, EtcdDcs, Psycopg]:
    """Patroni's API of all hosts, the etcd of these regions, and PostgreSQL."""
    tls = Tls.from_params(params)
    survey = Survey(params["regions"], tls, params["api_port"], timeout=timeout)
    clients = {
        name: EtcdClient(params["etcd_endpoints"][name], tls.ca_certificate, tls.certificate, tls.private_key)
        for name in regions
    }
    sql = Psycopg(params["operator"], params["operator_password"], tls.ca_certificate, params["port"])
    return survey, EtcdDcs(clients, survey), sql


@contextmanager
def locked(dcs: EtcdDcs, holder: str) -> Iterator[dict[str, Lock]]:
    """Hold the lock of every region, taken in the order of their names: two cannot block each other."""
    with ExitStack() as stack:
        dcs.locks = {
            name: stack.enter_context(
                dcs.clients[name].lock(LOCK, f"{holder} (pid {os.getpid()})", ttl=10, wait=20)
            )
            for name in sorted(dcs.clients)
        }
        yield dcs.locks
