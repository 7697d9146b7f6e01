# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which numbers a Valkey, a RabbitMQ and an object store hold, as canary_window and dr_lag ask them."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import valkey
from ansible_collections.muster.platform.plugins.module_utils import (
    _canary_queue,
    _ledger,
    _survivors_stores,
)
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.modules import canary_window, dr_lag, object_storage_held
from store_fakes import Gate, Objects, Rabbitmq, Server, Valkey

Module = Callable[..., dict[str, Any]]


class Witness:
    """A canary's host: its configuration, its ledger, and the servers behind its endpoints."""

    def __init__(self, pki: Path, path: Path, run_module: Module) -> None:
        self.pki, self.path, self.run_module = pki, path, run_module
        self.stores: list[dict[str, Any]] = []
        self.rows: list[str] = []
        self.servers: list[Server] = []

    def store(self, kind: str, *servers: Server, **options: Any) -> None:
        self.servers += servers
        endpoints = [
            {"name": f"path-{number}", "host": "localhost", "port": server.port}
            for number, server in enumerate(servers)
        ]
        access = {"user": "muster_canary", "password": "very-secret", "ca": str(self.pki / "ca.crt")}
        self.stores.append({"name": kind, "type": kind, "endpoints": endpoints, **access, **options})

    def acknowledged(self, store: str, *numbers: int) -> None:
        for place, number in enumerate(numbers):
            when = datetime.now(UTC) - timedelta(seconds=30 - place / 4)
            at = when.strftime(_ledger.FORMAT)
            answer = "ok host=north region=north timeline=3"
            self.rows.append(f"{store},{number},{at},{at},path-0,{answer}")

    def write(self) -> str:
        config = {
            "interval_ms": 250,
            "directory": str(self.path),
            "hosts": {},
            "regions": {"north": ["member", "localhost"], "south": ["south-1"]},
            "stores": self.stores,
        }
        (self.path / "canary.json").write_text(json.dumps(config))
        (self.path / "ledger.csv").write_text("\n".join([_ledger.COLUMNS, *self.rows, ""]))
        return str(self.path / "canary.json")

    def window(self, store: str) -> dict[str, Any]:
        start = (datetime.now(UTC) - timedelta(seconds=60)).isoformat()
        found = self.run_module(canary_window, {"config": self.write(), "from": start, "timeout": 0})
        assert "very-secret" not in json.dumps(found)
        surviving: dict[str, Any] = found["stores"][store]["surviving"]
        return surviving


@pytest.fixture
def witness(
    pki: Path, tmp_path: Path, run_module: Module, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Witness]:
    # The controller has the same client under its other name.
    monkeypatch.setitem(sys.modules, "redis", valkey)
    monkeypatch.setattr(valkey, "RedisError", valkey.ValkeyError, raising=False)
    made = Witness(pki, tmp_path, run_module)
    yield made
    for server in made.servers:
        server.stop()


# --- Valkey ----------------------------------------------------------------------------------


def valkey_with(pki: Path, *numbers: int) -> Valkey:
    server = Valkey(pki)
    server.state = {"line": server.line, "timeline": "3"}
    for number in numbers:
        server.bits.setdefault(f"{{muster:canary}}:{number // 65536}", set()).add(number % 65536)
    return server


def test_the_bits_of_a_valkey_are_numbers(witness: Witness, pki: Path) -> None:
    server = valkey_with(pki, 5, 65530, 65534, 65535, 65536, 65537, 65540, 9_000_000)
    witness.store("valkey", server, server)
    witness.acknowledged("valkey", 65531, 65600)
    surviving = witness.window("valkey")
    assert surviving.pop("read_at").endswith("Z")
    assert surviving == {
        "sequences": "65534-65537,65540",
        "duplicates": 0,
        "endpoint": "path-0",
        "host": "member",
        "region": "north",
        "timeline": 3,
        "position": "4711",
        "error": None,
    }


def test_a_promoted_valkey_that_nobody_wrote_to_has_no_known_timeline(witness: Witness, pki: Path) -> None:
    server = valkey_with(pki, 1)
    server.line = "b" * 40
    witness.store("valkey", server)
    witness.acknowledged("valkey", 1, 2)
    assert witness.window("valkey")["timeline"] is None


def test_a_replica_is_no_survivor(witness: Witness, pki: Path) -> None:
    server = valkey_with(pki, 1)
    server.role = "slave"
    witness.store("valkey", server)
    witness.acknowledged("valkey", 1, 2)
    surviving = witness.window("valkey")
    assert surviving["sequences"] is None
    assert "path-0: member is a replica" in surviving["error"]


def test_a_refused_login_hides_the_password(witness: Witness, pki: Path) -> None:
    server = valkey_with(pki, 1)
    server.password = "another"
    witness.store("valkey", server)
    witness.acknowledged("valkey", 1, 2)
    assert "invalid username-password" in witness.window("valkey")["error"]


def test_a_library_that_is_missing_is_told(
    witness: Witness, pki: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, name in (("valkey", "redis"), ("rabbitmq", "pika"), ("object_storage", "boto3")):
        monkeypatch.setitem(sys.modules, name, None)
        witness.store(kind, Valkey(pki), bucket="muster-canary", signing_region="us-east-1")
        witness.acknowledged(kind, 1, 2)
        assert f"python3-{name} is not installed" in witness.window(kind)["error"]


def test_the_lag_of_a_replica_is_counted(witness: Witness, pki: Path) -> None:
    server = valkey_with(pki, 65531, 65532, 65533)
    server.role = "slave"
    witness.store("valkey", server)
    witness.acknowledged("valkey", *range(65531, 65540))
    target = {"host": "localhost", "port": server.port}
    found = witness.run_module(
        dr_lag, {"config": witness.write(), "store": "valkey", "target_hosts": [target]}
    )
    assert (found["held_sequence"], found["last_acknowledged_sequence"]) == (65533, 65539)
    assert found["answered_by"] == {
        "host": "localhost",
        "in_recovery": True,
        "timeline": None,
        "received_lsn": "4711",
        "replayed_lsn": "4711",
    }


def test_a_replica_is_asked_at_its_address_and_known_by_its_name(witness: Witness, pki: Path) -> None:
    server = valkey_with(pki, 1, 2)
    witness.store("valkey", server)
    witness.acknowledged("valkey", 1, 2)

    def ask(name: str) -> dict[str, Any]:
        target = {"host": name, "address": "127.0.0.1", "port": server.port}
        return witness.run_module(
            dr_lag, {"config": witness.write(), "store": "valkey", "target_hosts": [target]}
        )

    # No name server knows it; its certificate is good for it.
    assert ask("north-1")["held_sequence"] == 2
    assert "certificate" in ask("elsewhere")["reason"]


def test_a_store_whose_standby_lets_nobody_read_is_refused(witness: Witness, pki: Path) -> None:
    witness.store("rabbitmq", Valkey(pki))
    found = witness.run_module(
        dr_lag, {"config": witness.write(), "store": "rabbitmq", "target_hosts": [{"host": "localhost"}]}
    )
    assert "is of the type rabbitmq, which dr_lag cannot ask" in found["msg"]
    assert "give held" in found["msg"]


# --- RabbitMQ --------------------------------------------------------------------------------


@pytest.fixture
def rabbitmq(witness: Witness, pki: Path) -> Rabbitmq:
    server, gate = Rabbitmq(pki), Gate(pki)
    witness.servers.append(gate)
    witness.store("rabbitmq", server, server, vhost="muster", queue="muster.canary", state_port=gate.port)
    witness.acknowledged("rabbitmq", *range(11, 21))
    return server


def test_a_queue_is_read_and_left(witness: Witness, rabbitmq: Rabbitmq) -> None:
    rabbitmq.messages = [(str(number), 2) for number in (3, 11, 12, 13, 12, 12, 18, "odd", 40)]
    surviving = witness.window("rabbitmq")
    assert surviving.pop("read_at").endswith("Z")
    assert surviving == {
        "sequences": "11-13,18",
        # 12 is there three times: two too many, and no loss.
        "duplicates": 2,
        "endpoint": "path-0",
        "host": "north",
        "region": "north",
        "timeline": 4,
        "position": "9 messages",
        "error": None,
    }
    assert len(rabbitmq.messages) == 9
    assert rabbitmq.consumers == 0


@pytest.mark.parametrize("change", [{"role": "standby"}, {"region": "south"}, {"epoch": None}])
def test_only_the_gate_of_the_open_region_tells_its_epoch(
    witness: Witness, rabbitmq: Rabbitmq, change: dict[str, Any]
) -> None:
    (gate,) = [server for server in witness.servers if isinstance(server, Gate)]
    gate.found |= change
    assert witness.window("rabbitmq")["timeline"] is None


def test_a_queue_that_somebody_else_reads_is_not_known(witness: Witness, rabbitmq: Rabbitmq) -> None:
    rabbitmq.consumers = 1
    surviving = witness.window("rabbitmq")
    assert surviving["sequences"] is None
    assert "somebody else reads muster.canary, so what it holds is not known" in surviving["error"]


def test_a_queue_that_gives_less_than_it_has_is_not_known(
    witness: Witness, rabbitmq: Rabbitmq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_canary_queue, "PATIENCE", (0.1, 0.1, 0.1))
    monkeypatch.setattr(_canary_queue, "IDLE", 0.5)
    rabbitmq.messages = [(str(number), 2) for number in range(11, 21)]
    rabbitmq.withheld = 3
    assert "has 10 messages, and gave 7" in witness.window("rabbitmq")["error"]


def test_what_expires_while_it_is_read_is_not_waited_for(witness: Witness, rabbitmq: Rabbitmq) -> None:
    """A standby whose primary is dead loses its oldest messages all the time, and gets no new ones."""
    rabbitmq.messages = [(str(number), 2) for number in range(11, 21)]
    rabbitmq.expires = 3
    surviving = witness.window("rabbitmq")
    assert (surviving["sequences"], surviving["error"]) == ("14-20", None)


@pytest.mark.parametrize(
    ("stalls", "sequences", "error"),
    [(2, "11-20", None), (9, None, "has 10 messages, and gave 9: what it holds is not known")],
)
def test_what_was_under_way_when_the_reader_gave_up_is_not_lost(
    witness: Witness,
    rabbitmq: Rabbitmq,
    monkeypatch: pytest.MonkeyPatch,
    stalls: int,
    sequences: str | None,
    error: str | None,
) -> None:
    """The broker counts it as delivered while a busy machine keeps it from the reader."""
    monkeypatch.setattr(_canary_queue, "PATIENCE", (0.1, 0.1, 0.1))
    rabbitmq.messages = [(str(number), 2) for number in range(11, 21)]
    rabbitmq.stalls = stalls
    surviving = witness.window("rabbitmq")
    assert surviving["sequences"] == sequences
    assert error in surviving["error"] if error else surviving["error"] is None


def test_a_queue_that_is_too_long_is_told(
    witness: Witness, rabbitmq: Rabbitmq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_canary_queue, "PREFETCH", 5)
    rabbitmq.messages = [(str(number), 2) for number in range(11, 21)]
    assert "give it a shorter x-message-ttl" in witness.window("rabbitmq")["error"]


# --- object storage --------------------------------------------------------------------------


def test_objects_are_listed_by_their_numbers(witness: Witness, pki: Path) -> None:
    server = Objects(pki)
    server.objects["canary-region.json"] = (b'{"region": "south", "timeline": 5}', server.now)
    for number in [*range(2000, 4500), 5000]:
        server.objects[f"canary/{number:016d}"] = (b"", server.now)
    witness.store("object_storage", server, bucket="muster-canary", signing_region="us-east-1")
    witness.acknowledged("object_storage", 2100, 4600)
    surviving = witness.window("object_storage")
    assert surviving.pop("read_at").endswith("Z")
    assert surviving == {
        "sequences": "2100-4499",
        "duplicates": 0,
        "endpoint": "path-0",
        "host": "south",
        "region": "south",
        "timeline": 5,
        "position": None,
        "error": None,
    }
    pages = [path for _method, path, _headers, _body in server.requests if "list-type" in path]
    assert len(pages) == 3


def test_two_regions_that_both_serve_leave_it_unknown(witness: Witness, pki: Path) -> None:
    servers = [Objects(pki), Objects(pki)]
    for server, region in zip(servers, ("north", "south"), strict=True):
        server.objects["canary-region.json"] = (
            f'{{"region": "{region}", "timeline": 5}}'.encode(),
            server.now,
        )
    witness.store("object_storage", *servers, bucket="muster-canary", signing_region="us-east-1")
    witness.acknowledged("object_storage", 1, 2)
    surviving = witness.window("object_storage")
    assert surviving == {"sequences": None, "error": "more than one host takes writes: north, south"}


# --- both sides agree -------------------------------------------------------------------------


@pytest.mark.usefixtures("canary")
def test_the_modules_know_how_the_daemon_keeps_its_numbers() -> None:
    bits = importlib.import_module("muster_canary_valkey")
    objects = importlib.import_module("muster_canary_object_storage")
    here = _survivors_stores
    assert (bits.BLOCK, bits.STATE, bits.PREFIX) == (here.BLOCK, here.STATE, here.PREFIX)
    assert (objects.PREFIX, objects.REGION, objects.DIGITS) == (here.OBJECTS, here.REGION, here.DIGITS)
    held = object_storage_held
    assert (f"{held.FOLDER}/", held.DIGITS) == (objects.PREFIX, objects.DIGITS)


@pytest.mark.parametrize(
    "text", ["north", "[]", '{"region": "north"}', '{"region": "north", "timeline": "x"}']
)
def test_an_object_that_does_not_tell_whose_copy_it_is(text: str) -> None:
    assert _survivors_stores.whose_copy(b'{"region": "north", "timeline": 3}') == ("north", 3)
    with pytest.raises(
        MusterError, match=r"^the object canary-region\.json does not tell whose copy this is$"
    ):
        _survivors_stores.whose_copy(text)
