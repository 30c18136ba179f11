"""Tables of the report: HTML without styles of single elements, which the page's security policy forbids."""

import re
from collections.abc import Mapping
from html import escape
from types import MappingProxyType

from rv_eval.results.asking import asked_tables
from rv_eval.results.summary import Run

SHADES = 5  # of a cell, besides none: in style.css


def numbers_table(
    header: tuple,
    blocks: list[list[tuple]],
    shades: Mapping[tuple[int, int], float] = MappingProxyType({}),
    asked: frozenset[tuple[int, int]] = frozenset(),
) -> str:
    """A table of texts, with the header's lines joined and one body per block; shades, asked: see tables.Table."""
    names = [" ".join(filter(None, column)) for column in zip(*header, strict=True)]
    names = [re.sub(r"(?<=\w)- ", "", name) for name in names]  # "inci-" above "dents"
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    number, bodies = -1, ""
    for rows in blocks:
        bodies += "<tbody>"
        for row in rows:
            number += 1
            cells = "".join(
                f"<td{_cell_class(shades.get((number, i)), (number, i) in asked)}>{escape(cell)}</td>"
                for i, cell in enumerate(row[1:], 1)
            )
            bodies += f"<tr><th{' class=part' * row[0].startswith(' ')}>{escape(row[0])}</th>{cells}</tr>"
        bodies += "</tbody>"
    kind = "numbers matrix" if shades else "numbers"
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>{bodies}</table></div>'


def asked_section(run: Run) -> str:
    """What there is to tell where other instructions than the tasks' own were asked."""
    tables = asked_tables([line.values for line in run.episodes])
    sections = (
        f'<h3>{escape(table.title)}</h3><p class="muted">{escape(table.note)}</p>'
        f"{numbers_table(table.header, table.blocks, table.shades, table.asked)}"
        for table in tables
    )
    heading = "<h2>What was asked, and what came of it</h2>" if tables else ""
    return f'<section id="asked">{heading}{"".join(sections)}</section>'


def _cell_class(shade: float | None, asked: bool) -> str:
    """Its class: styles of single elements are not allowed in the page."""
    names = [f"shade{round(SHADES * shade)}"] if shade is not None else []
    names += ["asked"] if asked else []
    return f' class="{" ".join(names)}"' if names else ""
