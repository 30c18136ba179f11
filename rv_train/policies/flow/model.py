"""A flow-matching action expert: the backbone looks and reads, a small transformer generates continuous chunks.

    pictures, instruction → backbone → hidden states → projector ┐
    robot's state → embedding ───────────────────────────────────┴→ expert: H queries → H features
    noise + features + time → head → velocity, integrated from noise (time 0) to a chunk of actions (time 1)

The backbone runs once per observation over the whole batch, the expert as well; only the head runs at every step of
the solver. The backbone stays as it is (MODEL.FREEZE), has adapters (MODEL.LORA) or is trained, too.
"""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from yacs.config import CfgNode

from libs.action_text import is_constant
from libs.errors import BadInput
from libs.flow_matching import SAMPLERS, Normalizer, draw_noise, flow_matching_loss, interpolate
from rv_train.backbones import family_of
from rv_train.backbones.cost import Numbers
from rv_train.backbones.running import DTYPES, answering, check_compiler, last_of, without_flash
from rv_train.policies.base import Encoder, Prediction
from rv_train.policies.flow.cost import FlowFlops, expert_activations
from rv_train.policies.flow.expert import ActionExpert
from rv_train.policies.shared import OverBackbone, check_numbers, load_own, save_own

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rv_train.backbones.base import Family
    from rv_train.backbones.prompt import PromptEncoder


class FlowPolicy(OverBackbone):
    """Backbone and action expert; see `rv_train.policies.base.Policy`.

    Args:
        backbone: the library's model; what of it takes gradients is trained.
        family: of the backbone.
        expert: an ActionExpert.
        prompt: a PromptEncoder; only its ids are used here.
        actions, proprio: Normalizers; proprio None where the expert is given none.
        condition: "last" hidden state of the prompt, or "all" of them.
        solver: a key of libs.flow_matching.SAMPLERS.
        steps: of the solver.
    """

    TEMPERATURE = 1.0  # noise as in training
    COUNTED = "draws of noise"
    DRAFTS = PREFIX = False  # an answer is not written token by token
    INTEGERS = False
    OWN = "action expert"
    PARTS: ClassVar = {part: f"action_expert.{part}." for part in ("projector", "expert", "head")}

    def __init__(
        self,
        backbone: "PreTrainedModel",
        family: "Family",
        expert: ActionExpert,
        prompt: "PromptEncoder",
        actions: Normalizer | None,
        proprio: Normalizer | None,
        condition: str,
        solver: str,
        steps: int,
    ) -> None:
        super().__init__(backbone, family, prompt)
        self.action_expert, self.actions, self.proprio = expert, actions, proprio
        self.conditioned_on, self.solver, self.steps = condition, SAMPLERS[solver], steps
        self.velocity = expert.velocity

    @staticmethod
    def check(cfg: CfgNode) -> None:
        check_numbers(cfg, "; FLOW.NORMALIZE mean_std is disturbed less by single values")
        flow = cfg.FLOW
        if flow.HIDDEN % (2 * flow.HEADS):
            raise BadInput(f"FLOW.HIDDEN must be a multiple of 2 x HEADS, got {flow.HIDDEN} and {flow.HEADS} heads")

    @classmethod
    def from_cfg(
        cls, cfg: CfgNode, encoder: Encoder, backbone: "PreTrainedModel", weights: Path | None = None
    ) -> "FlowPolicy":
        actions, proprio = normalizers(cfg, encoder) if encoder.stats else (None, None)
        dim = backbone.config.get_text_config().hidden_size
        expert = ActionExpert.from_cfg(cfg, dim, sum(encoder.proprio.values())).to(DTYPES[cfg.AMP.param_dtype])
        if weights:
            load_own(expert, weights, "action expert of FLOW's sizes")
        flow, prompt = cfg.FLOW, encoder.prompt
        condition, solver = flow.CONDITION, flow.SOLVER
        return cls(backbone, family_of(cfg), expert, prompt, actions, proprio, condition, solver, flow.STEPS)

    def save(self, folder: Path | str) -> None:
        super().save(folder)
        save_own(self.action_expert, folder)

    def flops(self) -> FlowFlops:
        return FlowFlops.of(self.backbone_flops(), self.action_expert, self.conditioned_on)

    def kept(self, numbers: Numbers, tokens: int, counted: int) -> dict[str, int]:
        seen = tokens if self.conditioned_on == "all" else 1
        return {"activations of the expert": expert_activations(self.action_expert, seen, counted, numbers)}

    def chance(self, batch: Mapping[str, torch.Tensor]) -> tuple[float, str]:
        _, velocity = interpolate(batch["noise"], self._targets(batch), batch["time"])
        return velocity.square().mean().item(), "a velocity of 0"

    def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Mean squared error of the velocity, over every draw of noise and time of every sample.

        Args:
            batch: see `rv_train.policies.flow.encoder`.

        Returns:
            {"loss": scalar float32, "count": draws in the batch, which it is the mean over}.
        """
        x, velocity = interpolate(batch["noise"], self._targets(batch), batch["time"])
        with self._attention():
            features = self._features(batch).repeat_interleave(x.shape[1], dim=0)
            predicted = self.action_expert.velocity(features, x.flatten(0, 1), batch["time"].flatten())
        return {"loss": flow_matching_loss(predicted, velocity.flatten(0, 1)), "count": batch["time"].numel()}

    def compile(self) -> None:
        """See `OverBackbone`."""
        super().compile()
        for layer in (*self.action_expert.expert.layers, *self.action_expert.head.layers):
            layer.compile(dynamic=True)

    def compile_predict(self) -> None:
        """Compile the head, which `predict` calls at every step, in place: once for each shape of a batch.

        Raises:
            BadInput: no C++ compiler.
        """
        check_compiler("torch_compile")
        self.velocity = torch.compile(self.action_expert.velocity, dynamic=False)

    @torch.no_grad()
    def predict(
        self,
        batch: Mapping[str, torch.Tensor],
        temperature: float | None = None,
        generators: Sequence[np.random.Generator] | None = None,
    ) -> Prediction:
        """Integrate noise to chunks.

        Args:
            batch: pictures, ids, lengths and proprio, see `rv_train.policies.flow.encoder`.
            temperature: what the noise is multiplied by, finite, >= 0; None: TEMPERATURE. 0: always from the middle.
            generators: B numpy Generators, which the noise is drawn from; None: fresh ones.

        Returns:
            a Prediction; its chunks may go beyond the range of the data.
        """
        assert self.actions is not None, "only a policy without statistics lacks it, which answers nothing"
        generators = generators or [np.random.default_rng() for _ in batch["lengths"]]
        with answering(self.backbone, self.compiled), self._attention():
            features = self._features(batch)
            shape = features.shape[1], self.actions.dim
            drawn = np.stack([draw_noise(generator, shape) for generator in generators])
            noise = torch.from_numpy(drawn).to(features) * (self.TEMPERATURE if temperature is None else temperature)
            x = self.solver(lambda x, time: self.velocity(features, x, time), noise, self.steps)
        chunk = self.actions.denormalize(x).cpu().numpy()
        return Prediction.unwritten(chunk)

    @torch.no_grad()
    def condition(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What an answer is computed from: the hidden states that the expert sees, their mean; (B, D) float32."""
        with without_flash(self.backbone):
            hidden, padding = self._condition(batch)
        if padding is None:
            return hidden.float().mean(1)
        real = (~padding)[..., None].float()
        return (hidden.float() * real).sum(1) / real.sum(1)

    def _attention(self):
        """The expert's kernels: plain products where the backbone has them, on a CPU faster at small sizes."""
        plain = self.backbone.config._attn_implementation == "eager"
        return sdpa_kernel(SDPBackend.MATH) if plain else contextlib.nullcontext()

    def _targets(self, batch):
        """(B, 1, H, A) normalised chunks, for every draw."""
        assert self.actions is not None, "only a policy without statistics lacks it, which learns nothing"
        return self.actions.normalize(batch["actions"])[:, None]

    def _features(self, batch):
        hidden, padding = self._condition(batch)
        proprio = self.proprio.normalize(batch["proprio"]) if self.proprio else None
        return self.action_expert.features(hidden, padding, proprio)

    def _condition(self, batch):
        """((B, M, D) hidden states that the expert sees, (B, M) bool: padding, or None)."""
        with contextlib.nullcontext() if self.learns_to_see else torch.no_grad():
            hidden = self.hidden(batch)
        if self.conditioned_on == "last":
            return last_of(hidden, batch["lengths"])[:, None], None
        places = torch.arange(hidden.shape[1], device=hidden.device)
        return hidden, places >= batch["lengths"][:, None]


def normalizers(cfg: CfgNode, encoder: Encoder) -> tuple[Normalizer, Normalizer | None]:
    """(of actions, of the robot's state or None) from the encoder's statistics."""
    stats, proprio = encoder.stats, None
    assert stats is not None
    if encoder.proprio:
        proprio = Normalizer.from_mean_std(stats["proprio"]["mean"], stats["proprio"]["std"])
    low, high = np.array(stats["min"]), np.array(stats["max"])
    constant = is_constant(low, high)  # noise is not learned, and a constant is answered as it is
    if cfg.FLOW.NORMALIZE == "min_max":
        middle = low + (high - low) / 2
        return Normalizer.from_min_max(np.where(constant, middle, low), np.where(constant, middle, high)), proprio
    return Normalizer.from_mean_std(stats["mean"], np.where(constant, 0.0, stats["std"])), proprio
