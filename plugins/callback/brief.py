# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: brief
type: stdout
short_description: Print failures, and leave the rest to the timeline
version_added: 0.1.0
author:
  - The Muster authors (@muster-platform)
description:
  - Made for a person who waits for a result, as in C(make lab). What fails is printed as the callback
    P(ansible.builtin.default#callback) does it; the progress comes from P(muster.platform.timeline#callback).
  - With C(-v) everything is printed.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
"""

from typing import Any

from ansible.plugins.callback.default import CallbackModule as Default


class CallbackModule(Default):
    """The default callback without what went well."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "muster.platform.brief"

    @property
    def _all(self) -> bool:
        return bool(self._display.verbosity)

    def get_option(self, k: str, hostvars: Any = None) -> Any:
        """With these two off, the default callback prints a task's banner only where something failed."""
        if k in ("display_ok_hosts", "display_skipped_hosts") and not self._all:
            return False
        return super().get_option(k, hostvars)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        if self._all:
            super().v2_playbook_on_play_start(play)
        else:
            self._play = play

    def v2_playbook_on_include(self, included_file: Any) -> None:
        if self._all:
            super().v2_playbook_on_include(included_file)

    def v2_playbook_on_no_hosts_matched(self) -> None:
        if self._all:
            super().v2_playbook_on_no_hosts_matched()

    def v2_runner_on_ok(self, result: Any) -> None:
        if self._all:
            super().v2_runner_on_ok(result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        if self._all:
            super().v2_runner_item_on_ok(result)

    def v2_runner_retry(self, result: Any) -> None:
        if self._all:
            super().v2_runner_retry(result)

    def v2_on_file_diff(self, result: Any) -> None:
        if self._all:
            super().v2_on_file_diff(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if self._all:
            super().v2_playbook_on_stats(stats)
