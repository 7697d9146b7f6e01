# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files that are there whole or not at all, and locks with a deadline."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.muster.platform.plugins.module_utils import _files
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.parametrize(("mode", "wanted"), [(0o600, 0o600), (0o644, 0o644), (None, 0o640)])
def test_a_file_has_its_mode(tmp_path: Path, mode: int | None, wanted: int) -> None:
    path = tmp_path / "note"
    path.write_text("of before")
    path.chmod(0o666)
    _files.write_file(path, "ä\r\n", mode)
    assert path.read_bytes() == "ä\r\n".encode()
    assert path.stat().st_mode & 0o777 == wanted
    assert os.listdir(tmp_path) == ["note"]


def test_it_is_closed_until_it_has_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = os.fchmod

    def fchmod(descriptor: int, mode: int) -> None:
        seen.append(os.fstat(descriptor).st_mode & 0o777)
        real(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", fchmod)
    _files.write_file(tmp_path / "note", "text", 0o644)
    assert seen == [0o600]


def test_a_file_that_cannot_be_written_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "note"
    path.write_text("of before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        _files.write_file(path, "new", 0o600)
    assert path.read_text() == "of before"
    assert os.listdir(tmp_path) == ["note"]


def test_a_lock_that_another_keeps_is_told(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as held, (tmp_path / "lock").open("w") as wanted:
        fcntl.flock(held, fcntl.LOCK_SH)
        _files.wait_for_lock(wanted, fcntl.LOCK_SH, "another reader", 0, 0.01)
        with pytest.raises(MusterError, match="waited 0 s for the reader to end"):
            _files.wait_for_lock(wanted, fcntl.LOCK_EX, "the reader to end", 0, 0.01)
