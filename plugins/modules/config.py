#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: config
short_description: Configure a service's files, directories and units in one round trip
version_added: 0.1.0
author:
  - The Muster authors (@muster-platform)
description:
  - Renders any number of templates on the controller and brings them, with directories,
    owners, modes and systemd units, to the host in one module call.
  - Nothing is changed before everything was looked at. A missing owner, a missing directory or
    a file that its validator refuses ends the task with the host as it was.
  - Files are replaced atomically. A symbolic link at a file's place is replaced by the file,
    its target is left alone.
  - systemd is reloaded when a file below C(/etc/systemd/system), C(/run/systemd/system) or
    C(/usr/lib/systemd) changed.
  - In check mode an owner, a directory or a unit that does not exist yet is reported as a change.
    Validators do not run in check mode.
options:
  directories:
    description:
      - Directories to make, and whose owner and mode to set. Missing parents are made with
        mode V(0755).
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path. A symbolic link that belongs to root and leads to a directory is followed.
        type: path
        required: true
      owner:
        description: Name or number of the user. Left as it is when not given.
        type: str
      group:
        description: Name or number of the group. Left as it is when not given.
        type: str
      mode:
        description: Octal mode in quotes, such as V("0750"). New directories get V(0755) when not given.
        type: str
  files:
    description: Files to write. Each needs either O(files[].template) or O(files[].content).
    type: list
    elements: dict
    default: []
    suboptions:
      dest:
        description: Absolute path of the file. Its directory must exist or be among O(directories).
        type: path
        required: true
      template:
        description:
          - Jinja template, searched for like that of M(ansible.builtin.template), in the role's
            C(templates) directory first.
        type: str
      content:
        description: The content itself, as text.
        type: str
      vars:
        description: Variables for this file's template only, which win over the others.
        type: dict
      owner:
        description: Name or number of the user. A new file belongs to the user who writes it when not given.
        type: str
      group:
        description: Name or number of the group.
        type: str
      mode:
        description:
          - Octal mode in quotes, such as V("0644"). New files get V(0644), secret ones V(0600),
            when not given.
        type: str
      validate:
        description:
          - Command that checks the file before it is put in place; C(%s) stands for the temporary
            file. Run without a shell, and only when the content changes.
          - All validators run before any file is replaced. New files without a validator are put
            in place first, because a validator may need them, and removed again when it fails.
        type: str
      notify:
        description: Words that are returned in RV(notify) when this file changes.
        type: list
        elements: str
        default: []
      secret:
        description:
          - Never show the content, neither in a diff nor in an error. The mode may give others
            no right.
        type: bool
        default: false
  absent:
    description:
      - Files that must not exist. Each is a path, or a dictionary with C(path) and C(notify).
      - Directories are refused.
    type: list
    elements: raw
    default: []
  units:
    description: systemd units, handled in the order given, after the files.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Full name, such as V(etcd.service).
        type: str
        required: true
      enabled:
        description: Whether it starts at boot. Left as it is when not given.
        type: bool
      state:
        description:
          - Whether it runs. Left as it is when not given.
          - A unit that one of its own conditions keeps from starting is no error and no change.
        type: str
        choices: [started, stopped]
      masked:
        description: Whether nothing at all can start it. Left as it is when not given.
        type: bool
      leave_masked:
        description: Do nothing with the unit while it is masked, because somebody keeps it from running.
        type: bool
        default: false
attributes:
  check_mode:
    description: Can run in check mode and return what would change.
    support: full
  diff_mode:
    description: Returns what changed, or would change, in diff mode.
    support: full
seealso:
  - module: ansible.builtin.template
  - module: ansible.builtin.systemd_service
"""

EXAMPLES = r"""
- name: Configure etcd
  muster.platform.config:
    directories:
      - {path: /etc/etcd, owner: root, group: etcd, mode: "0750"}
    files:
      - dest: /etc/etcd/etcd.yml
        template: etcd.yml.j2
        owner: root
        group: etcd
        mode: "0640"
        notify: [restart]
      - dest: /etc/etcd/server.key
        content: "{{ lookup('ansible.builtin.file', certificate_key) }}"
        owner: etcd
        group: etcd
        mode: "0400"
        secret: true
        notify: [reload]
    absent: [/etc/default/etcd]
    units:
      - {name: etcd.service, enabled: true, state: started}
  register: etcd_config

- name: Restart etcd
  ansible.builtin.systemd_service:
    name: etcd.service
    state: restarted
  when: "'restart' in etcd_config.notify"
"""

RETURN = r"""
changed_paths:
  description: Files and directories that changed, were made or were removed.
  returned: success
  type: list
  elements: str
  sample: [/etc/etcd/etcd.yml]
notify:
  description: The words in O(files[].notify) of all files that changed, sorted, each once.
  returned: success
  type: list
  elements: str
  sample: [restart]
diff:
  description: What changed, one entry for each file, directory and unit. Empty without diff mode.
  returned: success
  type: list
  elements: dict
reloaded:
  description: Whether systemd was told to reload its units.
  returned: success
  type: bool
units:
  description: What systemd says of each unit afterwards, and which steps were taken.
  returned: success
  type: dict
  sample:
    etcd.service:
      active: active
      sub: running
      load: loaded
      enabled: enabled
      condition_failed: false
      steps: [start]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils import _config, _config_units
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

OWNERSHIP: dict[str, Any] = {
    "owner": {"type": "str"},
    "group": {"type": "str"},
    "mode": {"type": "str"},
}
ARGUMENTS: dict[str, Any] = {
    "directories": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"path": {"type": "path", "required": True}, **OWNERSHIP},
    },
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "dest": {"type": "path", "required": True},
            "template": {"type": "str"},
            "content": {"type": "str"},
            "vars": {"type": "dict"},
            "validate": {"type": "str"},
            "notify": {"type": "list", "elements": "str", "default": []},
            "secret": {"type": "bool", "default": False, "no_log": False},
            **OWNERSHIP,
        },
    },
    "absent": {"type": "list", "elements": "raw", "default": []},
    "units": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "enabled": {"type": "bool"},
            "state": {"type": "str", "choices": ["started", "stopped"]},
            "masked": {"type": "bool"},
            "leave_masked": {"type": "bool", "default": False},
        },
    },
}


def configure(parameters: dict[str, Any], check_mode: bool, diff_mode: bool) -> dict[str, Any]:
    """Bring the host into the wanted state, and return what changed."""
    absent = [entry if isinstance(entry, dict) else {"path": entry} for entry in parameters["absent"]]
    tree = _config.Tree(parameters["directories"], parameters["files"], absent)
    units = _config_units.Units(parameters["units"], tree.secrets, check_mode)
    units.read()
    changed_paths, notify = tree.changed_paths(), tree.notify()
    diff = tree.diff() if diff_mode else []
    if not check_mode:
        units.refuse_impossible({item.path.rsplit("/", 1)[-1] for item in tree.files})
        tree.apply()
        if units.need_reload or any(map(_config_units.below_unit_directory, changed_paths)):
            units.reload()
            units.read()
    units.plan()
    before = [(unit, unit.diff()) for unit in units.units]
    if not check_mode:
        units.apply()
    if diff_mode:
        diff.extend(entry for unit, entry in before if unit.steps)
    return {
        "changed": bool(changed_paths) or units.changed,
        "changed_paths": changed_paths,
        "notify": notify,
        "diff": diff,
        "reloaded": units.reloaded,
        "units": {unit.name: unit.report() for unit in units.units},
    }


class QuietModule(AnsibleModule):
    """Names the paths in the host's journal, where AnsibleModule writes whole contents.

    Marking the contents no_log would not do: Ansible then blots them out of everything that
    is returned, and a content may be as short as a digit.
    """

    def _log_invocation(self) -> None:
        paths = [entry.get("dest") for entry in self.params.get("files") or []]
        self.log(f"Invoked for {len(paths)} files: {' '.join(map(str, paths))}")


def main() -> None:
    module = QuietModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        result = configure(module.params, module.check_mode, module._diff)
    except MusterError as error:
        module.fail_json(msg=str(error), invocation={})
    module.exit_json(invocation={}, **result)


if __name__ == "__main__":
    main()
