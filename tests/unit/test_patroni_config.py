# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""patroni_config: the real main() against etcd's gateway."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils._etcd import EtcdClient, writing
from ansible_collections.muster.platform.plugins.modules import patroni_config
from etcd_fake import Cluster

Run = Callable[..., dict[str, Any]]
KEY = "/service/muster-north/config"
SETTINGS = {"ttl": 20, "postgresql": {"use_slots": True, "parameters": {"max_connections": 100}}}


def arguments(cluster: Cluster, **more: Any) -> dict[str, Any]:
    files = {"ca_certificate": "ca.crt", "certificate": "member.crt", "private_key": "member.key"}
    return {
        "etcd_endpoints": cluster.urls(),
        "scope": "muster-north",
        "settings": SETTINGS,
        **{option: str(cluster.pki / name) for option, name in files.items()},
        **more,
    }


def stored(cluster: Cluster) -> dict[str, Any] | None:
    found = cluster.client().get(KEY)
    return json.loads(found.value) if found else None


def test_a_region_without_a_configuration_gets_one(cluster: Cluster, run_module: Run) -> None:
    answer = run_module(patroni_config, arguments(cluster), diff=True)
    assert (answer["changed"], answer["initial"], answer["config"]) == (True, True, SETTINGS)
    assert stored(cluster) == SETTINGS
    assert answer["diff"]["before"] == {}
    again = run_module(patroni_config, arguments(cluster))
    assert (again["changed"], again["initial"]) == (False, False)


def test_whether_it_is_a_standby_is_decided_once(cluster: Cluster, run_module: Run) -> None:
    standby = {"host": "south-1,south-2", "port": 5432}
    answer = run_module(patroni_config, arguments(cluster, initial_standby_cluster=standby))
    assert answer["config"] == SETTINGS | {"standby_cluster": standby}
    # The region has become primary since; the inventory still has what it was at first.
    cluster.put(KEY, json.dumps(SETTINGS))
    answer = run_module(patroni_config, arguments(cluster, initial_standby_cluster=standby))
    assert answer["changed"] is False
    assert stored(cluster) == SETTINGS
    # And the other way round: a former primary stays the standby it is now.
    cluster.put(KEY, json.dumps(SETTINGS | {"standby_cluster": standby}))
    assert run_module(patroni_config, arguments(cluster, settings={"ttl": 30}))["changed"] is True
    assert stored(cluster) == SETTINGS | {"standby_cluster": standby, "ttl": 30}


def test_settings_are_merged_parameters_are_taken_as_a_whole(cluster: Cluster, run_module: Run) -> None:
    before = {
        "ttl": 30,
        "retry_timeout": 3,
        "maximum_lag_on_failover": 1,
        "postgresql": {"use_pg_rewind": True, "parameters": {"work_mem": "8MB", "max_connections": 50}},
    }
    cluster.put(KEY, json.dumps(before))
    settings = {
        "ttl": 20,
        "maximum_lag_on_failover": None,
        "postgresql": {"parameters": {"max_connections": 100, "jit": None}},
    }
    answer = run_module(patroni_config, arguments(cluster, settings=settings), diff=True)
    assert stored(cluster) == {
        "ttl": 20,
        "retry_timeout": 3,
        "postgresql": {"use_pg_rewind": True, "parameters": {"max_connections": 100}},
    }
    assert answer["diff"]["before"] == before
    assert answer["diff"]["after"] == stored(cluster)
    assert answer["diff"]["before_header"] == KEY


def test_check_mode_says_what_it_would_write(cluster: Cluster, run_module: Run) -> None:
    answer = run_module(patroni_config, arguments(cluster, namespace="/service/"), check=True, diff=True)
    assert (answer["changed"], answer["config"]) == (True, SETTINGS)
    assert stored(cluster) is None


def test_standby_cluster_is_no_setting(cluster: Cluster, run_module: Run) -> None:
    answer = run_module(patroni_config, arguments(cluster, settings={"standby_cluster": None}))
    assert answer["failed"] is True
    assert answer["msg"] == (
        "standby_cluster is not a setting: which region is a standby is the DR engine's to say"
    )
    assert stored(cluster) is None


def meddling(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Somebody else changes the configuration between the module's reading and its writing."""
    real = EtcdClient.put_if
    left = [times]

    def put_if(client: EtcdClient, key: str, value: str, revision: int, **more: Any) -> bool:
        if left[0]:
            left[0] -= 1
            other = json.dumps({"standby_cluster": {"host": "south-1"}, "loop_wait": left[0]})
            client.transaction([], [writing(key, other)])
        return real(client, key, value, revision, **more)

    monkeypatch.setattr(EtcdClient, "put_if", put_if)


def test_a_concurrent_change_is_merged_not_overwritten(
    cluster: Cluster, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    meddling(monkeypatch, 2)
    assert run_module(patroni_config, arguments(cluster))["changed"] is True
    assert stored(cluster) == SETTINGS | {"standby_cluster": {"host": "south-1"}, "loop_wait": 0}


def test_a_configuration_that_keeps_changing_is_given_up(
    cluster: Cluster, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    meddling(monkeypatch, 100)
    answer = run_module(patroni_config, arguments(cluster))
    assert answer["msg"] == f"{KEY} kept changing under this task; run it again"


def test_a_silent_etcd_is_told(cluster: Cluster, run_module: Run) -> None:
    for endpoint in cluster.endpoints.values():
        endpoint.up = False
    answer = run_module(patroni_config, arguments(cluster))
    assert answer["failed"] is True
    assert all(url in answer["msg"] for url in cluster.urls())


def test_a_lost_answer_is_not_a_second_change(cluster: Cluster, run_module: Run) -> None:
    cluster.swallow = ["/v3/kv/txn"]
    assert run_module(patroni_config, arguments(cluster))["changed"] is True
    assert stored(cluster) == SETTINGS
