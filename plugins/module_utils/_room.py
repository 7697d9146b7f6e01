# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A directory for a restore that proves a backup: made for it, and gone afterwards."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

PREFIX = ".restore-proof-"


@contextlib.contextmanager
def room(place: Path) -> Iterator[Path]:
    """A directory within C(place) that only its owner enters."""
    if not place.is_dir():
        raise MusterError(f"{place} is no directory: nothing was restored")
    # What an attempt that was killed has left; nothing else has such a name.
    for left in place.glob(f"{PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)
    found = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    try:
        yield found
    finally:
        shutil.rmtree(found, ignore_errors=True)
