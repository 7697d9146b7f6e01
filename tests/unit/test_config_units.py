"""muster.platform.config: systemd units, against a systemctl that keeps its units in a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.muster.platform.plugins.module_utils import _config_units
from ansible_collections.muster.platform.plugins.modules import config

# What the real one does, as far as the module can see it: `show` prints blocks in the order
# asked, `start` of a failing unit ends 1 and says nothing with --quiet, a unit whose condition
# fails ends 0 and stays inactive.
SYSTEMCTL = """#!{python} -ISE
import json, sys
path, words = {state!r}, [word for word in sys.argv[1:] if not word.startswith("--")]
state = json.load(open(path))
verb, names = words[0], words[1:]
state["calls"].append(" ".join(words))
code = 0
DEFAULT = dict(LoadState="not-found", ActiveState="inactive", SubState="dead", UnitFileState="")
for name in names:
    unit = state["units"].get(name, dict(DEFAULT))
    if verb == "show":
        print("\\n".join(key + "=" + value for key, value in unit.items() if key.isidentifier()) + "\\n")
        continue
    if verb == "enable": unit["UnitFileState"] = "enabled"
    if verb == "disable": unit["UnitFileState"] = "disabled"
    if verb == "mask": unit.update(LoadState="masked", UnitFileState="masked")
    if verb == "unmask": unit.update(LoadState="loaded", UnitFileState=unit.get("under-mask", "disabled"))
    if verb == "stop": unit["ActiveState"] = "inactive"
    if verb == "start":
        if unit.get("does-not-start"): code = 1
        elif unit.get("dies-at-once"): unit.update(ActiveState="activating", SubState="auto-restart")
        elif unit.get("condition-fails"):
            unit.update(ConditionResult="no", ConditionTimestampMonotonic="17")
        else: unit.update(ActiveState="active", SubState="running")
if verb == "daemon-reload":
    for name, unit in state.pop("after-reload", {{}}).items(): state["units"][name] = unit
    for unit in state["units"].values(): unit.pop("NeedDaemonReload", None)
json.dump(state, open(path, "w"))
sys.exit(code)
"""
JOURNALCTL = """#!/bin/sh
echo "$@" >> {log}
echo "FATAL: password hunter2hunter2 refused"
"""
DISABLED = {"LoadState": "loaded", "ActiveState": "inactive", "SubState": "dead", "UnitFileState": "disabled"}
RUNNING = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "UnitFileState": "enabled"}


class Host:
    """A host with a fake systemd, and main() to run on it."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self.state = directory / "state.json"
        self.unit_directory = directory / "units"
        self.capsys = capsys
        self.set()

    def set(self, **units: dict[str, str]) -> None:
        named = {f"{name}.service": unit for name, unit in units.items()}
        self.state.write_text(json.dumps({"calls": [], "units": named}))

    @property
    def calls(self) -> list[str]:
        """The calls since the last look."""
        state = json.loads(self.state.read_text())
        found: list[str] = state["calls"]
        self.state.write_text(json.dumps({**state, "calls": []}))
        return found

    def run(self, fails: bool = False, check: bool = False, **arguments: Any) -> dict[str, Any]:
        self.capsys.readouterr()
        flags = {"_ansible_check_mode": check, "_ansible_diff": True}
        with patch_module_args({**arguments, **flags}), pytest.raises(SystemExit):
            config.main()
        result: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        assert bool(result.get("failed")) is fails, result
        return result


@pytest.fixture
def host(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Host:
    found = Host(tmp_path, capsys)
    (tmp_path / "bin").mkdir()
    found.unit_directory.mkdir()
    programs = {
        "systemctl": SYSTEMCTL.format(python=sys.executable, state=str(found.state)),
        "journalctl": JOURNALCTL.format(log=tmp_path / "journal.log"),
    }
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setattr(_config_units, "BOOTED", str(tmp_path))
    monkeypatch.setattr(_config_units, "UNIT_DIRECTORIES", (f"{found.unit_directory}/",))
    monkeypatch.setattr(config.QuietModule, "log", lambda *_args, **_more: None)
    return found


def unit(name: str, **wanted: Any) -> dict[str, Any]:
    return {"name": f"{name}.service", **wanted}


def test_a_state_that_is_right_costs_one_call(host: Host) -> None:
    host.set(a=RUNNING, b=DISABLED)
    result = host.run(
        units=[
            unit("a", enabled=True, state="started", masked=False),
            unit("b", enabled=False, state="stopped"),
            unit("none", enabled=False, state="stopped"),
        ]
    )
    assert host.calls == ["show a.service b.service none.service"]
    assert result["changed"] is False
    assert result["units"]["a.service"] == {
        "active": "active",
        "sub": "running",
        "load": "loaded",
        "enabled": "enabled",
        "condition_failed": False,
        "steps": [],
    }


def test_enables_and_starts_once(host: Host) -> None:
    host.set(a=dict(DISABLED), b=dict(DISABLED))
    units = [unit("a", enabled=True, state="started"), unit("b", enabled=True, state="started")]
    planned = host.run(check=True, units=units)
    assert host.calls == ["show a.service b.service"]
    done = host.run(units=units)
    assert host.calls == [
        "show a.service b.service",
        "enable a.service b.service",
        "start a.service",
        "start b.service",
        "show a.service b.service",
    ]
    assert planned["changed"] is done["changed"] is True
    assert planned["diff"] == done["diff"]
    assert planned["diff"][0]["before"] == "enabled: false\nstate: inactive\n"
    assert planned["diff"][0]["after"] == "enabled: true\nstate: started\n"
    assert done["units"]["a.service"]["steps"] == ["enable", "start"]
    assert done["units"]["a.service"]["active"] == "active"
    assert host.run(units=units)["changed"] is False


def test_disables_stops_and_masks(host: Host) -> None:
    host.set(a=dict(RUNNING))
    units = [unit("a", enabled=False, state="stopped", masked=True)]
    assert host.run(units=units)["units"]["a.service"]["steps"] == ["disable", "stop", "mask"]
    assert host.run(units=units)["changed"] is False


def test_masks_what_does_not_exist(host: Host) -> None:
    units = [unit("a", state="stopped", masked=True)]
    host.set(a={**DISABLED, "LoadState": "not-found", "UnitFileState": ""})
    assert host.run(units=units)["units"]["a.service"]["steps"] == ["mask"]


@pytest.mark.parametrize(
    ("enabled", "steps"), [(True, ["unmask", "start"]), (False, ["unmask", "disable", "start"])]
)
def test_what_a_mask_hid_is_seen_after_the_unmasking(host: Host, enabled: bool, steps: list[str]) -> None:
    masked = {**DISABLED, "LoadState": "masked", "UnitFileState": "masked", "under-mask": "enabled"}
    host.set(a=masked)
    units = [unit("a", masked=False, enabled=enabled, state="started")]
    assert host.run(units=units)["units"]["a.service"]["steps"] == steps
    assert host.run(units=units)["changed"] is False


@pytest.mark.parametrize("wanted", [{"state": "started"}, {"enabled": True}])
def test_impossible_wishes_are_refused_before_any_change(host: Host, wanted: dict[str, Any]) -> None:
    files = [{"dest": str(host.directory / "a"), "content": "x"}]
    word = "started" if "state" in wanted else "enabled"
    host.set(m={**DISABLED, "LoadState": "masked", "UnitFileState": "masked"})
    result = host.run(fails=True, files=files, units=[unit("m", **wanted)])
    assert result["msg"] == f"the unit m.service is masked, so it cannot be {word}; set `masked: false`"
    result = host.run(fails=True, files=files, units=[unit("none", **wanted)])
    assert result["msg"] == "the unit none.service does not exist on this host"
    assert not (host.directory / "a").exists()
    planned = host.run(check=True, files=files, units=[unit("none", **wanted)])
    assert planned["changed"] is True, "a fresh host: the package comes before, in the real run"


def test_a_unit_without_an_install_section(host: Host) -> None:
    host.set(s={**DISABLED, "UnitFileState": "static"})
    result = host.run(fails=True, units=[unit("s", enabled=True)])
    assert result["msg"] == "the unit s.service has no [Install] section, so it cannot be enabled"
    assert host.run(units=[unit("s", enabled=False, state="started")])["changed"] is True


@pytest.mark.parametrize(("file", "name"), [("new.service", "new"), ("new@.service", "new@7")])
def test_the_unit_may_come_in_the_same_call(host: Host, file: str, name: str) -> None:
    state = json.loads(host.state.read_text())
    state["after-reload"] = {f"{name}.service": dict(DISABLED)}
    host.state.write_text(json.dumps(state))
    arguments: dict[str, Any] = {
        "files": [{"dest": str(host.unit_directory / file), "content": "[Service]\n"}],
        "units": [unit(name, enabled=True, state="started")],
    }
    result = host.run(**arguments)
    assert result["reloaded"] is True
    assert host.calls == [
        f"show {name}.service",
        "daemon-reload",
        f"show {name}.service",
        f"enable {name}.service",
        f"start {name}.service",
        f"show {name}.service",
    ]
    result = host.run(**arguments)
    assert (result["changed"], result["reloaded"]) == (False, False)
    assert host.calls == [f"show {name}.service"]


def test_systemd_reloads_for_drop_ins_and_their_removal_only(host: Host) -> None:
    dropin = host.unit_directory / "a.service.d" / "muster.conf"
    arguments: dict[str, Any] = {
        "directories": [{"path": str(dropin.parent)}],
        "files": [{"dest": str(dropin), "content": "[Service]\n"}],
    }
    assert host.run(check=True, **arguments)["reloaded"] is False
    assert host.calls == []
    assert host.run(**arguments)["reloaded"] is True
    assert host.calls == ["daemon-reload"]
    assert host.run(absent=[str(dropin)])["reloaded"] is True
    assert host.run(files=[{"dest": str(host.directory / "x"), "content": ""}])["reloaded"] is False


def test_a_reload_that_an_interrupted_run_missed_is_made_up(host: Host) -> None:
    host.set(a={**RUNNING, "NeedDaemonReload": "yes"})
    result = host.run(units=[unit("a", state="started")])
    assert (result["changed"], result["reloaded"]) == (True, True)
    assert host.run(units=[unit("a", state="started")])["changed"] is False


def test_a_unit_that_does_not_start_tells_why_without_secrets(host: Host) -> None:
    host.set(a={**DISABLED, "does-not-start": "1"})
    secret = {"dest": str(host.directory / "s"), "content": "pw: hunter2hunter2\n", "secret": True}
    result = host.run(fails=True, files=[secret], units=[unit("a", state="started")])
    assert result["msg"] == (
        "the unit a.service does not start\n"
        "the end of its journal:\nFATAL: password ******** refused"
    )  # fmt: skip
    assert "--unit=a.service" in (host.directory / "journal.log").read_text()


def test_a_unit_that_dies_at_once_is_an_error(host: Host) -> None:
    host.set(a={**DISABLED, "dies-at-once": "1"})
    result = host.run(fails=True, units=[unit("a", state="started")])
    assert result["msg"].startswith("the unit a.service started and ended at once\nthe end of its journal:")
    result = host.run(fails=True, units=[unit("a", state="started")])
    assert "ended at once" in result["msg"], "a loop of restarts is not taken for running"


def test_a_unit_that_its_condition_holds_back_is_no_change(host: Host) -> None:
    """So site.yml leaves a fenced Patroni alone and reports nothing."""
    host.set(a={**DISABLED, "condition-fails": "1"})
    for _again in range(2):
        result = host.run(units=[unit("a", state="started")])
        assert result["changed"] is False
        assert result["diff"] == []
        assert result["units"]["a.service"]["condition_failed"] is True
    assert host.run(check=True, units=[unit("a", state="started")])["changed"] is False


def test_a_host_without_systemd(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_config_units, "BOOTED", str(host.directory / "nowhere"))
    files = [{"dest": str(host.unit_directory / "a.service"), "content": "x"}]
    result = host.run(fails=True, files=files, units=[unit("a", state="started")])
    assert result["msg"] == "systemd does not run on this host, so a.service cannot be managed"
    assert host.run(check=True, files=files, units=[unit("a", state="started")])["changed"] is True
    assert host.run(files=files)["reloaded"] is False
    assert host.calls == []


MASKED = {**DISABLED, "LoadState": "masked", "UnitFileState": "masked", "under-mask": "enabled"}


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("mask", ["masked", "masked-runtime"])
def test_a_unit_that_somebody_masked_is_left_alone(host: Host, check: bool, mask: str) -> None:
    """A fence: nothing is enabled, started or unmasked, and it is no error; other units are done."""
    host.set(a={**MASKED, "UnitFileState": mask}, b=DISABLED)
    result = host.run(
        check=check,
        units=[
            unit("a", enabled=True, state="started", masked=False, leave_masked=True),
            unit("b", state="started", leave_masked=True),
        ],
    )
    assert result["changed"] is True
    changes = [call for call in host.calls if not call.startswith("show")]
    assert changes == ([] if check else ["start b.service"])


@pytest.mark.parametrize("wanted", [{"state": "stopped"}, {"masked": True}, {"enabled": False}, {}])
def test_a_masked_unit_that_is_left_alone_changes_nothing(host: Host, wanted: dict[str, Any]) -> None:
    host.set(a={**MASKED, "ActiveState": "active"})
    assert host.run(units=[unit("a", leave_masked=True, **wanted)])["changed"] is False


def test_a_unit_that_may_be_left_masked_but_is_not(host: Host) -> None:
    host.set(a=DISABLED)
    result = host.run(units=[unit("a", enabled=True, state="started", leave_masked=True)])
    assert result["changed"] is True
    assert [call for call in host.calls if not call.startswith("show")] == [
        "enable a.service",
        "start a.service",
    ]


def test_a_missing_unit_is_told_although_it_may_be_left_masked(host: Host) -> None:
    result = host.run(fails=True, units=[unit("a", state="started", leave_masked=True)])
    assert result["msg"] == "the unit a.service does not exist on this host"
