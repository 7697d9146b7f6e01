# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The client of Patroni, against servers that speak mutual TLS, and what its answers mean."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._patroni import (
    Member,
    Patroni,
    Region,
    Survey,
    Tls,
    format_lsn,
    is_standby,
    member_from,
    parse_lsn,
)
from patroni_fake import REGIONS, STANDBY, PatroniApi, status


def client(patroni: PatroniApi, host: str = "north-1", **more: Any) -> Patroni:
    return Patroni(host, Tls(**patroni.files()), patroni.port, **more)


def survey(patroni: PatroniApi) -> Survey:
    return Survey(REGIONS, Tls(**patroni.files()), patroni.port, timeout=1)


# --- the client ---------------------------------------------------------------------------


def test_a_connection_is_kept(patroni: PatroniApi) -> None:
    asked = client(patroni)
    assert asked.get("/patroni")["role"] == "primary"
    assert asked.get("/config") == {"ttl": 20}
    assert patroni["north-1"].connections == 1


def test_a_kept_connection_that_was_dropped_is_opened_anew(patroni: PatroniApi) -> None:
    asked = client(patroni)
    asked.get("/patroni")
    patroni["north-1"].hang_up_next = True
    assert asked.get("/patroni")["role"] == "primary"
    assert patroni["north-1"].connections == 2


def test_what_changes_something_is_not_sent_twice(patroni: PatroniApi) -> None:
    asked = client(patroni)
    asked.get("/patroni")
    patroni["north-1"].hang_up_next = True
    with pytest.raises(MusterError, match=r"^Patroni on north-1 did not answer POST /restart: "):
        asked.post("/restart", {}, 1)
    assert patroni["north-1"].posted() == ["POST /restart"]


def test_a_dead_server_is_told_by_name(patroni: PatroniApi) -> None:
    patroni["north-1"].up = False
    with pytest.raises(
        MusterError, match=r"^Patroni on north-1 did not answer GET /patroni: Remote end closed"
    ):
        client(patroni).get("/patroni")


def test_a_silent_server_is_given_up(pki: Any, patroni: PatroniApi) -> None:
    with socket.create_server(("127.0.2.1", 0)) as silent:
        asked = Patroni("north-1", Tls(**patroni.files()), silent.getsockname()[1], timeout=0.2)
        with pytest.raises(MusterError, match=r"^Patroni on north-1 did not answer GET /config: .*timed out"):
            asked.get("/config")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ((502, "no"), "Patroni on north-1 answered 502 to GET /config: no"),
        ((200, "<html>"), "Patroni on north-1 answered no JSON to GET /config"),
        ((200, "[1]"), "Patroni on north-1 answered no JSON object to GET /config"),
    ],
)
def test_an_answer_of_another_kind_is_an_error(
    patroni: PatroniApi, answer: tuple[int, str], sentence: str
) -> None:
    patroni["north-1"].answers["GET /config"] = answer
    with pytest.raises(MusterError, match=f"^{sentence}$"):
        client(patroni).get("/config")


def test_a_503_with_a_body_is_an_answer(patroni: PatroniApi) -> None:
    patroni["north-1"].answers["GET /patroni"] = (503, '{"state": "stopped"}')
    assert client(patroni).get("/patroni") == {"state": "stopped"}


def test_a_refused_post_is_told_with_its_text(patroni: PatroniApi) -> None:
    patroni["north-1"].on_post = lambda _path, _body: (412, "leader name does not match")
    with pytest.raises(MusterError, match="answered 412 to POST /switchover: leader name does not match"):
        client(patroni).post("/switchover", {"leader": "x"}, 1)
    patroni["north-1"].on_post = lambda path, body: (202, f"{path} {body['leader']}")
    assert client(patroni).post("/switchover", {"leader": "x"}, 1) == "/switchover x"


def test_the_name_must_be_in_the_certificate(patroni: PatroniApi, monkeypatch: pytest.MonkeyPatch) -> None:
    known = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *more, **options: known("127.0.2.1", *more, **options)
    )
    with pytest.raises(MusterError, match=r"certificate verify failed.*not valid for 'impostor'"):
        client(patroni, "impostor").get("/patroni")


def test_missing_tls_files_are_an_error_once_they_are_needed(patroni: PatroniApi) -> None:
    files = patroni.files() | {"private_key": "/nowhere"}
    asked = Patroni("north-1", Tls(**files), patroni.port)
    with pytest.raises(MusterError, match=r"^the TLS files cannot be used: .*No such file"):
        asked.get("/patroni")
    assert Survey(REGIONS, Tls(**files), patroni.port).member("north", "north-1").error


# --- what it means --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "role", "writable"),
    [
        (status("primary"), "primary", True),
        (status("master"), "primary", True),
        (status("standby_leader"), "standby_leader", False),
        (status("replica"), "replica", False),
        (status("primary", state="starting"), "primary", False),
        (status("primary", state="stopped"), "stopped", False),
        (status("replica", state="start failed"), "stopped", False),
        ({"state": "crashed"}, "stopped", False),
        ({}, "unknown", False),
    ],
)
def test_roles(says: dict[str, Any], role: str, writable: bool) -> None:
    member = member_from("north-1", "north", says)
    assert (member.role, member.writable) == (role, writable)


def test_a_members_figures() -> None:
    member = member_from(
        "north-1", "north", status("primary", 3, 0x10, pending_restart=True, sync_standby=True)
    )
    assert (member.lsn, member.timeline, member.received) == (0x10, 3, None)
    assert (member.pending_restart, member.sync_standby, member.server_version) == (True, True, 170011)
    assert (member.patroni_version, member.scope) == ("4.0.7", "muster-north")
    standby = member_from("south-1", "south", status("standby_leader", 3, 0x20))
    assert (standby.lsn, standby.received, standby.replication_state) == (0x20, 0x20, "streaming")
    assert member_from("south-1", "south", {"state": "running", "role": "replica"}).lsn is None


@pytest.mark.parametrize(
    ("version", "received", "state"),
    [("3.0.2", 0x20, "streaming"), ("3.0.2", None, None), ("4.0.7", 0x20, None)],
)
def test_an_old_patroni_does_not_say_that_a_standby_streams(
    version: str, received: int | None, state: str | None
) -> None:
    says = status("replica", replication_state=None) | {"patroni": {"version": version}}
    says["xlog"]["received_location"] = received
    assert member_from("north-2", "north", says).replication_state == state


@pytest.mark.parametrize(
    ("config", "standby"),
    [
        ({"standby_cluster": STANDBY}, True),
        ({"standby_cluster": {"restore_command": "x"}}, True),
        ({"ttl": 20}, False),
        ({"standby_cluster": None}, False),
        # Patroni takes a section without a place to follow for none.
        ({"standby_cluster": {"create_replica_methods": ["basebackup"]}}, False),
        ({"standby_cluster": {"host": ""}}, False),
    ],
)
def test_whether_a_region_is_a_standby_is_patronis_own_rule(config: dict[str, Any], standby: bool) -> None:
    assert is_standby(config) is standby
    assert Region("south", {}, config).declared_standby is standby


def test_a_region_nobody_knows() -> None:
    region = Region("south", {"south-1": Member("south-1", "south", error="silent")})
    assert region.declared_standby is None
    assert region.leader is None


def test_a_survey_of_both_regions(patroni: PatroniApi) -> None:
    found = survey(patroni).all()
    assert {name: region.declared_standby for name, region in found.items()} == {
        "north": False,
        "south": True,
    }
    north, south = found["north"], found["south"]
    assert north.primary is not None
    assert north.leader is north.primary
    assert (north.primary.host, north.standby_leader) == ("north-1", None)
    assert south.standby_leader is not None
    assert south.leader is south.standby_leader
    assert (south.standby_leader.host, south.primary) == ("south-1", None)


def test_the_configuration_is_asked_of_whoever_answers(patroni: PatroniApi) -> None:
    patroni["south-1"].up = False
    south = survey(patroni).region("south")
    assert south.declared_standby is True
    assert str(south.members["south-1"].error).startswith("Patroni on south-1 did not answer GET /patroni")
    patroni["south-2"].answers["GET /config"] = (502, "no DCS")
    south = survey(patroni).region("south")
    assert (south.config, south.declared_standby) == (None, None)


def test_members_without_some(patroni: PatroniApi) -> None:
    hosts = [member.host for member in survey(patroni).members(without={"north-1", "south-1"})]
    assert hosts == ["north-2", "south-2"]
    assert patroni["north-1"].requests == []
    assert len(survey(patroni).members()) == 4


def test_lsn_notation() -> None:
    assert format_lsn(parse_lsn("16/B374D848")) == "16/B374D848"
    assert format_lsn(0x5000060) == "0/5000060"
    assert format_lsn(None) is None
