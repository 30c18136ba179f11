"""What a result depends on: versions, and `run.json` in a run folder."""

import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from yacs.config import CfgNode

from libs.errors import BadInput
from libs.files import read_json_object, write_whole
from rv_train.backbones.lora import num_values
from rv_train.optim import base_lr, resolve_amp

if TYPE_CHECKING:
    from rv_train.distributed import Rank
    from rv_train.policies.base import Policy


PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "h5py", "opencv-python", "yacs")
OPTIONAL_PACKAGES = ("bitsandbytes", "peft", "flash-attn", "torchvision", "qwen-vl-utils")  # for some keys of a run


def versions(more: Iterable[str] = ()) -> dict[str, str | None]:
    """Package name → installed version (None: not installed), of what a result can depend on and of `more` packages;
    plus Python's version and this repository's commit."""
    found = {"python": platform.python_version(), "git_commit": git_commit()}
    for package in (*PACKAGES, *more):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_commit() -> str | None:
    """The commit this code stands at, "+" behind it if files differ; None outside a git checkout, which one around an
    installed package, in an environment below somebody's project, is not."""
    file = Path(__file__).resolve()
    root = file.parent.parent
    try:
        subprocess.run(["git", "ls-files", "--error-unmatch", file], cwd=root, capture_output=True, check=True)
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def write_run_json(
    folder: Path | str, cfg: CfgNode, rank: "Rank", data_info: Mapping[str, Any], model: "Policy", start_step: int
) -> None:
    """`run.json`: what somebody needs to repeat this run, next to its `config.yaml`.

    A resumed run adds an entry to the list `resumed`.

    Args:
        folder: the run folder.
        cfg: the config tree.
        rank: a distributed.Rank.
        data_info: `TrainingData.info`.
        model: the model, for its size.
        start_step: optimizer steps done before; 0 for a fresh run.
    """
    path = Path(folder) / "run.json"
    session = {
        "command": sys.argv,
        "versions": versions(OPTIONAL_PACKAGES),
        "world_size": rank.world_size,
        "device": torch.cuda.get_device_name(rank.device) if rank.device.type == "cuda" else rank.device.type,
        "global_batch_size": cfg.TRAIN.batch_size * cfg.TRAIN.grad_accum * rank.world_size,
        "lr": base_lr(cfg.TRAIN, rank.world_size),
        "precision": {"amp": resolve_amp(cfg.AMP.mode, rank.device), "parameters": cfg.AMP.param_dtype},
        "data_fingerprint": data_info["fingerprint"],
    }
    if start_step and path.is_file():
        try:
            run = read_json_object(path)
            if not isinstance(run.get("resumed"), list):
                raise BadInput(f"{path} has no list 'resumed'")
        except BadInput as error:
            raise BadInput(f"{error}: move it away, and the record begins anew") from None
        run["resumed"].append({"step": start_step, **session})
    else:
        parameters = list(model.parameters())
        run = {
            "seed": cfg.EXP.SEED,
            **session,
            "parameters": {
                "total": sum(map(num_values, parameters)),
                "trainable": sum(p.numel() for p in parameters if p.requires_grad),
            },
            "data": data_info,
            "resumed": [],
        }
    write_whole(path, json.dumps(run, indent=1) + "\n")  # a full disk must not cost the record of the run so far
