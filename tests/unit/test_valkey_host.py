# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Valkey on its own host: members, the fence, the guard, coming back, users, settings and restores."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.filter import valkey as filters
from ansible_collections.muster.platform.plugins.module_utils import (
    _fence,
    _valkey,
    _valkey_isolated,
    _valkey_member,
    _valkey_rejoin,
    _valkey_restore,
    _valkey_state,
)
from ansible_collections.muster.platform.plugins.module_utils import _valkey_status as valkey_status
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.modules import (
    valkey_fence,
    valkey_member,
    valkey_rejoin,
    valkey_restore,
    valkey_verify,
)
from valkey_fake import PARAMS, REGIONS, Platform, ResponseError, Unreached, valkeys

__all__ = ["valkeys"]
Run = Callable[..., dict[str, Any]]
ROLE = Path(__file__).parents[2] / "roles" / "valkey" / "files"
MEMBER = {**PARAMS, "initial_primary_region": "north", "timeout": 0.3}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROLE / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Units:
    """systemd, as far as it is asked."""

    def __init__(self) -> None:
        self.active: set[str] = set()
        self.masked: set[str] = set()
        self.calls: list[str] = []
        self.mask_works = True
        self.starts = True

    def __call__(self, *words: str, check: bool = True, timeout: float = 60) -> str:
        self.calls.append(" ".join(words))
        verb, unit = words[0], words[-1]
        if verb == "is-active":
            return "active" if unit in self.active else "inactive"
        if verb == "is-enabled":
            return "masked" if unit in self.masked else "enabled"
        if verb == "show":
            return "active" if unit in self.active else "inactive"
        if verb == "start" and not self.starts:
            raise MusterError(f"systemctl start {unit} failed")
        if verb in ("start", "restart"):
            self.active.add(unit)
        elif verb in ("stop", "kill"):
            self.active.discard(unit)
        elif verb == "mask" and self.mask_works:
            self.masked.add(unit)
        elif verb == "unmask":
            self.masked.discard(unit)
        return ""


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> Units:
    found = Units()
    for module in (_fence, _valkey_member, _valkey_rejoin, _valkey_restore):
        monkeypatch.setattr(module, "systemctl", found)
    return found


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> _valkey_state.Place:
    (tmp_path / "data").mkdir()
    (tmp_path / "config").mkdir()
    found = _valkey_state.Place(
        str(tmp_path / "config"),
        str(tmp_path / "data"),
        "root",
        str(tmp_path / "applied"),
        str(tmp_path / "guard"),
    )
    for module in (valkey_member, valkey_rejoin, _valkey_restore):
        monkeypatch.setattr(module, "Place", lambda: found)
    return found


# --- a member ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "upstream", "priority"),
    [("north-1", "", 100), ("north-2", "north-1", 100), ("south-1", "north-1", 0), ("south-3", "south-1", 0)],
)
def test_the_first_start_decides_the_parts(
    valkeys: Platform, run_module: Run, units: Units, place: _valkey_state.Place,
    host: str, upstream: str, priority: int,
) -> None:  # fmt: skip
    found = run_module(valkey_member, {**MEMBER, "host": host, "state": "started", "bootstrap": True})
    assert found["changed"] is True
    assert place.upstream() == upstream
    assert f"replica-priority {priority}" in Path(place.server_state).read_text()
    # Only the first primary may start without asking anybody, and once.
    assert Path(place.first_start).exists() is (host == "north-1")
    assert units.active == {"valkey-server.service", "valkey-sentinel.service"}
    assert run_module(valkey_member, {**MEMBER, "host": host, "state": "started"})["changed"] is False


def test_a_new_host_joins_where_the_primary_is(
    valkeys: Platform, run_module: Run, units: Units, place: _valkey_state.Place
) -> None:
    valkeys.lead("south-2")
    valkeys.nodes["north-3"].down = True
    run_module(valkey_member, {**MEMBER, "host": "north-3", "state": "started"})
    assert place.upstream() == "north-1"


def test_a_new_host_does_not_guess(
    valkeys: Platform, run_module: Run, units: Units, place: _valkey_state.Place
) -> None:
    valkeys.nodes["north-1"].down = True
    found = run_module(valkey_member, {**MEMBER, "host": "south-3", "state": "started"})
    assert found["msg"] == (
        "south-3 has no data, and whom it shall follow is not known (exactly one host must take writes, found: none): "
        "bring up the hosts of both regions, or include all of them in this run"
    )
    assert place.upstream() is None
    assert units.active == set()


def test_settings_reach_the_running_server(
    valkeys: Platform, run_module: Run, units: Units, place: _valkey_state.Place
) -> None:
    node = valkeys.nodes["south-2"]
    node.config = {"maxmemory": "0", "databases": "16", "save": "60 1"}
    (Path(place.config) / "server.conf").write_text('maxmemory 64mb\ndatabases 20\nsave ""\nsave "60 1"\n')
    arguments = {**MEMBER, "host": "south-2", "state": "settled"}
    assert run_module(valkey_member, arguments, check=True)["changed"] is True
    assert node.config["maxmemory"] == "0"
    found = run_module(valkey_member, arguments)
    assert (found["changed"], found["restart"]) == (True, ["databases", "sentinel"])
    assert node.config["maxmemory"] == "64mb"
    assert "south-2 ACL LOAD" in valkeys.calls


def test_a_setting_that_valkey_refuses_is_named(
    valkeys: Platform, run_module: Run, units: Units, place: _valkey_state.Place
) -> None:
    valkeys.nodes["south-2"].config = {"hz": "10"}
    (Path(place.config) / "server.conf").write_text("hz nonsense\n")
    found = run_module(valkey_member, {**MEMBER, "host": "south-2", "state": "settled"})
    assert found["msg"] == "valkey_settings: hz cannot be 'nonsense': argument couldn't be parsed"


def test_a_setting_that_valkey_does_not_know_is_named(
    valkeys: Platform,
    run_module: Run,
    units: Units,
    place: _valkey_state.Place,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(_client: Any, name: str, _value: Any) -> None:
        raise ResponseError(f"Unknown option or number of arguments for CONFIG SET - '{name}'")

    monkeypatch.setattr("valkey_fake.Client.config_set", unknown)
    (Path(place.config) / "server.conf").write_text("maxmemmory 1\n")
    found = run_module(valkey_member, {**MEMBER, "host": "south-2", "state": "settled"})
    assert found["msg"].startswith("valkey_settings: maxmemmory cannot be '1': Unknown option")


def test_sentinels_are_told_how_to_watch(
    valkeys: Platform, run_module: Run, units: Units, place: _valkey_state.Place
) -> None:
    arguments = {**MEMBER, "host": "north-2", "state": "settled"}
    assert run_module(valkey_member, arguments)["changed"] is True
    assert run_module(valkey_member, arguments)["changed"] is False
    assert run_module(valkey_member, {**arguments, "watching": {"down_after_ms": 3000}})["changed"] is True
    seen = valkeys.nodes["north-2"].monitors["muster-north"]
    assert (seen["down-after-milliseconds"], seen["ip"]) == ("3000", "north-1")
    assert (seen["auth-user"], seen["auth-pass"]) == ("muster_sentinel", "sentinel-password")
    found = run_module(valkey_member, {**arguments, "watching": {"down_after": 3}})
    assert found["msg"].startswith("watching: unknown down_after; known are ")


def test_new_certificates_and_users_reach_the_server_once(
    valkeys: Platform, run_module: Run, units: Units, place: _valkey_state.Place
) -> None:
    node = valkeys.nodes["south-2"]
    node.config = {name: f"/{name}" for name in _valkey_member.TLS_NAMES}
    lines = [f"{name} /{name}\n" for name in node.config]
    (Path(place.config) / "server.conf").write_text("".join(lines))
    arguments = {**MEMBER, "host": "south-2", "state": "settled"}
    run_module(valkey_member, arguments)
    words = " ".join(f"{name} /{name}" for name in _valkey_member.TLS_NAMES)
    assert f"south-2 CONFIG SET {words}" in valkeys.calls
    valkeys.calls.clear()
    found = run_module(valkey_member, arguments)
    assert (found["changed"], found["restart"]) == (False, ["sentinel"])
    assert not [call for call in valkeys.calls if "ACL LOAD" in call or "CONFIG SET" in call]
    (Path(place.config) / "users.acl").write_text("user a on\n")
    assert run_module(valkey_member, arguments)["changed"] is True
    assert "south-2 ACL LOAD" in valkeys.calls


def test_a_server_that_does_not_stream_is_waited_for(
    valkeys: Platform, run_module: Run, units: Units, place: _valkey_state.Place
) -> None:
    arguments = {**MEMBER, "host": "south-2", "state": "settled"}
    valkeys.nodes["south-2"].link = "down"
    assert run_module(valkey_member, arguments)["msg"] == "waited 0.3 s for south-2 to stream"
    valkeys.nodes["south-2"].link, valkeys.nodes["south-2"].persistence = "up", {"loading": 1}
    assert run_module(valkey_member, arguments)["msg"] == "waited 0.3 s for Valkey on south-2 to answer"
    valkeys.nodes["south-2"].persistence = {}
    valkeys.nodes["south-1"].upstream = None
    assert run_module(valkey_member, arguments)["msg"] == (
        "waited 0.3 s for exactly one host to take writes: exactly one host must take writes, "
        "found: north-1, south-1"
    )


def test_why_a_unit_does_not_start(
    valkeys: Platform, run_module: Run, units: Units, place: _valkey_state.Place
) -> None:
    units.starts = False
    place.write_state("north-1", 6379, 0)
    arguments = {**MEMBER, "host": "south-1", "state": "started"}
    assert run_module(valkey_member, arguments)["msg"] == "systemctl start valkey-server.service failed"
    Path(f"{place.reason}-server").write_text("region north is primary\n")
    assert run_module(valkey_member, arguments)["msg"] == "south-1: region north is primary"


def test_check_mode_starts_nothing(
    valkeys: Platform, run_module: Run, units: Units, place: _valkey_state.Place
) -> None:
    arguments = {**MEMBER, "state": "started", "bootstrap": True}
    assert run_module(valkey_member, arguments, check=True)["changed"] is True
    assert (place.upstream(), units.active) == (None, set())
    again = {**MEMBER, "host": "south-2", "state": "restarted", "restart": ["databases"]}
    assert run_module(valkey_member, again, check=True)["changed"] is True
    assert not [call for call in units.calls if call.startswith(("start", "restart"))]


def test_a_primary_without_a_state_does_not_join(
    valkeys: Platform, run_module: Run, units: Units, place: _valkey_state.Place
) -> None:
    found = run_module(valkey_member, {**MEMBER, "host": "north-1", "state": "started"})
    assert found["msg"] == f"north-1 takes writes but has no {place.server_state}"
    assert units.active == set()


def test_what_strayed_is_brought_back(
    valkeys: Platform, run_module: Run, units: Units, place: _valkey_state.Place
) -> None:
    node = valkeys.nodes["south-3"]
    node.upstream, node.priority, node.monitors = "north-1", 100, {"muster-south": {"ip": "south-3"}}
    found = run_module(valkey_member, {**MEMBER, "host": "south-3", "state": "settled"})
    assert found["changed"] is True
    assert (node.upstream, node.priority, node.monitors) == ("south-1", 0, {})


def test_a_restart_waits_for_the_others(
    valkeys: Platform, run_module: Run, units: Units, place: _valkey_state.Place
) -> None:
    arguments = {**MEMBER, "host": "south-2", "state": "restarted", "restart": ["databases"]}
    valkeys.nodes["south-3"].link = "down"
    found = run_module(valkey_member, arguments)
    assert found["msg"] == "south-2 is not restarted: south-3 does not stream"
    valkeys.nodes["south-3"].link = "up"
    for what in ("down", "sentinel_down"):
        setattr(valkeys.nodes["south-3"], what, True)
        assert run_module(valkey_member, arguments)["msg"].endswith("south-3: Connection refused")
        setattr(valkeys.nodes["south-3"], what, False)
    assert run_module(valkey_member, {**arguments, "roles": ["primary"]})["changed"] is False
    assert units.calls == []
    assert run_module(valkey_member, {**arguments, "roles": ["replica"]})["changed"] is True
    assert units.calls == ["restart valkey-server.service"]
    place.note_applied(["acl", "tls"])
    assert run_module(valkey_member, {**arguments, "restart": ["sentinel"]})["changed"] is True
    assert units.calls[1:] == ["restart valkey-sentinel.service"]
    assert place.not_applied() == []


def test_a_fenced_host_is_left_alone(
    valkeys: Platform, run_module: Run, units: Units, place: _valkey_state.Place
) -> None:
    Path(place.marker).write_text("{}")
    for state in ("started", "settled"):
        assert run_module(valkey_member, {**MEMBER, "state": state})["changed"] is False
    assert units.calls == []


# --- the fence ---------------------------------------------------------------------------------------


def fence(place: _valkey_state.Place) -> dict[str, Any]:
    return {"data_directory": place.data, "marker": place.marker, "ports": [1], "grace": 0.1}


def test_a_fence(run_module: Run, units: Units, place: _valkey_state.Place) -> None:
    units.active = {"valkey-server.service", "valkey-sentinel.service"}
    assert run_module(valkey_fence, fence(place), check=True)["changed"] is True
    found = run_module(valkey_fence, {**fence(place), "operation": "failover to south"})
    assert (found["changed"], found["fenced"]) == (True, True)
    assert found["proof"] | {"proven_at": ""} == {
        "masked": True,
        "processes": 0,
        "listening": [],
        "proven_at": "",
    }
    assert found["note"]["operation"] == "failover to south"
    assert run_module(valkey_fence, fence(place))["changed"] is False
    assert run_module(valkey_fence, {**fence(place), "state": "released"})["changed"] is True
    assert (units.masked, Path(place.marker).exists()) == (set(), False)


def test_a_fence_that_is_not_proven(run_module: Run, units: Units, place: _valkey_state.Place) -> None:
    units.mask_works = False
    found = run_module(valkey_fence, fence(place))
    assert found["msg"].startswith(
        "the fence is not proven: valkey-sentinel.service is not masked; valkey-server.service is not masked"
    )


# --- the guard ----------------------------------------------------------------------------------------


class Seen:
    """What the guard is told by others."""

    def __init__(self, place: _valkey_state.Place, tmp_path: Path) -> None:
        self.module = load("valkey_guard")
        self.primaries: set[str] = set()
        self.watch: dict[str, str | None] = {host: "" for hosts in REGIONS.values() for host in hosts}
        for host in REGIONS["north"]:
            self.watch[host] = "north-1"
        self.given = {
            "host": "north-1",
            "region": "north",
            "regions": REGIONS,
            "port": 6379,
            "server_state": place.server_state,
            "sentinel_state": place.sentinel_state,
            "first_start": place.first_start,
            "marker": place.marker,
            "reason": str(tmp_path / "guard"),
        }

    def decide(self, service: str) -> str:
        """Empty when it may start."""
        guard = self.module.Guard.__new__(self.module.Guard)
        guard.given, guard.host, guard.region, guard.others = self.given, "north-1", "north", ["south"]
        guard.is_primary = lambda host: host in self.primaries
        guard.watches = lambda host, region: (
            self.watch[host] if host.startswith(region) or self.watch[host] is None else ""
        )
        try:
            guard.decide(service)
        except self.module.Refused as error:
            return str(error)
        return ""


@pytest.fixture
def seen(place: _valkey_state.Place, tmp_path: Path) -> Seen:
    place.write_state("", 6379, 100)
    place.write(place.sentinel_state, "sentinel monitor muster-north north-1 6379 2\n")
    return Seen(place, tmp_path)


def test_an_old_primary_that_is_still_named_starts(seen: Seen) -> None:
    assert seen.decide("server") == seen.decide("sentinel") == ""


def test_a_replica_starts_without_asking(seen: Seen, place: _valkey_state.Place) -> None:
    place.write_state("south-1", 6379, 0)
    seen.watch = dict.fromkeys(seen.watch)
    assert seen.decide("server") == ""


def test_who_follows_no_one_asks(seen: Seen, place: _valkey_state.Place) -> None:
    place.write(place.server_state, "replicaof no one\n")
    seen.watch["south-2"] = "south-1"
    assert seen.decide("server").startswith("region south is primary")


def test_one_of_the_other_region_that_takes_writes_is_its_primary(seen: Seen) -> None:
    seen.primaries = {"south-3"}
    assert seen.decide("server").startswith("region south is primary")
    assert seen.decide("sentinel").startswith("region south is primary")


def test_a_sentinel_that_watched_nothing_starts(seen: Seen, place: _valkey_state.Place) -> None:
    place.write(place.sentinel_state, "# Kept by Sentinel itself.\n")
    seen.watch["south-2"] = "south-1"
    assert seen.decide("sentinel") == ""


def test_without_a_state_nothing_starts(seen: Seen, place: _valkey_state.Place) -> None:
    Path(place.server_state).unlink()
    assert "is missing, so that its part is not known" in seen.decide("server")


def test_the_guard_ends_as_it_decides(
    seen: Seen, place: _valkey_state.Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(seen.module.ssl, "create_default_context", lambda **_more: Context())
    config = tmp_path / "guard.json"
    names = ("ca_certificate", "certificate", "private_key")
    config.write_text(json.dumps(seen.given | dict.fromkeys(names, "/pem")))
    Path(place.marker).write_text("")
    assert seen.module.main("server", str(config)) == 1
    assert (tmp_path / "guard-server").read_text().startswith("this host is fenced")
    assert "server may not start: this host is fenced" in capsys.readouterr().err
    Path(place.marker).unlink()
    place.write_state("south-1", 6379, 0)
    assert seen.module.main("server", str(config)) == 0
    assert (tmp_path / "guard-server").read_text() == ""
    # What cannot be read is not taken for allowed.
    Path(place.server_state).unlink()
    Path(place.server_state).mkdir()
    assert seen.module.main("server", str(config)) == 1


class Context:
    def load_cert_chain(self, *_files: str) -> None:
        pass


@pytest.mark.parametrize(
    ("answer", "primary", "watched"),
    [
        (["master", 5, []], True, "master"),
        (["slave", "north-1"], False, "slave"),
        ([], False, ""),
        (None, False, ""),
        (7, False, None),
        (OSError("the connection ended"), False, None),
    ],
)
def test_what_is_not_said_is_not_known(
    seen: Seen, monkeypatch: pytest.MonkeyPatch, answer: Any, primary: bool, watched: str | None
) -> None:
    class Peer:
        def __init__(self, *_where: Any) -> None:
            pass

        def close(self) -> None:
            pass

        def ask(self, *_words: str) -> Any:
            if isinstance(answer, OSError):
                raise answer
            return answer

    guard = seen.module.Guard.__new__(seen.module.Guard)
    guard.given = seen.given | {
        "operator": "o",
        "operator_password": "p",
        "sentinel_port": 1,
        "sentinel_password": "s",
    }
    guard.context = None
    monkeypatch.setattr(seen.module, "Peer", Peer)
    assert guard.is_primary("south-1") is primary
    assert guard.watches("south-1", "south") == watched

    def refuse(*_where: Any) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(seen.module, "Peer", refuse)
    assert (guard.is_primary("south-1"), guard.watches("south-1", "south")) == (False, None)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"+OK\r\n*3\r\n$6\r\nmaster\r\n:5\r\n*0\r\n", ["master", 5, []]),
        (b"+OK\r\n*-1\r\n", None),
        (b"+OK\r\n$-1\r\n", None),
        (b"-WRONGPASS\r\n", "WRONGPASS"),
        (b"+OK\r\n-NOPERM\r\n", "NOPERM"),
        (b"+OK\r\n*3\r\n$6\r\nmas", "the connection ended"),
        (b"+OK\r\n!\r\n", "an unexpected answer"),
        (b"", "the connection ended"),
    ],
)
def test_what_the_guard_reads(monkeypatch: pytest.MonkeyPatch, said: bytes, answer: Any) -> None:
    import socket

    guard = load("valkey_guard")
    mine, theirs = socket.socketpair()
    theirs.sendall(said)
    theirs.shutdown(socket.SHUT_WR)
    monkeypatch.setattr(guard.socket, "create_connection", lambda *_where: mine)
    context = SimpleNamespace(wrap_socket=lambda plain, server_hostname: plain)
    with theirs:
        if isinstance(answer, str):
            with pytest.raises(OSError, match=answer):
                guard.Peer("south-1", 6379, context, ["o", "p"]).ask("ROLE")
            return
        peer = guard.Peer("south-1", 6379, context, ["o", "p"])
        assert peer.ask("ROLE") == answer
        peer.close()
        assert theirs.recv(100) == b"*3\r\n$4\r\nAUTH\r\n$1\r\no\r\n$1\r\np\r\n*1\r\n$4\r\nROLE\r\n"


def test_the_other_region_is_primary_by_now(seen: Seen) -> None:
    seen.watch["south-2"] = "south-1"
    sentence = (
        "region south is primary: as a second primary north would lose writes; "
        "dr_reprotect brings it back as a standby"
    )
    assert seen.decide("server") == seen.decide("sentinel") == sentence


def test_an_unknown_other_region_is_waited_for(seen: Seen) -> None:
    seen.watch["south-1"] = seen.watch["south-3"] = None
    said = seen.decide("server")
    assert said.startswith("the Sentinels of south-1, south-3 do not answer")
    assert "dr_failover to this one decides it" in said
    assert seen.decide("sentinel") == said


def test_another_of_the_region_took_over(seen: Seen, place: _valkey_state.Place) -> None:
    seen.primaries = {"north-2"}
    seen.watch["south-1"] = seen.watch["south-3"] = None
    assert seen.decide("server") == seen.decide("sentinel") == ""
    assert place.upstream() == "north-2"


def test_the_sentinels_name_another(seen: Seen, place: _valkey_state.Place) -> None:
    seen.watch["north-2"] = seen.watch["north-3"] = "north-3"
    assert seen.decide("server") == ""
    assert place.upstream() == "north-3"


def test_sentinels_that_do_not_agree(seen: Seen) -> None:
    seen.watch["north-1"] = seen.watch["north-2"] = None
    assert seen.decide("server").startswith(
        "no majority of the Sentinels of region north says who is primary"
    )


def test_a_first_start_is_allowed_once(seen: Seen, place: _valkey_state.Place) -> None:
    place.write(place.first_start, "")
    seen.watch = dict.fromkeys(seen.watch)
    assert seen.decide("server") == ""
    assert seen.decide("server") != ""


def test_a_fenced_host_does_not_start(seen: Seen, place: _valkey_state.Place) -> None:
    place.write_state("south-1", 6379, 0)
    Path(place.marker).write_text("")
    assert seen.decide("server").startswith("this host is fenced")


# --- coming back ----------------------------------------------------------------------------------------


def test_nothing_to_reprotect(
    valkeys: Platform, run_module: Run, units: Units, place: _valkey_state.Place
) -> None:
    arguments = {**PARAMS, "host": "north-1", "head": "north-1", "step": "look"}
    assert run_module(valkey_rejoin, arguments)["msg"] == (
        "region north is primary itself: there is nothing to re-protect"
    )
    valkeys.nodes["north-1"].down = True
    assert run_module(valkey_rejoin, arguments)["msg"] == "exactly one host must take writes, found: none"
    found = run_module(valkey_rejoin, {**arguments, "head": "south-1"})
    assert found["msg"] == "head is south-1, which is no host of the region of north-1"


def test_old_data_is_moved_aside_before_the_host_comes_back(
    valkeys: Platform, run_module: Run, units: Units, place: _valkey_state.Place, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    valkeys.lead("south-1")
    arguments = {**PARAMS, "host": "north-2", "head": "north-1", "save_directory": str(tmp_path / "saved")}
    arguments |= {"timeout": 0.3, "port": 1, "sentinel_port": 2}
    loose = run_module(valkey_rejoin, {**arguments, "step": "save"})
    assert (loose["changed"], loose["saved"]) == (False, None)
    monkeypatch.setattr(
        _valkey_rejoin.Rejoin,
        "listed",
        lambda _self, _directory, _primary: {"count": 2, "missing": 1, "different": 1},
    )
    append = Path(place.append_directory)
    append.mkdir()
    (append / "appendonly.aof.1.incr.aof").write_text("the tail")
    run_module(valkey_fence, fence(place))
    early = run_module(valkey_rejoin, {**arguments, "step": "rejoin"})
    assert early["msg"] == "what only north-2 has is not saved yet: nothing was started"
    units.masked.discard("valkey-server.service")
    found = run_module(valkey_rejoin, {**arguments, "step": "save"})
    assert found["msg"].startswith("north-2 is not fenced as it should be: ")
    units.masked.add("valkey-server.service")
    found = run_module(valkey_rejoin, {**arguments, "step": "save"}, check=True)
    assert (found["changed"], append.exists()) == (True, True)
    found = run_module(valkey_rejoin, {**arguments, "step": "save"})
    assert (found["changed"], found["saved"]["count"]) == (True, 2)
    kept = Path(found["saved"]["directory"]) / "data" / "appendonlydir" / "appendonly.aof.1.incr.aof"
    assert kept.read_text() == "the tail"
    assert not append.exists()
    assert run_module(valkey_rejoin, {**arguments, "step": "save"})["changed"] is False
    assert run_module(valkey_rejoin, {**arguments, "step": "rejoin"}, check=True)["changed"] is True
    assert units.active == set()
    assert run_module(valkey_rejoin, {**arguments, "step": "rejoin"})["changed"] is True
    assert units.masked == set()
    assert place.upstream() == "north-1"
    assert units.active == {"valkey-server.service", "valkey-sentinel.service"}
    assert "monitor" not in Path(place.sentinel_state).read_text()


@pytest.fixture
def rejoin(valkeys: Platform, place: _valkey_state.Place) -> _valkey_rejoin.Rejoin:
    access = _valkey.Access.from_params({**_valkey_defaults(), **PARAMS})
    return _valkey_rejoin.Rejoin(
        host="north-2", head="north-1", regions=REGIONS, access=access, place=place,
        fence=None, member=None, save_directory="", max_keys=2, timeout=0.3,  # type: ignore[arg-type]
    )  # fmt: skip


def _valkey_defaults() -> dict[str, Any]:
    return {name: option.get("default") for name, option in _valkey.OPTIONS.items()}


def test_data_on_another_file_system_is_whole_before_the_old_goes(
    rejoin: _valkey_rejoin.Rejoin, place: _valkey_state.Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, rdb, target = Path(place.append_directory), Path(place.data) / "dump.rdb", tmp_path / "s" / "data"
    append.mkdir()
    for number in (1, 2):
        (append / f"{number}.aof").write_text(str(number))
    rdb.write_text("rdb")

    def other_file_system(*_paths: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    real = _valkey_rejoin.shutil.rmtree

    def interrupted(path: Path) -> None:
        if path == append:
            (path / "1.aof").unlink()
            raise KeyboardInterrupt
        real(path)

    monkeypatch.setattr(_valkey_rejoin.os, "rename", other_file_system)
    # Of a run that was killed while it copied.
    (target / "appendonlydir.partial").mkdir(parents=True)
    (target / "appendonlydir.partial" / "3.aof").touch()
    with monkeypatch.context() as context:
        context.setattr(_valkey_rejoin.shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rejoin.set_aside(target)
    rejoin.set_aside(target)
    assert [(target / "appendonlydir" / f"{number}.aof").read_text() for number in (1, 2)] == ["1", "2"]
    assert (target / "dump.rdb").read_text() == "rdb"
    assert list(Path(place.data).iterdir()) == []
    assert (target.parent.stat().st_mode & 0o777, len(list(target.iterdir()))) == (0o700, 2)
    assert not (target / "appendonlydir" / "3.aof").exists()


def test_data_on_another_file_system_is_on_the_disk_before_the_old_goes(
    rejoin: _valkey_rejoin.Rejoin, place: _valkey_state.Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rdb, target = Path(place.data) / "dump.rdb", tmp_path / "s" / "data"
    rdb.write_text("rdb")
    done: list[tuple[str, bool, bool]] = []

    def note(what: str) -> None:
        done.append((what, (target / "dump.rdb").exists(), rdb.exists()))

    def other_file_system(*_paths: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(_valkey_rejoin.os, "rename", other_file_system)
    monkeypatch.setattr(_valkey_rejoin.os, "sync", lambda: note("contents"))
    monkeypatch.setattr(_valkey_rejoin, "sync", lambda directory: note(f"names in {directory}"))
    rejoin.set_aside(target)
    assert done == [("contents", False, True), (f"names in {target}", True, True)]
    assert not rdb.exists()


def test_data_that_cannot_be_moved_stays(
    rejoin: _valkey_rejoin.Rejoin, place: _valkey_state.Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_paths: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (Path(place.data) / "dump.rdb").write_text("rdb")
    monkeypatch.setattr(_valkey_rejoin.os, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        rejoin.set_aside(tmp_path / "s" / "data")
    assert (Path(place.data) / "dump.rdb").read_text() == "rdb"


def test_a_copy_of_the_old_data_is_compared(
    rejoin: _valkey_rejoin.Rejoin, place: _valkey_state.Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "saved"
    (saved / "data").mkdir(parents=True)
    primary = _valkey.Server("south-1", "south")
    assert rejoin.listed(saved, primary)["reason"] == "no data"
    (saved / "data" / "dump.rdb").write_text("rdb")
    # Of a run that was killed while it compared.
    (Path(place.data) / "reprotect").mkdir()
    old = Keys(only="1", other="2", third="3", same="4")

    @contextlib.contextmanager
    def served(directory: Path, append_only: bool, timeout: float, user: str) -> Iterator[Any]:
        assert (directory, append_only, user) == (Path(place.data) / "reprotect", False, "root")
        assert (directory / "dump.rdb").read_text() == "rdb"
        yield old

    @contextlib.contextmanager
    def session(_access: Any, host: str, timeout: float, decode: bool) -> Iterator[Any]:
        assert (host, decode) == ("south-1", False)
        yield Keys(same="4", other="5")

    rooms: list[Path] = []
    monkeypatch.setattr(_valkey_isolated, "check_room", lambda room, _needed: rooms.append(room))
    monkeypatch.setattr(_valkey_isolated, "served", served)
    monkeypatch.setattr(_valkey.Access, "session", session)
    found = rejoin.listed(saved, primary)
    assert rooms == [Path(place.data)]
    assert found | {"file": ""} == {
        "count": 3, "missing": 2, "different": 1, "bytes": 3, "file": "",
        "reason": "only the first 2 are in the file", "canary": "",
    }  # fmt: skip
    lines = [json.loads(line) for line in (saved / "keys.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == ["only", "other"]
    assert (saved / "keys.jsonl").stat().st_mode & 0o777 == 0o600
    assert not (Path(place.data) / "reprotect").exists()


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, valkeys: Platform, tmp_path: Path) -> Callable[[str], None]:
    """A server on a copy of data, as a shell script, and a client of it."""

    class Local:
        def ping(self) -> None:
            if not (tmp_path / "copy" / "up").exists():
                raise Unreached("No such file or directory")

        def close(self) -> None:
            pass

    def write(text: str) -> None:
        (tmp_path / "server").write_text(f"#!/bin/sh\n{text}\n")

    (tmp_path / "server").touch(0o755)
    (tmp_path / "copy").mkdir()
    monkeypatch.setattr(_valkey_isolated, "PROGRAM", str(tmp_path / "server"))
    monkeypatch.setattr(sys.modules["redis"], "Redis", lambda **_more: Local())
    return write


def test_data_that_no_server_takes(program: Callable[[str], None], tmp_path: Path) -> None:
    program("echo Bad file format; exit 1")
    with (
        pytest.raises(MusterError, match=r"^Valkey did not take the data: Bad file format$"),
        _valkey_isolated.served(tmp_path / "copy", False, 10, "root"),
    ):
        pass


def test_a_server_that_does_not_answer_is_ended(program: Callable[[str], None], tmp_path: Path) -> None:
    program("echo $$ > pid; exec sleep 60")
    with (
        pytest.raises(MusterError, match=r"^waited 0.5 s for a server on the data in "),
        _valkey_isolated.served(tmp_path / "copy", False, 0.5, "root"),
    ):
        pass
    assert not Path("/proc", (tmp_path / "copy" / "pid").read_text().strip()).exists()


def test_what_a_server_on_a_copy_answers(program: Callable[[str], None], tmp_path: Path) -> None:
    program('echo "$@" > words; touch up; exec sleep 60')
    with (
        pytest.raises(MusterError, match=r"^the server on the data in \S+: Connection reset$"),
        _valkey_isolated.served(tmp_path / "copy", True, 10, "root"),
    ):
        raise Unreached("Connection reset")
    words = (tmp_path / "copy" / "words").read_text()
    assert words.startswith("--port 0 --unixsocket ")
    assert " --appendonly yes " in words


def test_too_little_room(tmp_path: Path) -> None:
    with pytest.raises(MusterError, match=r"MB free and [0-9]+ MB are needed"):
        _valkey_isolated.check_room(tmp_path, 1 << 60)
    _valkey_isolated.check_room(tmp_path, 1)


class Keys:
    """A server's keys, as the comparison reads them."""

    def __init__(self, **values: Any) -> None:
        self.values = {key.encode(): value for key, value in values.items()}
        self.connection_pool = SimpleNamespace(connection_kwargs={}, disconnect=lambda: None)

    def info(self, section: str) -> dict[str, Any]:
        return {"db0": {"keys": len(self.values)}} if section == "keyspace" else {}

    def scan_iter(self, count: int, match: str = "*") -> list[bytes]:
        return [key for key in self.values if fnmatch.fnmatchcase(key.decode(), match)]

    def get(self, key: bytes) -> Any:
        return self.values.get(key)

    def pipeline(self, transaction: bool) -> Keys:
        self.asked: list[bytes] = []
        self.piped = True
        return self

    def execute(self) -> list[Any]:
        self.piped = False
        return [repr(self.values[key]).encode() if key in self.values else None for key in self.asked]

    def execute_command(self, *words: Any) -> Any:
        if words[0] == "DUMP":
            self.asked.append(words[1])
            return None
        value = self.values.get(words[1])
        kinds = {str: b"string", list: b"set"}
        return {"TYPE": kinds.get(type(value), b"none"), "PTTL": -1}.get(words[0], value)


def test_the_canarys_numbers_of_one_side_are_told() -> None:
    first, second = "{muster:canary}:0", "{muster:canary}:1"
    state = {"{muster:canary}:state": "x"}
    # The first bit of a byte is its highest: the numbers 1, 2 and 8 are in the old side's first block.
    old = Keys(**{first: b"\x60\x80", second: b"\x40"}, **state)
    new = Keys(**{first: b"\x40"}, **state)
    # What was compared last is another database than the canary's.
    for client in (old, new):
        _valkey_rejoin.use(client, 3)
    assert _valkey_rejoin.canary_of_one_side(old, new) == "2,8,65537"
    assert [client.connection_pool.connection_kwargs["db"] for client in (old, new)] == [0, 0]
    assert _valkey_rejoin.canary_of_one_side(new, old) == ""


def test_only_what_differs_is_listed() -> None:
    old = Keys(same="1", changed="old", gone="x", order=["a", "b"], members=["a"])
    new = Keys(same="1", changed="new", order=["b", "a"], members=["a", "b"], later="y")
    found = {entry["key"]: entry["state"] for entry in _valkey_rejoin.differences(old, new, 0)}
    assert found == {"changed": "different", "gone": "missing", "members": "different"}


# --- users and settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "problem"),
    [
        ({"name": "a", "password": "p", "rules": "~* +@all"}, None),
        ({"name": "a", "password": "p", "rules": "%R~x:* &c +get -config|set allkeys (~y +@read)"}, None),
        ({"name": "a", "password": "p", "rules": "+@nosuch"}, "rules of user a: there is no category @nosuch"),
        ({"name": "a", "password": "p", "rules": ">secret +get"}, "rules of user a: > belongs into password, not into rules"),
        ({"name": "a", "password": "p", "rules": "nopass"}, "rules of user a: nopass belongs into password, not into rules"),
        (
            {"name": "a", "password": "p", "rules": "get"},
            "rules of user a: 'get' is no rule (of the kinds ~keys, &channels, +command, +@category)",
        ),
        ({"name": "a", "password": "", "rules": "+get"}, "user a has no password"),
        ({"name": "a", "password": "p", "rules": " "}, "user a has no rules, so that it could do nothing"),
        ({"name": "default", "password": "p", "rules": "+get"}, "the name 'default' is the role's own"),
        ({"name": "muster_check", "password": "p", "rules": "+get"}, "the name 'muster_check' is the role's own"),
        ({"name": "a b", "password": "p", "rules": "+get"}, "the name 'a b' may hold letters, digits and _ . @ : - only"),
        ("a", "each needs a name, a password and rules"),
    ],
)  # fmt: skip
def test_users_are_checked(user: Any, problem: str | None) -> None:
    assert filters.valkey_acl_problems([user]) == ([problem] if problem else [])


def test_a_user_declared_twice() -> None:
    user = {"name": "a", "password": "p", "rules": "+get"}
    assert filters.valkey_acl_problems([user, user]) == ["user a is declared twice"]
    assert filters.valkey_acl_problems("a") == ["it must be a list"]


def test_the_file_of_users_holds_no_password() -> None:
    text = filters.valkey_acl_file([{"name": "a", "password": 'p " \\', "rules": " ~*\n +@all "}])
    digest = hashlib.sha256(b'p " \\').hexdigest()
    assert text.splitlines() == [
        "user default off sanitize-payload ~* &* +@all",
        f"user a on sanitize-payload resetchannels #{digest} ~* +@all",
    ]
    shown = filters.valkey_acl_file([{"name": "a", "password": "p", "rules": "~* +@all"}], passwords=False)
    assert shown.splitlines()[1] == "user a off resetchannels ~* +@all"


def test_words_of_the_configuration_are_quoted() -> None:
    assert [filters.valkey_quote(value) for value in (True, 5, "a/b", 'a "b" \\', "")] == [
        "yes",
        "5",
        "a/b",
        '"a \\"b\\" \\\\"',
        '""',
    ]


def test_the_check_of_a_load_balancer() -> None:
    sent = bytes.fromhex(filters.valkey_role_check("pass word"))
    assert sent == (
        b"*3\r\n$4\r\nAUTH\r\n$12\r\nmuster_check\r\n$9\r\npass word\r\n*1\r\n$4\r\nROLE\r\n*1\r\n$4\r\nQUIT\r\n"
    )


@pytest.mark.parametrize(
    ("name", "declared", "running", "waits"),
    [
        ("maxmemory", "64mb", "67108864", False),
        ("maxmemory", "64mb", "0", True),
        ("save", " 3600 1 60 5", "3600 1 60 5", False),
        ("notify-keyspace-events", "KEA", "AKE", False),
        ("client-output-buffer-limit", "replica 1mb 1mb 60", "normal 0 0 0 slave 1048576 1048576 60 pubsub 1 1 1", False),
        ("nosuch", "1", None, True),
    ],
)  # fmt: skip
def test_what_waits_to_be_applied(name: str, declared: str, running: str | None, waits: bool) -> None:
    values = {} if running is None else {name: running}
    assert _valkey_state.pending({name: declared}, values) == ([name] if waits else [])


# --- backups and restores --------------------------------------------------------------------------------------


def take(tmp_path: Path, text: bytes = b"an RDB", passphrase: str = "a long passphrase") -> dict[str, Any]:
    """A backup as the program encrypts it."""
    program = load("muster_valkey_backup")
    key = tmp_path / "key"
    key.write_text(passphrase + "\n")
    plain, target = tmp_path / "plain", tmp_path / "valkey-20261126T010000Z.rdb.enc"
    plain.write_bytes(text)
    total = program.encrypt(plain, target, str(key))
    target.with_suffix(".json").write_text(json.dumps({"taken_at": "2026-11-26T01:00:00Z", "sha256": total}))
    return {
        "step": "isolated",
        "host": "north-1",
        "backup_directory": str(tmp_path),
        "key": str(key),
        "directory": str(tmp_path / "restored"),
    }


class Read:
    """What a server on the copy says, and what valkey-check-rdb counts."""

    def __init__(self, program: Path) -> None:
        self.program = program
        self.loaded = 6
        self.rooms: list[Path] = []
        self.says("[offset 9] Checksum OK\n[info] 7 keys read\n[info] 1 expires")

    def says(self, text: str, code: int = 0) -> None:
        self.program.write_text(f"#!/bin/sh\ncat <<END\n{text}\nEND\nexit {code}\n")
        self.program.chmod(0o755)

    def info(self, section: str) -> dict[str, Any]:
        if section == "keyspace":
            return {"db0": {"keys": 6}}
        return {"rdb_last_load_keys_loaded": self.loaded, "rdb_last_load_keys_expired": 1}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Read:
    found = Read(tmp_path / "valkey-check-rdb")

    @contextlib.contextmanager
    def served(directory: Path, append_only: bool, timeout: float, user: str = "") -> Any:
        assert (directory / "dump.rdb").read_bytes() == b"an RDB"
        assert not append_only
        found.rooms.append(directory)
        yield found

    monkeypatch.setattr(_valkey_isolated, "served", served)
    monkeypatch.setattr(_valkey_restore, "PROOF", str(tmp_path / "proof" / "restore.json"))
    monkeypatch.setattr(_valkey_restore, "CHECK_RDB", str(found.program))
    return found


def test_a_backup_is_read_back(run_module: Run, tmp_path: Path, read: Read) -> None:
    arguments = take(tmp_path)
    assert b"an RDB" not in (tmp_path / "valkey-20261126T010000Z.rdb.enc").read_bytes()
    assert run_module(valkey_restore, arguments, check=True)["changed"] is True
    (tmp_path / "restored").mkdir()
    answer = run_module(valkey_restore, arguments)
    found = answer["restored"]
    assert answer["changed"] is True
    assert (found["key_count"], found["taken_at"]) == (6, "2026-11-26T01:00:00Z")
    assert json.loads((tmp_path / "proof" / "restore.json").read_text())["proven_at"] == found["proven_at"]
    again = run_module(valkey_restore, arguments)
    assert again["msg"] == f"{tmp_path / 'restored'} is not empty: nothing was restored"


def test_a_restore_of_which_keys_are_missing_fails(run_module: Run, tmp_path: Path, read: Read) -> None:
    read.loaded = 5
    found = run_module(valkey_restore, take(tmp_path))
    assert found["msg"].endswith("is not restored whole: of 7 keys a server read 5, and 1 more had expired")
    assert not (tmp_path / "proof").exists()


def proving(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "data").mkdir(exist_ok=True)
    return {**take(tmp_path), "step": "prove", "directory": str(tmp_path / "data")}


def test_a_proof_leaves_nothing_but_its_note(run_module: Run, tmp_path: Path, read: Read) -> None:
    arguments = proving(tmp_path)
    live, killed = tmp_path / "data" / "dump.rdb", tmp_path / "data" / ".restore-proof-killed"
    live.write_text("live")
    killed.mkdir()
    assert run_module(valkey_restore, arguments, check=True)["changed"] is True
    assert not read.rooms
    found = run_module(valkey_restore, arguments)["restored"]
    assert [(check["name"], check["passed"]) for check in found["checks"]] == [
        ("sha256", True),
        ("keys", True),
    ]
    assert found["checks"][1]["detail"] == "of 7 keys a server read 6, and 1 more had expired"
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["dump.rdb"]
    assert live.read_text() == "live"
    told = valkey_status.noted(str(tmp_path / "proof" / "restore.json"), "proven_at")
    assert told == found["proven_at"]


def test_what_is_not_proven_is_told_and_not_noted(run_module: Run, tmp_path: Path, read: Read) -> None:
    arguments = proving(tmp_path)
    read.loaded = 5
    found = run_module(valkey_restore, arguments)["restored"]
    assert [check["passed"] for check in found["checks"]] == [True, False]
    read.says("Unexpected EOF reading RDB file", code=1)
    found = run_module(valkey_restore, arguments)
    assert found["msg"].endswith("valkey-check-rdb does not read the RDB: Unexpected EOF reading RDB file")
    read.says("[info] 7 keys read\nRDB CRC error", code=1)
    assert run_module(valkey_restore, arguments)["msg"].endswith("does not read the RDB: RDB CRC error")
    read.says("7 keys, as a later version may say it")
    assert "does not read the RDB: 7 keys, as a later" in run_module(valkey_restore, arguments)["msg"]
    (tmp_path / "key").write_text("another passphrase\n")
    assert "does not decrypt to what was saved" in run_module(valkey_restore, arguments)["msg"]
    assert not list((tmp_path / "data").iterdir())
    assert not (tmp_path / "proof").exists()
    nowhere = str(tmp_path / "nowhere")
    found = run_module(valkey_restore, {**arguments, "directory": nowhere})
    assert found["msg"] == f"{nowhere} is no directory: nothing was restored"


def test_a_backup_that_is_none(run_module: Run, tmp_path: Path, read: Read) -> None:
    arguments = take(tmp_path)
    (tmp_path / "valkey-20261126T010000Z.rdb.json").unlink()
    assert run_module(valkey_restore, arguments)["msg"] == f"north-1 has no proven backup in {tmp_path}"
    found = run_module(valkey_restore, {**arguments, "backup": "valkey-20261126T010000Z.rdb.enc"})
    assert "is no backup that was proven when it was taken" in found["msg"]


def test_another_passphrase(run_module: Run, tmp_path: Path, read: Read) -> None:
    arguments = take(tmp_path)
    (tmp_path / "key").write_text("another passphrase\n")
    found = run_module(valkey_restore, arguments)
    assert found["msg"].endswith("does not decrypt to what was saved: another passphrase, or it is damaged")


def test_stock_openssl_reads_a_backup(tmp_path: Path) -> None:
    take(tmp_path)
    words = ["openssl", "enc", "-d", "-aes-256-ctr", "-pbkdf2", "-iter", "200000", "-md", "sha256"]
    done = subprocess.run(
        [
            *words,
            "-pass",
            f"file:{tmp_path / 'key'}",
            "-in",
            str(tmp_path / "valkey-20261126T010000Z.rdb.enc"),
        ],
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"an RDB"


def test_old_backups_go_and_the_newest_stays(tmp_path: Path) -> None:
    program = load("muster_valkey_backup")
    for stamp in ("20200101T000000Z", "20200102T000000Z", "29990101T000000Z"):
        (tmp_path / f"valkey-{stamp}.rdb.enc").touch()
        (tmp_path / f"valkey-{stamp}.rdb.json").touch()
    assert program.prune(tmp_path, 14, "valkey-20200102T000000Z.rdb.enc") == [
        "valkey-20200101T000000Z.rdb.enc"
    ]
    assert len(list(tmp_path.iterdir())) == 4


def test_a_host_takes_its_part_in_a_restore(
    run_module: Run,
    units: Units,
    place: _valkey_state.Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room = tmp_path / "room"
    arguments = {"step": "replace", "host": "north-1", "directory": str(room)}
    found = run_module(valkey_restore, arguments)
    assert found["msg"] == f"{room / 'dump.rdb'} is missing: restore into that directory first"
    assert units.calls == []
    room.mkdir()
    (room / "dump.rdb").write_text("restored")
    (Path(place.data) / "dump.rdb").write_text("old")
    synced: list[str] = []
    live = Path(place.data) / "dump.rdb"
    monkeypatch.setattr(_valkey_restore.os, "sync", lambda: synced.append(live.read_text()))
    found = run_module(valkey_restore, arguments)
    assert synced == ["restored"]
    assert (Path(found["old_directory"]) / "dump.rdb").read_text() == "old"
    append = Path(place.append_directory)
    assert (append / "appendonly.aof.1.base.rdb").read_text() == "restored"
    assert (append / "appendonly.aof.manifest").read_text() == "file appendonly.aof.1.base.rdb seq 1 type b\n"
    assert (place.upstream(), Path(place.first_start).exists()) == ("", True)


def test_a_fenced_host_takes_no_part_in_a_restore(
    run_module: Run, units: Units, place: _valkey_state.Place, tmp_path: Path
) -> None:
    Path(place.marker).write_text("{}")
    arguments = {"step": "replace", "host": "north-2", "directory": str(tmp_path), "upstream": "north-1"}
    found = run_module(valkey_restore, arguments)
    assert found["msg"] == "north-2 is fenced: dr_reprotect brings it back first"


# --- the applications' endpoint -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hosts", "answer", "reason"),
    [
        ([], None, None),
        (["south-1"], None, "it leads to north-1, which is not of south-1"),
        ([], b"other", "what was written was not read back"),
        ([], Unreached("NOAUTH"), "NOAUTH"),
    ],
)
def test_a_write_through_the_endpoint(
    valkeys: Platform, run_module: Run, hosts: list[str], answer: Any, reason: str | None
) -> None:

    class Connection:
        def __init__(self, **_more: Any) -> None:
            self._sock = SimpleNamespace(getpeercert=lambda: {"subject": ((("commonName", "north-1"),),)})
            self.value = b""

        def connect(self) -> None:
            pass

        def disconnect(self) -> None:
            pass

        def send_command(self, name: str, _key: str, value: str = "", *_more: Any) -> None:
            self.value = value.encode() or self.value

        def read_response(self) -> bytes:
            if isinstance(answer, Exception):
                raise answer
            return answer or self.value

    sys.modules["redis"].SSLConnection = Connection  # type: ignore[attr-defined]
    arguments = {
        "endpoints": [{"host": "north-3", "port": 6379}],
        "user": "application",
        "password": "secret",
        "ca_certificate": "/ca.crt",
        "hosts": hosts,
        "timeout": 0,
    }
    found = run_module(valkey_verify, arguments)
    if reason:
        assert found["msg"] == f"waited 0 s for a write through north-3:6379: {reason}"
    else:
        assert found["endpoints"][0]["server"] == "north-1"


class Saver:
    """A server that saves an RDB when it is asked."""

    def __init__(self, works: bool) -> None:
        self.saves, self.works = 3, works

    def info(self, section: str) -> dict[str, Any]:
        return {
            "persistence": {
                "rdb_bgsave_in_progress": 0,
                "aof_rewrite_in_progress": 0,
                "rdb_last_bgsave_status": "ok" if self.works else "err",
                "rdb_saves": self.saves,
            },
            "replication": {
                "role": "slave",
                "slave_repl_offset": 70,
                "master_repl_offset": 70,
                "master_replid": "a",
            },
            "keyspace": {"db0": {"keys": 4}, "db1": {"keys": 1}},
        }[section]

    def execute_command(self, name: str) -> None:
        assert name == "BGSAVE"
        self.saves += self.works


def test_a_save_that_was_begun_now_counts() -> None:
    program = load("muster_valkey_backup")
    assert program.save(Saver(works=True), 1) == {
        "role": "replica",
        "position": "70",
        "timeline": "a",
        "keys_about": 5,
    }
    with pytest.raises(program.BackupError, match="could not save an RDB"):
        program.save(Saver(works=False), 1)


def test_a_backup_that_does_not_decrypt_is_none(tmp_path: Path) -> None:
    program = load("muster_valkey_backup")
    arguments = take(tmp_path)
    with pytest.raises(program.BackupError, match="does not decrypt to what was saved"):
        program.prove(tmp_path / "valkey-20261126T010000Z.rdb.enc", "0" * 64, arguments["key"], tmp_path)
