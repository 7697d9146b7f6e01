# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A directory that holds what hosts without a way out need: files by their SHA-256, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._files import file_hash

# What is under way lies here, beside what is there; the next run goes on with it.
STAGING = ".partial"
# A command's exit code, output and error output, as AnsibleModule.run_command gives them.
Command = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True)
class Wanted:
    """A file that the mirror shall hold."""

    name: str
    address: str
    size: int
    sha256: str


def missing(folder: Path, wanted: Mapping[str, Wanted]) -> list[Wanted]:
    """The files that are not there. One that is there and is another one is refused, not replaced."""
    found = []
    for name, file in sorted(wanted.items()):
        path = folder / name
        if not path.exists():
            found.append(file)
            continue
        actual = file_hash(path)
        if actual != file.sha256:
            raise MusterError(
                f"{path} has the SHA-256 {actual}, not {file.sha256}: refused; "
                "remove it to have it fetched again"
            )
    return found


def adopt(folder: Path, wanted: list[Wanted]) -> list[str]:
    """Take what was fetched whole out of the staging directory; the names of it."""
    taken = []
    for file in wanted:
        staged = folder / STAGING / file.name
        if staged.is_file() and file_hash(staged) == file.sha256:
            staged.chmod(0o644)
            staged.rename(folder / file.name)
            taken.append(file.name)
    return taken


def check_room(folder: Path, wanted: list[Wanted]) -> None:
    """Refuse to begin what the disk cannot hold."""
    need, free = sum(file.size for file in wanted), shutil.disk_usage(folder).free
    if need > free:
        raise MusterError(
            f"{folder} has {free // 2**20} MiB free, and {need // 2**20} MiB are to be fetched: "
            "nothing was fetched"
        )


def last_words(output: str) -> str:
    """The line of a program's output that tells what went wrong, without its prefix."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E: ", "ERROR: ", "gpg: "))] or lines[-1:]
    return (errors[0] if errors else "it said nothing").removeprefix("E: ").removeprefix("ERROR: ")
