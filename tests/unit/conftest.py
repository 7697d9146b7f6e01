"""Make the collection importable the way Ansible imports it, and share what several tests need."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from ansible.plugins.loader import init_plugin_loader

with contextlib.suppress(ModuleNotFoundError):
    init_plugin_loader([])
sys.path.insert(0, str(Path(__file__).parent))

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from etcd_fake import cluster, pki
from patroni_fake import patroni
from platform_fake import platform
from store_fakes import canary

__all__ = ["canary", "cluster", "patroni", "pki", "platform"]


@pytest.fixture
def run_module(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run a module's real main() and return what it printed."""

    def call(
        module: ModuleType, arguments: dict[str, Any], check: bool = False, diff: bool = False
    ) -> dict[str, Any]:
        given = {**arguments, "_ansible_check_mode": check, "_ansible_diff": diff}
        with patch_module_args(given), pytest.raises(SystemExit):
            module.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return call
