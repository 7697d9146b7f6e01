"""Write by a transaction and by a script, kill the server, and tell what it holds when it has read its AOF again.

Run on the primary. Sentinel must not have replaced it meanwhile: then others would have given it the data.
Prints JSON. usage: replay.py HOST PASSWORD
"""

import json
import os
import signal
import sys
import time

import redis

SCRIPT = "redis.call('SET', KEYS[1], 'kept') redis.call('SADD', KEYS[2], 'kept')"
KEYS = ["replay:transaction", "replay:member", "replay:script", "replay:scripted"]

client = redis.Redis(
    host=sys.argv[1], port=6379, username="application", password=sys.argv[2], decode_responses=True,
    ssl=True, ssl_ca_certs="/etc/muster/valkey/ca.crt", ssl_check_hostname=True, socket_timeout=3,
    single_connection_client=True,
)  # fmt: skip
client.pipeline(transaction=True).set(KEYS[0], "kept").sadd(KEYS[1], "kept").execute()
client.eval(SCRIPT, 2, *KEYS[2:])
acknowledged = client.wait(1, 5000)
# With everysec the server may keep the newest writes to itself for two seconds while its disk is busy. What is
# looked at here is what it makes of an AOF that has them.
written = client.execute_command("WAITAOF", 1, 0, 10000)
if written[0] != 1:
    sys.exit(f"the AOF has not been written: {written}")
before = client.info("server")
os.kill(before["process_id"], signal.SIGKILL)
deadline = time.monotonic() + 30
while True:
    try:
        now = client.info("server", "replication", "persistence")
        if now["run_id"] != before["run_id"] and not now["loading"]:
            break
    except (redis.RedisError, OSError) as error:
        if time.monotonic() > deadline:
            sys.exit(f"the server did not come back: {error}")
    time.sleep(0.2)
there = [key for key in KEYS if client.exists(key)]
print(
    json.dumps(
        {
            "acknowledged": acknowledged,
            "role": now["role"],
            "aof": now["aof_enabled"],
            "lost": sorted(set(KEYS) - set(there)),
        }
    )
)
