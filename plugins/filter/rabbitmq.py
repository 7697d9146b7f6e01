# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is declared for RabbitMQ, looked at on the controller."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _rabbitmq_declared
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq_declared import hash_password


def rabbitmq_password_hash(password: str, pepper: str) -> str:
    """RabbitMQ's salted SHA-256 of a password; the same salt each time, so that a file stays as it is."""
    return hash_password(password, hashlib.sha256(f"{pepper}\n{password}".encode()).digest()[:4])


def rabbitmq_problems(declared: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with what is declared, a sentence each."""
    return _rabbitmq_declared.problems(declared)


class FilterModule:
    """Filters of the namespace muster.platform."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"rabbitmq_password_hash": rabbitmq_password_hash, "rabbitmq_problems": rabbitmq_problems}
