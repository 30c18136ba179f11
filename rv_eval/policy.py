"""A checkpoint as a policy: observations in, chunks of actions out. All it needs is in the model folder.

An answer depends on its observation alone, to the bit: not on how many wait with it, which, or in what order. Every
call of the model has the same number of rows (`batch_rows`), and a padded length that follows from the row's own
prompt: missing rows are repetitions of the last, more observations make several calls. So the kernels always see the
same shapes, and on a CPU they then treat all rows alike (measured, see `rv_train.policies.text.decoder`; on a GPU it
was not measured). Another `batch_rows` rounds differently.
"""

import functools
import hashlib
import importlib.metadata
import math
import operator
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from yacs.config import CfgNode

from libs.config_tree import pair
from libs.errors import BadInput, first_line
from rv_eval.agent import AgentSettings
from rv_eval.drafts import draft_of, prefix_of
from rv_eval.picture_sizes import are_sizes
from rv_train.backbones.running import DTYPES
from rv_train.checkpoint import load_model_folder
from rv_train.data.stats import is_binary
from rv_train.policies.base import Encoder, Prediction, gather

if TYPE_CHECKING:
    from rv_train.policies.base import Policy as TrainedPolicy

BUCKET = 64  # prompts are padded to a multiple of so many tokens; the prompts of a LIBERO suite mostly share one
# Rows per call where nobody says. On a CPU every row costs, real or not: one of the shipped policy takes 0.09 s, four
# take 0.2 s; with four simulators, calls of four are nearly full and cost half as much per answer
# (benchmarks/README.md). A GPU should take hardly longer for 16 rows than for one in bfloat16: it reads all weights for
# each token either way; in float32 the products themselves take about three times as long (reasoned, not measured).
DEFAULT_ROWS = {"cpu": 4, "cuda": 16}


class Policy:
    """A model with its preprocessing, and what it expects of an environment.

    horizon, action_dim: shape (H, A) of a chunk. views: the cameras it looks at. proprio: {part of the robot's state
    that it is given: numbers in it}. render, resolution: how the pictures of its training data were made, resolution
    the longer side of the main camera's. pictures: {"cameras": {view: [height, width] of those}, and how frames of any
    shape are brought to what the model sees: "fit" and "crop" (IMAGE.FIT and CROP), "size": [height, width]}. preset:
    how its recipe wants chunks executed (EVAL.*). takes_prefix: whether an observation may say what its chunk begins
    with. folder: the model folder.

    Of the model it knows `predict`, `compile_predict`, TEMPERATURE, DRAFTS and PREFIX only, of the encoder `encode`,
    `collate`, `recorded`, `form`, `state` and `proprio`.
    """

    def __init__(
        self,
        model: "TrainedPolicy",
        encoder: Encoder,
        cfg: CfgNode,
        data_info: dict,
        folder: Path | str,
        batch_rows: int = 1,
        temperature: float | None = None,
        drafts: bool = True,
    ) -> None:
        if batch_rows < 1:
            raise BadInput(f"a policy answers at least 1 observation per call, not {batch_rows}")
        if temperature is None:
            temperature = model.TEMPERATURE
        if not (math.isfinite(temperature) and temperature >= 0):
            raise BadInput(f"a temperature is 0 (the likeliest answer) or a positive number, not {temperature}")
        self.model = model
        self.encoder = encoder
        self.horizon = cfg.ACTION.HORIZON
        self.action_dim = cfg.ACTION.DIM
        self.views = tuple(cfg.DATA.VIEWS)
        self.proprio = dict(encoder.proprio)
        self.render, self.resolution = data_info.get("render", "standard"), data_info.get("resolution", 256)
        if not isinstance(self.render, str) or type(self.resolution) is not int or self.resolution < 1:
            raise BadInput(f"{folder}/data_info.json: render {self.render!r} or resolution {self.resolution!r} is none")
        square = [self.resolution, self.resolution]  # older models say no more
        sizes = data_info.get("cameras") or dict.fromkeys(self.views, square)
        if not are_sizes(sizes, self.views):
            raise BadInput(f"{folder}/data_info.json: cameras {sizes!r} are no sizes of {', '.join(self.views)}")
        self.pictures: dict | None = {
            "cameras": {view: list(sizes[view]) for view in self.views},
            "fit": cfg.IMAGE.FIT,
            "crop": cfg.IMAGE.CROP,
            "size": list(pair(cfg.IMAGE.SIZE)),
        }
        self.preset = AgentSettings(
            cfg.EVAL.ACTION_HORIZON,
            cfg.EVAL.ENSEMBLE_PREDICTION,
            cfg.EVAL.ENSEMBLE_VERSION,
            cfg.EVAL.ENSEMBLE_WEIGHT,
        )
        self.folder = Path(folder)
        self.batch_rows = batch_rows
        self.temperature = float(temperature)
        self.drafts = drafts and model.DRAFTS
        self.takes_prefix = model.PREFIX
        self.rotations = encoder.form.turns
        self.binary_gripper = self._has_binary_gripper()
        self.compiled = False

    @classmethod
    def from_checkpoint(
        cls,
        path: Path | str,
        device: str | torch.device | None = None,
        torch_compile: bool = False,
        batch_rows: int | None = None,
        temperature: float | None = None,
        drafts: bool = True,
        dtype: str | None = None,
    ) -> "Policy":
        """The policy of a run folder (its last checkpoint), a step folder or a model folder, or of a name of the
        Hugging Face hub, OWNER/NAME or OWNER/NAME@REVISION, where no folder is called so.

        device: "cpu", "cuda:1" ...; None: a GPU where there is one. torch_compile: compile the step that an answer
        repeats, a text's once per padded length: seconds for a tiny model on a CPU, minutes for a large one.
        batch_rows: rows per call of the model, see DEFAULT_ROWS. temperature: of a text, 0 answers with the likeliest
        tokens, above they are drawn; of a chunk that comes out of noise, what the noise is multiplied by. None: 0 and
        1. See `predict`. drafts: propose what a text will probably say and verify it several tokens at a time: the same
        answers, sooner. dtype: of the weights that answer, "float32" or "bfloat16", None: as they were trained. On a
        GPU bfloat16 should take half the time, and 16 rows hardly longer than one; answers differ by rounding.
        BadInput: nothing to load there, a file is missing or broken, there is no such device, or a number makes
        no sense. Runs no code from the folder.
        """
        device = _device(device)
        if dtype is not None and dtype not in DTYPES:
            raise BadInput(f"dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
        opts = ["AMP.param_dtype", dtype, "AMP.frozen_dtype", dtype] if dtype else []
        model, cfg, extras = load_model_folder(path, device, opts)
        encoder = extras["encoder"]
        rows = DEFAULT_ROWS.get(device.type, 1) if batch_rows is None else batch_rows
        policy = cls(model, encoder, cfg, extras["data_info"], extras["folder"], rows, temperature, drafts)
        if torch_compile:
            policy.compile()
        return policy

    def compile(self) -> None:
        """Compile what answers; BadInput if there is no compiler."""
        self.model.compile_predict()
        self.compiled = True

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def predict(self, observations: list[dict]) -> np.ndarray:
        """B observations -> (B, H, A) float32, environment units; mid-range where a text cannot be read.

        An observation is {"views": {name: (H, W, 3) uint8 upright}, "instruction": str} and, where the policy has a
        `proprio`, "proprio": {part: its numbers}, or all of them in one array; it may hold more. H and W need not be
        those of `pictures`: frames of any shape are fitted, cropped and resized as in training, but the model has seen
        pictures of its own cameras only.
        Where the temperature is not 0, "random_key", a sequence of integers >= 0, decides what is drawn: the same key
        and observation give the same answer, whatever else is asked. Without it every answer is drawn afresh and
        cannot be repeated.
        "draft", integers >= 0, is what the answer's text is expected to say, as far as anything is: the previous answer
        without the actions executed since. It makes the answer faster, and no other.
        "prefix", (d, A) floats in environment units, d <= H, is what the chunk begins with, to the resolution of its
        integers; what follows is the model's continuation of it.
        BadInput: a view is missing, or is not a uint8 picture; no instruction; a random_key, a draft or a prefix of
        other things; a prefix for a policy that does not take one.
        """
        return self.predict_detailed(observations).chunk

    def predict_detailed(self, observations: list[dict], origins: list[dict] | None = None) -> Prediction:
        """The same with everything else that a Prediction says.

        origins: observations whose robot state differences lead away from (ACTION.MODE delta); None: the same ones.
        """
        features = [self._encode(observation) for observation in observations]
        prefixes = [self._prefix(observation) for observation in observations]
        answers: dict[int, tuple[Prediction, int]] = {}  # of an observation: the Prediction of a call, the row in it
        for length, places in self._calls(features):
            rows = places + places[-1:] * (self.batch_rows - len(places))
            batch = self.encoder.collate([features[place] for place in rows], length)
            batch["real"] = torch.arange(self.batch_rows) < len(places)
            if self.drafts:
                numbers = self.horizon * self.encoder.form.written_dim
                batch["drafts"] = torch.tensor([draft_of(observations[place], numbers) for place in rows])
            if any(prefixes[place] is not None for place in places):
                free = np.full((self.horizon, self.encoder.form.written_dim), np.nan, np.float32)
                given = [free if prefixes[place] is None else prefixes[place] for place in rows]
                batch["prefix"] = torch.from_numpy(np.stack(given))
            batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
            generators = [_generator(observations[place]) for place in rows]
            prediction = self.model.predict(batch, self.temperature, generators)
            for row, place in enumerate(places):
                answers[place] = prediction, row
        prediction = gather([answers[place] for place in range(len(features))])
        return self.encoder.recorded(prediction, origins or observations)

    def _prefix(self, observation):
        """(H, B) float32: what a chunk begins with, as the model writes it, NaN behind; None where it is free."""
        given = prefix_of(observation, self)
        if given is None:
            return None
        form = self.encoder.form
        if not form.plain:
            given = form.write(given, self.encoder.state(observation.get("proprio")).numpy())
        return np.pad(given, [(0, self.horizon - len(given)), (0, 0)], constant_values=np.nan)

    def _encode(self, observation):
        check_observation(observation)
        return self.encoder.encode(observation)

    def _calls(self, features):
        """Yields (padded length, places of at most batch_rows features that have it)."""
        groups = {}
        for place, one in enumerate(features):
            groups.setdefault(-(-len(one["input_ids"]) // BUCKET) * BUCKET, []).append(place)
        for length, places in groups.items():
            for start in range(0, len(places), self.batch_rows):
                yield length, places[start : start + self.batch_rows]

    def describe(self) -> dict:
        """All that an answer depends on, and the preset, as JSON. The first call reads all weights to hash them."""
        return {
            "model_folder": str(self.folder),
            **self._fingerprint,
            "horizon": self.horizon,
            "action_dim": self.action_dim,
            "views": list(self.views),
            "proprio": self.proprio,
            "render": self.render,
            "resolution": self.resolution,
            "pictures": self.pictures,
            **({"rotations": turns} if (turns := self.rotations.as_dict()) else {}),
            "preset": asdict(self.preset),
            "temperature": self.temperature,
            "batch_rows": self.batch_rows,
            "device": str(self.device),
            "dtype": str(next(self.model.parameters()).dtype).removeprefix("torch."),
            "torch_compile": self.compiled,
            "drafts": self.drafts,
            "policy_versions": {
                "python": platform.python_version(),
                "torch": str(torch.__version__),  # names its build, +cpu or +cu130; a package's metadata need not
                **{name: importlib.metadata.version(name) for name in ("transformers", "numpy")},
            },
        }

    def _has_binary_gripper(self):
        """Whether the last number of an action, as it is recorded and written, was always -1 or +1."""
        form, stats = self.encoder.form, self.encoder.stats
        if not stats or form.dim - 1 in form.relative:
            return False
        turned = any(here.stop == form.dim for here in self.rotations.places())
        return not turned and is_binary(stats, -1)

    @functools.cached_property
    def _fingerprint(self):
        return model_fingerprint(self.folder)

    def check_environment(
        self, views: Sequence[str], action_dim: int, render: str, proprio: dict[str, int] | None = None
    ) -> None:
        """BadInput where an environment does not show, tell or take what the model was trained with.

        proprio: {part of the robot's state that it tells: numbers in it}; None: it tells nothing.
        """
        proprio = proprio or {}
        missing = [view for view in self.views if view not in views]
        if missing:
            raise BadInput(
                f"the model in {self.folder} looks at {', '.join(self.views)}, "
                f"but the environment has no view {', '.join(missing)} (it has {', '.join(views)})"
            )
        if action_dim != self.action_dim:
            raise BadInput(
                f"the model in {self.folder} writes actions of {self.action_dim} numbers, "
                f"the environment takes {action_dim}"
            )
        other = [name for name, size in self.proprio.items() if proprio.get(name) != size]
        if other:
            raise BadInput(
                f"the model in {self.folder} is given {self.proprio[other[0]]} numbers of {other[0]}, the environment "
                f"tells {', '.join(f'{size} of {name}' for name, size in proprio.items()) or 'nothing'}"
            )
        if render != self.render:
            raise BadInput(
                f"the model in {self.folder} was trained on pictures of render setting {self.render!r}, "
                f"the environment renders {render!r}: success rates would mean nothing"
            )


def check_observation(observation: Mapping[str, Any]) -> None:
    """BadInput where an observation holds no pictures or no instruction."""
    views, instruction = observation.get("views"), observation.get("instruction")
    if not isinstance(views, dict) or not isinstance(instruction, str):
        raise BadInput(
            "an observation holds views, a dict of pictures, and an instruction, a text; got "
            f"{type(views).__name__} and {type(instruction).__name__}"
        )


def model_fingerprint(folder: Path | str) -> dict[str, str]:
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


def _generator(observation: Mapping[str, Any]) -> np.random.Generator:
    key = observation.get("random_key")
    try:
        return np.random.default_rng(None if key is None else [operator.index(number) for number in key])
    except (TypeError, ValueError):
        raise BadInput(f"random_key is a sequence of integers >= 0, got {key!r}") from None


def _device(name: str | torch.device | None) -> torch.device:
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"device {name!r} cannot be used here: {first_line(error)}") from None
    return device
