"""A real lab of its own for the end-to-end tests: seven hosts, real services, things get killed.

scripts/e2e brings the lab up before pytest starts; MUSTER_LAB says where it lives.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_lab import CHECKOUT, Lab


@pytest.fixture(scope="session")
def lab() -> Lab:
    return Lab(Path(os.environ.get("MUSTER_LAB", CHECKOUT / ".lab")))


@pytest.fixture
def healthy(lab: Lab) -> Iterator[Lab]:
    """A lab that is whole before the test, and is made whole after it, whatever the test did."""
    lab.wait_healthy()
    yield lab
    for host in lab.addresses:
        done = subprocess.run(
            ["podman", "inspect", "--format", "{{.State.Running}}", f"muster-{lab.id}-{host}"],
            capture_output=True,
            text=True,
            check=True,
        )
        if done.stdout.strip() != "true":
            lab.boot(host)
    lab.wait_healthy()
