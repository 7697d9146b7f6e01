# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The chain of drills: written by muster.platform.drill_evidence, checked by the stock commands and by
muster.platform.evidence_verify. Keys, signatures and hashes are real."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils import _chain
from ansible_collections.muster.platform.plugins.modules import drill_evidence, evidence_verify
from drills import Drill, arguments, region_loss, restore

Run = Callable[..., dict[str, Any]]
NAMES = ["1-switchover", "2-region_loss", "3-restore", "4-switchover"]


def make_key(path: Path, *options: str) -> Path:
    subprocess.run(["ssh-keygen", "-q", *(options or ("-t", "ed25519", "-N", "")), "-f", path], check=True)
    return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: make_key(folder / name) for name in ("first", "second")}


@pytest.fixture
def drill(run_module: Run, keys: dict[str, Path]) -> Run:
    """Record a drill, signed unless said otherwise."""

    def record(directory: Path, name: str, **changes: Any) -> dict[str, Any]:
        changes = {"drill_id": name, "signing_key": str(keys["first"])} | changes
        if "region_loss" in name:
            return run_module(drill_evidence, region_loss(directory, **changes))
        if "restore" in name:
            return run_module(drill_evidence, restore(directory, **changes))
        return run_module(drill_evidence, arguments(directory, Drill.planned(), **changes))

    return record


@pytest.fixture
def chain(tmp_path: Path, drill: Run) -> Path:
    """Four drills, each after the other."""
    directory = tmp_path / "drills"
    for name in NAMES:
        assert drill(directory, name)["verdict"] == "PASS"
    return directory


@pytest.fixture
def verify(run_module: Run) -> Run:
    def check(directory: Path, **options: Any) -> dict[str, Any]:
        return run_module(evidence_verify, {"directory": str(directory)} | options)

    return check


def sha256sum(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sha256sum", "-c", "--strict", "manifest.sha256"], cwd=folder, capture_output=True, text=True
    )


def ssh_verify(folder: Path, signers: Path) -> subprocess.CompletedProcess[bytes]:
    command = ["ssh-keygen", "-Y", "verify", "-f", signers, "-I", "muster", "-n", "muster-evidence"]
    signed = (folder / "manifest.sha256").read_bytes()
    return subprocess.run([*command, "-s", folder / "manifest.sha256.sig"], input=signed, capture_output=True)


def sign(folder: Path, key: Path) -> None:
    text = (folder / "manifest.sha256").read_text()
    (folder / "manifest.sha256.sig").write_text(_chain.sign(_chain.Signer(str(key), "", "muster"), text))


def seal(folder: Path) -> None:
    """Make the manifest fit the files again, as somebody who wants to hide a change would."""
    manifest = _chain.read_manifest(folder)
    manifest.files = {name: _chain.file_hash(folder / name) for name in manifest.files}
    (folder / "manifest.sha256").write_text(manifest.text())


# --- what is written ---------------------------------------------------------------------


def test_stock_commands_verify_each_folder(chain: Path) -> None:
    for name in NAMES:
        done = sha256sum(chain / name)
        assert done.returncode == 0, done.stdout + done.stderr
        assert ssh_verify(chain / name, chain / "allowed_signers").returncode == 0
    listed = (chain / NAMES[1] / "manifest.sha256").read_text().splitlines()
    names = [line.split("  ")[1] for line in listed]
    assert names == [
        "evidence.json",
        "ledger.csv",
        "lost-xids.txt",
        "metrics.prom",
        "report.html",
        "../1-switchover/manifest.sha256",
    ]
    assert (chain / "latest").readlink() == Path(NAMES[-1])


def test_the_manifest_proves_the_one_before(chain: Path) -> None:
    (chain / NAMES[0] / "manifest.sha256").write_text("")
    done = sha256sum(chain / NAMES[1])
    assert done.returncode == 1
    assert "../1-switchover/manifest.sha256: FAILED" in done.stdout


def test_without_a_key_the_manifest_is_written_and_not_signed(tmp_path: Path, drill: Run) -> None:
    result = drill(tmp_path / "drills", NAMES[0], signing_key=None)
    assert (result["verdict"], result["evidence"]["signature"]) == ("PASS", None)
    assert result["evidence"]["unsigned_reason"] == "no signing_key was given"
    assert sha256sum(Path(result["path"])).returncode == 0
    assert not (Path(result["path"]) / "manifest.sha256.sig").exists()
    assert not (tmp_path / "drills/allowed_signers").exists()


def test_the_evidence_names_the_key(chain: Path, keys: dict[str, Path]) -> None:
    signature = json.loads((chain / NAMES[0] / "evidence.json").read_text())["signature"]
    told = subprocess.run(["ssh-keygen", "-l", "-f", keys["first"]], capture_output=True, text=True)
    assert signature == {"signer": "muster", "key": told.stdout.split()[1], "namespace": "muster-evidence"}


def test_a_new_key_is_added_and_the_old_one_stays(
    chain: Path, drill: Run, verify: Run, keys: dict[str, Path]
) -> None:
    drill(chain, "5-switchover", signing_key=str(keys["second"]))
    drill(chain, "6-switchover", signing_key=str(keys["first"]))
    lines = (chain / "allowed_signers").read_text().splitlines()
    publics = [" ".join(keys[name].with_suffix(".pub").read_text().split()[:2]) for name in keys]
    assert lines == [f'muster namespaces="muster-evidence" {public}' for public in publics]
    assert verify(chain)["problems"] == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "signing_key: there is no file"),
        (lambda path: path.write_text("no key"), "cannot be used"),
        (lambda path: make_key(path, "-t", "ed25519", "-N", "secret"), "cannot be used"),
        (lambda path: make_key(path, "-t", "ecdsa", "-N", ""), "must be an ed25519 key, not ecdsa-"),
        (lambda path: make_key(path).chmod(0o644), "cannot be used"),
    ],
)
def test_a_key_that_cannot_sign_is_told_before_anything_is_written(
    make: Callable[[Path], Any], message: str, tmp_path: Path, drill: Run
) -> None:
    make(tmp_path / "key")
    result = drill(tmp_path / "drills", NAMES[0], signing_key=str(tmp_path / "key"))
    assert result["failed"]
    assert result["msg"].startswith("signing_key: ")
    assert message in result["msg"]
    assert not (tmp_path / "drills").exists()


def test_a_signer_that_is_no_name_is_refused(tmp_path: Path, drill: Run) -> None:
    assert "signer may hold" in drill(tmp_path / "drills", NAMES[0], signer="a *")["msg"]
    assert not (tmp_path / "drills").exists()


# --- attachments ---------------------------------------------------------------------------


def test_attachments_are_copied_and_no_more_readable(tmp_path: Path, drill: Run) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_bytes(b"\x00secret\n")
    rows.chmod(0o600)
    result = drill(tmp_path / "drills", NAMES[0], attachments=[{"name": "lost.csv", "path": str(rows)}])
    copy = Path(result["path"]) / "lost.csv"
    assert copy.read_bytes() == rows.read_bytes()
    assert copy.stat().st_mode & 0o777 == 0o600
    assert result["evidence"]["attachments"] == ["lost.csv"]
    assert "lost.csv: OK" in sha256sum(copy.parent).stdout


def test_what_lies_in_the_folder_already_is_taken_along(tmp_path: Path, drill: Run, verify: Run) -> None:
    folder = tmp_path / "drills" / NAMES[0]
    folder.mkdir(parents=True)
    (folder / "exported.csv").write_text("1\n")
    assert drill(tmp_path / "drills", NAMES[0])["evidence"]["attachments"] == ["exported.csv"]
    assert (folder / "exported.csv").read_text() == "1\n"
    assert verify(tmp_path / "drills")["problems"] == []


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("../x", "here", "attachments: a name may hold"),
        (".x", "here", "attachments: a name may hold"),
        ("evidence.json", "here", "attachments: evidence.json is a file that Muster writes itself"),
        ("manifest.sha256.sig", "here", "is a file that Muster writes itself"),
        ("x", "nowhere", "nowhere is not a file that can be read"),
        ("x", ".", "is not a file that can be read"),
    ],
)
def test_an_attachment_that_cannot_be_is_refused(
    name: str, path: str, message: str, tmp_path: Path, drill: Run
) -> None:
    (tmp_path / "here").write_text("x")
    given = [{"name": name, "path": str(tmp_path / path)}]
    assert message in drill(tmp_path / "drills", NAMES[0], attachments=given)["msg"]
    assert not (tmp_path / "drills").exists()


def test_one_name_for_two_attachments_is_refused(tmp_path: Path, drill: Run) -> None:
    (tmp_path / "x").write_text("x")
    given = [{"name": "x", "path": str(tmp_path / "x")}] * 2
    assert "x is given twice" in drill(tmp_path / "drills", NAMES[0], attachments=given)["msg"]


# --- crashes, and two at a time ------------------------------------------------------------


class Crash(BaseException):
    """What no code expects."""


@pytest.mark.parametrize("step", ["fill", "take_place", "sign", "keep_signer"])
def test_a_crash_leaves_no_drill_and_the_next_one_goes_on(
    step: str, chain: Path, drill: Run, verify: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_arguments: Any) -> None:
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(_chain, step, crash)
        # A machine that stops tidies nothing up either.
        patched.setattr(_chain.shutil, "rmtree", lambda *_a, **_k: None)
        with pytest.raises(Crash):
            drill(chain, "5-switchover")
    assert not (chain / "5-switchover").exists()
    assert list(chain.glob(".new-*"))
    assert verify(chain)["problems"] == []
    assert drill(chain, "6-switchover")["verdict"] == "PASS"
    assert not list(chain.glob(".new-*"))
    checked = verify(chain)
    assert (checked["head"], checked["problems"]) == ("6-switchover", [])


def test_a_crash_before_latest_moved_is_made_good_by_the_next_drill(
    chain: Path, drill: Run, verify: Run
) -> None:
    (chain / "latest").unlink()
    (chain / "latest").symlink_to(NAMES[-2])
    assert verify(chain)["problems"] == ["4-switchover: it follows 3-restore, but latest names 3-restore"]
    drill(chain, "5-switchover")
    assert _chain.previous_of(chain / "5-switchover") == NAMES[-1]
    assert verify(chain)["problems"] == []


def test_a_half_written_folder_is_no_part_of_the_chain(chain: Path, drill: Run, verify: Run) -> None:
    (chain / "0-half").mkdir()
    (chain / "0-half/report.html").write_text("half")
    drill(chain, "5-switchover")
    checked = verify(chain)
    assert checked["problems"] == []
    assert checked["outside"] == ["0-half"]
    assert "0-half" in checked["summary"][-1]


def test_drills_of_the_time_before_manifests_do_not_hinder(tmp_path: Path, drill: Run, verify: Run) -> None:
    old = tmp_path / "drills/0-old"
    old.mkdir(parents=True)
    (old / "evidence.json").write_text('{\n  "schema_version": 1,\n  "drill_id": "0-old"\n}\n')
    (tmp_path / "drills/latest").symlink_to("0-old")
    drill(tmp_path / "drills", NAMES[0])
    checked = verify(tmp_path / "drills")
    assert ([d["drill_id"] for d in checked["drills"]], checked["outside"]) == ([NAMES[0]], ["0-old"])


def test_drills_that_end_together_follow_each_other(chain: Path, keys: dict[str, Path], verify: Run) -> None:
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import conftest\n"
        "from ansible.module_utils.testing import patch_module_args\n"
        "from ansible_collections.muster.platform.plugins.modules import drill_evidence\n"
        "with patch_module_args(json.loads(sys.argv[2])): drill_evidence.main()"
    )
    running = []
    for number in range(5, 9):
        given = restore(chain, drill_id=f"{number}-restore", signing_key=str(keys["first"]))
        command = [sys.executable, "-c", program, str(Path(__file__).parent), json.dumps(given)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    for process in running:
        output, _none = process.communicate(timeout=60)
        assert process.returncode == 0, output.decode()
    checked = verify(chain)
    assert checked["problems"] == []
    assert len(checked["drills"]) == 8


def test_an_id_that_was_used_meanwhile_is_refused(
    chain: Path, drill: Run, verify: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = _chain.locked

    def wait(directory: Path) -> Any:
        monkeypatch.setattr(_chain, "locked", locked)
        shutil.copytree(chain / NAMES[0], chain / "5-switchover")
        return locked(directory)

    monkeypatch.setattr(_chain, "locked", wait)
    assert drill(chain, "5-switchover")["msg"].endswith("a drill needs an id of its own")
    assert (chain / "5-switchover/manifest.sha256").exists()


def test_a_lock_that_is_kept_is_told_after_the_deadline(
    chain: Path, drill: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_chain, "LOCK_SECONDS", 0.2)
    with (chain / ".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        result = drill(chain, "5-switchover")
    assert result["msg"] == f"waited 0.2 s for the drill that writes its evidence to {chain} to end"
    assert not (chain / "5-switchover").exists()


# --- what evidence_verify finds --------------------------------------------------------------


def test_a_whole_chain_passes(chain: Path, verify: Run) -> None:
    checked = verify(chain)
    assert (checked["changed"], checked["problems"], checked["unsigned"]) == (False, [], [])
    assert [(d["drill_id"], d["previous"], d["signed"]) for d in checked["drills"]] == [
        (name, before, True) for name, before in zip(NAMES, [None, *NAMES], strict=False)
    ]
    assert checked["head_sha256"] == _chain.file_hash(chain / NAMES[-1] / "manifest.sha256")


@pytest.mark.parametrize("name", NAMES)
def test_one_changed_byte_in_any_file_is_found(name: str, chain: Path, verify: Run) -> None:
    for path in sorted((chain / name).iterdir()):
        whole = path.read_bytes()
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        failed = verify(chain)
        assert failed["failed"], path
        assert failed["msg"].startswith(f"the chain is broken: {name}: "), failed["msg"]
        assert path.name in failed["msg"]
        path.write_bytes(whole)
    assert verify(chain)["problems"] == []


def test_a_drill_taken_out_of_the_middle_is_found(chain: Path, verify: Run) -> None:
    shutil.rmtree(chain / NAMES[1])
    assert verify(chain)["msg"].startswith(
        "the chain is broken: 3-restore: the drill before it is missing: 2-region_loss/manifest.sha256 is not there"
    )


def test_the_first_drill_taken_away_is_found(chain: Path, verify: Run) -> None:
    shutil.rmtree(chain / NAMES[0])
    assert "2-region_loss: the drill before it is missing: 1-switchover/" in verify(chain)["msg"]


def test_the_newest_drill_taken_away_is_found_also_after_the_next_one(
    chain: Path, drill: Run, verify: Run
) -> None:
    shutil.rmtree(chain / NAMES[-1])
    assert verify(chain)["msg"] == (
        "the chain is broken: 4-switchover: latest names it, but 4-switchover/manifest.sha256 is not there"
    )
    assert drill(chain, "5-switchover")["verdict"] == "PASS"
    assert "5-switchover: the drill before it is missing: 4-switchover/" in verify(chain)["msg"]


def test_a_shorter_chain_is_found_by_a_hash_noted_elsewhere(chain: Path, verify: Run) -> None:
    noted = verify(chain)["head_sha256"]
    assert verify(chain, newest_sha256=noted)["problems"] == []
    shutil.rmtree(chain / NAMES[-1])
    (chain / "latest").unlink()
    (chain / "latest").symlink_to(NAMES[-2])
    assert verify(chain)["problems"] == []
    assert f"has a manifest with the hash {noted}" in verify(chain, newest_sha256=noted)["msg"]


def test_a_change_that_was_sealed_again_is_found(chain: Path, verify: Run) -> None:
    path = chain / NAMES[1] / "evidence.json"
    path.write_text(path.read_text().replace('"PASS"', '"FAIL"'))
    seal(chain / NAMES[1])
    assert (
        "2-region_loss: manifest.sha256.sig is not a signature of muster over manifest.sha256"
        in (verify(chain)["msg"])
    )


def test_a_manifest_signed_again_with_another_key_is_found(
    chain: Path, verify: Run, keys: dict[str, Path]
) -> None:
    sign(chain / NAMES[2], keys["second"])
    assert verify(chain)["msg"].startswith(
        "the chain is broken: 3-restore: manifest.sha256.sig is not a sign"
    )


def test_even_the_right_key_cannot_rewrite_what_others_follow(
    chain: Path, verify: Run, keys: dict[str, Path]
) -> None:
    path = chain / NAMES[1] / "lost-xids.txt"
    path.write_text("1\n")
    seal(chain / NAMES[1])
    sign(chain / NAMES[1], keys["first"])
    assert (
        "3-restore: 2-region_loss/manifest.sha256, of the drill before it, is not what"
        in (verify(chain)["msg"])
    )


def test_swapped_signatures_are_found(chain: Path, verify: Run) -> None:
    first, second = (chain / name / "manifest.sha256.sig" for name in NAMES[1:3])
    texts = first.read_text(), second.read_text()
    first.write_text(texts[1])
    second.write_text(texts[0])
    failed = verify(chain)
    assert "2-region_loss: manifest.sha256.sig is not a signature" in failed["msg"]
    assert len(failed["problems"]) == 2


def test_a_signature_for_another_purpose_is_found(chain: Path, verify: Run, keys: dict[str, Path]) -> None:
    folder = chain / NAMES[2]
    (folder / "manifest.sha256.sig").unlink()
    subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-n", "file", "-f", keys["first"], folder / "manifest.sha256"],
        check=True, capture_output=True,
    )  # fmt: skip
    assert "3-restore: manifest.sha256.sig is not a signature" in verify(chain)["msg"]


def test_a_signature_taken_away_is_found(chain: Path, verify: Run) -> None:
    (chain / NAMES[2] / "manifest.sha256.sig").unlink()
    for required in (True, False):
        failed = verify(chain, require_signatures=required)
        assert "3-restore: manifest.sha256.sig is not there, but older drills are signed" in failed["msg"]
    (chain / NAMES[0] / "manifest.sha256.sig").unlink()
    told = "1-switchover: manifest.sha256.sig is not there, but evidence.json says that it was signed"
    assert told in verify(chain, require_signatures=False)["msg"]


@pytest.mark.parametrize("name", ["extra.txt", ".hidden", "folder"])
def test_an_added_file_is_found(name: str, chain: Path, verify: Run) -> None:
    path = chain / NAMES[1] / name
    if name == "folder":
        path.mkdir()
    else:
        path.write_text("")
    assert f"2-region_loss: {name} is not in manifest.sha256" in verify(chain)["msg"]


def test_a_missing_file_and_a_link_in_its_place_are_found(chain: Path, verify: Run) -> None:
    path = chain / NAMES[1] / "report.html"
    path.rename(chain.parent / "report.html")
    assert "2-region_loss: report.html is not there" in verify(chain)["msg"]
    path.symlink_to(chain.parent / "report.html")
    assert "2-region_loss: report.html is no plain file" in verify(chain)["msg"]


def test_unsigned_drills_are_named(tmp_path: Path, drill: Run, verify: Run) -> None:
    directory = tmp_path / "drills"
    drill(directory, NAMES[0], signing_key=None)
    drill(directory, NAMES[1], signing_key=None)
    assert verify(directory)["problems"] == [f"{name}: manifest.sha256 is not signed" for name in NAMES[:2]]
    accepted = verify(directory, require_signatures=False)
    assert (accepted["problems"], accepted["unsigned"]) == ([], NAMES[:2])
    drill(directory, NAMES[2])
    assert verify(directory, require_signatures=False)["problems"] == []
    drill(directory, NAMES[3], signing_key=None)
    assert (
        "4-switchover: manifest.sha256.sig is not there"
        in (verify(directory, require_signatures=False)["msg"])
    )


def test_an_auditors_own_keys_count(chain: Path, verify: Run, tmp_path: Path, keys: dict[str, Path]) -> None:
    own = tmp_path / "allowed_signers"
    shutil.copy(chain / "allowed_signers", own)
    # Whoever owns the directory signs everything anew, and lets it say so.
    for name in NAMES:
        sign(chain / name, keys["second"])
    public = keys["second"].with_suffix(".pub").read_text()
    (chain / "allowed_signers").write_text(f"muster {public}")
    assert verify(chain)["problems"] == []
    assert (
        "1-switchover: manifest.sha256.sig is not a signature"
        in (verify(chain, allowed_signers=str(own))["msg"])
    )


def test_another_signer_is_not_the_one_asked_for(chain: Path, verify: Run) -> None:
    assert "is not a signature of auditor" in verify(chain, signer="auditor")["msg"]
    (chain / "allowed_signers").unlink()
    assert "cannot be verified: there is no file" in verify(chain)["msg"]


def test_a_drill_beside_the_chain_is_found(chain: Path, verify: Run, drill: Run, tmp_path: Path) -> None:
    drill(tmp_path / "other", "0-alone")
    shutil.copytree(tmp_path / "other/0-alone", chain / "0-alone")
    assert "0-alone: no later drill holds the hash of 0-alone/manifest.sha256" in verify(chain)["msg"]
    # It does not matter what the folder is called: evidence.json knows its drill.
    shutil.rmtree(chain / "0-alone")
    (chain / NAMES[-1]).rename(chain / "5-renamed")
    (chain / "latest").unlink()
    (chain / "latest").symlink_to("5-renamed")
    assert "5-renamed: evidence.json is of another drill, 4-switchover" in verify(chain)["msg"]


def test_part_of_the_chain_can_be_checked(chain: Path, verify: Run) -> None:
    shutil.rmtree(chain / NAMES[3])
    checked = verify(chain, drill_id=NAMES[2])
    assert (checked["head"], checked["problems"]) == (NAMES[2], [])
    assert "5-none: drill_id names it, but" in verify(chain, drill_id="5-none")["msg"]


def test_figures_that_do_not_follow_from_the_ledger_are_found(
    chain: Path, verify: Run, keys: dict[str, Path]
) -> None:
    path = chain / NAMES[-1] / "evidence.json"
    evidence = json.loads(path.read_text())
    evidence["stores"][0]["outage_seconds"] = 0.1
    path.write_text(json.dumps(evidence))
    seal(chain / NAMES[-1])
    sign(chain / NAMES[-1], keys["first"])
    assert (
        "4-switchover: evidence.json: outage_seconds of postgresql is 0.1, but ledger.csv says 0.74975"
        in (verify(chain)["msg"])
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "manifest.sha256 does not name evidence.json"),
        (b"no hash  x\n", "manifest.sha256: line 1 is not one that Muster writes"),
        (b"\xff\n", "manifest.sha256: it is not plain text"),
        (b"0" * 64 + b"  b\n" + b"0" * 64 + b"  a\n", "its lines are not sorted"),
        (b"0" * 64 + b"  ../x/other\n", "line 1 is not one that Muster writes"),
        (b"0" * 64 + b"  a\r\n", "its lines are not sorted, or end otherwise"),
    ],
)
def test_a_manifest_that_is_none_is_found(text: bytes, message: str, chain: Path, verify: Run) -> None:
    (chain / NAMES[-1] / "manifest.sha256").write_bytes(text)
    assert any(message in problem for problem in verify(chain)["problems"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directory": "/nonexistent"}, "directory: there is no directory /nonexistent"),
        ({"allowed_signers": "/nonexistent"}, "allowed_signers: there is no file /nonexistent"),
        ({"signer": "-x"}, "signer may hold letters"),
    ],
)
def test_bad_input_of_verify_is_told(
    options: dict[str, Any], message: str, tmp_path: Path, run_module: Run
) -> None:
    assert message in run_module(evidence_verify, {"directory": str(tmp_path)} | options)["msg"]


def test_an_empty_directory_proves_nothing(tmp_path: Path, verify: Run) -> None:
    failed = verify(tmp_path)
    assert failed["msg"] == "the chain is broken: latest: nothing names the newest drill"
    assert failed["head"] is None


def test_a_copy_without_the_lock_can_be_checked(chain: Path, verify: Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(chain, copy, symlinks=True)
    (copy / ".lock").unlink()
    assert verify(copy)["problems"] == []
    assert not (copy / ".lock").exists()


def run_playbook(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "playbooks/dr_verify_evidence.yml", *arguments],
        cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True,
    )  # fmt: skip


def test_the_playbook_needs_no_inventory(chain: Path, tmp_path: Path) -> None:
    given = ["-e", f"dr_evidence_directory={chain}"]
    done = run_playbook(*given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 drills, each as it was written; the newest is 4-switchover" in done.stdout
    keys = tmp_path / "allowed_signers"
    keys.write_text("")
    done = run_playbook(*given, "-e", f"dr_evidence_allowed_signers={keys}")
    assert done.returncode == 2
    assert "1-switchover: manifest.sha256.sig is not a signature of muster" in done.stdout + done.stderr
    done = run_playbook()
    assert done.returncode == 2
    assert "dr_evidence_directory is not set" in done.stdout + done.stderr
