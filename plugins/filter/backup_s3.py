# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""pgBackRest's repository in an S3 bucket: what may be declared, and what pgBackRest is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.muster.platform.plugins.module_utils._s3 import name_trouble

NAME = "postgresql_backup_s3"
# Every host calls it this, whatever number of repository hosts there is.
NUMBER = 3
DEFAULTS: dict[str, Any] = {
    "region": "us-east-1",
    "uri_style": "path",
    "path": "/pgbackrest",
    "retention_days": 30,
}
REQUIRED = ("endpoint", "bucket", "key", "key_secret", "cipher_pass")
KNOWN = {*REQUIRED, *DEFAULTS, "ca_certificate"}
ENDPOINT = re.compile(r"(?:https://)?([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::([0-9]{1,5}))?/?")
SHORTEST_PASS = 16
# pgBackRest's configuration takes anything in a value, but no end of it.
SPACE = re.compile(r"\s")


def _place(endpoint: Any) -> tuple[str, int] | None:
    """Host and port of an endpoint; None for what is none."""
    found = ENDPOINT.fullmatch(str(endpoint))
    port = int(found[2] or 443) if found else 0
    return (found[1], port) if found and 0 < port < 65536 else None


def _secret_problems(s3: Mapping[str, Any]) -> list[str]:
    """What is wrong with the keys; none of them is repeated."""
    found = [
        f"{NAME}.{key} contains white space, which pgBackRest's configuration cannot hold"
        for key in ("key", "key_secret", "cipher_pass")
        if SPACE.search(str(s3.get(key) or ""))
    ]
    if 0 < len(str(s3.get("cipher_pass") or "")) < SHORTEST_PASS:
        found.append(f"{NAME}.cipher_pass has fewer than {SHORTEST_PASS} characters")
    return found


def _place_problems(s3: Mapping[str, Any]) -> list[str]:
    found = []
    if s3.get("endpoint") and _place(s3["endpoint"]) is None:
        found.append(
            f"{NAME}.endpoint is '{s3['endpoint']}': write host or host:port; it is spoken to over TLS"
        )
    trouble = name_trouble(str(s3["bucket"])) if s3.get("bucket") else None
    if trouble:
        found.append(f"{NAME}.bucket '{s3['bucket']}' cannot have this name: {trouble}")
    if not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", str(s3["path"])):
        found.append(
            f"{NAME}.path is '{s3['path']}': it begins with / and has letters, digits and ._- between"
        )
    if s3["uri_style"] not in ("path", "host"):
        found.append(f"{NAME}.uri_style is '{s3['uri_style']}': it is path or host")
    return found


def backup_s3_problems(s3: Any) -> list[str]:
    """A sentence for each thing that is wrong; none for an empty one, which turns it off."""
    if not isinstance(s3, Mapping):
        return [f"{NAME} is no dictionary; it is empty for no repository in S3"]
    if not s3:
        return []
    unknown, lacking = sorted(set(s3) - KNOWN), [key for key in REQUIRED if not s3.get(key)]
    found = [f"{NAME} has {', '.join(unknown)}, which means nothing"] if unknown else []
    if lacking:
        found.append(f"{NAME} lacks {', '.join(lacking)}")
    whole = {**DEFAULTS, **s3}
    if not str(whole["retention_days"]).isdigit() or int(whole["retention_days"]) < 1:
        found.append(f"{NAME}.retention_days must be at least 1")
    return found + _secret_problems(whole) + _place_problems(whole)


def backup_s3(s3: Mapping[str, Any], ca_file: str = "") -> dict[str, Any]:
    """C(place): its C(number), C(host) and C(port); C(options): pgBackRest's own, by name. Empty for none."""
    if not s3:
        return {"place": {}, "options": {}}
    place = _place(s3.get("endpoint"))
    if place is None:
        raise AnsibleFilterError("the endpoint of the S3 repository is no host or host:port")
    whole = {**DEFAULTS, **s3}
    options = {
        "type": "s3",
        "s3-endpoint": place[0],
        "storage-port": place[1],
        "storage-verify-tls": "y",
        "storage-ca-file": ca_file,
        "s3-bucket": whole["bucket"],
        "s3-region": whole["region"],
        "s3-uri-style": whole["uri_style"],
        "s3-key": whole["key"],
        "s3-key-secret": whole["key_secret"],
        "path": whole["path"],
        "cipher-type": "aes-256-cbc",
        "cipher-pass": whole["cipher_pass"],
        "retention-full-type": "time",
        "retention-full": whole["retention_days"],
        "bundle": "y",
    }
    return {
        "place": {"number": NUMBER, "host": place[0].strip("[]"), "port": place[1]},
        "options": {f"repo{NUMBER}-{key}": value for key, value in options.items() if value != ""},
    }


class FilterModule:
    """Filters of the namespace muster.platform."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"backup_s3": backup_s3, "backup_s3_problems": backup_s3_problems}
