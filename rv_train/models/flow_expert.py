"""A flow-matching action expert: Qwen2.5-VL looks and reads, a small transformer generates continuous chunks.

    pictures, instruction → backbone → hidden states → projector ┐
    robot's state → embedding ───────────────────────────────────┴→ expert: H queries → H features
    noise + features + time → head → velocity, integrated from noise (time 0) to a chunk of actions (time 1)

The backbone runs once per observation over the whole batch, the expert as well; only the head runs at every step of
the solver. The backbone stays as it is (MODEL.FREEZE), has adapters (MODEL.LORA) or is trained, too.
"""

import contextlib
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from libs.action_text import is_constant
from libs.errors import BadInput
from libs.flow_matching import SAMPLERS, Normalizer, draw_noise, flow_matching_loss, interpolate
from rv_train.data.prompt import image_grid
from rv_train.flops import FlowFlops, TrainingFlops
from rv_train.models.lora import adapter_sizes, has_adapter
from rv_train.models.prediction import Prediction
from rv_train.models.qwen import (
    DTYPES,
    check_compiler,
    compile_layers,
    hidden_states,
    last_of,
    recompute_layers,
    without_flash,
)
from rv_train.models.weights import EXPERT, build_backbone, save_weights

# A CPU's matrix product rounds rows that do not begin at a multiple of 16 bytes by their place in the batch (measured
# with MKL, batches of 2 and 3): the robot's state is filled up, so that an answer does not depend on its neighbours.
ALIGNED = 4  # numbers
# Shortest and longest period of the sines that are to tell a number
TIME_PERIODS = (0.004, 4.0)
PLACE_PERIODS = (2.0, 1024.0)  # tokens
# What the queries' and keys' weights of the attention to the condition begin with, times PyTorch's. With PyTorch's own
# every query sees the mean of all tokens, and learns slowly to look somewhere; so each begins at a few tokens of its
# own. (Where the cubes are, regressed from the features of configs/flow_stack.yaml, after 4,000 samples: 0.51 of the
# variance was unexplained; with this, queries of size 1 and the memory normalised 0.33.)
LOOK_CLOSELY = 2.5


class ActionExpert(nn.Module):
    """Projector, expert and velocity head: everything that is not the backbone.

    Args:
        condition_dim: D of the backbone's hidden states.
        proprio_dim: P numbers of the robot's state, 0: it is given none.
        horizon, action_dim: shape (H, A) of a chunk.
        projector: width between the projector's two layers.
        width, layers, heads, mlp: of the expert.
        head_layers: of the velocity head; they see the whole chunk.
    """

    def __init__(
        self, condition_dim, proprio_dim, horizon, action_dim, projector, width, layers, heads, mlp, head_layers
    ):
        super().__init__()
        sizes = {"dim_feedforward": mlp, "dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        self.projector = nn.Sequential(
            nn.LayerNorm(condition_dim), nn.Linear(condition_dim, projector), nn.GELU(), nn.Linear(projector, width)
        )
        self.expert = nn.Module()
        self.expert.place = nn.Linear(width, width, bias=False)
        self.expert.memory_norm = nn.LayerNorm(width)
        self.expert.queries = nn.Parameter(torch.randn(horizon, width))
        self.expert.layers = nn.ModuleList(nn.TransformerDecoderLayer(width, heads, **sizes) for _ in range(layers))
        with torch.no_grad():
            for layer in self.expert.layers:
                layer.multihead_attn.in_proj_weight[: 2 * width] *= LOOK_CLOSELY
        self.expert.norm = nn.LayerNorm(width)
        self.unused = -proprio_dim % ALIGNED
        if proprio_dim:
            self.expert.proprio = nn.Sequential(
                nn.Linear(proprio_dim + self.unused, width), nn.GELU(), nn.Linear(width, width)
            )
        self.proprio_dim = proprio_dim
        self.head = nn.Module()
        self.head.actions = nn.Linear(action_dim, width)
        self.head.time = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.head.layers = nn.ModuleList(nn.TransformerEncoderLayer(width, heads, **sizes) for _ in range(head_layers))
        self.head.norm = nn.LayerNorm(width)
        self.head.velocity = nn.Linear(width, action_dim)
        nn.init.zeros_(self.head.velocity.weight)  # at first the velocity is 0, of every chunk
        nn.init.zeros_(self.head.velocity.bias)

    @classmethod
    def from_cfg(cls, cfg, condition_dim, proprio_dim):
        flow, action = cfg.FLOW, cfg.ACTION
        return cls(
            condition_dim,
            proprio_dim,
            action.HORIZON,
            action.DIM,
            flow.PROJECTOR,
            flow.HIDDEN,
            flow.LAYERS,
            flow.HEADS,
            flow.MLP,
            flow.HEAD_LAYERS,
        )

    def features(self, condition, padding, proprio):
        """What a chunk is generated from: (B, H, width).

        Args:
            condition: (B, M, D) hidden states.
            padding: (B, M) bool, those of them that are none; None: all count.
            proprio: (B, P) normalised.
        """
        memory = self.projector(condition.to(self.projector[1].weight.dtype))
        # Attention does not know where in the prompt, and so where in a picture, a token stands: it is told.
        places = torch.arange(memory.shape[1], device=memory.device)
        places = self.expert.place(_sines(places, memory.shape[-1], PLACE_PERIODS).to(memory.dtype))
        memory = self.expert.memory_norm(memory + places)
        if self.proprio_dim:
            state = nn.functional.pad(proprio.to(memory.dtype), (0, self.unused))
            memory = torch.cat([memory, self.expert.proprio(state)[:, None]], dim=1)
            if padding is not None:
                padding = nn.functional.pad(padding, (0, 1), value=False)
        x = self.expert.queries.to(memory.dtype).expand(len(memory), -1, -1)
        for layer in self.expert.layers:
            x = layer(x, memory, memory_key_padding_mask=padding)
        return self.expert.norm(x)

    def velocity(self, features, x, time):
        """(B, H, A): where actions on their way move.

        Args:
            features: (B, H, width), from `features`.
            x: (B, H, A) noisy actions, normalised.
            time: (B,) from 0 (noise) to 1 (actions).
        """
        time = self.head.time(_sines(time, features.shape[-1], TIME_PERIODS).to(features.dtype))
        x = features + self.head.actions(x.to(features.dtype)) + time[:, None]
        for layer in self.head.layers:
            x = layer(x)
        return self.head.velocity(self.head.norm(x))


def _sines(numbers, width, periods):
    """(N,) as sines and cosines of periods between two (Vaswani et al. 2017, section 3.5): (N, width)."""
    shortest, longest = periods
    steps = torch.linspace(0, 1, width // 2, device=numbers.device)
    angles = 2 * torch.pi * numbers.float()[:, None] / (shortest * (longest / shortest) ** steps)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class FlowExpert(nn.Module):
    """Backbone and action expert.

    Args:
        backbone: Qwen2_5_VLForConditionalGeneration; what of it takes gradients is trained.
        expert: an ActionExpert.
        prompt: a PromptEncoder; only its ids are used here.
        picture: (rows, columns) of image tokens per picture.
        actions, proprio: Normalizers; proprio None where the expert is given none.
        condition: "last" hidden state of the prompt, or "all" of them.
        solver: a key of libs.flow_matching.SAMPLERS.
        steps: of the solver.
    """

    TEMPERATURE = 1.0  # of an answer, where nobody says: noise as in training
    COUNTED = "draws of noise"  # what the loss is a mean over
    DRAFTS = False  # an answer is not written token by token

    def __init__(self, backbone, expert, prompt, picture, actions, proprio, condition, solver, steps):
        super().__init__()
        self.backbone, self.action_expert, self.prompt, self.picture = backbone, expert, prompt, picture
        self.actions, self.proprio = actions, proprio
        self.conditioned_on, self.solver, self.steps = condition, SAMPLERS[solver], steps
        if not backbone.config.tie_word_embeddings:  # nothing is read from the head; tied, it is the input's embedding
            backbone.lm_head.requires_grad_(False)
        self.learns_to_see = any(p.requires_grad for p in backbone.parameters())
        self.velocity, self.compiled = expert.velocity, False

    @classmethod
    def from_cfg(cls, cfg, encoder, weights=None):
        """encoder: a FlowEncoder with statistics; weights: see `rv_train.models.build_model`."""
        backbone = build_backbone(cfg, encoder.prompt.tokenizer, weights)
        stats, proprio = encoder.stats, None
        if encoder.proprio:
            proprio = Normalizer.from_mean_std(stats["proprio"]["mean"], stats["proprio"]["std"])
        low, high = np.array(stats["min"]), np.array(stats["max"])
        constant = is_constant(low, high)  # noise is not learned, and a constant is answered as it is
        if cfg.FLOW.NORMALIZE == "min_max":
            middle = low + (high - low) / 2
            actions = Normalizer.from_min_max(np.where(constant, middle, low), np.where(constant, middle, high))
        else:
            actions = Normalizer.from_mean_std(stats["mean"], np.where(constant, 0.0, stats["std"]))
        dim = backbone.config.text_config.hidden_size
        expert = ActionExpert.from_cfg(cfg, dim, sum(encoder.proprio.values())).to(DTYPES[cfg.AMP.param_dtype])
        if weights:
            load_expert(expert, weights)
        flow = cfg.FLOW
        return cls(
            backbone,
            expert,
            encoder.prompt,
            image_grid(cfg),
            actions,
            proprio,
            flow.CONDITION,
            flow.SOLVER,
            flow.STEPS,
        )

    def save(self, folder):
        """Write what a training changes into an existing folder, for `weights` of `from_cfg`."""
        save_weights(self.backbone, folder)
        state = {name: value.detach().contiguous() for name, value in self.action_expert.state_dict().items()}
        save_file(state, Path(folder) / EXPERT, {"format": "pt"})

    def flops(self):
        """Batch → operations of its forward and backward pass."""
        parameters = list(self.backbone.named_parameters())
        adapters = adapter_sizes(parameters) if has_adapter(self.backbone) else None
        frozen = not self.learns_to_see
        backbone = TrainingFlops(self.backbone.config, self.picture, self.prompt.num_pictures, adapters, frozen)
        return FlowFlops.of(backbone, self.action_expert, self.conditioned_on)

    def chance(self, batch):
        """(the loss of a model that knows nothing, what that means in words)."""
        _, velocity = interpolate(batch["noise"], self._targets(batch), batch["time"])
        return velocity.square().mean().item(), "a velocity of 0"

    def forward(self, batch):
        """Mean squared error of the velocity, over every draw of noise and time of every sample.

        Args:
            batch: see `rv_train.data.flow_features`.
        Returns:
            {"loss": scalar float32, "count": draws in the batch, which it is the mean over}.
        """
        x, velocity = interpolate(batch["noise"], self._targets(batch), batch["time"])
        with self._attention():
            features = self._features(batch).repeat_interleave(x.shape[1], dim=0)
            predicted = self.action_expert.velocity(features, x.flatten(0, 1), batch["time"].flatten())
        return {"loss": flow_matching_loss(predicted, velocity.flatten(0, 1)), "count": batch["time"].numel()}

    def recompute_activations(self):
        """Gradient checkpointing in the backbone, where it is trained; the expert is small."""
        if self.learns_to_see:
            recompute_layers(self.backbone)

    def compile(self):
        """Compile the training step, in place: call it before DDP wraps the model. `predict` runs uncompiled.

        Raises:
            BadInput: no C++ compiler.
        """
        compile_layers(self.backbone)
        for layer in (*self.action_expert.expert.layers, *self.action_expert.head.layers):
            layer.compile(dynamic=True)
        self.compiled = True

    def compile_predict(self):
        """Compile the head, which `predict` calls at every step, in place: once for each shape of a batch.

        Raises:
            BadInput: no C++ compiler.
        """
        check_compiler("torch_compile")
        self.velocity = torch.compile(self.action_expert.velocity, dynamic=False)

    @torch.no_grad()
    def predict(self, batch, temperature=None, generators=None):
        """Integrate noise to chunks.

        Args:
            batch: pictures, ids, lengths and proprio, see `rv_train.data.flow_features`.
            temperature: what the noise is multiplied by, finite, >= 0; None: TEMPERATURE. 0: always from the middle.
            generators: B numpy Generators, which the noise is drawn from; None: fresh ones.
        Returns:
            a Prediction; its chunks may go beyond the range of the data.
        """
        eager = torch.compiler.set_stance("force_eager") if self.compiled else contextlib.nullcontext()
        generators = generators or [np.random.default_rng() for _ in batch["lengths"]]
        with without_flash(self.backbone), self._attention(), eager:
            features = self._features(batch)
            shape = features.shape[1], self.actions.dim
            noise = np.stack([draw_noise(generator, shape) for generator in generators])
            noise = torch.from_numpy(noise).to(features) * (self.TEMPERATURE if temperature is None else temperature)
            x = self.solver(lambda x, time: self.velocity(features, x, time), noise, self.steps)
        chunk = self.actions.denormalize(x).cpu().numpy()
        every = np.ones(len(chunk), dtype=bool)
        return Prediction(chunk, valid=every, repaired=~every, texts=[""] * len(chunk))

    @torch.no_grad()
    def condition(self, batch):
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
        return self.actions.normalize(batch["actions"])[:, None]

    def _features(self, batch):
        hidden, padding = self._condition(batch)
        proprio = self.proprio.normalize(batch["proprio"]) if self.proprio else None
        return self.action_expert.features(hidden, padding, proprio)

    def _condition(self, batch):
        """((B, M, D) hidden states that the expert sees, (B, M) bool: padding, or None)."""
        with contextlib.nullcontext() if self.learns_to_see else torch.no_grad():
            hidden = hidden_states(self.backbone, batch, self.prompt.image_id, self.picture)
        if self.conditioned_on == "last":
            return last_of(hidden, batch["lengths"])[:, None], None
        places = torch.arange(hidden.shape[1], device=hidden.device)
        return hidden, places >= batch["lengths"][:, None]


def load_expert(expert, folder):
    """Weights that `FlowExpert.save` wrote; BadInput where they cannot be read or are of other sizes."""
    path = Path(folder) / EXPERT
    try:
        state = load_file(path)
        expert.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BadInput(f"{path} is no action expert of FLOW's sizes: {str(error).splitlines()[-1].strip()}") from None
