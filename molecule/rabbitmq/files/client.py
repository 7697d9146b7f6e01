# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""An application of the scenario: publishes numbers with confirms, or reads what a queue holds.

usage: client.py JSON     an object with password and do, and more by what is to be done
"""

from __future__ import annotations

import json
import ssl
import sys
import time
from typing import Any

import pika

GIVEN = json.loads(sys.argv[1])
CONTEXT = ssl.create_default_context(cafile="/etc/muster/rabbitmq/ca.crt")


def connect(host: str, user: str = "ingest", vhost: str = "documents") -> Any:
    return pika.BlockingConnection(
        pika.ConnectionParameters(
            host,
            5671,
            vhost,
            pika.PlainCredentials(user, GIVEN["password"]),
            ssl_options=pika.SSLOptions(CONTEXT, host),
            heartbeat=5,
            socket_timeout=2,
            stack_timeout=2,
            blocked_connection_timeout=2,
        )
    )


class Writer:
    """Writes to whichever host takes it, and goes on with the next number only when one was confirmed."""

    def __init__(self, hosts: list[str]) -> None:
        self.hosts = hosts
        self.channel: Any = None
        self.host = ""

    def write(self, number: int) -> bool:
        try:
            if self.channel is None:
                self.channel = connect(self.host).channel()
                self.channel.confirm_delivery()
            properties = pika.BasicProperties(message_id=str(number), delivery_mode=2)
            self.channel.basic_publish("documents", "new.x", str(number).encode(), properties, mandatory=True)
            return True
        except (pika.exceptions.AMQPError, OSError):
            self.channel = None
            self.host = (
                self.hosts[(self.hosts.index(self.host) + 1) % len(self.hosts)]
                if self.host
                else self.hosts[0]
            )
            return False


def publish() -> dict[str, Any]:
    """So many numbers, or for so many seconds; the longest time without a confirmed one."""
    writer = Writer(GIVEN["hosts"])
    writer.host = writer.hosts[0]
    number, gap, where = GIVEN["first"], 0.0, {}
    began = last = time.monotonic()
    seconds = GIVEN.get("seconds", 60)
    while time.monotonic() - began < seconds and number - GIVEN["first"] < GIVEN.get("count", 10**9):
        if writer.write(number):
            where.setdefault(writer.host, []).append(number)
            gap, last = max(gap, time.monotonic() - last), time.monotonic()
            number += 1
        time.sleep(GIVEN.get("pause", 0))
    return {"next": number, "gap": round(gap, 2), "where": {host: [n[0], n[-1]] for host, n in where.items()}}


def consume() -> dict[str, Any]:
    """All that a queue holds, acknowledged."""
    connection = connect(GIVEN["hosts"][0])
    channel = connection.channel()
    found = []
    while True:
        method, properties, _body = channel.basic_get(GIVEN["queue"])
        if method is None:
            break
        found.append(properties.message_id)
        channel.basic_ack(method.delivery_tag)
    connection.close()
    return {"ids": sorted({int(i) for i in found}), "messages": len(found)}


def refused() -> dict[str, Any]:
    """Why each host does not let the application in; empty where it does."""
    found = {}
    for host in GIVEN["hosts"]:
        try:
            connect(host).close()
            found[host] = ""
        except (pika.exceptions.AMQPError, OSError) as error:
            found[host] = f"{type(error).__name__} {error}"
    return found


print(json.dumps({"publish": publish, "consume": consume, "refused": refused}[GIVEN["do"]]()))
