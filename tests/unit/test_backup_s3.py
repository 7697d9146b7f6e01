# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""pgBackRest's repository in S3: what may be declared, and who takes its backups."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.muster.platform.plugins.filter.backup_s3 import backup_s3, backup_s3_problems

PROGRAM = Path(__file__).parents[2] / "roles/backup_repository/files/pgbackrest_s3_backup.py"
GOOD = {
    "endpoint": "north-3:9000",
    "bucket": "backups",
    "key": "backup",
    "key_secret": "a-secret-key",
    "cipher_pass": "a-passphrase-of-its-own",
}
NOW = int(time.time())


def test_nothing_is_no_repository() -> None:
    assert backup_s3_problems({}) == []
    assert backup_s3({}) == {"place": {}, "options": {}}


def test_what_pgbackrest_is_told() -> None:
    assert backup_s3_problems(GOOD) == []
    found = backup_s3(GOOD, "/etc/ca.crt")
    assert found["place"] == {"number": 3, "host": "north-3", "port": 9000}
    options = found["options"]
    assert options["repo3-type"] == "s3"
    assert options["repo3-storage-verify-tls"] == "y"
    assert options["repo3-storage-ca-file"] == "/etc/ca.crt"
    assert options["repo3-cipher-type"] == "aes-256-cbc"
    assert (options["repo3-path"], options["repo3-s3-uri-style"]) == ("/pgbackrest", "path")
    assert all(name.startswith("repo3-") for name in options)


@pytest.mark.parametrize(
    ("endpoint", "place"),
    [
        ("s3.example.com", ("s3.example.com", 443)),
        ("https://s3.example.com/", ("s3.example.com", 443)),
        ("https://s3.example.com:8443", ("s3.example.com", 8443)),
        ("[2001:db8::1]:9000", ("2001:db8::1", 9000)),
    ],
)
def test_endpoints(endpoint: str, place: tuple[str, int]) -> None:
    found = backup_s3({**GOOD, "endpoint": endpoint})
    assert (found["place"]["host"], found["place"]["port"]) == place
    assert "repo3-storage-ca-file" not in found["options"], "the system's own are asked"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"key_secret": ""}, "postgresql_backup_s3 lacks key_secret"),
        ({"secret": "x"}, "postgresql_backup_s3 has secret, which means nothing"),
        ({"cipher_pass": "short"}, "postgresql_backup_s3.cipher_pass has fewer than 16 characters"),
        (
            {"key_secret": "two words"},
            "postgresql_backup_s3.key_secret contains white space, which pgBackRest's configuration cannot hold",
        ),
        (
            {"endpoint": "http://s3.example.com"},
            "postgresql_backup_s3.endpoint is 'http://s3.example.com': write host or host:port; "
            "it is spoken to over TLS",
        ),
        ({"endpoint": "north-3:99999"}, "postgresql_backup_s3.endpoint is 'north-3:99999'"),
        ({"bucket": "Under_score"}, "postgresql_backup_s3.bucket 'Under_score' cannot have this name: "),
        ({"path": "relative"}, "postgresql_backup_s3.path is 'relative'"),
        ({"uri_style": "virtual"}, "postgresql_backup_s3.uri_style is 'virtual': it is path or host"),
        ({"retention_days": 0}, "postgresql_backup_s3.retention_days must be at least 1"),
        ({"retention_days": "a month"}, "postgresql_backup_s3.retention_days must be at least 1"),
    ],
)
def test_bad_input_is_a_sentence_each(change: dict[str, Any], sentence: str) -> None:
    found = backup_s3_problems(GOOD | change)
    assert len(found) == 1, found
    assert found[0].startswith(sentence)
    assert not any(GOOD[key] in found[0] for key in ("key_secret", "cipher_pass"))


def test_all_that_lacks_is_told_at_once() -> None:
    assert backup_s3_problems({"endpoint": "north-3"}) == [
        "postgresql_backup_s3 lacks bucket, key, key_secret, cipher_pass"
    ]
    assert backup_s3_problems("north-3") == [
        "postgresql_backup_s3 is no dictionary; it is empty for no repository in S3"
    ]


def test_a_bad_endpoint_ends_the_filter() -> None:
    with pytest.raises(AnsibleFilterError, match="no host or host:port"):
        backup_s3({**GOOD, "endpoint": "ftp://x"})


# --- whose backup it is ---------------------------------------------------------------------------


def entry(label: str, hours: float, **more: Any) -> dict[str, Any]:
    kind = "full" if label.endswith("F") else "incr"
    return {
        "label": label,
        "type": kind,
        "timestamp": {"stop": NOW - int(hours * 3600)},
        "error": False,
    } | more


def run(
    home: Path, kind: str, *backups: dict[str, Any], code: int = 0, first: int = 0
) -> tuple[int, list[str]]:
    """The program's exit code, and how it had backups taken, the first of which ends with C(first)."""
    program = home / "bin" / "pgbackrest"
    program.parent.mkdir()
    (home / "answer").write_text(json.dumps([{"name": "muster", "backup": list(backups)}]))
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *info) cat {home}/answer; exit {code} ;; esac\n'
        f'echo "$*" >>{home}/calls\ncase "$*" in *standby=n) exit 0 ;; esac\nexit {first}\n'
    )
    program.chmod(0o755)
    environment = {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    words = [sys.executable, str(PROGRAM), "/s3.conf", "muster", kind, "12.0"]
    done = subprocess.run(words, env=environment, capture_output=True, timeout=30, check=False)
    calls = home / "calls"
    return done.returncode, calls.read_text().splitlines() if calls.exists() else []


TAKEN = ["--config=/s3.conf --stanza=muster --type={} backup"]


@pytest.mark.parametrize(
    ("kind", "backups", "taken"),
    [
        pytest.param("incr", [], True, id="none yet"),
        pytest.param("incr", [entry("20261125-010000F", 24)], True, id="yesterday's"),
        pytest.param("incr", [entry("20261126-010000F", 2)], False, id="a full one stands for it"),
        pytest.param(
            "full", [entry("20261126-010000F_20261126-020000I", 2)], True, id="an incremental does not"
        ),
        pytest.param("full", [entry("20261126-010000F", 2)], False, id="another host's"),
        pytest.param("incr", [entry("20261126-010000F", 2, error=True)], True, id="a bad one"),
    ],
)
def test_who_comes_first_takes_it(tmp_path: Path, kind: str, backups: list[Any], taken: bool) -> None:
    assert run(tmp_path, kind, *backups) == (0, [TAKEN[0].format(kind)] if taken else [])


def test_a_repository_that_cannot_be_read_is_tried_again(tmp_path: Path) -> None:
    assert run(tmp_path, "incr", code=56) == (1, [])


def test_a_standby_that_does_not_keep_up_costs_no_backup(tmp_path: Path) -> None:
    first = TAKEN[0].format("incr")
    assert run(tmp_path, "incr", first=82) == (0, [first, f"{first} --backup-standby=n"])


def test_the_program_needs_nothing_of_the_collection() -> None:
    assert importlib.util.spec_from_file_location("program", PROGRAM) is not None
    assert "ansible" not in PROGRAM.read_text()
