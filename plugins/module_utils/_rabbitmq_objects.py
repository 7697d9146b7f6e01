# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bringing a RabbitMQ cluster's objects to what is declared: read once, write once what differs."""

from __future__ import annotations

import base64
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _rabbitmq_declared as declared_
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._rabbitmq import Region

Objects = dict[str, dict[tuple[Any, ...], Any]]
HASHING = "rabbit_password_hashing_sha256"
IDENTITY = {
    "vhosts": ("name",),
    "users": ("name",),
    "permissions": ("vhost", "user"),
    "exchanges": ("vhost", "name"),
    "queues": ("vhost", "name"),
    "policies": ("vhost", "name"),
    "parameters": ("vhost", "component", "name"),
}
# What RabbitMQ lets nobody change of one that is there.
FIXED = {"exchanges": "exchange", "queues": "queue"}
OWN_COMPONENTS = ("shovel", "federation-upstream")


def has_password(user: Mapping[str, Any], password: str) -> bool:
    """Whether it is the password whose hash a user has."""
    try:
        known = base64.b64decode(user["password_hash"])
    except (KeyError, ValueError):
        return False
    same = hmac.compare_digest(declared_.hash_password(password, known[:4]), user["password_hash"])
    return same and user.get("hashing_algorithm", HASHING) == HASHING


def read(region: Region) -> Objects:
    """What the cluster has, by kind and identity."""
    document = region.request("GET", "/api/definitions")
    found: Objects = {kind: {} for kind in (*IDENTITY, "bindings")}
    for kind, identity in IDENTITY.items():
        for item in document.get(kind, []):
            body = {key: value for key, value in item.items() if key not in identity}
            found[kind][tuple(item[key] for key in identity)] = body
    for item in document.get("bindings", []):
        keys = ("vhost", "source", "destination", "destination_type", "routing_key")
        arguments = item.get("arguments", {})
        key = (*(item[name] for name in keys), json.dumps(arguments, sort_keys=True))
        found["bindings"][key] = arguments
    return found


@dataclass
class Change:
    """What brings a cluster to what is declared."""

    definitions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    deletions: list[tuple[str, ...]] = field(default_factory=list)  # paths of the API
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.definitions or self.deletions)


def differs(kind: str, have: Any, want: Any) -> bool:
    if kind == "users":
        tags = have.get("tags", [])
        tags = tags.split(",") if isinstance(tags, str) else tags
        return sorted(filter(None, tags)) != want["tags"] or not has_password(have, want["password"])
    if kind == "vhosts":
        return False
    if kind == "parameters":
        return bool(have.get("value") != want)
    return bool(any(have.get(key) != value for key, value in want.items()))


def refuse_redefinition(have: Objects, want: Objects, region: str) -> None:
    """RabbitMQ refuses to change a queue or an exchange that is there: said before anything is changed."""
    found = []
    for kind, noun in FIXED.items():
        for key, body in want[kind].items():
            present = have[kind].get(key)
            for what, there, declared in _conflicts(present, body) if present is not None else ():
                found.append(
                    f"the {noun} {key[1]} of vhost {key[0]} runs in region {region} with {what} {there!r} "
                    f"and is declared with {declared!r}, which RabbitMQ cannot change: declare {there!r}, or "
                    f"move its messages to a {noun} of another name and delete it"
                )
    if found:
        raise MusterError("; ".join(found))


def _conflicts(have: Mapping[str, Any], want: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    found = [(k, have.get(k), v) for k, v in want.items() if k != "arguments" and have.get(k) != v]
    mine, theirs = want["arguments"], have.get("arguments", {})
    for name in sorted(set(mine) | set(theirs)):
        if mine.get(name) != theirs.get(name):
            found.append((f"the argument {name}", theirs.get(name), mine.get(name)))
    return found


def compare(have: Objects, want: Objects, declared: Mapping[str, Any], role: str) -> Change:
    """What differs, and what must not be."""
    change = Change()
    for kind, wanted in want.items():
        for key, body in wanted.items():
            present = have[kind].get(key)
            if present is None or (kind != "bindings" and differs(kind, present, body)):
                change.definitions.setdefault(kind, []).append(_definition(kind, key, body))
                change.before[_shown(kind, key)] = None if present is None else _public(kind, present)
                change.after[_shown(kind, key)] = _public(kind, body)
    for path in _deletions(have, want, declared, role):
        change.deletions.append(path)
        change.before[" ".join(path)] = "present"
    return change


def _definition(kind: str, key: tuple[Any, ...], body: Any) -> dict[str, Any]:
    """One object as the API takes it."""
    if kind == "bindings":
        names = ("vhost", "source", "destination", "destination_type", "routing_key")
        return {**dict(zip(names, key, strict=False)), "arguments": body}
    named = dict(zip(IDENTITY[kind], key, strict=True))
    if kind == "users":
        hashed = declared_.hash_password(body["password"], secrets.token_bytes(4))
        return {**named, "password_hash": hashed, "hashing_algorithm": HASHING, "tags": body["tags"]}
    if kind == "vhosts":
        return {**named, "metadata": {"default_queue_type": "quorum"}}
    if kind == "parameters":
        return {**named, "value": body}
    return {**named, **body}


def _deletions(have: Objects, want: Objects, declared: Mapping[str, Any], role: str) -> list[tuple[str, ...]]:
    """Permissions that nobody may have by the region's role, and what Muster made and needs no more."""
    own = {declared["operator_user"], declared["upstream_user"]}
    named = {user["name"] for user in declared["users"]}
    found: list[tuple[str, ...]] = []
    for vhost, user in have["permissions"]:
        if user in own or (vhost, user) in want["permissions"]:
            continue
        if role != "primary" or user in named:
            found.append(("permissions", vhost, user))
    for vhost, name in have["policies"]:
        if name.startswith(declared_.OWN) and (vhost, name) not in want["policies"]:
            found.append(("policies", vhost, name))
    for vhost, component, name in have["parameters"]:
        mine = component in OWN_COMPONENTS and name.startswith(declared_.OWN)
        if mine and (vhost, component, name) not in want["parameters"]:
            found.append(("parameters", component, vhost, name))
    if declared["standby"]["mode"] != "shovel":
        stale = set(declared_.backlog_queues(declared))
        # First, because it may be refused.
        found[:0] = [("queues", *key) for key in sorted(stale & set(have["queues"]))]
    if ("guest",) in have["users"]:
        found.append(("users", "guest"))
    return found


def _shown(kind: str, key: tuple[Any, ...]) -> str:
    return f"{kind} " + " ".join(str(part) for part in key if part != "{}")


def _public(kind: str, body: Any) -> Any:
    """An object without its secrets, for a diff."""
    if kind == "users":
        return {"tags": body.get("tags"), "password": "(hidden)"}
    if kind == "parameters":
        value = body.get("value", body)
        return {name: "(hidden)" if "uri" in name else item for name, item in value.items()}
    return body


def bring(region: Region, declared: Mapping[str, Any], role: str, check: bool = False) -> Change:
    """Make the region what its role asks for; what was changed."""
    have = read(region)
    want = declared_.wanted(declared, region.name, role)
    refuse_redefinition(have, want, region.name)
    change = compare(have, want, declared, role)
    if check:
        return change
    # What must go goes first: a permission, and a link that would deliver twice.
    for path in change.deletions:
        if path[0] == "queues":
            delete_empty(region, path[1], path[2])
        else:
            region.delete(*path)
    if change.definitions:
        region.request("POST", "/api/definitions", change.definitions)
    return change


def delete_empty(region: Region, vhost: str, name: str) -> None:
    """A queue that another way of pulling needed; never one that still holds something."""
    # Asked beforehand: quorum queues know no deletion that depends on it.
    ready, _consumers = region.depths([(vhost, name)])[vhost, name]
    if ready:
        raise MusterError(
            f"rabbitmq_standby cannot change while {name} of vhost {vhost} in region {region.name} holds "
            f"{ready} messages that the other region has not pulled: set it back until the backlog is 0"
        )
    region.delete("queues", vhost, name)


def writers(region: Region, declared: Mapping[str, Any]) -> list[str]:
    """The permissions by which anybody but Muster could write or read in the region."""
    own = {declared["operator_user"], declared["upstream_user"]}
    return sorted(
        f"{item['user']} in {item['vhost']}"
        for item in region.get("permissions") or []
        if item["user"] not in own
    )
