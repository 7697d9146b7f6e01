# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""artifact: the real main() and action, archives of each kind, and sources over HTTP."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from action_fake import Connection, run_action
from ansible.errors import AnsibleActionFail
from ansible_collections.muster.platform.plugins.action import artifact as action
from ansible_collections.muster.platform.plugins.modules import artifact

Run = Callable[..., dict[str, Any]]
CONTENT = {"tool-1.0/bin/tool": b"#!/bin/sh\n", "tool-1.0/LICENSE": b"GPL\n", "tool-1.0/other": b"no\n"}
FILES = [
    {"member": "*/bin/tool", "dest": "bin/tool"},
    {"member": "tool-1.0/LICENSE", "dest": "LICENSE", "mode": "0644"},
]


def tarball(kind: str = "gz") -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode=f"w:{kind}") as tar:
        for name, content in CONTENT.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("tool-1.0/bin/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return raw.getvalue()


def wheel() -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as packed:
        packed.writestr("tool-1.0/bin/", b"")
        for name, content in CONTENT.items():
            packed.writestr(name, content)
    return raw.getvalue()


class Mirror:
    """A server of what is in C(has); it answers after C(patience) seconds."""

    def __init__(self) -> None:
        self.has: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.hold = threading.Event()
        self.hold.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                outer.asked.append(self.path)
                content = outer.has.get(self.path)
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                outer.hold.wait(20)
                self.wfile.write(content or b"")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    made = Mirror()
    yield made
    made.hold.set()
    made.server.shutdown()
    made.server.server_close()


def arguments(tmp_path: Path, content: bytes, file: str = "tool.tar.gz", **more: Any) -> dict[str, Any]:
    return {
        "name": "tool",
        "version": "1.0",
        "sha256": hashlib.sha256(content).hexdigest(),
        "file": file,
        "files": FILES,
        "directory": str(tmp_path / "opt"),
        **more,
    }


def left(tmp_path: Path) -> list[str]:
    return sorted(
        str(path.relative_to(tmp_path / "opt")) for path in (tmp_path / "opt").rglob("*") if path.is_file()
    )


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tool.tar.gz", tarball()),
        ("tool.tgz", tarball()),
        ("tool.tar.xz", tarball("xz")),
        ("tool.tar.bz2", tarball("bz2")),
        ("tool-1.0-py3-none-any.whl", wheel()),
        ("tool.zip", wheel()),
    ],
)
def test_only_what_was_asked_for_is_taken_out(
    file: str, content: bytes, tmp_path: Path, mirror: Mirror, run_module: Run
) -> None:
    mirror.has = {f"/all/{file}": content}
    given = arguments(tmp_path, content, file, mirror=f"{mirror.address}/all/")
    assert run_module(artifact, given, check=True)["changed"] is True
    assert mirror.asked == []
    answer = run_module(artifact, given)
    home = tmp_path / "opt/tool-1.0"
    assert (answer["changed"], answer["path"]) == (True, str(home))
    assert answer["source"] == f"{mirror.address}/all/{file}"
    assert left(tmp_path) == ["tool-1.0/.artifact.json", "tool-1.0/LICENSE", "tool-1.0/bin/tool"]
    assert (home / "bin/tool").read_bytes() == CONTENT["tool-1.0/bin/tool"]
    assert [os.stat(home / name).st_mode & 0o777 for name in ("bin/tool", "LICENSE")] == [0o755, 0o644]
    again = run_module(artifact, given)
    assert (again["changed"], again["source"]) == (False, None)
    assert run_module(artifact, given, check=True)["changed"] is False
    assert mirror.asked == [f"/all/{file}"]


def test_a_file_that_is_no_archive(tmp_path: Path, mirror: Mirror, run_module: Run) -> None:
    mirror.has = {"/tool": b"\x7fELF"}
    files = [{"member": "tool", "dest": "tool"}]
    answer = run_module(
        artifact, arguments(tmp_path, b"\x7fELF", "tool", files=files, url=f"{mirror.address}/tool")
    )
    assert (Path(answer["path"]) / "tool").read_bytes() == b"\x7fELF"


def test_sources_are_asked_in_order(tmp_path: Path, mirror: Mirror, run_module: Run) -> None:
    content = tarball()
    mirror.has = {"/upstream/v1.tar.gz": content}
    given = arguments(
        tmp_path, content, mirror=f"{mirror.address}/none", url=f"{mirror.address}/upstream/v1.tar.gz"
    )
    answer = run_module(artifact, given)
    assert answer["source"] == f"{mirror.address}/upstream/v1.tar.gz"
    (reason,) = answer["passed_over"]
    assert reason.startswith(f"{mirror.address}/none/tool.tar.gz: HTTP Error 404")


def test_a_source_that_says_nothing_is_passed_over(tmp_path: Path, mirror: Mirror, run_module: Run) -> None:
    content = tarball()
    mirror.has = {"/tool.tar.gz": content}
    mirror.hold.clear()
    answer = run_module(artifact, arguments(tmp_path, content, mirror=mirror.address, timeout=0.5))
    assert (answer["changed"], answer["wanted"]) == (False, True)
    assert "timed out" in answer["passed_over"][0]
    assert left(tmp_path) == []


@pytest.mark.parametrize("where", ["mirror", "url", "archive"])
def test_a_wrong_checksum_ends_it_and_leaves_what_there_was(
    where: str, tmp_path: Path, mirror: Mirror, run_module: Run
) -> None:
    content = tarball()
    mirror.has = {"/tool.tar.gz": content, "/good.tar.gz": content}
    run_module(artifact, arguments(tmp_path, content, mirror=mirror.address))
    before = left(tmp_path)
    mirror.has["/tool.tar.gz"] = b"changed"
    (tmp_path / "changed").write_bytes(b"changed")
    bad = {
        "mirror": {"mirror": mirror.address, "url": f"{mirror.address}/good.tar.gz"},
        "url": {"url": f"{mirror.address}/tool.tar.gz"},
        "archive": {"archive": str(tmp_path / "changed")},
    }[where]
    mirror.asked.clear()
    answer = run_module(artifact, arguments(tmp_path, content, version="1.1", **bad))
    assert answer["failed"] is True
    assert "refused, nothing was installed" in answer["msg"]
    assert "/good.tar.gz" not in mirror.asked
    assert left(tmp_path) == before


def test_another_file_under_the_same_version_replaces_it(
    tmp_path: Path, mirror: Mirror, run_module: Run
) -> None:
    first, second = tarball(), tarball("xz")
    mirror.has = {"/tool.tar.gz": first, "/tool.tar.xz": second}
    run_module(artifact, arguments(tmp_path, first, mirror=mirror.address))
    given = arguments(tmp_path, second, "tool.tar.xz", mirror=mirror.address, files=FILES[:1])
    assert run_module(artifact, given)["changed"] is True
    assert left(tmp_path) == ["tool-1.0/.artifact.json", "tool-1.0/bin/tool"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda home: (home / "bin/tool").unlink(),
        lambda home: (home / "bin/tool").write_bytes(b"shorter"),
        lambda home: (home / "bin/tool").chmod(0o777),
        lambda home: ((home / "LICENSE").unlink(), (home / "LICENSE").symlink_to("/etc/hostname")),
        lambda home: (home / ".artifact.json").write_text("{"),
    ],
)
def test_what_was_spoilt_is_installed_again(
    spoil: Callable[[Path], Any], tmp_path: Path, mirror: Mirror, run_module: Run
) -> None:
    content = tarball()
    mirror.has = {"/tool.tar.gz": content}
    given = arguments(tmp_path, content, mirror=mirror.address)
    run_module(artifact, given)
    spoil(tmp_path / "opt/tool-1.0")
    assert run_module(artifact, given)["changed"] is True
    assert run_module(artifact, given)["changed"] is False


def test_a_mirror_may_lie_on_the_host_itself(tmp_path: Path, run_module: Run) -> None:
    content = tarball()
    (tmp_path / "mirror").mkdir()
    given = arguments(tmp_path, content, mirror=f"file://{tmp_path}/mirror")
    assert "tool.tar.gz" in run_module(artifact, given)["passed_over"][0]
    (tmp_path / "mirror/tool.tar.gz").write_bytes(content)
    assert run_module(artifact, given)["source"] == f"file://{tmp_path}/mirror/tool.tar.gz"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "../tool"}, "name is '../tool'"),
        ({"version": "1/0"}, "version is '1/0'"),
        ({"file": "a/b"}, "file is 'a/b'"),
        ({"sha256": "abc"}, "sha256 of tool is 'abc': it must be 64 hexadecimal digits"),
        ({"files": []}, "files of tool is empty"),
        ({"files": [{"member": "x", "dest": "/etc/passwd"}]}, "must be a relative path without .."),
        ({"files": [{"member": "x", "dest": "a/../../b"}]}, "must be a relative path without .."),
        ({"files": [{"member": "x", "dest": ".artifact.json"}]}, "must be a relative path without .."),
        ({"files": [{"member": "x", "dest": "x", "mode": "0777"}]}, "writable for its owner only"),
        ({"files": [{"member": "x", "dest": "x", "mode": "755"}]}, "four octal digits"),
        (
            {"mirror": "ftp://mirror"},
            "mirror is 'ftp://mirror': it must begin with http://, https:// or file:///",
        ),
        ({"url": "/srv/tool"}, "url is '/srv/tool'"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_made(
    wrong: dict[str, Any], message: str, tmp_path: Path, run_module: Run
) -> None:
    for check in (False, True):
        assert message in run_module(artifact, arguments(tmp_path, b"", **wrong), check=check)["msg"]
    assert not (tmp_path / "opt").exists()


@pytest.mark.parametrize(
    ("member", "found"),
    [
        ("*/absent", "none"),
        ("tool-1.0/*", "tool-1.0/LICENSE, tool-1.0/bin/tool, tool-1.0/other"),
        ("*/link", "none"),
    ],
)
def test_a_member_that_is_not_one_file(
    member: str, found: str, tmp_path: Path, mirror: Mirror, run_module: Run
) -> None:
    content = tarball()
    mirror.has = {"/tool.tar.gz": content}
    files = [{"member": member, "dest": "tool"}]
    answer = run_module(artifact, arguments(tmp_path, content, mirror=mirror.address, files=files))
    assert answer["msg"] == f"tool.tar.gz must hold one file that is {member}, found: {found}"
    assert left(tmp_path) == []


def test_an_archive_that_is_none(tmp_path: Path, mirror: Mirror, run_module: Run) -> None:
    mirror.has = {"/tool.tar.gz": b"text"}
    answer = run_module(artifact, arguments(tmp_path, b"text", mirror=mirror.address))
    assert answer["msg"].startswith("tool 1.0 cannot be installed: ")
    assert left(tmp_path) == []


# --- the controller --------------------------------------------------------------------------


@pytest.fixture
def play(tmp_path: Path, run_module: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    def execute(self: Any, module_args: Any = None, **_more: Any) -> dict[str, Any]:
        return run_module(artifact, dict(module_args or self._task.args))

    class Shell:
        tmpdir = str(tmp_path / "remote")

        def join_path(self, *parts: str) -> str:
            return "/".join(parts)

    (tmp_path / "remote").mkdir()
    monkeypatch.setattr(Connection, "_shell", Shell())
    monkeypatch.setattr(action.ActionModule, "_execute_module", execute)
    monkeypatch.setattr(action.ActionModule, "_fixup_perms2", lambda *_arguments: None)
    monkeypatch.setattr(
        action.ActionModule,
        "_transfer_file",
        lambda _self, source, target: Path(target).write_bytes(Path(source).read_bytes()),
    )
    return lambda given: run_action(action, given, {})


def test_the_controller_has_what_no_other_source_has(
    tmp_path: Path, mirror: Mirror, play: Callable[..., dict[str, Any]]
) -> None:
    content = tarball()
    (tmp_path / "tool.tar.gz").write_bytes(content)
    given = arguments(tmp_path, content, mirror=mirror.address, controller=str(tmp_path))
    answer = play(given)
    assert (answer["changed"], answer["source"]) == (True, "the controller")
    assert "404" in answer["passed_over"][0]
    assert play(given)["changed"] is False
    assert mirror.asked == ["/tool.tar.gz"]


def test_the_controller_s_file_is_checked_too(tmp_path: Path, play: Callable[..., dict[str, Any]]) -> None:
    (tmp_path / "tool.tar.gz").write_bytes(b"changed")
    answer = play(arguments(tmp_path, tarball(), controller=str(tmp_path)))
    assert "from the controller has the SHA-256" in answer["msg"]
    assert left(tmp_path) == []


def test_no_source_at_all_is_one_sentence(tmp_path: Path, play: Callable[..., dict[str, Any]]) -> None:
    for given, sentence in (
        (
            arguments(tmp_path, tarball(), controller=str(tmp_path / "none")),
            f"no source has tool 1.0: the controller: there is no {tmp_path}/none/tool.tar.gz",
        ),
        (arguments(tmp_path, tarball()), "no source has tool 1.0: the controller: no directory is named"),
        (arguments(tmp_path, b"", archive="/x"), "artifact does not take archive from a task"),
    ):
        with pytest.raises(AnsibleActionFail) as failure:
            play(given)
        assert failure.value.message == sentence
