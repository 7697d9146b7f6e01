# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The canary's sessions with Valkey, RabbitMQ and an object store, against servers that play along."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pika import spec as amqp
from store_fakes import FILES, Garbling, Gate, Objects, Rabbitmq, Server, Valkey


class Bench:
    """A store of one type with one endpoint, and its session."""

    def __init__(self, canary: Any, kind: str, server: Server, pki: Path, path: Path, **options: Any) -> None:
        self.canary = canary
        endpoint = {"name": "north", "host": "north-1", "port": server.port} | options.pop("endpoint", {})
        entry = {
            "name": kind,
            "type": kind,
            "user": "muster_canary",
            "password": "very-secret",
            "ca": str(pki / "ca.crt"),
            "endpoints": [endpoint],
        } | options
        config = {
            "interval_ms": 250,
            "ledger_days": 30,
            "directory": str(path),
            "hosts": {"127.0.0.1": "member"},
            "regions": {"north": ["member"], "south": ["south-1"]},
            "stores": [entry],
        }
        (path / "canary.json").write_text(json.dumps(config))
        whole = canary.read_config(str(path / "canary.json"))
        self.stop = canary.Stop()
        self.store = canary.store_class(kind)(whole.stores[0], whole, canary.Counter(0), self.stop)
        self.store.routes[0].addresses = ["127.0.0.1"]
        self.session = self.store.session(self.store.routes[0])
        self.sent = 0

    def write(self, sequence: int, seconds: float = 1.9) -> str:
        def sending() -> None:
            self.sent += 1

        answer: str = self.session.write(sequence, time.monotonic() + seconds, sending)
        return answer

    def refusal(self, sequence: int, seconds: float = 1.9) -> str:
        with pytest.raises(self.canary.NoAnswer) as caught:
            self.write(sequence, seconds)
        assert self.session.wire.socket is None  # what is still on its way is of no use
        return str(caught.value)


Make = Callable[..., Bench]


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    made: list[Server] = []
    yield made
    for server in made:
        server.stop()


@pytest.fixture
def valkey(canary: Any, pki: Path, tmp_path: Path, servers: list[Server]) -> tuple[Valkey, Bench]:
    server = Valkey(pki)
    servers.append(server)
    return server, Bench(canary, "valkey", server, pki, tmp_path)


@pytest.fixture
def rabbitmq(canary: Any, pki: Path, tmp_path: Path, servers: list[Server]) -> tuple[Rabbitmq, Gate, Bench]:
    server, gate = Rabbitmq(pki), Gate(pki)
    servers += [server, gate]
    return server, gate, rabbitmq_bench(canary, server, gate, pki, tmp_path)


def rabbitmq_bench(canary: Any, server: Server, gate: Gate, pki: Path, path: Path, **more: Any) -> Bench:
    options = {
        "vhost": "muster",
        "exchange": "muster.canary",
        "routing_key": "canary",
        "state_port": gate.port,
    }
    bench = Bench(canary, "rabbitmq", server, pki, path, **options, **more)
    # The certificate at hand is good for this name, which is not its common one.
    bench.session.named = lambda _text: "north-1"
    bench.store.hosts = {"127.0.0.1": "north-1"}
    bench.store.regions = {"north-1": "north"}
    return bench


@pytest.fixture
def objects(canary: Any, pki: Path, tmp_path: Path, servers: list[Server]) -> tuple[Objects, Bench]:
    server = Objects(pki)
    servers.append(server)
    options = {"bucket": "muster-canary", "signing_region": "us-east-1", "keep_seconds": 3600}
    return server, Bench(canary, "object_storage", server, pki, tmp_path, **options)


# --- the connection --------------------------------------------------------------------------


def test_a_certificate_of_another_name_or_authority_is_refused(
    canary: Any, pki: Path, tmp_path: Path, servers: list[Server]
) -> None:
    server = Valkey(pki)
    servers.append(server)
    other = Bench(canary, "valkey", server, pki, tmp_path, endpoint={"host": "another"})
    assert other.refusal(1) == "certificate"
    assert "north-1" in other.store.remarks["north"] or "another" in other.store.remarks["north"]
    assert server.bits == {}


def test_who_does_not_listen_refuses(canary: Any, pki: Path, tmp_path: Path) -> None:
    server = Valkey(pki)
    server.stop()
    bench = Bench(canary, "valkey", server, pki, tmp_path)
    assert bench.refusal(1) == "refused"
    assert bench.store.routes[0].turn == 1  # the next attempt goes to the next address


def test_a_name_that_leads_nowhere_is_told(valkey: tuple[Valkey, Bench]) -> None:
    _server, bench = valkey
    bench.store.routes[0].addresses = []
    assert bench.refusal(1) == "unresolved"


def test_an_attempt_ends_at_its_deadline(valkey: tuple[Valkey, Bench]) -> None:
    server, bench = valkey
    bench.write(1)
    server.silent = True
    began = time.monotonic()
    assert bench.refusal(2, 0.3) == "timeout"
    assert 0.25 < time.monotonic() - began < 1


def test_a_connection_that_was_closed_meanwhile_is_opened_anew(valkey: tuple[Valkey, Bench]) -> None:
    server, bench = valkey
    bench.write(1)
    server.hang_up()
    time.sleep(0.1)
    assert bench.write(2).startswith("host=member")


def test_one_that_breaks_under_a_write_leaves_it_unanswered(valkey: tuple[Valkey, Bench]) -> None:
    server, bench = valkey
    bench.write(1)
    server.silent = True
    threading.Timer(0.2, server.hang_up).start()
    assert bench.refusal(2) == "closed"


def test_a_wait_ends_with_the_daemon(canary: Any, valkey: tuple[Valkey, Bench]) -> None:
    server, bench = valkey
    bench.write(1)
    server.silent = True
    threading.Timer(0.1, bench.stop.set).start()
    began = time.monotonic()
    with pytest.raises(canary.Stopping):
        bench.write(2)
    assert time.monotonic() - began < 1


def test_a_new_authority_is_read_without_a_restart(
    canary: Any, pki: Path, tmp_path: Path, servers: list[Server]
) -> None:
    server = Valkey(pki)
    servers.append(server)
    authority = tmp_path / "ca.crt"
    shutil.copy(FILES.parents[2] / "pyproject.toml", authority)
    bench = Bench(canary, "valkey", server, pki, tmp_path, ca=str(authority))
    assert bench.refusal(1) == "tls"
    shutil.copy(pki / "ca.crt", authority)
    assert bench.write(2)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("valkey", b"$abc\r\n"),
        ("valkey", b"HTTP/1.1 400 Bad Request\r\n"),
        ("valkey", b"$2\r\n\xff\xff\r\n"),
        ("valkey", b"$-1\r\n"),
        ("rabbitmq", b"\x09\0\x01\0\0\0\0\xce"),
        ("rabbitmq", b"\x01\0\x01\0\0\0\x04\xff\xff\xff\xff\xce"),
        ("rabbitmq", b"\x01\0\x01\0\0\0\x04\0\x3c\0\x50\xce"),
        ("object_storage", b"+OK\r\n"),
    ],
)
def test_an_answer_that_cannot_be_read_is_one_attempt_and_not_the_end(
    kind: str, said: bytes, canary: Any, pki: Path, tmp_path: Path, servers: list[Server]
) -> None:
    server, gate = Garbling(pki, said), Gate(pki)
    servers += [server, gate]
    if kind == "rabbitmq":
        bench = rabbitmq_bench(canary, server, gate, pki, tmp_path)
    else:
        options = {"bucket": "muster-canary", "signing_region": "us-east-1", "keep_seconds": 3600}
        bench = Bench(canary, kind, server, pki, tmp_path, **options)
    assert bench.refusal(1) == "protocol"
    assert bench.store.remarks["north"]


# --- Valkey ----------------------------------------------------------------------------------


def test_a_number_is_a_bit_in_valkey(valkey: tuple[Valkey, Bench]) -> None:
    server, bench = valkey
    assert bench.write(65537) == "host=member region=north timeline=1"
    assert bench.write(65538) == "host=member region=north timeline=1"
    assert server.bits == {"{muster:canary}:1": {1, 2}}
    assert server.expire == {"{muster:canary}:1": 30 * 86400}
    assert bench.sent == 2


def test_a_command_is_packed_as_the_library_does_it(canary: Any) -> None:
    import valkey as library

    words = ("EVALSHA", "a" * 40, 2, "{muster:canary}:state", "é", 0)
    ours = importlib.import_module("muster_canary_valkey").pack(*words)
    assert ours == b"".join(library.Connection().pack_command(*words))


def test_a_promotion_is_a_new_timeline(valkey: tuple[Valkey, Bench]) -> None:
    server, bench = valkey
    bench.write(1)
    server.line = "b" * 40
    assert bench.write(2) == "host=member region=north timeline=2"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("READONLY You can't write against a read only replica.", "read-only code=READONLY"),
        ("LOADING Valkey is loading the dataset in memory", "unavailable code=LOADING"),
        ("NOPERM User muster_canary has no permissions", "rejected code=NOPERM"),
        ("OOM command not allowed", "full code=OOM"),
        ("ERR something very-secret", "error code=ERR"),
        ("a,b odd", "error code=ERR"),
    ],
)
def test_what_valkey_says_is_a_short_class(error: str, expected: str, valkey: tuple[Valkey, Bench]) -> None:
    server, bench = valkey
    server.error = error
    assert bench.refusal(1) == expected
    assert bench.store.remarks["north"] == error.replace("very-secret", "***")


def test_a_wrong_password_is_told(valkey: tuple[Valkey, Bench]) -> None:
    server, bench = valkey
    server.password = "another"
    assert bench.refusal(1) == "authentication code=WRONGPASS"


def test_a_certificate_without_a_known_host_lets_the_region_stand_for_it(
    canary: Any, pki: Path, tmp_path: Path, servers: list[Server]
) -> None:
    server = Valkey(pki)
    servers.append(server)
    bench = Bench(canary, "valkey", server, pki, tmp_path, endpoint={"region": "south"})
    bench.store.regions = {}
    assert bench.write(1) == "host=south region=south timeline=1"


# --- RabbitMQ --------------------------------------------------------------------------------


def test_a_number_is_a_persistent_message(rabbitmq: tuple[Rabbitmq, Gate, Bench]) -> None:
    server, _gate, bench = rabbitmq
    assert bench.write(7) == "host=north region=north timeline=4 node=north-1"
    assert bench.write(8) == "host=north region=north timeline=4 node=north-1"
    assert server.messages == [("7", 2), ("8", 2)]


def test_the_epoch_is_read_again_with_each_connection(rabbitmq: tuple[Rabbitmq, Gate, Bench]) -> None:
    server, gate, bench = rabbitmq
    bench.write(1)
    gate.found = gate.found | {"epoch": 6}
    assert "timeline=4 " in bench.write(2)
    server.hang_up()
    time.sleep(0.1)
    assert "timeline=6 " in bench.write(3)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"role": "standby", "epoch": 4, "region": "north"}, "no-epoch"),
        ({"role": "primary", "epoch": 4, "region": "south"}, "no-epoch"),
        ({"role": "unknown", "epoch": None, "region": "north"}, "no-epoch"),
        (["odd"], "no-epoch"),
    ],
)
def test_without_an_epoch_nothing_counts_as_acknowledged(
    found: Any, expected: str, rabbitmq: tuple[Rabbitmq, Gate, Bench]
) -> None:
    server, gate, bench = rabbitmq
    gate.found = found
    assert bench.refusal(1) == expected
    assert server.messages == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([amqp.Basic.Nack(1)], "rejected"),
        ([amqp.Basic.Return(312, "NO_ROUTE", "e", "r"), amqp.Basic.Ack(1)], "unroutable code=312"),
        ([amqp.Channel.Close(404, "NOT_FOUND - no exchange", 60, 40)], "rejected code=404"),
        ([amqp.Channel.Close(403, "ACCESS_REFUSED", 60, 40)], "authentication code=403"),
        ([amqp.Connection.Close(320, "CONNECTION_FORCED", 0, 0)], "unavailable code=320"),
        ([amqp.Basic.Ack(5)], "protocol"),
    ],
)
def test_what_is_not_confirmed_is_no_acknowledgement(
    answer: list[Any], expected: str, rabbitmq: tuple[Rabbitmq, Gate, Bench]
) -> None:
    server, _gate, bench = rabbitmq
    server.answer = lambda _tag: answer
    assert bench.refusal(1) == expected


def test_a_vhost_that_is_closed_to_the_canary_is_told(rabbitmq: tuple[Rabbitmq, Gate, Bench]) -> None:
    server, _gate, bench = rabbitmq
    server.refuse = amqp.Connection.Close(530, "NOT_ALLOWED - access to vhost 'muster' refused", 10, 40)
    assert bench.refusal(1) == "rejected code=530"


def test_a_silent_gate_ends_the_attempt(rabbitmq: tuple[Rabbitmq, Gate, Bench]) -> None:
    _server, gate, bench = rabbitmq
    gate.stop()
    assert bench.refusal(1) == "refused"


# --- object storage --------------------------------------------------------------------------


def test_a_number_is_an_object(objects: tuple[Objects, Bench]) -> None:
    server, bench = objects
    assert bench.write(7) == "host=north region=north timeline=1 node=member"
    assert bench.write(8) == "host=north region=north timeline=1 node=member"
    assert set(server.objects) == {"canary-region.json", "canary/0000000000000007", "canary/0000000000000008"}
    assert server.objects["canary/0000000000000007"][0] == b"7 north\n"


def test_every_request_is_signed_as_it_was_sent(objects: tuple[Objects, Bench]) -> None:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    server, bench = objects
    server.objects["canary/0000000000000001"] = (b"", server.now)
    bench.write(7)
    assert bench.store.prune(0) == 2
    # Who answers, the number, and what is old: its list and its end.
    assert [request[0] for request in server.requests] == ["GET", "PUT", "PUT", "GET", "GET", "POST"]
    for method, path, headers, body in server.requests:
        signer = S3SigV4Auth(Credentials("muster_canary", "very-secret"), "s3", "us-east-1")
        request = AWSRequest(method, f"https://{headers['host']}{path}", data=body)
        signed = headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
        assert {"host", "x-amz-content-sha256", "x-amz-date"} <= set(signed)
        for name in signed:
            request.headers[name] = headers[name]
        request.context["timestamp"] = headers["x-amz-date"]
        assert headers["x-amz-content-sha256"] == hashlib.sha256(body).hexdigest()
        canonical = signer.canonical_request(request)
        signature = signer.signature(signer.string_to_sign(request, canonical), request)
        assert headers["authorization"].endswith(f"Signature={signature}")


def test_a_region_whose_copy_speaks_of_another_counts_on(objects: tuple[Objects, Bench]) -> None:
    server, bench = objects
    server.objects["canary-region.json"] = (b'{"region": "south", "timeline": 4}', server.now)
    assert bench.write(1) == "host=north region=north timeline=5 node=member"
    assert json.loads(server.objects["canary-region.json"][0]) == {"region": "north", "timeline": 5}
    server.hang_up()
    time.sleep(0.1)
    assert "timeline=5 " in bench.write(2)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ((503, b""), "unavailable status=503"),
        ((403, b"<Error><Code>AccessDenied</Code></Error>"), "authentication status=403 code=AccessDenied"),
        ((204, b""), "error status=204"),
    ],
)
def test_only_200_is_an_acknowledgement(
    error: tuple[int, bytes], expected: str, objects: tuple[Objects, Bench]
) -> None:
    server, bench = objects
    bench.write(1)
    server.error = error
    assert bench.refusal(2) == expected


def test_a_server_of_no_known_region_is_written_nothing(objects: tuple[Objects, Bench]) -> None:
    server, bench = objects
    bench.store.regions = {}
    assert bench.refusal(1) == "unknown-region"
    assert server.requests == []


def test_old_objects_are_removed(objects: tuple[Objects, Bench], canary: Any) -> None:
    server, bench = objects
    for number in range(1500):
        server.objects[f"canary/{number:016d}"] = (b"", server.now)
    server.objects["canary/0000000000002000"] = (b"", canary.stamp(time.time()))
    server.objects["canary-region.json"] = (b'{"region": "north", "timeline": 1}', server.now)
    assert bench.store.prune(0) == 1500
    assert set(server.objects) == {"canary/0000000000002000", "canary-region.json"}


def test_what_cannot_be_removed_is_not_counted_as_removed(objects: tuple[Objects, Bench]) -> None:
    server, bench = objects
    server.objects["canary/0000000000000001"] = (b"", server.now)
    server.deleted = b"<DeleteResult><Error><Code>AccessDenied</Code></Error></DeleteResult>"
    assert bench.store.prune(0) == 0
    assert "not all of 1 old objects" in bench.store.remarks["north"]


# --- the whole -------------------------------------------------------------------------------


def test_nothing_is_loaded_for_a_store_that_is_not_configured(tmp_path: Path) -> None:
    program = (
        f"import sys; sys.argv = ['x']; sys.path.insert(0, {str(FILES)!r}); import muster_canary; "
        "print(sorted(name for name in sys.modules if name in ('pika', 'redis', 'boto3', 'muster_canary_wire')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("kind", "library"), [("postgresql", "psycopg2"), ("rabbitmq", "pika"), ("object_storage", "botocore")]
)
def test_a_library_that_is_missing_is_told_before_the_start(kind: str, library: str, tmp_path: Path) -> None:
    entry = {"name": "it", "type": kind, "user": "u", "password": "p", "database": "d", "endpoints": []}
    entry |= dict.fromkeys(
        ("vhost", "exchange", "routing_key", "state_port", "bucket", "signing_region", "keep_seconds"), "1"
    )
    config = {"interval_ms": 250, "ledger_days": 30, "directory": str(tmp_path), "stores": [entry]}
    (tmp_path / "canary.json").write_text(json.dumps(config))
    program = (
        f"import sys; sys.modules[{library!r}] = None; sys.path.insert(0, {str(FILES)!r}); "
        f"import muster_canary; sys.argv = ['x', '--check', '--config', {str(tmp_path / 'canary.json')!r}]; "
        "sys.exit(muster_canary.main())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("muster-canary: store it: the Python module ")
    assert f"{library}" in done.stderr
    assert "Traceback" not in done.stderr


def test_numbers_of_a_lost_ledger_are_not_used_again(canary: Any) -> None:
    assert canary.first_number("postgresql") == 0
    first = canary.first_number("valkey")
    time.sleep(0.01)
    assert canary.first_number("valkey") > first > 1_000_000


def test_several_stores_run_in_one_daemon(
    canary: Any, pki: Path, tmp_path: Path, servers: list[Server]
) -> None:
    valkey, objects = Valkey(pki), Objects(pki)
    servers += [valkey, objects]

    def entry(kind: str, server: Server, **options: Any) -> dict[str, Any]:
        endpoint = {"name": "north", "host": "localhost", "port": server.port}
        access = {"user": "muster_canary", "password": "very-secret", "ca": str(pki / "ca.crt")}
        return {"name": kind, "type": kind, "endpoints": [endpoint], **access, **options}

    config = {
        "interval_ms": 50,
        "ledger_days": 30,
        "directory": str(tmp_path),
        "hosts": {"127.0.0.1": "member"},
        "regions": {"north": ["member"]},
        "stores": [
            entry("valkey", valkey),
            entry(
                "object_storage",
                objects,
                bucket="muster-canary",
                signing_region="us-east-1",
                keep_seconds=3600,
            ),
        ],
    }
    path = tmp_path / "canary.json"
    path.write_text(json.dumps(config))
    process = subprocess.Popen(
        [sys.executable, "-I", str(FILES / "muster_canary.py"), "--config", str(path)],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 20
    ledger = tmp_path / "ledger.csv"
    while not ledger.exists() or len(re.findall(r",ok host=(north|member) ", ledger.read_text())) < 10:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    _out, said = process.communicate(timeout=5)
    assert process.returncode == 0
    assert "very-secret" not in said + ledger.read_text()
