"""Make the collection importable the way Ansible imports it."""

from __future__ import annotations

import contextlib

from ansible.plugins.loader import init_plugin_loader

with contextlib.suppress(ModuleNotFoundError):
    init_plugin_loader([])
