# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The write outage of dr_switchover, against that of the bare Patroni sequence, side by side."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

from bench.lab import BenchError, Lab, note
from bench.result import Row

TABLE = "muster_bench_probe"
INTERVAL = 0.02
# Undisturbed probing before and after the switch.
MARGIN_SECONDS = 1.5
OUTAGE_LIMIT = 1.5
WHOLE_LIMIT = 15.0
# Each way in each direction, and neither always first.
ORDER = ["ours", "bare", "bare", "ours"]


def psql(lab: Lab, statements: str) -> None:
    """As the superuser, on whichever host is the primary."""
    primary = lab.patroni("settle")["primary"]
    lab.run(primary, "runuser -u postgres -- psql -q -v ON_ERROR_STOP=1 -d muster", statements)


def ours(lab: Lab, target: str) -> dict[str, Any]:
    played = lab.play("playbooks/dr_switchover.yml", "-e", f"dr_target_region={target}")
    return {"seconds": played.seconds, "phases": played.phases}


def bare(lab: Lab, target: str) -> dict[str, Any]:
    hosts = lab.members("postgresql", target)
    # What Muster tells a region that becomes the standby: the end state must be the same.
    standby_cluster = {
        "host": ",".join(hosts),
        "port": 5432,
        "create_replica_methods": ["basebackup"],
        "restore_command": '/usr/local/lib/muster/postgresql_archive_get muster %f "%p"',
    }
    return lab.patroni("switch", hosts[0], target=target, standby_cluster=standby_cluster)


def probed(lab: Lab, way: str, target: str) -> dict[str, Any]:
    """Switch, by one of the two ways, while a client writes through each region's endpoint."""
    given = {
        "interval": INTERVAL,
        "endpoints": [{"host": host, "port": 5432} for host in lab.hosts("haproxy")],
        "database": "muster",
        "user": "muster_canary",
        "password": lab.variable("canary_password"),
        "ca": "/etc/muster/canary-ca.crt",
        "table": TABLE,
    }
    prober = lab.start(lab.hosts("canary")[0], "probe.py", given)
    try:
        time.sleep(MARGIN_SECONDS)
        result = {"ours": ours, "bare": bare}[way](lab, target)
        time.sleep(MARGIN_SECONDS)
    finally:
        found = lab.finish(prober, "the prober")["endpoints"]
    if any(each["outage_seconds"] is None for each in found):
        raise BenchError(f"the prober wrote nothing: {found}")
    # What the clients of the endpoint that was worse off saw.
    outage = max(each["outage_seconds"] for each in found)
    note(f"  {way} to {target}: outage {outage:.3f} s, whole {result['seconds']:.1f} s")
    return {"way": way, "target": target, "outage_seconds": outage, "endpoints": found, **result}


def measure(lab: Lab, rounds: int) -> list[Row]:
    home = lab.primary_region()
    away = next(region for region in lab.regions if region != home)
    psql(lab, f"create table if not exists {TABLE} (at timestamptz default now());")
    psql(lab, f"grant insert on {TABLE} to muster_canary;")
    switches = []
    try:
        # Two orders of four make each way's number even, so that it all ends at home.
        for number, way in enumerate(ORDER * max(2, (rounds + 1) // 2)):
            lab.patroni("settle")
            switches.append(probed(lab, way, away if number % 2 == 0 else home))
    finally:
        psql(lab, f"drop table if exists {TABLE};")
    outage = {
        way: [each["outage_seconds"] for each in switches if each["way"] == way] for way in ("ours", "bare")
    }
    whole = [each["seconds"] for each in switches if each["way"] == "ours"]
    return [
        Row(
            f"planned switch: write outage, median of {len(outage['ours'])}, against bare Patroni",
            median(outage["ours"]),
            "s",
            median(outage["bare"]),
            limit=OUTAGE_LIMIT,
            details={"switches": switches},
        ),
        Row(f"  whole dr_switchover, median of {len(whole)}", median(whole), "s", limit=WHOLE_LIMIT),
    ]
