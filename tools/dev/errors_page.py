"""Write docs/errors.md: every error line that a user can cause, by the file that says it, from the code itself.

    python tools/dev/errors_page.py

A test fails where the page is not what the messages say.
"""

from pathlib import Path

from libs.cli import Parser
from tools.dev.messages import find_messages

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
and one line that names the value, the file and what to do. What stands in braces is filled in, often by another line of
this page: search for words of every part of what you got. The file above a line is where it is decided, and
`VLA0_TRACEBACK=1` shows the way there. What to do about the common ones:
[troubleshooting.md](troubleshooting.md).
"""


def main() -> None:
    Parser(__doc__).parse_args()
    page = render(ROOT)
    PAGE.write_text(page)
    print(f"{PAGE.relative_to(ROOT)}: {page.count(chr(10) + '- ')} lines")


def render(root: Path) -> str:
    """The page as Markdown, from every message in the packages under `root`."""
    found = find_messages(root, list(ROOMS))
    out = [HEAD]
    for room, title in ROOMS.items():
        out.append(f"## {title}\n")
        for path, messages in found.items():
            if path.is_relative_to(root / room):
                out += [f"`{path.relative_to(root)}`\n", *[f"- `{message}`" for message in messages], ""]
    return "\n".join(out).rstrip() + "\n"


if __name__ == "__main__":
    main()
