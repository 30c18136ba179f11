"""What a policy that answers in text learns from: the prompt, and the actions as the answer to it.

With DATA.PROPRIO the robot's state stands in the user's turn, behind the instruction, as integers: by the same codec as
actions, spread over the range that the data's states have.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from yacs.config import CfgNode

from libs.action_text import ActionTextCodec
from rv_train.backbones.prompt import IGNORE
from rv_train.data.stats import action_range
from rv_train.policies.encoding import ObservationEncoder

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import ArrayLike
    from transformers import PreTrainedTokenizerBase

    from rv_train.data.base import Sample


class TextEncoder(ObservationEncoder):
    """For a model that answers in text: a sample's actions become the answer that is learned.

    Args:
        num_bins: of the answer.
        codec: an ActionTextCodec, None where nothing is to be learned.
        state_codec: the same of the robot's state, None where it is not given or there are no statistics.
        common: of an ObservationEncoder.
    """

    def __init__(
        self,
        *common: Any,
        num_bins: int,
        codec: ActionTextCodec | None,
        state_codec: ActionTextCodec | None,
    ) -> None:
        super().__init__(*common)
        self.num_bins, self.codec, self.state_codec = num_bins, codec, state_codec

    @classmethod
    def from_cfg(  # type: ignore[override]  # `more` is what is added here
        cls, cfg: CfgNode, tokenizer: "PreTrainedTokenizerBase | None" = None, stats: Mapping[str, Any] | None = None
    ) -> Self:
        """stats: of the data, see `rv_train.data.stats`."""
        action, codec, state_codec = cfg.ACTION, None, None
        if stats:
            codec = ActionTextCodec(*action_range(stats, action.RANGE), action.NUM_BINS)
        if stats and cfg.DATA.PROPRIO and "proprio" in stats:
            state_codec = ActionTextCodec(stats["proprio"]["min"], stats["proprio"]["max"], action.NUM_BINS)
        codecs = {"codec": codec, "state_codec": state_codec}
        return super().from_cfg(cfg, tokenizer, stats, num_bins=action.NUM_BINS, **codecs)

    def encode(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """See `ObservationEncoder.encode`."""
        return self._encode(observation, self.state_text(self.state(observation.get("proprio"))))

    def encode_training(self, sample: "Sample", rng: "np.random.Generator", augment: bool = True) -> dict[str, Any]:
        """A Sample → features with labels; `rng` draws the augmentation."""
        text = sample.action_text
        if text is None:
            assert self.codec is not None, "what is trained has statistics"
            text = self.codec.encode(sample.actions[None])[0]
        return self.encode_sample(sample, text, rng if augment else None, self.state_text(sample.proprio))

    def state_text(self, state: "ArrayLike") -> str:
        """(P,) numbers of the robot's state as integers; "" where the policy is given none."""
        if not self.proprio:
            return ""
        assert self.state_codec is not None, "what is given the state has its statistics"
        return " ".join(map(str, self.state_codec.to_integers(state).tolist()))

    def prompt_length(self, sample: "Sample") -> int:
        return len(self.prompt.encode(sample.instruction, None, self.state_text(sample.proprio))["input_ids"])

    def outline(self, instruction: str) -> "tuple[dict[str, torch.Tensor], int, str]":
        """Every number is written with the digits of the middle bin."""
        middle = str(self.num_bins // 2)
        state = " ".join([middle] * sum(self.proprio.values()))
        encoded = self.prompt.encode(instruction, " ".join([middle] * self.horizon * self.action_dim), state)
        learned = int((encoded["labels"] != IGNORE).sum())
        numbers = f"{self.horizon} x {self.action_dim} numbers of {len(middle)} digits"
        return encoded, learned, f"{numbers} and the end: what is learned"

    def target(self, features: Mapping[str, Any], start: int) -> str:
        """What is learned of a sample whose prompt has `start` tokens, in words."""
        learned = int((features["labels"] != IGNORE).sum())
        return f"action text: {len(features['labels']) - start} tokens, {learned} of them learned"
