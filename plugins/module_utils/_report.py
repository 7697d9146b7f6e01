# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A drill's evidence as one self-contained page, for a person and for paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _evidence, _report_style

BINS = 200
SCENARIOS = {"switchover": "Planned switchover"}
MOST_LISTED = 10


def tag(name: str, content: str = "", **attributes: Any) -> str:
    """An element; `class_` is written as class, underscores as dashes, and None is left out."""
    parts = [
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    ]
    return f"<{name}{''.join(parts)}>{content}</{name}>"


def text(value: Any) -> str:
    return escape(str(value))


def number(value: float | int | None, unit: str = "", digits: int | None = None) -> str:
    """A figure for a reader; what is not known is said."""
    if value is None:
        return tag("span", "not known", class_="unknown")
    shown = f"{value:,.{digits}f}" if digits is not None else f"{value:,}"
    return text(shown) + (f"&nbsp;{unit}" if unit else "")


def clock_time(iso: str) -> str:
    return iso[11:19]


def day_and_time(iso: str) -> str:
    return f"{iso[:10]} {iso[11:19]} UTC"


def elapsed(start: str, end: str) -> str:
    whole = max(0, round(_evidence.seconds(_evidence.read_time(end) - _evidence.read_time(start))))
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], label: str, figures: Sequence[int] = ()) -> str:
    """A table whose cells are HTML already; columns in C(figures) are set to the right."""

    def row(cells: Sequence[str], kind: str) -> str:
        made = []
        for column, cell in enumerate(cells):
            first = column == 0 and kind == "td"
            scope = "row" if first else ("col" if kind == "th" else None)
            made.append(
                tag("th" if first else kind, cell, class_="n" if column in figures else None, scope=scope)
            )
        return tag("tr", "".join(made))

    body = tag("thead", row(head, "th")) + tag("tbody", "".join(row(cells, "td") for cells in rows))
    return tag("div", tag("table", body, aria_label=label), class_="scroll", tabindex="0", role="region")


def section(title: str, content: str) -> str:
    return tag("section", tag("h2", text(title)) + content) if content else ""


# --- the top ---------------------------------------------------------------------


def headline(evidence: Mapping[str, Any]) -> str:
    """One sentence that says what it cost."""
    parts = []
    for store in evidence["stores"]:
        if None in (store["acked_writes"], store["rpo_lost_writes"], store["outage_seconds"]):
            parts.append(f"{store['name']}: not all figures are known")
            continue
        lost = f"{store['rpo_lost_writes']:,} were lost" if store["rpo_lost_writes"] else "none was lost"
        parts.append(
            f"{store['name']}: of {store['acked_writes']:,} acknowledged writes {lost}; "
            f"the longest time without a write was {store['outage_seconds']:.2f} s"
        )
    return ". ".join(parts) + "." if parts else "No store was measured."


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
    facts = [
        ("Drill", text(evidence["drill_id"])),
        ("Started", text(day_and_time(evidence["started_at"]))),
        ("Took", text(elapsed(evidence["started_at"], evidence["finished_at"]))),
        ("Commit", tag("code", text((plan["git_sha"] or "not from a checkout")[:12]))),
        ("Inventory", tag("code", text(plan["inventory_sha256"][:12]), title=plan["inventory_sha256"])),
    ]
    listed = "".join(tag("div", tag("dt", name) + tag("dd", value)) for name, value in facts)
    badge = tag(
        "p", ("✓ " if passed else "✗ ") + evidence["verdict"], class_="verdict " + evidence["verdict"].lower()
    )
    return tag(
        "header",
        tag("div", tag("h1", text(title)) + tag("p", text(headline(evidence)), class_="lead"))
        + badge
        + tag("dl", listed, class_="facts"),
    )


def why_not(evidence: Mapping[str, Any]) -> str:
    if not evidence["reasons"]:
        return ""
    return section(
        "Why it did not pass",
        tag("ul", "".join(tag("li", text(r)) for r in evidence["reasons"]), class_="reasons"),
    )


# --- objectives --------------------------------------------------------------------


def mark(good: bool | None) -> str:
    if good is None:
        return tag("span", "? not known", class_="mark bad")
    return tag("span", "✓ met" if good else "✗ missed", class_="mark good" if good else "mark bad")


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


def objective_rows(store: Mapping[str, Any], objective: Mapping[str, Any] | None) -> list[list[str]]:
    rto = objective["rto_seconds"] if objective else None
    rpo = objective["rpo_seconds"] if objective else None
    name = text(store["name"])
    none_set = tag("span", "none set", class_="unknown")
    return [
        [
            name,
            "Acknowledged writes lost",
            "0",
            number(store["rpo_lost_writes"]),
            mark(at_most(store["rpo_lost_writes"], 0)),
        ],
        [
            name,
            "Loss in time (RPO)",
            none_set if rpo is None else f"≤ {rpo:g}&nbsp;s",
            number(store["rpo_seconds"], "s", 3),
            mark(at_most(store["rpo_seconds"], rpo)),
        ],
        [
            name,
            "Longest time without a write (RTO)",
            none_set if rto is None else f"≤ {rto:g}&nbsp;s",
            number(store["outage_seconds"], "s", 3) + meter(store["outage_seconds"], rto),
            mark(at_most(store["outage_seconds"], rto)),
        ],
        [
            name,
            "Writes by two writers at a time",
            "0",
            number(store["dual_writer_writes"]),
            mark(at_most(store["dual_writer_writes"], 0)),
        ],
    ]


def objectives(evidence: Mapping[str, Any]) -> str:
    rows = [
        row
        for store in evidence["stores"]
        for row in objective_rows(store, evidence["objectives"].get(store["name"]))
    ]
    head = ["Store", "Figure", "Objective", "Measured", ""]
    return table(head, rows, "Objectives against measured figures", (2, 3))


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


def duration(value: float) -> str:
    if value < 120:
        return f"{value:g} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def label(x: float, y: int, content: str, class_: str = "t") -> str:
    """A line of text that stays inside the drawing, wherever it begins."""
    anchor = "start" if x < 50 else "end"
    return tag("text", text(content), x=f"{x:.3f}%", y=y, text_anchor=anchor, class_=class_)


def phase_rows(evidence: Mapping[str, Any], scale: Scale, top_y: int) -> tuple[str, int]:
    """A row per phase: its name above its bar."""
    offset = next(
        (
            round(1000 * entry["offset_ms"])
            for entry in evidence["clock"]
            if entry["host"] == evidence["canary"]["host"] and entry["offset_ms"] is not None
        ),
        0,
    )
    drawn = []
    y = top_y
    for phase in evidence["phases"]:
        start = _evidence.read_time(phase["started_at"]) + offset
        end = start + round(phase["seconds"] * 1e6)
        if end < scale.start or start > scale.start + scale.span:
            continue
        middle = scale.at(start)
        name = f"{phase['name']} · {phase['seconds']:.1f} s"
        bar = tag("rect", y=y + 16, height=8, rx=2, class_="phase", **scale.place(start, end))
        drawn.append(label(middle if middle < 50 else scale.at(end), y + 11, name) + bar)
        y += 30
    return "".join(drawn), y


def writer_row(store: Mapping[str, Any], scale: Scale, y: int, colours: Mapping[str, int]) -> str:
    """Which server acknowledged, as bars in the colour of its region."""
    drawn = []
    for writer in store["writers"]:
        start = _evidence.read_time(writer["first_acknowledged_at"])
        end = _evidence.read_time(writer["last_acknowledged_at"])
        name = f"{writer['host']} · timeline {writer['timeline']}"
        inner = tag("rect", width="100%", height=22, rx=3) + tag("text", text(name), x=7, y=15, class_="in")
        drawn.append(
            tag(
                "svg",
                tag("title", text(f"{name}: {writer['writes']:,} writes")) + inner,
                y=y,
                height=22,
                class_=f"writer r{colours.get(writer['region'], 0) % 4}",
                **scale.place(start, end),
            )
        )
    return "".join(drawn)


def density(rows: Sequence[_evidence.Row], scale: Scale, y: int, height: int, most: float) -> str:
    """How many writes were acknowledged in each slice of the time, and where there were none."""
    counts = [0] * BINS
    missed = [0] * BINS
    for row in rows:
        time = row.sent if row.acknowledged is None else row.acknowledged
        place = min(BINS - 1, max(0, int((time - scale.start) * BINS / scale.span)))
        (missed if row.acknowledged is None else counts)[place] += 1
    steps = [f"M0 {height}"]
    for place, count in enumerate(counts):
        level = height - min(1.0, count / most) * height
        steps.append(f"L{place} {level:.1f}L{place + 1} {level:.1f}")
    path = tag("path", d="".join(steps) + f"L{BINS} {height}Z", class_="acks")
    lost = "".join(
        tag("rect", x=place, y=height - 5, width=1, height=5, class_="none")
        for place, count in enumerate(missed)
        if count
    )
    return tag(
        "svg",
        path + lost,
        x=0,
        y=y,
        width="100%",
        height=height,
        viewBox=f"0 0 {BINS} {height}",
        preserveAspectRatio="none",
    )


def outage_bands(store: Mapping[str, Any], scale: Scale, y: int, height: int) -> str:
    """The times without an acknowledgement, the three longest with their length."""
    by_length = sorted(store["outages"], key=lambda outage: -outage["seconds"])
    drawn = []
    for place, outage in enumerate(by_length[:MOST_LISTED]):
        start, end = _evidence.read_time(outage["from"]), _evidence.read_time(outage["to"])
        band = tag("rect", y=y + 18, height=height - 18, class_="outage", **scale.place(start, end))
        name = label(scale.at(start), y + 12, f"{outage['seconds']:.2f} s", "t out") if place < 3 else ""
        drawn.append(band + name)
    return "".join(drawn)


def store_lanes(
    store: Mapping[str, Any],
    rows: Sequence[_evidence.Row],
    scale: Scale,
    top_y: int,
    colours: Mapping[str, int],
    interval: float,
) -> tuple[str, int]:
    """One store's part of the drawing; the y where the next part begins."""
    mine = [row for row in rows if row.store == store["name"]]
    endpoints = sorted({row.endpoint for row in mine})
    y = top_y + 20
    drawn = [tag("text", text(f"{store['name']}: who acknowledged"), x=0, y=top_y + 12, class_="t lane")]
    drawn.append(writer_row(store, scale, y, colours))
    y += 44
    bands_top = y - 20
    # What an undisturbed endpoint manages in a slice is the full height.
    most = max(1.0, scale.span / BINS / interval)
    for endpoint in endpoints:
        drawn.append(tag("text", text(f"acknowledged through {endpoint}"), x=0, y=y + 12, class_="t lane"))
        part = [row for row in mine if row.endpoint == endpoint]
        drawn.append(density(part, scale, y + 18, 34, most))
        y += 58
    # The bands lie over the lanes of the endpoints.
    drawn.append(outage_bands(store, scale, bands_top, y - bands_top - 4))
    return "".join(drawn), y + 8


def timeline(evidence: Mapping[str, Any], rows: Sequence[_evidence.Row]) -> str:
    canary = evidence["canary"]
    scale = Scale(_evidence.read_time(canary["from"]), _evidence.read_time(canary["to"]))
    regions = sorted({writer["region"] for store in evidence["stores"] for writer in store["writers"]})
    colours = {region: place for place, region in enumerate(regions)}
    interval = canary["interval_ms"] * 1000
    drawn, y = phase_rows(evidence, scale, 0)
    y += 8
    for store in evidence["stores"]:
        part, y = store_lanes(store, rows, scale, y, colours, interval)
        drawn += part
    axis = tag("line", x1=0, x2="100%", y1=y, y2=y, class_="axis")
    for place, (x, name) in enumerate(scale.ticks()):
        axis += tag("line", x1=f"{x:.3f}%", x2=f"{x:.3f}%", y1=0, y2=y + 4, class_="grid")
        anchor = "start" if place == 0 else ("end" if x > 95 else "middle")
        axis += tag("text", text(name), x=f"{x:.3f}%", y=y + 17, text_anchor=anchor, class_="t axis")
    picture = tag(
        "svg",
        axis + drawn,
        width="100%",
        height=y + 24,
        role="img",
        aria_label="The drill's phases, writers and outages",
    )
    key = "".join(
        tag("span", tag("i", class_=f"swatch {kind}") + text(name))
        for kind, name in [
            *((f"r{place % 4}", f"written in {region}") for region, place in colours.items()),
            ("acks", "acknowledged writes"),
            ("none", "attempt without an answer"),
            ("outage", "no acknowledgement at all"),
        ]
    )
    note = f"Seconds since {clock_time(canary['from'])} UTC, by the clock of {canary['host']}."
    return picture + tag("p", key, class_="key") + tag("p", text(note), class_="small")


# --- the details -----------------------------------------------------------------------


def pair(before: Any, after: Any) -> str:
    shown = [
        tag("span", "not known", class_="unknown") if value is None else text(value)
        for value in (before, after)
    ]
    return " → ".join(shown)


def store_details(store: Mapping[str, Any]) -> str:
    surviving = store["surviving"]
    facts = [
        ("Attempts", number(store["attempts"])),
        ("Acknowledged", number(store["acked_writes"])),
        ("Of these held by the surviving copy", number(store["surviving_writes"])),
        ("Without an answer (no promise, no loss)", number(store["unanswered_writes"])),
        ("Region", pair(store["region_before"], store["region_after"])),
        ("Timeline", pair(store["timeline_before"], store["timeline_after"])),
        ("Position", pair(store["position_before"], store["position_after"])),
    ]
    facts += [
        (f"Longest time without a write through {name}", number(value, "s", 3))
        for name, value in sorted((store["outage_by_endpoint"] or {}).items())
    ]
    if surviving["host"]:
        facts.append(
            (
                "Surviving copy asked",
                text(f"{surviving['host']} through {surviving['endpoint']}, {surviving['read_at']}"),
            )
        )
    made = tag("h3", text(store["name"])) + table(
        ["Figure", "Value"],
        [[text(name), value] for name, value in facts],
        f"Figures of {store['name']}",
        (1,),
    )
    if store["writers"]:
        made += writers_table(store)
    if store["outages"]:
        made += outages_table(store)
    return made


def writers_table(store: Mapping[str, Any]) -> str:
    rows = [
        [
            text(writer["host"]),
            text(writer["region"]),
            number(writer["timeline"]),
            number(writer["writes"]),
            text(writer["first_acknowledged_at"][11:23]),
            text(writer["last_acknowledged_at"][11:23]),
        ]
        for writer in store["writers"]
    ]
    head = ["Acknowledged by", "Region", "Timeline", "Writes", "First", "Last"]
    return table(head, rows, f"Writers of {store['name']}", (2, 3, 4, 5))


def outages_table(store: Mapping[str, Any]) -> str:
    longest = sorted(store["outages"], key=lambda outage: -outage["seconds"])[:MOST_LISTED]
    rows = [[text(o["from"][11:23]), text(o["to"][11:23]), number(o["seconds"], "s", 3)] for o in longest]
    return table(["No acknowledgement from", "To", "Lasted"], rows, f"Outages of {store['name']}", (0, 1, 2))


def clocks(evidence: Mapping[str, Any]) -> str:
    rows = [
        [
            text(entry["host"]),
            number(entry["offset_ms"], "ms", 1),
            "± " + number(entry["uncertainty_ms"], "ms", 1),
        ]
        for entry in evidence["clock"]
    ]
    note = (
        "Against the controller's clock. All figures above come from one clock, that of "
        f"{evidence['canary']['host']}; the phases are moved by its offset."
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
    command = (
        "# with Muster's checkout, against the list of surviving numbers in evidence.json\n"
        "tests/recompute.py .\n"
        "# or against the store itself, while it still holds the rows\n"
        "tests/recompute.py . --dsn 'host=… dbname=muster user=…'"
    )
    says = (
        f"The canary wrote a number through every endpoint each {canary['interval_ms']:g} ms, and noted each"
        f" attempt and each acknowledgement: the {canary['rows']:,} rows of ledger.csv beside this file."
        " Afterwards the surviving copy was asked which numbers it holds. Every figure is counted from these"
        " two, none is taken from a setting, and what cannot be known fails the drill. evidence.json has all"
        " figures, in the form that docs/evidence.schema.json describes."
    )
    return tag("p", text(says)) + tag("pre", tag("code", text(command)))


def render(evidence: Mapping[str, Any], rows: Sequence[_evidence.Row]) -> str:
    """The whole page."""
    window = _evidence.Window(
        _evidence.read_time(evidence["canary"]["from"]), _evidence.read_time(evidence["canary"]["to"])
    )
    body = "".join(
        [
            top(evidence),
            why_not(evidence),
            section("Objectives against what was measured", objectives(evidence)),
            section("What happened when", timeline(evidence, _evidence.slice_rows(rows, window))),
            section("Figures", "".join(store_details(store) for store in evidence["stores"])),
            section("Clocks", clocks(evidence)),
            section("Versions", versions(evidence)),
            section("How to recompute it", method(evidence)),
        ]
    )
    title = text(f"{evidence['verdict']} · {evidence['scenario']} · {evidence['drill_id']}")
    return _report_style.PAGE.replace("@TITLE@", title).replace("@BODY@", body)
