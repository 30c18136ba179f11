"""The first question to a training that does not work: can it learn a few demos by heart?"""

from collections.abc import Sequence
from pathlib import Path

from rv_eval.diagnosis.text import LOOK, OK
from rv_train.train import main as train

LOSS_FELL = 0.25  # of the first loss: all but the noise is learned


def train_on(
    cfg_path: Path, opts: Sequence[str], data: Path, count: int, folder: Path, seed: int, devices: Sequence[str] = ()
) -> Path:
    """Train a recipe on the first `count` demos of some data only, in this process; returns the run folder,
    `folder`/run.

    opts: config pairs KEY VALUE, texts. devices: flags of the trainer that choose ranks.
    SystemExit: whatever the trainer ends with, if it is not success; it has said why.
    """
    fixed = [
        "DATA.FILES",
        str(data),
        "DATA.MIX",
        "[]",
        "DATA.MAX_DEMOS",
        str(count),
        "DATA.VAL_SHARE",
        "0",
        "EXP.SEED",
        str(seed),
    ]
    place = ["EXP.DIR", str(folder), "EXP.ID", "run"]
    try:
        train(["--cfg", str(cfg_path), *devices, *opts, *fixed, *place])
    except SystemExit as end:
        if end.code:
            raise
    return Path(folder) / "run"


def losses(run: Path | str) -> tuple[float, float]:
    """(first, last) train/loss of a run folder: means over the steps between two reports."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    points = [point.value for point in events.Scalars("train/loss")]
    return points[0], points[-1]


def verdicts(first: float, last: float, error: float, threshold: float) -> list[tuple[str, str]]:
    """[(OK or LOOK, sentence)] on losses and the open-loop error as a share of the range."""
    fell = last <= LOSS_FELL * first  # False for NaN, too
    text = f"the loss {'collapsed' if fell else 'did NOT collapse'}: {first:.4g} at first, {last:.4g} at last"
    text += "" if fell else f", more than {LOSS_FELL:.0%} of it"
    close = error <= threshold
    beside = f"{error:.2%} of the range, {'within' if close else 'NOT within'} {threshold:.2%}"
    return [
        (OK if fell else LOOK, text),
        (OK if close else LOOK, f"open loop on the demos it was trained on is off by {beside}"),
    ]
