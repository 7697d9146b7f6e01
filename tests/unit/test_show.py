# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""show: lines for the person at the terminal."""

from __future__ import annotations

import pytest
from action_fake import run_action
from ansible.errors import AnsibleError
from ansible_collections.muster.platform.plugins.action import show


def test_lines_are_printed_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[str] = []
    monkeypatch.setattr(show.display, "display", printed.append)
    answer = run_action(show, {"lines": ["PASS", "  report: {{ not.a.template }}"]}, {})
    assert answer["changed"] is False
    assert printed == ["\nPASS\n  report: {{ not.a.template }}\n"]


def test_lines_are_needed() -> None:
    with pytest.raises(AnsibleError, match="lines"):
        run_action(show, {}, {})
