# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What an etcd member needs next: the cluster as its members tell it, the host, and the plan."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._etcd import (
    EtcdClient,
    Member,
    Status,
    each,
)
from ansible_collections.muster.platform.plugins.module_utils._systemd import systemctl
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

SERVICE = "etcd.service"
PREFIX = "ETCD_"
# Seconds that members who answer have to tell who else is one.
PATIENCE = 15.0
# Only read when a member has no data yet: never a reason to restart it.
PREFIX_FIRST_START = "ETCD_INITIAL_"

OPTIONS: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "members": {"type": "dict", "required": True},
    "data_directory": {"type": "path", "default": "/var/lib/etcd/muster"},
    "environment_file": {"type": "path", "default": "/etc/default/etcd"},
    "watched_files": {"type": "list", "elements": "path", "default": []},
    "ca_certificate": {"type": "path", "default": "/etc/etcd/tls/ca.crt"},
    "certificate": {"type": "path", "default": "/etc/etcd/tls/member.crt"},
    "private_key": {"type": "path", "default": "/etc/etcd/tls/member.key"},
}


# --- the cluster ----------------------------------------------------------------


@dataclass(frozen=True)
class Declared:
    """A member as the inventory lists it."""

    name: str
    client_url: str
    peer_url: str


def declared_members(raw: Mapping[str, Any]) -> dict[str, Declared]:
    """The members option as data; MusterError when a URL is missing."""
    found = {}
    for name, urls in raw.items():
        try:
            found[name] = Declared(name, urls["client_url"], urls["peer_url"])
        except (KeyError, TypeError) as error:
            raise MusterError(f"members: {name} needs client_url and peer_url") from error
    return found


@dataclass(frozen=True)
class Seen:
    """A member of the cluster, and what it says of itself."""

    id: str
    name: str
    peer_url: str
    client_url: str
    is_learner: bool
    status: Status | None
    error: str | None

    @property
    def healthy(self) -> bool:
        return self.error is None

    @property
    def label(self) -> str:
        return self.name or self.peer_url


@dataclass(frozen=True)
class Survey:
    """The cluster as those of its members tell it that answer."""

    members: tuple[Seen, ...] = ()
    statuses: tuple[Status, ...] = ()
    clusters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    # Why no member answers, when none does.
    silence: str = "this host has no certificate yet to ask the members with"

    @property
    def answers(self) -> bool:
        return bool(self.members)

    @property
    def voters(self) -> list[Seen]:
        return [member for member in self.members if not member.is_learner]

    def has_quorum(self, without: str = "") -> bool:
        """Whether the healthy voters, but for the one with this id, are a majority of the voters."""
        voters = self.voters
        healthy = sum(member.healthy and member.id != without for member in voters)
        return bool(voters) and healthy > len(voters) // 2

    def find(self, me: Declared) -> Seen | None:
        """This member in the list: by its peer URL, else by its name."""
        by_url = next((member for member in self.members if member.peer_url == me.peer_url), None)
        return by_url or next((member for member in self.members if member.name == me.name), None)

    def unlisted(self, declared: Mapping[str, Declared]) -> list[Seen]:
        urls = {member.peer_url for member in declared.values()}
        return [
            member for member in self.members if member.peer_url not in urls and member.name not in declared
        ]

    def missing(self, declared: Mapping[str, Declared]) -> list[str]:
        return [name for name, member in declared.items() if self.find(member) is None]

    def split(self) -> str:
        """A sentence when the hosts answer for different clusters, else nothing."""
        if len(self.clusters) < 2:
            return ""
        parts = [f"{', '.join(urls)} in {cluster}" for cluster, urls in sorted(self.clusters.items())]
        return "the hosts are members of different clusters: " + "; ".join(parts)

    @property
    def raft_index(self) -> int:
        return max((status.raft_index or 0 for status in self.statuses), default=0)


def _probe(client: EtcdClient, endpoint: str) -> tuple[Status, str | None]:
    """What an endpoint says of itself, and why it is not healthy."""
    status = client.endpoint_status(endpoint)
    if status.error or status.is_learner:
        # A learner answers no linearizable read, by design.
        return status, status.error
    return status, client.health(endpoint)


def survey(client: EtcdClient, own_url: str = "") -> Survey:
    """Ask all endpoints at once, then one of them for the member list."""
    probes = dict(zip(client.endpoints, each(lambda url: _probe(client, url), client.endpoints), strict=True))
    answering = [status for status, _error in probes.values() if status.error is None]
    if not answering:
        return Survey(silence="; ".join(str(error) for _status, error in probes.values()))
    # The own endpoint comes last: a member that was removed remembers an old list.
    answering.sort(key=lambda status: (status.leader is None, status.endpoint == own_url))
    client.prefer(answering[0].endpoint)
    members = client.members(linearizable=answering[0].leader is not None)
    extra = sorted({url for member in members for url in member.client_urls} - set(probes))
    probes.update(zip(extra, each(lambda url: _probe(client, url), extra), strict=True))
    clusters: dict[str, list[str]] = {}
    for status in answering:
        clusters.setdefault(status.cluster_id or "", []).append(status.endpoint)
    has_leader = answering[0].leader is not None
    return Survey(
        members=tuple(_seen(member, probes, answering[0].cluster_id) for member in members),
        statuses=tuple(answering),
        clusters={cluster: tuple(urls) for cluster, urls in clusters.items()},
        alarms=tuple(client.alarms()) if has_leader else (),
    )


def patient_survey(client: EtcdClient, own_url: str = "") -> Survey:
    """A survey that bears an election or a busy disk: members answer, and do not tell their list yet.

    That no member answers at all is told at once.
    """
    return wait_until(lambda: survey(client, own_url), "etcd to tell its members", PATIENCE, 0.3)


def _seen(member: Member, probes: Mapping[str, tuple[Status, str | None]], cluster_id: str | None) -> Seen:
    peer_url = member.peer_urls[0] if member.peer_urls else ""
    own = [(url, *probes[url]) for url in member.client_urls if url in probes]
    url, status, error = (
        own[0] if own else ("", None, f"the member {member.name or peer_url} has not started")
    )
    if (
        status is not None
        and error is None
        and (status.member_id, status.cluster_id) != (member.id, cluster_id)
    ):
        error = f"etcd at {url}: answers as another member than {member.name or peer_url}"
    return Seen(member.id, member.name, peer_url, url, member.is_learner, status, error)


# --- the host -------------------------------------------------------------------


@dataclass(frozen=True)
class Local:
    """What this host knows of its own member."""

    data: bool
    # The initial-cluster-state of a first start that is not known to have succeeded.
    pending: str | None
    active: str
    restart_reasons: tuple[str, ...] = ()

    @property
    def running(self) -> bool:
        return self.active in ("active", "activating", "reloading")

    @property
    def fresh(self) -> bool:
        """Nothing here is known to have ever been part of a working cluster."""
        return not self.data or self.pending == "new"


def initial_file(data_directory: str) -> Path:
    """Settings of a first start; it exists from before that start until the member was seen healthy."""
    return Path(data_directory + ".initial")


def parse_environment(text: str) -> dict[str, str]:
    """A systemd environment file as data."""
    found = {}
    for line in text.splitlines():
        stripped = line.strip()
        if stripped and not stripped.startswith(("#", ";")) and "=" in stripped:
            key, value = stripped.split("=", 1)
            found[key.strip()] = "".join(shlex.split(value))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise MusterError(f"cannot read {path}: {error.strerror}") from error


def service_state() -> dict[str, str]:
    """State, main process and start time of the service."""
    wanted = "ActiveState,MainPID,ExecMainStartTimestamp"
    answer = systemctl("show", SERVICE, f"--property={wanted}", "--timestamp=us+utc")
    return dict(line.split("=", 1) for line in answer.splitlines() if "=" in line)


def _settings(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in environment.items()
        if key.startswith(PREFIX) and not key.startswith(PREFIX_FIRST_START)
    }


def _process_environment(pid: int) -> dict[str, str]:
    raw = _read(Path(f"/proc/{pid}/environ"))
    return dict(entry.split("=", 1) for entry in raw.split("\0") if "=" in entry)


def restart_reasons(
    running: Mapping[str, str], wanted: Mapping[str, str], started: str, watched: Sequence[str], binary: str
) -> list[str]:
    """Why the running process is not what the files on the host describe."""
    old, new = _settings(running), _settings(wanted)
    reasons = [
        f"{key} is {old.get(key, 'not set')} in the running process and {new.get(key, 'not set')} in its file"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if binary.endswith(" (deleted)"):
        reasons.append("the program was replaced by another version")
    try:
        moment = datetime.strptime(started.split(" ", 1)[1], "%Y-%m-%d %H:%M:%S.%f %Z")
    except (ValueError, IndexError):
        return reasons
    since = moment.replace(tzinfo=UTC).timestamp()
    for path in watched:
        if os.path.exists(path) and os.stat(path).st_mtime > since:
            reasons.append(f"{path} is newer than the running process")
    return reasons


def local_state(params: Mapping[str, Any]) -> Local:
    """Look at this host: data, service, and whether the process runs what is configured."""
    directory = Path(params["data_directory"])
    pending = None
    initial = initial_file(params["data_directory"])
    if initial.exists():
        pending = parse_environment(_read(initial)).get("ETCD_INITIAL_CLUSTER_STATE", "new")
    state = service_state()
    reasons: list[str] = []
    pid = int(state.get("MainPID") or 0)
    if pid:
        reasons = restart_reasons(
            _process_environment(pid),
            parse_environment(_read(Path(params["environment_file"]))),
            state.get("ExecMainStartTimestamp", ""),
            params["watched_files"],
            _link(f"/proc/{pid}/exe"),
        )
    return Local(
        data=(directory / "member" / "wal").is_dir(),
        pending=pending,
        active=state.get("ActiveState", "unknown"),
        restart_reasons=tuple(reasons),
    )


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


# --- the plan -------------------------------------------------------------------


def client_of(params: Mapping[str, Any], timeout: float = 3.0) -> EtcdClient | None:
    """A client of all listed members, the own one last; None before this host has its certificate."""
    files = (params["ca_certificate"], params["certificate"], params["private_key"])
    if not all(map(os.path.exists, files)):
        return None
    declared = declared_members(params["members"])
    urls = [member.client_url for name, member in declared.items() if name != params["name"]]
    urls += [declared[params["name"]].client_url] if params["name"] in declared else []
    ca, certificate, key = files
    return EtcdClient(urls, ca, certificate, key, timeout=timeout)


def plan(me: Declared, local: Local, seen: Survey) -> str:
    """The next step for this host's member.

    C(bootstrap): nothing here, and no working cluster to join. C(start): start it or wait
    for it. C(join): not in the member list. C(replace): listed, but its data is gone.
    C(promote): a learner. C(restart): it runs with other settings than its files hold.
    """
    if seen.split():
        return "refuse"
    if not seen.answers or not seen.has_quorum():
        return "bootstrap" if local.fresh else "start"
    mine = seen.find(me)
    if mine is None:
        return "join"
    if not local.data:
        return "replace" if mine.name else "join"
    if not local.running:
        return "start"
    if mine.is_learner:
        return "promote"
    if local.restart_reasons:
        return "restart"
    return "none" if mine.healthy and local.pending is None else "start"
