#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: mirror_wheels
short_description: Fill a directory with the wheels that pinned requirements name by their hashes
version_added: 0.1.0
description:
  - Runs on a connected machine, of the same platform as the one that will install from O(directory). pip
    fetches the wheels, and checks them against the hashes in the requirements.
  - A wheel that is there already and has none of these hashes is refused.
  - Only wheels are taken, nothing is built. Wheels of an earlier run stay.
options:
  directory:
    description: Directory of the wheels. It must exist.
    type: path
    required: true
  requirements:
    description: Requirements files in which each entry is pinned and has hashes.
    type: list
    elements: path
    required: true
  pythons:
    description: Versions of Python that shall install from it, such as V(3.11).
    type: list
    elements: str
    required: true
attributes:
  check_mode:
    description: Says what would be fetched.
    support: full
requirements:
  - pip and packaging, for the Python that runs it
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Mirror the controller's wheels
  muster.platform.mirror_wheels:
    directory: /srv/muster-mirror/wheels
    requirements: [requirements/controller.txt]
    pythons: ["3.11", "3.13"]
"""

RETURN = r"""
added:
  description: Requirements whose wheels were fetched, or would be.
  returned: success
  type: list
  elements: str
count:
  description: Requirements, all in all.
  returned: success
  type: int
"""

import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._files import file_hash
from ansible_collections.muster.platform.plugins.module_utils._mirror import STAGING, Command, last_words

try:
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name
except ImportError as error:
    IMPORT_ERROR: ImportError | None = error
else:
    IMPORT_ERROR = None

HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
PYTHON = re.compile(r"3\.\d+")
# So many at a time: what came stays when a run is interrupted.
CHUNK = 20


@dataclass(frozen=True)
class Pin:
    """One requirement, and the hashes of the files that are good for it."""

    name: str
    version: str
    hashes: frozenset[str]

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"

    def line(self) -> str:
        return " ".join([str(self), *(f"--hash=sha256:{value}" for value in sorted(self.hashes))])


def fits(marker: Any, python: str) -> bool:
    """Whether a requirement is for a Python; of its patch releases the first and the last are asked."""
    return marker is None or any(
        marker.evaluate({"python_version": python, "python_full_version": f"{python}.{patch}"})
        for patch in (0, 99)
    )


def pins(text: str, python: str) -> list[Pin]:
    """The requirements of a file that are for this Python, on a machine like this one."""
    found = []
    plain = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(str.strip, plain.splitlines()):
        said = line.split("--hash")[0].strip()
        try:
            requirement = Requirement(said)
        except InvalidRequirement:
            raise MusterError(f"{said!r} is no requirement that can be mirrored") from None
        pinned, hashes = re.fullmatch(r"==([^,*]+)", str(requirement.specifier)), HASH.findall(line)
        if not pinned or not hashes:
            raise MusterError(f"{said} must be pinned by == and have SHA-256 hashes")
        if fits(requirement.marker, python):
            found.append(Pin(canonicalize_name(requirement.name), pinned[1], frozenset(hashes)))
    return found


def wheels(directory: Path) -> dict[str, Path]:
    """The wheels that are there, by their SHA-256."""
    return {file_hash(path): path for path in sorted(directory.glob("*.whl"))}


def refuse_others(wanted: Iterable[Pin], there: Mapping[str, Path]) -> None:
    """A wheel that bears a requirement's name and version, and is none of its files."""
    known = {(pin.name, pin.version): pin.hashes for pin in wanted}
    for value, path in there.items():
        name, version = path.name.split("-")[:2]
        hashes = known.get((canonicalize_name(name), version))
        if hashes is not None and value not in hashes:
            raise MusterError(
                f"{path} has the SHA-256 {value}, which the requirements do not name: refused; "
                "remove it to have it fetched again"
            )


def fetch(run: Command, directory: Path, python: str, wanted: list[Pin]) -> None:
    """Have pip fetch the wheels, and put them in their place some at a time."""
    staging = directory / STAGING
    for start in range(0, len(wanted), CHUNK):
        part = wanted[start : start + CHUNK]
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        listed = staging / "requirements.txt"
        listed.write_text("\n".join([*(pin.line() for pin in part), ""]), encoding="utf-8")
        command = [sys.executable, *["-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]]
        command += ["--only-binary=:all:", "--python-version", python]
        command += ["--dest", str(staging), "-r", str(listed)]
        code, output, error = run(command)
        if code != 0:
            raise MusterError(f"pip for Python {python}: {last_words(error or output)}")
        for path in staging.glob("*.whl"):
            path.chmod(0o644)
            path.rename(directory / path.name)
    shutil.rmtree(staging, ignore_errors=True)


def fill(module: AnsibleModule) -> dict[str, Any]:
    directory = Path(module.params["directory"])
    texts = [Path(name).read_text(encoding="utf-8") for name in module.params["requirements"]]
    every: dict[str, list[Pin]] = {}
    for python in module.params["pythons"]:
        if not PYTHON.fullmatch(python):
            raise MusterError(f"pythons has {python!r}: it must be a version such as 3.11")
        every[python] = [pin for text in texts for pin in pins(text, python)]
    refuse_others([pin for wanted in every.values() for pin in wanted], wheels(directory))
    added: set[str] = set()
    for python, wanted in every.items():
        # A wheel may be good for one of the Pythons only: its name tells.
        there = wheels(directory)
        absent = [pin for pin in wanted if not has(there, pin, python)]
        added |= {str(pin) for pin in absent}
        if absent and not module.check_mode:
            fetch(module.run_command, directory, python, absent)
    count = len({str(pin) for wanted in every.values() for pin in wanted})
    return {"changed": bool(added), "added": sorted(added), "count": count}


def has(there: Mapping[str, Path], pin: Pin, python: str) -> bool:
    return any(value in there and serves(there[value].name, python) for value in pin.hashes)


def serves(wheel: str, python: str) -> bool:
    """Whether a wheel is for this Python, by its tags; its platform is this machine's."""
    tags, abi = wheel.removesuffix(".whl").split("-")[-3:-1]
    minor = int(python.split(".")[1])
    for tag in tags.split("."):
        if tag in ("py3", f"py3{minor}", f"cp3{minor}"):
            return True
        found = re.fullmatch(r"(?:cp|py)3(\d+)", tag)
        if found and int(found[1]) <= minor and ("abi3" in abi.split(".") or tag.startswith("py")):
            return True
    return False


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "requirements": {"type": "list", "elements": "path", "required": True},
            "pythons": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    if IMPORT_ERROR is not None:
        module.fail_json(msg=missing_required_lib("packaging"))
    try:
        module.exit_json(**fill(module))
    except MusterError as problem:
        module.fail_json(msg=str(problem))
    except OSError as problem:
        module.fail_json(msg=f"wheels cannot be mirrored: {problem}")


if __name__ == "__main__":
    main()
