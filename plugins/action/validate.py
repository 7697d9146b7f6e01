# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Action of muster.platform.validate: look at the whole inventory before the first change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible.utils.collection_loader._collection_finder import _get_collection_role_path
from ansible_collections.muster.platform.plugins.filter.topology import store_roles, stores
from ansible_collections.muster.platform.plugins.module_utils import _inventory, _lease

COLLECTION = "muster.platform"
# Which role a group's hosts get from site.yml; base and certificates go to all.
GROUP_ROLES = ("etcd", *store_roles(), "backup_repository", "haproxy", "canary")
# Which role, and which of its entry points, the hosts of some groups get when a switch is on.
OPTIONAL_ROLES = (
    ("dr_autofailover", ("autofailover", "main"), ("witnesses", "postgresql")),
    ("dr_autofailover", ("controller", "main"), ("witnesses",)),
    ("dr_drill_timer_enabled", ("controller", "main"), ("witnesses",)),
    ("dr_drill_timer_enabled", ("controller", "drill_timer"), ("witnesses",)),
)
LOCAL = ("localhost", "127.0.0.1")
LOCAL_CONNECTIONS = ("local", "ansible.builtin.local")


def role_spec(role: str, entry_point: str = "main") -> dict[str, Any]:
    """The options of a role's entry point; empty for a role that is not there."""
    found = _get_collection_role_path(f"{COLLECTION}.{role}", [COLLECTION])
    if not found:
        return {}
    path = Path(found[1]) / "meta" / "argument_specs.yml"
    if not path.exists():
        return {}
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    options = document["argument_specs"].get(entry_point, {}).get("options", {})
    return options if isinstance(options, dict) else {}


def check_variables(
    host: str, role: str, spec: Mapping[str, Any], variables: Mapping[str, Any]
) -> Iterator[str]:
    """A host's own settings against a role's spec: what is missing, and what is of the wrong kind."""
    given: dict[str, Any] = {}
    for name, option in spec.items():
        try:
            present = name in variables
            value = variables[name] if present else None
        except Exception as error:  # a template of the user's: any exception is its text to show
            yield f"{host}: {name} cannot be worked out: {str(error).splitlines()[0]}"
            continue
        if present and value is not None and value != "":
            given[name] = value
        elif option.get("required"):
            yield f"{host}: {name} is missing ({_one_line(option)}; role {role})"
    relaxed = {
        name: {key: value for key, value in spec[name].items() if key not in ("required", "default")}
        for name in given
    }
    for message in ArgumentSpecValidator(relaxed).validate(given).error_messages:
        yield f"{host}: {message} (role {role})"


def defaults_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {name: option["default"] for name, option in spec.items() if "default" in option}


def roles_of(host: str, groups: Mapping[str, Any], settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Which roles site.yml gives a host, each with its entry point."""
    roles = ("base", "certificates", *(group for group in GROUP_ROLES if host in groups.get(group, [])))
    found = [(role, "main") for role in roles]
    for switch, role, names in OPTIONAL_ROLES:
        wanted = _inventory.is_on(settings, switch) and any(host in groups.get(name, []) for name in names)
        if wanted and role not in found:
            found.append(role)
    return found


def check_localhost(groups: Mapping[str, Any], hostvars: Mapping[str, Any]) -> Iterator[str]:
    """Plays over this machine run on it, not over ssh to it; by itself only a localhost not listed does."""
    for host in groups["all"]:
        if host in LOCAL and hostvars[host].get("ansible_connection") not in LOCAL_CONNECTIONS:
            yield f"{host} is in the inventory without ansible_connection: local; leave it out, or set that"


def _one_line(option: Mapping[str, Any]) -> str:
    text = option.get("description", "")
    return str(text[0] if isinstance(text, list) else text).rstrip(".")


class ActionModule(ActionBase):
    """Runs on the controller only."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        groups = variables["groups"]
        settings = self._settings(variables)
        problems = [
            *_inventory.check_regions(groups),
            *_inventory.check_quorum(groups, bool(settings.get("etcd_allow_small_cluster"))),
            *_inventory.check_first_region(groups, settings.get("dr_initial_primary_region")),
            *_inventory.check_target(groups, settings.get("dr_target_region")),
            *_inventory.check_objectives(
                settings.get("dr_objectives"), stores(groups), self._timers(settings)
            ),
            *_inventory.check_gates(settings, stores(groups)),
            *_inventory.check_drill_timer(groups, settings),
            *_lease.check_autofailover(
                groups, settings, defaults_of(role_spec("autofailover")), stores(groups)
            ),
            *check_localhost(groups, variables["hostvars"]),
        ]
        if not problems:
            problems = list(self._variables(groups, variables["hostvars"], settings))
        if problems:
            raise AnsibleError(
                "the inventory cannot work, nothing was changed:\n  - " + "\n  - ".join(problems)
            )
        return result | {"changed": False, "hosts": len(groups["all"])}

    def _settings(self, variables: dict[str, Any]) -> Mapping[str, Any]:
        """Global settings as any inventory host sees them: localhost need not be in the inventory."""
        hosts = [host for host in variables["groups"]["all"] if host not in LOCAL]
        if not hosts:
            raise AnsibleError("the inventory has no hosts; in the lab, `make lab` makes them")
        found: Mapping[str, Any] = variables["hostvars"][hosts[0]]
        return found

    @staticmethod
    def _timers(settings: Mapping[str, Any]) -> dict[str, float]:
        patroni = settings.get("postgresql_patroni_settings") or {}
        if not isinstance(patroni, Mapping):
            raise AnsibleError(f"postgresql_patroni_settings is {patroni!r}: it must be a dictionary")

        def number(name: str, value: Any) -> float:
            try:
                return float(value)
            except (TypeError, ValueError) as error:
                raise AnsibleError(f"{name} is {value!r}: it must be a number") from error

        waits = [
            number(f"postgresql_patroni_settings.{name}", patroni.get(name, default))
            for name, default in (("loop_wait", 1), ("retry_timeout", 3))
        ]
        interval = number("canary_interval_ms", settings.get("canary_interval_ms") or 250)
        return {"canary_interval": interval / 1000, "patroni_reaction": sum(waits)}

    @staticmethod
    def _variables(
        groups: Mapping[str, Any], hostvars: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Iterator[str]:
        specs: dict[tuple[str, str], dict[str, Any]] = {}
        for host in groups["all"]:
            if host in LOCAL:
                continue
            roles = roles_of(host, groups, settings)
            specs |= {role: role_spec(*role) for role in roles if role not in specs}
            if "ansible_host" not in hostvars[host]:
                yield f"{host} has no ansible_host: its address is needed by every other host"
            for role in roles:
                yield from check_variables(host, role[0], specs[role], hostvars[host])
