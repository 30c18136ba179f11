"""Write docs/errors.md: every error line that a user can cause, by the file that says it, from the code itself.

    python tools/dev/errors_page.py

A test fails where the page is not what the messages say.
"""

import ast
from pathlib import Path

from libs.cli import Parser

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/errors.md"
ROOMS = {
    "libs": "Reading files, the simulators, jobs",
    "rv_train": "Recipes, data, models, training",
    "rv_eval": "Policies, playing, results, serving",
    "tools": "Commands",
}
HEAD = """# Every error line

Written by `tools/dev/errors_page.py` from the code: each message of `BadInput`, which ends a command with exit code 2
and one line that names the value, the file and what to do. What stands in braces is filled in. Search here for words of
a line that you got (a few are put together elsewhere, such as that a file does not exist, and are not here); the file
above it is where it is decided, and `VLA0_TRACEBACK=1` shows the way there. What to do about the common ones:
[troubleshooting.md](troubleshooting.md).
"""


def main() -> None:
    Parser(__doc__).parse_args()
    page = render(ROOT)
    PAGE.write_text(page)
    print(f"{PAGE.relative_to(ROOT)}: {page.count(chr(10) + '- ')} lines")


def render(root: Path) -> str:
    """The page as Markdown, from every `BadInput(message)` in the packages under `root`."""
    out = [HEAD]
    for room, title in ROOMS.items():
        out.append(f"## {title}\n")
        for path in sorted((root / room).rglob("*.py")):
            lines = _messages(ast.parse(path.read_text()))
            if lines:
                out += [f"`{path.relative_to(root)}`\n", *lines, ""]
    return "\n".join(out).rstrip() + "\n"


def _messages(tree: ast.Module) -> list[str]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    calls = [node for node in calls if getattr(node.func, "id", getattr(node.func, "attr", "")) == "BadInput"]
    texts = [_text(node.args[0]) for node in sorted(calls, key=lambda node: node.lineno)]
    return list(dict.fromkeys(f"- `{text}`" for text in texts if text != "{…}"))


def _text(node: ast.expr) -> str:
    """A message as it stands in the code, with `{…}` for what is filled in."""
    match node:
        case ast.Constant(value=str(text)):
            return " ".join(text.replace("`", "'").split())
        case ast.JoinedStr(values=parts):
            return " ".join("".join(_part(part) for part in parts).split())
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left) + _text(right)
        case ast.IfExp(body=body, orelse=orelse):
            return f"{_text(body)} / {_text(orelse)}"
    return "{…}"


def _part(part: ast.expr) -> str:
    match part:
        case ast.Constant(value=str(text)):
            return text.replace("`", "'")
        case ast.FormattedValue(value=ast.Name(id=name)):
            return f"{{{name}}}"
    return "{…}"


if __name__ == "__main__":
    main()
