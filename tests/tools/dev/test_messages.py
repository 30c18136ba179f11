"""The reader behind docs/errors.md finds a message wherever the code keeps it."""

import pytest

from tools.dev.messages import find_messages, words

HELPERS = """
from errors import BadInput

REMEDIES = {"cut": "get the file again, it was cut off"}
NOT_IT = "this is said by nobody as an error"


class WorseInput(BadInput):
    pass


class Trouble(Exception):
    pass


def problem_of(path):
    if path.endswith(".zip"):
        return f"{path} is an archive: unpack it"
    return None


def problems(rows):
    for row in rows:
        yield row, f"row {row} has too many numbers"


def lock(place, in_use):
    raise BadInput(in_use)


def talk():
    raise Trouble("it says nothing any more")
"""

USER = """
from errors import BadInput
from package.helpers import REMEDIES, Trouble, WorseInput, lock, problem_of, problems, talk


def read(path, kind):
    if problem := problem_of(path):
        raise BadInput(problem)
    for number, text in problems(path):
        raise BadInput(f"{number}: {text}")
    found = []
    found.append("one is much too long")
    much = "too much" if path else "much"
    raise BadInput(f"{path}: {'; '.join(found)}, {REMEDIES[kind]}, " + f"that is {much}")


def run(log):
    log("nothing of this is ever an error")
    lock("here", in_use="the place is taken")
    try:
        talk()
    except Trouble as trouble:
        raise WorseInput(f"{trouble}: start again") from None
    what = "no"
    raise BadInput(f"{what} colour `red`")
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    (root / "package").mkdir()
    (root / "package/helpers.py").write_text(HELPERS)
    (root / "package/user.py").write_text(USER)
    return {path.stem: texts for path, texts in find_messages(root, ["package"]).items()}


def test_what_others_say_is_found_where_it_stands(found):
    assert found["helpers"] == [
        "get the file again, it was cut off",
        "{path} is an archive: unpack it",
        "row {row} has too many numbers",
        "it says nothing any more",
    ]


def test_what_is_said_here_is_whole_and_in_its_order(found):
    assert found["user"] == [
        "one is much too long",
        "{path}: {…}, {…}, that is {much}",
        "the place is taken",
        "{trouble}: start again",
        "{what} colour 'red'",
    ]


def test_words():
    assert words("{path}: no {…} of {what}s, 3 are there") == ["no", "of", "s,", "are", "there"]
