# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The mirror: real main(), apt and gpg, against a Debian repository that is made here; pip with wheels made here."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.filter.topology import with_verb
from ansible_collections.muster.platform.plugins.modules import (
    mirror_debian,
    mirror_manifest,
    mirror_wheels,
)
from test_check_tree import load

airgap = load("airgap")
ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., dict[str, Any]]
TOOLS = ("apt-ftparchive", "gpg", "gpgv", "dpkg-deb", "apt-get")
debian = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason="needs Debian's tools for repositories"
)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- Debian ---------------------------------------------------------------------------


def package(folder: Path, name: str, version: str = "1.0", **fields: str) -> Path:
    """A Debian package with nothing in it."""
    tree = folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN").chmod(0o755)  # dpkg-deb insists, whatever the umask is
    given = {
        "Package": name,
        "Version": version,
        "Architecture": "all",
        "Maintainer": "nobody <nobody@example.org>",
        "Description": "made for a test",
        **{key.replace("_", "-"): value for key, value in fields.items()},
    }
    (tree / "DEBIAN/control").write_text("".join(f"{key}: {value}\n" for key, value in given.items()))
    path = folder / f"{name}_{version.split(':')[-1]}_all.deb"
    subprocess.run(["dpkg-deb", "--build", "-Znone", tree, path], check=True, capture_output=True)
    shutil.rmtree(tree)
    return path


def index(upstream: Path) -> None:
    done = subprocess.run(
        ["apt-ftparchive", "packages", "."], cwd=upstream, check=True, capture_output=True, text=True
    )
    (upstream / "Packages").write_text(done.stdout)


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """What mirrors a repository in which shop needs till, and till has an epoch."""
    upstream = tmp_path / "upstream"
    upstream.mkdir()
    package(upstream, "apt", Essential="yes")
    package(upstream, "shop", Depends="till")
    package(upstream, "till", "1:2.0")
    package(upstream, "other")
    index(upstream)
    for name in ("debian", "work"):
        (tmp_path / name).mkdir()
    return {
        "directory": str(tmp_path / "debian"),
        "work": str(tmp_path / "work"),
        "suite": "trixie",
        "sources": [f"deb [trusted=yes] copy:{upstream} ./"],
        "packages": [["shop"]],
        "architecture": "amd64",
    }


@debian
def test_packages_come_with_what_they_depend_on(
    tmp_path: Path, given: dict[str, Any], run_module: Run
) -> None:
    names = ["apt_1.0_all.deb", "shop_1.0_all.deb", "till_2.0_all.deb"]
    assert run_module(mirror_debian, given, check=True)["added"] == names
    assert list(tmp_path.glob("debian/*")) == list(tmp_path.glob("work/*")) == []
    answer = run_module(mirror_debian, given)
    assert (answer["changed"], answer["added"], answer["count"]) == (True, names, 3)
    assert sorted(path.name for path in (tmp_path / "debian/pool/trixie").iterdir()) == names
    again = run_module(mirror_debian, given)
    assert (again["changed"], again["added"], again["count"]) == (False, [], 3)
    assert run_module(mirror_debian, given, check=True)["changed"] is False


@debian
def test_a_strict_apt_installs_from_it(tmp_path: Path, given: dict[str, Any], run_module: Run) -> None:
    assert run_module(mirror_debian, given)["changed"] is True
    mirrored = f"{given['directory']}/{mirror_debian.KEY}"
    entry = f"deb [signed-by={mirrored}] copy:{given['directory']} trixie main"
    shutil.rmtree(tmp_path / "upstream")
    other = given | {"directory": str(tmp_path / "second"), "sources": [entry]}
    (tmp_path / "second").mkdir()
    assert run_module(mirror_debian, other)["count"] == 3
    # Whoever changes the list of packages has not the key.
    listed = tmp_path / "debian/dists/trixie/main/binary-amd64/Packages"
    listed.write_text(listed.read_text().replace("Depends: till", "Depends: evil"))
    for folder in ("second", "work/apt-trixie-amd64"):
        shutil.rmtree(tmp_path / folder)
    (tmp_path / "second").mkdir()
    assert run_module(mirror_debian, other)["failed"] is True


@debian
def test_a_new_version_is_added_with_the_same_key(
    tmp_path: Path, given: dict[str, Any], run_module: Run
) -> None:
    run_module(mirror_debian, given)
    key = (tmp_path / "debian" / mirror_debian.KEY).read_text()
    package(tmp_path / "upstream", "till", "1:2.1")
    index(tmp_path / "upstream")
    assert run_module(mirror_debian, given)["added"] == ["till_2.1_all.deb"]
    assert (tmp_path / "debian" / mirror_debian.KEY).read_text() == key
    text = (tmp_path / "debian/dists/trixie/main/binary-amd64/Packages").read_text()
    assert "Version: 1:2.0" in text
    assert "Version: 1:2.1" in text


@debian
def test_a_changed_package_is_refused(tmp_path: Path, given: dict[str, Any], run_module: Run) -> None:
    run_module(mirror_debian, given)
    (tmp_path / "debian/pool/trixie/till_2.0_all.deb").write_text("evil")
    answer = run_module(mirror_debian, given)
    assert answer["failed"] is True
    assert "till_2.0_all.deb has the SHA-256" in answer["msg"]
    assert "refused; remove it to have it fetched again" in answer["msg"]


@debian
def test_an_interrupted_run_is_completed(tmp_path: Path, given: dict[str, Any], run_module: Run) -> None:
    whole = tmp_path / "upstream/till_2.0_all.deb"
    hidden = tmp_path / "hidden"
    whole.rename(hidden)
    answer = run_module(mirror_debian, given)
    assert answer["failed"] is True
    assert answer["msg"].startswith("Debian trixie: ")
    pool = tmp_path / "debian/pool/trixie"
    assert sorted(path.name for path in pool.glob("*.deb")) == ["apt_1.0_all.deb", "shop_1.0_all.deb"]
    # Half of a file, as a killed run leaves it.
    (pool / ".partial/till_2.0_all.deb").write_bytes(hidden.read_bytes()[:100])
    hidden.rename(whole)
    assert run_module(mirror_debian, given)["added"] == ["till_2.0_all.deb"]
    assert run_module(mirror_debian, given)["changed"] is False


@debian
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"packages": [["nonesuch"]]}, "Debian trixie: Unable to locate package nonesuch"),
        ({"suite": "../x"}, "suite is '../x': it must be the codename of a release, such as trixie"),
        ({"sources": ["deb copy:/nonesuch ./"]}, "Debian trixie: "),
    ],
)
def test_what_cannot_be_had_is_one_sentence(
    change: dict[str, Any], said: str, given: dict[str, Any], run_module: Run, tmp_path: Path
) -> None:
    answer = run_module(mirror_debian, given | change)
    assert answer["failed"] is True
    assert said in answer["msg"]
    assert "\n" not in answer["msg"]
    assert list(tmp_path.glob("debian/*")) == []


def test_a_full_disk_is_told_before_anything_is_fetched(
    tmp_path: Path, given: dict[str, Any], run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    if any(shutil.which(tool) is None for tool in TOOLS):
        pytest.skip("needs Debian's tools for repositories")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=5))
    answer = run_module(mirror_debian, given)
    assert "has 0 MiB free, and 0 MiB are to be fetched: nothing was fetched" in answer["msg"]
    assert list((tmp_path / "debian/pool/trixie").glob("*.deb")) == []


# --- wheels -----------------------------------------------------------------------------


def wheel(folder: Path, name: str, version: str = "1.0", tags: str = "py3-none-any") -> Path:
    path = folder / f"{name}-{version}-{tags}.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        packed.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tags}\n")
        packed.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Requirements of which pip finds the wheels in a directory."""
    index, mirrored = tmp_path / "index", tmp_path / "wheels"
    index.mkdir()
    mirrored.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    lines = [f"plain==1.0 --hash=sha256:{digest(wheel(index, 'plain'))}"]
    for tags in ("cp311-cp311-any", "cp313-cp313-any"):
        wheel(index, "fast", tags=tags.replace("any", "linux_x86_64"))
    hashes = [f"--hash=sha256:{digest(path)}" for path in sorted(index.glob("fast*"))]
    lines.append("fast==1.0 \\\n    " + " \\\n    ".join(hashes))
    lines.append(f"old==1.0 ; python_full_version < '3.11.3' --hash=sha256:{digest(wheel(index, 'old'))}")
    lines.append(f"new==1.0 ; python_full_version >= '3.12' --hash=sha256:{digest(wheel(index, 'new'))}")
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# a comment\n" + "\n".join([*lines, ""]))
    return {
        "directory": str(mirrored),
        "requirements": [str(requirements)],
        "pythons": ["3.11", "3.13"],
    }


linux = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the wheels made here are for x86_64")


@linux
def test_each_python_gets_its_wheels(tmp_path: Path, pinned: dict[str, Any], run_module: Run) -> None:
    assert run_module(mirror_wheels, pinned, check=True)["changed"] is True
    assert list((tmp_path / "wheels").iterdir()) == []
    answer = run_module(mirror_wheels, pinned)
    assert answer["added"] == ["fast==1.0", "new==1.0", "old==1.0", "plain==1.0"]
    names = [path.name for path in sorted((tmp_path / "wheels").iterdir())]
    assert names == [
        "fast-1.0-cp311-cp311-linux_x86_64.whl",
        "fast-1.0-cp313-cp313-linux_x86_64.whl",
        "new-1.0-py3-none-any.whl",
        "old-1.0-py3-none-any.whl",
        "plain-1.0-py3-none-any.whl",
    ]
    again = run_module(mirror_wheels, pinned)
    assert (again["changed"], again["added"], again["count"]) == (False, [], 4)
    (tmp_path / "wheels/new-1.0-py3-none-any.whl").unlink()
    assert run_module(mirror_wheels, pinned)["added"] == ["new==1.0"]


@linux
def test_a_changed_wheel_is_refused(tmp_path: Path, pinned: dict[str, Any], run_module: Run) -> None:
    run_module(mirror_wheels, pinned)
    (tmp_path / "wheels/plain-1.0-py3-none-any.whl").write_text("evil")
    answer = run_module(mirror_wheels, pinned)
    assert "plain-1.0-py3-none-any.whl has the SHA-256" in answer["msg"]
    assert "refused" in answer["msg"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("plain>=1.0 --hash=sha256:" + 64 * "0", "plain>=1.0 must be pinned by == and have SHA-256 hashes"),
        ("plain==1.0", "plain==1.0 must be pinned by == and have SHA-256 hashes"),
        ("-r other.txt", "'-r other.txt' is no requirement that can be mirrored"),
    ],
)
def test_requirements_that_prove_nothing_are_refused(
    text: str, said: str, pinned: dict[str, Any], run_module: Run
) -> None:
    Path(pinned["requirements"][0]).write_text(text)
    assert run_module(mirror_wheels, pinned)["msg"] == said


def test_a_wheel_that_is_not_to_be_had_is_one_sentence(pinned: dict[str, Any], run_module: Run) -> None:
    Path(pinned["requirements"][0]).write_text(f"nonesuch==1.0 --hash=sha256:{64 * '0'}\n")
    answer = run_module(mirror_wheels, pinned)
    assert answer["msg"].startswith("pip for Python 3.11: Could not find a version")
    assert "\n" not in answer["msg"]


@pytest.mark.parametrize(
    ("name", "python", "good"),
    [
        ("a-1-py3-none-any.whl", "3.11", True),
        ("a-1-py2.py3-none-any.whl", "3.11", True),
        ("a-1-cp311-cp311-manylinux_2_17_x86_64.whl", "3.11", True),
        ("a-1-cp311-cp311-manylinux_2_17_x86_64.whl", "3.13", False),
        ("a-1-cp39-abi3-manylinux_2_17_x86_64.whl", "3.13", True),
        ("a-1-cp312-abi3-manylinux_2_17_x86_64.whl", "3.11", False),
        ("a-1-1build-py39-none-any.whl", "3.11", True),
    ],
)
def test_a_wheels_tags_tell_which_python_it_is_for(name: str, python: str, good: bool) -> None:
    assert mirror_wheels.serves(name, python) is good


# --- the manifest --------------------------------------------------------------------------


def test_sha256sum_checks_the_manifest(tmp_path: Path, run_module: Run) -> None:
    (tmp_path / "wheels/.partial").mkdir(parents=True)
    (tmp_path / "wheels/a.whl").write_text("a")
    (tmp_path / "wheels/.partial/b.whl").write_text("half")
    given = {"directory": str(tmp_path), "about": {"inventory": ["lab"]}}
    assert run_module(mirror_manifest, given, check=True)["changed"] is True
    assert not (tmp_path / "mirror.json").exists()
    answer = run_module(mirror_manifest, given)
    assert (answer["changed"], answer["files"]) == (True, 2)
    assert json.loads((tmp_path / "mirror.json").read_text()) == {"inventory": ["lab"]}
    assert run_module(mirror_manifest, given)["changed"] is False
    check = ["sha256sum", "--quiet", "--check", "manifest.sha256"]
    assert subprocess.run(check, cwd=tmp_path, check=False).returncode == 0
    (tmp_path / "wheels/a.whl").write_text("evil")
    assert subprocess.run(check, cwd=tmp_path, check=False, capture_output=True).returncode == 1
    assert run_module(mirror_manifest, given, check=True)["changed"] is True


# --- what there is to mirror, and what is made of it ------------------------------------------


def test_each_role_that_installs_packages_says_which() -> None:
    installing = {
        path.parents[1].name
        for path in (ROOT / "roles").glob("*/tasks/*.yml")
        if "ansible.builtin.apt:" in path.read_text(encoding="utf-8")
    }
    assert "postgresql" in installing
    assert sorted(with_verb(sorted(installing), "needs")) == sorted(installing)


def test_a_group_without_a_role_needs_nothing() -> None:
    assert with_verb(["region_north", "haproxy", "etcd"], "needs") == ["haproxy", "etcd"]


@pytest.mark.daemons
@pytest.mark.parametrize("place", ["relative", "/nonesuch", "/etc", "/a b"])
def test_the_setup_refuses_what_is_no_mirror(place: str) -> None:
    done = subprocess.run(
        [ROOT / "scripts/setup"],
        env=os.environ | {"MIRROR": place},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"[setup] MIRROR is '{place}': it must be the absolute path of a directory that "
        "playbooks/mirror.yml has filled\n"
    )


@pytest.mark.daemons
def test_the_setup_refuses_a_mirror_that_was_changed(tmp_path: Path, run_module: Run) -> None:
    (tmp_path / "a").write_text("a")
    run_module(mirror_manifest, {"directory": str(tmp_path), "about": {}})
    (tmp_path / "a").write_text("evil")
    done = subprocess.run(
        [ROOT / "scripts/setup"],
        env=os.environ | {"MIRROR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[1:] == [f"[setup] {tmp_path} is not what was mirrored: a: FAILED"]


@pytest.mark.parametrize(
    ("packet", "found"),
    [
        (12 * b"\0" + b"\x08\x00\x45" + 8 * b"\0" + b"\x06" + 6 * b"\0" + bytes([203, 0, 113, 1, 4, 0, 1, 187]),
         "tcp 203.0.113.1:443"),
        (12 * b"\0" + b"\x08\x00\x45" + 8 * b"\0" + b"\x01" + 6 * b"\0" + bytes([203, 0, 113, 1, 8, 0]),
         "icmp 203.0.113.1"),
        (12 * b"\0" + b"\x08\x06" + 40 * b"\0", None),
    ],
)  # fmt: skip
def test_the_proof_tells_where_a_packet_would_have_gone(packet: bytes, found: str | None) -> None:
    assert airgap.destination(packet) == found


def test_the_proof_counts_what_a_recap_says_has_changed() -> None:
    assert airgap.changed("a : ok=1 changed=0 x\nb : ok=2    changed=3   failed=0") == 3
    with pytest.raises(airgap.Failure):
        airgap.changed("nothing was run")


def test_no_task_asks_for_what_only_templates_know() -> None:
    """A host that has the packages already never comes by such a task, and the tests' images have them all."""
    named = [
        str(path.relative_to(ROOT))
        for folder in ("tasks", "vars", "defaults")
        for path in (ROOT / "roles").glob(f"*/{folder}/*.yml")
        if "ansible_managed" in path.read_text(encoding="utf-8")
    ]
    assert named == []
