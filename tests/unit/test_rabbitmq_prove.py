# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Restoring RabbitMQ's definitions into a node of its own: the real module, and a program in the node's place."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils import _rabbitmq_isolated
from ansible_collections.muster.platform.plugins.modules import rabbitmq_backup, rabbitmq_info
from rabbitmq_fake import REGIONS, World, patch

Run = Callable[..., dict[str, Any]]

# A node as far as it is asked; what it is started with goes into a file.
NODE = """\
import base64, json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

conf = dict(line.split(" = ") for line in open(os.environ["RABBITMQ_CONFIG_FILE"]).read().splitlines())
open({seen!r}, "w").write(json.dumps({{"env": dict(os.environ), "conf": conf, "pid": os.getpid()}}))
held = {{"vhosts": [{{"name": "/"}}], "users": [{{"name": conf["default_user"]}}]}}

class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        login = conf["default_user"] + ":" + conf["default_pass"]
        good = self.headers["Authorization"] == "Basic " + base64.b64encode(login.encode()).decode()
        self.send_response(200 if good else 401)
        self.end_headers()
        self.wfile.write(json.dumps(held).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        {on_post}
        self.send_response(204)
        self.end_headers()

    def log_message(self, *words):
        pass

HTTPServer(("127.0.0.1", int(conf["management.tcp.port"])), Answers).serve_forever()
"""
TAKES = "[held.setdefault(kind, []).extend(items) for kind, items in body.items()]"
REFUSES = "self.send_response(400); self.end_headers(); self.wfile.write(b'bad_request'); return"


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    program = tmp_path / "rabbitmq-server"
    monkeypatch.setattr(_rabbitmq_isolated, "SERVER", str(program))
    served = functools.partial(_rabbitmq_isolated.served, user="root")
    monkeypatch.setattr(_rabbitmq_isolated, "served", served)

    def write(on_post: str) -> None:
        text = NODE.format(seen=str(tmp_path / "seen"), on_post=on_post)
        program.write_text(f"#!{sys.executable}\n{text}")
        program.chmod(0o755)

    write(TAKES)
    return write


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_module: Run) -> dict[str, Any]:
    """The module's options, and a backup that was taken with them."""
    world = World()
    patch(world, monkeypatch)
    world.clusters["north"].objects = {
        "vhosts": [{"name": "/", "metadata": {"a": 1}}, {"name": "docs"}],
        "users": [{"name": "muster_operator", "password_hash": "of today"}],
        "queues": [{"vhost": "docs", "name": "q"}],
        "policies": [{"vhost": "docs", "name": "p"}],
    }
    (tmp_path / "backups").mkdir()
    (tmp_path / "room").mkdir()
    options = {
        "regions": REGIONS, "region": "north", "directory": str(tmp_path / "backups"), "passphrase": "geheim",
        "operator_password": "0p3r4t0r", "ca_certificate": "/ca.crt", "room": str(tmp_path / "room"), "timeout": 20,
    }  # fmt: skip
    assert run_module(rabbitmq_backup, options)["proof"]["differs"] == []
    world.clusters["north"].up = False  # a proof does not ask it
    return {**options, "state": "proved"}


def proven(tmp_path: Path) -> str | None:
    return rabbitmq_info.noted(str(tmp_path / "backups"), "restore-proof.json", "proven_at")


def test_definitions_are_restored_into_a_node_of_their_own(
    node: Callable[[str], None],
    given: dict[str, Any],
    run_module: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed = tmp_path / "room" / ".restore-proof-killed"
    killed.mkdir()
    owned: list[tuple[str, int, int]] = []
    with monkeypatch.context() as context:
        context.setattr(
            _rabbitmq_isolated.os, "chown", lambda path, *ids: owned.append((Path(path).name, *ids))
        )
        run_module(rabbitmq_backup, given, check=True)
        assert not (tmp_path / "seen").exists(), "check mode has started a node"
        answer = run_module(rabbitmq_backup, given)
    assert answer["changed"] is True
    proof = answer["proof"]
    assert [name.split("-")[0] for name, _user, _group in owned] == [
        "rabbitmq.conf", "enabled_plugins", "env.conf", ".restore",
    ]  # fmt: skip
    assert {(user, group) for _name, user, group in owned} == {(0, 0)}
    assert [(check["name"], check["passed"]) for check in proof["checks"]] == [
        ("sealed", True),
        ("definitions", True),
    ]
    assert proof["checks"][1]["detail"] == (
        "a node of its own holds 2 vhosts, 1 users, 0 exchanges, 1 queues, 0 bindings after the restore"
    )
    assert proof["objects"]["policies"] == 1
    assert proof["proven_at"] == proven(tmp_path)
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen["conf"]["listeners.tcp"] == "none"
    assert seen["conf"]["management.tcp.ip"] == "127.0.0.1"
    assert seen["env"]["RABBITMQ_NODENAME"] == f"muster-proof-{os.getpid()}@localhost"
    assert seen["env"]["HOME"].startswith(str(tmp_path / "room" / ".restore-proof-"))
    assert not Path("/proc", str(seen["pid"])).exists()
    assert not list((tmp_path / "room").iterdir())


def test_a_restore_that_lacks_something_is_no_proof(
    node: Callable[[str], None], given: dict[str, Any], run_module: Run, tmp_path: Path
) -> None:
    node("body.pop('queues'); " + TAKES)
    proof = run_module(rabbitmq_backup, given)["proof"]
    assert (proof["checks"][1]["passed"], proof["proven_at"]) == (False, None)
    assert proof["checks"][1]["detail"].endswith("a node of its own lacks 1 queues after the restore")
    assert proven(tmp_path) is None
    node(REFUSES)
    answer = run_module(rabbitmq_backup, given)
    assert answer["msg"] == "the node for the proof does not take POST /api/definitions: 400 bad_request"
    assert not list((tmp_path / "room").iterdir())


def test_a_node_that_does_not_start(
    node: Callable[[str], None], given: dict[str, Any], run_module: Run, tmp_path: Path
) -> None:
    (tmp_path / "rabbitmq-server").write_text("#!/bin/sh\necho; echo 'BOOT FAILED'; exit 1\n")
    answer = run_module(rabbitmq_backup, given)
    assert answer["msg"] == "the node for the proof did not start: BOOT FAILED"
    (tmp_path / "rabbitmq-server").write_text("#!/bin/sh\nexec sleep 60\n")
    answer = run_module(rabbitmq_backup, {**given, "timeout": 0.3})
    assert answer["msg"].startswith(
        "waited 0.3 s for the node for the proof to start: the node for the proof does not answer"
    )
    assert proven(tmp_path) is None


def test_nothing_to_prove(
    node: Callable[[str], None], given: dict[str, Any], run_module: Run, tmp_path: Path
) -> None:
    other = run_module(rabbitmq_backup, {**given, "passphrase": "xyzzy"})
    assert "cannot be decrypted" in other["msg"]
    assert "there is no backup none" in run_module(rabbitmq_backup, {**given, "name": "none"})["msg"]
    nowhere = run_module(rabbitmq_backup, {**given, "room": str(tmp_path / "nowhere")})
    assert nowhere["msg"] == f"{tmp_path / 'nowhere'} is no directory: nothing was restored"
    assert proven(tmp_path) is None


def test_what_an_empty_node_has_by_itself_proves_nothing() -> None:
    wanted = {"vhosts": [{"name": "/"}], "queues": []}
    assert rabbitmq_backup.verdict(wanted, ["1 vhosts"], [])[0] is True
    assert rabbitmq_backup.verdict(wanted, [], []) == (
        False, "an empty node has 1 vhosts, 0 queues without a restore, so that nothing is proven",
    )  # fmt: skip
