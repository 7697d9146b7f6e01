# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A drill's evidence as one self-contained page, for a person and for paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import (
    _evidence,
    _judge,
    _report_parts,
    _report_style,
)
from ansible_collections.muster.platform.plugins.module_utils._html import (
    clock_time,
    day_and_time,
    duration,
    elapsed,
    mark,
    number,
    pair,
    pairs,
    section,
    table,
    tag,
    text,
)
from ansible_collections.muster.platform.plugins.module_utils._ranges import read_ranges

MOST_SLICES = 200
MOST_PHASES = 20
# Pixels: the drawing on a phone, on anything wider, and a letter at most.
NARROW = 350
WIDE = 520
LETTER = 7
SCENARIOS = {
    "region_loss": "Loss of a region",
    "partition": "Partition of the regions",
    "failover": "Failover",
    "switchover": "Planned switchover",
    "reprotect": "Re-protection",
    "restore": "Restore from a backup",
}


# --- the top ---------------------------------------------------------------------


def headline(evidence: Mapping[str, Any]) -> str:
    """One sentence that says what it cost."""
    stores = evidence["stores"]
    parts = (
        [headline_of_all(evidence)]
        if len(stores) > 1
        else [headline_of_one(evidence, store) for store in stores]
    )
    proof = evidence["restore_proof"]
    if proof and proof["point_reached"] and proof["seconds"] is not None:
        parts.append(
            f"{proof['store']}: restored to {day_and_time(proof['point_reached'])}"
            f" in {proof['seconds']:.1f}\u00a0s"
        )
    commits = evidence["lost_commits"]
    if commits and not stores:
        count = "not known" if commits["count"] is None else f"{commits['count']:,}"
        parts.append(f"Commits that only the old side had: {count}")
    return ". ".join(parts) + "." if parts else "No store was measured."


def is_known(store: Mapping[str, Any]) -> bool:
    return None not in (store["acked_writes"], store["rpo_lost_writes"], store["outage_seconds"])


def headline_of_one(evidence: Mapping[str, Any], store: Mapping[str, Any]) -> str:
    if not is_known(store):
        return f"{store['name']}: not all figures are known"
    return (
        f"{store['name']}: of {store['acked_writes']:,} acknowledged writes {lost_words(evidence, store)}; "
        f"the longest time without a write was {store['outage_seconds']:.2f}\u00a0s"
    )


def headline_of_all(evidence: Mapping[str, Any]) -> str:
    """The same of several stores together; each for itself stands below."""
    stores = evidence["stores"]
    unknown = [store["name"] for store in stores if not is_known(store)]
    if unknown:
        return f"{len(stores)} stores: not all figures are known of {', '.join(unknown)}"
    lost = sum(store["rpo_lost_writes"] for store in stores)
    saved = lost and _judge.is_accounted(evidence) and not any(_judge.unaccounted(store) for store in stores)
    slowest = max(stores, key=lambda store: float(store["outage_seconds"]))
    said = (
        f"{len(stores)} stores: of {sum(store['acked_writes'] for store in stores):,} acknowledged writes"
        f" {f'{lost:,}' if lost else 'none'} {'was' if lost < 2 else 'were'} lost"
        f"{', and saved from the old side' if saved else ''}; the longest time without a write was"
        f" {slowest['outage_seconds']:.2f}\u00a0s, of {slowest['name']}"
    )
    skew = evidence["consistency_skew_seconds"]
    return said if skew is None else f"{said}; the copies reach within {skew:.2f}\u00a0s of each other"


def lost_words(evidence: Mapping[str, Any], store: Mapping[str, Any]) -> str:
    lost = store["rpo_lost_writes"]
    if not lost:
        return "none was lost"
    said = f"{lost:,} {'was' if lost == 1 else 'were'} lost"
    saved = _judge.is_accounted(evidence) and not _judge.unaccounted(store)
    return f"{said}, and saved from the old side" if saved else said


def moves(evidence: Mapping[str, Any]) -> str:
    """The regions that took the writes, one after the other."""
    for store in evidence["stores"]:
        regions: list[str] = []
        for writer in store["writers"]:
            if not regions or regions[-1] != writer["region"]:
                regions.append(writer["region"])
        if len(regions) > 1:
            return ": " + " → ".join(regions)
    return ""


def top(evidence: Mapping[str, Any]) -> str:
    passed = evidence["verdict"] == "PASS"
    title = SCENARIOS.get(evidence["scenario"], evidence["scenario"]) + moves(evidence)
    plan = evidence["plan"]
    changed = {True: "changed", False: "the same", None: "not known"}[plan["changed_since_last_pass"]]
    facts = [
        ("Drill", text(evidence["drill_id"])),
        ("Started", text(day_and_time(evidence["started_at"]))),
        ("Took", text(elapsed(evidence["started_at"], evidence["finished_at"]))),
        ("Commit", tag("code", text((plan["git_sha"] or "not from a checkout")[:12]))),
        ("Approver", text(evidence["approver"] or "not named")),
        ("Inventory", tag("code", text(plan["inventory_sha256"][:12]), title=plan["inventory_sha256"])),
        ("Plan since the last PASS", text(changed)),
    ]
    badge = tag(
        "p", ("✓ " if passed else "✗ ") + evidence["verdict"], class_="verdict " + evidence["verdict"].lower()
    )
    return tag(
        "header",
        tag("div", tag("h1", text(title)) + tag("p", text(headline(evidence)), class_="lead"))
        + badge
        + pairs(facts, "facts"),
    )


def why_not(evidence: Mapping[str, Any]) -> str:
    if not evidence["reasons"]:
        return ""
    return section(
        "Why it did not pass",
        tag("ul", "".join(tag("li", text(r)) for r in evidence["reasons"]), class_="reasons"),
    )


# --- objectives --------------------------------------------------------------------


def at_most(value: float | int | None, limit: float | int | None) -> bool | None:
    return None if value is None or limit is None else value <= limit


def meter(value: float | None, limit: float | None) -> str:
    """How much of an objective was used up."""
    if value is None or not limit:
        return ""
    share = min(100.0, 100 * value / limit)
    kind = "good" if value <= limit else "bad"
    return tag(
        "span",
        tag("span", class_=kind, style=f"width:{max(share, 1):.1f}%"),
        class_="meter",
        aria_hidden="true",
    )


def objective_rows(evidence: Mapping[str, Any], store: Mapping[str, Any]) -> list[list[str]]:
    scenario = evidence["scenario"]
    objective = evidence["objectives"].get(store["name"]) if scenario in _judge.MEASURED else None
    rto = _judge.outage_objective(scenario, objective)
    rpo = objective["rpo_seconds"] if objective else None
    lost, two, outage = store["rpo_lost_writes"], store["dual_writer_writes"], store["outage_seconds"]
    none_lost = scenario in _judge.LOSSLESS
    judged = scenario in _judge.MEASURED
    rows = [
        [
            "Acknowledged writes lost",
            "0" if none_lost else tag("span", "by time", class_="soft"),
            number(lost),
            mark(at_most(lost, 0)) if none_lost or lost is None else "",
        ],
        [
            "Loss in time (RPO)",
            limit(rpo, judged),
            number(store["rpo_seconds"], "s", 3) + meter(store["rpo_seconds"], rpo),
            mark(at_most(store["rpo_seconds"], rpo)) if judged else "",
        ],
        [
            "Longest time without a write (RTO)",
            limit(rto, judged),
            number(outage, "s", 3) + meter(outage, rto),
            mark(at_most(outage, rto)) if judged else "",
        ],
        ["Writes by two writers at a time", "0", number(two), mark(at_most(two, 0))],
    ]
    if _judge.is_accounted(evidence) and lost:
        gone = len(_judge.unaccounted(store))
        rows.insert(1, ["Lost writes saved from the old side", "all", number(lost - gone), mark(gone == 0)])
    return rows


def limit(seconds: float | None, judged: bool = True) -> str:
    if not judged:
        return tag("span", "not judged", class_="soft")
    return tag("span", "none set", class_="unknown") if seconds is None else f"≤&nbsp;{seconds:g}&nbsp;s"


def objectives(evidence: Mapping[str, Any]) -> str:
    return "".join(
        table(
            [text(store["name"]), "Objective", "Measured", ""],
            objective_rows(evidence, store),
            f"Objectives of {store['name']} against what was measured",
            (1, 2),
        )
        for store in evidence["stores"]
    )


# --- the timeline ---------------------------------------------------------------------


class Scale:
    """Places times of the canary's clock on the width of the drawing, in percent."""

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.span = max(1, end - start)

    def at(self, time: int) -> float:
        return min(100.0, max(0.0, 100 * (time - self.start) / self.span))

    def place(self, start: int, end: int) -> dict[str, str]:
        left, right = self.at(start), self.at(end)
        return {"x": f"{left:.3f}%", "width": f"{right - left:.3f}%"}

    def ticks(self) -> list[tuple[float, str]]:
        """Round distances, at most seven of them."""
        total = self.span / 1e6
        steps = (
            0.1,
            0.2,
            0.5,
            1,
            2,
            5,
            10,
            15,
            30,
            60,
            120,
            300,
            600,
            900,
            1800,
            3600,
            7200,
            14400,
            43200,
            86400,
        )
        step = next((s for s in steps if total / s <= 7), total)
        count = int(total / step + 1e-9)
        return [(100 * n * step / total, duration(n * step)) for n in range(count + 1)]


def fitted(start: float, end: float, y: int, content: str, class_: str, pixels: int) -> str:
    """A line of text beside what lies between two places, so that it stays within so many pixels."""
    most = pixels // LETTER
    shown = content if len(content) <= most else content[: most - 1].rstrip() + "…"
    width = 100 * len(shown) * LETTER / pixels
    if start + width <= 100:
        place = {"x": f"{start:.3f}%"}
    elif end >= width:
        place = {"x": f"{end:.3f}%", "text_anchor": "end"}
    else:
        place = {"x": "0"}
    return tag("text", text(shown), y=y, class_=class_, **place)


def label(start: float, end: float, y: int, content: str, class_: str = "t") -> str:
    """A line of text in the drawing; on a phone it may have to stand elsewhere than on a desk."""
    wide = fitted(start, end, y, content, class_, WIDE)
    narrow = fitted(start, end, y, content, class_, NARROW)
    if wide == narrow:
        return wide
    return wide.replace(f'"{class_}"', f'"{class_} wide"', 1) + narrow.replace(
        f'"{class_}"', f'"{class_} narrow"', 1
    )


def clock_offset(evidence: Mapping[str, Any]) -> int:
    """What lies between the controller's clock and the canary's, in microseconds."""
    host = evidence["canary"]["host"] if evidence["canary"] else None
    return next(
        (
            round(1000 * entry["offset_ms"])
            for entry in evidence["clock"]
            if entry["host"] == host and entry["offset_ms"] is not None
        ),
        0,
    )


def drawn_phases(evidence: Mapping[str, Any], scale: Scale) -> list[Mapping[str, Any]]:
    """The phases that the drawing has room for: of very many those that took a hundredth of its time."""
    offset = clock_offset(evidence)

    def is_in(phase: Mapping[str, Any]) -> bool:
        start = _evidence.read_time(phase["started_at"]) + offset
        return start <= scale.start + scale.span and start + round(phase["seconds"] * 1e6) >= scale.start

    found = [phase for phase in evidence["phases"] if is_in(phase)]
    if len(found) <= MOST_PHASES:
        return found
    return [phase for phase in found if phase["seconds"] * 1e6 >= scale.span / 100]


def phase_rows(evidence: Mapping[str, Any], scale: Scale, top_y: int) -> tuple[str, int]:
    """A row per phase: its name above its bar."""
    offset = clock_offset(evidence)
    drawn = []
    y = top_y
    for phase in drawn_phases(evidence, scale):
        start = _evidence.read_time(phase["started_at"]) + offset
        end = start + round(phase["seconds"] * 1e6)
        name = f"{phase['name']} · {phase['seconds']:.{1 if phase['seconds'] >= 1 else 2}f} s"
        line = tag("rect", y=y + 16, height=8, rx=2, class_="phase", **scale.place(start, end))
        drawn.append(label(scale.at(start), scale.at(end), y + 11, name) + line)
        y += 30
    return "".join(drawn), y


def stints(rows: Sequence[_evidence.Row], interval: float) -> list[list[tuple[int, _evidence.Row]]]:
    """The acknowledgements in order, divided where the server or its timeline changes, and at outages."""
    found: list[list[tuple[int, _evidence.Row]]] = []
    for time, row in _evidence.acknowledged(rows):
        last = found[-1][-1] if found else None
        same = last is not None and (last[1].host, last[1].timeline) == (row.host, row.timeline)
        if last is not None and same and time - last[0] <= 2 * interval:
            found[-1].append((time, row))
        else:
            found.append([(time, row)])
    return found


def writer_row(
    rows: Sequence[_evidence.Row], scale: Scale, y: int, colours: Mapping[str, int], interval: float
) -> str:
    """Which server acknowledged, as bars in the colour of its region."""
    drawn = []
    for stint in stints(rows, interval):
        (start, row), (end, _row) = stint[0], stint[-1]
        name = f"{row.host} · timeline {row.timeline}"
        drawn.append(
            tag(
                "svg",
                tag("title", text(f"{name}: {len(stint):,} writes"))
                + tag("rect", width="100%", height=22, rx=3)
                + tag("text", text(name), x=7, y=15, class_="in"),
                y=y,
                height=22,
                class_=f"writer r{colours.get(row.region, 0) % 4}",
                **scale.place(start, max(end, start + scale.span // 400)),
            )
        )
    return "".join(drawn)


def lost_marks(store: Mapping[str, Any], rows: Sequence[_evidence.Row], scale: Scale, y: int) -> str:
    """Under the writers: what they acknowledged and the surviving copy does not hold."""
    lost = read_ranges(store["lost_sequences"] or "")
    least = scale.span // 400
    drawn = []
    for stretch in _evidence.lost_stretches(rows, lost):
        start, end = stretch[0].sent, max(stretch[-1].ended, stretch[0].sent + least)
        drawn.append(tag("rect", y=y, height=6, rx=1, class_="lost", **scale.place(start, end)))
    return "".join(drawn)


def density(rows: Sequence[_evidence.Row], scale: Scale, y: int, interval: float, height: int = 34) -> str:
    """How many writes were acknowledged in each slice of the time, and where there were none."""
    # Whole intervals to a slice, so that an undisturbed time is level; it has the full height.
    each = max(4, math.ceil(scale.span / interval / MOST_SLICES))
    slices = max(1, math.ceil(scale.span / interval / each))
    counts, missed = [0] * slices, [0] * slices
    for row in rows:
        time = row.sent if row.acknowledged is None else row.acknowledged
        place = min(slices - 1, max(0, int((time - scale.start) / interval / each)))
        (missed if row.acknowledged is None else counts)[place] += 1
    steps = [f"M0 {height}"]
    for place, count in enumerate(counts):
        level = height - min(1.0, count / each) * height
        steps.append(f"L{place} {level:.1f}L{place + 1} {level:.1f}")
    path = tag("path", d="".join(steps) + f"L{slices} {height}Z", class_="acks")
    silent = "".join(
        tag("rect", x=place, y=height - 5, width=1, height=5, class_="none")
        for place, count in enumerate(missed)
        if count
    )
    box = f"0 0 {scale.span / interval / each:.3f} {height}"
    return tag(
        "svg",
        path + silent,
        y=y,
        width="100%",
        height=height,
        viewBox=box,
        preserveAspectRatio="none",
    )


def outage_bands(store: Mapping[str, Any], scale: Scale, y: int, height: int) -> str:
    """The times without an acknowledgement, the three longest with their length."""
    by_length = sorted(store["outages"], key=lambda outage: -outage["seconds"])
    drawn = []
    for place, outage in enumerate(by_length[: _report_parts.MOST_LISTED]):
        start, end = _evidence.read_time(outage["from"]), _evidence.read_time(outage["to"])
        band = tag("rect", y=y + 18, height=height - 18, class_="outage", **scale.place(start, end))
        name = f"{outage['seconds']:.2f} s" if place < 3 else ""
        name = label(scale.at(start), scale.at(end), y + 12, name, "t out") if name else ""
        drawn.append(band + name)
    return "".join(drawn)


def lanes_of(
    rows: Sequence[_evidence.Row], interval: float, alone: bool
) -> list[tuple[str, Sequence[_evidence.Row], float]]:
    """Name, attempts and interval of each lane of a store: one for each endpoint, or one for all of them
    when other stores are drawn too."""
    endpoints = sorted({row.endpoint for row in rows})
    if alone:
        return [
            (f"acknowledged through {name}", [row for row in rows if row.endpoint == name], interval)
            for name in endpoints
        ]
    names = " and ".join(endpoints)
    return [(f"acknowledged through {names}", rows, interval / len(endpoints))] if endpoints else []


def store_lanes(
    store: Mapping[str, Any],
    rows: Sequence[_evidence.Row],
    scale: Scale,
    top_y: int,
    colours: Mapping[str, int],
    interval: float,
    alone: bool,
) -> tuple[str, int]:
    """One store's part of the drawing; the y where the next part begins."""
    mine = [row for row in rows if row.store == store["name"]]
    y = top_y + 20
    drawn = [label(0, 0, top_y + 12, f"{store['name']}: who acknowledged", "t lane")]
    drawn.append(writer_row(mine, scale, y, colours, interval))
    drawn.append(lost_marks(store, mine, scale, y + 25))
    y += 44
    bands_top = y - 20
    for name, part, each in lanes_of(mine, interval, alone):
        drawn.append(label(0, 0, y + 12, name, "t lane"))
        drawn.append(density(part, scale, y + 18, each))
        y += 58
    # The bands lie over the lanes of the endpoints.
    drawn.append(outage_bands(store, scale, bands_top, y - bands_top - 4))
    return "".join(drawn), y + 8


def time_scale(evidence: Mapping[str, Any]) -> tuple[Scale, str]:
    """The time that is drawn, and whose clock it is by."""
    canary = evidence["canary"]
    start, end = (
        (canary["from"], canary["to"]) if canary else (evidence["started_at"], evidence["finished_at"])
    )
    whose = f"the clock of {canary['host']}" if canary else "the controller's clock"
    return Scale(
        _evidence.read_time(start), _evidence.read_time(end)
    ), f"Time since {clock_time(start)} UTC, by {whose}."


def timeline(evidence: Mapping[str, Any], rows: Sequence[_evidence.Row]) -> str:
    scale, note = time_scale(evidence)
    regions = sorted({writer["region"] for store in evidence["stores"] for writer in store["writers"]})
    colours = {region: place for place, region in enumerate(regions)}
    drawn, y = phase_rows(evidence, scale, 0)
    if not drawn and not evidence["stores"]:
        return ""
    y += 8
    for store in evidence["stores"]:
        interval = evidence["canary"]["interval_ms"] * 1000
        alone = len(evidence["stores"]) == 1
        part, y = store_lanes(store, rows, scale, y, colours, interval, alone)
        drawn += part
    picture = tag(
        "svg",
        axis(scale, y) + drawn,
        width="100%",
        height=y + 24,
        role="img",
        aria_label="The drill's phases, writers and outages",
    )
    key = legend(evidence, colours) if evidence["stores"] else ""
    left_out = len(evidence["phases"]) - len(drawn_phases(evidence, scale))
    if len(evidence["phases"]) > MOST_PHASES and left_out:
        note += f" {left_out} short phases are not drawn; evidence.json has all of them."
    return picture + key + tag("p", text(note), class_="small")


def axis(scale: Scale, y: int) -> str:
    drawn = tag("line", x1=0, x2="100%", y1=y, y2=y, class_="axis")
    for place, (x, name) in enumerate(scale.ticks()):
        drawn += tag("line", x1=f"{x:.3f}%", x2=f"{x:.3f}%", y1=0, y2=y + 4, class_="grid")
        anchor = "start" if place == 0 else ("end" if x > 95 else "middle")
        drawn += tag("text", text(name), x=f"{x:.3f}%", y=y + 17, text_anchor=anchor, class_="t axis")
    return drawn


def legend(evidence: Mapping[str, Any], colours: Mapping[str, int]) -> str:
    names = [
        *((f"r{place % 4}", f"written in {region}") for region, place in colours.items()),
        ("acks", "acknowledged writes"),
        ("none", "attempt without an answer"),
        ("outage", "no acknowledgement at all"),
    ]
    if any(store["lost_sequences"] for store in evidence["stores"]):
        names.append(("lost", "acknowledged, and lost"))
    key = "".join(tag("span", tag("i", class_=f"swatch {kind}") + text(name)) for kind, name in names)
    return tag("p", key, class_="key")


# --- the details -----------------------------------------------------------------------


def store_details(store: Mapping[str, Any]) -> str:
    surviving = store["surviving"]
    facts = [
        ("Attempts", number(store["attempts"])),
        ("Acknowledged", number(store["acked_writes"])),
        ("Of these held by the surviving copy", number(store["surviving_writes"])),
        ("Without an answer (no promise, so no loss)", number(store["unanswered_writes"])),
        ("Held once more than they were written", number(store["duplicate_writes"])),
        ("Region", pair(store["region_before"], store["region_after"])),
        ("Timeline", pair(store["timeline_before"], store["timeline_after"])),
        ("Position", pair(store["position_before"], store["position_after"])),
    ]
    facts += [
        (f"Longest time without a write through {name}", number(value, "s", 3))
        for name, value in sorted((store["outage_by_endpoint"] or {}).items())
    ]
    if surviving["host"]:
        asked = f"{surviving['host']} through {surviving['endpoint']} at {clock_time(surviving['read_at'])}"
        facts.append(("Surviving copy asked", text(asked)))
    made = tag("h3", text(store["name"])) + pairs(facts, "pairs")
    if store["writers"]:
        made += writers_table(store)
    if store["outages"]:
        made += outages_table(store)
    return made


def writers_table(store: Mapping[str, Any]) -> str:
    rows = [
        [
            text(f"{writer['host']} ({writer['region']})"),
            number(writer["timeline"]),
            number(writer["writes"]),
            text(f"{writer['first_acknowledged_at'][11:21]} \u2013 {writer['last_acknowledged_at'][11:21]}"),
        ]
        for writer in store["writers"]
    ]
    head = ["Acknowledged by", "Timeline", "Writes", "First \u2013 last"]
    return table(head, rows, f"Writers of {store['name']}", (1, 2, 3))


def outages_table(store: Mapping[str, Any]) -> str:
    longest = sorted(store["outages"], key=lambda outage: -outage["seconds"])[: _report_parts.MOST_LISTED]
    rows = [[text(o["from"][11:23]), text(o["to"][11:23]), number(o["seconds"], "s", 3)] for o in longest]
    return table(["No acknowledgement from", "To", "Lasted"], rows, f"Outages of {store['name']}", (1, 2))


def clocks(evidence: Mapping[str, Any]) -> str:
    rows = [
        [
            text(entry["host"]),
            number(entry["offset_ms"], "ms", 1),
            number(entry["uncertainty_ms"], "ms", 1),
        ]
        for entry in evidence["clock"]
    ]
    if not rows:
        return ""
    note = "Against the controller's clock."
    if evidence["canary"]:
        note += (
            f" All figures come from one clock, that of {evidence['canary']['host']};"
            " the phases are drawn with its offset."
        )
    return table(["Host", "Offset", "Uncertainty"], rows, "Clock offsets", (1, 2)) + tag(
        "p", text(note), class_="small"
    )


def versions(evidence: Mapping[str, Any]) -> str:
    rows = [
        [text(name), tag("span", "not known", class_="unknown") if value is None else text(value)]
        for name, value in evidence["versions"].items()
    ]
    return table(["What", "Version"], rows, "Versions") if rows else ""


def method(evidence: Mapping[str, Any]) -> str:
    canary = evidence["canary"]
    says = "evidence.json has all figures, in the form that docs/evidence.schema.json describes."
    if canary:
        says = (
            f"The canary wrote a number through every endpoint each {canary['interval_ms']:g} ms, and noted"
            f" each attempt and each acknowledgement: the {canary['rows']:,} rows of ledger.csv beside this"
            " file. Afterwards the surviving copy was asked which numbers it holds. Every figure is counted"
            " from these two, none is taken from a setting, and what cannot be known fails the drill. " + says
        )
    return tag("p", text(says)) + _report_parts.verification(evidence)


def render(evidence: Mapping[str, Any], rows: Sequence[_evidence.Row]) -> str:
    """The whole page."""
    mine: list[_evidence.Row] = []
    if evidence["canary"]:
        times = [_evidence.read_time(evidence["canary"][key]) for key in ("from", "to")]
        mine = _evidence.slice_rows(rows, _evidence.Window(*times))
    hosts = section("Clocks", clocks(evidence)) + section("Versions", versions(evidence))
    body = "".join(
        [
            top(evidence),
            _report_parts.overrides(evidence),
            why_not(evidence),
            section("Objectives against what was measured", objectives(evidence)),
            _report_parts.consistency(evidence),
            _report_parts.restore(evidence),
            section("What happened when", timeline(evidence, mine)),
            _report_parts.lost_writes(evidence, mine),
            _report_parts.gates(evidence),
            _report_parts.checks(evidence),
            section("Figures", "".join(store_details(store) for store in evidence["stores"])),
            tag("div", hosts, class_="two"),
            _report_parts.controls(evidence),
            section("How to verify it", method(evidence)),
        ]
    )
    title = text(f"{evidence['verdict']} · {evidence['scenario']} · {evidence['drill_id']}")
    return _report_style.PAGE.replace("@TITLE@", title).replace("@BODY@", body)
