"""An evaluation on the page that its run has on W&B or trackio (TRAIN.trackers)."""

import re
from pathlib import Path

from libs.errors import BadInput
from rv_eval.policy import model_fingerprint
from rv_eval.results.summary import Run, show, stats
from rv_eval.results.summary_text import run_text
from rv_train.backbones.folders import SAVED
from rv_train.checkpoint import read_saved_cfg
from rv_train.run_pages import WandB, check_trackers, log_in


def show_on_pages(run: Run, folder: Path, report: Path | None = None) -> str:
    """Put success rates with their intervals, at the step of the checkpoint that was evaluated, the table and the
    report, an HTML file, onto the pages of a run folder; says where.

    BadInput: no such run, it has no page, or what was evaluated is none of its checkpoints, or one that is gone.
    """
    cfg = read_saved_cfg(folder / SAVED)
    names = cfg.TRAIN.trackers
    if not names:
        raise BadInput(f"{folder} has no page: its TRAIN.trackers is []")
    step = _step(run, folder)
    check_trackers(names)
    log_in(names)
    scalars = _scalars(run)
    for name in names:
        page = WandB(name, folder, cfg, step)
        page.scalars(step, scalars)
        page.text(step, "eval", run_text(run))
        if report:
            page.report(step, "eval/report", report)
        page.close()
    return f"{', '.join(names)}: eval/* at step {step:,} of {folder}"


def _step(run, folder):
    """Of the checkpoint in a run folder that was evaluated."""
    record = run.episodes[0].values if run.episodes else {}
    found = re.search(r"step_(\d{8})", str(record.get("model_folder")))
    model = folder / found[0] / "model" if found else folder
    measured = record.get("model_fingerprint")
    if not found or not model.is_dir() or model_fingerprint(model)["model_fingerprint"] != measured:
        raise BadInput(f"{folder} has no checkpoint that was evaluated here (model fingerprint {show(measured)})")
    return int(found[1])


def _scalars(run):
    """{tag: share}, a rate and its interval per suite, and of all where there are several."""
    found = {}
    for name, lines in run.suites_and_all.items():
        one = stats(lines)
        found[f"eval/{name}"] = one.rate
        found[f"eval/{name}_low"], found[f"eval/{name}_high"] = one.interval
    return found
