# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checking the whole chain of drills offline: hashes, signatures, links, and the figures themselves."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _chain, _evidence
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

BESIDE = {"index.html", _chain.SIGNERS, _chain.LATEST}


@dataclass
class Findings:
    """What was looked at, and what is wrong with it, the oldest drill first."""

    drills: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unsigned: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Trust:
    """Whose signatures count."""

    signers: Path
    principal: str
    required: bool


def check_chain(directory: Path, trust: Trust, newest: str | None) -> Findings:
    """Look at every drill up to the newest one, oldest first."""
    if not directory.is_dir():
        raise MusterError(f"directory: there is no directory {directory}")
    with undisturbed(directory):
        found = Findings()
        head = newest or _chain.latest_name(directory)
        chain = list(_chain.backwards(directory, head))[::-1]
        for folder in chain:
            check_drill(folder, trust, found)
        found.problems += head_problems(directory, head, newest, [folder.name for folder in chain])
        found.outside = sorted(set(outside(directory)))
        if trust.required:
            found.problems += [f"{drill}: {_chain.MANIFEST} is not signed" for drill in found.unsigned]
        return found


@contextlib.contextmanager
def undisturbed(directory: Path) -> Iterator[None]:
    """Keep a drill from ending meanwhile. An auditor's copy has no lock to take, and no drills."""
    try:
        stream = (directory / _chain.LOCK).open("r")
    except OSError:
        yield
        return
    with stream:
        _chain.wait_for_lock(stream, fcntl.LOCK_SH, directory)
        yield


def head_problems(directory: Path, head: str | None, newest: str | None, chain: list[str]) -> list[str]:
    """Whether the chain ends where it should, and nothing stands beside it."""
    folders = _chain.whole_folders(directory)
    if head is None:
        return [f"{_chain.LATEST}: nothing names the newest drill"]
    if head not in folders:
        what = "drill_id" if newest else _chain.LATEST
        return [f"{head}: {what} names it, but {head}/{_chain.MANIFEST} is not there"]
    if newest:
        return []
    later = sorted(
        name for name, folder in folders.items() if name not in chain and leads_to(folder, set(chain))
    )
    if later:
        before = _chain.previous_of(folders[later[0]])
        return [f"{later[0]}: it follows {before}, but {_chain.LATEST} names {head}"]
    return [
        f"{name}: no later drill holds the hash of {name}/{_chain.MANIFEST}"
        for name in folders
        if name not in chain
    ]


def leads_to(folder: Path, chain: set[str]) -> bool:
    return _chain.previous_of(folder) in chain


def outside(directory: Path) -> Iterator[str]:
    """What lies in the directory and belongs to no chain: older drills, and halves of drills."""
    for path in directory.iterdir():
        if (
            not path.name.startswith(".")
            and path.name not in BESIDE
            and not (path / _chain.MANIFEST).is_file()
        ):
            yield path.name


def check_drill(folder: Path, trust: Trust, found: Findings) -> None:
    """Everything about one drill; what is wrong is named with the drill and the file."""
    drill = folder.name
    row: dict[str, Any] = {"drill_id": drill, "manifest_sha256": _chain.file_hash(folder / _chain.MANIFEST)}
    found.drills.append(row)
    problems = [f"{drill}: {problem}" for problem in signature_problems(folder, trust, found)]
    try:
        manifest = _chain.read_manifest(folder)
    except MusterError as error:
        found.problems += [*problems, f"{drill}: {_chain.MANIFEST}: {error}"]
        return
    row["previous"] = manifest.previous.drill_id if manifest.previous else None
    told = [*file_problems(folder, manifest), *link_problems(folder, manifest.previous)]
    # Where a file is not what it was, its figures say nothing.
    told = told or evidence_problems(folder, row)
    found.problems += problems + [f"{drill}: {problem}" for problem in told]


def signature_problems(folder: Path, trust: Trust, found: Findings) -> list[str]:
    signature = folder / _chain.SIGNATURE
    if not signature.is_file():
        signed_before = any(row["signed"] for row in found.drills[:-1])
        found.drills[-1]["signed"] = False
        found.unsigned.append(folder.name)
        # Whoever takes a signature away must not get away with it where signing is not required.
        return [f"{_chain.SIGNATURE} is not there, but older drills are signed"] if signed_before else []
    found.drills[-1]["signed"] = True
    if not trust.signers.is_file():
        return [f"{_chain.SIGNATURE} cannot be verified: there is no file {trust.signers}"]
    try:
        signed = (folder / _chain.MANIFEST).read_bytes()
        _chain.verify_signature(trust.signers, trust.principal, signature, signed)
    except MusterError as error:
        return [
            f"{_chain.SIGNATURE} is not a signature of {trust.principal} over {_chain.MANIFEST} ({error})"
        ]
    return []


def file_problems(folder: Path, manifest: _chain.Manifest) -> Iterator[str]:
    """Each file is there, is what it was, and there is no other."""
    present = {path.name: path for path in folder.iterdir()}
    for name, digest in manifest.files.items():
        path = present.pop(name, None)
        if path is None:
            yield f"{name} is not there"
        elif path.is_symlink() or not path.is_file():
            yield f"{name} is no plain file"
        elif _chain.file_hash(path) != digest:
            yield f"{name} is not what {_chain.MANIFEST} says it was"
    for name in sorted(set(present) - {_chain.MANIFEST, _chain.SIGNATURE}):
        yield f"{name} is not in {_chain.MANIFEST}"
    for name in (_chain.EVIDENCE, "report.html"):
        if name not in manifest.files:
            yield f"{_chain.MANIFEST} does not name {name}"


def link_problems(folder: Path, link: _chain.Link | None) -> Iterator[str]:
    if link is None:
        return
    name = f"{link.drill_id}/{_chain.MANIFEST}"
    before = folder.parent / link.drill_id / _chain.MANIFEST
    if not before.is_file():
        yield f"the drill before it is missing: {name} is not there"
    elif _chain.file_hash(before) != link.sha256:
        yield f"{name}, of the drill before it, is not what {_chain.MANIFEST} says it was"


# --- figures -----------------------------------------------------------------------


def evidence_problems(folder: Path, row: dict[str, Any]) -> list[str]:
    """evidence.json is of this drill, and its figures follow from the ledger."""
    try:
        evidence = json.loads((folder / _chain.EVIDENCE).read_text(encoding="utf-8"))
        row |= {key: evidence[key] for key in ("scenario", "verdict", "finished_at")}
        if evidence["drill_id"] != folder.name:
            return [f"{_chain.EVIDENCE} is of another drill, {evidence['drill_id']}"]
        if evidence["signature"] and not row["signed"]:
            return [f"{_chain.SIGNATURE} is not there, but {_chain.EVIDENCE} says that it was signed"]
        return figure_problems(folder, evidence)
    except (OSError, ValueError, KeyError, TypeError, MusterError) as error:
        return [f"{_chain.EVIDENCE} cannot be read: {error}"]


def figure_problems(folder: Path, evidence: dict[str, Any]) -> list[str]:
    if not evidence["canary"]:
        return []
    canary = evidence["canary"]
    ledger = _evidence.parse_ledger((folder / "ledger.csv").read_text(encoding="utf-8"))
    window = _evidence.Window(_evidence.read_time(canary["from"]), _evidence.read_time(canary["to"]))
    interval = round(float(canary["interval_ms"]) * 1000)
    problems, found = [], []
    for store in evidence["stores"]:
        # What was not known then is not made up now, and an older drill has no recovery point.
        keys = (*_evidence.FIGURES, "recovery_point")
        told = {key: store[key] for key in keys if store.get(key) is not None}
        part = {"endpoints": list(store["outage_by_endpoint"] or {}), "surviving": store["surviving"]}
        again = _evidence.store_figures(store["name"], ledger, part, window, interval)
        found.append({**again, "name": store["name"]})
        problems += [
            f"{_chain.EVIDENCE}: {key} of {store['name']} is {value}, but ledger.csv says {again[key]}"
            for key, value in told.items()
            if again[key] != value
        ]
    skew, skew_again = evidence.get("consistency_skew_seconds"), _evidence.consistency_skew(found)[0]
    if skew is not None and skew != skew_again:
        problems.append(
            f"{_chain.EVIDENCE}: the consistency skew is {skew}, but ledger.csv says {skew_again}"
        )
    return problems
