"""muster.platform.config: the controller's half, with Ansible's real templating."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.muster.platform.plugins.action import config
from ansible_collections.muster.platform.plugins.modules import config as module

FILE = {"dest": "/etc/a", "content": "x"}


class Task:
    """What the action needs of a task."""

    def __init__(self, directory: Path, arguments: dict[str, Any]) -> None:
        self.args = arguments
        self.directory = directory
        self.async_val = 0
        self.check_mode = self.diff = False
        self.environment = self.delegate_to = None

    def get_search_path(self) -> list[str]:
        return [str(self.directory / "role"), str(self.directory)]


class Shell:
    tmpdir = None


class Connection:
    _shell = Shell()


@pytest.fixture
def role(tmp_path: Path) -> Path:
    templates = tmp_path / "role" / "templates"
    templates.mkdir(parents=True)
    (tmp_path / "role" / "tasks").mkdir()
    return templates


@pytest.fixture
def send(tmp_path: Path, role: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the action, and return what it would send to the host."""
    sent: list[dict[str, Any]] = []

    def execute(_self: Any, module_name: str, module_args: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        assert module_name == "muster.platform.config"
        assert set(module_args) <= set(module.ARGUMENTS)
        sent.append(json.loads(json.dumps(module_args)))
        return {"changed": True, "invocation": {"module_args": module_args}}

    monkeypatch.setattr(config.ActionModule, "_execute_module", execute)

    def call(variables: dict[str, Any] | None = None, **arguments: Any) -> dict[str, Any]:
        loader = DataLoader()
        loader.set_basedir(str(tmp_path))
        task_vars = {"ansible_search_path": [str(role.parent), str(tmp_path)], **(variables or {})}
        make: Any = config.ActionModule
        action = make(
            task=Task(tmp_path, arguments),
            connection=Connection(),
            play_context=None,
            loader=loader,
            templar=Templar(loader=loader, variables=task_vars),
            shared_loader_obj=None,
        )
        sent.clear()
        result = action.run(task_vars=task_vars)
        assert len(sent) == 1, "one module call"
        assert "content" not in json.dumps(result["invocation"])
        return sent[0]

    return call


def test_renders_as_the_template_module_does(send: Any, role: Path) -> None:
    (role / "a.j2").write_text(
        "# {{ ansible_managed }}, {{ template_path }} for {{ template_destpath }}\n"
        "{% for number in numbers %}\n  n{{ number }}\n{% endfor %}\n{% include 'b.j2' %}\\d {{ nested }}\n"
    )
    (role / "b.j2").write_text("included\n")
    variables = {"numbers": [1, 2], "nested": trust_as_template("<{{ numbers | length }}>")}
    arguments = send(
        variables, files=[{"dest": "/etc/a", "template": "a.j2", "mode": "0640", "notify": "restart"}]
    )
    assert arguments["files"] == [
        {
            "dest": "/etc/a",
            "mode": "0640",
            "notify": ["restart"],
            "content": "# Ansible managed, a.j2 for /etc/a\n  n1\n  n2\nincluded\\d <2>\n",
        }
    ]


def test_content_is_sent_as_it_is(send: Any) -> None:
    arguments = send(
        files=[{"dest": "/etc/a", "content": "{{ not_a_template }}\n", "owner": 0, "secret": True}]
    )
    assert arguments["files"] == [
        {"dest": "/etc/a", "content": "{{ not_a_template }}\n", "owner": "0", "secret": True}
    ]


def test_own_variables_and_own_managed_text(send: Any, role: Path) -> None:
    (role / "a.j2").write_text("{{ ansible_managed }} {{ who }}")
    files = [{"dest": f"/etc/{who}", "template": "a.j2", "vars": {"who": who}} for who in ("x", "y")]
    sent = send({"ansible_managed": "ours", "who": "nobody"}, files=files)
    assert [entry["content"] for entry in sent["files"]] == ["ours x", "ours y"]
    assert not any("vars" in entry for entry in sent["files"])


def test_untrusted_text_in_a_variable_stays_text(send: Any, role: Path) -> None:
    (role / "a.j2").write_text("{{ said }}")
    sent = send({"said": "{{ 1 + 1 }}"}, files=[{"dest": "/etc/a", "template": "a.j2"}])
    assert sent["files"][0]["content"] == "{{ 1 + 1 }}"


def test_keys_without_a_value_count_as_not_given(send: Any) -> None:
    sent = send(files=[{"dest": "/etc/a", "content": "x", "owner": None, "template": None}], absent=None)
    assert sent["files"] == [{"dest": "/etc/a", "content": "x"}]


def test_switches_may_be_text_as_a_command_line_gives_them(send: Any) -> None:
    sent = send(
        files=[{**FILE, "secret": "true"}],
        units=[{"name": "a.service", "enabled": "no", "leave_masked": "yes"}],
    )
    assert sent["files"][0]["secret"] is True
    assert sent["units"][0] == {"name": "a.service", "enabled": False, "leave_masked": True}


def test_absent_takes_paths_and_dictionaries(send: Any) -> None:
    sent = send(absent=["/etc//a/", {"path": "/etc/b", "notify": "x"}])
    assert sent["absent"] == [{"path": "/etc/a"}, {"path": "/etc/b", "notify": ["x"]}]


def test_an_undefined_variable_names_the_template_and_the_file(send: Any, role: Path) -> None:
    (role / "a.j2").write_text("{{ nothing }}")
    with pytest.raises(AnsibleActionFail) as caught:
        send(files=[{"dest": "/etc/a", "template": "a.j2"}])
    assert "/etc/a: the template a.j2 cannot be rendered" in str(caught.value)
    assert "'nothing' is undefined" in str(caught.value)


def test_a_template_that_does_not_exist(send: Any) -> None:
    with pytest.raises(
        AnsibleActionFail, match=r"/etc/a: the template a\.j2 cannot be read: Could not find or access"
    ):
        send(files=[{"dest": "/etc/a", "template": "a.j2"}])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"file": []}, "unknown key file; known are directories, files, absent, units"),
        ({"files": {"dest": "/a"}}, "files must be a list"),
        ({"files": ["/etc/a"]}, "files, entry 1: must be a dictionary"),
        ({"files": [{"content": "x"}]}, "files, entry 1: dest is missing or not a string"),
        (
            {"files": [{**FILE, "state": "absent"}]},
            "files, /etc/a: unknown key state; known are content, dest,",
        ),
        (
            {"files": [{"dest": "/etc/a"}]},
            "files, /etc/a: give either template or content, exactly one of them",
        ),
        (
            {"files": [{**FILE, "template": "a"}]},
            "files, /etc/a: give either template or content, exactly one",
        ),
        (
            {"files": [{**FILE, "content": {"a": 1}}]},
            "files, /etc/a: content must be a string; turn data into text",
        ),
        ({"files": [{**FILE, "dest": "etc/a"}]}, "files, etc/a: dest must be an absolute path without"),
        (
            {"files": [{**FILE, "dest": "/etc/../a"}]},
            "files, /etc/../a: dest must be an absolute path without",
        ),
        (
            {"files": [{**FILE, "mode": 0o644}]},
            '/etc/a: mode must be octal digits in quotes, such as "0644", not 420',
        ),
        ({"files": [{**FILE, "mode": "u=rw"}]}, "/etc/a: mode must be octal digits in quotes"),
        (
            {"files": [{**FILE, "mode": "0644", "secret": True}]},
            "/etc/a: the file is secret, so mode 0644 may not",
        ),
        ({"files": [{**FILE, "secret": "perhaps"}]}, "files, /etc/a: secret must be true or false"),
        ({"files": [{**FILE, "owner": ""}]}, "/etc/a: owner must be a name or a number"),
        (
            {"files": [{**FILE, "validate": "check"}]},
            "files, /etc/a: validate must contain %s, the file to check",
        ),
        ({"files": [{**FILE, "vars": {}}]}, "files, /etc/a: vars must be a dictionary, and needs a template"),
        ({"files": [FILE], "absent": ["/etc/a"]}, "/etc/a is given twice: in files and in absent"),
        ({"directories": [{"path": "/"}]}, "directories, /: path must be an absolute path"),
        ({"directories": [{"path": "/a", "mode": "999"}]}, "/a: mode must be octal digits in quotes"),
        ({"units": [{"name": "etcd"}]}, "units, etcd: name must be a full unit name, such as etcd.service"),
        (
            {"units": [{"name": "a.service", "state": "restarted"}]},
            "units, a.service: state must be started or stopped",
        ),
        (
            {"units": [{"name": "a.service", "enabled": "perhaps"}]},
            "units, a.service: enabled must be true or false",
        ),
        (
            {"units": [{"name": "a.service", "leave_masked": "perhaps"}]},
            "units, a.service: leave_masked must be true or false",
        ),
        (
            {"units": [{"name": "a.service", "masked": True, "state": "started"}]},
            "units, a.service: a masked unit can neither be enabled nor started",
        ),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(AnsibleActionFail) as caught:
        config.read_arguments(arguments)
    assert str(caught.value).startswith(message)


def test_the_action_knows_the_modules_keys() -> None:
    assert set(config.KEYS) == set(module.ARGUMENTS)
    for name in ("directories", "files", "units"):
        assert config.KEYS[name] == set(module.ARGUMENTS[name]["options"])
