"""Tables of an evaluation: columns of texts, for the terminal and, cell by cell, for the report."""

import textwrap
from dataclasses import dataclass, field

from rv_eval.results.records import NAME_WIDTH, wilson_interval

WIDTH = 120  # columns


@dataclass(frozen=True)
class Table:
    """A header, a tuple of lines, and blocks of rows; every row begins with its name.

    note: what the numbers are. shades: {(row, column): 0 to 1}, how dark the report paints a cell; rows are counted
    over all blocks, columns with that of the names, from 0. asked: cells that are what was asked for.
    """

    title: str
    note: str
    header: tuple
    blocks: list[list[tuple]]
    shades: dict[tuple[int, int], float] = field(default_factory=dict)
    asked: frozenset[tuple[int, int]] = frozenset()

    @property
    def text(self) -> str:
        """As it is printed, what was asked for in brackets."""
        blocks, number = [], 0
        for block in self.blocks:
            rows = []
            for row in block:
                rows.append(tuple(f"[{cell}]" if (number, i) in self.asked else cell for i, cell in enumerate(row)))
                number += 1
            blocks.append(rows)
        return "\n".join([self.title, *textwrap.wrap(self.note, WIDTH), table_text(self.header, blocks)])


def share(part: int, whole: int) -> dict:
    """A share as JSON: {"count", "of", "rate", "interval"}, Wilson's 95 %."""
    return {"count": part, "of": whole, "rate": part / max(1, whole), "interval": list(wilson_interval(part, whole))}


def share_cells(found: dict) -> tuple[str, str, str]:
    """The cells of a `share`: "7/10", percent, interval."""
    return f"{found['count']}/{found['of']}", f"{100 * found['rate']:.1f}", percent_range(*found["interval"])


def percent_range(low: float, high: float) -> str:
    return f"{100 * low:.1f}-{100 * high:.1f}"


def table_text(header: tuple, blocks: list[list[tuple]]) -> str:
    """Columns of texts: the header's lines and the blocks of rows, with rules between them."""
    blocks = [[(cut(row[0]), *row[1:]) for row in block] for block in blocks]
    rows = [*header, *(row for block in blocks for row in block)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def text(row):
        return "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])

    rule = "-" * len(text(rows[0]))
    parts = ["\n".join(text(row) for row in header)]
    parts += ["\n".join(text(row) for row in block) for block in blocks]
    return f"\n{rule}\n".join(parts)


def short_names(texts: list[str], width: int = NAME_WIDTH) -> list[str]:
    """Instructions of one suite, for a narrow column: without the words with which all of them begin or end, where
    they are too long."""
    if len(texts) < 2 or max(map(len, texts)) <= width:
        return texts
    words = [text.split() for text in texts]
    shortest = min(map(len, words))
    begin = next((i for i in range(shortest) if len({line[i] for line in words}) > 1), shortest)
    end = next((i for i in range(shortest - begin) if len({line[-1 - i] for line in words}) > 1), shortest - begin)
    if begin + end >= shortest:
        return texts
    left, right = "… " * (begin > 0), " …" * (end > 0)
    return [f"{left}{' '.join(line[begin : len(line) - end])}{right}" for line in words]


def cut(text: str) -> str:
    """A name for the first column."""
    return text if len(text) <= NAME_WIDTH else text[: NAME_WIDTH - 1] + "…"
