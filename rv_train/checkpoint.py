"""Run folders: write beside and rename, keep the last few, resume from the last complete one.

    <EXP.DIR>/<EXP.ID>/step_00001234/
        model/       an ordinary Hugging Face folder, or with MODEL.LORA an adapter and base.json, which weights it
                     belongs to (a copy of them in base/ with TRAIN.save_base); of a flow-matching policy also, or
                     only, expert.safetensors; plus action_stats.json, data_info.json and vla_config.yaml
        trainer.pt   optimizer, gradient scaler, moving average, step, generators of every rank; of a sharded run
                     trainer.json and a safetensors file of each rank, see rv_train/shares.py
        complete     written last: every file with its size and SHA-256
    <EXP.DIR>/<EXP.ID>/last -> step_00001234
    <EXP.DIR>/<EXP.ID>/best -> step_00001000     smallest val/loss so far
    <EXP.DIR>/<EXP.ID>/final -> step_00004000    the last of a run that has ended
    <EXP.DIR>/<EXP.ID>/epoch_5 -> step_00000850  by TRAIN.save_every_epochs
    <EXP.DIR>/<EXP.ID>/lock                      held by the process that trains

Nothing is ever unpickled freely: weights are safetensors, trainer.pt is read with `weights_only=True`.
"""

import hashlib
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import torch
import yaml
from safetensors import SafetensorError
from yacs.config import CfgNode

from libs import jobs
from libs.config_tree import to_dict
from libs.errors import BadInput, first_line
from libs.files import flush, kind_of, named_path, read_json_object, read_yaml
from libs.hub import is_hub_id
from rv_train.backbones import DEFAULT
from rv_train.backbones.folders import BASE, EXPERT, INSIDE, is_model_folder
from rv_train.backbones.loading import BASE_COPY, copy_base
from rv_train.backbones.lora import is_adapter_folder
from rv_train.backbones.tokenizer import read_tokenizer
from rv_train.config import cfg_from_dict
from rv_train.data.forms import dim_written
from rv_train.data.stats import FILE_NAME as STATS
from rv_train.data.stats import read_stats, write_stats
from rv_train.policies import build_encoder, build_policy
from rv_train.published import fetch_policy

if TYPE_CHECKING:
    from rv_train.backbones.base import Family
    from rv_train.backbones.prompt import PromptEncoder
    from rv_train.policies.base import Policy


CONFIG, DATA_INFO, COMPLETE = "vla_config.yaml", "data_info.json", "complete"
WHOLE, SHARED = "trainer.pt", "trainer.json"
LINKS = r"last|best|final|epoch_\d+"
LOCK_WAIT_S = 30.0


def run_folder(cfg: CfgNode) -> Path:
    return Path(cfg.EXP.DIR) / cfg.EXP.ID


def save_model_folder(
    folder: Path | str, model: "Policy", cfg: CfgNode, action_stats: Mapping[str, Any], data_info: Mapping[str, Any]
) -> None:
    """Everything evaluation needs, in one folder that `transformers` can load without this repository.

    Of a model with MODEL.LORA it is the adapter, which peft can load; the weights below it stay where they are. An
    action expert has a file of its own, which only this repository knows.
    """
    folder = Path(folder)
    folder.mkdir(parents=True)
    model.save(folder)
    if cfg.TRAIN.save_base:
        copy_base(model.backbone, folder)
    save_beside_weights(folder, model.family, model.prompt, cfg, action_stats, data_info)


def save_beside_weights(
    folder: Path,
    family: "Family",
    prompt: "PromptEncoder",
    cfg: CfgNode,
    action_stats: Mapping[str, Any],
    data_info: Mapping[str, Any],
) -> None:
    """What a model folder holds beside its weights; prompt: a PromptEncoder of the family."""
    prompt.tokenizer.save_pretrained(folder)
    for name, settings in family.processor_files(prompt.pictures).items():
        (folder / name).write_text(json.dumps(settings, indent=1) + "\n")
    (folder / CONFIG).write_text(yaml.safe_dump(to_dict(cfg), sort_keys=False))
    (folder / DATA_INFO).write_text(json.dumps(data_info, indent=1) + "\n")
    write_stats(action_stats, folder)


def load_model_folder(
    path: Path | str, device: torch.device | str = "cpu", opts: Sequence[Any] = ()
) -> "tuple[Policy, CfgNode, dict[str, Any]]":
    """The model of a run folder (its `last`), a step folder or a model folder, in evaluation mode; or of the hub, see
    `find_model_folder`.

    Args:
        opts: config pairs KEY VALUE that are set over the stored ones.

    Returns:
        (model, cfg, {"encoder": what makes its batches, "action_stats": dict, "data_info": dict, "folder": Path of the
        model folder}).

    Raises:
        BadInput: nothing to load there, or a file of the folder is missing or broken.
    """
    folder = find_model_folder(path)
    cfg = read_model_cfg(folder, opts)
    stats = read_stats(folder)
    data_info = read_json_object(folder / DATA_INFO)
    if len(stats["min"]) != dim_written(cfg):
        raise BadInput(f"{folder}: statistics of {len(stats['min'])} action dimensions, config of {dim_written(cfg)}")
    encoder = build_encoder(cfg, stats, read_tokenizer(folder))
    model = build_policy(cfg, encoder, folder, device).eval()
    return model, cfg, {"encoder": encoder, "action_stats": stats, "data_info": data_info, "folder": folder}


def find_model_folder(path: Path | str) -> Path:
    """Where the weights lie below a run, step or model folder, or of OWNER/NAME[@REVISION] of the Hugging Face hub,
    which are fetched where they are not here yet; BadInput if nowhere. What stands here is never looked for there."""
    if is_hub_id(path):
        path = fetch_policy(str(path), (CONFIG, DATA_INFO, STATS))
    path, kind = Path(path), kind_of(path)
    for folder in (path / name for name in INSIDE):
        has_expert = (folder / EXPERT).is_file() and (folder / BASE).is_file()
        if is_model_folder(folder) or is_adapter_folder(folder) or has_expert:
            return folder.resolve()
    reason = "holds no model (no config.json with *.safetensors) and no adapter" if kind else "does not exist"
    raise BadInput(f"model path {path} {reason}")


def read_model_cfg(folder: Path | str, opts: Sequence[Any] = ()) -> CfgNode:
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise BadInput(f"{folder} has no {CONFIG}: it was not written by this trainer")
    return read_saved_cfg(path, opts)


def read_saved_cfg(path: Path, opts: Sequence[Any] = ()) -> CfgNode:
    """The frozen config tree in a file that this trainer wrote, `opts` over it."""
    tree = read_yaml(path)
    if isinstance(tree, dict) and isinstance(tree.get("MODEL"), dict):
        tree["MODEL"].setdefault("BACKBONE", DEFAULT)  # before there was the key there was this family only
    return cfg_from_dict(tree, str(path), opts)


def save_checkpoint(
    run: Path | str,
    step: int,
    model: "Policy",
    trainer: Mapping[str, Any],
    cfg: CfgNode,
    action_stats: Mapping[str, Any],
    data_info: Mapping[str, Any],
    links: Sequence[str] = (),
    parts: Callable[[Path], dict[str, Any]] | None = None,
) -> None:
    """Write one complete checkpoint, point `last` (and `best`, and `links`) at it and remove old ones.

    Kept are the last TRAIN.keep_last, those of every TRAIN.keep_every steps, those of a link epoch_N and the best.

    Args:
        run: run folder.
        step: optimizer steps done.
        model: the bare model, not its DDP wrapper.
        trainer: dict for trainer.pt, of tensors and plain values; with `parts` for trainer.json, of plain values. Its
            "best" is None or (val/loss, step).
        links: names of further links to it, see `rv_train.validate.milestones`.
        parts: called with the folder that it is written to, once that is there: has the ranks of a sharded run put
            their files into it and returns {name: {"size", "sha256"}} of them.

    Raises:
        OSError: it cannot be written; nothing of it is left, and older checkpoints are untouched.
    """
    run = Path(run)
    final = run / f"step_{step:08d}"
    beside = final.with_suffix(".tmp")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir()
        written = parts(beside) if parts else {}
        save_model_folder(beside / "model", model, cfg, action_stats, data_info)
        if parts:
            (beside / SHARED).write_text(json.dumps(trainer, indent=1) + "\n")
        else:
            torch.save(trainer, beside / WHOLE)
        written |= describe_files(beside, [path for path in files_below(beside) if path.name not in written])
        (beside / COMPLETE).write_text(json.dumps(written, indent=1) + "\n")
        flush(beside / COMPLETE)
    except (OSError, RuntimeError, SafetensorError) as error:  # what Python, torch.save and safetensors raise
        shutil.rmtree(beside, ignore_errors=True)
        free = shutil.disk_usage(run).free / 2**30
        good = checkpoints(run)
        before = f"the last good one is {good[-1].name}" if good else "there is none yet"
        raise OSError(
            f"{run}: checkpoint of step {step} cannot be written ({first_line(error)}), {free:.1f} GiB are free there; "
            f"{before}"
        ) from error
    shutil.rmtree(final, ignore_errors=True)  # damaged, if it exists: a run resumes behind its last good one
    os.rename(beside, final)
    if cfg.TRAIN.save_base:  # the next one copies from here: where a resumed run has it from will be removed
        model.backbone.base_folder = final / "model" / BASE_COPY
    flush(run)
    tidy(run, step, trainer["best"], cfg.TRAIN, links)


def tidy(run: Path, newest: int, best: tuple[float, int] | None, train: CfgNode, links: Sequence[str] = ()) -> None:
    """Point `last`, `best` and `links` at their checkpoints, remove old ones and what kills left behind.

    A resumed run does so at its start, too: a kill may have come just before this. Checkpoints newer than `newest` are
    damaged, else the run would go on behind them: they neither count nor go.

    Args:
        newest: step of the newest good checkpoint.
        best: None or (val/loss, step).
        train: TRAIN of the config tree.
        links: names of further links to the newest good checkpoint.
    """
    for name in ("last", *links):
        _point(run / name, f"step_{newest:08d}")
    if "final" not in links:  # a run that had ended goes on
        (run / "final").unlink(missing_ok=True)
    epochs = {os.readlink(link) for link in run.glob("epoch_*") if link.is_symlink() and link.suffix != ".tmp"}
    keep = {f"step_{newest:08d}", f"step_{best[1]:08d}" if best else None, *epochs}
    if best and (run / f"step_{best[1]:08d}").is_dir():
        _point(run / "best", f"step_{best[1]:08d}")
    whole = [folder for folder in checkpoints(run) if _step(folder) <= newest]
    for old in whole[: -train.keep_last]:
        if old.name not in keep and not (train.keep_every and _step(old) % train.keep_every == 0):
            shutil.rmtree(old, ignore_errors=True)  # a network disk keeps open files; the next call gets them
    cut_off = [folder for folder in _step_folders(run) if _step(folder) <= newest and _marker(folder) is None]
    for rest in (*run.glob("step_*.tmp"), *cut_off):  # of a save, of the removal above
        shutil.rmtree(rest, ignore_errors=True)


def files_below(folder: Path | str) -> list[Path]:
    return [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]


def describe_files(folder: Path, paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """{name: {"size", "sha256"}} of files below a folder, which are on the disk when this returns."""
    for path in paths:
        flush(path)
    return _describe(folder, paths)


def _describe(folder, paths=None):
    """The same, of every file but the marker where no `paths` are given. Hashing large files is spread over threads."""

    def describe(path):
        with open(path, "rb") as file:
            return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    if paths is None:
        paths = [path for path in files_below(folder) if path.name != COMPLETE]
    with ThreadPoolExecutor(8) as pool:
        return dict(zip((str(p.relative_to(folder)) for p in paths), pool.map(describe, paths), strict=True))


def _point(link, target):
    """A relative symlink, replaced in one move."""
    beside = link.with_suffix(".tmp")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    os.replace(beside, link)


def relink(run: Path) -> list[str]:
    """Let the links of a run be links again, where it was copied by what follows them (`cp -L`, `aws s3 sync`) and
    they are folders. Those stay, as NAME.copy. Returns remarks, a line each; BadInput where such a copy is there."""
    remarks = []
    for path in sorted(run.iterdir()):
        if path.is_symlink() or not path.is_dir() or not re.fullmatch(LINKS, path.name):
            continue
        aside = path.with_name(f"{path.name}.copy")
        if aside.exists():
            raise BadInput(f"{path} is a folder and no link, and {aside.name} is there already: remove one of them")
        same = [folder.name for folder in checkpoints(run) if _marker(folder) == _marker(path)]
        path.rename(aside)
        if same:
            _point(path, same[-1])
        now = f"a link to {same[-1]} again" if same else "gone"
        remarks.append(f"{path} was a copied folder, no link: it is {now}, and the copy {aside.name}, to be removed")
    return remarks


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoint folders of a run, oldest first; their contents are not looked at."""
    return [folder for folder in _step_folders(run) if _marker(folder) is not None]


def _step_folders(run):
    if kind_of(run) != "folder":
        return []
    with named_path(run):
        return sorted(p for p in Path(run).glob("step_*") if re.fullmatch(r"step_\d{8}", p.name))


def _step(folder):
    return int(folder.name.removeprefix("step_"))


def _marker(folder):
    """What the marker says of the files, None where there is no readable marker."""
    try:
        files = json.loads((folder / COMPLETE).read_text())
        return files if isinstance(files, dict) else None
    except (OSError, ValueError):
        return None


def find_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, read whole: one line, None if nothing is."""
    wanted = _marker(folder)
    if wanted is None:
        return f"no readable {COMPLETE!r}: it was cut off while it was written"
    try:
        found = _describe(folder)
    except OSError as error:
        return f"cannot be read ({error})"
    for name, facts in wanted.items():
        if found.get(name) != facts:
            return f"{name} is missing" if name not in found else f"{name} is not what was written"
    return None


def find_resume(run: Path) -> tuple[Path, list[str]]:
    """The newest good checkpoint of a run.

    Returns:
        (folder, remarks: one line for every newer checkpoint that is damaged).

    Raises:
        BadInput: there is none.
    """
    remarks = []
    for folder in reversed(_step_folders(run)):
        damage = find_damage(folder)
        if damage is None:
            return folder, remarks
        remarks.append(f"{folder} is damaged: {damage}; using the one before it")
    damaged = f" ({remarks[0].split('; ')[0]})" if remarks else ""
    raise BadInput(f"--resume: {run} has no complete checkpoint to resume from{damaged}; start without --resume")


def refuse_foreign(run: Path) -> None:
    """BadInput if a run folder without a complete checkpoint holds anything that is not a trainer's leftover."""
    links = rf"({LINKS})(\.tmp)?"
    pages, texts = r"wandb|events\..*", r"(config|run|trackers)(\.part)?\.json|config(\.part)?\.yaml"
    leftovers = rf"{texts}|step_\d{{8}}(\.tmp)?|{links}|{pages}|lock"
    with named_path(run):
        names = sorted(path.name for path in run.iterdir())
    foreign = [name for name in names if not re.fullmatch(leftovers, name)]
    if foreign:
        raise BadInput(f"{run} holds {foreign[0]} but no complete checkpoint: choose another EXP.ID, or clear it")


def clear_leftovers(run: Path) -> None:
    """Remove what a run left that never reached its first checkpoint; its lock stays."""
    for path in run.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != jobs.LOCK:
            path.unlink()


def lock(run: Path) -> TextIO:
    """Take a run folder for this process, see `libs.jobs.lock`: two processes that write into one run would ruin it.
    Waits for the remains of a killed run to end.

    Raises:
        BadInput: another process still holds it after LOCK_WAIT_S seconds, or this one may not write there.
    """
    return jobs.lock(run, f"{run} is in use: another process trains there", LOCK_WAIT_S)


def load_trainer(folder: Path | str, mapped: bool = False) -> dict[str, Any]:
    """What a checkpoint folder holds beside the model: trainer.pt, tensors on the CPU; of a sharded run trainer.json,
    whose tensors `rv_train.shares` reads.

    mapped: tensors stay in the file until they are read, so eight ranks need its memory once; for those who copy what
    they need and let go, because a file that is overwritten meanwhile ends the process.

    Raises:
        BadInput: missing, damaged, or not what this trainer writes.
    """
    path = trainer_file(folder)
    if path.suffix == ".json":
        state = read_json_object(path)
    else:
        with named_path(path):
            try:
                state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
            except (RuntimeError, pickle.UnpicklingError, EOFError) as error:  # of torch, where it is not such a file
                raise BadInput(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(state, dict):
        raise BadInput(f"{path} holds a {type(state).__name__}: it was not written by this trainer")
    return state


def trainer_file(folder: Path | str) -> Path:
    """trainer.pt, or trainer.json of a sharded run's checkpoint."""
    path = Path(folder) / SHARED
    return path if path.is_file() else Path(folder) / WHOLE
