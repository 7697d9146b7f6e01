# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the hosts of a lost region had, put together."""

from __future__ import annotations

from typing import Any

from ansible_collections.muster.platform.plugins.filter.lost import lost_commits

HEAD = "xid,committed_at,lsn\n"
FIRST = "9,2026-11-21T13:32:01.5Z,0/3000100\n"
SECOND = "10,2026-11-21T13:32:02Z,0/3000200\n"
# The number of the second transaction once more, on the timeline of another host.
OTHER = "10,2026-11-21T13:32:03Z,0/3000180\n"


def host(name: str, count: int | None, reason: str = "") -> dict[str, Any]:
    return {"host": name, "saved": {"count": count, "reason": reason}}


def test_what_two_hosts_have_is_one_commit_and_none_has_all() -> None:
    found = lost_commits(
        {"postgresql": [host("north-1", 2), host("north-2", 2)]},
        [HEAD + FIRST + OTHER, HEAD + FIRST + SECOND],
        ['xid,note,sequence\n9,"a,b",41\n10,,43\n', 'xid,note,sequence\n9,"a,b",41\n10,,42\n'],
    )
    assert found["csv"] == HEAD + FIRST + SECOND + OTHER
    assert found["evidence"] == {
        "count": 3,
        "reason": "",
        "first_at": "2026-11-21T13:32:01.5Z",
        "last_at": "2026-11-21T13:32:03Z",
        "canary_sequences": {"postgresql": "41-43"},
    }


def test_one_host_of_which_nothing_is_known_makes_the_number_unknown() -> None:
    hosts = [host("north-1", None, "the data directory is lost"), host("north-2", 1)]
    found = lost_commits({"postgresql": hosts}, [HEAD + FIRST], [])
    assert found["evidence"]["count"] is None
    assert found["evidence"]["reason"] == "north-1: the data directory is lost"
    assert found["evidence"]["canary_sequences"] == {}
    assert found["csv"] == HEAD + FIRST, "what is known is listed all the same"


def test_nothing_lost_is_known_to_be_nothing() -> None:
    found = lost_commits({"postgresql": [host("north-1", 0)]}, [HEAD], [])
    assert found["csv"] == HEAD
    assert [found["evidence"][key] for key in ("count", "first_at", "last_at")] == [0, None, None]


def test_the_other_stores_tell_the_numbers_that_their_hosts_saved() -> None:
    stores = {
        "valkey": [{"host": "north-1", "canary": "1-3"}, {"host": "north-2", "canary": "3,7"}],
        "rabbitmq": [{"host": "north-1", "canary": ""}, {"host": "north-2", "canary": None}],
        "object_storage": [{"host": "north-1", "canary": None}],
    }
    found = lost_commits(stores, [], [])["evidence"]
    assert found["canary_sequences"] == {"valkey": "1-3,7", "rabbitmq": ""}, "nobody knows of the objects"
