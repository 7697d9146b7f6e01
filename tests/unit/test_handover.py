# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The handover, broken at each of its steps in a simulated world: see handover_world."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils import _handover
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._handover import LockLost
from handover_world import HOSTS, OTHER, Killed, World, handover, switch

Hook = Callable[[str, str], None]
WHEN = ("before", "after")
CHANGES = ("close north", "open south")


@pytest.fixture(autouse=True)
def _own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run sets (see handover_world.handover) is put back."""
    monkeypatch.setattr(_handover, "wait_until", _handover.wait_until)


@pytest.fixture
def world() -> World:
    return World()


def steps() -> list[str]:
    """What an undisturbed switch to the south does, step by step."""
    made = World()
    switch(made, "south")
    return made.trace


def step(name: str) -> int:
    return steps().index(name) + 1


def again(world: World, target: str) -> str:
    """The command once more; its refusal, if it is one."""
    try:
        switch(world, target)
    except (MusterError, LockLost) as error:
        return str(error)
    return ""


def killed(world: World, number: int, when: str, target: str = "south") -> None:
    """Run the command and kill it at a step, before or after that took effect."""

    def kill(at: str, name: str) -> None:
        if at == when:
            raise Killed(name)

    world.hooks = {world.steps + number: kill}
    with contextlib.suppress(Killed, MusterError, LockLost):
        switch(world, target)
    world.hooks = {}


def disturbed(spoil: Callable[[World, str], None]) -> Iterator[tuple[World, str, str]]:
    """A switch for each of its steps, with something done to the world just before that step.

    Yields the world, the step, and what the command said in the end.
    """
    for number, name in enumerate(steps(), start=1):
        world = World()

        def hook(at: str, name: str, world: World = world) -> None:
            if at == "before":
                world.hooks = {}
                spoil(world, name)

        world.hooks = {number: hook}
        yield world, f"{number} {name}", again(world, "south")


def assert_sound(world: World, where: str, target: str | None = None) -> None:
    try:
        region = world.judge()
    except AssertionError as error:
        raise AssertionError(f"at step {where}: {error}") from error
    assert target in (None, region), f"at step {where}: {region} is primary"


# --- undisturbed ------------------------------------------------------------------------


def test_there_and_back(world: World) -> None:
    there = switch(world, "south")
    assert world.judge() == "south"
    back = switch(world, "north")
    assert world.judge() == "north"
    for result, timeline in ((there, 1), (back, 2)):
        assert result["changed"] is True
        assert result["situation"] == "start"
        assert (result["timeline_before"], result["timeline_after"]) == (timeline, timeline + 1)
        before, proof, after = (result[f"{n}_position" if n == "proof" else f"position_{n}"] for n in
                                ("before", "proof", "after"))  # fmt: skip
        assert int(before[2:], 16) <= int(proof[2:], 16) <= int(after[2:], 16)


def test_phases_are_told_in_their_order(world: World) -> None:
    with world.locked() as lock:
        run = handover(world, "south", lock)
        run.run()
    names = [phase["name"] for phase in run.phases.done]
    assert names == [
        f"handover: {name}" for name in ("checkpoint", "demote", "catch up", "promote", "re-protect")
    ]
    assert all(phase["started_at"].endswith("Z") and phase["seconds"] >= 0 for phase in run.phases.done)


def test_a_second_run_has_nothing_to_do(world: World) -> None:
    switch(world, "south")
    result = switch(world, "south")
    assert (result["changed"], result["situation"]) == (False, "done")
    assert result["timeline_after"] == 2
    assert world.judge() == "south"


def test_check_mode_changes_nothing(world: World) -> None:
    with world.locked() as lock:
        assert handover(world, "south", lock).run(check=True) == {"changed": True, "situation": "start"}
    assert not [name for name in world.trace if name.startswith(("open", "close", "forget", "checkpoint"))]
    killed(world, step("close north"), "after")
    world.trace.clear()
    with world.locked() as lock:
        assert handover(world, "south", lock).run(check=True) == {"changed": True, "situation": "resume"}
    switch(world, "south")
    world.trace.clear()
    with world.locked() as lock:
        assert handover(world, "south", lock).run(check=True)["situation"] == "done"
    assert not [name for name in world.trace if name.startswith(("open", "close", "forget", "checkpoint"))]


# --- killed, stalled ----------------------------------------------------------------------


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("target", ["south", "north"])
def test_killed_at_any_step_the_next_run_ends_it(target: str, when: str) -> None:
    for number, name in enumerate(steps(), start=1):
        world = World()
        killed(world, number, when)
        assert again(world, target) == "", f"at step {number} {name}"
        assert_sound(world, f"{number} {name}", target)


@pytest.mark.parametrize(
    "first", [("close north", "after"), ("open south", "before"), ("open south", "after")]
)
@pytest.mark.parametrize("targets", ["south south", "south north", "north south", "north north"])
def test_killed_twice_the_third_run_ends_it(first: tuple[str, str], targets: str) -> None:
    second, third = targets.split()
    name, when = first
    at = step(name)
    number = 0
    while True:
        number += 1
        world = World()
        killed(world, at, when)
        before = world.steps
        killed(world, number, "after", second)
        if world.steps - before < number:
            return  # the second run came to its end before that step
        assert again(world, third) == "", f"second killed at {number}: {world.trace[-1]}"
        assert_sound(world, f"{number} of the second run", third)


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("target", ["south", "north"])
def test_stalled_at_any_step_it_does_no_harm_to_the_run_that_overtook_it(target: str, when: str) -> None:
    """The process stands still until its lock is gone, another run does all its work, then it goes on."""
    for number, name in enumerate(steps(), start=1):
        world = World()

        def stall(at: str, _name: str, world: World = world) -> None:
            if at == when:
                world.hooks = {}
                world.stall()
                switch(world, target)

        world.hooks = {number: stall}
        again(world, "south")
        assert_sound(world, f"{number} {name}")


@pytest.mark.parametrize("when", WHEN)
def test_a_lost_lock_stops_it_and_a_rerun_ends_it(when: str) -> None:
    """Nobody else has taken the lock; still nothing may be changed without it, not even rolled back."""
    for number, name in enumerate(steps(), start=1):
        world = World()

        revisions: list[int] = []

        def lose(at: str, _name: str, world: World = world, revisions: list[int] = revisions) -> None:
            if at == when:
                world.lock = None
                revisions += [side.revision for side in world.sides.values()]

        world.hooks = {number: lose}
        said = again(world, "south")
        assert "the lock dr was lost" in said or number > step("forget north"), f"at step {number} {name}"
        assert revisions == [side.revision for side in world.sides.values()], f"at step {number} {name}"
        assert again(world, "south") == ""
        assert_sound(world, f"{number} {name}", "south")


# --- answers that do not tell the truth -----------------------------------------------------


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("step", CHANGES)
@pytest.mark.parametrize("times", [1, 3, 1000])
def test_a_change_of_which_the_answer_is_an_error(step: str, applied: bool, times: int) -> None:
    world = World()
    left = [times]

    def fail(at: str, name: str) -> None:
        if name == step and left[0] and at == ("after" if applied else "before"):
            left[0] -= 1
            raise MusterError("context deadline exceeded")

    world.hooks = dict.fromkeys(range(1, 5000), fail)
    said = again(world, "south")
    world.hooks = {}
    assert (said == "") is (applied or times < 1000)
    assert again(world, "south") == ""
    assert_sound(world, step, "south")


@pytest.mark.parametrize("step", CHANGES)
@pytest.mark.parametrize("late", [0.05, 0.5, 8, 10, 10.1, 10.2, 10.3, 10.4, 10.5, 10.6, 12, 40])
@pytest.mark.parametrize("last", [False, True])
def test_a_change_that_arrives_late(step: str, late: float, last: bool) -> None:
    """The answer is an error, and the request is carried out only afterwards, perhaps after a rollback."""
    world = World()
    world.late = {step: late}
    if last:  # and every other try fails: the run gives up

        def fail(at: str, name: str) -> None:
            if name == step and at == "before" and step not in world.late:
                raise MusterError("no leader")

        world.hooks = dict.fromkeys(range(1, 5000), fail)
    again(world, "south")
    world.advance(45)
    assert_sound(world, step)
    assert again(world, "south") == ""
    assert_sound(world, step, "south")


def test_a_late_demotion_does_not_undo_a_rollback() -> None:
    """Opening the source needs no change then, but must be written: else the late one still fits."""
    for late in range(1000, 1060, 2):
        world = World()
        world.late = {"close north": late / 100}
        left = [1]

        def fail(at: str, name: str, world: World = world, left: list[int] = left) -> None:
            if at != "before" or world.late:
                return
            if name == "close north" or (name == "open north" and left[0]):
                left[0] -= name == "open north"
                raise MusterError("no leader")

        world.hooks = dict.fromkeys(range(1, 5000), fail)
        assert "and was rolled back" in again(world, "south")
        assert_sound(world, f"{late / 100} s", "north")


def test_an_etcd_that_cannot_be_read_is_a_refusal(world: World) -> None:
    world.sides["south"].readable = False
    said = again(world, "south")
    assert said == "refused: the configuration of region south is not known (etcd of south: no leader)"
    assert_sound(world, "1", "north")


@pytest.mark.parametrize("region", ["north", "south"])
def test_an_etcd_that_fails_under_way_leaves_what_a_rerun_ends(region: str) -> None:
    def break_etcd(world: World, _name: str) -> None:
        world.sides[region].readable = False

    for world, where, said in disturbed(break_etcd):
        assert not world.dual, where
        if said:
            assert said.startswith(("refused: ", f"etcd of {region}", "the switch to south failed")), where
        world.sides[region].readable = True
        world.advance(15)
        assert again(world, "south") == "", where
        assert_sound(world, where, "south")


# --- hosts that do not do as they should ------------------------------------------------------


def test_an_old_primary_that_never_comes_back_in_recovery_is_put_back(world: World) -> None:
    world.node("north-1").recovers = False
    said = again(world, "south")
    assert said == (
        "the switch to south failed and was rolled back: waited 30 s for north-1 to be in recovery: "
        "PostgreSQL on north-1: connection refused"
    )
    assert_sound(world, "demote", "north")


def test_an_old_primary_that_never_demotes_is_put_back(world: World) -> None:
    world.node("north-1").obeys = False
    said = again(world, "south")
    assert said == "the switch to south failed and was rolled back: waited 30 s for north-1 to be in recovery"
    world.node("north-1").obeys = True
    assert_sound(world, "demote", "north")


def test_a_target_that_does_not_catch_up_is_left_and_the_old_primary_put_back(world: World) -> None:
    world.node("south-1").replaying = False
    said = again(world, "south")
    assert said.startswith(
        "the switch to south failed and was rolled back: waited 15 s for south-1 to hold all of north-1: "
        "south-1 has replayed 0/"
    )
    world.node("south-1").replaying = True
    assert_sound(world, "catch up", "north")


def test_the_old_primary_dies_at_any_step() -> None:
    def die(world: World, _name: str) -> None:
        world.lose("north-1")

    for world, where, said in disturbed(die):
        world.advance(60)
        if said and "rolled back" not in said:
            assert said.startswith(("PostgreSQL on north-1", "refused: ", "waited 30 s for region north")), (
                where
            )
        assert len(world.writers()) == 1, where
        world.bring_back("north-1")
        assert_sound(world, where)


@pytest.mark.parametrize("far_behind", [False, True])
def test_the_targets_leader_moves_at_any_step(far_behind: bool) -> None:
    """Whoever leads the target when it is opened must be who was proven to hold everything."""

    def move(world: World, _name: str) -> None:
        world.sides["south"].leader = "south-2"

    number = 0
    for world, where, _said in disturbed(move):
        number += 1
        assert_sound(world, where)
    assert number > 20
    if not far_behind:
        return
    for number, name in enumerate(steps(), start=1):
        world = World()
        # From here the second host receives nothing, until it leads and everything is over.
        world.node("south-2").receiving = False

        def hook(at: str, _name: str, world: World = world) -> None:
            if at == "before":
                world.hooks = {}
                world.sides["south"].leader = "south-2"

        opened = steps().index("open south") + 1
        world.hooks = {number: hook}
        said = again(world, "south")
        world.node("south-2").receiving = True
        if number == opened - 1:
            assert said.endswith(": south-1 no longer leads region south, south-2 does")
        if number <= opened:
            assert_sound(world, f"{number} {name}", "north")
        else:
            assert not world.dual, f"{number} {name}"


def test_the_targets_leader_vanishes_at_any_step() -> None:
    def vanish(world: World, _name: str) -> None:
        world.lose("south-1")

    for world, where, said in disturbed(vanish):
        world.advance(30)
        assert len(world.writers()) == 1, f"{where}: {said}"
        assert_sound(world, where)
        world.bring_back("south-1")
        assert again(world, "south") == "", where
        assert_sound(world, where, "south")


def test_the_sources_primary_moves_at_any_step() -> None:
    """A switchover inside the region, by somebody who does not ask for the lock."""

    def move(world: World, _name: str) -> None:
        world.sides["north"].leader = "north-2"

    for world, where, _said in disturbed(move):
        assert_sound(world, where)
        assert again(world, "south") == "", where
        assert_sound(world, where, "south")


def test_the_link_breaks_at_any_step() -> None:
    def cut(world: World, _name: str) -> None:
        world.link = False

    for world, where, _said in disturbed(cut):
        world.link = True
        assert_sound(world, where)
        assert again(world, "south") == "", where
        assert_sound(world, where, "south")


def test_a_second_writer_in_the_old_region_stops_it(world: World) -> None:
    """Patroni does not let it happen; were it to happen, the target would stay closed."""
    other = world.node("north-2")

    def rise(at: str, name: str) -> None:
        if at == "before" and name == "members":
            other.state, other.obeys = "primary", False
            world.node("north-1").obeys = False

    world.hooks = dict.fromkeys(range(1, 200), rise)
    said = again(world, "south")
    assert "and was rolled back: waited 15 s for south-1 to hold all of north-1: north-2 takes writes" in said
    assert not world.dual


@pytest.mark.parametrize("name", ["recovery south-1", "members", "read north"])
def test_the_old_region_opened_by_hand_under_way_keeps_the_other_closed(world: World, name: str) -> None:
    start = step("close north")
    number = steps().index(name, start) + 1

    def by_hand(at: str, _name: str) -> None:
        if at == "before":
            world.hooks = {}
            world.sides["north"].standby = False
            world.sides["north"].revision += 1
            if name == "recovery south-1":
                world.advance(1)

    world.hooks = {number: by_hand}
    said = again(world, "south")
    expected = (
        "north-1 takes writes again"
        if name == "recovery south-1"
        else "region north is configured as primary"
    )
    assert "and was rolled back: " in said
    assert expected in said
    assert_sound(world, name, "north")


# --- resuming ---------------------------------------------------------------------------------


def test_a_resume_that_cannot_catch_up_puts_the_old_primary_back(world: World) -> None:
    world.link = False
    killed(world, step("close north"), "after")
    assert "and was rolled back: waited 15 s for south-1 to hold all of north-1" in again(world, "south")
    world.link = True
    assert_sound(world, "resume", "north")


def test_the_other_direction_never_opens_a_region_that_lacks_writes() -> None:
    """Half-way to the south, one asks for the north, and its leader is not the old primary."""
    for number, name in enumerate(steps(), start=1):
        world = World()
        world.link = False
        killed(world, number, "after")
        world.lose("south-2")
        again(world, "north")
        world.link = True
        world.bring_back("south-2")
        if not world.writers():
            assert again(world, "north") == ""
        assert_sound(world, f"{number} {name}", "north")


def test_the_other_direction_needs_the_old_primary_and_nobody_else(world: World) -> None:
    killed(world, step("close north"), "after")
    world.lose("south-1")
    world.lose("south-2")
    assert again(world, "north") == "waited 30 s for region south to stream as a standby"
    world.bring_back("south-1")
    world.bring_back("south-2")
    assert_sound(world, "resume", "north")


def test_without_a_note_every_host_must_be_heard(world: World) -> None:
    killed(world, step("close north"), "after")
    world.sides["north"].last_primary = None
    world.lose("north-2")
    said = again(world, "south")
    assert said == (
        "the switch to south failed (waited 30 s for north-2 to be in recovery: PostgreSQL on north-2: "
        "connection refused) and could not be rolled back (nothing proves that region north was the last "
        "to take writes); no region takes writes until the same command, or one back to north, has succeeded"
    )
    assert not world.writers()
    world.bring_back("north-2")
    assert switch(world, "south")["situation"] == "resume"
    assert_sound(world, "resume", "south")


def test_a_resume_without_a_leader_to_promote_is_rolled_back(world: World) -> None:
    killed(world, step("close north"), "after")
    for host in HOSTS["south"]:
        world.lose(host)
    world.advance(30)
    assert (
        again(world, "south") == "the switch to south failed and was rolled back: nobody leads region south"
    )
    for host in HOSTS["south"]:
        world.bring_back(host)
    assert_sound(world, "resume", "north")


def test_a_note_of_an_older_switch_does_not_mislead(world: World) -> None:
    world.sides["south"].last_primary = "south-2"
    assert switch(world, "south")["situation"] == "start"
    assert [side.last_primary for side in world.sides.values()] == [None, None]
    assert_sound(world, "end", "south")


def test_a_promotion_under_way_is_waited_for(world: World) -> None:
    killed(world, step("open south"), "after")
    assert world.sides["north"].last_primary == "north-1"
    assert switch(world, "south")["situation"] == "done"
    assert world.sides["north"].last_primary is None
    assert_sound(world, "end", "south")


# --- refused ------------------------------------------------------------------------------------


def test_two_regions_configured_as_primary_are_refused(world: World) -> None:
    world.sides["south"].standby = False
    world.node("south-1").obeys = False
    assert again(world, "south") == (
        "refused: both north and south are configured as primary; "
        "decide by hand which one holds the truth, then make the other a standby"
    )
    assert not any(step.startswith(("open", "close", "forget")) for step in world.trace)


def test_a_source_that_writes_although_it_is_a_standby_is_told(world: World) -> None:
    switch(world, "south")
    world.node("north-1").obeys = False
    world.node("north-1").state = "primary"
    said = again(world, "south")
    assert said == "refused: south is primary, but these take writes: north-1, south-1"


def spoil(host: str, **values: Any) -> Callable[[World], None]:
    def change(world: World) -> None:
        for name, value in values.items():
            setattr(world.node(host), name, value)

    return change


def behind(world: World) -> None:
    world.node("south-1").replaying = False
    for _ in range(20):
        world.advance(0.5)


def two_writers(world: World) -> None:
    world.node("north-2").state = "primary"
    world.node("north-2").obeys = False


def no_key(world: World) -> None:
    world.sides["north"].leader = None
    world.sides["north"].elects = False


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (behind, r"refused: south-1 is \d+ bytes behind, more than the 2000 allowed"),
        (spoil("south-1", unknown_position=True), "refused: the lag of south-1 is not known"),
        (spoil("south-1", told_timeline=7), r"refused: timelines differ \(north-1 1, south-1 7\)"),
        (spoil("south-1", receiving=False), "refused: south-1 is not streaming, so its lag is not known"),
        (
            spoil("south-1", system_identifier="1"),
            r"refused: south-1 is not a copy of north-1 \(system identifiers differ\)",
        ),
        (lambda world: world.lose("south-1"), "refused: region south has no standby leader to promote"),
        (lambda world: world.lose("north-1"), "refused: north must hold the only primary, found none"),
        (two_writers, "refused: north must hold the only primary, found north-1, north-2"),
        (
            no_key,
            "refused: north-1 leads region north by its own account, but by etcd's nobody does",
        ),
    ],
)
def test_what_cannot_be_switched_without_loss_is_refused(
    world: World, wrong: Callable[[World], None], sentence: str
) -> None:
    wrong(world)
    with pytest.raises(MusterError, match=f"^{sentence}$"), world.locked() as lock:
        handover(world, "south", lock, max_lag_bytes=2000).run()
    assert not [name for name in world.trace if name.startswith(("open", "close", "forget", "checkpoint"))]
    assert [side.revision for side in world.sides.values()] == [1, 1]


def test_every_region_has_another() -> None:
    assert {OTHER[name] for name in HOSTS} == set(HOSTS)
