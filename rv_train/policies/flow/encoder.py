"""What a flow-matching policy learns from: the open prompt, the robot's state, the chunk, and noise to start from.

A batch holds, besides pictures and ids (`rv_train.policies.encoding`),
    proprio      (B, P) float32, the robot's state as it was recorded
and in training:
    actions      (B, H, A) float32, as they are written (ACTION.MODE)
    noise        (B, R, H, A) float32, R draws per sample (FLOW.DRAWS)
    time         (B, R) float32 in 0..1, how far each draw has come from noise to actions
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from yacs.config import CfgNode

from libs.errors import BadInput
from libs.flow_matching import draw_noise, draw_times
from rv_train.data.forms import dim_written
from rv_train.policies.encoding import ObservationEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rv_train.data.base import Sample


class FlowEncoder(ObservationEncoder):
    """For a model that generates actions from noise.

    Noise and times are drawn here, from the sample's own generator, so that a run can be repeated and resumed to the
    bit, and validation measures with the same noise every time.

    Args:
        dropout: share of the training samples whose robot state is replaced by the mean of the data.
        draws: pairs of noise and time per sample.
        times: how times are drawn, see `libs.flow_matching.draw_times`.
        common: of an ObservationEncoder.
    """

    STACKED = ("proprio", "actions", "noise", "time")

    def __init__(self, *common: Any, dropout: float, draws: int, times: str) -> None:
        super().__init__(*common)
        self.dropout, self.draws, self.times = dropout, draws, times

    @classmethod
    def from_cfg(  # type: ignore[override]  # `more` is what is added here
        cls, cfg: CfgNode, tokenizer: "PreTrainedTokenizerBase | None" = None, stats: Mapping[str, Any] | None = None
    ) -> Self:
        """stats: of the data, see `rv_train.data.stats`.

        BadInput: statistics without what FLOW.NORMALIZE or DATA.PROPRIO needs.
        """
        for key in ("mean", "std") if cfg.FLOW.NORMALIZE == "mean_std" else ("min", "max"):
            if stats and np.shape(stats.get(key, ())) != (dim_written(cfg),):
                raise BadInput(
                    f"FLOW.NORMALIZE {cfg.FLOW.NORMALIZE}: the statistics have no {key} of {dim_written(cfg)} action "
                    f"dimensions, but {stats.get(key)!r}: write them with tools/compute_stats.py, or leave DATA.STATS "
                    "empty"
                )
        more = {"dropout": cfg.FLOW.PROPRIO_DROPOUT if cfg.DATA.PROPRIO else 0.0}
        more |= {"draws": cfg.FLOW.DRAWS, "times": cfg.FLOW.TIMES}
        return super().from_cfg(cfg, tokenizer, stats, **more)

    def encode(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """See `ObservationEncoder.encode`; the state goes its own way to the expert."""
        return {**super().encode(observation), "proprio": self.state(observation.get("proprio"))}

    def encode_training(self, sample: "Sample", rng: np.random.Generator, augment: bool = True) -> dict[str, Any]:
        """A Sample → features with the chunk; `rng` draws the augmentation, then noise and times."""
        features = self.encode_sample(sample, rng=rng if augment else None)
        proprio = torch.from_numpy(sample.proprio)
        if self.dropout and augment and rng.random() < self.dropout:
            assert self.stats is not None, "what is trained has statistics"
            proprio = torch.tensor(self.stats["proprio"]["mean"])
        return {
            **features,
            "proprio": proprio,
            "actions": torch.from_numpy(sample.actions),
            "noise": torch.from_numpy(draw_noise(rng, (self.draws, *sample.actions.shape))),
            "time": torch.from_numpy(draw_times(rng, (self.draws,), self.times)),
        }

    def outline(self, instruction: str) -> tuple[dict[str, torch.Tensor], int, str]:
        numbers = f"{self.horizon} x {self.action_dim} numbers"
        return self.prompt.encode(instruction), self.draws, f"{numbers} come out of the action expert"

    def target(self, features: Mapping[str, Any], _start: int) -> str:
        """What is learned of a sample, in words."""
        horizon, dim = features["actions"].shape
        state = f"robot state of {len(features['proprio'])} numbers; " if len(features["proprio"]) else ""
        return f"{state}a chunk of {horizon} x {dim} numbers is learned, from {self.draws} draws of noise"
