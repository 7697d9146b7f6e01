# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What importing costs: filters and tests are loaded by every task that uses one of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FILTERS = Path(__file__).parents[2] / "plugins" / "filter"
# Each of them takes longer to import than all that a filter has to do.
HEAVY = {"psycopg2", "cryptography", "ssl", "requests", "http.client", "hvac", "boto3"}
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
