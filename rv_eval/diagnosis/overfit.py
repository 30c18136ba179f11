"""The first question to a training that does not work: can it learn a few demos by heart?"""

from pathlib import Path

from libs.demo_hdf5 import DemoFile
from libs.demo_hdf5.opening import open_file
from libs.demo_hdf5.writer import copy_demo
from libs.errors import BadInput
from libs.files import make_folder
from rv_eval.diagnosis.text import LOOK, OK
from rv_train.train import main as train

LOSS_FELL = 0.25  # of the first loss: all but the noise is learned


def copy_first_demos(paths, count, folder, key_map):
    """Write the first `count` demos of some files, as they are stored, into new files; returns their paths.

    paths: demo files, read in this order. folder: to make. Lists of demos (mask/...) stay behind.
    BadInput: fewer demos than that, or a file that cannot be used.
    """
    files = [DemoFile(path, key_map) for path in paths]
    available = sum(len(file.demos) for file in files)
    if not 1 <= count <= available:
        raise BadInput(f"cannot overfit {count} demos: {paths[0]} and the files after it hold {available}")
    folder = make_folder(folder)
    written = []
    for number, file in enumerate(files):
        names = file.demos[:count]
        count -= len(names)
        if names:
            written.append(folder / f"{number:02d}_{file.path.name}")
            _copy(file.path, names, written[-1])
    return written


def _copy(source, names, target):
    with open_file(source) as old, open_file(target, "w") as new:
        data = new.create_group("data")
        data.attrs.update(old["data"].attrs)
        for name in names:
            copy_demo(old, name, data, name)


def train_on(cfg_path, opts, demos, folder, seed, devices=()):
    """Train a recipe on a folder of demos only, in this process; returns the run folder, `folder`/run.

    opts: config pairs KEY VALUE, texts. devices: flags of the trainer that choose ranks.
    SystemExit: whatever the trainer ends with, if it is not success; it has said why.
    """
    fixed = ["DATA.SOURCE", "hdf5", "DATA.FILES", str(demos), "DATA.VAL_SHARE", "0", "EXP.SEED", str(seed)]
    place = ["EXP.DIR", str(folder), "EXP.ID", "run"]
    try:
        train(["--cfg", str(cfg_path), *devices, *opts, *fixed, *place])
    except SystemExit as end:
        if end.code:
            raise
    return Path(folder) / "run"


def losses(run):
    """(first, last) train/loss of a run folder: means over the steps between two reports."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    points = [point.value for point in events.Scalars("train/loss")]
    return points[0], points[-1]


def verdicts(first, last, error, threshold):
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
