"""What is told of an evaluation that asked other instructions than the tasks' own: tables, and JSON."""

from collections.abc import Sequence

from rv_eval.results.reading import reading_json, reading_tables
from rv_eval.results.records import ALL_OF_SUITE
from rv_eval.results.tables import Table
from rv_eval.results.worded import worded_json, worded_table


def asked_tables(records: Sequence[dict]) -> list[Table]:
    """For the records of one run."""
    worded, crossed = _parts(records)
    return ([worded_table(worded)] if worded else []) + reading_tables(crossed)


def asked_json(records: Sequence[dict]) -> dict:
    """{"wordings": ...}, {"reading": ...} or {}."""
    worded, crossed = _parts(records)
    found = {"wordings": worded_json(worded)} if worded else {}
    return found | ({"reading": reading_json(crossed)} if crossed else {})


def _parts(records):
    """Those asked in other wordings, and those asked for other tasks' goals."""
    worded = [record for record in records if "axes" in record]
    return worded, [record for record in records if record.get("instructions") == ALL_OF_SUITE]
