#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: mirror_debian
short_description: Fill a small, signed Debian repository with packages and all that they depend on
version_added: 0.1.0
description:
  - Runs on a connected Debian machine. apt itself finds out what is needed, as on a machine that has no
    package at all, fetches it and checks it against the signed lists that it came from.
  - Packages that are there already are compared with those lists. One with another checksum is refused.
  - The repository has one suite for each release, below C(dists) and C(pool), and a key of its own, whose
    public half is C(muster-mirror.asc) in O(directory).
  - Packages of an earlier run stay. apt takes the newest.
options:
  directory:
    description: Directory of the repository. It must exist.
    type: path
    required: true
  work:
    description:
      - Directory for what stays on this machine, such as the private key and apt's lists. It must exist.
    type: path
    required: true
  suite:
    description: Codename of the Debian release.
    type: str
    required: true
  sources:
    description:
      - Where the packages come from, as apt's one-line entries. By default this machine's own Debian mirror,
        with the release, its updates and its security updates.
    type: list
    elements: str
    default: []
  packages:
    description:
      - Lists of packages, one for each kind of machine. What each of them needs is found out by itself, on
        top of what Debian calls essential or required.
    type: list
    elements: list
    required: true
  architecture:
    description: Debian's name of the architecture. This machine's by default.
    type: str
attributes:
  check_mode:
    description: Reads the lists, and says what would be fetched.
    support: full
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Mirror what the hosts need
  muster.platform.mirror_debian:
    directory: /srv/muster-mirror/debian
    work: /srv/muster-mirror.work
    suite: trixie
    packages: [[etcd-server, etcd-client], [haproxy]]
"""

RETURN = r"""
added:
  description: Packages that were fetched, or would be.
  returned: success
  type: list
  elements: str
count:
  description: Packages that O(packages) need, all in all.
  returned: success
  type: int
architecture:
  description: The architecture.
  returned: success
  type: str
"""

import os
import re
import shlex
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._files import write_file
from ansible_collections.muster.platform.plugins.module_utils._mirror import (
    STAGING,
    Command,
    Wanted,
    adopt,
    check_room,
    last_words,
    missing,
)  # fmt: skip

KEY = "muster-mirror.asc"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
HELPER = "/usr/lib/apt/apt-helper"
# What apt-get says of a package that it would fetch.
URI = re.compile(r"^'([^']+)' (\S+) (\d+) SHA256:([0-9a-f]{64})$")
BASE = ["?essential", "?priority(required)", "apt"]
TOOLS = {"apt-ftparchive": "apt-utils", "gpg": "gpg"}


class Apt:
    """apt with directories of its own, for another release and a machine without any package."""

    def __init__(self, run: Command, root: Path, architecture: str) -> None:
        self.run, self.root = run, root
        for name in ("none", "state", "lists/partial", "cache/archives/partial"):
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "status").touch()
        # How this machine reaches its mirrors, such as a proxy. Its hooks stay out.
        _code, acquire, _error = run(["apt-config", "dump", "Acquire"], check_rc=True)
        (root / "apt.conf").write_text(acquire + self.settings(architecture), encoding="utf-8")

    def settings(self, architecture: str) -> str:
        none, root = f"{self.root}/none", self.root
        own = {
            "Dir::Etc::main": f"{none}/main",
            "Dir::Etc::parts": f"{none}/",
            "Dir::Etc::sourcelist": f"{root}/sources.list",
            "Dir::Etc::sourceparts": f"{none}/",
            "Dir::Etc::preferences": f"{none}/preferences",
            "Dir::Etc::preferencesparts": f"{none}/",
            "Dir::State": f"{root}/state",
            "Dir::State::lists": f"{root}/lists",
            "Dir::State::status": f"{root}/status",
            "Dir::Cache": f"{root}/cache",
            "APT::Architecture": architecture,
            "APT::Install-Recommends": "false",
            # The directories are this user's own.
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
        }
        lines = [f'{name} "{value}";' for name, value in own.items()]
        return "\n".join([*lines, f'APT::Architectures {{ "{architecture}"; }};', ""])

    def __call__(self, *command: str) -> str:
        environment = {"APT_CONFIG": str(self.root / "apt.conf"), "LC_ALL": "C.UTF-8"}
        code, output, error = self.run(list(command), environ_update=environment)
        if code != 0:
            raise MusterError(last_words(error or output))
        return output

    def update(self, sources: list[str]) -> None:
        (self.root / "sources.list").write_text("\n".join([*sources, ""]), encoding="utf-8")
        self("apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any")

    def closure(self, packages: list[str]) -> dict[str, Wanted]:
        """The packages and all that they depend on, by the names of their files."""
        words = ["apt-get", "install", "-qq", "-y", "--print-uris", "-o", "Acquire::ForceHash=sha256"]
        found = {}
        for line in self(*words, *BASE, *packages).splitlines():
            if matched := URI.match(line):
                # As in Debian's own pool: without the epoch, whose colon no web server gets right.
                name = unquote(matched[1].rsplit("/", 1)[-1])
                found[name] = Wanted(name, matched[1], int(matched[3]), matched[4])
        if not found:
            raise MusterError(f"apt names no package for {' '.join(packages) or 'a bare system'}")
        return found

    def fetch(self, folder: Path, files: list[Wanted]) -> list[str]:
        """Fetch files into a folder; also when it fails, those that came whole stay."""
        (folder / STAGING).mkdir(exist_ok=True)
        done = adopt(folder, files)
        left = [file for file in files if file.name not in done]
        check_room(folder, left)
        words = [[file.address, f"{folder}/{STAGING}/{file.name}", f"SHA256:{file.sha256}"] for file in left]
        try:
            if words:
                self(HELPER, "download-file", *[word for triple in words for word in triple])
        finally:
            done += adopt(folder, left)
        if short := [file.name for file in left if file.name not in done]:
            raise MusterError(f"{short[0]} did not come whole: run it again")
        shutil.rmtree(folder / STAGING)
        return sorted(done)


def own_sources(run: Command, suite: str) -> list[str]:
    """The release from where this machine has its packages, or nothing when it does not know of a mirror."""
    _code, output, _error = run(
        ["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"], check_rc=True
    )
    found: dict[str, str] = {}
    for line in output.splitlines():
        label, _space, address = line.partition(" ")
        found.setdefault(label, address)
    trust = f"[signed-by={KEYRING}] " if os.path.exists(KEYRING) else ""
    suites = {"Debian": [suite, f"{suite}-updates"], "Debian-Security": [f"{suite}-security"]}
    if "Debian" not in found:
        raise MusterError(
            "apt on this machine knows no Debian mirror: run `apt-get update`, or set mirror_sources"
        )
    return [
        f"deb {trust}{found[label]} {name} main"
        for label, names in suites.items()
        if label in found
        for name in names
    ]


# --- the repository --------------------------------------------------------------------


class Repository:
    """One suite of the repository, and the key that all of them share."""

    def __init__(self, run: Command, directory: Path, work: Path, suite: str, architecture: str) -> None:
        self.run, self.directory, self.work = run, directory, work
        self.suite, self.architecture = suite, architecture
        self.pool = directory / "pool" / suite
        self.dist = directory / "dists" / suite
        self.index = self.dist / "main" / f"binary-{architecture}" / "Packages"

    def current(self) -> bool:
        """Whether the index names just the packages that are there, and is signed."""
        release, key = self.dist / "InRelease", self.directory / KEY
        if not (self.index.is_file() and release.is_file() and key.is_file()):
            return False
        text = self.index.read_text(encoding="utf-8")
        named = set(re.findall(r"^Filename: pool/[^/]+/(.+)$", text, re.MULTILINE))
        return named == {path.name for path in self.pool.glob("*.deb")}

    def write(self) -> None:
        """Make the index of what is there, and sign it."""
        self.index.parent.mkdir(parents=True, exist_ok=True)
        text = self.tool("apt-ftparchive", "packages", f"pool/{self.suite}")
        write_file(self.index, text, 0o644)
        fields = {
            "Origin": "Muster",
            "Label": "Muster",
            "Suite": self.suite,
            "Codename": self.suite,
            "Architectures": self.architecture,
            "Components": "main",
        }
        options = [
            word
            for name, value in fields.items()
            for word in ("-o", f"APT::FTPArchive::Release::{name}={value}")
        ]
        release = self.dist / "Release"
        release.unlink(missing_ok=True)
        (self.dist / "InRelease").unlink(missing_ok=True)
        text = self.tool("apt-ftparchive", *options, "release", f"dists/{self.suite}")
        write_file(release, text, 0o644)
        self.sign(release)

    def sign(self, release: Path) -> None:
        home = self.work / "gnupg"
        home.mkdir(mode=0o700, exist_ok=True)
        with ExitStack() as stack:
            # A short name for it: gpg's socket is in there, and its path may have 108 characters.
            short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mm-"))) / "g"
            short.symlink_to(home)
            gpg = f"gpg --homedir {short} --batch --yes --quiet --pinentry-mode loopback --passphrase".split()
            gpg.append("")
            stack.callback(self.run, ["gpgconf", "--homedir", str(short), "--kill", "all"])
            if not self.tool(*gpg, "--list-secret-keys", "--with-colons"):
                self.tool(*gpg, "--quick-generate-key", "Muster mirror", "ed25519", "sign", "never")
            write_file(self.directory / KEY, self.tool(*gpg, "--armor", "--export"), 0o644)
            words = ("--digest-algo", "SHA512", "--clearsign", "--output", "-", str(release))
            write_file(self.dist / "InRelease", self.tool(*gpg, *words), 0o644)

    def tool(self, *command: str) -> str:
        code, output, error = self.run(
            list(command), cwd=str(self.directory), environ_update={"LC_ALL": "C.UTF-8"}
        )
        if code != 0:
            raise MusterError(f"{shlex.quote(command[0])} failed: {last_words(error or output)}")
        return output


def check_tools(module: AnsibleModule) -> None:
    for program, package in TOOLS.items():
        if not module.get_bin_path(program):
            raise MusterError(f"{program} is missing on this machine: install Debian's package {package}")


def fill(module: AnsibleModule, apt: Apt, repository: Repository) -> dict[str, Any]:
    params, check = module.params, module.check_mode
    apt.update(params["sources"] or own_sources(module.run_command, params["suite"]))
    wanted: dict[str, Wanted] = {}
    for packages in params["packages"]:
        wanted |= apt.closure([str(name) for name in packages])
    absent = missing(repository.pool, wanted)
    result = {
        "count": len(wanted),
        "architecture": repository.architecture,
        "added": [file.name for file in absent],
        "changed": bool(absent) or not repository.current(),
    }
    if check or not result["changed"]:
        return result
    repository.pool.mkdir(parents=True, exist_ok=True)
    apt.fetch(repository.pool, absent)
    repository.write()
    return result


def run(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    check_tools(module)
    if not re.fullmatch(r"[a-z]+", params["suite"]):
        raise MusterError(
            f"suite is {params['suite']!r}: it must be the codename of a release, such as trixie"
        )
    architecture = (
        params["architecture"]
        or module.run_command(["dpkg", "--print-architecture"], check_rc=True)[1].strip()
    )
    work = Path(params["work"])
    repository = Repository(
        module.run_command, Path(params["directory"]), work, params["suite"], architecture
    )
    with ExitStack() as stack:
        # Check mode leaves nothing behind.
        root = (
            Path(stack.enter_context(tempfile.TemporaryDirectory()))
            if module.check_mode
            else work / f"apt-{params['suite']}-{architecture}"
        )
        return fill(module, Apt(module.run_command, root, architecture), repository)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "work": {"type": "path", "required": True},
            "suite": {"type": "str", "required": True},
            "sources": {"type": "list", "elements": "str", "default": []},
            "packages": {"type": "list", "elements": "list", "required": True},
            "architecture": {"type": "str"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except MusterError as error:
        module.fail_json(msg=f"Debian {module.params['suite']}: {error}")
    except OSError as error:
        module.fail_json(msg=f"Debian {module.params['suite']} cannot be mirrored: {error}")


if __name__ == "__main__":
    main()
