# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a report says beside the measurement: gates, lost writes, a restore, checks, controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _chain, _evidence, _judge
from ansible_collections.muster.platform.plugins.module_utils._html import (
    clock_time,
    day_and_time,
    mark,
    number,
    pairs,
    section,
    table,
    tag,
    text,
)
from ansible_collections.muster.platform.plugins.module_utils._ranges import read_ranges

Evidence = Mapping[str, Any]
MOST_LISTED = 10


def or_unknown(value: Any) -> str:
    return tag("span", "not known", class_="unknown") if value in (None, "") else text(value)


# --- gates -----------------------------------------------------------------------


def overrides(evidence: Evidence) -> str:
    """What was let through although a gate refused; nobody shall overlook it."""
    all_of_them = evidence["gates"]
    lines = [override(gate, all_of_them) for gate in all_of_them if gate["overridden"]]
    if not lines:
        return ""
    by = f" Approver: {text(evidence['approver'])}." if evidence["approver"] else ""
    title = "One gate was overridden." if len(lines) == 1 else f"{len(lines)} gates were overridden."
    head = tag("p", tag("strong", title) + by)
    return tag("section", head + tag("ul", "".join(lines)), class_="overrides")


def override(gate: Evidence, all_of_them: Sequence[Evidence]) -> str:
    why = f": {text(gate['reason'])}" if gate["reason"] else ""
    name = tag("strong", text(_judge.gate_name(gate, all_of_them)))
    return tag("li", f"{name} refused{why}. Overridden: {text(gate['overridden'])}")


def gates(evidence: Evidence) -> str:
    rows = [
        [text(_judge.gate_name(gate, evidence["gates"])), gate_mark(gate), gate_seen(gate)]
        for gate in evidence["gates"]
    ]
    if not rows:
        return ""
    approver = tag("p", f"Approved by: {or_unknown(evidence['approver'])}", class_="small")
    return section("Gates", table(["Gate", "", "What it saw"], rows, "Gates", class_="stack") + approver)


def gate_mark(gate: Evidence) -> str:
    if gate["passed"]:
        return mark(True, "passed")
    if gate["overridden"]:
        return tag("span", "! overridden", class_="mark warn")
    if gate["warns"]:
        return tag("span", "! warns", class_="mark warn")
    return mark(False if gate["passed"] is False else None, "refused")


def gate_seen(gate: Evidence) -> str:
    seen = text(gate["reason"])
    if gate["overridden"]:
        seen += tag("div", f"Overridden: {text(gate['overridden'])}", class_="override")
    return seen


# --- checks and restores -------------------------------------------------------------


def check_rows(checks: Sequence[Evidence]) -> list[list[str]]:
    return [
        [
            text(check["name"]),
            mark(check["passed"], {True: "shown", False: "not so"}.get(check["passed"], "")),
            text(check["detail"]),
        ]
        for check in checks
    ]


def checks(evidence: Evidence) -> str:
    if not evidence["checks"]:
        return ""
    return section(
        "Checks",
        table(["Check", "", "What was seen"], check_rows(evidence["checks"]), "Checks", class_="stack"),
    )


def restore(evidence: Evidence) -> str:
    proof = evidence["restore_proof"]
    if not proof:
        return ""
    point = proof["point_reached"]
    facts = [
        ("Store", text(proof["store"])),
        ("Restored on", or_unknown(proof["host"])),
        ("From repository", or_unknown(proof["repository"])),
        ("Backup", or_unknown(proof["backup"])),
        ("Point reached", or_unknown(point and day_and_time(point))),
        ("Took", number(proof["seconds"], "s", 1)),
    ]
    made = pairs(facts, "pairs")
    if proof["checks"]:
        head = ["Check of the restored copy", "", "What was seen"]
        made += table(head, check_rows(proof["checks"]), "Checks of the restored copy", class_="stack")
    return section("Restore proof", made)


# --- the stores beside each other ---------------------------------------------------------


def consistency(evidence: Evidence) -> str:
    """How far the stores' copies are apart, where there are several."""
    stores, skew = evidence["stores"], evidence["consistency_skew_seconds"]
    if len(stores) < 2:
        return ""
    points = [store["recovery_point"] for store in stores]
    newest = max((_evidence.read_time(point) for point in points if point), default=0)
    rows = [
        [
            text(store["name"]),
            or_unknown(point and point[11:23]),
            number(_evidence.seconds(newest - _evidence.read_time(point)) if point else None, "s", 3),
            number(store["duplicate_writes"]),
        ]
        for store, point in zip(stores, points, strict=True)
    ]
    said = "It is not known how far" if skew is None else f"{skew:.3f}\u00a0s is how far"
    note = (
        f"{said} the copies that were gone on with are apart. Each reaches to its last surviving write from"
        " before the writes went to another region."
    )
    head = ["Store", "Copy reaches to", "Behind the newest", "Held twice"]
    return section(
        "Consistency between the stores", tag("p", text(note)) + table(head, rows, "Consistency", (1, 2, 3))
    )


# --- lost writes -----------------------------------------------------------------------


def lost_writes(evidence: Evidence, rows: Sequence[_evidence.Row]) -> str:
    """How many, which, and whether somebody has them."""
    parts = [lost_of_store(evidence, store, rows) for store in evidence["stores"] if store["lost_sequences"]]
    commits = evidence["lost_commits"]
    if commits:
        parts.append(commit_facts(commits))
    return section("What was lost", "".join(parts))


def lost_of_store(evidence: Evidence, store: Evidence, rows: Sequence[_evidence.Row]) -> str:
    mine = [row for row in rows if row.store == store["name"]]
    stretches = _evidence.lost_stretches(mine, read_ranges(store["lost_sequences"]))
    cells = [lost_stretch(stretch, store["recovered_sequences"]) for stretch in stretches[:MOST_LISTED]]
    head = ["Acknowledged", "By", "Writes", "Saved"]
    made = tag("h3", text(store["name"])) + table(head, cells, f"Lost writes of {store['name']}", (2, 3))
    rest = len(stretches) - MOST_LISTED
    if rest > 0:
        made += tag("p", f"and {rest} more stretches, which ledger.csv has.", class_="small")
    listed = text(
        _evidence.some_ranges(store["lost_sequences"], 60).replace("-", "\u2013").replace(",", ", ")
    )
    made += tag("p", f"Numbers of the canary: {tag('code', listed)}", class_="small")
    if _judge.is_accounted(evidence):
        made += tag("p", accounted(store))
    return made


def accounted(store: Evidence) -> str:
    gone, lost = len(_judge.unaccounted(store)), store["rpo_lost_writes"]
    if gone:
        said = f"{gone} of {lost} lost writes were not found on the old side."
    else:
        said = f"All {lost} lost writes were found on the old side, and saved."
    return tag("span", ("✗ " if gone else "✓ ") + said, class_="mark wrap " + ("bad" if gone else "good"))


def lost_stretch(stretch: Sequence[_evidence.Row], saved: str | None) -> list[str]:
    """Consecutive lost writes: from when to when, by whom, and how many of them were saved."""
    times = [_evidence.show_time(row.ended)[11:23] for row in (stretch[0], stretch[-1])]
    kept = read_ranges(saved or "").intersection(row.sequence for row in stretch)
    return [
        text(" \u2013 ".join(dict.fromkeys(times))),
        tag("span", text(", ".join(sorted({row.host for row in stretch}))), class_="whole"),
        number(len(stretch)),
        or_unknown(None) if saved is None else f"{len(kept):,} of {len(stretch):,}",
    ]


def commit_facts(commits: Evidence) -> str:
    first, last = commits["first_at"], commits["last_at"]
    facts = [("Commits that only the old side had", number(commits["count"]))]
    if commits["count"] is None and commits["reason"]:
        facts.append(("Why that is not known", text(commits["reason"])))
    if first and last:
        facts.append(("First and last of them", f"{clock_time(first)} \u2013 {clock_time(last)} UTC"))
    if commits["xids_file"]:
        facts.append(("Listed in", tag("code", text(commits["xids_file"]))))
    return tag("h3", "Commits of the old side alone") + pairs(facts, "pairs")


# --- for the auditor ---------------------------------------------------------------------


def controls(evidence: Evidence) -> str:
    items = "".join(
        tag(
            "div",
            tag("dt", f"{text(entry['framework'])} {text(entry['control'])}"
                + tag("span", text(entry["title"])))
            + tag("dd", text(entry["statement"])
                  + tag("div", "From " + ", ".join(tag("code", text(name)) for name in entry["answered_by"]),
                        class_="small")),
        )
        for entry in evidence["controls"]
    )  # fmt: skip
    note = "Each control beside the figures that answer it. Whether they are enough is the auditor's to say."
    return section("Controls", tag("dl", items, class_="controls") + tag("p", note, class_="small"))


def verification(evidence: Evidence) -> str:
    """The stock commands of an auditor, and the figures again from the ledger."""
    signature = evidence["signature"]
    lines = ["# in this folder: every file, and the manifest of the drill before"]
    lines.append(f"sha256sum -c {_chain.MANIFEST}")
    if signature:
        lines += [
            "# with your own copy of the public keys",
            f"ssh-keygen -Y verify -f allowed_signers -I {signature['signer']} -n {signature['namespace']}"
            f" -s {_chain.SIGNATURE} < {_chain.MANIFEST}",
        ]
    else:
        lines.append(f"# {evidence['unsigned_reason']}: there is no signature")
    if evidence["canary"]:
        lines += [
            "# the figures again, with Muster's checkout and none of its code",
            "tests/recompute.py .",
            "# or against the store itself, while it still holds the rows",
            "tests/recompute.py . --dsn 'host=… dbname=muster user=…'",
        ]
    made = tag("pre", tag("code", text("\n".join(lines))))
    if signature:
        made += tag("p", f"Signed by {text(signature['signer'])} with {tag('code', text(signature['key']))}.",
                    class_="small after")  # fmt: skip
    return made
