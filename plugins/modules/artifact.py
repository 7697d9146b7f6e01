#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: artifact
short_description: Install files out of an archive with a known checksum, from the first source that has it
version_added: 0.1.0
description:
  - For software that the distribution lacks. First O(mirror) is asked, then O(url), then O(controller).
  - A source that does not answer, or does not have it, is passed over. One whose file has another checksum
    ends the task, because somebody has changed it; nothing of it is installed.
  - Nothing is fetched when it is installed already.
  - Only O(files) are taken out of the archive. Nothing of it is run.
options:
  name:
    description: Name of the software, of letters, digits, C(.), C(_) and C(-).
    type: str
    required: true
  version:
    description: Its version, of the same characters.
    type: str
    required: true
  sha256:
    description: SHA-256 of the archive, in hexadecimal digits.
    type: str
    required: true
  file:
    description:
      - Name of the archive, in the mirror and in the directory of the controller. Its ending tells what it
        is, C(.zip), C(.whl), C(.tar), C(.tar.gz), C(.tgz), C(.tar.bz2) or C(.tar.xz). Anything else is the
        file itself.
    type: str
    required: true
  files:
    description: What to take out of it.
    type: list
    elements: dict
    required: true
    suboptions:
      member:
        description:
          - Name in the archive, or a pattern with C(*) that fits one name only.
          - For a file that is no archive, its own.
        type: str
        required: true
      dest:
        description: Name below RV(path).
        type: str
        required: true
      mode:
        description: Its mode, four octal digits, writable for its owner only.
        type: str
        default: "0755"
  mirror:
    description: Address of a directory, by http, https or C(file://), that has O(file).
    type: str
  url:
    description: Address of the upstream release, by http or https.
    type: str
  controller:
    description: Directory on the controller that has O(file).
    type: path
  directory:
    description: Directory on the host. Made when it is missing.
    type: path
    default: /opt/muster
  timeout:
    description: Seconds that fetching may take from each source.
    type: float
    default: 300
  archive:
    description: Where the controller has put O(file) on the host. It says so itself; a task must not.
    type: path
attributes:
  check_mode:
    description: Says whether it would be installed, and asks no source.
    support: full
  action:
    description: The controller sends the file when no other source has it.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Install SeaweedFS
  become: true
  muster.platform.artifact:
    name: seaweedfs
    version: "4.48"
    sha256: "{{ seaweedfs_sha256 }}"
    file: linux_amd64.tar.gz
    files:
      - {member: weed, dest: bin/weed}
    mirror: https://mirror.example.com/muster
    controller: artifacts
"""

RETURN = r"""
path:
  description: Where the files are, C(NAME-VERSION) in O(directory).
  returned: success
  type: str
source:
  description: Where the archive came from. Null when nothing was fetched.
  returned: success
  type: str
passed_over:
  description: Why the sources before that were of no use.
  returned: success
  type: list
  elements: str
"""

import fnmatch
import json
import os
import re
import shutil
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._files import file_hash

NOTE = ".artifact.json"
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
TAR = re.compile(r"\.(tar|tgz|tar\.(gz|bz2|xz))$")
ZIP = re.compile(r"\.(zip|whl)$")
BLOCK = 1 << 20

Params = Mapping[str, Any]


def check_arguments(params: Params) -> None:
    """Refuse what could reach beyond the directory, or cannot be a checksum."""
    for key in ("name", "version", "file"):
        if not WORD.fullmatch(params[key]):
            raise MusterError(f"{key} is {params[key]!r}: it may hold letters, digits, dots, _ and - only")
    if not re.fullmatch(r"[0-9a-f]{64}", params["sha256"].lower()):
        raise MusterError(
            f"sha256 of {params['name']} is {params['sha256']!r}: it must be 64 hexadecimal digits"
        )
    if not params["files"]:
        raise MusterError(f"files of {params['name']} is empty: name what to take out of {params['file']}")
    for entry in params["files"]:
        parts = PurePosixPath(entry["dest"]).parts
        if not parts or parts[0] == "/" or ".." in parts or entry["dest"] == NOTE:
            raise MusterError(f"dest {entry['dest']!r} must be a relative path without ..")
        if not re.fullmatch(r"0[0-7]{3}", entry["mode"]) or int(entry["mode"], 8) & 0o022:
            raise MusterError(
                f"mode {entry['mode']!r} of {entry['dest']} must be four octal digits, "
                "writable for its owner only"
            )
    if params["mirror"] and not re.match(r"https?://[^/]|file:///", params["mirror"]):
        raise MusterError(f"mirror is {params['mirror']!r}: it must begin with http://, https:// or file:///")
    if params["url"] and not re.match(r"https?://[^/]", params["url"]):
        raise MusterError(f"url is {params['url']!r}: it must begin with http:// or https://")


# --- what is there ---------------------------------------------------------------------


def place(params: Params) -> Path:
    return Path(params["directory"]) / f"{params['name']}-{params['version']}"


def wanted_note(params: Params, sizes: Mapping[str, int]) -> dict[str, Any]:
    """What is noted beside the files: with it, they are whole."""
    files = {
        entry["dest"]: {"member": entry["member"], "mode": entry["mode"], "size": sizes[entry["dest"]]}
        for entry in params["files"]
    }
    return {"sha256": params["sha256"].lower(), "files": files}


def installed(params: Params) -> bool:
    """Whether the files are there as they were installed."""
    home = place(params)
    try:
        note = json.loads((home / NOTE).read_text(encoding="utf-8"))
        found = {entry["dest"]: (home / entry["dest"]).lstat() for entry in params["files"]}
        sizes = {dest: status.st_size for dest, status in found.items()}
    except (OSError, ValueError):
        return False
    modes = {entry["dest"]: int(entry["mode"], 8) | 0o100000 for entry in params["files"]}
    as_wanted = all(found[dest].st_mode == mode for dest, mode in modes.items())
    return as_wanted and note == wanted_note(params, sizes)


# --- the sources ------------------------------------------------------------------------


def download(address: str, target: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    with open_url(address, timeout=timeout, follow_redirects="safe") as answer, open(target, "wb") as stream:
        while block := answer.read(BLOCK):
            if time.monotonic() > deadline:
                raise OSError(f"it was not there within {timeout:g} s")
            stream.write(block)


def fetch(params: Params, target: Path) -> tuple[str | None, list[str]]:
    """Bring the archive from the first address that has it; which one, and why not from those before."""
    addresses = []
    if params["mirror"]:
        addresses.append(f"{params['mirror'].rstrip('/')}/{params['file']}")
    if params["url"]:
        addresses.append(params["url"])
    reasons = []
    for address in addresses:
        try:
            download(address, target, params["timeout"])
        except Exception as error:  # open_url raises what its libraries raise
            reasons.append(f"{address}: {error}")
        else:
            return address, reasons
    return None, reasons


def check_sum(params: Params, archive: Path, source: str) -> None:
    """Refuse what somebody has changed: no other source is asked then."""
    found = file_hash(archive)
    if found != params["sha256"].lower():
        raise MusterError(
            f"{params['name']} {params['version']} from {source} has the SHA-256 {found}, "
            f"not {params['sha256'].lower()}: refused, nothing was installed"
        )


# --- what is in the archive ----------------------------------------------------------------


@contextmanager
def members(archive: Path, name: str) -> Iterator[tuple[list[str], Callable[[str], IO[bytes]]]]:
    """The names of the files in it, and how one is read."""
    with ExitStack() as stack:
        if ZIP.search(name):
            packed = stack.enter_context(zipfile.ZipFile(archive))
            yield [info.filename for info in packed.infolist() if not info.is_dir()], packed.open
        elif TAR.search(name):
            tar = stack.enter_context(tarfile.open(archive))
            names = [member.name for member in tar if member.isfile()]

            def read(member: str) -> IO[bytes]:
                found = tar.extractfile(member)
                if found is None:
                    raise MusterError(f"{member} of {name} is no regular file")
                return found

            yield names, read
        else:
            yield [name], lambda _member: archive.open("rb")


def find(names: list[str], pattern: str, file: str) -> str:
    fitting = [name for name in names if name == pattern] or fnmatch.filter(names, pattern)
    if len(fitting) != 1:
        said = ", ".join(sorted(fitting)[:5]) or "none"
        raise MusterError(f"{file} must hold one file that is {pattern}, found: {said}")
    return fitting[0]


def unpack(params: Params, archive: Path, fresh: Path) -> dict[str, int]:
    """Take the files out; their sizes."""
    sizes = {}
    with members(archive, params["file"]) as (names, read):
        for entry in params["files"]:
            member = find(names, entry["member"], params["file"])
            target = fresh / entry["dest"]
            for folder in reversed(PurePosixPath(entry["dest"]).parents):
                (fresh / folder).mkdir(mode=0o755, exist_ok=True)
            with read(member) as source, open(target, "wb") as stream:
                shutil.copyfileobj(source, stream, BLOCK)
                os.fchmod(stream.fileno(), int(entry["mode"], 8))
                os.fsync(stream.fileno())
            sizes[entry["dest"]] = target.stat().st_size
    return sizes


def install(params: Params, archive: Path) -> None:
    """Beside what is there, then in its place: nobody finds half of it."""
    home = place(params)
    fresh, old = home.with_name(f".{home.name}.new"), home.with_name(f".{home.name}.old")
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)
    fresh.mkdir(mode=0o755)
    try:
        sizes = unpack(params, archive, fresh)
        (fresh / NOTE).write_text(json.dumps(wanted_note(params, sizes)), encoding="utf-8")
        if home.exists():
            home.rename(old)
        fresh.rename(home)
    finally:
        for left in (fresh, old):
            shutil.rmtree(left, ignore_errors=True)


def run(params: Params, check: bool) -> dict[str, Any]:
    check_arguments(params)
    result: dict[str, Any] = {"path": str(place(params)), "source": None, "passed_over": [], "wanted": False}
    if installed(params):
        return {**result, "changed": False}
    if check:
        return {**result, "changed": True}
    directory = Path(params["directory"])
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    if params["archive"]:
        check_sum(params, Path(params["archive"]), "the controller")
        install(params, Path(params["archive"]))
        return {**result, "changed": True, "source": "the controller"}
    archive = directory / f".{params['name']}-{params['version']}.download"
    try:
        source, reasons = fetch(params, archive)
        if source is None:
            # The action goes on with the controller.
            return {**result, "changed": False, "passed_over": reasons, "wanted": True}
        check_sum(params, archive, source)
        install(params, archive)
    finally:
        archive.unlink(missing_ok=True)
    return {**result, "changed": True, "source": source, "passed_over": reasons}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "version": {"type": "str", "required": True},
            "sha256": {"type": "str", "required": True},
            "file": {"type": "str", "required": True},
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "member": {"type": "str", "required": True},
                    "dest": {"type": "str", "required": True},
                    "mode": {"type": "str", "default": "0755"},
                },
            },
            "mirror": {"type": "str"},
            "url": {"type": "str"},
            "controller": {"type": "path"},
            "directory": {"type": "path", "default": "/opt/muster"},
            "timeout": {"type": "float", "default": 300},
            "archive": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except MusterError as error:
        module.fail_json(msg=str(error))
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        module.fail_json(
            msg=f"{module.params['name']} {module.params['version']} cannot be installed: {error}"
        )


if __name__ == "__main__":
    main()
