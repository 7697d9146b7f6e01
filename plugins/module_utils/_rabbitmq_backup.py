# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A cluster's definitions in an encrypted file, and back.

The passwords in it are hashes, the link's is not: it is part of an address. So the file is
encrypted (AES-256-GCM, the key by scrypt), and what was changed in it is not read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

MAGIC = b"muster-rabbitmq-1\n"
KINDS = ("vhosts", "users", "permissions", "topic_permissions", "exchanges", "queues", "bindings", "policies")


def _cipher(passphrase: str, salt: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    return AESGCM(Scrypt(salt=salt, length=32, n=2**15, r=8, p=1).derive(passphrase.encode()))


def seal(text: str, passphrase: str) -> bytes:
    salt, nonce = os.urandom(16), os.urandom(12)
    return MAGIC + salt + nonce + _cipher(passphrase, salt).encrypt(nonce, text.encode(), MAGIC)


def unseal(data: bytes, passphrase: str, name: str) -> str:
    from cryptography.exceptions import InvalidTag

    if not data.startswith(MAGIC):
        raise MusterError(f"{name} is no backup of RabbitMQ's definitions")
    rest = data[len(MAGIC) :]
    try:
        text: bytes = _cipher(passphrase, rest[:16]).decrypt(rest[16:28], rest[28:], MAGIC)
    except InvalidTag as error:
        raise MusterError(
            f"{name} cannot be decrypted: rabbitmq_backup_passphrase is another one, or the file was changed"
        ) from error
    return text.decode()


def write_secret(path: Path, data: bytes) -> None:
    """Whole or not at all, readable by root alone, on the disk."""
    temporary = path.with_name(f".{path.name}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def comparable(definitions: Mapping[str, Any]) -> dict[str, set[str]]:
    """Objects by kind, in a form that compares; what belongs to a role or to one cluster is left out."""
    found = {}
    for kind in KINDS:
        items = definitions.get(kind, [])
        if kind == "vhosts":
            items = [{"name": item["name"]} for item in items]
        found[kind] = {json.dumps(item, sort_keys=True) for item in items}
    return found


def missing(wanted: Mapping[str, Any], have: Mapping[str, Any]) -> list[str]:
    """Kinds of which not all that is wanted is there."""
    mine, theirs = comparable(wanted), comparable(have)
    return [f"{len(mine[kind] - theirs[kind])} {kind}" for kind in KINDS if mine[kind] - theirs[kind]]
