"""The data of a run: demonstrations, split, range of the actions. Read once, then handed to every rank."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from yacs.config import CfgNode

from libs.action_form import ActionForm
from libs.action_text import ActionTextCodec
from libs.errors import BadInput
from libs.wordings import read_wordings
from rv_train.data import checks
from rv_train.data.base import Demonstrations
from rv_train.data.forms import action_form, describe_form, form_problems, form_text, written_actions
from rv_train.data.sources import find_source, fitting
from rv_train.data.stats import action_range, compute_action_stats, read_given


@dataclass(frozen=True)
class TrainingData:
    """What a run trains on; can be pickled.

    train, valid: demos to train on and held-out ones (None where DATA.VAL_SHARE is 0).
    action_stats: of what is written of every demo (ACTION.MODE), held out or not, or read from DATA.STATS; where
        actions are stored as integers, what
        these were written with. With "proprio" where DATA.PROPRIO chooses parts. ACTION.RANGE says which range of them
        is in use.
    info: what checkpoints and run.json say of the data: render, resolution (the main camera's stored pictures, their
        longer side), cameras ({name: [height, width]} of those that are used), fingerprint (of the data and its
        wordings, whichever statistics are used), files, num_demos and num_frames (of all files), num_valid_demos,
        num_clipped (action values outside the range), stats (path, "" where they were computed), constant (lines: what
        never changes; of data whose actions are numbers), written (how actions are, where not as they are recorded),
        num_wordings (of all instructions, where there are some), and
        what `Demonstrations.about` adds.
    remarks: lines that somebody who starts a run should see.
    wordings: {instruction: (itself, its wordings)} of DATA.INSTRUCTIONS, {} without.
    """

    train: Demonstrations
    valid: Demonstrations | None
    action_stats: dict
    info: dict
    remarks: list[str] = field(default_factory=list)
    wordings: dict[str, tuple[str, ...]] = field(default_factory=dict)


def open_data(cfg: CfgNode) -> Demonstrations:
    """The demonstrations of a config tree, all of them or the first DATA.MAX_DEMOS; BadInput as `Source.open`."""
    try:
        data = find_source(cfg.DATA.SOURCE).open(cfg)
    except BadInput as error:
        kinds = list(fitting(cfg.DATA.FILES)) if cfg.DATA.FILES else []
        if not kinds or cfg.DATA.SOURCE in kinds:
            raise
        raise BadInput(f"{error}; this looks like DATA.SOURCE {kinds[0]}, not {cfg.DATA.SOURCE}") from error
    return data.first(cfg.DATA.MAX_DEMOS) if cfg.DATA.MAX_DEMOS else data


def load_data(cfg: CfgNode, integers: bool = True) -> TrainingData:
    """The `TrainingData` of a config tree. Reads everything but the pictures, of those one per demo.

    integers: whether what is trained writes actions as integers, whose bins may be too coarse for them.

    Raises:
        BadInput: no data, or data that cannot be used, naming file and demo, or file and line; statistics that are
            missing, broken, of other dimensions or proprio parts, or not those that integers were written with;
            DATA.VAL_SHARE above 0 where no demo can be held out.
    """
    data = open_data(cfg)
    form = action_form(cfg, data.parts)
    checks.refuse(form_problems(data.demos, form))
    stats, origin, fingerprint = _statistics(cfg, data, form)
    codec = ActionTextCodec(*action_range(stats, cfg.ACTION.RANGE), cfg.ACTION.NUM_BINS)
    if data.written_with:
        more: dict[str, Any] = {"num_clipped": 0}
        remarks = data.remarks()
    else:
        checks.refuse(checks.motion_problems(data.demos))
        written = [written_actions(rows, form, data.horizon) for rows in data.demos]
        more = {"num_clipped": sum(map(codec.count_clipped, written)), "constant": list(checks.constant_dims(stats))}
        num_bins = cfg.ACTION.NUM_BINS if integers else None
        remarks = checks.demo_remarks(data, codec.low, codec.high, num_bins, None if form.plain else written)
        more |= {} if form.plain else {"written": form_text(form)}
    wordings = read_all_wordings(cfg.DATA.INSTRUCTIONS, data.instructions) if cfg.DATA.INSTRUCTIONS else {}
    if wordings:
        fingerprint = hashlib.sha256(json.dumps([fingerprint, wordings], sort_keys=True).encode()).hexdigest()
        more["num_wordings"] = sum(map(len, wordings.values()))
    more = {"fingerprint": fingerprint, "stats": origin, **more}
    return dataclasses.replace(_split(cfg, data, stats, more, remarks), wordings=wordings)


def read_all_wordings(path: str, instructions: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """{instruction: (itself, its other wordings in the file)}; BadInput where one has none, or one cannot be used."""
    instructions = list(dict.fromkeys(instructions))
    try:
        found = read_wordings(path, instructions)
    except BadInput as error:
        raise BadInput(f"DATA.INSTRUCTIONS: {error}") from None
    wordings = {text: (text, *(wording.text for wording in found[text])) for text in instructions}
    for texts in wordings.values():
        problems = ((text, checks.text_problem(text)) for text in texts)
        checks.refuse(f"DATA.INSTRUCTIONS: {path}: the wording {text!r} {why}" for text, why in problems if why)
    return wordings


def _statistics(cfg: CfgNode, data: Demonstrations, form: ActionForm) -> tuple[dict, str, str]:
    """(statistics, where they were found, fingerprint of the data)."""
    if data.written_with:
        return *data.written_with, data.fingerprint()
    if cfg.DATA.STATS:
        stats = read_given(cfg.DATA.STATS, form.written_dim, data.parts, describe_form(form, data.horizon))
        return stats, cfg.DATA.STATS, data.fingerprint()
    stats = compute_action_stats(data, form)
    return stats, "", stats["fingerprint"]


def _split(cfg: CfgNode, data: Demonstrations, stats: dict, more: dict, remarks: list[str]) -> TrainingData:
    train, valid = data.split(cfg.DATA.VAL_SHARE, cfg.EXP.SEED)
    if cfg.DATA.VAL_SHARE > 0 and valid is None:
        raise BadInput(
            f"DATA.VAL_SHARE is {cfg.DATA.VAL_SHARE}, but no demo can be held out: {len(data.demos)} demos in "
            f"{len(data.files)} files, whole demos are held out of files with two or more, and of files with one that "
            "share an instruction; set it to 0"
        )
    sizes = {view: size or () for view, size in data.facts.cameras.items()}  # there is data, which tells them
    info = {
        "render": data.render,
        "resolution": max(next(iter(sizes.values()))),
        "cameras": {view: list(map(int, sizes[view])) for view in data.views},
        "files": [str(file.path) for file in data.files],
        "num_demos": len(data.demos),
        "num_frames": len(data),
        "num_valid_demos": len(valid.demos) if valid else 0,
        **more,
        **data.about(),
    }
    return TrainingData(train, valid, stats, info, remarks)
