"""Write docs/config.md: every key of the config tree with its default and its comment, from rv_train/config.py.

    python tools/dev/config_page.py

A test fails where the page is not what the comments say.
"""

import ast
import re
import tokenize
from pathlib import Path

from libs.cli import Parser

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "rv_train/config.py"
PAGE = ROOT / "docs/config.md"
HEAD = """# Every key of the config tree

Written by `tools/dev/config_page.py` from [rv_train/config.py](../rv_train/config.py); edit the comments there.

A recipe under [configs](../configs) states what differs from these defaults, and `KEY VALUE` pairs behind a command
override the recipe. Unknown keys, wrong types and values outside the choices are refused. "Of the family" marks keys
whose defaults come with `MODEL.BACKBONE` ([backbones.md](backbones.md)).
"""
_RULE = re.compile(r"-{20,} (.+)")
_CHOICE = re.compile(r" ?[\w-]+: +\S")  # "hdf5:     demonstration files"


def main() -> None:
    Parser(__doc__).parse_args()
    page = render(SOURCE)
    PAGE.write_text(page)
    print(f"{PAGE.relative_to(ROOT)}: {page.count('### `')} keys")


def render(source: Path) -> str:
    """The page as Markdown, from the assignments `_C.GROUP.KEY = value` of `source` and the comments at them."""
    with source.open("rb") as file:
        tokens = list(tokenize.tokenize(file.readline))
    comments = {token.start[0]: token.string[1:].rstrip() for token in tokens if token.type == tokenize.COMMENT}
    alone = {
        token.start[0]
        for token in tokens
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip()
    }
    out, done = [HEAD], 0
    for node in ast.parse(source.read_text()).body:
        if not (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("_C.")):
            continue
        name, last = ast.unparse(node.targets[0]).removeprefix("_C."), node.end_lineno or node.lineno
        above = [row for row in range(done + 1, node.lineno) if row in alone]
        done = last
        for row in above:
            if rule := _RULE.search(comments[row]):
                out.append(f"## {rule[1].capitalize()}\n")
        lines = [comments[row] for row in above if not _RULE.search(comments[row])]
        lines += [comments[row] for row in range(node.lineno, last + 1) if row in comments]
        if isinstance(node.value, ast.Call):  # a group of keys: what is said of it stands before them
            out += [*_text(lines), ""] if lines else []
            continue
        out += [f"### `{name}`\n", f"Default: `{ast.literal_eval(node.value)!r}`\n", *_text(lines), ""]
    return "\n".join(out).rstrip() + "\n"


def _text(lines: list[str]) -> list[str]:
    """Comment lines as Markdown: as they stand where they list choices or are indented, else as a paragraph."""
    if any(_CHOICE.match(line) or line.startswith("  ") for line in lines):
        return ["```text", *(line.removeprefix(" ") for line in lines), "```"]
    text = "\n".join(line.strip() for line in lines)
    return [text[:1].upper() + re.sub(r"([|*<_])", r"\\\1", text[1:])]


if __name__ == "__main__":
    main()
