"""A checkpoint as a policy: observations in, chunks of actions out. All it needs is in the model folder."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from rv_train.checkpoint import load_model_folder
from rv_train.data.features import ObservationEncoder
from rv_train.models.vla0 import Prediction


class Policy:
    """A model with its preprocessing, and what it expects of an environment.

    horizon, action_dim: shape (H, A) of a chunk. views: the cameras it looks at. render, resolution: how the
    pictures of its training data were made. folder: the model folder.
    """

    def __init__(self, model, encoder, cfg, data_info: dict, folder):
        self.model = model
        self.encoder = encoder
        self.horizon = cfg.ACTION.HORIZON
        self.action_dim = cfg.ACTION.DIM
        self.views = tuple(cfg.DATA.VIEWS)
        self.render = data_info.get("render", "standard")
        self.resolution = int(data_info.get("resolution", 256))
        self.folder = Path(folder)

    @classmethod
    def from_checkpoint(cls, path, device="cpu", torch_compile: bool = False) -> "Policy":
        """The policy of a run folder (its last checkpoint), a step folder or a model folder.

        torch_compile: compile the decoding step; pays on a GPU, where the first query then takes minutes.
        ValueError: nothing to load there, a file is missing or broken, or there is no such device. Runs no
        code from the folder.
        """
        device = _device(device)
        model, cfg, extras = load_model_folder(path, device)
        if torch_compile:
            model.decoder.compile()
        encoder = ObservationEncoder.from_cfg(cfg, model.prompt.tokenizer)
        return cls(model, encoder, cfg, extras["data_info"], extras["folder"])

    def predict(self, observations: list[dict]) -> np.ndarray:
        """B observations -> (B, H, A) float32, environment units; mid-range where a text cannot be read.

        An observation is {"views": {name: (R, R, 3) uint8 upright}, "instruction": str}; it may hold more.
        ValueError: a view is missing.
        """
        return self.predict_detailed(observations).chunk

    def predict_detailed(self, observations: list[dict]) -> Prediction:
        """The same with `valid` (B,), `repaired` (B,) and `texts`, see Prediction."""
        batch = self.encoder.collate([self.encoder.encode(observation) for observation in observations])
        device = next(self.model.parameters()).device
        return self.model.predict({name: tensor.to(device) for name, tensor in batch.items()})

    def check_environment(self, views, action_dim: int, render: str):
        """ValueError where an environment does not show or take what the model was trained with."""
        missing = [view for view in self.views if view not in views]
        if missing:
            raise ValueError(
                f"the model in {self.folder} looks at {', '.join(self.views)}, "
                f"but the environment has no view {', '.join(missing)} (it has {', '.join(views)})"
            )
        if action_dim != self.action_dim:
            raise ValueError(
                f"the model in {self.folder} writes actions of {self.action_dim} numbers, "
                f"the environment takes {action_dim}"
            )
        if render != self.render:
            raise ValueError(
                f"the model in {self.folder} was trained on pictures of render setting {self.render!r}, "
                f"the environment renders {render!r}: success rates would mean nothing"
            )


def model_fingerprint(folder) -> dict[str, str]:
    """What tells a model from any other.

    Returns {"model_fingerprint": sha256 over all files of the model folder, "weights_sha256": sha256 of the
    weights, the files one after another (one file: what `sha256sum model.safetensors` prints)}.
    """
    files = sorted(p for p in Path(folder).iterdir() if p.is_file() and p.suffix != ".md")
    weights = hashlib.sha256()
    total = hashlib.sha256()
    for path in files:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
                if path.suffix == ".safetensors":
                    weights.update(block)
        total.update(f"{digest.hexdigest()}  {path.name}\n".encode())
    return {"model_fingerprint": total.hexdigest(), "weights_sha256": weights.hexdigest()}


def _device(name) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here: {reason}") from None
    return device
