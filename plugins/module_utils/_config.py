# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bring a set of files and directories into their wanted state, all or nothing.

The order is: look at everything, refuse what cannot work, write temporary
files, run the validators, and only then replace. What was created on the way
is removed again when a step before the replacing fails.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import secrets
import shlex
import shutil
import stat
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._files import sync

SHOWN_BYTES = 200_000
VALIDATE_SECONDS = 60
STALE_SECONDS = 3600
HIDDEN_BEFORE = "(secret content before, not shown)\n"
HIDDEN_AFTER = "(secret content after, not shown)\n"


@dataclass
class Found:
    """What is at a path now; nothing when kind is empty."""

    kind: str = ""  # file, directory, link, other
    uid: int = -1
    gid: int = -1
    mode: int = 0
    content: bytes = b""


@dataclass
class Item:
    """A wanted file or directory, and what was found in its place."""

    path: str
    directory: bool
    uid: int | None = None
    gid: int | None = None
    mode: int | None = None
    owner: str | None = None
    group: str | None = None
    content: bytes = b""
    validate: str | None = None
    secret: bool = False
    notify: list[str] = field(default_factory=list)
    found: Found = field(default_factory=Found)
    temporary: str = ""
    unknown_account: bool = False

    @property
    def content_differs(self) -> bool:
        if self.directory:
            return self.found.kind != "directory"
        return self.found.kind != "file" or self.found.content != self.content

    @property
    def attributes_differ(self) -> bool:
        if not self.found.kind or self.unknown_account:
            return True
        return (
            (self.uid is not None and self.uid != self.found.uid)
            or (self.gid is not None and self.gid != self.found.gid)
            or (self.mode is not None and self.mode != self.found.mode)
        )

    @property
    def differs(self) -> bool:
        return self.content_differs or self.attributes_differ


@dataclass
class Removal:
    """A path that must not exist."""

    path: str
    notify: list[str]
    found: Found


def program_environment() -> dict[str, str]:
    """The environment of the programs we run: English, and with the system directories."""
    path = os.environ.get("PATH", "")
    return {**os.environ, "LC_ALL": "C", "PATH": f"{path}:/usr/local/sbin:/usr/sbin:/sbin"}


def run_program(command: list[str], timeout: float) -> tuple[int, str, str]:
    """Run a program without a shell or input; return its code, output and errors.

    OSError and subprocess.TimeoutExpired are the caller's. AnsibleModule.run_command would
    do, had it a deadline.
    """
    done = subprocess.run(  # pylint: disable=ansible-bad-function
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        env=program_environment(),
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def find_account(name: str | None, group: bool) -> tuple[int | None, bool]:
    """The number of a user or group, and whether it is unknown here."""
    if name is None:
        return None, False
    try:
        return (grp.getgrnam(name).gr_gid if group else pwd.getpwnam(name).pw_uid), False
    except KeyError:
        return (int(name), False) if name.isdecimal() else (None, True)


def look(path: str, read: bool = False) -> Found:
    """What is at C(path), without following a link in its last part."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Found()
    except OSError as error:
        raise MusterError(f"cannot look at {path}: {error.strerror}") from error
    kind = "other"
    content = b""
    if stat.S_ISLNK(status.st_mode):
        kind = "link"
    elif stat.S_ISDIR(status.st_mode):
        kind = "directory"
    elif stat.S_ISREG(status.st_mode):
        kind = "file"
        if read:
            content = read_file(path)
    return Found(kind, status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), content)


def read_file(path: str) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as stream:
            return stream.read()
    except OSError as error:
        raise MusterError(f"cannot read {path}: {error.strerror}") from error


def refuse_foreign_links(path: str, uid: int | None) -> None:
    """Raise when a directory above C(path) is a link that someone else could turn elsewhere.

    Links of root, of ourselves and of the account that the path is for are fine.
    """
    for parent in parents(path):
        with contextlib.suppress(OSError):
            status = os.lstat(parent)
            if stat.S_ISLNK(status.st_mode) and status.st_uid not in (0, os.geteuid(), uid):
                raise MusterError(
                    f"{path} is below {parent}, a symbolic link that does not belong to root,"
                    " so it is not followed"
                )


def trusted_directory_link(path: str) -> Found:
    """The directory behind a link that root (or we) made; a MusterError otherwise.

    A link that someone else can turn elsewhere would let them choose what root
    changes the owner of.
    """
    if os.lstat(path).st_uid not in (0, os.geteuid()):
        raise MusterError(f"{path} is a symbolic link that does not belong to root, so it is not followed")
    found = look(os.path.realpath(path))
    if found.kind != "directory":
        raise MusterError(f"{path} is a symbolic link and does not lead to a directory")
    return found


class Tree:
    """The wanted files, directories and removals of one call."""

    def __init__(
        self,
        directories: list[dict[str, Any]],
        files: list[dict[str, Any]],
        absent: list[dict[str, Any]],
    ) -> None:
        self.directories = [self._directory(entry) for entry in directories]
        self.files = [self._file(entry) for entry in files]
        self.removals = [self._removal(entry) for entry in absent]

    @property
    def items(self) -> list[Item]:
        return [*self.directories, *self.files]

    @property
    def secrets(self) -> list[bytes]:
        return [item.content for item in self.files if item.secret]

    @staticmethod
    def _item(path: str, directory: bool, entry: dict[str, Any]) -> Item:
        mode = entry.get("mode")
        uid, no_user = find_account(entry.get("owner"), group=False)
        gid, no_group = find_account(entry.get("group"), group=True)
        return Item(
            path=path,
            directory=directory,
            uid=uid,
            gid=gid,
            owner=entry.get("owner"),
            group=entry.get("group"),
            mode=int(mode, 8) if mode is not None else None,
            notify=list(entry.get("notify") or []),
            unknown_account=no_user or no_group,
        )

    def _directory(self, entry: dict[str, Any]) -> Item:
        path = entry["path"]
        item = self._item(path, True, entry)
        refuse_foreign_links(path, item.uid)
        item.found = look(path)
        if item.found.kind == "link":
            item.found = trusted_directory_link(path)
            item.path = os.path.realpath(path)
        if item.found.kind not in ("", "directory"):
            raise MusterError(f"{path} must be a directory, but something else is there")
        return item

    def _file(self, entry: dict[str, Any]) -> Item:
        path = entry["dest"]
        item = self._item(path, False, entry)
        item.content = (entry.get("content") or "").encode()
        item.validate = entry.get("validate")
        item.secret = bool(entry.get("secret"))
        if item.secret and item.mode is None:
            item.mode = 0o600
        refuse_foreign_links(path, item.uid)
        item.found = look(path, read=True)
        if item.found.kind in ("directory", "other"):
            raise MusterError(f"{path} must be a file, but a {item.found.kind} is there")
        return item

    @staticmethod
    def _removal(entry: dict[str, Any]) -> Removal:
        refuse_foreign_links(entry["path"], None)
        found = look(entry["path"])
        if found.kind == "directory":
            raise MusterError(
                f"{entry['path']} is to be absent, but it is a directory; only files are removed"
            )
        return Removal(entry["path"], list(entry.get("notify") or []), found)

    # --- what would change -------------------------------------------------

    def changed_paths(self) -> list[str]:
        return [item.path for item in self.items if item.differs] + [
            removal.path for removal in self.removals if removal.found.kind
        ]

    def notify(self) -> list[str]:
        tags: set[str] = set()
        for item in self.files:
            if item.differs:
                tags.update(item.notify)
        for removal in self.removals:
            if removal.found.kind:
                tags.update(removal.notify)
        return sorted(tags)

    def diff(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = []
        for item in self.items:
            found.extend(item_diff(item))
        for removal in self.removals:
            if removal.found.kind:
                found.append(diff_entry(removal.path, f"state: {removal.found.kind}\n", "state: absent\n"))
        return found

    # --- refusing before the first change ----------------------------------

    def refuse_impossible(self) -> None:
        """Raise when an owner, a group or a parent directory is missing."""
        missing = sorted(
            {f"user {item.owner}" for item in self.items if find_account(item.owner, False)[1]}
            | {f"group {item.group}" for item in self.items if find_account(item.group, True)[1]}
        )
        if missing:
            first = next(item.path for item in self.items if item.unknown_account)
            do = "do" if len(missing) > 1 else "does"
            raise MusterError(
                f"{' and '.join(missing)} {do} not exist on this host, so {first} cannot be given its owner"
            )
        planned = {parent for item in self.directories for parent in [item.path, *parents(item.path)]}
        for item in self.files:
            directory = os.path.dirname(item.path)
            if directory not in planned and not os.path.isdir(directory):
                raise MusterError(
                    f"{item.path} cannot be written: the directory {directory} does not exist"
                    " and is not among `directories`"
                )

    # --- changing ------------------------------------------------------------

    def apply(self) -> None:
        self.refuse_impossible()
        undo: list[tuple[str, bool]] = []
        try:
            for item in self.directories:
                if not item.found.kind:
                    make_directory(item, undo)
            self._stage()
            self._create_new_files(undo)
            for item in self.files:
                if item.temporary and item.validate:
                    validate(item, self.secrets)
        except BaseException:
            self._remove_temporaries()
            for path, directory in reversed(undo):
                with contextlib.suppress(OSError):
                    os.rmdir(path) if directory else os.unlink(path)
            raise
        try:
            self._commit()
        finally:
            self._remove_temporaries()

    def _stage(self) -> None:
        """Write every new content beside its destination, with its final owner and mode."""
        swept: set[str] = set()
        for item in self.files:
            if not item.content_differs:
                continue
            directory = os.path.dirname(item.path)
            if directory not in swept:
                swept.add(directory)
                remove_stale(directory)
            stage_file(item)

    def _create_new_files(self, undo: list[tuple[str, bool]]) -> None:
        """Put files in place that nothing validates and that replace nothing.

        A validator may need them: `haproxy -c` reads the certificates that the
        same task brings. They are removed again when it fails.
        """
        if not any(item.temporary and item.validate for item in self.files):
            return
        for item in self.files:
            if item.temporary and not item.validate and not item.found.kind:
                replace(item)
                undo.append((item.path, False))

    def _remove_temporaries(self) -> None:
        for item in self.files:
            if item.temporary:
                with contextlib.suppress(OSError):
                    os.unlink(item.temporary)

    def _commit(self) -> None:
        touched: set[str] = set()
        for item in self.items:
            if item.temporary:
                replace(item)
            elif item.found.kind and item.attributes_differ:
                set_attributes(item)
            if item.differs:
                touched.add(os.path.dirname(item.path))
        for removal in self.removals:
            if removal.found.kind:
                remove(removal.path)
                touched.add(os.path.dirname(removal.path))
        for directory in touched:
            with contextlib.suppress(OSError):
                sync(directory)


def parents(path: str) -> list[str]:
    """Every directory above C(path), nearest first."""
    found = []
    while path not in ("/", ""):
        path = os.path.dirname(path)
        found.append(path)
    return found


def make_directory(item: Item, undo: list[tuple[str, bool]]) -> None:
    try:
        for parent in reversed(parents(item.path)):
            if parent and not os.path.lexists(parent):
                os.mkdir(parent, 0o755)
                undo.append((parent, True))
        try:
            os.mkdir(item.path, 0o700)
        except FileExistsError:
            # The parent of an entry that came earlier: made a moment ago.
            if not any(path == item.path for path, _directory in undo):
                raise
        else:
            undo.append((item.path, True))
        if item.mode is None:
            item.mode = 0o755
        set_attributes(item)
    except OSError as error:
        raise MusterError(f"cannot make the directory {item.path}: {error.strerror}") from error


def stage_file(item: Item) -> None:
    found = item.found if item.found.kind == "file" else Found()
    mode = item.mode
    if mode is None:
        mode = found.mode if found.kind else 0o644
    uid = item.uid if item.uid is not None else found.uid
    gid = item.gid if item.gid is not None else found.gid
    directory, name = os.path.split(item.path)
    temporary = os.path.join(directory, f".{name[:200]}.muster-{secrets.token_hex(6)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o600), "wb") as stream:
            item.temporary = temporary
            stream.write(item.content)
            stream.flush()
            if (uid, gid) != (-1, -1):
                os.fchown(stream.fileno(), uid, gid)
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
    except OSError as error:
        raise MusterError(f"cannot write {item.path}: {error.strerror}") from error


def remove_stale(directory: str) -> None:
    """Remove the temporary files of a run that was killed long ago."""
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if not (entry.name.startswith(".") and ".muster-" in entry.name):
                continue
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime > STALE_SECONDS:
                    os.unlink(entry.path)


def replace(item: Item) -> None:
    try:
        os.replace(item.temporary, item.path)
    except OSError as error:
        raise MusterError(f"cannot replace {item.path}: {error.strerror}") from error
    item.temporary = ""


def set_attributes(item: Item) -> None:
    """Set owner and mode through a descriptor, so that no link can be slipped in."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_DIRECTORY if item.directory else 0)
    try:
        descriptor = os.open(item.path, flags)
        try:
            status = os.fstat(descriptor)
            uid = -1 if item.uid is None or item.uid == status.st_uid else item.uid
            gid = -1 if item.gid is None or item.gid == status.st_gid else item.gid
            if (uid, gid) != (-1, -1):
                os.fchown(descriptor, uid, gid)
            if item.mode is not None:
                os.fchmod(descriptor, item.mode)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise MusterError(f"cannot set owner and mode of {item.path}: {error.strerror}") from error


def remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise MusterError(f"cannot remove {path}: {error.strerror}") from error


def hide(text: str, contents: list[bytes]) -> str:
    """Blot out every word of the secret contents that a program may have repeated."""
    words: set[str] = set()
    for content in contents:
        words.update(re.findall(r"[^\s\"'=,;()\[\]{}]{6,}", content.decode(errors="replace")))
    for word in sorted(words, key=len, reverse=True):
        text = text.replace(word, "********")
    return text


def validate(item: Item, contents: list[bytes]) -> None:
    """Run the file's own checker on the temporary file; a MusterError tells what it said."""
    command = [part.replace("%s", item.temporary) for part in shlex.split(item.validate or "")]
    if shutil.which(command[0], path=program_environment()["PATH"]) is None:
        raise MusterError(f"{item.path} was not changed: its validator {command[0]} is not installed")
    try:
        code, output, errors = run_program(command, VALIDATE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise MusterError(
            f"{item.path} was not changed: `{item.validate}` gave no answer in {VALIDATE_SECONDS} s"
        ) from error
    except OSError as error:
        raise MusterError(
            f"{item.path} was not changed: its validator {command[0]} cannot run: {error.strerror}"
        ) from error
    if code == 0:
        return
    said = hide((output + errors).replace(item.temporary, item.path).strip(), contents)
    if item.secret:
        said = "its output is not shown, because the file is secret"
    raise MusterError(
        f"{item.path} is not valid and nothing was changed: `{item.validate}` ended with"
        f" {code}: {said or 'no output'}"
    )


# --- diffs -------------------------------------------------------------------


def diff_entry(path: str, before: str, after: str) -> dict[str, str]:
    return {"before": before, "after": after, "before_header": path, "after_header": path}


def shown(content: bytes) -> str:
    if len(content) > SHOWN_BYTES:
        return f"({len(content)} bytes, too long to show)\n"
    return content.decode(errors="replace")


def item_diff(item: Item) -> list[dict[str, str]]:
    entries = []
    if not item.directory and item.content_differs:
        before = shown(item.found.content) if item.found.kind == "file" else ""
        after = shown(item.content)
        if item.secret:
            before = HIDDEN_BEFORE if item.found.kind == "file" else ""
            after = HIDDEN_AFTER
        if before != after:
            entries.append(diff_entry(item.path, before, after))
    if item.differs:
        before, after = attributes_before(item), attributes_after(item)
        if before != after and not (entries and after == "state: file\n"):
            entries.append(diff_entry(f"{item.path} (attributes)", before, after))
    return entries


def attributes_before(item: Item) -> str:
    if not item.found.kind:
        return "state: absent\n"
    return attributes(item, item.found.kind, item.found.uid, item.found.gid, item.found.mode)


def attributes_after(item: Item) -> str:
    kind = "directory" if item.directory else "file"
    uid = item.found.uid if item.uid is None else item.uid
    gid = item.found.gid if item.gid is None else item.gid
    mode = item.found.mode if item.mode is None else item.mode
    return attributes(item, kind, uid, gid, mode, wanted=True)


def attributes(item: Item, kind: str, uid: int, gid: int, mode: int, wanted: bool = False) -> str:
    """Only what the entry asks for: the rest is left as it is."""
    lines = [f"state: {kind}"]
    if item.owner is not None:
        lines.append(f"owner: {item.owner if wanted else account_name(uid, False)}")
    if item.group is not None:
        lines.append(f"group: {item.group if wanted else account_name(gid, True)}")
    if item.mode is not None:
        lines.append(f"mode: {mode:04o}")
    return "\n".join(lines) + "\n"


def account_name(number: int, group: bool) -> str:
    with contextlib.suppress(KeyError):
        return grp.getgrgid(number).gr_name if group else pwd.getpwuid(number).pw_name
    return str(number)
