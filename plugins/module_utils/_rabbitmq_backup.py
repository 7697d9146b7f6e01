# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A cluster's definitions in an encrypted file, and back.

The passwords in it are hashes, the link's is not: it is part of an address. So the file is
encrypted (AES-256-GCM, the key by scrypt), and what was changed in it is not read.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

MAGIC = "muster-rabbitmq-1\n"
KINDS = ("vhosts", "users", "permissions", "topic_permissions", "exchanges", "queues", "bindings", "policies")
# What the region's role decides is not brought back: a file of another day has no say in it.
RESTORED = ("vhosts", "users", "exchanges", "queues", "bindings")


def _cipher(passphrase: str, salt: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    return AESGCM(Scrypt(salt=salt, length=32, n=2**15, r=8, p=1).derive(passphrase.encode()))


def seal(text: str, passphrase: str) -> str:
    salt, nonce = os.urandom(16), os.urandom(12)
    sealed = _cipher(passphrase, salt).encrypt(nonce, text.encode(), MAGIC.encode())
    return MAGIC + base64.b64encode(salt + nonce + sealed).decode() + "\n"


def unseal(data: str, passphrase: str, name: str) -> str:
    from cryptography.exceptions import InvalidTag

    if not data.startswith(MAGIC):
        raise MusterError(f"{name} is no backup of RabbitMQ's definitions")
    try:
        rest = base64.b64decode(data.removeprefix(MAGIC))
        text: bytes = _cipher(passphrase, rest[:16]).decrypt(rest[16:28], rest[28:], MAGIC.encode())
    except (InvalidTag, ValueError) as error:
        raise MusterError(
            f"{name} cannot be decrypted: rabbitmq_backup_passphrase is another one, or the file was changed"
        ) from error
    return text.decode()


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
