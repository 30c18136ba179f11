"""The code of a model card, run as it stands."""

import re
from pathlib import Path


def code_of(card, number=0):
    """A block of Python code of a card."""
    return re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)[number]


def run_card(card, folder):
    """What the code of a card defines; folder: where its model is, in place of the card's own; None: as it says."""
    code = code_of(card)
    if folder is not None:
        assert code.count('FOLDER = "."') == 1
        code = code.replace('FOLDER = "."', f"FOLDER = {str(folder)!r}")
    names = {}
    exec(code, names)
    return names


def run_card_of(folder):
    """The same of the README.md in a folder."""
    return run_card((Path(folder) / "README.md").read_text(), folder)
