# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asking Valkey and its Sentinels in both regions who they are, and what that means.

Which region is primary is what the servers say. Sentinels watch the primary region alone: one that
watched a standby region would, half a minute later, make one of its replicas a second primary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

OPTIONS: dict[str, dict[str, Any]] = {
    "regions": {"type": "dict", "required": True},
    "host": {"type": "str", "required": True},
    "port": {"type": "int", "default": 6379},
    "sentinel_port": {"type": "int", "default": 26379},
    "operator": {"type": "str", "default": "muster_operator"},
    "operator_password": {"type": "str", "required": True, "no_log": True},
    "sentinel_password": {"type": "str", "required": True, "no_log": True},
    "ca_certificate": {"type": "path", "required": True},
    "certificate": {"type": "path", "required": True},
    "private_key": {"type": "path", "required": True},
}
WATCHER = "muster_sentinel"  # as whom the Sentinels log in to the servers
# A Sentinel may fail over to a replica of this priority, and never to one of priority 0.
ELIGIBLE, NEVER = 100, 0
T = TypeVar("T")


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@dataclass(frozen=True)
class Access:
    """How everything is reached."""

    port: int
    sentinel_port: int
    operator: str
    operator_password: str
    sentinel_password: str
    ca_certificate: str
    certificate: str
    private_key: str
    timeout: float = 2.0

    @classmethod
    def from_params(cls, params: Mapping[str, Any], timeout: float = 2.0) -> Access:
        names = [name for name in cls.__dataclass_fields__ if name != "timeout"]
        return cls(**{name: params[name] for name in names}, timeout=timeout)

    def connect(
        self, host: str, sentinel: bool = False, timeout: float | None = None, decode: bool = True
    ) -> Any:
        """A client of one server or Sentinel, over TLS with a verified name."""
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise MusterError("python3-redis is not installed") from error
        return redis.Redis(
            host=host,
            port=self.sentinel_port if sentinel else self.port,
            username=None if sentinel else self.operator,
            password=self.sentinel_password if sentinel else self.operator_password,
            ssl=True,
            ssl_ca_certs=self.ca_certificate,
            ssl_certfile=self.certificate,
            ssl_keyfile=self.private_key,
            ssl_check_hostname=True,
            socket_timeout=timeout or self.timeout,
            socket_connect_timeout=self.timeout,
            decode_responses=decode,
            retry=Retry(NoBackoff(), 0),
            lib_name=None,
            lib_version=None,
        )

    @contextmanager
    def session(
        self, host: str, sentinel: bool = False, timeout: float | None = None, decode: bool = True
    ) -> Iterator[Any]:
        """A client whose errors are sentences that name the host."""
        client = self.connect(host, sentinel, timeout, decode)
        import redis

        try:
            yield client
        except (redis.RedisError, OSError) as error:
            what = "the Sentinel on " if sentinel else ""
            raise MusterError(f"{what}{host}: {first_line(error)}") from error
        finally:
            client.close()


@dataclass
class Server:
    """What one server says of itself; with an error, nothing is known."""

    host: str
    region: str
    error: str | None = None
    role: str | None = None  # primary or replica
    upstream: str | None = None
    link_up: bool = False
    copying: bool = False
    offset: int | None = None
    replid: str | None = None
    priority: int | None = None
    last_io: int | None = None
    replicas: dict[str, dict[str, Any]] = field(default_factory=dict)
    failover: str | None = None
    version: str | None = None
    loading: bool = False
    complaints: list[str] = field(default_factory=list)

    @property
    def writable(self) -> bool:
        return self.error is None and self.role == "primary"

    @property
    def follows(self) -> bool:
        return self.error is None and self.role == "replica"


@dataclass
class Watch:
    """What one Sentinel watches: monitor name to the address of the primary, and how it watches it."""

    host: str
    region: str
    error: str | None = None
    monitors: dict[str, str] = field(default_factory=dict)
    settings: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass
class World:
    """Everything that was seen at about one moment."""

    regions: Mapping[str, Sequence[str]]
    servers: dict[str, Server]
    watches: dict[str, Watch]

    def primaries(self) -> list[Server]:
        return [server for server in self.servers.values() if server.writable]

    def primary(self) -> Server | None:
        """The one that takes writes; None when nobody does, or more than one."""
        found = self.primaries()
        return found[0] if len(found) == 1 else None

    def sole_primary(self) -> Server:
        found = self.primaries()
        if len(found) != 1:
            names = ", ".join(server.host for server in found) or "none"
            raise MusterError(f"exactly one host must take writes, found: {names}")
        return found[0]

    def home(self, host: str) -> str:
        for name, hosts in self.regions.items():
            if host in hosts:
                return name
        raise MusterError(f"{host} is not among the Valkey hosts of any region")

    def of(self, region: str) -> list[Server]:
        return [self.servers[host] for host in self.regions[region]]

    def leader(self, region: str) -> Server | None:
        """Who leads a region: the primary, or the replica that follows the other region."""
        members = [server for server in self.of(region) if server.error is None]
        for server in members:
            if server.writable:
                return server
        heads = [s for s in members if s.upstream and s.upstream not in self.regions[region]]
        heads.sort(key=lambda server: not server.link_up)
        return heads[0] if heads else None

    def answering(self, region: str) -> list[Watch]:
        """The region's Sentinels that answered."""
        found = [self.watches[host] for host in self.regions[region]]
        return [watch for watch in found if watch.error is None]

    def watching(self, region: str) -> list[Watch]:
        """Those of them that watch the region."""
        return [watch for watch in self.answering(region) if monitor_name(region) in watch.monitors]

    def quorum(self, region: str) -> int:
        return len(self.regions[region]) // 2 + 1


def monitor_name(region: str) -> str:
    """Of a region of its own: a Sentinel that missed a move must not hear of the other region's primary."""
    return f"muster-{region}"


def read_server(client: Any, server: Server) -> None:
    """INFO of one server into C(server)."""
    info = client.info("replication", "server", "persistence")
    server.role = "primary" if info["role"] == "master" else "replica"
    server.replid = info.get("master_replid")
    server.failover = info.get("master_failover_state")
    server.offset = int(info["master_repl_offset"])
    for index in range(int(info.get("connected_slaves", 0))):
        seen = info.get(f"slave{index}")
        if isinstance(seen, dict):
            server.replicas[str(seen["ip"])] = seen
    if server.role == "replica":
        server.upstream = str(info["master_host"])
        server.link_up = info.get("master_link_status") == "up"
        server.copying = bool(int(info.get("master_sync_in_progress", 0)))
        server.offset = int(info["slave_repl_offset"])
        server.priority = int(info["slave_priority"])
        seconds = int(info.get("master_last_io_seconds_ago", -1))
        server.last_io = seconds if seconds >= 0 else None
    server.version = str(info.get("valkey_version") or info.get("redis_version"))
    server.loading = bool(int(info.get("loading", 0)))
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        server.complaints.append(f"the last RDB of {server.host} could not be written")
    if int(info.get("aof_enabled", 0)) and info.get("aof_last_write_status", "ok") != "ok":
        server.complaints.append(f"{server.host} cannot write its AOF")


class Survey:
    """Asks all servers and Sentinels at once."""

    def __init__(self, regions: Mapping[str, Sequence[str]], access: Access) -> None:
        self.regions = regions
        self.access = access

    def look(self, sentinels: bool = True, hosts: Sequence[str] | None = None) -> World:
        homes = {host: name for name, members in self.regions.items() for host in members}
        wanted = [host for host in homes if hosts is None or host in hosts]
        jobs: list[Callable[[], Server | Watch]] = [
            partial(self.server, host, homes[host]) for host in wanted
        ]
        if sentinels:
            jobs += [partial(self.watch, host, homes[host]) for host in wanted]
        found = in_parallel(jobs)
        servers = {host: Server(host, homes[host], "was not asked") for host in homes}
        watches = {host: Watch(host, homes[host], "was not asked") for host in homes}
        servers |= {one.host: one for one in found if isinstance(one, Server)}
        watches |= {one.host: one for one in found if isinstance(one, Watch)}
        return World(self.regions, servers, watches)

    def server(self, host: str, region: str) -> Server:
        server = Server(host, region)
        try:
            with self.access.session(host) as client:
                read_server(client, server)
        except (MusterError, KeyError, ValueError) as error:
            return Server(host, region, error=first_line(error))
        return server

    def watch(self, host: str, region: str) -> Watch:
        watch = Watch(host, region)
        try:
            with self.access.session(host, sentinel=True) as client:
                for name, state in client.sentinel_masters().items():
                    watch.monitors[name] = str(state["ip"])
                    watch.settings[name] = {key: str(value) for key, value in state.items()}
        except (MusterError, KeyError, ValueError) as error:
            return Watch(host, region, error=first_line(error))
        return watch


def in_parallel(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """What each returned, in order; the first error of any is raised."""
    if not jobs:
        return []
    with ThreadPoolExecutor(max_workers=len(jobs)) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]


# --- changing ------------------------------------------------------------------


@dataclass(frozen=True)
class Watching:
    """How a Sentinel watches."""

    down_after_ms: int = 5000
    failover_timeout_ms: int = 20000
    parallel_syncs: int = 1

    @classmethod
    def from_params(cls, values: Mapping[str, Any]) -> Watching:
        known = ", ".join(cls.__dataclass_fields__)
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise MusterError(f"watching: unknown {', '.join(unknown)}; known are {known}")
        return cls(**{name: int(value) for name, value in values.items()})

    def settings(self, quorum: int) -> dict[str, str]:
        """As Sentinel names them."""
        return {
            "down-after-milliseconds": str(self.down_after_ms),
            "failover-timeout": str(self.failover_timeout_ms),
            "parallel-syncs": str(self.parallel_syncs),
            "quorum": str(quorum),
        }


def watch_primary(access: Access, host: str, region: str, primary: str, quorum: int, how: Watching) -> bool:
    """Let the Sentinel on C(host) watch the region's primary; True when that changed anything."""
    name, wanted = monitor_name(region), how.settings(quorum)
    with access.session(host, sentinel=True) as client:
        state = client.sentinel_masters().get(name)
        # Whom it watches is its own to say, once it watches: it follows its region's failovers.
        if state and all(str(state.get(key)) == value for key, value in wanted.items()):
            return False
        if not state:
            client.execute_command("SENTINEL", "MONITOR", name, primary, access.port, quorum)
        words = [word for key, value in wanted.items() for word in (key, value)]
        words += ["auth-user", WATCHER, "auth-pass", access.sentinel_password]
        client.execute_command("SENTINEL", "SET", name, *words)
    return True


def tell_sentinels(access: Access, world: World, region: str, primary: str, how: Watching) -> bool:
    """After a move: all Sentinels of the region that answer watch its new primary; a majority must."""
    name, quorum = monitor_name(region), world.quorum(region)

    def one(host: str) -> bool | None:
        try:
            if world.watches[host].monitors.get(name) not in (None, primary):
                # Of an earlier time.
                unwatch(access, host, [region])
            return watch_primary(access, host, region, primary, quorum, how)
        except MusterError:
            return None

    told = in_parallel([partial(one, host) for host in world.regions[region]])
    if len([answer for answer in told if answer is not None]) < quorum:
        raise MusterError(
            f"no majority of the Sentinels of region {region} answers: as a primary it would not be safe"
        )
    return any(told)


def unwatch(access: Access, host: str, regions: Sequence[str]) -> bool:
    """Let the Sentinel on C(host) watch none of these regions; True when that changed anything."""
    with access.session(host, sentinel=True) as client:
        present = [name for name in map(monitor_name, regions) if name in client.sentinel_masters()]
        for name in present:
            client.execute_command("SENTINEL", "REMOVE", name)
    return bool(present)


def set_priority(client: Any, priority: int) -> bool:
    """Whether a Sentinel may make this server primary; kept over restarts. True when it changed."""
    if int(client.config_get("replica-priority")["replica-priority"]) == priority:
        return False
    client.config_set("replica-priority", priority)
    client.config_rewrite()
    return True


def follow(client: Any, host: str, port: int) -> None:
    """Make the server a replica of C(host), also after a restart."""
    client.execute_command("REPLICAOF", host, port)
    client.config_rewrite()


def wanted_upstream(world: World, host: str) -> str | None:
    """Whom a host should follow: None for the primary itself.

    In the primary region that is the primary. In the other, one host is the head and follows the
    primary; the others follow it.
    """
    primary = world.sole_primary()
    if host == primary.host:
        return None
    region = world.home(host)
    if region == primary.region:
        return primary.host
    head = world.leader(region)
    if head is not None and head.follows:
        return primary.host if head.host == host else head.host
    # Nobody leads: the first that answers does, and until any does, the first of all.
    answering = [server.host for server in world.of(region) if server.error is None]
    chosen = (answering or list(world.regions[region]))[0]
    return primary.host if chosen == host else chosen
