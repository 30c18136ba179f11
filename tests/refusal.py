"""How a command line refuses bad input."""

import functools
import re

import pytest

from tools.dev.errors_page import PAGE
from tools.dev.messages import HOLES, words


def refusal(main, capsys, *args) -> str:
    """The line on stderr with which `main` ends, which must have exit code 2."""
    with pytest.raises(SystemExit, match="2"):
        main([str(arg) for arg in args])
    return as_on_page(capsys.readouterr().err.splitlines()[-1])


def as_on_page(error: str) -> str:
    """This line of a command, of which docs/errors.md must have at least two words in a row of one message."""
    assert error.startswith("error: ")
    assert any(message.search(error) for message in _page()), f"docs/errors.md does not have: {error}"
    return error


@functools.cache
def _page():
    messages = re.findall("^- `(.*)`$", PAGE.read_text(), re.MULTILINE)
    assert len(messages) > 500
    wanted = [message for message in messages if len(words(message)) >= 2]
    return [re.compile(".*".join(map(re.escape, HOLES.split(message)))) for message in wanted]
