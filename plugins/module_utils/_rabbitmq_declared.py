# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is declared for RabbitMQ: what is wrong with it, and what it means in a region by its role.

Only the standard library: the controller checks it too, before the first change.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

OWN = "muster."  # what starts so is Muster's
OWN_VHOST = "muster.operations"
BACKLOG = ".dr"  # the queue that holds what the other region has not pulled yet
PRIORITY = 1000  # of Muster's policies, over all others
NONE = {"configure": "^$", "write": "^$", "read": "^$"}
ANY = {"configure": ".*", "write": ".*", "read": ".*"}
# What the other region's link may: read every queue, and have its own ones where it federates.
LINK = {"configure": "^federation: ", "write": "^federation: ", "read": ".*"}
# In a primary that is shoveled from, only what waits for the other region: a region that comes back with
# a link that carried over would else take what applications wrote here since.
SHOVEL = {**NONE, "read": re.escape(BACKLOG) + "$"}

KEYS: dict[str, dict[str, Any]] = {
    # option: its identity, and what else it may have with the default
    "users": {"name": None, "password": None, "tags": [], "permissions": []},
    "exchanges": {
        "name": None, "vhost": None, "type": "topic", "durable": True, "auto_delete": False,
        "internal": False, "arguments": {},
    },
    "queues": {
        "name": None, "vhost": None, "type": "quorum", "durable": True, "arguments": {},
        "dead_letter": {}, "standby": True,
    },
    "bindings": {
        "vhost": None, "source": None, "destination": None, "destination_type": "queue",
        "routing_key": "", "arguments": {},
    },
    "policies": {
        "name": None, "vhost": None, "pattern": None, "apply_to": "all", "definition": None, "priority": 0,
    },
}  # fmt: skip
IDENTITY = {
    "users": ("name",),
    "exchanges": ("vhost", "name"),
    "queues": ("vhost", "name"),
    "policies": ("vhost", "name"),
}
NOUN = {
    "users": "user", "exchanges": "exchange", "queues": "queue", "bindings": "binding", "policies": "policy",
}  # fmt: skip
DEAD_LETTER = {"exchange": "dead-letter-exchange", "routing_key": "dead-letter-routing-key"}
SECRET = {"password"}

Item = dict[str, Any]


def hash_password(password: str, salt: bytes) -> str:
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def label(kind: str, item: Mapping[str, Any]) -> str:
    name = item.get("name") or f"{item.get('source')} -> {item.get('destination')}"
    where = f" of vhost {item['vhost']}" if item.get("vhost") else ""
    return f"{NOUN[kind]} {name}{where}"


def filled(kind: str, item: Mapping[str, Any]) -> Item:
    """An item with its defaults."""
    return {**KEYS[kind], **item}


# --- what is wrong ------------------------------------------------------------------------


def problems(declared: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with what is declared, a sentence each."""
    malformed = list(_malformed(declared))
    if malformed:
        return malformed
    return [
        *_twice(declared),
        *_users(declared),
        *_places(declared),
        *_queues(declared),
        *_policies(declared),
        *_writers(declared),
    ]


def _malformed(declared: Mapping[str, Any]) -> Iterator[str]:
    for kind, keys in KEYS.items():
        for item in declared[kind]:
            if not isinstance(item, Mapping):
                yield f"rabbitmq_{kind}: {item!r} is no dictionary"
                continue
            missing = [key for key, default in keys.items() if default is None and key not in item]
            unknown = [key for key in item if key not in keys]
            if missing:
                yield f"rabbitmq_{kind}: the {label(kind, item)} lacks {', '.join(missing)}"
            if unknown:
                yield (
                    f"rabbitmq_{kind}: the {label(kind, item)} has {', '.join(unknown)}, which means nothing"
                )
    for name in declared["vhosts"]:
        if not isinstance(name, str) or not name:
            yield f"rabbitmq_vhosts: {name!r} is no name"


def _twice(declared: Mapping[str, Any]) -> Iterator[str]:
    """The same thing declared twice, with different arguments."""
    for kind, identity in IDENTITY.items():
        seen: dict[tuple[Any, ...], Item] = {}
        for given in declared[kind]:
            item = filled(kind, given)
            first = seen.setdefault(tuple(item[key] for key in identity), item)
            for key in [key for key in item if item[key] != first[key]]:
                values = "two values" if key in SECRET else f"once {first[key]!r} and once {item[key]!r}"
                yield (
                    f"rabbitmq_{kind}: the {label(kind, item)} is declared twice, with {key} {values}: "
                    "keep one of the declarations"
                )


def _users(declared: Mapping[str, Any]) -> Iterator[str]:
    for given in declared["users"]:
        user = filled("users", given)
        who = f"rabbitmq_users: the user {user['name']}"
        if user["name"] in ("guest", declared["operator_user"], declared["upstream_user"]):
            yield f"{who} is not yours to declare"
        if not user["password"]:
            yield f"{who} has an empty password"
        for permission in user["permissions"]:
            if set(permission) - {"vhost", "configure", "write", "read"} or "vhost" not in permission:
                yield f"{who}: a permission has vhost, configure, write and read"
                continue
            if permission["vhost"] not in declared["vhosts"]:
                where = permission["vhost"]
                yield f"{who} has permissions in vhost {where}, which is not among rabbitmq_vhosts"
            for right in ("configure", "write", "read"):
                yield from _pattern(f"{who}: {right}", permission.get(right, "^$"))


def _pattern(what: str, pattern: Any) -> Iterator[str]:
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        yield f"{what} is {pattern!r}, which is no regular expression: {error}"


def _places(declared: Mapping[str, Any]) -> Iterator[str]:
    """What names a vhost, an exchange or a queue that is not declared."""
    known = {
        kind: {(item["vhost"], item["name"]) for item in declared[kind]} for kind in ("exchanges", "queues")
    }
    for kind in ("exchanges", "queues", "bindings", "policies"):
        for item in declared[kind]:
            if item["vhost"] not in declared["vhosts"]:
                what = f"rabbitmq_{kind}: the {label(kind, item)}"
                yield f"{what} is in a vhost that is not among rabbitmq_vhosts"
    for given in declared["bindings"]:
        item = filled("bindings", given)
        target = "exchanges" if item["destination_type"] == "exchange" else "queues"
        for side, where in (("source", "exchanges"), ("destination", target)):
            if (item["vhost"], item[side]) not in known[where]:
                what = f"rabbitmq_bindings: the {label('bindings', item)}"
                yield f"{what}: {item[side]} is not among rabbitmq_{where}"
    for given in declared["queues"]:
        dead = filled("queues", given)["dead_letter"]
        if dead and (given["vhost"], dead.get("exchange")) not in known["exchanges"]:
            yield (
                f"rabbitmq_queues: the {label('queues', given)}: dead_letter.exchange is "
                f"{dead.get('exchange')!r}, which is not among rabbitmq_exchanges"
            )


def _queues(declared: Mapping[str, Any]) -> Iterator[str]:
    for given in declared["queues"]:
        item = filled("queues", given)
        who = f"rabbitmq_queues: the {label('queues', item)}"
        if item["name"].endswith(BACKLOG) or item["name"].startswith(("amq.", "federation: ")):
            yield f"{who} has a name that is not free: {BACKLOG} at the end, amq. and federation: are taken"
        if item["type"] not in ("quorum", "classic", "stream"):
            yield f"{who}: its type is {item['type']!r}: quorum, classic or stream"
        if item["type"] == "stream" and item["standby"]:
            yield f"{who} is a stream, which no standby can follow: set standby: false"
        if unknown := set(item["dead_letter"]) - {"exchange", "routing_key"}:
            yield f"{who}: dead_letter has {', '.join(sorted(unknown))}; it has exchange and routing_key"
        for name in item["arguments"]:
            if name == "x-queue-type":
                yield f"{who}: x-queue-type is not among its arguments but its type"
            if name.startswith("x-dead-letter-"):
                yield f"{who}: {name} would fill the dead letters of a standby: use dead_letter instead"


def _policies(declared: Mapping[str, Any]) -> Iterator[str]:
    for given in declared["policies"]:
        item = filled("policies", given)
        who = f"rabbitmq_policies: the {label('policies', item)}"
        yield from _pattern(f"{who}: pattern", item["pattern"])
        if item["name"].startswith(OWN):
            yield f"{who} has a name that is not free: {OWN} at the beginning is taken"
        if not isinstance(item["definition"], Mapping) or not item["definition"]:
            definition = item["definition"]
            yield f"{who}: its definition is {definition!r}, which is no dictionary with something in it"
        if not isinstance(item["priority"], int) or item["priority"] >= PRIORITY:
            yield f"{who}: its priority is {item['priority']!r}: a number below {PRIORITY}"


def _writers(declared: Mapping[str, Any]) -> Iterator[str]:
    """What is written to a queue by its name passes by the exchanges, and so by the standby."""
    followed = {item["vhost"] for item in declared["queues"] if filled("queues", item)["standby"]}
    for user in declared["users"]:
        for permission in filled("users", user)["permissions"]:
            pattern = permission.get("write", "^$")
            bad = bool(list(_pattern("", pattern)))
            if permission["vhost"] in followed and not bad and re.search(pattern, "amq.default"):
                yield (
                    f"rabbitmq_users: the user {user['name']} may write to the default exchange of vhost "
                    f"{permission['vhost']} (write {pattern!r} matches amq.default), and what is written "
                    "there never reaches the standby: name the exchanges instead"
                )


# --- what it means ------------------------------------------------------------------------


def backlog_queues(declared: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The queues that hold what the other region has not pulled yet, where a shovel pulls."""
    return [(vhost, name + BACKLOG) for vhost, name in followed_queues(declared)]


def followed_queues(declared: Mapping[str, Any]) -> list[tuple[str, str]]:
    items = [filled("queues", item) for item in declared["queues"]]
    return sorted({(item["vhost"], item["name"]) for item in items if item["standby"]})


def wanted(declared: Mapping[str, Any], region: str, role: str) -> dict[str, dict[tuple[Any, ...], Any]]:
    """Everything that a region shall have, by kind and identity.

    C(role) is primary or standby, or closed for a primary on its way to be a standby: what its
    applications may is gone, the rest is as in a primary.
    """
    return {
        "vhosts": {(name,): {} for name in [*declared["vhosts"], OWN_VHOST]},
        "users": _wanted_users(declared),
        "permissions": _wanted_permissions(declared, role),
        "exchanges": {(i["vhost"], i["name"]): _exchange(i) for i in declared["exchanges"]},
        "queues": _wanted_queues(declared),
        "bindings": _wanted_bindings(declared),
        "policies": _wanted_policies(declared, role),
        "parameters": _wanted_links(declared, region) if role == "standby" else {},
    }


def _wanted_users(declared: Mapping[str, Any]) -> dict[tuple[Any, ...], Any]:
    own = {
        declared["operator_user"]: {"password": declared["operator_password"], "tags": ["administrator"]},
        declared["upstream_user"]: {"password": declared["upstream_password"], "tags": []},
    }
    users = [filled("users", user) for user in declared["users"]]
    yours = {u["name"]: {"password": u["password"], "tags": sorted(u["tags"])} for u in users}
    return {(name,): body for name, body in {**yours, **own}.items()}


def _wanted_permissions(declared: Mapping[str, Any], role: str) -> dict[tuple[Any, ...], Any]:
    found: dict[tuple[Any, ...], Any] = {}
    for vhost in [*declared["vhosts"], OWN_VHOST]:
        found[vhost, declared["operator_user"]] = ANY
    shoveled = role == "primary" and declared["standby"]["mode"] == "shovel"
    for vhost in declared["vhosts"]:
        found[vhost, declared["upstream_user"]] = SHOVEL if shoveled else LINK
    for user in declared["users"] if role == "primary" else []:
        for permission in filled("users", user)["permissions"]:
            rights = {right: permission.get(right, "^$") for right in NONE}
            found[permission["vhost"], user["name"]] = rights
    return found


def _exchange(given: Mapping[str, Any]) -> Item:
    item = filled("exchanges", given)
    return {key: item[key] for key in ("type", "durable", "auto_delete", "internal", "arguments")}


def _wanted_queues(declared: Mapping[str, Any]) -> dict[tuple[Any, ...], Any]:
    found: dict[tuple[Any, ...], Any] = {}
    for given in declared["queues"]:
        item = filled("queues", given)
        arguments = {"x-queue-type": item["type"], **item["arguments"]}
        found[item["vhost"], item["name"]] = {
            "durable": item["durable"], "auto_delete": False, "arguments": arguments,
        }  # fmt: skip
    if declared["standby"]["mode"] == "shovel":
        for key in backlog_queues(declared):
            # A link that comes and goes must not count as a failed delivery.
            arguments = {"x-queue-type": "quorum", "x-delivery-limit": -1}
            found[key] = {"durable": True, "auto_delete": False, "arguments": arguments}
    return found


def _wanted_bindings(declared: Mapping[str, Any]) -> dict[tuple[Any, ...], Any]:
    followed = set(followed_queues(declared)) if declared["standby"]["mode"] == "shovel" else set()
    found: dict[tuple[Any, ...], Any] = {}
    for given in declared["bindings"]:
        item = filled("bindings", given)
        names = [item["destination"]]
        if item["destination_type"] == "queue" and (item["vhost"], item["destination"]) in followed:
            names.append(item["destination"] + BACKLOG)
        for name in names:
            key = (item["vhost"], item["source"], name, item["destination_type"], item["routing_key"])
            found[(*key, json.dumps(item["arguments"], sort_keys=True))] = item["arguments"]
    return found


def _wanted_policies(declared: Mapping[str, Any], role: str) -> dict[tuple[Any, ...], Any]:
    given = [filled("policies", item) for item in declared["policies"]]
    found: dict[tuple[Any, ...], Any] = {
        (item["vhost"], item["name"]): {
            "pattern": item["pattern"], "apply-to": item["apply_to"], "priority": item["priority"],
            "definition": dict(item["definition"]),
        }
        for item in given
    }  # fmt: skip
    for item in (filled("queues", queue) for queue in declared["queues"]):
        base = _effective(given, item["vhost"], item["name"], "queues")
        if role == "standby" and item["standby"]:
            definition = _bounded(base, declared["standby"])
        else:
            dead = item["dead_letter"]
            definition = {**base, **{DEAD_LETTER[key]: value for key, value in dead.items()}}
        if definition != base:
            found[item["vhost"], OWN + item["name"]] = _own_policy(item["name"], "queues", definition)
    if declared["standby"]["mode"] == "shovel":
        found |= _backlog_policies(declared, given)
    elif role == "standby":
        found |= _federation_policies(declared, given)
    return found


def _backlog_policies(declared: Mapping[str, Any], given: list[Item]) -> dict[tuple[Any, ...], Any]:
    """No policy of yours may drop what the other region has not pulled yet."""
    found: dict[tuple[Any, ...], Any] = {}
    for vhost, name in backlog_queues(declared):
        if _effective(given, vhost, name, "queues"):
            found[vhost, OWN + name] = _own_policy(name, "queues", {"delivery-limit": -1})
    return found


def federated_exchanges(declared: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The exchanges through which something reaches a queue that the standby follows."""
    bindings = [filled("bindings", item) for item in declared["bindings"]]
    targets = {(vhost, "queue", name) for vhost, name in followed_queues(declared)}
    sources = {
        (item["vhost"], item["source"])
        for item in bindings
        if (item["vhost"], item["destination_type"], item["destination"]) in targets
    }
    return sorted(sources)


def _federation_policies(declared: Mapping[str, Any], given: list[Item]) -> dict[tuple[Any, ...], Any]:
    found: dict[tuple[Any, ...], Any] = {}
    for vhost, name in federated_exchanges(declared):
        base = _effective(given, vhost, name, "exchanges")
        definition = {**base, "federation-upstream": OWN + "upstream"}
        found[vhost, OWN + "exchange." + name] = _own_policy(name, "exchanges", definition)
    return found


def _effective(policies: list[Item], vhost: str, name: str, kind: str) -> Item:
    """What your own policies give a queue or an exchange: the one of the highest priority alone counts."""
    fits = [
        item
        for item in policies
        if item["vhost"] == vhost and item["apply_to"] in ("all", kind) and re.search(item["pattern"], name)
    ]
    return dict(max(fits, key=lambda item: int(item["priority"]))["definition"]) if fits else {}


def _bounded(base: Item, standby: Mapping[str, Any]) -> Item:
    """A standby's copy has no consumers: it keeps a window, and what leaves it is no dead letter."""
    found = {key: value for key, value in base.items() if not key.startswith("dead-letter-")}
    for key, value in (
        ("message-ttl", int(standby["replay_seconds"]) * 1000),
        ("max-length", int(standby["max_messages"])),
    ):
        if value:
            found[key] = min(value, found.get(key, value))
    return {**found, "overflow": "drop-head"}


def _own_policy(name: str, apply_to: str, definition: Item) -> Item:
    pattern = f"^{re.escape(name)}$"
    return {"pattern": pattern, "apply-to": apply_to, "priority": PRIORITY, "definition": definition}


def upstream_uris(declared: Mapping[str, Any], region: str, vhost: str) -> list[str]:
    """Every node of the other regions, over TLS with its name checked."""
    login = f"{quote(declared['upstream_user'], safe='')}:{quote(declared['upstream_password'], safe='')}"
    hosts = [host for name, found in declared["regions"].items() if name != region for host in found]
    return [
        f"amqps://{login}@{host}:{declared['port']}/{quote(vhost, safe='')}?"
        + urlencode(
            {
                "cacertfile": declared["ca_certificate"],
                "verify": "verify_peer",
                "server_name_indication": host,
                "heartbeat": 5,
                "connection_timeout": 3000,
            },
            safe="/",
        )
        for host in hosts
    ]


def _wanted_links(declared: Mapping[str, Any], region: str) -> dict[tuple[Any, ...], Any]:
    """What pulls from the other region."""
    if len(declared["regions"]) < 2:
        return {}
    if declared["standby"]["mode"] == "shovel":
        return {
            (vhost, "shovel", OWN + name): shovel(declared, region, vhost, name + BACKLOG, name)
            for vhost, name in followed_queues(declared)
        }
    return {
        (vhost, "federation-upstream", OWN + "upstream"): {
            "uri": upstream_uris(declared, region, vhost),
            "ack-mode": "on-confirm",
            "prefetch-count": int(declared["standby"]["prefetch"]),
            "reconnect-delay": 1,
            "max-hops": 1,
            "queue-type": "quorum",
        }
        for vhost in sorted({vhost for vhost, _name in federated_exchanges(declared)})
    }


def shovel(declared: Mapping[str, Any], region: str, vhost: str, source: str, target: str) -> Item:
    """Pulls a queue of the other region into one of this: gone there only when it is safe here."""
    return {
        "src-protocol": "amqp091",
        "src-uri": upstream_uris(declared, region, vhost),
        "src-queue": source,
        # A queue that is missing is the role's to declare: a shovel would make it without its arguments.
        "src-predeclared": True,
        "src-prefetch-count": int(declared["standby"]["prefetch"]),
        "src-delete-after": "never",
        "dest-protocol": "amqp091",
        "dest-uri": ["amqp:///" + quote(vhost, safe="")],
        "dest-queue": target,
        "dest-predeclared": True,
        "dest-add-forward-headers": False,
        "ack-mode": "on-confirm",
        "reconnect-delay": 1,
    }
