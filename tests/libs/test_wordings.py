"""libs.wordings: what the reader refuses, and what this project's two files hold."""

import json
import re

import pytest

from libs.errors import BadInput
from libs.libero_sim.suites import REPORTED_SUITES, get_task, num_tasks
from libs.wordings import AXES, Wording, read_wordings
from rv_train.backbones import family_named
from tests.tiny import ROOT

FOLDER = ROOT / "configs/wordings"
ASK = {"text": "please turn on the stove", "axes": ["request"]}
STOVE = "turn on the stove"
PAGE = (ROOT / "docs/wordings.md").read_text()


@pytest.fixture(scope="module")
def instructions():
    return [get_task(suite, n).instruction for suite in REPORTED_SUITES for n in range(num_tasks(suite))]


@pytest.fixture(scope="module")
def train(instructions):
    return read_wordings(FOLDER / "libero_train.json", instructions)


@pytest.fixture(scope="module")
def test(instructions):
    return read_wordings(FOLDER / "libero_test.json", instructions)


def texts(wordings):
    return [wording.text for group in wordings.values() for wording in group]


def write(tmp_path, content):
    path = tmp_path / "wordings.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_wordings_come_in_the_files_order(tmp_path):
    other = {"text": "start the stove", "axes": []}
    path = write(tmp_path, {STOVE: [ASK, other], "open the drawer": [other]})
    assert read_wordings(path, [STOVE]) == {
        STOVE: [Wording("please turn on the stove", ("request",)), Wording("start the stove", ())],
        "open the drawer": [Wording("start the stove", ())],
    }


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("please turn on the stove", "needs a list of at least one wording, got 'please"),
        ([], "needs a list of at least one wording, got []"),
        (["please turn on the stove"], 'a wording is {"text": "...", "axes": [...]}, got \'please'),
        ([{"text": "start the stove"}], "a wording is"),
        ([dict(ASK, comment="")], "a wording is"),
        ([dict(ASK, text=3)], "text must be words with single spaces between them, got 3"),
        ([dict(ASK, text="")], "text must be words"),
        ([dict(ASK, text="start the  stove")], "text must be words"),
        ([dict(ASK, text="start the stove\n")], "text must be words"),
        ([dict(ASK, axes="request")], "axes must be some of object, place, action, structure, request, each once, got"),
        ([dict(ASK, axes=["tone"])], "got ['tone'] for 'please turn on the stove'"),
        ([dict(ASK, axes=["request", "request"])], "each once"),
        ([dict(ASK, axes=[["request"]])], "axes must be"),
        ([ASK, ASK], "'please turn on the stove' stands there twice"),
        ([dict(ASK, text=STOVE)], "the instruction itself is among its other wordings"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_instruction(tmp_path, entries, message):
    path = write(tmp_path, {"open the drawer": [ASK], STOVE: entries})
    with pytest.raises(BadInput) as error:
        read_wordings(path)
    assert str(error.value).startswith(f"{path}: 'turn on the stove': ") and message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([ASK], "is not a JSON object"),
        ("{", "is not valid JSON"),
        (f'{{"{STOVE}": [], "{STOVE}": []}}', ": 'turn on the stove' stands there twice"),
        ({"open the drawer": [ASK]}, "has no wordings of 'turn on the stove'"),
    ],
)
def test_a_file_that_cannot_serve_is_named(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(BadInput, match=re.escape(f"{path}") + ".*" + message):
        read_wordings(path, [STOVE])


@pytest.mark.libero
def test_every_task_has_six_wordings_to_train_on_and_ten_others_to_be_asked_in(instructions, train, test):
    assert len(set(instructions)) == 40 and list(train) == list(test)
    assert set(train) == set(instructions)
    assert {len(group) for group in train.values()} == {6} and {len(group) for group in test.values()} == {10}


@pytest.mark.libero
def test_no_wording_stands_anywhere_twice(instructions, train, test):
    """Nor differs from another, or from an instruction, in commas only: it would be one that was trained on."""
    plain = [text.replace(",", "") for text in (*instructions, *texts(train), *texts(test))]
    assert len(plain) == 40 + 240 + 400 and len(set(plain)) == len(plain)


@pytest.mark.libero
def test_wordings_are_written_as_liberos_instructions_are(train, test):
    wrong = [text for text in (*texts(train), *texts(test)) if not re.fullmatch("[a-z]+(,? [a-z]+)*", text)]
    assert wrong == []


@pytest.mark.libero
def test_each_task_is_asked_along_each_axis_soon_and_each_suite_often(test):
    """An evaluation takes them in their order: four episodes of a task are to differ in four ways already."""
    groups = list(test.values())
    single = [("object",), ("action",), ("structure",), ("request",)]
    assert all([wording.axes for wording in group[:4]] == single for group in groups)
    for first in range(0, 40, 10):
        counts = {axis: sum(axis in w.axes for group in groups[first : first + 10] for w in group) for axis in AXES}
        assert min(counts.values()) >= 10, counts
    assert all(wording.axes for group in groups for wording in group)


@pytest.mark.libero
def test_part_of_the_wordings_to_be_asked_in_needs_no_word_that_training_lacks(train, test):
    """The page says how many: those tell reading apart from knowing words."""
    known = set(" ".join((*train, *texts(train))).replace(",", "").split())
    new = [text for text in texts(test) if not set(text.replace(",", "").split()) <= known]
    assert (len(known), len(new)) == (136, 243)
    assert f"{400 - len(new)} of the 400" in PAGE and f"{len(known)} words" in PAGE


@pytest.mark.libero
def test_the_page_counts_what_the_files_hold(train, test):
    for axis in AXES:
        counts = [sum(axis in w.axes for group in wordings.values() for w in group) for wordings in (train, test)]
        assert re.search(rf"\| `{axis}` \|.*\| {counts[0]} \| {counts[1]} \|\n", PAGE), (axis, counts)


@pytest.mark.libero
def test_a_small_vocabulary_writes_every_wording_in_few_tokens(instructions, train, test):
    tokenizer = family_named("qwen2_5_vl").vocabulary(1024)
    encoded = {text: tokenizer(text)["input_ids"] for text in (*instructions, *texts(train), *texts(test))}
    assert all(tokenizer.decode(ids) == text and max(ids) < 1024 for text, ids in encoded.items())
    longest = max(encoded, key=lambda text: len(encoded[text]))
    assert f"At most {len(encoded[longest])} tokens" in PAGE, longest
