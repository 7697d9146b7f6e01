# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Backup and restore of etcd with an etcdctl of our own, which may lie."""

from __future__ import annotations

import getpass
import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.muster.platform.plugins.module_utils import _etcd_restore
from ansible_collections.muster.platform.plugins.modules import etcd_restore

PROGRAM = Path(__file__).parents[2] / "roles" / "etcd" / "files" / "muster_etcd_backup.py"

# Answers like etcd 3.5, and as its environment file says.
ETCDCTL = r"""#!/usr/bin/env python3
import hashlib, json, os, pathlib, sys
me = pathlib.Path(__file__).parent
say = json.loads((me / "say.json").read_text())
words = [word for word in sys.argv[1:] if not word.startswith("-")]
options = dict(word[2:].split("=", 1) for word in sys.argv[1:] if word.startswith("--"))
with (me / "calls").open("a") as calls:
    calls.write(" ".join(sys.argv[1:3]) + "\n")
if words[:2] == say.get("fail"):
    sys.exit("some log line\nError: it broke")
if words[:2] == ["endpoint", "status"]:
    status = {"header": {"revision": 7}, "dbSize": say.get("size", 100), "version": "3.5.16"}
    print(json.dumps([{"Endpoint": "e", "Status": status}]))
elif words[:2] == ["snapshot", "save"]:
    content = b"x" * 1024
    digest = hashlib.sha256(content).digest()
    pathlib.Path(words[2]).write_bytes(content + say.get("checksum", "").encode() if "checksum" in say else content + digest)
elif words[:2] == ["snapshot", "status"]:
    if not pathlib.Path(words[2]).read_bytes().startswith(b"x"):
        sys.exit("Error: invalid database")
    print(json.dumps({"hash": 255, "revision": say.get("revision", 7), "totalKey": say.get("keys", 3), "totalSize": 1024}))
elif words[:2] == ["snapshot", "restore"]:
    wal = pathlib.Path(options["data-dir"]) / "member" / "wal"
    wal.mkdir(parents=True)
    (wal / "options").write_text(json.dumps(options))
"""

Say = Callable[..., None]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Put the made up etcdctl first on PATH; call the fixture to decide what it answers."""
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "etcdctl").write_text(ETCDCTL.replace("/usr/bin/env python3", sys.executable))
    (directory / "etcdctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")

    def decide(**answers: Any) -> None:
        (directory / "say.json").write_text(json.dumps(answers))

    decide()
    return decide


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("muster_etcd_backup", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Backup = Callable[..., tuple[int, str, str]]


@pytest.fixture
def backup(
    program: ModuleType,
    say: Say,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Backup:
    directory = tmp_path / "backups"
    directory.mkdir()
    # The machine may have a real etcdutl, which would be preferred.
    monkeypatch.setattr(program.shutil, "which", lambda _name: None)

    def run(keep: int = 3) -> tuple[int, str, str]:
        arguments = [
            f"--directory={directory}",
            f"--keep={keep}",
            "--endpoint=https://north-1:2379",
            "--member=north-1",
        ]
        monkeypatch.setattr(sys, "argv", ["muster-etcd-backup", *arguments])
        code = program.main()
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def snapshots(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "backups").iterdir() if path.name != ".lock")


def test_a_backup_is_proven_and_recorded(backup: Backup, tmp_path: Path) -> None:
    code, out, _err = backup()
    proof = json.loads(out)
    assert code == 0
    assert (proof["hash"], proof["revision"], proof["total_keys"], proof["bytes"]) == ("000000ff", 7, 3, 1056)
    assert proof["sha256"] == hashlib.sha256(b"x" * 1024).hexdigest()
    path = Path(proof["snapshot"])
    assert path.stat().st_mode & 0o777 == 0o600
    recorded = json.loads(path.with_name(path.name + ".json").read_text())
    assert recorded.items() <= proof.items()
    assert snapshots(tmp_path) == [path.name, path.name + ".json"]


def test_only_the_newest_are_kept(backup: Backup, tmp_path: Path) -> None:
    paths = [Path(json.loads(backup(keep=2)[1])["snapshot"]).name for _ in range(4)]
    (tmp_path / "backups" / "other.part").write_text("left by an interrupted run")
    assert len(snapshots(tmp_path)) == 5
    last = json.loads(backup(keep=2)[1])
    assert last["removed"] == [paths[2]]
    kept = [paths[3], Path(last["snapshot"]).name]
    assert snapshots(tmp_path) == sorted(kept + [name + ".json" for name in kept])


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (
            {"fail": ["endpoint", "health"]},
            "etcdctl endpoint health of https://north-1:2379: Error: it broke",
        ),
        ({"fail": ["snapshot", "save"]}, "etcdctl snapshot save of https://north-1:2379: Error: it broke"),
        ({"checksum": ""}, "is cut off or carries no checksum"),
        ({"checksum": "y" * 32}, "does not have the checksum that it carries"),
        ({"revision": 6}, "the snapshot ends at revision 6, the cluster was at 7 before it"),
        ({"keys": 0}, "the snapshot ends at revision 7"),
        ({"size": 10**18}, "bytes free, the snapshot needs 1000000000000000000: nothing was changed"),
    ],
)
def test_no_backup_counts_unproven(
    backup: Backup, say: Say, tmp_path: Path, answers: dict[str, Any], reason: str
) -> None:
    first = Path(json.loads(backup(keep=1)[1])["snapshot"]).name
    say(**answers)
    code, out, err = backup(keep=1)
    assert (code, out) == (1, "")
    assert err.startswith("no backup was taken: ")
    assert err.count("\n") == 1
    assert reason in err
    assert snapshots(tmp_path) == [first, first + ".json"], "the last good backup stays"


# --- restore ----------------------------------------------------------------------------

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setattr(_etcd_restore.shutil, "which", lambda _name: None)

    def call(state: str, check: bool = False, **more: Any) -> dict[str, Any]:
        arguments = {
            "state": state,
            "backup_directory": str(tmp_path / "backups"),
            "data_directory": str(tmp_path / "data"),
            "user": getpass.getuser(),
            "name": "north-1",
            "members": {
                name: {"client_url": f"https://{name}:2379", "peer_url": f"https://{name}:2380"}
                for name in ("north-1", "north-2")
            },
            **more,
            "_ansible_check_mode": check,
        }
        with patch_module_args(arguments), pytest.raises(SystemExit):
            etcd_restore.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return call


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    state = {"ActiveState": "inactive", "calls": ""}
    monkeypatch.setattr(etcd_restore, "service_state", lambda: state)

    def systemctl(*arguments: str) -> str:
        state["calls"] += " ".join(arguments) + ";"
        return ""

    monkeypatch.setattr(etcd_restore, "systemctl", systemctl)
    return state


def test_the_newest_proven_snapshot_is_found(run: Run, backup: Backup, tmp_path: Path) -> None:
    answer = run("checked")
    assert answer["msg"] == f"there is no backup in {tmp_path / 'backups'} on this host: nothing was changed"
    newest = [json.loads(backup()[1])["snapshot"] for _ in range(2)][-1]
    (tmp_path / "backups" / "29991231T000000.000000Z.snapshot").write_text("never proven")
    answer = run("checked")
    assert (answer["snapshot"], answer["hash"], answer["revision"]) == (newest, "000000ff", 7)
    assert answer["changed"] is False
    assert answer["token"] != run("checked")["token"]


def test_a_snapshot_that_is_missing_or_not_one_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert run("checked", snapshot=str(path))["msg"] == (
        f"the snapshot {path} does not exist on this host: nothing was changed"
    )
    path.write_text("no database")
    for state in ("checked", "isolated", "prepared"):
        answer = run(state, snapshot=str(path), directory=str(tmp_path / "copy"), token="new")
        assert answer["msg"] == (
            f"the snapshot {path} cannot be read, nothing was changed:"
            f" etcdctl snapshot status {path}: Error: invalid database"
        )
    assert not (tmp_path / "copy").exists()
    assert not (tmp_path / "data.restored").exists()


def test_an_isolated_restore_never_overwrites(run: Run, backup: Backup, tmp_path: Path) -> None:
    backup()
    used = tmp_path / "used"
    used.mkdir()
    (used / "file").write_text("")
    assert run("isolated", directory=str(used))["msg"] == f"{used} is not empty: nothing was changed"
    assert run("isolated", directory=str(tmp_path / "copy"), check=True)["changed"] is True
    assert not (tmp_path / "copy").exists()


def isolated(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: tuple[int, int, list[str]]
) -> dict[str, Any]:
    monkeypatch.setattr(etcd_restore.Isolated, "read_back", lambda _self: served)
    return run("isolated", directory=str(tmp_path / "copy"))


def test_an_isolated_restore_is_proven_and_recorded(
    run: Run, backup: Backup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup()
    proof = isolated(run, tmp_path, monkeypatch, (7, 2, []))["proof"]
    assert (proof["revision"], proof["live_keys"], proof["directory"]) == (7, 2, str(tmp_path / "copy"))
    assert json.loads((tmp_path / "backups" / "last_restore_proof.json").read_text()) == proof
    options = json.loads((tmp_path / "copy" / "member" / "wal" / "options").read_text())
    assert options["initial-cluster"].startswith("restored=https://127.0.0.1:")


@pytest.mark.parametrize(
    ("served", "reason"),
    [
        ((6, 2, []), "the restored copy is at revision 6, the snapshot at 7"),
        ((7, 2, ["/a", "/b"]), "the restored copy lacks the key /a, /b"),
    ],
)
def test_a_copy_that_lacks_something_is_no_proof(
    run: Run,
    backup: Backup,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    served: tuple[int, int, list[str]],
    reason: str,
) -> None:
    backup()
    assert isolated(run, tmp_path, monkeypatch, served)["msg"] == reason
    assert not (tmp_path / "backups" / "last_restore_proof.json").exists()


def test_a_restored_etcd_that_ends_by_itself_is_told(
    run: Run, backup: Backup, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup()
    monkeypatch.setattr(etcd_restore.Isolated, "command", lambda _self: ["false"])
    monkeypatch.setattr(_etcd_restore, "EtcdClient", lambda *_arguments, **_named: NeverHealthy())
    answer = run("isolated", directory=str(tmp_path / "copy"))
    assert answer["msg"] == f"the restored etcd ended by itself; its log is {tmp_path / 'copy.log'}"


class NeverHealthy:
    def health(self, url: str) -> str:
        return f"etcd at {url}: no"


def test_data_is_prepared_beside_and_switched_in(
    run: Run, backup: Backup, tmp_path: Path, systemd: dict[str, str]
) -> None:
    backup()
    data = tmp_path / "data"
    data.mkdir()
    (data / "old").write_text("")
    assert run("prepared")["msg"] == "token is needed, a new one: nothing was changed"
    assert run("switched")["msg"] == f"nothing was prepared in {data}.restored: nothing was changed"
    assert run("prepared", token="new", check=True)["changed"] is True
    assert not Path(f"{data}.restored").exists()
    run("prepared", token="new")
    options = json.loads(Path(f"{data}.restored/member/wal/options").read_text())
    assert options["initial-cluster"] == "north-1=https://north-1:2380,north-2=https://north-2:2380"
    assert (options["name"], options["initial-cluster-token"]) == ("north-1", "new")
    assert (data / "old").exists()

    systemd["ActiveState"] = "active"
    assert run("switched")["msg"] == "etcd must be stopped before its data is replaced: nothing was changed"
    systemd["ActiveState"] = "inactive"
    moved = Path(run("switched")["moved_data"])
    assert (moved / "old").exists()
    assert (data / "member" / "wal").is_dir()
    assert systemd["calls"].endswith("--no-block start etcd.service;")


def test_half_a_restore_is_removed(run: Run, backup: Backup, say: Say, tmp_path: Path) -> None:
    backup()
    say(fail=["snapshot", "restore"])
    answer = run("prepared", token="new")
    assert answer["msg"].endswith("Error: it broke")
    assert not (tmp_path / "data.restored").exists()
