"""Sample or observation → what the model takes. Training and evaluation share every line but the augmentation.

A batch is a dict of tensors:
    images       (B, N, H, W, 3) uint8, N pictures per prompt; or, with DATA.PREPROCESS reference,
    pixel_values what the library's processor made of them, all samples one after another
    input_ids    (B, L) int64, padded on the right
    lengths      (B,) int64, tokens before the padding
for the loss on the learned positions only (empty where prompts are open):
    label_index  (M,) int64, into the flattened (B*L) positions whose *next* token is learned
    label_ids    (M,) int64, that next token
and in training:
    index        (B,) int64, the samples' places in the dataset: its `where` says which frame that is

What else a policy learns from, its encoder adds: see `ObservationEncoder.STACKED`.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from yacs.config import CfgNode

from libs.errors import BadInput
from rv_train.backbones import build_prompt, family_of
from rv_train.backbones.prompt import IGNORE, PromptEncoder
from rv_train.backbones.reference import ReferenceEncoder
from rv_train.data.forms import ActionForm, action_form
from rv_train.data.images import ImageTransform
from rv_train.data.sources import find_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rv_train.data.base import Sample
    from rv_train.policies.base import Prediction


class ObservationEncoder:
    """Pictures and prompt of one observation (evaluation) or sample (training).

    STACKED: tensors among the features of a subclass, one shape each, that a batch holds row by row where they are
    there: {name: (B, ...)}. horizon, action_dim: of a chunk as it is written.

    Args:
        views: camera names in the model's order.
        transform: an ImageTransform.
        prompt: a PromptEncoder.
        reference: a ReferenceEncoder that encodes in place of `prompt`, or None.
        stats: of the data, None where there are none.
        proprio: {part of the robot's state: numbers in it} that an observation must hold, in the model's order.
        form: how actions are written, an ActionForm.
        horizon: actions of a chunk.
    """

    STACKED: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        views: Iterable[str],
        transform: ImageTransform,
        prompt: PromptEncoder,
        reference: ReferenceEncoder | None,
        stats: Mapping[str, Any] | None,
        proprio: Mapping[str, int],
        form: ActionForm,
        horizon: int,
    ) -> None:
        self.views, self.transform, self.prompt, self.reference = list(views), transform, prompt, reference
        self.stats, self.proprio, self.form = stats, dict(proprio), form
        self.horizon, self.action_dim = horizon, form.written_dim

    @classmethod
    def from_cfg(
        cls,
        cfg: CfgNode,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        stats: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Self:
        """From the config tree; without statistics the key map says how long the parts of the state are.

        more: of a subclass.
        BadInput: DATA.PREPROCESS reference lacks its packages; statistics of other parts than DATA.PROPRIO; numbers of
        ACTION.STATE or DELTA that are not there.
        """
        prompt = build_prompt(cfg, tokenizer)
        reference = ReferenceEncoder(family_of(cfg), prompt) if cfg.DATA.PREPROCESS == "reference" else None
        transform = ImageTransform.from_cfg(cfg)
        parts = state_parts(cfg, stats)
        form = action_form(cfg, parts, stats)
        return cls(cfg.DATA.VIEWS, transform, prompt, reference, stats, parts, form, cfg.ACTION.HORIZON, **more)

    def written(self, sample: "Sample") -> "Sample":
        """A Sample whose actions are as the model writes them: what is learned of it."""
        if self.form.plain:
            return sample
        return dataclasses.replace(sample, actions=self.form.write(sample.actions, sample.proprio))

    def recorded(self, prediction: "Prediction", observations: Sequence[Mapping[str, Any]]) -> "Prediction":
        """A Prediction about observations with its chunks as the data have them: what a robot executes. The robot's
        state, which differences are relative to, is that of the observations."""
        if self.form.plain:
            return prediction
        states = np.stack([self.state(observation.get("proprio")).numpy() for observation in observations])
        return dataclasses.replace(prediction, chunk=self.form.read(prediction.chunk, states))

    def encode(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """An observation dict (`views`, `instruction`, `proprio`) → features for `collate`; the prompt stays open.

        Raises:
            BadInput: a camera that the model was trained with is missing, or what `state` refuses.
        """
        return self._encode(observation)

    def _encode(self, observation, state_text=""):
        missing = [view for view in self.views if view not in observation["views"]]
        if missing:
            given, wanted = ", ".join(map(str, observation["views"])) or "none", ", ".join(self.views)
            raise BadInput(f"observation has no view {missing[0]}, only {given}; the model needs {wanted}")
        frames = [np.asarray(observation["views"][view]) for view in self.views]
        return self._features(frames, observation["instruction"], state_text=state_text)

    def encode_sample(
        self,
        sample: "Sample",
        action_text: str | None = None,
        rng: np.random.Generator | None = None,
        state_text: str = "",
    ) -> dict[str, Any]:
        """A Sample and its action text → features with labels; `rng` draws the augmentation, None means none.

        action_text: None leaves the prompt open, for a policy that writes nothing. state_text: see
        `PromptEncoder.encode`.
        """
        return self._features(sample.views, sample.instruction, action_text, rng, state_text)

    def prompt_length(self, sample: "Sample") -> int:
        """Tokens of a sample's open prompt."""
        return len(self.prompt.encode(sample.instruction)["input_ids"])

    def _features(self, frames, instruction, action_text=None, rng=None, state_text=""):
        pictures = self.transform(frames, rng)
        if self.reference:
            features = self.reference.encode(pictures, instruction, action_text, state_text)
        else:
            words = self.prompt.encode(instruction, action_text, state_text)
            features = {"images": torch.from_numpy(pictures), **words}
        return features if rng is None else {**features, **self.prompt.mask_digits(features, rng)}

    def state(self, given: Any) -> torch.Tensor:
        """(P,) float32 out of an observation's `proprio`: a dict of the parts, more than are needed may be there; or
        (P,) numbers, just these in their order. BadInput where it is anything else."""
        if not self.proprio:
            return torch.zeros(0)
        wanted = ", ".join(f"{name} ({size})" for name, size in self.proprio.items())
        if given is None:
            raise BadInput(f"observation has no proprio; the model needs {wanted}")
        if isinstance(given, dict):
            missing = [name for name in self.proprio if name not in given]
            if missing:
                raise BadInput(f"observation's proprio has no {missing[0]}; the model needs {wanted}")
            wrong = [name for name, size in self.proprio.items() if np.shape(given[name]) != (size,)]
            if wrong:
                raise BadInput(f"proprio {wrong[0]} has shape {np.shape(given[wrong[0]])}; the model needs {wanted}")
            given = np.concatenate([given[name] for name in self.proprio])
        if np.shape(given) != (sum(self.proprio.values()),):
            raise BadInput(f"proprio has shape {np.shape(given)}; the model needs {wanted}, one after another")
        chosen = torch.from_numpy(np.array(given, dtype=np.float32))
        if not chosen.isfinite().all():
            raise BadInput(
                f"observation's proprio holds {float(chosen[~chosen.isfinite()][0])}; the model needs {wanted}"
            )
        return chosen

    def collate(self, features: Sequence[Mapping[str, Any]], length: int | None = None) -> dict[str, torch.Tensor]:
        """A list of features → a batch (see the module's docstring), L the longest sample's or the given length."""
        lengths = [len(f["input_ids"]) for f in features]
        length = length or max(lengths)
        ids = np.full((len(features), length), self.prompt.pad_id)
        labels = np.full((len(features), length), IGNORE)
        for row, f in enumerate(features):
            ids[row, : lengths[row]] = f["input_ids"].numpy()
            labels[row, : lengths[row]] = f["labels"].numpy()
        next_ids = np.full_like(labels, IGNORE)
        next_ids[:, :-1] = labels[:, 1:]
        learned = np.flatnonzero(next_ids != IGNORE)
        if self.reference:
            pixels = {"pixel_values": torch.cat([f["pixel_values"] for f in features])}
        else:
            pixels = {"images": torch.stack([f["images"] for f in features])}
        batch = {
            **pixels,
            "input_ids": torch.from_numpy(ids),
            "lengths": torch.tensor(lengths),
            "label_index": torch.from_numpy(learned),
            "label_ids": torch.from_numpy(next_ids.ravel()[learned]),
        }
        batch |= {name: torch.stack([f[name] for f in features]) for name in self.STACKED if name in features[0]}
        if "index" in features[0]:
            batch["index"] = torch.tensor([f["index"] for f in features])
        return batch


def state_parts(cfg: CfgNode, stats: Mapping[str, Any] | None = None) -> dict[str, int]:
    """{part of the robot's state: numbers in it} of DATA.PROPRIO, by the statistics or else by what the data's source
    says; BadInput where there is no such part, or the statistics are of other parts."""
    if not cfg.DATA.PROPRIO:
        return {}
    if stats is None:
        known = find_source(cfg.DATA.SOURCE).look(cfg).proprio
        missing = [name for name in cfg.DATA.PROPRIO if name not in known]
        if missing:
            raise BadInput(f"DATA.PROPRIO: there is no {missing[0]!r} in the data; it has {', '.join(known)}")
        return {name: known[name] for name in cfg.DATA.PROPRIO}
    parts = stats["proprio"]["parts"] if "proprio" in stats else {}
    if list(parts) != list(cfg.DATA.PROPRIO):
        raise BadInput(f"DATA.PROPRIO is {cfg.DATA.PROPRIO}, the statistics have proprio {list(parts)}")
    return parts


def take_row(batch: Mapping[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    """The batch of one that `collate` would have made of sample `row` alone: same keys, no padding.

    Args:
        batch: see the module's docstring, on any device.
        row: 0 <= row < B.
    """
    size, longest = batch["input_ids"].shape
    length = int(batch["lengths"][row])
    learned = batch["label_index"] // longest == row
    of_all = ("input_ids", "label_index", "label_ids", "pixel_values")  # not a row of its own per sample, or padded
    taken = {name: values[row : row + 1] for name, values in batch.items() if name not in of_all}
    if "pixel_values" in batch:  # every sample has equally many patches
        patches = len(batch["pixel_values"]) // size
        taken["pixel_values"] = batch["pixel_values"][row * patches : (row + 1) * patches]
    return {
        **taken,
        "input_ids": batch["input_ids"][row : row + 1, :length],
        "label_index": batch["label_index"][learned] % longest,
        "label_ids": batch["label_ids"][learned],
    }
