"""A real lab of its own for the end-to-end tests: seven hosts, real services, things get killed.

scripts/e2e brings the lab up before pytest starts; MUSTER_LAB says where it lives.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from e2e_lab import CHECKOUT, Lab

JOURNALS = CHECKOUT / ".cache" / "test" / "journals"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what every host has said when a test fails: the lab is gone when somebody looks."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(lab, Lab):
        folder = JOURNALS / re.sub(r"\W+", "_", f"{item.name}-{report.when}")
        folder.mkdir(parents=True, exist_ok=True)
        for host in lab.addresses:
            with contextlib.suppress(subprocess.TimeoutExpired):
                said = lab.sh(host, "journalctl -q -o short-precise --since '-10 min'", check=False)
                (folder / f"{host}.log").write_text(said)
        report.sections.append(("journals of the hosts", str(folder.relative_to(CHECKOUT))))
    return report


@pytest.fixture(scope="session")
def lab() -> Lab:
    return Lab(Path(os.environ.get("MUSTER_LAB", CHECKOUT / ".lab")))


@pytest.fixture
def healthy(lab: Lab) -> Iterator[Lab]:
    """A lab that is whole before the test; its hosts run after it, whatever the test did."""
    lab.wait_healthy()
    yield lab
    lab.boot_all()
