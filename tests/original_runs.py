"""Run folders as the original VLA-0 leaves them, of a tiny model: today's form of its weights and older ones."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

FORMS = ("today", "flat", "long_names")
RANGE = {"min": [-0.9, -0.8, -0.7, -0.1, -0.2, -0.3, -1.0], "max": [0.9, 0.8, 0.7, 0.1, 0.2, 0.3, 1.0]}


def make_original_run(folder, model, form="today", stats=None):
    """`folder`/model_last and dataset_stats.pkl out of one of our model folders; returns `folder`.

    form: what wrote the weights. today: this version of transformers; flat: versions before 4.52, text sizes beside
    the others in config.json and `rope_scaling`; long_names: those that named weights as the modules are named.
    """
    folder, theirs = Path(folder), Path(folder) / "model_last"
    theirs.mkdir(parents=True)
    for path in Path(model).iterdir():
        if path.name not in ("action_stats.json", "data_info.json", "vla_config.yaml"):
            shutil.copyfile(path, theirs / path.name)
    if form == "flat":
        config = json.loads((theirs / "config.json").read_text())
        (theirs / "config.json").write_text(json.dumps(flat(config)))
    elif form == "long_names":
        path = theirs / "model.safetensors"
        weights = {long_name(name): value for name, value in load_file(path).items()}
        save_file(weights, path, {"format": "pt"})
    if stats is None:
        stats = {"out_ori_act": {key: [np.float64(value) for value in values] for key, values in RANGE.items()}}
    (folder / "dataset_stats.pkl").write_bytes(pickle.dumps(stats))
    (folder / "model_last.pth").write_bytes(b"not to be opened")
    return folder


def flat(config):
    """A config.json as versions before 4.52 wrote it."""
    text, vision, dtype = config.pop("text_config"), config.pop("vision_config"), config.pop("dtype", "float32")
    rope = text.pop("rope_parameters")
    text = {key: value for key, value in text.items() if key not in ("model_type", "layer_types", "dtype")}
    text |= {"rope_theta": rope["rope_theta"]}
    text |= {"rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]}}
    vision = {key: value for key, value in vision.items() if key not in ("rope_parameters", "dtype")}
    return {**config, **text, "vision_config": vision, "torch_dtype": dtype, "transformers_version": "4.49.0"}


def long_name(name):
    """visual.* and model.* → what the modules of the library's class are called today."""
    return f"model.{name}" if name.startswith("visual.") else name.replace("model.", "model.language_model.", 1)
