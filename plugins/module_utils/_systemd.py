# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asking systemd for something, with its own words when it refuses."""

from __future__ import annotations

import subprocess

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError


def systemctl(*words: str, check: bool = True, timeout: float = 60) -> str:
    """What systemctl printed; a MusterError when it failed, without C(check) only when it could not run."""
    try:
        result = subprocess.run(  # pylint: disable=ansible-bad-function
            ["systemctl", *words], capture_output=True, text=True, timeout=timeout, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise MusterError(f"systemctl {' '.join(words)} failed: {error}") from error
    if check and result.returncode != 0:
        reason = result.stderr.strip() or result.stdout.strip()
        raise MusterError(f"systemctl {' '.join(words)} failed: {reason}")
    return result.stdout.strip()
