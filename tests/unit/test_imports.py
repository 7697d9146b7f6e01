# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What importing costs: every task that uses a filter has all of its collection, from its parent or anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FILTERS = Path(__file__).parents[2] / "plugins" / "filter"
# Each of them takes longer to import than all that a filter has to do.
HEAVY = {"psycopg2", "cryptography", "ssl", "requests", "http.client", "hvac", "boto3"}
START = """
import sys
from types import SimpleNamespace
from ansible.plugins.loader import callback_loader, init_plugin_loader
init_plugin_loader()
callback = callback_loader.get("muster.platform.timeline")
callback.v2_playbook_on_start(SimpleNamespace(_file_name="site.yml"))
print(*sys.modules)
"""
LOOK = """
import importlib, sys
from ansible.plugins.loader import init_plugin_loader
init_plugin_loader()
before = set(sys.modules)
importlib.import_module(sys.argv[1])
print(*(set(sys.modules) - before))
"""


@pytest.mark.parametrize("name", sorted(path.stem for path in FILTERS.glob("*.py")))
def test_a_filter_imports_nothing_heavy(name: str) -> None:
    module = f"ansible_collections.muster.platform.plugins.filter.{name}"
    done = subprocess.run([sys.executable, "-c", LOOK, module], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert module in loaded
    assert loaded & HEAVY == set()


def test_the_filters_are_there_before_the_first_task_is_forked() -> None:
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    collection = "ansible_collections.muster.platform.plugins.filter"
    assert {f"{collection}.{path.stem}" for path in FILTERS.glob("*.py")} <= loaded
    # Ansible puts a number behind the names of its own ones.
    assert {"ansible.plugins.filter.core", "ansible.plugins.test.core"} <= {
        name.rpartition("_")[0] for name in loaded
    }
