# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""site.yml where nothing is to be done, against the same state written in the ordinary way."""

from __future__ import annotations

from bench.lab import BenchError, Lab, Played, note
from bench.result import Row

OURS = "playbooks/site.yml"
ORDINARY = "bench/ordinary/site.yml"
LIMIT = 1 / 3


def play(lab: Lab, playbook: str, limit: str) -> Played:
    played = lab.play(playbook, "--limit", limit)
    if played.changed:
        raise BenchError(f"{playbook} found something to change, so it is no no-op: {played.changed}")
    return played


def measure(lab: Lab, rounds: int) -> list[Row]:
    every = "all"
    # A whole region and the hosts of none: what the other region adds is of the same kinds.
    part = ",".join(lab.hosts(f"region_{lab.primary_region()}") + lab.hosts_of_no_region)
    times: dict[tuple[str, str], list[Played]] = {}
    # The first round opens the connections, and sees that both describe the state that is there.
    for number in range(rounds + 1):
        for limit in (every, part) if number else (every,):
            for playbook in (OURS, ORDINARY):
                played = play(lab, playbook, limit)
                note(f"  {playbook} on {limit}: {played.seconds:.1f} s, {played.tasks} tasks")
                if number:
                    times.setdefault((playbook, limit), []).append(played)
    # Whatever else the machine does can only add time: the quickest round tells most.
    best = {key: min(found, key=lambda played: played.seconds) for key, found in times.items()}
    count = len(lab.inventory["_meta"]["hostvars"])
    added = count - len(part.split(","))
    growth = {
        playbook: (best[playbook, every].seconds - best[playbook, part].seconds) / added
        for playbook in (OURS, ORDINARY)
    }
    return [
        Row(
            f"no-op site.yml on {count} hosts, against stock modules",
            best[OURS, every].seconds,
            "s",
            best[ORDINARY, every].seconds,
            limit=LIMIT,
            details={
                "seconds": {
                    f"{book} on {limit}": [p.seconds for p in found] for (book, limit), found in times.items()
                },
                "phases": {book: best[book, every].phases for book in (OURS, ORDINARY)},
                "tasks": {book: best[book, every].tasks for book in (OURS, ORDINARY)},
            },
        ),
        Row(f"  growth for each host from {count - added} to {count}", growth[OURS], "s", growth[ORDINARY]),
    ]
