"""Run folders: write beside and rename, keep the last few, resume from the last complete one.

    <EXP.DIR>/<EXP.ID>/step_00001234/
        model/       an ordinary Hugging Face folder plus action_stats.json, data_info.json and vla_config.yaml
        trainer.pt   optimizer, gradient scaler, step, generators of every rank
        complete     written last: every file with its size
    <EXP.DIR>/<EXP.ID>/last -> step_00001234

Nothing is ever unpickled freely: weights are safetensors, trainer.pt is read with `weights_only=True`.
"""

import json
import os
import re
import shutil
from pathlib import Path

import torch
import yaml

from libs.action_text import ActionTextCodec
from rv_train.config import cfg_from_dict, cfg_to_dict
from rv_train.data.prompt import PromptEncoder
from rv_train.data.stats import read_stats, write_stats
from rv_train.data.tokenizer import load_tokenizer
from rv_train.models import build_model
from rv_train.models.qwen import image_processor_settings, is_model_folder, without_progress_bars

CONFIG, DATA_INFO, COMPLETE = "vla_config.yaml", "data_info.json", "complete"


def run_folder(cfg):
    return Path(cfg.EXP.DIR) / cfg.EXP.ID


def save_model_folder(folder, model, cfg, action_stats, data_info):
    """Everything evaluation needs, in one folder that `transformers` can load without this repository."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    with without_progress_bars():
        model.backbone.save_pretrained(folder, safe_serialization=True)
    model.prompt.tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(image_processor_settings(cfg), indent=1) + "\n")
    (folder / CONFIG).write_text(yaml.safe_dump(cfg_to_dict(cfg), sort_keys=False))
    (folder / DATA_INFO).write_text(json.dumps(data_info, indent=1) + "\n")
    write_stats(action_stats, folder)


def load_model_folder(path, device="cpu"):
    """The model of a run folder (its `last`), a step folder or a model folder, in evaluation mode.

    Returns:
        (model, cfg, {"action_stats": dict, "data_info": dict, "folder": Path of the model folder}).
    Raises:
        ValueError: nothing to load there, or a file of the folder is missing or broken.
    """
    folder = find_model_folder(path)
    cfg = read_model_cfg(folder)
    stats = read_stats(folder)
    data_info = _read_json(folder / DATA_INFO)
    prompt = PromptEncoder.from_cfg(cfg, load_tokenizer(folder))
    codec = ActionTextCodec(stats["min"], stats["max"], cfg.ACTION.NUM_BINS)
    if codec.action_dim != cfg.ACTION.DIM:
        raise ValueError(f"{folder}: statistics of {codec.action_dim} action dimensions, config of {cfg.ACTION.DIM}")
    model = build_model(cfg, prompt, codec, weights=folder).to(device).eval()
    return model, cfg, {"action_stats": stats, "data_info": data_info, "folder": folder}


def find_model_folder(path):
    """Where the weights lie below a run, step or model folder; ValueError if nowhere."""
    path = Path(path)
    for folder in (path, path / "model", path / "last" / "model"):
        if is_model_folder(folder):
            return folder.resolve()
    reason = "does not exist" if not path.exists() else "holds no model (no config.json with *.safetensors)"
    raise ValueError(f"model path {path} {reason}")


def read_model_cfg(folder):
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} has no {CONFIG}: it was not written by this trainer")
    try:
        return cfg_from_dict(yaml.safe_load(path.read_text()), str(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None


def _read_json(path):
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path.parent} has no {path.name}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def save_checkpoint(run, step, model, trainer, cfg, action_stats, data_info):
    """Write one complete checkpoint, point `last` at it and remove the oldest beyond TRAIN.keep_last.

    Args:
        run: run folder.
        step: optimizer steps done.
        model: the bare model, not its DDP wrapper.
        trainer: dict of tensors and plain values for trainer.pt.
    """
    final = Path(run) / f"step_{step:08d}"
    beside = final.with_suffix(".tmp")
    for stale in (beside, final):
        shutil.rmtree(stale, ignore_errors=True)
    save_model_folder(beside / "model", model, cfg, action_stats, data_info)
    torch.save(trainer, beside / "trainer.pt")
    files = {str(p.relative_to(beside)): p.stat().st_size for p in sorted(beside.rglob("*")) if p.is_file()}
    for name in files:
        _sync(beside / name)
    (beside / COMPLETE).write_text(json.dumps(files, indent=1) + "\n")
    _sync(beside / COMPLETE)
    os.rename(beside, final)
    _point(Path(run) / "last", final.name)
    _sync(run)
    for old in checkpoints(run)[: -cfg.TRAIN.keep_last]:
        shutil.rmtree(old)


def _point(link, target):
    """A relative symlink, replaced in one move."""
    beside = link.with_suffix(".tmp")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    os.replace(beside, link)


def _sync(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checkpoints(run):
    """Complete checkpoint folders of a run, oldest first."""
    found = [p for p in Path(run).glob("step_*") if re.fullmatch(r"step_\d{8}", p.name)]
    return [p for p in sorted(found) if is_complete(p)]


def is_complete(folder):
    """Whether every file of a checkpoint is there in its full length."""
    try:
        files = json.loads((folder / COMPLETE).read_text())
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, json.JSONDecodeError, AttributeError):
        return False


def refuse_foreign(run):
    """ValueError if a run folder without a complete checkpoint holds anything that is not a trainer's leftover."""
    leftovers = r"config\.yaml|run\.json|events\..*|step_\d{8}\.tmp|last\.tmp"
    foreign = [path.name for path in sorted(run.iterdir()) if not re.fullmatch(leftovers, path.name)]
    if foreign:
        raise ValueError(f"{run} holds {foreign[0]} but no complete checkpoint: choose another EXP.ID, or clear it")


def find_resume(run):
    """The newest complete checkpoint of a run; ValueError when there is none."""
    found = checkpoints(run)
    if not found:
        raise ValueError(f"--resume: {run} has no complete checkpoint to resume from; start without --resume")
    return found[-1]


def rng_state(device):
    """State of the generators that this rank draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state, device):
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def load_trainer(folder):
    """trainer.pt of a checkpoint folder, tensors on the CPU."""
    return torch.load(Path(folder) / "trainer.pt", map_location="cpu", weights_only=True)
