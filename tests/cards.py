"""The code of a model card, run as it stands."""

import re
from pathlib import Path


def run_card(card, folder):
    """What the code of a card defines; folder: where its model is, in place of the card's own."""
    code = re.search(r"```python\n(.*?)\n```", card, re.DOTALL)[1]
    assert code.count('FOLDER = "."') == 1
    names = {}
    exec(code.replace('FOLDER = "."', f"FOLDER = {str(folder)!r}"), names)
    return names


def run_card_of(folder):
    """The same of the README.md in a folder."""
    return run_card((Path(folder) / "README.md").read_text(), folder)
