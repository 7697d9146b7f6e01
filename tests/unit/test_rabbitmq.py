# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""RabbitMQ's modules against two clusters of our own."""

from __future__ import annotations

import base64
import copy
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.filter.rabbitmq import (
    rabbitmq_password_hash,
    rabbitmq_problems,
)
from ansible_collections.muster.platform.plugins.module_utils import (
    _rabbitmq_backup,
    _rabbitmq_declared,
    _rabbitmq_move,
    _rabbitmq_rejoin,
)
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq import Region, Role
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq_node import Local
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq_objects import has_password
from ansible_collections.muster.platform.plugins.modules import (
    rabbitmq_backup,
    rabbitmq_handover,
    rabbitmq_info,
    rabbitmq_member,
    rabbitmq_objects,
    rabbitmq_promote,
    rabbitmq_rejoin,
)
from rabbitmq_fake import DECLARED, PASSWORDS, World, options, patch

Run = Callable[..., dict[str, Any]]
RUNS = Local("active", False, ())


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    patch(made, monkeypatch)
    monkeypatch.setattr(_rabbitmq_move, "SETTLE", 0.0)
    monkeypatch.setattr(_rabbitmq_move, "POLL", 0.01)
    return made


@pytest.fixture
def pair(world: World, run_module: Run) -> World:
    """Two regions that were provisioned: north is primary."""
    for region, role in (("north", "primary"), ("south", "standby")):
        answer = run_module(rabbitmq_objects, options(region=region, initial_role=role))
        assert answer["changed"] is True, answer
    world.log.clear()
    return world


def declared(**more: Any) -> dict[str, Any]:
    found = copy.deepcopy(DECLARED) | more
    for user in found["users"]:
        user["password"] = "secret"
    return found


# --- what is declared ---------------------------------------------------------------------


def test_nothing_is_wrong_with_what_is_right() -> None:
    assert rabbitmq_problems(declared()) == []


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            {"queues": [{"vhost": "docs", "name": "q"}, {"vhost": "docs", "name": "q", "durable": False}]},
            "rabbitmq_queues: the queue q of vhost docs is declared twice, with durable once True and once False: "
            "keep one of the declarations",
        ),
        (
            {"users": [{"name": "a", "password": "x"}, {"name": "a", "password": "y"}]},
            "rabbitmq_users: the user a is declared twice, with password two values: keep one of the declarations",
        ),
        ({"users": [{"name": "a"}]}, "rabbitmq_users: the user a lacks password"),
        ({"users": [{"name": "guest", "password": "x"}]}, "the user guest is not yours to declare"),
        ({"exchanges": [{"name": "x", "vhost": "docs", "kind": "topic"}]}, "has kind, which means nothing"),
        (
            {"queues": [{"vhost": "docs", "name": "q", "arguments": {"x-dead-letter-exchange": "dead"}}]},
            "use dead_letter instead",
        ),
        (
            {"queues": [{"vhost": "docs", "name": "q", "dead_letter": {"exchange": "none"}}]},
            "dead_letter.exchange is 'none', which is not among rabbitmq_exchanges",
        ),
        ({"queues": [{"vhost": "docs", "name": "q.dr"}]}, "has a name that is not free"),
        ({"queues": [{"vhost": "docs", "name": "s", "type": "stream"}]}, "set standby: false"),
        ({"queues": [{"vhost": "else", "name": "q"}]}, "is in a vhost that is not among rabbitmq_vhosts"),
        (
            {"policies": [{"vhost": "docs", "name": "p", "pattern": "(", "definition": {"a": 1}}]},
            "pattern is '(', which is no regular expression",
        ),
        (
            {"bindings": [{"vhost": "docs", "source": "no", "destination": "q"}]},
            "no is not among rabbitmq_exchanges",
        ),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(more: dict[str, Any], sentence: str) -> None:
    given = copy.deepcopy(DECLARED) | {"users": [], "bindings": []} | more
    assert sentence in "; ".join(rabbitmq_problems(given))


def test_a_writer_to_queues_by_name_is_refused() -> None:
    users = [{"name": "a", "password": "x", "permissions": [{"vhost": "docs", "write": ".*"}]}]
    (problem,) = rabbitmq_problems(declared() | {"users": users})
    assert "the user a may write to the default exchange of vhost docs" in problem
    assert "never reaches the standby" in problem


def test_the_password_of_the_first_user_is_hashed_as_rabbitmq_does() -> None:
    hashed = rabbitmq_password_hash("op", "cookie")
    assert hashed == rabbitmq_password_hash("op", "cookie")
    assert has_password({"password_hash": hashed}, "op")
    assert not has_password({"password_hash": hashed}, "other")


def test_a_standby_keeps_a_window_and_no_dead_letters() -> None:
    full = {**declared(), "operator_password": "op", "upstream_password": "up//:"}
    standby = _rabbitmq_declared.wanted(full, "south", "standby")
    primary = _rabbitmq_declared.wanted(full, "north", "primary")
    assert standby["policies"]["docs", "muster.q"]["definition"] == {
        "message-ttl": 60000, "max-length": 5, "overflow": "drop-head",
    }  # fmt: skip
    assert primary["policies"]["docs", "muster.q"]["definition"] == {
        "max-length": 5, "dead-letter-exchange": "dead",
    }  # fmt: skip
    assert ("docs", "ingest") in primary["permissions"]
    assert ("docs", "ingest") not in standby["permissions"]
    # A link that carried over and comes back must not take what a primary's consumers are to get.
    assert primary["permissions"]["docs", "muster_upstream"]["read"] == r"\.dr$"
    for role in ("closed", "standby"):
        found = _rabbitmq_declared.wanted(full, "north", role)
        assert found["permissions"]["docs", "muster_upstream"]["read"] == ".*"
    assert primary["parameters"] == {}
    link = standby["parameters"]["docs", "shovel", "muster.q"]
    assert link["src-uri"][0].startswith(
        "amqps://muster_upstream:up%2F%2F%3A@north-1:5671/docs?cacertfile=/etc/"
    )
    assert "verify=verify_peer" in link["src-uri"][2]
    assert link["ack-mode"] == "on-confirm"


def test_federation_follows_the_exchanges_and_has_no_queue_of_its_own() -> None:
    standby = {**DECLARED["standby"], "mode": "federation"}
    full = {**declared(standby=standby), "operator_password": "op", "upstream_password": "up"}
    found = _rabbitmq_declared.wanted(full, "south", "standby")
    assert ("docs", "q.dr") not in found["queues"]
    assert found["policies"]["docs", "muster.exchange.in"]["definition"] == {
        "federation-upstream": "muster.upstream"
    }
    upstream = found["parameters"]["docs", "federation-upstream", "muster.upstream"]
    assert upstream["ack-mode"] == "on-confirm"
    assert len(upstream["uri"]) == 3


# --- objects ------------------------------------------------------------------------------


def test_what_differs_is_written_at_once_and_nothing_the_second_time(pair: World, run_module: Run) -> None:
    assert pair.clusters["north"].posts == 1
    answer = run_module(rabbitmq_objects, options(region="north"))
    assert (answer["changed"], answer["role"], pair.log) == (False, "primary", [])
    assert pair.open_for_writes() == ["north"]


def test_check_mode_changes_nothing(world: World, run_module: Run) -> None:
    answer = run_module(
        rabbitmq_objects, options(region="north", initial_role="primary"), check=True, diff=True
    )
    assert answer["changed"] is True
    assert world.log == []
    assert "secret" not in json.dumps(answer["diff"])
    assert "queues docs q:" in answer["diff"]["after"]


def test_a_changed_password_is_written_and_a_stranger_left_alone(pair: World, run_module: Run) -> None:
    north = pair.clusters["north"]
    north.load({"users": [{"name": "ann", "password_hash": "", "tags": []}]})
    north.permissions["docs", "ann"] = {"configure": "", "write": "", "read": ""}
    answer = run_module(rabbitmq_objects, options(region="north", passwords={**PASSWORDS, "ingest": "new"}))
    assert answer["objects"] == ["users ingest"]
    assert ("docs", "ann") in north.permissions


def test_in_a_standby_nobody_else_has_permissions(pair: World, run_module: Run) -> None:
    pair.clusters["south"].permissions["docs", "ann"] = {"configure": "", "write": ".*", "read": ""}
    run_module(rabbitmq_objects, options(region="south"))
    assert pair.log == ["south: DELETE permissions docs ann"]


def test_a_queue_that_runs_otherwise_is_refused_before_any_change(pair: World, run_module: Run) -> None:
    queues = [{"vhost": "docs", "name": "q", "arguments": {"x-max-length": 7}}]
    answer = run_module(rabbitmq_objects, options(region="north", declared={**DECLARED, "queues": queues}))
    assert answer["msg"] == (
        "the queue q of vhost docs runs in region north with the argument x-max-length None and is declared with 7, "
        "which RabbitMQ cannot change: declare None, or move its messages to a queue of another name and delete it"
    )
    assert pair.log == []


OTHER_QUEUE = {**DECLARED, "queues": [{"vhost": "docs", "name": "q", "arguments": {"x-max-length": 7}}]}


def test_what_a_cluster_could_not_become_is_refused_before_anything_is_there_to_change(
    pair: World, run_module: Run, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.crt"
    given = options(region="north", declared=OTHER_QUEUE, refuse_only=True, ca_certificate=str(ca))
    assert run_module(rabbitmq_objects, given)["changed"] is False, "a new host has nothing to ask with"
    ca.touch()
    assert "runs in region north with the argument x-max-length" in run_module(rabbitmq_objects, given)["msg"]
    pair.clusters["north"].up = False
    assert run_module(rabbitmq_objects, given)["changed"] is False, "and one that is down nobody to ask"
    pair.clusters["north"].up = True
    pair.clusters["north"].objects["policies"].clear()
    assert run_module(rabbitmq_objects, {**given, "declared": DECLARED})["changed"] is False
    assert pair.log == []


def test_a_region_that_is_not_there_is_told(world: World, run_module: Run) -> None:
    assert run_module(rabbitmq_objects, options(region="x"))["msg"] == "x is no region with RabbitMQ hosts"


def test_a_region_without_a_role_is_refused_one(world: World, run_module: Run) -> None:
    answer = run_module(rabbitmq_objects, options(region="north"))
    assert answer["msg"] == "region north has no role yet, and none was given to it"
    assert world.log == []


def test_nothing_is_declared_beside_a_move(pair: World, run_module: Run) -> None:
    pair.clusters["north"].locked = True
    given = options(region="north")
    assert run_module(rabbitmq_objects, given)["changed"] is False, "what is as declared needs no lock"
    pair.clusters["north"].permissions.pop(("docs", "ingest"))
    assert "holds the lock of region north" in run_module(rabbitmq_objects, given)["msg"]
    assert pair.log == []


def test_check_mode_of_what_is_declared_changes_nothing(pair: World, run_module: Run) -> None:
    pair.clusters["north"].permissions.pop(("docs", "ingest"))
    assert run_module(rabbitmq_objects, options(region="north"), check=True)["changed"] is True
    assert (pair.log, pair.open_for_writes()) == ([], [])


def test_a_region_whose_gate_is_still_closed_is_waited_for(
    pair: World, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.clusters["north"].permissions.pop(("docs", "ingest"))
    answers = [False, False, True]
    left: list[int] = []
    monkeypatch.setattr(Region, "lets_in", lambda _region: answers.pop(0))
    pair.locked = lambda _region: left.append(len(answers))
    assert run_module(rabbitmq_objects, options(region="north"))["changed"] is True
    assert left == [0]


def test_what_a_move_has_made_of_a_region_meanwhile_counts(pair: World, run_module: Run) -> None:
    north = pair.clusters["north"]
    north.permissions.pop(("docs", "ingest"))

    def moved(_region: str) -> None:
        north.role = Role("standby", 2).value()

    pair.locked = moved
    assert run_module(rabbitmq_objects, options(region="north"))["role"] == "standby"
    assert pair.open_for_writes() == []


def test_a_region_on_its_way_to_be_a_standby_is_kept_closed(pair: World, run_module: Run) -> None:
    north = pair.clusters["north"]
    north.role = Role("standby", 1, "", "south").value()
    run_module(rabbitmq_objects, options(region="north"))
    assert (pair.open_for_writes(), north.parameters) == ([], {})


def test_what_is_left_of_another_mode_is_removed(pair: World, run_module: Run) -> None:
    pair.clusters["south"].parameters["docs", "federation-upstream", "muster.upstream"] = {"uri": []}
    pair.clusters["south"].parameters["docs", "shovel", "yours"] = {"src-queue": "x", "dest-queue": "y"}
    run_module(rabbitmq_objects, options(region="south"))
    assert pair.log == ["south: DELETE parameters federation-upstream docs muster.upstream"]


def test_a_queue_that_the_standby_lost_comes_back_as_declared(pair: World, run_module: Run) -> None:
    south = pair.clusters["south"]
    before = sorted(map(json.dumps, south.objects["queues"]))
    south.answer("south-1", "DELETE", "/api/queues/docs/q", None)
    pair.tick()
    assert run_module(rabbitmq_objects, options(region="south"))["changed"] is True
    assert sorted(map(json.dumps, south.objects["queues"])) == before


def test_another_way_of_pulling_leaves_nothing_behind_and_loses_nothing(pair: World, run_module: Run) -> None:
    pair.tick = lambda: None  # type: ignore[method-assign]
    federated = {**DECLARED, "standby": {**DECLARED["standby"], "mode": "federation"}}
    north = pair.clusters["north"]
    north.queues["q.dr"] = [1]
    answer = run_module(rabbitmq_objects, options(region="north", declared=federated))
    assert answer["msg"].startswith(
        "rabbitmq_standby cannot change while q.dr of vhost docs in region north holds 1 messages"
    )
    north.queues["q.dr"] = []
    for region in ("north", "south"):
        assert run_module(rabbitmq_objects, options(region=region, declared=federated))["changed"] is True
    assert [item["name"] for item in north.objects["queues"]] == ["q"]
    assert [key[1] for key in pair.clusters["south"].parameters] == ["federation-upstream"]


# --- handover -----------------------------------------------------------------------------

SWITCH = {"target": "south", "holder": "ann"}


def test_a_handover_moves_all_and_never_opens_two(pair: World, run_module: Run) -> None:
    north, south = pair.clusters["north"], pair.clusters["south"]
    north.queues["q"] = [1, 2, 3]
    north.queues["q.dr"] = [3]
    north.connections["ingest"] = 2
    seen: list[list[str]] = []
    pair.watch = lambda: seen.append(pair.open_for_writes())
    answer = run_module(rabbitmq_handover, options(**SWITCH))
    assert (answer["situation"], answer["epoch"], answer["carried"]) == ("start", 2, 3)
    assert (north.role["role"], south.role["role"]) == ("standby", "primary")  # type: ignore[index]
    assert north.role["epoch"] == south.role["epoch"] == 2  # type: ignore[index]
    assert max(len(regions) for regions in seen) == 1
    assert seen[-1] == ["south"]
    assert sorted(set(south.queues["q"])) == [1, 2, 3]
    assert (north.queues["q"], north.queues["q.dr"], north.connections) == ([], [], {})
    assert [name for _v, _c, name in north.parameters] == ["muster.q"]
    assert south.parameters == {}
    assert [phase["name"] for phase in answer["muster_phases"]] == [
        "assess", "close", "drain", "open", "carry over", "turn the link",
    ]  # fmt: skip
    again = run_module(rabbitmq_handover, options(**SWITCH))
    assert (again["situation"], again["changed"]) == ("done", False)


def test_check_mode_of_a_handover_only_assesses(pair: World, run_module: Run) -> None:
    answer = run_module(rabbitmq_handover, options(**SWITCH), check=True)
    assert (answer["situation"], answer["changed"], pair.log) == ("start", True, [])
    run_module(rabbitmq_handover, options(**SWITCH))
    pair.clusters["south"].permissions.pop(("docs", "ingest"))
    pair.log.clear()
    answer = run_module(rabbitmq_handover, options(**SWITCH), check=True)
    assert (answer["situation"], answer["changed"], pair.log) == ("finish", True, [])


def test_a_connection_that_does_not_end_puts_the_old_primary_back(pair: World, run_module: Run) -> None:
    north = pair.clusters["north"]
    north.connections["ingest"], north.stubborn = 1, True
    answer = run_module(rabbitmq_handover, options(**SWITCH, timeouts={"close": 0.05}))
    assert "ingest is still connected" in answer["msg"]
    assert answer["msg"].endswith("region north is primary as before")
    assert (north.role["role"], pair.open_for_writes()) == ("primary", ["north"])  # type: ignore[index]


def test_a_link_that_breaks_while_it_drains_puts_the_old_primary_back(pair: World, run_module: Run) -> None:
    north = pair.clusters["north"]

    def cut() -> None:
        if north.role and north.role["role"] == "standby" and pair.link_works:
            pair.link_works = False
            north.queues["q.dr"] = [9]

    pair.watch = cut
    answer = run_module(rabbitmq_handover, options(**SWITCH, timeouts={"drain": 0.05}))
    assert "q.dr of docs has 1 messages" in answer["msg"]
    assert pair.open_for_writes() == ["north"]
    assert [name for _v, _c, name in pair.clusters["south"].parameters] == ["muster.q"]


def test_a_handover_that_died_while_closed_is_finished_by_the_next(pair: World, run_module: Run) -> None:
    north = pair.clusters["north"]
    north.role = Role("standby", 1, "", "south").value()
    north.permissions.pop(("docs", "ingest"))
    assert run_module(rabbitmq_handover, options(**SWITCH))["situation"] == "resume"
    assert pair.open_for_writes() == ["south"]


def test_a_handover_that_died_after_the_opening_is_finished_by_the_next(pair: World, run_module: Run) -> None:
    north, south = pair.clusters["north"], pair.clusters["south"]
    north.role = Role("standby", 1, "", "south").value()
    north.permissions.pop(("docs", "ingest"))
    south.role = Role("primary", 2).value()
    south.parameters.clear()
    answer = run_module(rabbitmq_handover, options(**SWITCH))
    assert (answer["situation"], pair.open_for_writes()) == ("finish", ["south"])
    assert north.role is not None
    assert north.role["epoch"] == 2
    assert "moving_to" not in north.role


def test_a_handover_that_died_before_its_last_record_is_finished(pair: World, run_module: Run) -> None:
    run_module(rabbitmq_handover, options(**SWITCH))
    north = pair.clusters["north"]
    north.role = Role("standby", 1, "", "south").value()
    assert run_module(rabbitmq_handover, options(**SWITCH))["situation"] == "finish"
    assert (north.role["epoch"], "moving_to" in north.role) == (2, False)


@pytest.mark.parametrize("left", ["moving_to", "epoch", "link", "no link"])
def test_whatever_a_move_leaves_behind_is_finished(pair: World, run_module: Run, left: str) -> None:
    run_module(rabbitmq_handover, options(**SWITCH))
    north, south = pair.clusters["north"], pair.clusters["south"]
    finished = (dict(north.role or {}), dict(south.parameters), dict(north.parameters))
    if left == "moving_to":
        north.role = Role("standby", 2, "", "south").value()
    elif left == "epoch":
        north.role = Role("standby", 1).value()
    elif left == "no link":
        north.parameters.clear()
    else:
        south.parameters["docs", "shovel", "muster-carry.q"] = {"src-queue": "q", "dest-queue": "q"}
    assert run_module(rabbitmq_handover, options(**SWITCH))["situation"] == "finish"
    finished[0].pop("since")
    assert {key: value for key, value in (north.role or {}).items() if key != "since"} == finished[0]
    assert (south.parameters, north.parameters) == finished[1:]


def test_a_handover_is_not_done_while_nobody_pulls_from_the_new_primary(pair: World, run_module: Run) -> None:
    def cut() -> None:
        pair.link_works = not pair.clusters["north"].parameters

    pair.watch = cut
    answer = run_module(rabbitmq_handover, options(**SWITCH, timeouts={"reprotect": 0.2}))
    assert answer["msg"] == (
        "waited 0.2 s for region north to pull from south: nobody pulls from q.dr of docs"
    )
    assert pair.open_for_writes() == ["south"]


def test_a_handover_that_died_while_it_drained_drains_by_the_links_again(
    pair: World, run_module: Run
) -> None:
    north, south = pair.clusters["north"], pair.clusters["south"]
    north.role = Role("standby", 1, "", "south").value()
    north.permissions.pop(("docs", "ingest"))
    north.queues["q.dr"] = [9]
    south.parameters.clear()
    answer = run_module(rabbitmq_handover, options(**SWITCH, timeouts={"drain": 0.5}))
    assert (answer["situation"], south.queues["q"], north.queues["q.dr"]) == ("resume", [9], [])


def test_where_nothing_is_pulled_a_handover_is_done_as_well(world: World, run_module: Run) -> None:
    plain = {**DECLARED, "queues": [{"vhost": "docs", "name": "q", "standby": False}]}
    for region, role in (("north", "primary"), ("south", "standby")):
        run_module(rabbitmq_objects, options(region=region, initial_role=role, declared=plain))
    given = options(**SWITCH, declared=plain)
    assert [run_module(rabbitmq_handover, given)["situation"] for _time in range(2)] == ["start", "done"]
    assert world.open_for_writes() == ["south"]


def test_a_handover_that_is_not_finished_is_not_turned_back(pair: World, run_module: Run) -> None:
    run_module(rabbitmq_handover, options(**SWITCH))
    pair.clusters["north"].role = Role("standby", 1, "", "south").value()
    pair.log.clear()
    answer = run_module(rabbitmq_handover, options(target="north", holder="ann"))
    assert answer["msg"].startswith("a handover to south is not finished: finish it first")
    assert pair.log == []


def _when_drained(pair: World, do: Callable[[], None]) -> None:
    """Do something once, when the source is closed and its link was taken away."""
    north, done = pair.clusters["north"], [do]

    def watch() -> None:
        drained = north.role and north.role["role"] == "standby" and not pair.clusters["south"].parameters
        if drained and done:
            done.pop()()

    pair.watch = watch


@pytest.mark.parametrize("other", ["north", "south"])
def test_a_run_that_stood_still_opens_nothing(pair: World, run_module: Run, other: str) -> None:
    moved = Role("standby", 7).value()
    _when_drained(pair, lambda: setattr(pair.clusters[other], "role", moved))
    answer = run_module(rabbitmq_handover, options(**SWITCH))
    assert f"another operation has changed the role of region {other} meanwhile" in answer["msg"]
    assert pair.clusters[other].role == moved
    assert pair.open_for_writes() == []


@pytest.mark.parametrize("other", ["north", "south"])
def test_a_run_that_stood_still_puts_nothing_back(pair: World, run_module: Run, other: str) -> None:
    north = pair.clusters["north"]

    def overtake() -> None:
        north.queues["q.dr"] = [9]
        pair.link_works = False
        pair.clusters[other].role = Role("primary", 7).value()

    _when_drained(pair, overtake)
    answer = run_module(rabbitmq_handover, options(**SWITCH, timeouts={"drain": 0.05}))
    assert "q.dr of docs has 1 messages" in answer["msg"]
    assert (
        f"; nothing was put back: another operation has changed the role of region {other}" in answer["msg"]
    )
    assert pair.open_for_writes() == []


def test_a_record_of_which_the_answer_was_lost_is_put_back(
    pair: World, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, lost = Region.put, [True]

    def lose(region: Region, body: Any, *parts: str) -> None:
        put(region, body, *parts)
        if lost and parts[0] == "global-parameters":
            lost.pop()
            raise MusterError("no answer")

    monkeypatch.setattr(Region, "put", lose)
    answer = run_module(rabbitmq_handover, options(**SWITCH))
    assert answer["msg"] == "no answer; region north is primary as before"
    assert pair.clusters["north"].role["role"] == "primary"  # type: ignore[index]


def test_nothing_is_written_over_a_lock_that_was_lost(pair: World) -> None:
    region = Region("north", ["north-1"], None)  # type: ignore[arg-type]
    assert region.role() is not None
    region.held = SimpleNamespace(is_open=True)
    region.set_role(Role("primary", 8))
    written = list(pair.log)
    region.held.is_open = False
    with pytest.raises(MusterError, match="the lock of region north was lost"):
        region.set_role(Role("primary", 9))
    assert pair.log == written


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"role": "standby", "epoch": 9, "since": "now", "by": "eve"}, r"\{.*'role': 'standby', .*\}"),
        (None, "None"),
    ],
)
def test_nothing_is_written_over_the_role_of_another(
    pair: World, found: dict[str, Any] | None, told: str
) -> None:
    region = Region("north", ["north-1"], None)  # type: ignore[arg-type]
    assert region.role() is not None
    pair.clusters["north"].role = found
    sentence = f"another operation has changed the role of region north meanwhile: {told}$"
    with pytest.raises(MusterError, match=sentence):
        region.set_role(Role("primary", 9))
    assert pair.clusters["north"].role == found


def test_a_deadline_that_is_no_number_is_refused(pair: World, run_module: Run) -> None:
    answer = run_module(rabbitmq_handover, options(**SWITCH, timeouts={"drain": "soon"}))
    assert answer["msg"].startswith("timeouts: each is a number of seconds")


def _cut(world: World) -> None:
    world.link_works = False


def _backlog(world: World) -> None:
    world.clusters["north"].queues["q.dr"] = list(range(50))
    world.watch = lambda: None
    world.tick = lambda: None  # type: ignore[method-assign]


def _both(world: World) -> None:
    world.clusters["south"].role = Role("primary", 2).value()


def _nobody(world: World) -> None:
    world.clusters["north"].role = Role("standby", 1).value()


def _silent(world: World) -> None:
    world.clusters["north"].up = False


def _locked(world: World) -> None:
    world.clusters["north"].locked = True


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_cut, "refused: waited 0.05 s for region south to pull from north: nobody pulls from q.dr of docs"),
        (_backlog, "50 messages wait in region north to be pulled, rabbitmq_handover_max_backlog allows 10"),
        (_both, "both regions are primary by their own records"),
        (_nobody, "dr_failover decides which region is to be primary"),
        (_silent, "no RabbitMQ of region north answers"),
        (_locked, "holds the lock of region north"),
    ],
)
def test_a_handover_refuses(
    pair: World, run_module: Run, spoil: Callable[[World], None], sentence: str
) -> None:
    spoil(pair)
    answer = run_module(rabbitmq_handover, options(**SWITCH, max_backlog=10, timeouts={"link": 0.05}))
    assert sentence in answer["msg"]
    assert pair.log == []


def test_a_link_that_makes_itself_anew_is_waited_for(
    pair: World, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.link_works = False
    depths, asked = Region.depths, []

    def later(region: Region, queues: Any) -> Any:
        """The second time that somebody looks, it is there."""
        asked.append(region.name)
        pair.link_works = len(asked) > 1
        return depths(region, queues)

    monkeypatch.setattr(Region, "depths", later)
    answer = run_module(rabbitmq_handover, options(**SWITCH), check=True)
    assert (answer.get("msg"), asked[:2]) == (None, ["north", "north"])


def test_a_federation_is_not_handed_over(pair: World, run_module: Run) -> None:
    federated = {**DECLARED, "standby": {**DECLARED["standby"], "mode": "federation"}}
    answer = run_module(rabbitmq_handover, options(**SWITCH, declared=federated))
    assert answer["msg"].endswith("set rabbitmq_standby to shovel and run site.yml first")
    assert pair.log == []


def test_an_unknown_deadline_is_refused(pair: World, run_module: Run) -> None:
    answer = run_module(rabbitmq_handover, options(**SWITCH, timeouts={"demote": 1}))
    assert answer["msg"].startswith("timeouts: unknown demote")


# --- promote ------------------------------------------------------------------------------


def proof(**more: Any) -> dict[str, Any]:
    return {
        "proven": True,
        "region": "north",
        "provider": "ssh",
        "proven_at": datetime.now(UTC).isoformat(),
        **more,
    }


def test_a_fenced_region_is_replaced(pair: World, run_module: Run) -> None:
    pair.clusters["north"].up = False
    answer = run_module(rabbitmq_promote, options(**SWITCH, fence=proof()))
    assert (answer["situation"], answer["epoch"]) == ("start", 2)
    south = pair.clusters["south"]
    assert (south.role["role"], south.parameters) == ("primary", {})  # type: ignore[index]
    assert ("docs", "ingest") in south.permissions
    again = run_module(rabbitmq_promote, options(**SWITCH, fence=proof()))
    assert (again["situation"], again["changed"]) == ("resume", False)


def test_a_promotion_takes_an_epoch_that_the_lost_region_cannot_have(pair: World, run_module: Run) -> None:
    pair.clusters["north"].up = False
    pair.clusters["south"].role = Role("standby", 1, "", "north").value()
    assert run_module(rabbitmq_promote, options(**SWITCH, fence=proof()))["epoch"] == 3


def test_a_region_without_a_role_is_not_promoted(pair: World, run_module: Run) -> None:
    pair.clusters["north"].up = False
    pair.clusters["south"].role = None
    answer = run_module(rabbitmq_promote, options(**SWITCH, fence=proof()))
    assert answer["msg"] == "refused: region south has no role yet, so it was no standby"
    assert (pair.log, pair.open_for_writes()) == ([], ["north"])


@pytest.mark.parametrize(
    ("fence", "up", "sentence"),
    [
        # Made when the test runs: a proof grows old.
        (dict, False, "region north is not proven to be fenced"),
        (lambda: proof(region="south"), False, "the fence is of region south, not of north"),
        (
            lambda: proof(proven_at=(datetime.now(UTC) - timedelta(minutes=6)).isoformat()),
            False,
            "was proven 36",
        ),
        (proof, True, "refused: RabbitMQ on north-1, north-2, north-3 runs, whatever the fence says"),
    ],
)
def test_a_promotion_refuses(
    pair: World, run_module: Run, fence: Callable[[], dict[str, Any]], up: bool, sentence: str
) -> None:
    pair.clusters["north"].up = up
    answer = run_module(rabbitmq_promote, options(**SWITCH, fence=fence()))
    assert sentence in answer["msg"]
    assert pair.log == []


@pytest.mark.parametrize("port", [5671, 15671])
def test_a_region_in_which_anything_listens_is_no_lost_one(pair: World, run_module: Run, port: int) -> None:
    pair.clusters["north"].up = False
    pair.listening = {("north-2", port)}
    answer = run_module(rabbitmq_promote, options(**SWITCH, fence=proof()))
    assert answer["msg"] == "refused: RabbitMQ on north-2 runs, whatever the fence says"
    assert pair.log == []


def test_a_promotion_looks_when_it_has_the_lock(pair: World, run_module: Run) -> None:
    pair.clusters["north"].up = False
    south = pair.clusters["south"]

    def moved(_region: str) -> None:
        south.role = Role("standby", 4, "", "north").value()

    pair.locked = moved
    assert run_module(rabbitmq_promote, options(**SWITCH, fence=proof()))["epoch"] == 6


def test_one_promotion_at_a_time(pair: World, run_module: Run) -> None:
    pair.clusters["north"].up = False
    pair.clusters["south"].locked = True
    answer = run_module(rabbitmq_promote, options(**SWITCH, fence=proof()))
    assert "holds the lock of region south" in answer["msg"]
    assert pair.log == []


def test_check_mode_of_a_promotion_refuses_and_changes_nothing(pair: World, run_module: Run) -> None:
    given = options(**SWITCH, fence=proof())
    assert "north-1" in run_module(rabbitmq_promote, given, check=True)["msg"]
    pair.clusters["north"].up = False
    answer = run_module(rabbitmq_promote, given, check=True)
    assert (answer["changed"], answer["epoch"], pair.log) == (True, 1, [])


# --- reprotect ----------------------------------------------------------------------------


class Channel:
    """What a channel gives of a queue; acknowledged in one go."""

    def __init__(self, cluster: Any) -> None:
        self.cluster, self.tag = cluster, 0

    def basic_qos(self, prefetch_count: int) -> None:
        self.most = prefetch_count

    def consume(self, name: str, inactivity_timeout: float) -> Iterator[tuple[Any, Any, Any]]:
        """What waits, never more than may be unacknowledged, after a moment in which nothing comes."""
        self.name = name
        yield None, None, None
        while True:
            waiting = self.cluster.queues[name]
            self.cluster.sent[name] = min(self.most, len(waiting))
            if self.tag >= min(self.most, len(waiting)):
                yield None, None, None
                continue
            number, self.tag = waiting[self.tag], self.tag + 1
            method = SimpleNamespace(delivery_tag=self.tag, exchange="x", routing_key="k", redelivered=False)
            properties = SimpleNamespace(
                message_id=str(number), reply_to="back", priority=None, headers={"h": [b"\0", 1]}
            )
            yield method, properties, b"body"

    def cancel(self) -> None:
        assert self.tag == 0, "something was taken and not acknowledged"
        self.cluster.sent.clear()

    def basic_ack(self, tag: int, multiple: bool) -> None:
        assert multiple
        del self.cluster.queues[self.name][:tag]
        self.cluster.sent[self.name] -= tag
        self.tag = 0

    def close(self) -> None:
        pass


@pytest.fixture
def lost(pair: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """North comes back after south was promoted, with messages that only it has."""
    pair.clusters["north"].queues |= {"q": [1, 2, 3], "q.dr": [3, 4]}
    pair.clusters["south"].parameters.clear()
    pair.clusters["south"].role = Role("primary", 2).value()

    class Connection:
        def __init__(self, region: Region) -> None:
            self.region = region

        def __enter__(self) -> Connection:
            return self

        def __exit__(self, *_rest: Any) -> None:
            pass

        def channel(self) -> Channel:
            return Channel(pair.clusters[self.region.name])

    monkeypatch.setattr(Region, "amqp", lambda region, _vhost: Connection(region))
    return pair


def test_what_only_the_lost_region_has_is_saved_before_it_goes(
    lost: World, run_module: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = options(step="rejoin", region="north", save_directory=str(tmp_path))
    arguments["canary_queue"] = {"vhost": "docs", "name": "q"}
    monkeypatch.setattr(_rabbitmq_rejoin, "BATCH", 2)
    answer = run_module(rabbitmq_rejoin, arguments)
    saved = answer["saved"]
    assert (saved["only_here"], saved["copies"], saved["canary"]) == (2, 3, "1-4")
    lines = [
        json.loads(text) for text in Path(saved["directory"], "only-here.jsonl").read_text().splitlines()
    ]
    assert [found["message_id"] for found in lines] == ["3", "4"]
    assert base64.b64decode(lines[0]["body"]) == b"body"
    assert (lines[0]["routing_key"], lines[0]["headers"]) == ("k", {"h": [{"base64": "AA=="}, 1]})
    assert (lines[0]["reply_to"], "priority" in lines[0]) == ("back", False)
    assert Path(saved["directory"], "only-here.jsonl").stat().st_mode & 0o777 == 0o600
    north = lost.clusters["north"]
    assert north.role == {**north.role, "role": "standby", "epoch": 2}  # type: ignore[dict-item]
    assert (north.queues["q"], north.queues["q.dr"]) == ([], [])
    assert lost.open_for_writes() == []  # south's permissions were never given in this world
    lost.log.clear()
    again = run_module(rabbitmq_rejoin, arguments)
    assert (again["changed"], again["saved"], lost.log) == (False, None, [])


@pytest.mark.parametrize("goes", [True, False])
def test_a_message_that_was_under_way_when_nothing_came_is_saved_too(
    lost: World, run_module: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goes: bool
) -> None:
    """The broker counts it as delivered, and its reader as gone a moment after it has gone."""
    north = lost.clusters["north"]
    gone: list[int] = []  # of each reader that has gone: how often it is counted still
    consume, depth = Channel.consume, type(north).depth

    def slow(channel: Channel, name: str, inactivity_timeout: float) -> Iterator[tuple[Any, Any, Any]]:
        held = north.queues[name][-1:] if name == "q.dr" and not (goes and gone) else []
        del north.queues[name][len(north.queues[name]) - len(held) :]
        try:
            yield from consume(channel, name, inactivity_timeout)
        finally:
            north.queues[name] += held
            gone.append(2)

    def busy(cluster: Any, name: str) -> tuple[int, int]:
        ready, consumers = depth(cluster, name)
        if gone and gone[-1]:
            gone[-1] -= 1
            return 0, 1
        return ready, consumers

    monkeypatch.setattr(Channel, "consume", slow)
    monkeypatch.setattr(type(north), "depth", busy)
    limits = {"save_directory": str(tmp_path), "timeout": 1}
    answer = run_module(rabbitmq_rejoin, options(step="rejoin", region="north", **limits))
    if goes:
        assert answer["saved"]["queues"] == {"docs/q": 3, "docs/q.dr": 2}
    else:
        assert "q.dr of docs still has 1 messages after 1 were saved: run it again" in answer["msg"]


def test_what_is_saved_is_on_the_disk_before_it_leaves_its_queue(
    lost: World, run_module: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = Channel.basic_ack

    def fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        lines = f" {len(path.read_text().splitlines())}" if path.is_file() else ""
        seen.append(("saved" if path.name.startswith("rabbitmq-north-") else path.name) + lines)

    def ack(channel: Channel, tag: int, multiple: bool) -> None:
        seen.append(f"ack {channel.name}")
        real(channel, tag, multiple)

    monkeypatch.setattr(_rabbitmq_rejoin, "BATCH", 2)
    monkeypatch.setattr(Channel, "basic_ack", ack)
    monkeypatch.setattr(_rabbitmq_rejoin.os, "fsync", fsync)
    kept = tmp_path / "saves"
    run_module(rabbitmq_rejoin, options(step="rejoin", region="north", save_directory=str(kept)))
    assert seen[:-2] == [  # the summary comes last
        "saves", tmp_path.name,
        "only-here.jsonl 2", "saved", "ack q.dr",
        "copies.jsonl 2", "saved", "ack q", "copies.jsonl 3", "saved", "ack q",
    ]  # fmt: skip


def test_only_the_canarys_numbers_are_told(lost: World, run_module: Run, tmp_path: Path) -> None:
    given = options(step="rejoin", region="north", save_directory=str(tmp_path))
    north = lost.clusters["north"]
    north.queues["q"] = [1, "by hand", None, 3]
    given["canary_queue"] = {"vhost": "docs", "name": "q"}
    assert run_module(rabbitmq_rejoin, given)["saved"]["canary"] == "1,3-4"
    north.queues["q"] = [5]
    north.role = Role("standby", 1).value()
    given["canary_queue"] = {"vhost": "docs", "name": "another"}
    assert run_module(rabbitmq_rejoin, given)["saved"]["canary"] == ""


def test_a_lost_region_is_closed_before_its_record_and_its_gate_open_it(
    lost: World, run_module: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    north = lost.clusters["north"]
    north.connections["ingest"] = 1
    answers = [False, False, True]
    monkeypatch.setattr(Region, "lets_in", lambda _region: answers.pop(0))
    lost.locked = lambda _region: lost.log.append(f"lock, {len(answers)} answers left")
    run_module(rabbitmq_rejoin, options(step="rejoin", region="north", save_directory=str(tmp_path)))
    assert [line for line in lost.log if line != "north: POST definitions"][:4] == [
        "north: DELETE permissions docs ingest",
        "north: DELETE connections username ingest",
        "north: PUT global-parameters muster_region_role",
        "lock, 0 answers left",
    ]


def test_a_message_that_is_not_on_the_disk_stays_in_its_queue(
    lost: World, run_module: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_rabbitmq_rejoin.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        _rabbitmq_rejoin.Rejoin(
            {"north": Region("north", ["north-1"], None)},
            "north",
            DECLARED,
            str(tmp_path),
            1,  # type: ignore[arg-type]
        ).drain("docs", "q.dr", str(tmp_path / "x"))
    assert lost.clusters["north"].queues["q.dr"] == [3, 4]


def test_a_full_disk_is_told_in_a_sentence(
    lost: World, run_module: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_rest: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_rabbitmq_rejoin.Rejoin, "drain", full)
    answer = run_module(rabbitmq_rejoin, options(step="rejoin", region="north", save_directory=str(tmp_path)))
    assert answer["msg"].endswith(": No space left on device; what is not in it is still in its queue")
    # A move that is under way: neither opened nor made to pull by the role meanwhile.
    assert lost.clusters["north"].role["moving_to"] == "south"  # type: ignore[index]
    run_module(rabbitmq_objects, options(region="north"))
    assert lost.clusters["north"].parameters == {}


def test_a_region_pulls_only_when_all_is_saved_and_its_record_says_so(
    lost: World, run_module: Run, tmp_path: Path
) -> None:
    north = lost.clusters["north"]
    north.parameters["docs", "shovel", "muster-carry.q"] = {"src-queue": "q", "dest-queue": "q"}
    # What the other region's consumers have not handled is not to be pulled and saved here.
    lost.clusters["south"].queues["q"] = [7]
    lost.link_works = False
    seen: list[tuple[Any, int, int]] = []

    def watch() -> None:
        lost.link_works = "muster.q" in [name for _v, _c, name in north.parameters]
        seen.append((north.role["epoch"], len(north.parameters), len(north.queues["q"])))  # type: ignore[index]

    lost.watch = watch
    run_module(rabbitmq_rejoin, options(step="rejoin", region="north", save_directory=str(tmp_path)))
    assert [name for _v, _c, name in north.parameters] == ["muster.q"]
    assert (1, 0, 3) in seen, "the link that carried over goes before anything is saved"
    assert lost.log.index("north: DELETE parameters shovel docs muster-carry.q") < len(lost.log) - 2
    # Were it the other way round, a rerun would save and take away what the standby has pulled.
    assert [line for line in lost.log if "global" in line or "definitions" in line][-2:] == [
        "north: PUT global-parameters muster_region_role",
        "north: POST definitions",
    ]


def test_a_return_waits_until_a_federation_has_made_its_queue(
    lost: World, run_module: Run, tmp_path: Path
) -> None:
    federated = {**DECLARED, "standby": {**DECLARED["standby"], "mode": "federation"}}
    for cluster in lost.clusters.values():
        cluster.queues["q.dr"] = []
    given = options(step="rejoin", region="north", save_directory=str(tmp_path), declared=federated)
    answer = run_module(rabbitmq_rejoin, {**given, "timeout": 1})
    assert answer["msg"].endswith(" for region north to pull from south: nobody pulls from it")


def test_what_another_run_has_brought_back_is_a_copy_and_not_saved(
    lost: World, run_module: Run, tmp_path: Path
) -> None:
    north = lost.clusters["north"]

    def other_run(_region: str) -> None:
        north.role = Role("standby", 2).value()

    lost.locked = other_run
    answer = run_module(rabbitmq_rejoin, options(step="rejoin", region="north", save_directory=str(tmp_path)))
    assert answer["saved"] is None
    assert north.queues["q"] == [1, 2, 3]


def test_a_region_is_not_brought_back_beside_another_operation(
    lost: World, run_module: Run, tmp_path: Path
) -> None:
    lost.clusters["north"].locked = True
    answer = run_module(rabbitmq_rejoin, options(step="rejoin", region="north", save_directory=str(tmp_path)))
    assert "holds the lock of region north" in answer["msg"]
    assert lost.clusters["north"].queues["q.dr"] == [3, 4]


def test_check_mode_of_a_return_changes_nothing(lost: World, run_module: Run) -> None:
    answer = run_module(rabbitmq_rejoin, options(step="rejoin", region="north"), check=True)
    assert (answer["primary"], answer["changed"], lost.log) == ("south", False, [])


def test_a_region_is_not_closed_while_no_other_is_primary(pair: World, run_module: Run) -> None:
    for step in ("look", "rejoin"):
        answer = run_module(rabbitmq_rejoin, options(step=step, region="north"))
        assert answer["msg"].startswith("refused: no other region is primary")
    assert pair.log == []


def test_the_newer_primary_is_not_made_a_standby(lost: World, run_module: Run) -> None:
    answer = run_module(rabbitmq_rejoin, options(step="rejoin", region="south"))
    assert answer["msg"] == "refused: south is primary with epoch 2, north with 1"


# --- info ---------------------------------------------------------------------------------


@pytest.fixture
def info(run_module: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    def call(host: str, local: Local = RUNS, **more: Any) -> dict[str, Any]:
        monkeypatch.setattr(rabbitmq_info, "local_state", lambda _watched: local)
        given = options(host=host, backlogs=[{"vhost": "docs", "name": "q.dr"}], **more)
        for name in ("declared", "passwords"):
            del given[name]
        return run_module(rabbitmq_info, given)

    return call


def test_the_status_has_every_key(pair: World, info: Callable[..., dict[str, Any]]) -> None:
    pair.link_works = True
    answer = info("south-1")
    assert answer["recovery_status"] == {
        "store": "rabbitmq",
        "region": "south",
        "role": "standby",
        "healthy": True,
        "reasons": [],
        "ready": True,
        "position": "12 messages",
        "timeline": 1,
        "lag_bytes": None,
        "lag_seconds": None,
        "last_backup_at": None,
        "last_restore_proof_at": None,
        "versions": {"rabbitmq": "4.0.5", "erlang": "27"},
        "shared": True,
        "lag_measure": "lag_messages",
        "lag_messages": 0,
    }
    assert (answer["primary_region"], answer["backlog"]) == ("north", 0)
    assert answer["regions"]["north"]["leader"] == "north-1"
    assert info("north-2")["recovery_status"]["ready"] is None


def test_a_broken_link_is_not_ready(pair: World, info: Callable[..., dict[str, Any]]) -> None:
    pair.link_works = False
    pair.clusters["north"].queues["q.dr"] = [1, 2]
    answer = info("south-1")
    assert answer["recovery_status"]["ready"] is False
    assert answer["recovery_status"]["reasons"] == ["the shovel muster.q of vhost docs is starting"]
    assert answer["backlog"] == 2


def test_what_is_not_known_is_null(pair: World, info: Callable[..., dict[str, Any]]) -> None:
    pair.clusters["north"].up = False
    answer = info("south-1")
    assert (answer["primary_region"], answer["backlog"]) == (None, None)
    stopped = info("north-1", Local("inactive", False, ()))["recovery_status"]
    assert (stopped["role"], stopped["timeline"]) == ("stopped", None)


def test_a_former_primary_says_that_it_is_one(
    lost: World, info: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    answer = info("north-1")
    assert answer["recovery_status"]["role"] == "fenced"
    assert "region south is primary since" in answer["recovery_status"]["reasons"][0]
    assert answer["primary_region"] == "south"
    marker = tmp_path / "fenced.json"
    marker.write_text(json.dumps({"fenced_at": "then", "operation": "drill"}))
    found = info("north-1", fence_marker=str(marker))["recovery_status"]
    assert found["reasons"][0] == "fenced since then (drill); dr_reprotect brings it back"


# --- member -------------------------------------------------------------------------------


@pytest.fixture
def member(pair: World, run_module: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    calls: list[str] = []
    monkeypatch.setattr(rabbitmq_member, "systemctl", lambda *words, **_more: calls.append(" ".join(words)))

    def call(*states: Local, **more: Any) -> dict[str, Any]:
        left = list(states)
        monkeypatch.setattr(
            rabbitmq_member, "local_state", lambda _watched: left.pop(0) if len(left) > 1 else left[0]
        )
        given = options(**{"host": "north-1", "region": "north", "timeout": 0.05, **more})
        for name in ("declared", "passwords"):
            del given[name]
        return {**run_module(rabbitmq_member, given), "calls": list(calls)}

    return call


def test_a_node_that_runs_as_its_files_say_is_left_alone(member: Callable[..., dict[str, Any]]) -> None:
    assert member(RUNS)["steps"] == []


def test_a_stopped_node_is_started(member: Callable[..., dict[str, Any]]) -> None:
    assert member(Local("inactive", False, ()), RUNS)["steps"] == ["start RabbitMQ"]


def test_a_node_is_restarted_when_the_cluster_can_do_without(
    pair: World, member: Callable[..., dict[str, Any]]
) -> None:
    due = Local("active", False, ("a file is newer",))
    answer = member(due, RUNS)
    assert answer["calls"][-1] == "restart --no-block rabbitmq-server.service"
    assert answer["steps"] == ["restart RabbitMQ"]


def test_a_node_that_the_cluster_needs_is_not_restarted(
    pair: World, member: Callable[..., dict[str, Any]]
) -> None:
    pair.clusters["north"].critical = True
    answer = member(RUNS, restart=True)
    assert "some quorum queue would lose its majority" in answer["msg"]
    pair.clusters["north"].critical = False
    pair.clusters["north"].running["north-3"] = False
    answer = member(RUNS, restart=True)
    assert answer["msg"] == "waited 0.05 s for region north to do without north-1: north-3 does not run"
    assert answer["calls"] == []


def test_a_node_is_not_restarted_while_another_has_not_joined(
    pair: World, member: Callable[..., dict[str, Any]]
) -> None:
    del pair.clusters["north"].running["north-3"]
    answer = member(RUNS, restart=True)
    assert answer["msg"].endswith("north-3 does not run")
    assert answer["calls"] == []


def test_a_restarted_node_is_open_again_where_it_was(
    pair: World, member: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = [True]
    monkeypatch.setattr(rabbitmq_member, "listens", lambda *_rest: opened.pop() if opened else False)
    answer = member(RUNS, restart=True)
    assert answer["msg"].endswith("port 5671 of north-1 is closed")
    assert member(RUNS, restart=True)["steps"] == ["restart RabbitMQ"], "it was closed before"


def test_a_node_that_started_alone_is_told(pair: World, member: Callable[..., dict[str, Any]]) -> None:
    del pair.clusters["north"].running["north-2"]
    answer = member(Local("inactive", False, ()), RUNS)
    assert "north-2 is not in the cluster of north-1" in answer["msg"]


def test_a_fenced_node_is_not_started(member: Callable[..., dict[str, Any]]) -> None:
    answer = member(Local("inactive", True, ()))
    assert answer["msg"].startswith("north-1 is fenced")


def test_a_node_that_does_not_start_is_told_without_waiting(member: Callable[..., dict[str, Any]]) -> None:
    answer = member(Local("inactive", False, ()), Local("activating", False, (), 3), timeout=600)
    assert answer["msg"] == "RabbitMQ on north-1 does not start: see its /var/log/rabbitmq"


# --- backup -------------------------------------------------------------------------------


def test_a_backup_is_encrypted_read_back_and_restored(pair: World, run_module: Run, tmp_path: Path) -> None:
    given = options(region="north", directory=str(tmp_path), passphrase="geheim", keep=1)
    for name in ("declared", "passwords"):
        del given[name]
    proof = run_module(rabbitmq_backup, given)["proof"]
    assert (proof["objects"]["queues"], proof["differs"]) == (2, [])
    data = Path(proof["file"]).read_bytes()
    assert b"muster_upstream" not in data
    assert Path(proof["file"]).stat().st_mode & 0o777 == 0o600
    north = pair.clusters["north"]
    rotated = next(user for user in north.objects["users"] if user["name"] == "muster_operator")
    rotated["password_hash"] = "of today"
    north.objects["bindings"].clear()
    north.permissions.pop(("docs", "ingest"))
    found = run_module(rabbitmq_backup, {**given, "state": "read"})
    assert found["proof"]["differs"] == ["1 users", "1 permissions", "2 bindings"]
    assert not (tmp_path / "restore-proof.json").exists(), "to read a file is no proof of a restore"
    run_module(rabbitmq_backup, {**given, "state": "restored"})
    assert len(north.objects["bindings"]) == 2
    assert ("docs", "ingest") not in north.permissions, "who may write follows the role, never a file"
    now = next(user for user in north.objects["users"] if user["name"] == "muster_operator")
    assert now["password_hash"] == "of today", "an earlier password would lock the operator out"
    bad = run_module(rabbitmq_backup, {**given, "state": "read", "passphrase": "xyzzy"})
    assert "rabbitmq_backup_passphrase is another one, or the file was changed" in bad["msg"]
    run_module(rabbitmq_backup, given)
    assert len(list(tmp_path.glob("*.backup"))) == 1


def test_a_file_of_something_else_is_no_backup() -> None:
    with pytest.raises(MusterError, match="is no backup"):
        _rabbitmq_backup.unseal("{}", "x", "f")
    with pytest.raises(MusterError, match="the file was changed"):
        _rabbitmq_backup.unseal(_rabbitmq_backup.seal("{}", "x")[:40], "x", "f")
