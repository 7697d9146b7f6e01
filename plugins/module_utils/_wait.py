# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Waiting with a deadline and a sentence that says what was waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

T = TypeVar("T")


def wait_until(
    check: Callable[[], T | None],
    what: str,
    timeout: float,
    interval: float = 0.2,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Call C(check) until it returns something true, and return that.

    C(check) may raise MusterError: its text is the reason shown when time runs out.
    """
    deadline = clock() + timeout
    reason = ""
    while True:
        try:
            result = check()
            if result:
                return result
            reason = ""
        except MusterError as error:
            reason = f": {error}"
        if clock() >= deadline:
            raise MusterError(f"waited {timeout:g} s for {what}{reason}")
        sleep(interval)
