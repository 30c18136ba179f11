"""Run the commands of README and docs, each page's one after another, in a clone of its own: `make docs-check`.

    python tools/dev/docs_check.py                # all pages: about half an hour on two cores
    python tools/dev/docs_check.py README.md docs/training.md

A ```bash block runs as it stands, unless a comment on the line above it says otherwise:

    <!-- commands: not run, WHY -->
    <!-- commands: run with OLD => NEW; OLD => NEW -->     (sizes at which two cores can run it)

What is started with & is ended after the page's last command, and must still run by then. Exit code: 0 if all that was
run ended with 0, else 1.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from libs.cli import Parser

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"(?:<!-- commands: (?P<mark>.*?) -->\n\n?)?^(?P<indent> *)```bash\n(?P<text>.*?)^ *```", re.M | re.S
)
# What `make quickstart` leaves behind, smaller: pages use it.
PREPARE = """
.venv/bin/python tools/collect_demos.py --task_suite libero_object --task_ids 0 --num_demos 6 --resolution 128 \
    --render fast --workers 2 --out data/quickstart
.venv/bin/python tools/collect_stack.py --num_demos 6 --render fast --resolution 128 --workers 2 --out data/stack
"""


@dataclass
class Block:
    """A ```bash block of a page."""

    page: str  # path in the repository
    line: int  # of its first command
    text: str  # as it stands
    mark: str  # "", "not run, WHY" or "run with OLD => NEW; ..."

    @property
    def skipped(self) -> str:
        """Why it is not run; "" if it is."""
        return self.mark.removeprefix("not run, ") if self.mark.startswith("not run, ") else ""

    @property
    def changes(self) -> list[tuple[str, str]]:
        """What is replaced by what before it runs."""
        if not self.mark.startswith("run with "):
            return []
        pairs = [pair.split(" => ") for pair in self.mark.removeprefix("run with ").split("; ")]
        return [(old, new) for old, new in pairs]

    def command(self) -> str:
        text = self.text
        for old, new in self.changes:
            text = text.replace(old, new)
        return text


def pages() -> list[str]:
    """Every page of the repository that may hold commands, README first."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(listed.split(), key=lambda page: (page != "README.md", page))


def blocks(page: str) -> list[Block]:
    """The ```bash blocks of a page, in order."""
    text = (ROOT / page).read_text()
    return [
        Block(page, text[: found.start("text")].count("\n") + 1, found["text"], found["mark"] or "")
        for found in _BLOCK.finditer(text)
    ]


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="such as README.md docs/training.md (default: all)")
    parser.add_argument("--minutes", type=float, default=15, help="longest time for one page")
    args = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="docs_check_") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        (clone / ".venv").symlink_to(ROOT / ".venv")
        if _run(clone, PREPARE, args.minutes)[0]:
            sys.exit("the demonstrations that pages use could not be collected")
        for page in args.pages or pages():
            found = blocks(page)
            for block in (block for block in found if block.skipped):
                print(f"{page}:{block.line}  not run: {block.skipped}", flush=True)
            runs = [block for block in found if not block.skipped]
            if not runs:
                continue
            begun = time.monotonic()
            code, output = _run(clone, "\n".join(block.command() for block in runs), args.minutes)
            said = "ok" if code == 0 else f"FAILED ({code})\n{output[-3000:]}"
            print(f"{page}  {len(runs)} of {len(found)} blocks, {time.monotonic() - begun:.0f} s: {said}", flush=True)
            failed += code != 0
    sys.exit(1 if failed else 0)


def _run(clone, script, minutes):
    """Exit code and output of a page's commands; nothing that they started is left behind."""
    script += "\nif jobs -p | grep -q .; then sleep 20; for job in $(jobs -p); do kill -0 $job; done; fi\n"
    env = {**os.environ, "PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as output:
        shell = ["bash", "-e", "-x", "-c", script]
        process = subprocess.Popen(shell, cwd=clone, env=env, stdout=output, stderr=output, start_new_session=True)
        try:
            code = process.wait(60 * minutes)
        except subprocess.TimeoutExpired:
            code = 124
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        output.seek(0)
        return code, output.read()


if __name__ == "__main__":
    main()
