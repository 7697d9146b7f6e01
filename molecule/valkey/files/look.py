"""What a client sees: who may log in and how, and which acknowledged numbers are there. Prints JSON."""

import itertools
import json
import socket
import ssl
import sys

import redis

given = json.loads(sys.argv[1])
TLS = {
    "ssl": True,
    "ssl_ca_certs": "/etc/muster/valkey/ca.crt",
    "ssl_check_hostname": True,
    "socket_timeout": 3,
}


def attempt(function):
    try:
        return function()
    except (redis.RedisError, OSError) as error:
        return str(error)


def connect(host, **more):
    login = {"username": "application", "password": given["password"]} | more
    return redis.Redis(host=host, port=6379, decode_responses=True, **(TLS | login))


def plain(host, port):
    with socket.create_connection((host, port), 3) as connection:
        connection.settimeout(3)
        connection.sendall(b"PING\r\n")
        return connection.recv(100).decode(errors="replace")


def certificate(host):
    context = ssl.create_default_context(cafile="/etc/muster/valkey/ca.crt")
    with (
        socket.create_connection((host, given["endpoint_port"]), 3) as raw,
        context.wrap_socket(raw, server_hostname=host) as connection,
    ):
        return dict(part[0] for part in connection.getpeercert()["subject"])["commonName"]


seen = {
    "plain": attempt(lambda: plain(given["hosts"][0], 6379)),
    "plain_sentinel": attempt(lambda: plain(given["hosts"][0], 26379)),
    "nobody": attempt(lambda: connect(given["hosts"][0], username=None, password=None).ping()),
    "default": attempt(lambda: connect(given["hosts"][0], username="default", password="x").ping()),
    "wrong": attempt(lambda: connect(given["hosts"][0], password="wrong").ping()),
    "forbidden": attempt(lambda: connect(given["hosts"][0]).config_get("dir")),
    "sentinel": attempt(
        lambda: redis.Redis(host=given["hosts"][0], port=26379, **TLS).execute_command("SENTINEL", "MASTERS")
    ),
    "roles": {
        host: attempt(lambda host=host: connect(host).info("replication")["role"]) for host in given["hosts"]
    },
    "endpoint": attempt(lambda: certificate(given["endpoint"])),
}
if given.get("ledger"):
    with open(given["ledger"]) as stream:
        rows = [line.split() for line in stream if line.count(" ") == 1]
    times = [float(row[1]) for row in rows]
    primary = next(host for host, role in seen["roles"].items() if role == "master")
    there = connect(primary).mget([f"seq:{row[0]}" for row in rows])
    seen["acknowledged"] = len(rows)
    seen["lost"] = [row[0] for row, value in zip(rows, there, strict=True) if value is None]
    seen["outage"] = round(max(b - a for a, b in itertools.pairwise(times)), 3)
print(json.dumps(seen))
