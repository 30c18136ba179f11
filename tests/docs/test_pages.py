"""README and docs: links lead somewhere, commands exist, generated pages are what the code says.

That the commands also run is `make docs-check`; here every block either runs there or says why not.
"""

import re
import subprocess

import pytest

from tests.tiny import ROOT
from tools.dev import config_page, docs_check, errors_page

PAGES = docs_check.pages()
BLOCKS = [block for page in PAGES for block in docs_check.blocks(page)]


@pytest.mark.parametrize("page", PAGES)
def test_no_link_is_dead(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in _anchors(file.read_text()), f"{page}: {target}"


def _anchors(text):
    """As GitHub names them: lower case, without punctuation, blanks as hyphens."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_block_of_commands_runs_or_says_why_not():
    for block in BLOCKS:
        where = f"{block.page}:{block.line}"
        assert not block.mark or block.skipped or block.changes, f"{where}: {block.mark}"
        for old, _ in block.changes:
            assert old in block.text, f"{where}: {old} is not in it"
    fences = sum(len(re.findall(r"^ *```bash$", (ROOT / page).read_text(), re.M)) for page in PAGES)
    assert len(BLOCKS) == fences


def test_commands_name_files_and_options_that_exist():
    sources = {path: (ROOT / path).read_text() for path in _tracked("*.py")}
    shared = "".join(text for path, text in sources.items() if not path.startswith("tests/"))
    for block in BLOCKS:
        commands = block.text.replace("\\\n", " ").splitlines()
        for command in commands:
            for path in re.findall(r"(?<!/)\b((?:tools|docs|configs|tests|benchmarks)/[\w/.-]+\.\w+)", command):
                assert (ROOT / path).exists() or "toy" in path, f"{block.page}:{block.line}: {path}"
            if ours := re.search(r"python (tools/[\w/]+\.py|-m rv_train\.train)(.*)", command):
                for option in re.findall(r"(?<= )--[\w-]+", ours[2]):
                    assert f'"{option}"' in shared or f'"--{option[5:]}"' in shared, f"{block.page}: {option}"


def _tracked(pattern):
    listed = subprocess.run(["git", "ls-files", pattern], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return listed.split()


def test_generated_pages_are_what_the_code_says():
    again = "run `make docs` and commit it"
    assert config_page.PAGE.read_text() == config_page.render(config_page.SOURCE), again
    assert errors_page.PAGE.read_text() == errors_page.render(ROOT), again


def test_the_front_page_is_one_sitting():
    assert len((ROOT / "README.md").read_text().split()) <= 1000
