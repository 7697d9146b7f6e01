# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One page over all drills in the directory: what each cost, and how it ended. In no manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _chain, _report, _report_style
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._files import write_file
from ansible_collections.muster.platform.plugins.module_utils._html import (
    day_and_time,
    mark,
    number,
    pairs,
    section,
    table,
    tag,
    text,
)

HEIGHT = 84
# A wider row of bars would be a smear on a phone.
MOST_BARS = 60
MEASURES = [
    ("outage", "Longest time without a write"),
    ("loss", "Loss in time"),
    ("restore", "Time to restore"),
]


@dataclass(frozen=True)
class Drill:
    """What the page tells of one drill. A figure over several stores is the worst of them."""

    drill_id: str
    scenario: str
    passed: bool
    finished_at: str
    outage: float | None
    loss: float | None
    lost: int | None
    restore: float | None
    overridden: int

    @property
    def day(self) -> str:
        return self.finished_at[:10]


def worst(stores: Sequence[Mapping[str, Any]], key: str) -> Any:
    """None when there is no store, or one whose figure is not known."""
    values = [store[key] for store in stores]
    return None if not values or None in values else max(values)


def read_drill(folder: Path) -> Drill:
    evidence = json.loads((folder / _chain.EVIDENCE).read_text(encoding="utf-8"))
    stores = evidence["stores"]
    return Drill(
        drill_id=folder.name,
        scenario=str(evidence["scenario"]),
        passed=evidence["verdict"] == "PASS",
        finished_at=str(evidence["finished_at"]),
        outage=worst(stores, "outage_seconds"),
        loss=worst(stores, "rpo_seconds"),
        lost=worst(stores, "rpo_lost_writes"),
        restore=(evidence.get("restore_proof") or {}).get("seconds"),
        overridden=sum(bool(gate["overridden"]) for gate in evidence.get("gates", [])),
    )


def read_drills(directory: Path) -> tuple[list[Drill], list[str]]:
    """All drills of the directory, oldest first, and the folders whose evidence cannot be read."""
    drills, unreadable = [], []
    for folder in sorted(directory.iterdir()):
        if (
            not folder.name.startswith(".")
            and not folder.is_symlink()
            and (folder / _chain.EVIDENCE).exists()
        ):
            try:
                drills.append(read_drill(folder))
            except (OSError, ValueError, KeyError, TypeError):
                unreadable.append(folder.name)
    return sorted(drills, key=lambda drill: (drill.finished_at, drill.drill_id)), unreadable


# --- drawing -----------------------------------------------------------------------


def bars(drills: Sequence[Drill], measure: str, title: str) -> str:
    """A bar per drill in the colour of its verdict; nothing when no drill of them has the figure."""
    values = [getattr(drill, measure) for drill in drills]
    known = [value for value in values if value is not None]
    if not known:
        return ""
    if not any(known) and len(known) == len(values):
        return tag("figure", tag("figcaption", text(f"{title}: none in any drill")))
    top = max(known) or 1.0
    step = 100 / len(drills)
    width = min(step * 0.7, 5)
    drawn = tag("line", x1=0, x2="100%", y1=HEIGHT + 18, y2=HEIGHT + 18, class_="axis")
    for place, (drill, value) in enumerate(zip(drills, values, strict=True)):
        drawn += one_bar(drill, value, top, place * step + (step - width) / 2, width)
    drawn += tag("text", text(drills[0].day), x=0, y=HEIGHT + 33, class_="t axis")
    if len(drills) > 1:
        drawn += tag(
            "text", text(drills[-1].day), x="100%", y=HEIGHT + 33, text_anchor="end", class_="t axis"
        )
    said = caption(title, values, known)
    picture = tag("svg", drawn, width="100%", height=HEIGHT + 38, role="img", aria_label=said)
    return tag("figure", tag("figcaption", text(said)) + picture)


def caption(title: str, values: Sequence[float | None], known: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{title}: {shown(values[-1])}"
    return f"{title}: {shown(values[-1])} last, from {shown(min(known))} to {shown(max(known))}"


def one_bar(drill: Drill, value: float | None, top: float, x: float, width: float) -> str:
    name = tag("title", text(f"{drill.day} {drill.drill_id}: {shown(value)}"))
    where = {"x": f"{x:.3f}%", "width": f"{width:.3f}%"}
    if value is None:
        return tag("rect", name, y=18, height=HEIGHT, class_="gap", **where)
    height = max(2.0, HEIGHT * value / top)
    return tag(
        "rect", name, y=f"{18 + HEIGHT - height:.1f}", height=f"{height:.1f}",
        class_="bar good" if drill.passed else "bar bad", **where,
    )  # fmt: skip


def shown(value: float | None) -> str:
    return "not known" if value is None else f"{value:.{2 if value < 100 else 0}f}\u00a0s"


def verdicts(drills: Sequence[Drill]) -> str:
    signs = "".join(
        tag("i", "✓" if drill.passed else "✗", class_="good" if drill.passed else "bad",
            title=f"{drill.day} {drill.drill_id}")
        for drill in drills
    )  # fmt: skip
    passed = sum(drill.passed for drill in drills)
    return tag("p", tag("span", signs, class_="signs", aria_hidden="true")
               + text(f"{passed} of {len(drills)} passed"), class_="verdicts")  # fmt: skip


def scenario_part(scenario: str, drills: Sequence[Drill]) -> str:
    last = drills[-MOST_BARS:]
    made = verdicts(last) + tag("div", "".join(bars(last, *each) for each in MEASURES), class_="plots")
    if len(drills) > len(last):
        made += tag("p", f"The last {len(last)} of {len(drills)}.", class_="small")
    return section(_report.SCENARIOS.get(scenario, scenario), made)


def drill_row(drill: Drill) -> list[str]:
    link = tag("a", text(day_and_time(drill.finished_at)[:16]), href=f"{drill.drill_id}/report.html")
    verdict = mark(drill.passed, "PASS" if drill.passed else "FAIL")
    if drill.overridden:
        verdict += tag(
            "div", f"{drill.overridden} gate{'s' * (drill.overridden > 1)} overridden", class_="override"
        )
    without = drill.scenario in ("restore", "reprotect") and drill.outage is None
    figures = [
        "" if without else number(drill.outage, "s", 2),
        "" if without else number(drill.loss, "s", 2),
        "" if without else number(drill.lost),
    ]
    name = _report.SCENARIOS.get(drill.scenario, drill.scenario)
    return [
        link,
        text(name),
        verdict,
        *figures,
        "" if drill.restore is None else number(drill.restore, "s", 1),
    ]


def place(scenario: str) -> int:
    """The gravest scenario first; one that this version does not know last."""
    known = list(_report.SCENARIOS)
    return known.index(scenario) if scenario in known else len(known)


def top(drills: Sequence[Drill]) -> str:
    newest = {drill.scenario: drill for drill in drills}
    facts = [
        (
            _report.SCENARIOS.get(scenario, scenario),
            mark(drill.passed, "PASS" if drill.passed else "FAIL") + f" {text(drill.day)}",
        )
        for scenario, drill in sorted(newest.items(), key=lambda item: place(item[0]))
    ]
    passed = sum(drill.passed for drill in drills)
    lead = (
        f"{len(drills)} drills from {drills[0].day} to {drills[-1].day}, {passed} passed. The last of each:"
    )
    return tag(
        "header",
        tag("div", tag("h1", "Disaster recovery drills") + tag("p", text(lead), class_="lead"))
        + pairs(facts, "facts"),
        class_="trend",
    )


def render(drills: Sequence[Drill], unreadable: Sequence[str] = ()) -> str:
    """The whole page."""
    if not drills:
        body = tag(
            "header", tag("h1", "Disaster recovery drills") + tag("p", "There is none yet.", class_="lead")
        )
    else:
        scenarios = sorted({drill.scenario for drill in drills}, key=place)
        head = ["Ended (UTC)", "Scenario", "Verdict", "Outage", "Loss", "Writes lost", "Restore"]
        rows = [drill_row(drill) for drill in reversed(drills)]
        body = top(drills) + "".join(
            scenario_part(name, [drill for drill in drills if drill.scenario == name]) for name in scenarios
        )
        body += section("All drills", table(head, rows, "All drills", (3, 4, 5, 6), class_="cards"))
    if unreadable:
        body += tag("p", f"Evidence that cannot be read: {text(', '.join(unreadable))}.", class_="small")
    note = "This page is written anew after each drill and is no evidence: each drill's folder is."
    body += tag("p", note, class_="small")
    return _report_style.PAGE.replace("@TITLE@", "Drills").replace("@BODY@", body)


def write(directory: Path) -> None:
    try:
        write_file(directory / "index.html", render(*read_drills(directory)))
    except OSError as error:
        raise MusterError(f"cannot write {directory / 'index.html'}: {error.strerror}") from error
