"""Everything that is checked before a process is started, so that bad input costs one line and nothing half-written."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yacs.config import CfgNode

from libs.config_tree import differences
from libs.errors import BadInput
from libs.files import kind_of, make_folder, read_json_object
from rv_train import checkpoint
from rv_train.backbones import family_of
from rv_train.backbones.loading import base_path, check_weights, fetch_pretrained
from rv_train.backbones.lora import check_packages
from rv_train.backbones.running import check_attention, check_compiler
from rv_train.data.load import TrainingData, load_data
from rv_train.data.sampler import ResumableBatchSampler
from rv_train.data.stats import RANGES, read_stats
from rv_train.data.training_set import TrainingSet
from rv_train.optim import check_optimizer, resolve_amp
from rv_train.plan import count_steps
from rv_train.policies import build_encoder, policy_class
from rv_train.run_pages import check_trackers, log_in

if TYPE_CHECKING:
    import torch


# What may change when a run is resumed; anything else would make it another run.
FREE_ON_RESUME = (
    "EXP.DIR",
    "EXP.ID",
    "DATA.MIX",  # likewise; its weights are compared
    "DATA.FILES",  # the same data may have moved: its fingerprint is compared
    "DATA.SKIP_BAD",
    "DATA.INSTRUCTIONS",  # so is what its wordings are
    "DATA.STATS",  # as may the statistics: they are compared
    "DATA.CACHE",  # its pictures are those of the data
    "DATA.KEY_MAP",  # and the map by which they are read: what was read of it is in the fingerprint
    "DATA.NUM_WORKERS",
    "MODEL.PATH",  # where the weights came from: the checkpoint's are loaded, those below an adapter compared
    "TRAIN.epochs",
    "TRAIN.max_steps",
    "TRAIN.max_bad_steps",
    "TRAIN.peak_tflops",
    "TRAIN.log_every",
    "TRAIN.trackers",
    "TRAIN.async_save",
    "TRAIN.save_every",
    "TRAIN.save_every_epochs",
    "TRAIN.keep_last",
    "TRAIN.keep_every",
    "TRAIN.save_base",
    "FLOW.SOLVER",
    "FLOW.STEPS",
    "VALID.loss_every",
    "VALID.loss_batches",
    "VALID.gen_every",
    "VALID.gen_samples",
    "EVAL.ACTION_HORIZON",
    "EVAL.ENSEMBLE_PREDICTION",
    "EVAL.ENSEMBLE_VERSION",
    "EVAL.ENSEMBLE_WEIGHT",
)
# What trainer.pt and trainer.json hold.
TRAINER_STATE = ("step", "world_size", "data_fingerprint", "scaler", "ema", "bad_steps", "best")
TRAINER_TENSORS = {checkpoint.WHOLE: ("optimizer", "rng"), checkpoint.SHARED: ("starts",)}
# What a checkpoint's weights and optimizer states are made for; nothing can allow another value.
FIXED_ON_RESUME = (
    "ACTION.DIM",
    "ACTION.ROTATION.",
    "MODEL.NAME",
    "MODEL.BACKBONE",
    "MODEL.TOKENIZER",
    "MODEL.VOCAB_CUT",
    "MODEL.TEXT.",
    "MODEL.VISION.",
    "MODEL.FREEZE",
    "FLOW.CONDITION",
    "FLOW.PROJECTOR",
    "FLOW.HIDDEN",
    "FLOW.LAYERS",
    "FLOW.HEADS",
    "FLOW.MLP",
    "FLOW.HEAD_LAYERS",
    "DATA.PROPRIO",
    "MODEL.LORA.RANK",
    "MODEL.LORA.TARGETS",
    "MODEL.LORA.VISION",
    "TRAIN.optimizer",
    "AMP.param_dtype",
)


@dataclass(frozen=True)
class Job:
    """What every rank is given: the data, read once, and the checkpoint to continue from (None: a new run)."""

    data: TrainingData
    resume: Path | None


def prepare_run(
    cfg: CfgNode, device: "torch.device", world_size: int, resume: bool = False, allow_changes: bool = False
) -> Job:
    """Check what can be checked before anything starts, make the folder of a new run; returns the Job.

    Args:
        device: torch.device of a rank.
        resume: continue from the run's newest good checkpoint.
        allow_changes: resume even with another config, other data or another number of ranks.

    Raises:
        BadInput: data or config that cannot be trained on, a package or compiler that is missing, nothing to resume,
            a folder that already holds something or is in use, or a resume that would be another run.
    """
    check_attention(cfg, device, resolve_amp(cfg.AMP.mode, device))
    check_optimizer(cfg.TRAIN)
    check_packages(cfg.MODEL)
    check_trackers(cfg.TRAIN.trackers)
    log_in(cfg.TRAIN.trackers)
    if cfg.TRAIN.compile:
        check_compiler()
    data = load_data(cfg, policy_class(cfg).INTEGERS)
    for line in data.remarks:
        print(f"warning: {line}", file=sys.stderr)
    sampler = ResumableBatchSampler.from_cfg(cfg, data.train, 0, world_size)
    count_steps(cfg, sampler.batches_per_epoch)
    run = checkpoint.run_folder(cfg)
    if not resume:
        check_weights(cfg, family_of(cfg))
        if checkpoint.checkpoints(run):
            raise BadInput(
                f"{run} already holds a run: continue it by --resume {run} without --cfg, or choose another EXP.ID"
            )
        if kind_of(run):
            checkpoint.refuse_foreign(run)
        fetch_pretrained(cfg)  # once, and not by every rank
    encoder = build_encoder(cfg, data.action_stats)
    TrainingSet(data.train, encoder, cfg.EXP.SEED, wordings=data.wordings)[next(iter(sampler))[0]]
    folder = None
    if not resume:
        make_folder(run)
    elif kind_of(run) != "folder":
        checkpoint.find_resume(run)  # says that there is none
    with checkpoint.lock(run):  # what a killed run leaves running has ended now
        if resume:
            copied = checkpoint.relink(run)
            folder, remarks = checkpoint.find_resume(run)
            impossible, changes = changed(cfg, data, world_size, folder)
            if impossible:
                raise BadInput(f"--resume: {impossible[0]}; its checkpoints cannot continue so")
            if cfg.MODEL.LORA.RANK or cfg.MODEL.FREEZE:
                base_path(cfg, family_of(cfg), folder / "model")
            if changes and not allow_changes:
                raise BadInput(f"--resume: {changes[0]}; --allow_changes resumes nevertheless, as another run")
            for line in copied + remarks + changes:
                print(f"warning: {line}", file=sys.stderr)
        else:
            checkpoint.clear_leftovers(run)
        workers = max(1, cfg.DATA.NUM_WORKERS)  # of each rank, and here of all: none of them has started
        workers = max(workers, min(workers * world_size, os.cpu_count() or 1))
        for part in filter(None, (data.train, data.valid)):
            part.prepare(workers)
    return Job(data, folder)


def changed(cfg: CfgNode, data: TrainingData, world_size: int, folder: Path) -> tuple[list[str], list[str]]:
    """What differs between this run and the one that wrote a checkpoint: (what cannot be, what may be allowed)."""
    trainer, path = checkpoint.load_trainer(folder, mapped=True), checkpoint.trainer_file(folder)
    missing = [name for name in (*TRAINER_STATE, *TRAINER_TENSORS[path.name]) if name not in trainer]
    if missing:
        raise BadInput(f"{path} has no {missing[0]!r}: it was not written by this trainer")
    impossible, found = [], []
    for name, now in (("world_size", world_size), ("data_fingerprint", data.info["fingerprint"])):
        if trainer[name] != now:
            found.append(f"{folder} was written with {name} {trainer[name]}, this run has {now}")
    stored = read_stats(folder / "model")
    mix, stored_mix = (mix_of(info) for info in (data.info, read_json_object(folder / "model" / checkpoint.DATA_INFO)))
    if mix != stored_mix:
        found.append(f"{folder} was written with DATA.MIX of {stored_mix or 'no sets'}, now {mix or 'no sets'}")
    if stored.get("form") != data.action_stats.get("form"):
        found.append(f"{folder} was written with actions as {stored.get('form')}, now {data.action_stats.get('form')}")
    for key in (*RANGES[cfg.ACTION.RANGE], *(("mean", "std") if cfg.FLOW.NORMALIZE == "mean_std" else ())):
        before, now = stored.get(key), data.action_stats.get(key)
        if before != now:
            found.append(f"{folder} was written with actions of {key} {before}, now {now}")
    if stored.get("proprio") != data.action_stats.get("proprio"):
        found.append(f"{folder} was written with other statistics of the robot's state than this run has")
    for key, now, before in differences(cfg, checkpoint.read_model_cfg(folder / "model"), FREE_ON_RESUME):
        fixed = key.startswith(FIXED_ON_RESUME)
        (impossible if fixed else found).append(f"{key} is {now!r} now, the run was started with {before!r}")
    return impossible, found


def mix_of(info: Mapping[str, Any]) -> str:
    """What a mixture is drawn from, in words: "a 2, b 1", "a, b" without weights; "" where data is none."""
    return ", ".join(
        f"{one['name']}{one['weight']: g}" if one["weight"] else one["name"] for one in info.get("mix", ())
    )
