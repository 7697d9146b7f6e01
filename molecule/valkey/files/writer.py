"""Write numbers through the applications' endpoint, and keep the acknowledged ones with their times.

An acknowledgement is a write that another host holds too. usage: writer.py CONFIGURATION, until a file of the
name that it says is there.
"""

import json
import os
import sys
import time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

with open(sys.argv[1]) as stream:
    given = json.load(stream)


def connect():
    return redis.Redis(
        host=given["host"], port=given["port"], username=given["user"], password=given["password"],
        ssl=True, ssl_ca_certs="/etc/muster/valkey/ca.crt", ssl_check_hostname=True,
        socket_timeout=2, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0),
        single_connection_client=True,
    )  # fmt: skip


client, number = None, 0
with open(given["ledger"], "w", buffering=1) as ledger:
    while not os.path.exists(given["stop"]):
        number += 1
        try:
            client = client or connect()
            client.set(f"seq:{number}", number)
            if client.execute_command("WAIT", 1, 1000) >= 1:
                ledger.write(f"{number} {time.time():.4f}\n")
        except (redis.RedisError, OSError) as error:
            print(f"{time.time():.3f} {number}: {error}", flush=True)
            client = None
        time.sleep(0.02)
