# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one exception that Muster's own code raises for a user to read."""

from __future__ import annotations


class MusterError(Exception):
    """A failure told in one sentence; modules turn it into fail_json in main()."""
