"""Success of a policy that is asked in other wordings: by what they change, and by whether their words are known."""

from collections.abc import Iterable, Sequence

from libs.wordings import AXES
from rv_eval.results.tables import Table, share, share_cells

UNSORTED = "no axis given"
KNOWN, NEW = "only words of training", "some new word"
NOTE = (
    "Success by the axes along which a wording differs from the instruction (one that differs along several counts in "
    "each), and by its words: of the instructions and the wordings trained on, or not."
)


def worded_json(records: Sequence[dict]) -> dict:
    """{"axes": {axis: share}, "words": {KNOWN: share, NEW: share}} of records with `axes` and `new_words`."""
    axes = {axis: _solved(record for record in records if axis in record["axes"]) for axis in AXES}
    axes[UNSORTED] = _solved(record for record in records if not record["axes"])
    words = {
        KNOWN: _solved(record for record in records if not record["new_words"]),
        NEW: _solved(record for record in records if record["new_words"]),
    }
    return {
        name: {kind: found for kind, found in part.items() if found["of"]}
        for name, part in (("axes", axes), ("words", words))
    }


def worded_table(records: Sequence[dict]) -> Table:
    blocks = [[(kind, *share_cells(found)) for kind, found in part.items()] for part in worded_json(records).values()]
    blocks.append([("all", *share_cells(_solved(records)))])
    return Table("Other wordings", NOTE, (("wording", "solved", "%", "95 % interval"),), blocks)


def _solved(records: Iterable[dict]) -> dict:
    outcomes = [record["success"] for record in records]
    return share(sum(outcomes), len(outcomes))
