#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_info
short_description: Read what roles need to know of a host in one round trip
version_added: 0.1.0
author:
  - The Muster authors (@muster-platform)
description:
  - Reads the operating system, sizes, packages, units, kernel settings, small files and the state
    of the clock, and changes nothing.
  - It is a small part of what M(ansible.builtin.setup) and M(ansible.builtin.package_facts)
    gather, read in a tenth of the time.
  - A figure that cannot be read is V(null).
options:
  packages:
    description: Names of Debian packages whose installed versions to return.
    type: list
    elements: str
    default: []
  paths:
    description:
      - Directories whose file systems' sizes to return. Of one that does not exist yet, the
        nearest parent that does is measured.
    type: list
    elements: path
    default: [/]
  units:
    description: Full names of systemd units whose states to return.
    type: list
    elements: str
    default: []
  sysctls:
    description: Names of kernel settings, such as V(vm.swappiness), whose values to return.
    type: list
    elements: str
    default: []
  files:
    description: Text files whose contents to return, of at most 64 KiB each.
    type: list
    elements: path
    default: []
extends_documentation_fragment:
  - muster.platform.info
attributes:
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Read the host
  muster.platform.host_info:
    packages: [haproxy, chrony]
    paths: [/var/lib/postgresql]
  register: host

- name: Install what is missing
  ansible.builtin.apt:
    name: "{{ missing }}"
  when: missing | length > 0
  vars:
    missing: "{{ ['haproxy', 'chrony'] | muster.platform.missing_packages(host) }}"
"""

RETURN = r"""
hostname:
  description: The kernel's name of the host.
  returned: success
  type: str
os:
  description: C(id), C(version_id) and C(codename) from C(/etc/os-release).
  returned: success
  type: dict
  sample: {id: debian, version_id: "13", codename: trixie}
kernel:
  description: The kernel's release.
  returned: success
  type: str
python:
  description: The version of the Python that runs Ansible's modules here.
  returned: success
  type: str
  sample: "3.13.5"
memory_mb:
  description: Memory in MiB that the host may use, a control group's limit included.
  returned: success
  type: int
cpus:
  description: Processors that this process may run on.
  returned: success
  type: int
disks:
  description: Per requested path C(path), C(measured) (the existing path), C(free_mb) and C(total_mb).
  returned: success
  type: list
  elements: dict
  sample: [{path: /var/lib/postgresql, measured: /var/lib, free_mb: 51200, total_mb: 102400}]
virtualization:
  description: What systemd detected, V(none) on a machine of iron, or an empty string.
  returned: success
  type: str
  sample: kvm
container:
  description: Whether the host is a container.
  returned: success
  type: bool
systemd:
  description: C(version) and C(state) of systemd, both V(null) where it does not run.
  returned: success
  type: dict
  sample: {version: "257.8-1~deb13u2", state: running}
packages:
  description: Per requested package its installed version, or V(null).
  returned: success
  type: dict
  sample: {haproxy: "3.0.11-1+deb13u1", chrony: null}
units:
  description: Per requested unit C(load), C(active), C(sub) and C(enabled), as systemd calls them.
  returned: success
  type: dict
  sample: {ssh.service: {load: loaded, active: active, sub: running, enabled: enabled}}
sysctls:
  description: Per requested kernel setting C(value) (V(null) when it does not exist) and C(writable).
  returned: success
  type: dict
  sample: {vm.swappiness: {value: "60", writable: true}}
files:
  description: Per requested file its text, or V(null) when it does not exist.
  returned: success
  type: dict
time:
  description:
    - C(adjustable) says whether the clock may be set from here (C(CAP_SYS_TIME)).
    - C(synchronised) is the kernel's opinion, C(daemon) the time service that runs, if any.
    - C(offset_ms) is that service's own figure of how far the clock is off; only chrony tells.
  returned: success
  type: dict
  sample: {adjustable: true, synchronised: true, daemon: chrony.service, offset_ms: 0.031}
addresses:
  description: Global addresses of all interfaces, IPv4 first.
  returned: success
  type: list
  elements: str
"""

import ctypes
import json
import os
import platform
import re
from collections.abc import Callable, Iterable
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

Runner = Callable[[list[str]], str]

TIME_DAEMONS = (
    "chrony.service",
    "systemd-timesyncd.service",
    "ntpsec.service",
    "ntp.service",
    "openntpd.service",
)
CAP_SYS_TIME = 25
CLOCK_NOT_SYNCHRONISED = 5
MOST_FILE_BYTES = 64 * 1024
MIB = 1024 * 1024


def read(path: str) -> str | None:
    """A small text file, or None when there is none to read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(MOST_FILE_BYTES + 1)
    except OSError:
        return None


def operating_system() -> dict[str, str]:
    pairs = re.findall(r'^(\w+)="?([^"\n]*)"?$', read("/etc/os-release") or "", re.MULTILINE)
    known = dict(pairs)
    return {
        "id": known.get("ID", ""),
        "version_id": known.get("VERSION_ID", ""),
        "codename": known.get("VERSION_CODENAME", ""),
    }


def memory_mb() -> int | None:
    """The machine's memory or the control group's limit, whichever is less."""
    total = re.search(r"^MemTotal:\s+(\d+) kB", read("/proc/meminfo") or "", re.MULTILINE)
    limit = (read("/sys/fs/cgroup/memory.max") or "").strip()
    known = [int(total.group(1)) // 1024] if total else []
    known += [int(limit) // MIB] if limit.isdigit() else []
    return min(known, default=None)


def disk(path: str) -> dict[str, Any]:
    """Sizes of the file system that holds a path, or will once the path is made."""
    measured = os.path.abspath(path)
    while not os.path.exists(measured):
        measured = os.path.dirname(measured)
    sizes = os.statvfs(measured)
    return {
        "path": path,
        "measured": measured,
        "free_mb": sizes.f_bavail * sizes.f_frsize // MIB,
        "total_mb": sizes.f_blocks * sizes.f_frsize // MIB,
    }


def installed(run: Runner, names: list[str]) -> dict[str, str | None]:
    """Versions by one dpkg-query; a package that is only half there counts as missing."""
    versions: dict[str, str | None] = dict.fromkeys(names)
    if names:
        form = "${Package}\t${db:Status-Status}\t${Version}\n"
        for line in run(["dpkg-query", "--show", f"--showformat={form}", "--", *names]).splitlines():
            name, status, version = line.split("\t")
            if status == "installed":
                versions[name] = version
    return versions


def properties(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def manager(run: Runner) -> dict[str, str]:
    """What systemd says of itself; nothing where it is not the init system."""
    if not os.path.isdir("/run/systemd/system"):
        return {}
    return properties(run(["systemctl", "show", "--property=Version,SystemState,Virtualization"]))


def unit_states(run: Runner, names: Iterable[str]) -> dict[str, dict[str, str | None]]:
    """States of units, in the order asked for: systemctl answers in that order, a paragraph each."""
    asked = list(dict.fromkeys(names))
    text = run(["systemctl", "show", "--property=LoadState,ActiveState,SubState,UnitFileState", "--", *asked])
    paragraphs = [properties(paragraph) for paragraph in text.split("\n\n")]
    paragraphs += [{}] * (len(asked) - len(paragraphs))
    keys = {"load": "LoadState", "active": "ActiveState", "sub": "SubState", "enabled": "UnitFileState"}
    return {
        name: {key: found.get(source) or None for key, source in keys.items()}
        for name, found in zip(asked, paragraphs)  # noqa: B905  (strict= is younger than Python 3.9)
    }


def sysctl(name: str) -> dict[str, Any]:
    path = "/proc/sys/" + name.replace(".", "/")
    value = read(path)
    return {
        "value": None if value is None else " ".join(value.split()),
        # False on a read-only mount too, where root may write by the mode.
        "writable": os.access(path, os.W_OK),
    }


def text_file(path: str) -> str | None:
    text = read(path)
    if text is not None and len(text) > MOST_FILE_BYTES:
        raise MusterError(f"{path} is larger than {MOST_FILE_BYTES // 1024} KiB")
    return text


def clock_synchronised() -> bool | None:
    """Whether the kernel holds the clock for synchronised; asks, and sets nothing."""
    # struct timex is 208 bytes on 64-bit Linux; all zero is the question without a change.
    buffer = ctypes.create_string_buffer(512)
    try:
        state = int(ctypes.CDLL(None, use_errno=True).adjtimex(buffer))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != CLOCK_NOT_SYNCHRONISED


def chrony_offset_ms(run: Runner) -> float | None:
    """The system clock's distance from what chrony takes for true time."""
    fields = run(["chronyc", "-c", "-n", "tracking"]).strip().split(",")
    # Reference id 0 means: nothing to measure against yet.
    if len(fields) < 5 or int(fields[0], 16) == 0:
        return None
    return round(float(fields[4]) * 1000, 6)


def clock(run: Runner, units: dict[str, dict[str, str | None]]) -> dict[str, Any]:
    daemon = next((name for name in TIME_DAEMONS if units.get(name, {}).get("active") == "active"), None)
    capabilities = re.search(r"^CapEff:\s+(\w+)", read("/proc/self/status") or "", re.MULTILINE)
    return {
        "adjustable": bool(capabilities and int(capabilities.group(1), 16) >> CAP_SYS_TIME & 1),
        "synchronised": clock_synchronised(),
        "daemon": daemon,
        "offset_ms": chrony_offset_ms(run) if daemon == "chrony.service" else None,
    }


def addresses(run: Runner) -> list[str]:
    links = json.loads(run(["ip", "-json", "address", "show", "scope", "global"]) or "[]")
    found = [info for link in links for info in link.get("addr_info", []) if "local" in info]
    return [info["local"] for info in sorted(found, key=lambda info: info["family"])]


def host(run: Runner, params: dict[str, Any]) -> dict[str, Any]:
    """All of it, as the module returns it."""
    systemd = manager(run)
    units = unit_states(run, [*TIME_DAEMONS, *params["units"]]) if systemd else {}
    unknown: dict[str, str | None] = dict.fromkeys(("load", "active", "sub", "enabled"))
    virtualization = systemd.get("Virtualization", "")
    return {
        "hostname": platform.node(),
        "os": operating_system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "memory_mb": memory_mb(),
        "cpus": len(os.sched_getaffinity(0)),
        "disks": [disk(path) for path in params["paths"]],
        "virtualization": virtualization or ("none" if systemd else ""),
        "container": os.path.exists("/run/systemd/container") or os.path.exists("/run/.containerenv"),
        "systemd": {"version": systemd.get("Version"), "state": systemd.get("SystemState")},
        "packages": installed(run, params["packages"]),
        "units": {name: units.get(name, unknown) for name in params["units"]},
        "sysctls": {name: sysctl(name) for name in params["sysctls"]},
        "files": {path: text_file(path) for path in params["files"]},
        "time": clock(run, units),
        "addresses": addresses(run),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "default": []},
            "paths": {"type": "list", "elements": "path", "default": ["/"]},
            "units": {"type": "list", "elements": "str", "default": []},
            "sysctls": {"type": "list", "elements": "str", "default": []},
            "files": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )

    def run(command: list[str]) -> str:
        # dpkg-query fails when one of the packages is unknown, and still tells of the others;
        # a program that is not there has nothing to tell.
        _code, output, _errors = module.run_command(command, handle_exceptions=True)
        return str(output)

    try:
        module.exit_json(changed=False, **host(run, module.params))
    except MusterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
