"""muster.platform.config: the module's real main() on real files, as whoever runs the tests."""

from __future__ import annotations

import grp
import json
import os
import pwd
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.muster.platform.plugins.module_utils import _config
from ansible_collections.muster.platform.plugins.modules import config

ME = pwd.getpwuid(os.geteuid()).pw_name
MY_GROUP = grp.getgrgid(os.getegid()).gr_name
NOBODY = "no-such-user"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away, which takes root")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run main() and return its result; C(fails) tells that an error is expected."""
    monkeypatch.setattr(config.QuietModule, "log", lambda *_args, **_more: None)

    def call(fails: bool = False, check: bool = False, diff: bool = True, **arguments: Any) -> dict[str, Any]:
        capsys.readouterr()
        flags = {"_ansible_check_mode": check, "_ansible_diff": diff}
        with patch_module_args({**arguments, **flags}), pytest.raises(SystemExit):
            config.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert bool(result.get("failed")) is fails, result
        assert result.get("invocation", {}) == {}, "the arguments hold secrets"
        return result

    return call


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Every path below, hidden ones too, with its mode and content."""
    return {
        str(path.relative_to(directory)): (mode(path), path.read_bytes() if path.is_file() else b"")
        for path in sorted(directory.rglob("*"))
    }


# --- writing -----------------------------------------------------------------


def test_writes_directories_and_files_once(run: Any, tmp_path: Path) -> None:
    arguments = {
        "directories": [{"path": str(tmp_path / "etc/x"), "owner": ME, "group": MY_GROUP, "mode": "0750"}],
        "files": [
            {
                "dest": str(tmp_path / "etc/x/a"),
                "content": "é\n",
                "owner": ME,
                "mode": "0640",
                "notify": ["b", "a"],
            },
            {"dest": str(tmp_path / "etc/x/b"), "content": "", "notify": ["a"]},
        ],
    }
    first = run(**arguments)
    assert first["changed"] is True
    assert first["changed_paths"] == [
        str(tmp_path / "etc/x"),
        str(tmp_path / "etc/x/a"),
        str(tmp_path / "etc/x/b"),
    ]
    assert first["notify"] == ["a", "b"]
    assert (tmp_path / "etc/x/a").read_text() == "é\n"
    assert [mode(tmp_path / name) for name in ("etc", "etc/x", "etc/x/a", "etc/x/b")] == [
        0o755,
        0o750,
        0o640,
        0o644,
    ]
    second = run(**arguments)
    assert (second["changed"], second["changed_paths"], second["notify"], second["diff"]) == (
        False,
        [],
        [],
        [],
    )


def test_only_the_files_that_change_notify(run: Any, tmp_path: Path) -> None:
    (tmp_path / "same").write_text("same")
    (tmp_path / "other").write_text("old")
    result = run(
        files=[
            {"dest": str(tmp_path / "same"), "content": "same", "notify": ["same"]},
            {"dest": str(tmp_path / "other"), "content": "new", "notify": ["other"]},
        ]
    )
    assert result["notify"] == ["other"]
    assert result["changed_paths"] == [str(tmp_path / "other")]


def test_a_mode_alone_is_a_change_and_keeps_the_file(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("x")
    path.chmod(0o600)
    inode = path.stat().st_ino
    result = run(files=[{"dest": str(path), "content": "x", "mode": "0644", "notify": ["n"]}])
    assert result["changed_paths"] == [str(path)]
    assert result["notify"] == ["n"]
    assert (mode(path), path.stat().st_ino) == (0o644, inode)
    assert result["diff"] == [
        {
            "before_header": f"{path} (attributes)",
            "after_header": f"{path} (attributes)",
            "before": "state: file\nmode: 0600\n",
            "after": "state: file\nmode: 0644\n",
        }
    ]


def test_mode_and_owner_are_left_alone_when_not_given(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("x")
    path.chmod(0o604)
    run(files=[{"dest": str(path), "content": "y"}])
    assert (path.read_text(), mode(path)) == ("y", 0o604)


@as_root
def test_owners_by_name_and_by_number(run: Any, tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    result = run(
        directories=[{"path": str(tmp_path / "d"), "owner": "nobody", "group": str(nobody.pw_gid)}],
        files=[{"dest": str(tmp_path / "d/f"), "content": "x", "owner": str(nobody.pw_uid), "group": "root"}],
    )
    assert result["changed"] is True
    assert ((tmp_path / "d").stat().st_uid, (tmp_path / "d").stat().st_gid) == (nobody.pw_uid, nobody.pw_gid)
    assert ((tmp_path / "d/f").stat().st_uid, (tmp_path / "d/f").stat().st_gid) == (nobody.pw_uid, 0)
    result = run(files=[{"dest": str(tmp_path / "d/f"), "content": "x", "owner": "root"}])
    assert "owner: nobody" in result["diff"][0]["before"]
    assert "owner: root" in result["diff"][0]["after"]
    assert (tmp_path / "d/f").stat().st_uid == 0


def test_absent_removes_files_and_links(run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("/etc/hostname")
    paths = [str(tmp_path / name) for name in ("file", "link", "never")]
    result = run(absent=[paths[0], {"path": paths[1], "notify": ["gone"]}, paths[2]])
    assert result["changed_paths"] == paths[:2]
    assert result["notify"] == ["gone"]
    assert list(tmp_path.iterdir()) == []
    assert run(absent=paths)["changed"] is False


def test_absent_refuses_a_directory(run: Any, tmp_path: Path) -> None:
    result = run(fails=True, absent=[str(tmp_path)])
    assert result["msg"] == f"{tmp_path} is to be absent, but it is a directory; only files are removed"


def test_readers_see_the_old_or_the_new_file_whole(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with path.open() as reader:
        run(files=[{"dest": str(path), "content": "new and longer"}])
        assert reader.read() == "old"
    assert path.read_text() == "new and longer"


def test_temporary_files_of_a_killed_run_go_away(run: Any, tmp_path: Path) -> None:
    stale, fresh = tmp_path / ".x.muster-0123456789ab", tmp_path / ".y.muster-0123456789ab"
    for path in (stale, fresh):
        path.write_text("left behind")
    long_ago = time.time() - 2 * _config.STALE_SECONDS
    os.utime(stale, (long_ago, long_ago))
    run(files=[{"dest": str(tmp_path / "a"), "content": "x"}])
    assert sorted(path.name for path in tmp_path.iterdir()) == [fresh.name, "a"]


# --- links -------------------------------------------------------------------


def test_a_link_in_a_files_place_is_replaced_and_its_target_left(run: Any, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("x")
    (tmp_path / "link").symlink_to(target)
    result = run(files=[{"dest": str(tmp_path / "link"), "content": "x"}])
    assert result["changed"] is True
    assert not (tmp_path / "link").is_symlink()
    run(files=[{"dest": str(tmp_path / "link"), "content": "y"}])
    assert target.read_text() == "x"


def test_a_directory_may_be_our_own_link(run: Any, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    result = run(directories=[{"path": str(tmp_path / "link"), "mode": "0750"}])
    assert result["changed_paths"] == [str(tmp_path / "real")]
    assert (tmp_path / "link").is_symlink()
    assert mode(tmp_path / "real") == 0o750


@as_root
@pytest.mark.parametrize("below", ["", "/x"])
def test_a_link_of_someone_else_is_not_followed(run: Any, tmp_path: Path, below: str) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    os.lchown(tmp_path / "link", 65534, 65534)
    result = run(fails=True, directories=[{"path": f"{tmp_path}/link{below}"}])
    assert "a symbolic link that does not belong to root, so it is not followed" in result["msg"]
    if below:
        run(fails=True, files=[{"dest": f"{tmp_path}/link/x", "content": ""}])
        run(files=[{"dest": f"{tmp_path}/link/x", "content": "", "owner": "nobody"}])


def test_a_link_that_leads_to_no_directory(run: Any, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    result = run(fails=True, directories=[{"path": str(tmp_path / "link")}])
    assert result["msg"] == f"{tmp_path}/link is a symbolic link and does not lead to a directory"


def test_something_else_in_the_place(run: Any, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_text("")
    assert run(fails=True, files=[{"dest": str(tmp_path / "d"), "content": ""}])["msg"] == (
        f"{tmp_path}/d must be a file, but a directory is there"
    )
    assert run(fails=True, directories=[{"path": str(tmp_path / "f")}])["msg"] == (
        f"{tmp_path}/f must be a directory, but something else is there"
    )


# --- refusing before the first change ----------------------------------------


def test_missing_owners_are_one_error_before_any_change(run: Any, tmp_path: Path) -> None:
    arguments = {
        "directories": [{"path": str(tmp_path / "d")}],
        "files": [
            {"dest": str(tmp_path / "d/a"), "content": "x"},
            {"dest": str(tmp_path / "d/b"), "content": "x", "owner": NOBODY, "group": "no-such-group"},
        ],
    }
    result = run(fails=True, **arguments)
    assert result["msg"] == (
        f"group no-such-group and user {NOBODY} do not exist on this host,"
        f" so {tmp_path}/d/b cannot be given its owner"
    )
    assert list(tmp_path.iterdir()) == []
    planned = run(check=True, **arguments)
    assert planned["changed_paths"] == [str(tmp_path / name) for name in ("d", "d/a", "d/b")]


def test_a_missing_owner_of_a_file_that_is_there_is_a_change_in_check_mode(run: Any, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    arguments = {"files": [{"dest": str(tmp_path / "a"), "content": "x", "owner": NOBODY}]}
    assert run(check=True, **arguments)["changed_paths"] == [str(tmp_path / "a")]


def test_a_missing_directory_is_an_error_before_any_change(run: Any, tmp_path: Path) -> None:
    arguments = {
        "files": [
            {"dest": str(tmp_path / "a"), "content": "x"},
            {"dest": str(tmp_path / "no/b"), "content": "x"},
        ]
    }
    result = run(fails=True, **arguments)
    assert result["msg"] == (
        f"{tmp_path}/no/b cannot be written: the directory {tmp_path}/no does not exist"
        " and is not among `directories`"
    )
    assert list(tmp_path.iterdir()) == []
    assert run(check=True, **arguments)["changed"] is True


def test_a_full_disk_leaves_everything_as_it_was(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("old")
    before = snapshot(tmp_path)
    real, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(_config.os, "fsync", fsync)
    result = run(
        fails=True,
        directories=[{"path": str(tmp_path / "new/deep")}],
        files=[
            {"dest": str(tmp_path / "a"), "content": "new"},
            {"dest": str(tmp_path / "new/deep/b"), "content": "x"},
        ],
    )
    assert result["msg"] == f"cannot write {tmp_path}/new/deep/b: No space left on device"
    assert snapshot(tmp_path) == before


# --- validators ----------------------------------------------------------------


def test_a_validator_sees_the_new_content_with_its_mode(run: Any, tmp_path: Path) -> None:
    arguments = {
        "files": [
            {"dest": str(tmp_path / "a"), "content": "good\n", "mode": "0600", "validate": "grep -qx good %s"}
        ]
    }
    assert run(**arguments)["changed"] is True
    assert run(**arguments)["changed"] is False


def test_one_failing_validator_changes_nothing(run: Any, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    before = snapshot(tmp_path)
    result = run(
        fails=True,
        directories=[{"path": str(tmp_path / "d/e")}],
        files=[
            {"dest": str(tmp_path / "d/e/new"), "content": "x"},
            {"dest": str(tmp_path / "old"), "content": "new"},
            {"dest": str(tmp_path / "good"), "content": "x", "validate": "true %s"},
            {"dest": str(tmp_path / "bad"), "content": "x", "validate": "ls --no-such %s"},
        ],
        absent=[str(tmp_path / "old2")],
    )
    assert result["msg"].startswith(
        f"{tmp_path}/bad is not valid and nothing was changed: `ls --no-such %s` ended"
    )
    assert "unrecognized option" in result["msg"]
    assert snapshot(tmp_path) == before


def test_a_validator_finds_the_new_files_that_come_with_it(run: Any, tmp_path: Path) -> None:
    """As haproxy -c reads the certificate that the same task brings."""
    arguments = {
        "files": [
            {"dest": str(tmp_path / "main"), "content": "x", "validate": f"cat {tmp_path}/certificate %s"},
            {"dest": str(tmp_path / "certificate"), "content": "y"},
        ]
    }
    assert run(**arguments)["changed"] is True
    assert run(**arguments)["changed"] is False


def test_a_validator_that_is_not_there_or_hangs(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"dest": str(tmp_path / "a"), "content": "x"}
    result = run(fails=True, files=[{**entry, "validate": "no-such-tool -c %s"}])
    assert result["msg"] == f"{tmp_path}/a was not changed: its validator no-such-tool is not installed"
    monkeypatch.setattr(_config, "VALIDATE_SECONDS", 0.1)
    result = run(fails=True, files=[{**entry, "validate": "tail -f %s"}])
    assert result["msg"] == f"{tmp_path}/a was not changed: `tail -f %s` gave no answer in 0.1 s"
    assert list(tmp_path.iterdir()) == []


def test_a_validators_words_show_no_secret(run: Any, tmp_path: Path) -> None:
    secret = {"dest": str(tmp_path / "secret"), "content": "password=hunter2hunter2", "secret": True}
    result = run(fails=True, files=[{**secret, "validate": "grep -H nothing-like-it %s"}])
    assert "its output is not shown, because the file is secret" in result["msg"]
    other = {"dest": str(tmp_path / "b"), "content": "x", "validate": f"ls {tmp_path}/hunter2hunter2 %s"}
    result = run(fails=True, files=[secret, other])
    assert "hunter2hunter2" not in json.dumps(result).replace(f"`{other['validate']}`", "")


# --- check mode and diff -------------------------------------------------------


def test_check_mode_tells_the_same_and_changes_nothing(run: Any, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old\n")
    (tmp_path / "gone").write_text("")
    before = snapshot(tmp_path)
    arguments: dict[str, Any] = {
        "directories": [{"path": str(tmp_path / "d"), "mode": "0700"}],
        "files": [
            {"dest": str(tmp_path / "a"), "content": "new\n", "notify": ["n"], "validate": "no-such-tool %s"},
            {"dest": str(tmp_path / "d/b"), "content": "x"},
        ],
        "absent": [str(tmp_path / "gone")],
    }
    planned = run(check=True, **arguments)
    assert snapshot(tmp_path) == before
    arguments["files"][0]["validate"] = "true %s"
    done = run(**arguments)
    for key in ("changed", "changed_paths", "notify", "diff"):
        assert planned[key] == done[key]
    assert {"before": "old\n", "after": "new\n"}.items() <= done["diff"][1].items()


def test_no_diff_without_diff_mode(run: Any, tmp_path: Path) -> None:
    assert run(diff=False, files=[{"dest": str(tmp_path / "a"), "content": "x"}])["diff"] == []


def test_a_secret_is_in_no_diff_and_0600(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old-secret")
    path.chmod(0o644)
    result = run(files=[{"dest": str(path), "content": "new-secret", "secret": True}])
    assert result["diff"][0]["before"] == _config.HIDDEN_BEFORE
    assert result["diff"][0]["after"] == _config.HIDDEN_AFTER
    assert "-secret" not in json.dumps(result)
    assert mode(path) == 0o600


def test_a_diff_of_a_huge_or_binary_file_stays_readable(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"\xff\xfe")
    huge = "x" * (_config.SHOWN_BYTES + 1)
    result = run(files=[{"dest": str(path), "content": huge}])
    assert result["diff"][0]["before"] == "��"
    assert result["diff"][0]["after"] == f"({len(huge)} bytes, too long to show)\n"


def test_the_journal_gets_paths_and_no_contents(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(config.QuietModule, "log", lambda _self, text, **_more: logged.append(text))
    files = [{"dest": str(tmp_path / "a"), "content": "do-not-log-this"}]
    with patch_module_args({"files": files}), pytest.raises(SystemExit):
        config.main()
    assert logged == [f"Invoked for 1 files: {tmp_path}/a"]
    assert "do-not-log-this" not in capsys.readouterr().out
