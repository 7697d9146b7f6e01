# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A RabbitMQ node of its own to restore definitions into: it joins nobody, and only this host reaches it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import pwd
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
USER = "muster_restore_proof"
# No AMQP; and no plugin that would pull messages: the shovels of the file are not restored here either.
SETTINGS = """\
listeners.tcp = none
management.tcp.ip = 127.0.0.1
management.tcp.port = {port}
default_user = {user}
default_pass = {password}
"""
# Exchanges of a federation can be declared only where it is known.
PLUGINS = "[rabbitmq_management,rabbitmq_federation].\n"


@dataclass(frozen=True)
class Node:
    """The management API of the node."""

    port: int
    password: str
    timeout: float

    def request(self, method: str, path: str, body: Any = None) -> Any:
        login = base64.b64encode(f"{USER}:{self.password}".encode()).decode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            status, text = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise MusterError(
                f"the node for the proof does not answer ({error or type(error).__name__})"
            ) from error
        finally:
            connection.close()
        if status >= 300:
            said = text.decode(errors="replace")[:200]
            raise MusterError(f"the node for the proof does not take {method} {path}: {status} {said}")
        return json.loads(text) if text else None


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def surroundings(room: Path) -> dict[str, str]:
    """Nothing of the host's own node: no name, cookie, settings or data."""
    return {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(room),
        "RABBITMQ_NODENAME": f"muster-proof-{os.getpid()}@localhost",
        "RABBITMQ_CONF_ENV_FILE": str(room / "env.conf"),
        "RABBITMQ_CONFIG_FILE": str(room / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(room / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(room / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(room / "data"),
        "RABBITMQ_LOG_BASE": str(room / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }


def prepare(room: Path, account: pwd.struct_passwd) -> Node:
    # A password of this run alone; the request gets no longer than the rest.
    node = Node(free_port(), secrets.token_hex(16), 60.0)
    texts = {
        "rabbitmq.conf": SETTINGS.format(port=node.port, user=USER, password=node.password),
        "enabled_plugins": PLUGINS,
        "env.conf": "",
    }
    for name, text in texts.items():
        descriptor = os.open(room / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chown(room / name, account.pw_uid, account.pw_gid)
    os.chown(room, account.pw_uid, account.pw_gid)
    return node


def end(process: subprocess.Popen[bytes]) -> None:
    """Nothing that it holds is needed any more."""

    def gone() -> bool:
        process.poll()
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return True
        return False

    wait_until(gone, "the node for the proof to end", 30)


@contextlib.contextmanager
def served(room: Path, timeout: float, user: str = "rabbitmq") -> Iterator[Node]:
    """Run an empty node in C(room)."""
    account = pwd.getpwnam(user)
    node = prepare(room, account)
    log = room / "output"
    # It ends by itself when this is killed.
    words = ["/usr/bin/timeout", "--signal=KILL", str(int(2 * timeout + 120)), SERVER]
    with open(log, "wb") as output:
        process = subprocess.Popen(  # pylint: disable=ansible-bad-function
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=room, env=surroundings(room),
            start_new_session=True, user=account.pw_uid, group=account.pw_gid, extra_groups=[],
        )  # fmt: skip

    def settled() -> str | None:
        if process.poll() is not None:
            return "ended"
        node.request("GET", "/api/definitions")
        return "answers"

    try:
        if wait_until(settled, "the node for the proof to start", timeout) == "ended":
            said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise MusterError(
                f"the node for the proof did not start: {said[-1].strip() if said else 'no word'}"
            )
        yield node
    finally:
        end(process)
