# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Valkey's users and settings as its own files spell them, and what is wrong with them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

CATEGORIES = frozenset(
    (
        "keyspace",
        "read",
        "write",
        "set",
        "sortedset",
        "list",
        "hash",
        "string",
        "bitmap",
        "hyperloglog",
        "geo",
        "stream",
        "pubsub",
        "admin",
        "fast",
        "slow",
        "blocking",
        "dangerous",
        "connection",
        "transaction",
        "scripting",
        "all",
    )
)
WORDS = frozenset(
    (
        "on",
        "off",
        "allkeys",
        "resetkeys",
        "allchannels",
        "resetchannels",
        "allcommands",
        "nocommands",
        "sanitize-payload",
        "skip-sanitize-payload",
    )
)
COMMAND = re.compile(r"[+-][A-Za-z0-9_.-]+(\|[A-Za-z0-9_.-]+)?")
CATEGORY = re.compile(r"[+-]@([a-z]+)")
KEYS = re.compile(r"(~|%(R|W|RW|WR)~)[^\s]+", re.IGNORECASE)
CHANNELS = re.compile(r"&[^\s]+")
PASSWORD = re.compile(r"[><#!]|nopass$|resetpass$|reset$")
NAME = re.compile(r"[A-Za-z0-9_.@:-]+")
# Made by the role itself.
OWN = ("default", "muster_operator", "muster_replication", "muster_sentinel", "muster_check")


def rule_problem(rule: str) -> str | None:
    """What is wrong with one word of a user's rules; None when Valkey would take it."""
    category = CATEGORY.fullmatch(rule)
    if category:
        return None if category[1] in CATEGORIES else f"there is no category @{category[1]}"
    if rule in WORDS or KEYS.fullmatch(rule) or CHANNELS.fullmatch(rule) or COMMAND.fullmatch(rule):
        return None
    if PASSWORD.match(rule):
        return f"{rule[0] if rule[0] in '><#!' else rule} belongs into password, not into rules"
    return f"'{rule}' is no rule (of the kinds ~keys, &channels, +command, +@category)"


def user_problems(user: Any) -> Iterator[str]:
    """What is wrong with one declared user."""
    if not isinstance(user, Mapping) or not isinstance(user.get("name"), str):
        yield "each needs a name, a password and rules"
        return
    name = user["name"]
    if not NAME.fullmatch(name):
        yield f"the name '{name}' may hold letters, digits and _ . @ : - only"
    if name in OWN:
        yield f"the name '{name}' is the role's own"
    if not user.get("password"):
        yield f"user {name} has no password"
    rules = user.get("rules")
    if not isinstance(rules, str) or not rules.strip():
        yield f"user {name} has no rules, so that it could do nothing"
        return
    selectors = re.findall(r"\(([^()]*)\)", rules)
    outside = re.sub(r"\([^()]*\)", " ", rules)
    for rule in [*outside.split(), *(word for selector in selectors for word in selector.split())]:
        problem = rule_problem(rule)
        if problem:
            yield f"rules of user {name}: {problem}"


def valkey_acl_problems(users: Any) -> list[str]:
    """What is wrong with valkey_users, a sentence each, without any password."""
    if not isinstance(users, Sequence) or isinstance(users, str):
        return ["it must be a list"]
    found = [problem for user in users for problem in user_problems(user)]
    names = [
        user["name"] for user in users if isinstance(user, Mapping) and isinstance(user.get("name"), str)
    ]
    twice = sorted({name for name in names if names.count(name) > 1})
    return found + [f"user {name} is declared twice" for name in twice]


def valkey_acl_file(users: Sequence[Mapping[str, Any]], passwords: bool = True) -> str:
    """The file of users. Passwords are hashed, so that none has to be quoted, or is lying about.

    Without them it may be shown, as the reason why Valkey refuses it.
    """
    # Nobody can log in as default. But it is who replays the AOF at a start, and Valkey leaves out each
    # transaction and script that it may not run.
    lines = ["user default off sanitize-payload ~* &* +@all"]
    for user in users:
        digest = hashlib.sha256(str(user["password"]).encode()).hexdigest()
        rules = " ".join(str(user["rules"]).split())
        login = f"on sanitize-payload resetchannels #{digest}" if passwords else "off resetchannels"
        lines.append(f"user {user['name']} {login} {rules}")
    return "\n".join(lines) + "\n"


def valkey_quote(value: Any) -> str:
    """A word of Valkey's configuration file."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    if re.fullmatch(r"[A-Za-z0-9_./:@%+,-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def resp(*words: str) -> bytes:
    """A command as Valkey's protocol has it, whatever is in the words."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        data = word.encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
    return b"".join(parts)


def valkey_role_check(password: str, user: str = "muster_check") -> str:
    """What a load balancer sends to ask a server for its role, in hexadecimal: HAProxy's C(send-binary).

    The server hangs up at the end: else HAProxy would wait for more of a replica's answer until its timeout.
    """
    return (resp("AUTH", user, password) + resp("ROLE") + resp("QUIT")).hex()


class FilterModule:
    """Filters of the namespace muster.platform."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "valkey_acl_file": valkey_acl_file,
            "valkey_acl_problems": valkey_acl_problems,
            "valkey_quote": valkey_quote,
            "valkey_role_check": valkey_role_check,
        }
