# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a region holds of the canary's numbers, as the verb held asks it where no application may read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils import _canary_queue, _object_storage
from ansible_collections.muster.platform.plugins.modules import object_storage_held, rabbitmq_held
from object_world import World, regions
from pika import spec
from store_fakes import Rabbitmq

__all__ = ["regions"]

Ask = Callable[..., dict[str, Any]]


# --- RabbitMQ --------------------------------------------------------------------------------


@pytest.fixture
def broker(pki: Path) -> Iterator[Rabbitmq]:
    """South's own node. North is at an address at which nobody is."""
    made = Rabbitmq(pki)
    made.login = b"\0muster_operator\0op-secret"
    made.messages = [(str(number), 2) for number in (*range(11, 21), 12, 40)]
    yield made
    made.stop()


@pytest.fixture
def ask(broker: Rabbitmq, pki: Path, run_module: Ask) -> Ask:
    def run(**more: Any) -> dict[str, Any]:
        given = {
            "regions": {"north": ["192.0.2.1"], "south": ["localhost"]},
            "host": "localhost",
            "operator_password": "op-secret",
            "port": broker.port,
            "ca_certificate": str(pki / "ca.crt"),
            **more,
        }
        answer = run_module(rabbitmq_held, given, check=True)
        assert "op-secret" not in json.dumps({**answer, "invocation": None})
        return answer

    return run


def test_a_queue_is_read_as_the_operator_and_left(broker: Rabbitmq, ask: Ask) -> None:
    answer = ask()
    answer.pop("invocation", None)  # of one generation of ansible-core
    assert answer == {
        "changed": False, "ranges": [[11, 20], [40, 40]], "messages": 12, "region": "south",
    }  # fmt: skip
    assert (len(broker.messages), broker.consumers) == (12, 0)


def test_the_messages_are_back_before_it_is_told(broker: Rabbitmq, ask: Ask) -> None:
    broker.lingers = 2
    assert ask()["messages"] == 12
    assert broker.lingers == 0, "nobody waited until the consumer was gone"


def test_an_empty_queue_holds_nothing(broker: Rabbitmq, ask: Ask) -> None:
    broker.messages = []
    assert ask()["ranges"] == []


def test_another_node_of_the_region_answers(ask: Ask) -> None:
    answer = ask(regions={"south": ["silent.invalid", "localhost"]}, host="silent.invalid")
    assert answer["messages"] == 12


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ({"consumers": 1}, "somebody else reads muster.canary, so what it holds is not known"),
        ({"withheld": 2}, "muster.canary has 12 messages, and gave 10"),
        ({"missing": True}, "NOT_FOUND - no queue 'muster.canary'"),
        ({"refuse": spec.Connection.Close(530, "NOT_ALLOWED - no such vhost", 10, 40)}, "no such vhost"),
    ],
)
def test_a_queue_that_cannot_be_read_is_told(
    broker: Rabbitmq,
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
    broken: dict[str, Any],
    sentence: str,
) -> None:
    monkeypatch.setattr(_canary_queue, "PATIENCE", (0.1, 0.1, 0.1))
    monkeypatch.setattr(_canary_queue, "IDLE", 0.5)
    for name, value in broken.items():
        setattr(broker, name, value)
    message = ask()["msg"]
    assert message.startswith("what region south holds of the canary is not known: ")
    assert sentence in message


def test_a_region_that_is_down_is_told(broker: Rabbitmq, ask: Ask) -> None:
    broker.stop()
    assert "no AMQP in region south: localhost: " in ask()["msg"]


def test_a_host_of_no_region_is_told(ask: Ask) -> None:
    assert ask(host="east-1")["msg"] == "east-1 is not among the RabbitMQ hosts of any region"


# --- object storage --------------------------------------------------------------------------


@pytest.fixture
def south(regions: World, run_module: Ask) -> Ask:
    """South is the standby, and north is dead."""
    regions.begin()
    for number in (*range(3, 12), 20):
        regions.filers["south-1"][f"/buckets/muster-canary/canary/{number:016d}"] = b""
    # North has more, which is of no use to anybody.
    regions.filers["north-1"][f"/buckets/muster-canary/canary/{21:016d}"] = b""
    regions.down = {"north-1"}

    def run(**more: Any) -> dict[str, Any]:
        return run_module(
            object_storage_held, {"configuration": regions.configuration["south"], **more}, check=True
        )

    return run


@pytest.mark.parametrize("page", [1, 4, 1000])
def test_objects_are_listed_on_the_own_host(south: Ask, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr(_object_storage, "PAGE", page)
    answer = south()
    answer.pop("invocation", None)  # of one generation of ansible-core
    assert answer == {"changed": False, "ranges": [[3, 11], [20, 20]], "region": "south"}


def test_only_files_of_the_canarys_names_count(regions: World, south: Ask) -> None:
    folder = "/buckets/muster-canary/canary"
    for name in ("21", "note", f"{22:017d}", f"{23:016d}/part", f"{24:016d}.versions/v1"):
        regions.filers["south-1"][f"{folder}/{name}"] = b""
    assert south()["ranges"] == [[3, 11], [20, 20]]


def test_a_bucket_without_numbers_holds_nothing(regions: World, south: Ask) -> None:
    regions.filers["south-1"]["/buckets/other/x"] = b""
    assert south(bucket="other")["ranges"] == []


def test_a_bucket_that_is_not_there_is_told(south: Ask) -> None:
    sentence = "what region south holds of the canary is not known: the store of south-1 has no bucket other"
    assert south(bucket="other")["msg"] == sentence


def test_a_store_that_is_down_is_told(regions: World, south: Ask) -> None:
    regions.down.add("south-1")
    assert "not known: south-1:8888 does not answer (refused)" in south()["msg"]


def test_a_host_without_the_role_is_told(south: Ask) -> None:
    assert "which the role object_storage writes, cannot be read" in south(configuration="/nowhere")["msg"]
