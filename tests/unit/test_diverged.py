# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a copy has beyond the fork: by timelines, and by what pg_waldump prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from ansible_collections.muster.platform.plugins.module_utils._diverged import (
    Commit,
    Stretch,
    Waldump,
    own_stretches,
    parse_changes,
    parse_commits,
    segments_of,
    with_children,
)
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

SEGMENT = 16 << 20


@pytest.mark.parametrize(
    ("mine", "own", "theirs", "current", "expected"),
    [
        pytest.param({}, 1, {}, 1, [], id="the same line"),
        pytest.param({}, 1, {1: 100}, 2, [Stretch(1, 100, None)], id="they were promoted"),
        pytest.param({1: 50}, 2, {1: 50, 2: 90}, 3, [Stretch(2, 90, None)], id="they were promoted again"),
        pytest.param({1: 50}, 2, {1: 50}, 2, [], id="both follow the second"),
        pytest.param(
            {1: 120}, 2, {1: 100}, 2, [Stretch(1, 100, 120), Stretch(2, 120, None)], id="begun twice, here later"
        ),
        pytest.param({1: 80}, 2, {1: 100}, 2, [Stretch(2, 80, None)], id="begun twice, here earlier"),
        pytest.param(
            {1: 120, 2: 150}, 3, {1: 100}, 2,
            [Stretch(1, 100, 120), Stretch(2, 120, 150), Stretch(3, 150, None)], id="promoted here twice since",
        ),
        pytest.param({1: 80}, 2, {}, 1, [Stretch(2, 80, None)], id="only here promoted"),
        pytest.param({}, 1, {1: 50, 2: 90}, 3, [Stretch(1, 50, None)], id="two promotions behind"),
    ],
)  # fmt: skip
def test_stretches_of_its_own(
    mine: Mapping[int, int], own: int, theirs: Mapping[int, int], current: int, expected: list[Stretch]
) -> None:
    assert own_stretches(mine, own, theirs, current) == expected


LINES = """\
rmgr: Transaction len (rec/tot):     34/    34, tx:        733, lsn: 0/01561F78, prev 0/01561F40, desc: COMMIT 2026-11-21 13:32:01.270389 UTC
rmgr: Transaction len (rec/tot):     34/    34, tx:        734, lsn: 0/01561FA0, prev 0/01561F78, desc: ABORT 2026-11-21 13:32:02.270389 UTC
rmgr: Transaction len (rec/tot):    405/   405, tx:        735, lsn: 0/01562000, prev 0/01561FA0, desc: COMMIT 2026-11-21 13:32:03 UTC; subxacts: 736 737; inval msgs: catcache 56
rmgr: Transaction len (rec/tot):     54/    54, tx:          0, lsn: 0/01562100, prev 0/01562000, desc: COMMIT_PREPARED 740: 2026-11-21 13:32:04.5 UTC; dbid 5
"""


def test_commits_and_their_subtransactions() -> None:
    commits = parse_commits(LINES.splitlines())
    assert commits == [
        Commit(733, "2026-11-21T13:32:01.270389Z", "0/01561F78"),
        Commit(735, "2026-11-21T13:32:03Z", "0/01562000", (736, 737)),
        Commit(740, "2026-11-21T13:32:04.5Z", "0/01562100"),
    ]
    assert with_children(commits) == {733, 735, 736, 737, 740}


HEAP = """\
rmgr: Heap        len (rec/tot):     59/    59, tx:        733, lsn: 0/01, prev 0/00, desc: INSERT off: 3, flags: 0x00, blkref #0: rel 1663/16384/16386 blk 7
rmgr: Heap        len (rec/tot):     59/    59, tx:        733, lsn: 0/02, prev 0/01, desc: UPDATE old_xmax: 733, blkref #0: rel 1663/16384/16386 blk 9, blkref #1: rel 1663/16384/16386 blk 8
rmgr: Heap        len (rec/tot):     54/    54, tx:        735, lsn: 0/03, prev 0/02, desc: DELETE xmax: 735, off: 2, blkref #0: rel 1663/16384/16390 blk 0
rmgr: Heap2       len (rec/tot):     59/  8227, tx:        736, lsn: 0/04, prev 0/03, desc: MULTI_INSERT+INIT ntuples: 2, blkref #0: rel 1663/16384/16400 blk 1 FPW
rmgr: Heap2       len (rec/tot):     59/    59, tx:        733, lsn: 0/05, prev 0/04, desc: VISIBLE, blkref #0: rel 1663/16384/16386 fork vm blk 0
rmgr: Heap        len (rec/tot):     59/    59, tx:        999, lsn: 0/06, prev 0/05, desc: INSERT off: 1, blkref #0: rel 1663/16384/16386 blk 70
"""


def test_pages_that_the_commits_touched() -> None:
    changes = parse_changes(HEAP.splitlines(), {733, 735, 736})
    assert changes.pages == {(16384, 16386): {7, 8, 9}, (16384, 16390): {0}, (16384, 16400): {1}}
    assert changes.deleted == 1


def wal(directory: Path, *names: str) -> str:
    for name in names:
        (directory / name).touch()
    return str(directory)


def test_files_of_a_stretch(tmp_path: Path) -> None:
    place = wal(
        tmp_path,
        "00000003000000000000000E",
        "00000003000000000000000F.partial",
        "00000003000000000000000D",
        "00000004000000000000000F",
        "00000003.history",
    )
    assert segments_of(place, Stretch(3, 0xE000100, None), SEGMENT) == [
        "00000003000000000000000E",
        "00000003000000000000000F.partial",
    ]


def dump(place: str, start: int) -> Waldump:
    return Waldump("/nowhere", place, [Stretch(3, start, None)], SEGMENT, "postgres")


def test_data_that_never_got_to_the_fork_has_nothing(tmp_path: Path) -> None:
    place = wal(tmp_path, "00000003000000000000000D")
    assert list(dump(place, 0xE000100).lines("Transaction")) == []


def test_recycled_wal_is_not_passed_over(tmp_path: Path) -> None:
    place = wal(tmp_path, "00000003000000000000000F")
    with pytest.raises(MusterError, match="not complete: 00000003000000000000000E is missing"):
        list(dump(place, 0xE000100).lines("Transaction"))


def test_no_wal_at_all_is_not_nothing(tmp_path: Path) -> None:
    with pytest.raises(MusterError, match="no WAL of timeline 3"):
        list(dump(wal(tmp_path), 0xE000100).lines("Transaction"))
