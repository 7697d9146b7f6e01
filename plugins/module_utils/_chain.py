# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The drills' folders as a chain: each manifest holds the hash of the one before it, and is signed.

A folder is written under another name and then renamed, so that it is there whole or not at all. What
has no manifest is no part of the chain. One lock keeps two drills from following the same one.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _files
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._files import file_hash, sync, write_file

MANIFEST = "manifest.sha256"
SIGNATURE = "manifest.sha256.sig"
EVIDENCE = "evidence.json"
RESERVED = {EVIDENCE, "ledger.csv", "report.html", "metrics.prom", MANIFEST, SIGNATURE}
NAMESPACE = "muster-evidence"
SIGNERS = "allowed_signers"
LATEST = "latest"
LOCK = ".lock"
LOCK_SECONDS = 60.0
KEY_SECONDS = 20.0
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
PRINCIPAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,99}")
LINE = re.compile(r"([0-9a-f]{64})  (?:([A-Za-z0-9][A-Za-z0-9_.-]*)|\.\./([A-Za-z0-9][A-Za-z0-9_.-]*)/(.+))")
# Stands where the manifest before is gone: the gap then stays to be seen.
GONE = "0" * 64


@dataclass(frozen=True)
class Link:
    """The drill before, and the hash of its manifest."""

    drill_id: str
    sha256: str


@dataclass
class Manifest:
    """What manifest.sha256 says."""

    files: dict[str, str] = field(default_factory=dict)
    previous: Link | None = None

    def text(self) -> str:
        lines = [f"{digest}  {name}" for name, digest in sorted(self.files.items())]
        if self.previous:
            lines.append(f"{self.previous.sha256}  ../{self.previous.drill_id}/{MANIFEST}")
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True)
class Signer:
    """Who signs: a private key's path, its public half, and the name that auditors verify."""

    path: str
    public: str
    principal: str

    def described(self) -> dict[str, str]:
        return {"signer": self.principal, "key": fingerprint(self.public), "namespace": NAMESPACE}


# --- manifests -----------------------------------------------------------------


def parse_manifest(text: str) -> Manifest:
    """A manifest in the form of sha256sum; a MusterError names the line that is not."""
    manifest = Manifest()
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        found = LINE.fullmatch(line)
        last = number == len(lines)
        if not found or (found[3] and not (last and found[4] == MANIFEST)) or found[2] in manifest.files:
            raise MusterError(f"line {number} is not one that Muster writes")
        if found[3]:
            manifest.previous = Link(found[3], found[1])
        else:
            manifest.files[found[2]] = found[1]
    if manifest.text() != text:
        raise MusterError("its lines are not sorted, or end otherwise than Muster writes them")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    try:
        return parse_manifest((folder / MANIFEST).read_bytes().decode("ascii"))
    except OSError as error:
        raise MusterError(f"it cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MusterError("it is not plain text") from error


# --- the chain -------------------------------------------------------------------


def whole_folders(directory: Path) -> dict[str, Path]:
    """The folders that have a manifest, by drill."""
    if not directory.is_dir():
        return {}
    return {
        path.name: path
        for path in sorted(directory.iterdir())
        if NAME.fullmatch(path.name) and not path.is_symlink() and (path / MANIFEST).is_file()
    }


def previous_of(folder: Path) -> str | None:
    """The drill that a folder follows; None also when its manifest cannot be read."""
    try:
        link = read_manifest(folder).previous
    except MusterError:
        return None
    return link.drill_id if link else None


def successors(directory: Path) -> dict[str | None, list[str]]:
    found: dict[str | None, list[str]] = {}
    for name, folder in whole_folders(directory).items():
        found.setdefault(previous_of(folder), []).append(name)
    return found


def latest_name(directory: Path) -> str | None:
    """What the link `latest` names, whether it is there or not."""
    try:
        return os.readlink(directory / LATEST).rstrip("/").rpartition("/")[2]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MusterError(
            f"{directory / LATEST} is to be a link to the newest drill, but something else is there"
        ) from error


def find_head(directory: Path) -> Link | None:
    """The newest drill, with its manifest's hash.

    A crash may have left `latest` one drill behind. A newest drill that was taken away stays named, so
    that nobody can take it out of the chain by waiting for the next one.
    """
    following = successors(directory)
    folders = whole_folders(directory)
    name = latest_name(directory)
    if name is not None and name not in folders and not has_no_chain(directory / name):
        return Link(name, GONE)
    if name not in folders:
        ends = [folder for folder in folders if folder not in following]
        name = max(ends, default=None)
    while name in following:
        name = max(following.pop(name))
    return Link(name, file_hash(folders[name] / MANIFEST)) if name else None


def has_no_chain(folder: Path) -> bool:
    """Whether a folder is of the time before there were manifests."""
    try:
        return '"schema_version": 1,' in (folder / EVIDENCE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def backwards(directory: Path, head: str | None) -> Iterator[Path]:
    """The folders of the chain, newest first, as far as they are there."""
    seen: set[str] = set()
    folders = whole_folders(directory)
    while head in folders and head not in seen:
        seen.add(head)
        yield folders[head]
        head = previous_of(folders[head])


def last_pass(directory: Path, scenario: str) -> dict[str, Any] | None:
    """The evidence of the newest drill of the chain that passed in this scenario."""
    head = find_head(directory)
    for folder in backwards(directory, head.drill_id if head else None):
        try:
            evidence: dict[str, Any] = json.loads((folder / EVIDENCE).read_text(encoding="utf-8"))
            if (evidence["scenario"], evidence["verdict"]) == (scenario, "PASS") and evidence["plan"]:
                return evidence
        except (OSError, ValueError, KeyError, TypeError):
            continue  # somebody damaged it, which muster.platform.evidence_verify tells
    return None


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock on the chain; a MusterError when another drill keeps it until the deadline."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        stream = (directory / LOCK).open("a")
    except OSError as error:
        raise MusterError(f"cannot write the evidence to {directory}: {error.strerror}") from error
    with stream:
        wait_for_lock(stream, fcntl.LOCK_EX, directory)
        yield


def wait_for_lock(stream: Any, kind: int, directory: Path) -> None:
    what = f"the drill that writes its evidence to {directory} to end"
    _files.wait_for_lock(stream, kind, what, LOCK_SECONDS, interval=0.05)


# --- keys ------------------------------------------------------------------------


def ssh_keygen(*arguments: str, given: bytes = b"") -> str:
    """What ssh-keygen printed; a MusterError with its words when it failed. It can ask nobody anything."""
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "SSH_ASKPASS")}
    try:
        done = subprocess.run(  # pylint: disable=ansible-bad-function
            ["ssh-keygen", *arguments],
            input=given,
            capture_output=True,
            timeout=KEY_SECONDS,
            env=environment | {"SSH_ASKPASS_REQUIRE": "never", "LC_ALL": "C"},
            start_new_session=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise MusterError("there is no ssh-keygen on the controller") from error
    except subprocess.TimeoutExpired as error:
        raise MusterError(f"waited {KEY_SECONDS:g} s for ssh-keygen") from error
    if done.returncode:
        said = (done.stderr + done.stdout).decode("utf-8", "replace")
        lines = [line.strip() for line in said.splitlines() if line.strip("@ ")]
        raise MusterError("; ".join(lines[:3]) or f"ssh-keygen ended with {done.returncode}")
    return done.stdout.decode("utf-8", "replace")


def load_signer(path: str | None, principal: str) -> Signer | None:
    """The key to sign with, tried before anything is written."""
    if not path:
        return None
    if not PRINCIPAL.fullmatch(principal):
        raise MusterError(f"signer may hold letters, digits and _ . @ + - only: {principal!r}")
    if not Path(path).is_file():
        raise MusterError(f"signing_key: there is no file {path}")
    try:
        words = ssh_keygen("-y", "-P", "", "-f", path).split()
    except MusterError as error:
        raise MusterError(f"signing_key: {path} cannot be used: {error}") from error
    if words[:1] != ["ssh-ed25519"]:
        raise MusterError(f"signing_key: {path} must be an ed25519 key, not {words[0] if words else 'empty'}")
    return Signer(path, " ".join(words[:2]), principal)


def fingerprint(public: str) -> str:
    """As ssh-keygen -l shows it."""
    digest = hashlib.sha256(base64.b64decode(public.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def sign(signer: Signer, text: str) -> str:
    try:
        return ssh_keygen("-Y", "sign", "-n", NAMESPACE, "-f", signer.path, given=text.encode())
    except MusterError as error:
        raise MusterError(f"signing_key: {signer.path} did not sign: {error}") from error


def verify_signature(signers: Path, principal: str, signature: Path, signed: bytes) -> None:
    """A MusterError with ssh-keygen's words when it is not a signature of that principal over the text."""
    ssh_keygen(
        *("-Y", "verify", "-n", NAMESPACE, "-f", str(signers), "-I", principal, "-s", str(signature)),
        given=signed,
    )


def keep_signer(directory: Path, signer: Signer) -> None:
    """Add the key to allowed_signers; whoever signed once stays there, or older drills could not be read."""
    path = directory / SIGNERS
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    line = f'{signer.principal} namespaces="{NAMESPACE}" {signer.public}'
    if line not in text.splitlines():
        write_file(path, text + ("\n" if text and not text.endswith("\n") else "") + line + "\n")


# --- writing -----------------------------------------------------------------------


def check_folder(directory: Path, drill_id: str) -> Path:
    """The drill's folder; evidence that is there already is never written over."""
    if not NAME.fullmatch(drill_id) or drill_id in (LATEST, SIGNERS, "index.html"):
        raise MusterError(
            f"drill_id may hold letters, digits and _ . - only, and not be 'latest': {drill_id!r}"
        )
    folder = directory / drill_id
    if (folder / EVIDENCE).exists() or (folder / MANIFEST).exists():
        raise MusterError(f"{folder} holds evidence already; a drill needs an id of its own")
    latest_name(directory)
    return folder


def check_attachments(folder: Path, given: list[Mapping[str, Any]]) -> dict[str, Path]:
    """The files to copy, by name: those given, and what somebody put into the folder beforehand."""
    found: dict[str, Path] = {}
    lying = [(path.name, path) for path in sorted(folder.iterdir())] if folder.is_dir() else []
    for name, path in [(str(entry["name"]), Path(entry["path"])) for entry in given] + lying:
        if not NAME.fullmatch(name):
            raise MusterError(f"attachments: a name may hold letters, digits and _ . - only: {name!r}")
        if name in RESERVED:
            raise MusterError(f"attachments: {name} is a file that Muster writes itself")
        if name in found and path.parent != folder:
            raise MusterError(f"attachments: {name} is given twice")
        if not path.is_file() or not os.access(path, os.R_OK):
            raise MusterError(f"attachments: {path} is not a file that can be read")
        found.setdefault(name, path)
    return found


def publish(
    directory: Path,
    folder: Path,
    files: Mapping[str, str],
    attachments: Mapping[str, Path],
    signer: Signer | None,
) -> None:
    """Write a whole folder and make it the newest of the chain; the lock is held."""
    try:
        for leftover in directory.glob(".new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        previous = find_head(directory)
        made = directory / f".new-{folder.name}-{secrets.token_hex(6)}"
        made.mkdir()
        try:
            fill(made, files, attachments, previous, signer)
            if signer:
                keep_signer(directory, signer)
            take_place(made, folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        temporary = directory / f".{LATEST}-{secrets.token_hex(6)}"
        temporary.symlink_to(folder.name)
        temporary.replace(directory / LATEST)
        sync(directory)
    except OSError as error:
        raise MusterError(f"cannot write the evidence to {folder}: {error.strerror}") from error


def fill(
    made: Path,
    files: Mapping[str, str],
    attachments: Mapping[str, Path],
    previous: Link | None,
    signer: Signer | None,
) -> None:
    """All files of the folder, the manifest after what it names, and the signature over it."""
    for name, path in attachments.items():
        copy_file(path, made / name)
    for name, text in files.items():
        write_file(made / name, text)
    hashes = {path.name: file_hash(path) for path in made.iterdir()}
    text = Manifest(hashes, previous).text()
    write_file(made / MANIFEST, text)
    if signer:
        write_file(made / SIGNATURE, sign(signer, text))
    sync(made)


def copy_file(source: Path, target: Path) -> None:
    """A copy that no more people can read than the original: it may hold an application's rows."""
    readers = stat.S_IMODE(source.stat().st_mode) & 0o044
    number = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(number, "wb") as stream, source.open("rb") as given:
        shutil.copyfileobj(given, stream)
        stream.flush()
        os.fsync(stream.fileno())
    target.chmod(0o600 | readers)


def take_place(made: Path, folder: Path) -> None:
    """Rename the whole folder into its place; what lay there before was copied into it."""
    old = made.with_name(f"{made.name}.old")
    if folder.is_dir():
        folder.rename(old)
    made.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
