"""Make the collection importable the way Ansible imports it, and share what several tests need."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from ansible.plugins.loader import init_plugin_loader

with contextlib.suppress(ModuleNotFoundError):
    init_plugin_loader([])
sys.path.insert(0, str(Path(__file__).parent))

from etcd_fake import cluster, pki

__all__ = ["cluster", "pki"]
