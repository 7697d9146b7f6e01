# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make a data directory out of a snapshot, and serve a restored copy to look into it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import urllib.parse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._etcd import EtcdClient
from ansible_collections.muster.platform.plugins.module_utils._etcd_cluster import declared_members
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

RUN_SECONDS = 1800
START_SECONDS = 60


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def snapshot_tool(*arguments: str) -> str:
    """Run `etcdctl snapshot`, or etcdutl, which took its place in etcd 3.6."""
    tool = "etcdutl" if shutil.which("etcdutl") else "etcdctl"
    environment = {**os.environ, "ETCDCTL_API": "3"}
    try:
        result = subprocess.run(  # pylint: disable=ansible-bad-function
            [tool, "snapshot", *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=RUN_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MusterError(f"{tool} snapshot {arguments[0]}: {error}") from error
    if result.returncode:
        lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
        reason = lines[-1] if lines else f"exit status {result.returncode}"
        raise MusterError(f"{tool} snapshot {arguments[0]} {arguments[1]}: {reason}")
    return result.stdout


def restore(snapshot: str, target: Path, name: str, members: dict[str, str], token: str) -> None:
    """Make a data directory out of the snapshot; what is half done is removed."""
    cluster = ",".join(f"{member}={url}" for member, url in members.items())
    try:
        snapshot_tool(
            "restore",
            snapshot,
            f"--data-dir={target}",
            f"--name={name}",
            f"--initial-cluster={cluster}",
            f"--initial-cluster-token={token}",
            f"--initial-advertise-peer-urls={members[name]}",
        )
    except MusterError:
        shutil.rmtree(target, ignore_errors=True)
        raise


def give(directory: Path, user: str) -> None:
    """Make a directory tree the user's, and nobody else's."""
    try:
        for parent, directories, files in os.walk(directory):
            for entry in (".", *directories, *files):
                shutil.chown(os.path.join(parent, entry), user, user)
        directory.chmod(0o700)
    except (OSError, LookupError) as error:
        raise MusterError(f"cannot give {directory} to {user}: {error}") from error


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


class Isolated:
    """A restored copy, served on loopback only, with mutual TLS."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self.directory = Path(params["directory"])
        self.client_url = f"https://127.0.0.1:{free_port()}"
        self.peer_url = f"https://127.0.0.1:{free_port()}"

    def command(self) -> list[str]:
        ca, certificate, key = (
            self.params[name] for name in ("ca_certificate", "certificate", "private_key")
        )
        return [
            "etcd",
            "--name=restored",
            f"--data-dir={self.directory}",
            f"--listen-client-urls={self.client_url}",
            f"--advertise-client-urls={self.client_url}",
            f"--listen-peer-urls={self.peer_url}",
            # A cluster of one elects itself: no reason to wait a whole second.
            "--heartbeat-interval=20",
            "--election-timeout=200",
            "--client-cert-auth",
            f"--trusted-ca-file={ca}",
            f"--cert-file={certificate}",
            f"--key-file={key}",
            "--peer-client-cert-auth",
            f"--peer-trusted-ca-file={ca}",
            f"--peer-cert-file={certificate}",
            f"--peer-key-file={key}",
        ]

    def read_back(self) -> tuple[int, int, list[str]]:
        """The revision and the number of keys that the copy serves, and the expected keys it lacks."""
        user = self.params["user"]
        log = self.directory.with_name(self.directory.name + ".log")
        with log.open("w") as output:
            process = subprocess.Popen(  # pylint: disable=ansible-bad-function
                self.command(), user=user, group=user, extra_groups=[], stdout=output, stderr=output, cwd="/"
            )
        try:
            return self._read(process, log)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _read(self, process: subprocess.Popen[bytes], log: Path) -> tuple[int, int, list[str]]:
        params = self.params
        own = urllib.parse.urlsplit(declared_members(params["members"])[params["name"]].client_url)
        client = EtcdClient(
            [self.client_url],
            params["ca_certificate"],
            params["certificate"],
            params["private_key"],
            server_name=own.hostname,
        )

        def serves() -> bool:
            if process.poll() is not None:
                return True
            reason = client.health(self.client_url)
            if reason:
                raise MusterError(reason)
            return True

        wait_until(serves, "the restored etcd to answer", START_SECONDS, 0.1)
        if process.poll() is not None:
            raise MusterError(f"the restored etcd ended by itself; its log is {log}")
        revision = client.endpoint_status(self.client_url).revision or 0
        lacking = [key for key in params["expected_keys"] if client.get(key) is None]
        return revision, client.count(), lacking
