"""No secret of the lab shows where it must not, on any host or on the controller."""

from __future__ import annotations

import subprocess

import pytest
from e2e_lab import CHECKOUT, Lab

HOSTS = ("north-1", "north-2", "north-3", "south-1", "south-2", "south-3", "witness")


@pytest.mark.parametrize("host", HOSTS)
def test_no_secret_in_logs_processes_or_open_files(lab: Lab, host: str) -> None:
    patterns = "\n".join(lab.secrets.values())
    lab.podman("exec", f"muster-{lab.id}-{host}", "sh", "-c", "umask 077; mkdir -p /run/secrets-test")
    subprocess.run(
        ["podman", "exec", "-i", f"muster-{lab.id}-{host}", "sh", "-c", "umask 077; cat >/run/secrets-test/patterns"],
        input=patterns, text=True, check=True,
    )  # fmt: skip
    try:
        script = (
            "p=/run/secrets-test/patterns; "
            "journalctl --no-pager -q -o cat | grep -qFf $p && echo journal; "
            "grep -rlFf $p /var/log 2>/dev/null; "
            "ps axeww | grep -v grep | grep -qFf $p && echo 'process list'; "
            # -perm -o=r: any file that the world may read.
            "find / -xdev -type f -perm -o=r -size -2048k -not -path '/usr/*' -not -path '/run/secrets-test/*' "
            "-not -path '/proc/*' -not -path '/sys/*' -print0 | xargs -0 grep -lFf $p 2>/dev/null; true"
        )
        assert lab.sh(host, script) == ""
        # The search itself works: a file that holds a secret is found.
        lab.sh(host, "head -n 1 /run/secrets-test/patterns > /var/tmp/planted; chmod 644 /var/tmp/planted")
        assert "/var/tmp/planted" in lab.sh(host, script)
    finally:
        lab.sh(host, "rm -rf /run/secrets-test /var/tmp/planted")


def test_no_secret_in_what_the_controller_keeps(lab: Lab) -> None:
    found = []
    for place in (lab.directory / "drills", CHECKOUT / ".ansible", CHECKOUT / ".cache"):
        for path in place.rglob("*") if place.exists() else []:
            if (
                not path.is_file()
                or path.is_symlink()
                or path.stat().st_size > 20_000_000
                or lab.directory in path.parents
            ):
                continue
            if any(part in ("collections", "pycache") or part.startswith("venv") for part in path.parts):
                continue
            content = path.read_bytes()
            found += [str(path) for secret in lab.secrets.values() if secret.encode() in content]
    assert found == []
    for name in ("secrets.json", "pki/ca.key", "ssh/id_ed25519"):
        assert (lab.directory / name).stat().st_mode & 0o077 == 0
