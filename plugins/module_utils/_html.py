# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pieces of a page: elements, tables, and figures as a reader wants them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils import _evidence


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
    return duration(max(0, round(_evidence.seconds(_evidence.read_time(end) - _evidence.read_time(start)))))


def duration(value: float) -> str:
    if value < 120:
        return f"{value:g} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    label: str,
    figures: Sequence[int] = (),
    class_: str | None = None,
) -> str:
    """A table whose cells are HTML already; columns in C(figures) are set to the right.

    In the class stack the last of three columns is prose, which a phone shows below the others. In the
    class cards a phone shows each row as a card, with the columns' names before the figures.
    """

    def row(cells: Sequence[str], kind: str) -> str:
        made = []
        for column, cell in enumerate(cells):
            first = column == 0 and kind == "td"
            scope = "row" if first else ("col" if kind == "th" else None)
            named = class_ == "cards" and kind == "td" and column in figures and cell
            made.append(
                tag(
                    "th" if first else kind,
                    cell,
                    class_="n" if column in figures else None,
                    scope=scope,
                    data_label=head[column] if named else None,
                )
            )
        return tag("tr", "".join(made))

    body = tag("thead", row(head, "th")) + tag("tbody", "".join(row(cells, "td") for cells in rows))
    return tag(
        "div",
        tag("table", body, aria_label=label, class_=class_),
        class_="scroll",
        tabindex="0",
        role="region",
    )


def section(title: str, content: str) -> str:
    return tag("section", tag("h2", text(title)) + content) if content else ""


def pair(before: Any, after: Any) -> str:
    shown = [
        tag("span", "not known", class_="unknown") if value is None else text(value)
        for value in (before, after)
    ]
    return " → ".join(shown)


def pairs(facts: Iterable[tuple[str, str]], class_: str) -> str:
    listed = "".join(tag("div", tag("dt", text(name)) + tag("dd", value)) for name, value in facts)
    return tag("dl", listed, class_=class_)


def mark(good: bool | None, word: str = "") -> str:
    """A sign for what is so, what is not, and what nobody knows; on a phone without its word."""
    sign, usual = ("?", "not known") if good is None else ("✓", "met") if good else ("✗", "missed")
    shown = f"{sign} " + tag("span", text(word or usual), class_="word")
    return tag("span", shown, class_="mark good" if good else "mark bad")
