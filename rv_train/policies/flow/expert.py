"""The action expert: projector, transformer and velocity head behind a backbone."""

from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode

from rv_train.data.forms import dim_written

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
        self,
        condition_dim: int,
        proprio_dim: int,
        horizon: int,
        action_dim: int,
        projector: int,
        width: int,
        layers: int,
        heads: int,
        mlp: int,
        head_layers: int,
    ) -> None:
        super().__init__()
        sizes: dict[str, Any] = {
            "dim_feedforward": mlp,
            "dropout": 0.0,
            "activation": "gelu",
            "batch_first": True,
            "norm_first": True,
        }
        self.projector = nn.Sequential(
            nn.LayerNorm(condition_dim), nn.Linear(condition_dim, projector), nn.GELU(), nn.Linear(projector, width)
        )
        self.expert: Any = nn.Module()
        self.expert.place = nn.Linear(width, width, bias=False)
        self.expert.memory_norm = nn.LayerNorm(width)
        self.expert.queries = nn.Parameter(torch.randn(horizon, width))
        self.expert.layers = nn.ModuleList(nn.TransformerDecoderLayer(width, heads, **sizes) for _ in range(layers))
        with torch.no_grad():
            layer: Any
            for layer in self.expert.layers:
                layer.multihead_attn.in_proj_weight[: 2 * width] *= LOOK_CLOSELY
        self.expert.norm = nn.LayerNorm(width)
        self.unused = -proprio_dim % ALIGNED
        if proprio_dim:
            self.expert.proprio = nn.Sequential(
                nn.Linear(proprio_dim + self.unused, width), nn.GELU(), nn.Linear(width, width)
            )
        self.proprio_dim = proprio_dim
        self.head: Any = nn.Module()
        self.head.actions = nn.Linear(action_dim, width)
        self.head.time = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.head.layers = nn.ModuleList(nn.TransformerEncoderLayer(width, heads, **sizes) for _ in range(head_layers))
        self.head.norm = nn.LayerNorm(width)
        self.head.velocity = nn.Linear(width, action_dim)
        nn.init.zeros_(self.head.velocity.weight)  # at first the velocity is 0, of every chunk
        nn.init.zeros_(self.head.velocity.bias)

    @classmethod
    def from_cfg(cls, cfg: CfgNode, condition_dim: int, proprio_dim: int) -> "ActionExpert":
        flow, action = cfg.FLOW, cfg.ACTION
        return cls(
            condition_dim,
            proprio_dim,
            action.HORIZON,
            dim_written(cfg),
            flow.PROJECTOR,
            flow.HIDDEN,
            flow.LAYERS,
            flow.HEADS,
            flow.MLP,
            flow.HEAD_LAYERS,
        )

    def features(
        self, condition: torch.Tensor, padding: torch.Tensor | None, proprio: torch.Tensor | None
    ) -> torch.Tensor:
        """What a chunk is generated from: (B, H, width).

        Args:
            condition: (B, M, D) hidden states.
            padding: (B, M) bool, those of them that are none; None: all count.
            proprio: (B, P) normalised; None where the expert is given none.
        """
        first: Any = self.projector[1]
        memory = self.projector(condition.to(first.weight.dtype))
        # Attention does not know where in the prompt, and so where in a picture, a token stands: it is told.
        places = torch.arange(memory.shape[1], device=memory.device)
        places = self.expert.place(_sines(places, memory.shape[-1], PLACE_PERIODS).to(memory.dtype))
        memory = self.expert.memory_norm(memory + places)
        if proprio is not None and self.proprio_dim:
            state = nn.functional.pad(proprio.to(memory.dtype), (0, self.unused))
            memory = torch.cat([memory, self.expert.proprio(state)[:, None]], dim=1)
            if padding is not None:
                padding = nn.functional.pad(padding, (0, 1), value=False)
        x = self.expert.queries.to(memory.dtype).expand(len(memory), -1, -1)
        for layer in self.expert.layers:
            x = layer(x, memory, memory_key_padding_mask=padding)
        return self.expert.norm(x)

    def velocity(self, features: torch.Tensor, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
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
