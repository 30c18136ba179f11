"""The smallest model of the real class, for tests: a few ten thousand parameters, no download."""

from pathlib import Path

import torch
import yaml

from rv_train.backbones import family_named
from rv_train.checkpoint import save_model_folder
from rv_train.config import load_cfg
from rv_train.policies import build_encoder, build_policy

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "configs/tiny.yaml"
ACTION_STATS = {
    "min": [-1.0] * 7,
    "max": [1.0] * 7,
    "mean": [0.0] * 7,
    "std": [0.5] * 7,
    "q01": [-1.0] * 7,
    "q99": [1.0] * 7,
    "count": 10,
    "num_demos": 1,
    "fingerprint": "tiny",
}


def tiny_recipe(folder, family):
    """configs/tiny.yaml for another family of backbones, by its own tiny sizes; returns its path."""
    tree = yaml.safe_load(TINY.read_text())
    for section, key in [("MODEL", "TEXT"), ("MODEL", "VISION"), ("MODEL", "VOCAB_CUT"), ("IMAGE", "SIZE")]:
        del tree[section][key]
        assert f"{section}.{key}" in family_named(family).tiny, f"{family}: `tiny` has to give {section}.{key}, too"
    tree["MODEL"]["BACKBONE"] = family
    for name, value in family_named(family).tiny.items():
        section, key = name.split(".")
        tree[section][key] = value
    path = Path(folder) / f"{family}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def tiny_opts(**more):
    """KEY VALUE pairs; the keyword `TRAIN__lr=1` stands for TRAIN.lr."""
    return [part for key, value in more.items() for part in (key.replace("__", "."), value)]


def tiny_cfg(recipe=TINY, **more):
    return load_cfg(recipe, tiny_opts(**more))


def tiny_model(cfg, seed=0):
    """A random model of `cfg`, in evaluation mode."""
    torch.manual_seed(seed)
    return build_policy(cfg, build_encoder(cfg, ACTION_STATS)).eval()


def make_tiny_base(folder, seed=0, recipe=TINY, **more):
    """Weights to put adapters on: a random tiny model; returns its folder."""
    cfg, folder = tiny_cfg(recipe, **more), Path(folder) / f"base_{seed}"
    model = tiny_model(cfg, seed)
    with torch.no_grad():  # a random tied head repeats one digit for ever: make the next token depend on the last
        noise = torch.Generator().manual_seed(seed + 3)
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.15)
    save_model_folder(folder, model, cfg, ACTION_STATS, {})
    return folder


def lora_opts(base, **more):
    """Keywords for `tiny_cfg`: an adapter over the weights that `make_tiny_base` wrote."""
    base = {"MODEL__PATH": str(base), "MODEL__TOKENIZER": str(base), "MODEL__VOCAB_CUT": 0}
    return {"MODEL__INIT": "pretrained", **base, "MODEL__LORA__RANK": 4, "MODEL__LORA__ALPHA": 8, **more}


def train_adapter(model):
    """Give an adapter that does nothing yet, as every new one, weights of a trained one's size."""
    noise = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.2)
    return model


def make_tiny_checkpoint(folder, render="fast", resolution=64, **more):
    """A random tiny policy in a run folder's form; returns the run folder."""
    cfg = tiny_cfg(**more)
    run = Path(folder) / "tiny"
    data_info = {"render": render, "resolution": resolution, "fingerprint": "tiny", "files": []}
    save_model_folder(run / "last" / "model", tiny_model(cfg), cfg, ACTION_STATS, data_info)
    return run


def flow_opts(**more):
    """Keywords for `tiny_cfg`: a flow-matching policy that is given LIBERO's nine numbers of robot state."""
    sizes = {"FLOW__PROJECTOR": 24, "FLOW__HIDDEN": 16, "FLOW__LAYERS": 2, "FLOW__HEADS": 2, "FLOW__MLP": 32}
    sizes |= {"FLOW__HEAD_LAYERS": 1, "FLOW__DRAWS": 2, "FLOW__STEPS": 4}
    return {"MODEL__NAME": "flow_expert", "DATA__PROPRIO": ["robot_states"], **sizes, **more}


def frozen_opts(base, **more):
    """Keywords for `tiny_cfg`: the weights that `make_tiny_base` wrote, as they are."""
    opts = lora_opts(base, MODEL__FREEZE=True, **more)
    return {key: value for key, value in opts.items() if not key.startswith("MODEL__LORA__")}
